//! A framework that speaks the v1 scheduler API over plain HTTP, with JSON, one task at a time.
use crate::ANSWER_LIMIT;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{collections::VecDeque, time::Duration};

/// An event that has not come by then never comes.
const EVENT_LIMIT: Duration = Duration::from_secs(120);

pub struct Framework {
    url: String,
    id: Value,
    stream_id: String,
    events: reqwest::Response,
    unread: Vec<u8>,
    /// Events with offers that came while another kind of event was waited for: a task's resources may be offered before
    /// its end is told.
    offers: VecDeque<Value>,
}

impl Framework {
    /// Subscribes to the master at `host:port` as `user`.
    pub async fn subscribe(master: &str, user: &str) -> Result<Self> {
        Self::subscribe_as(master, json!({ "user": user, "name": "test" })).await
    }

    /// Subscribes with this `FrameworkInfo`.
    pub async fn subscribe_as(master: &str, info: Value) -> Result<Self> {
        let url = format!("http://{master}/api/v1/scheduler");
        let mut call = json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": info } });
        if let Some(id) = info.get("id") {
            call["framework_id"] = id.clone();
        }
        let events = post(&url, &call, None).await?;
        let stream_id =
            events.headers().get("Mesos-Stream-Id").context("a stream's id")?.to_str()?.to_owned();
        let mut framework =
            Self { url, id: Value::Null, stream_id, events, unread: Vec::new(), offers: VecDeque::new() };
        let subscribed = framework.event("SUBSCRIBED").await?;
        framework.id = subscribed["subscribed"]["framework_id"].clone();
        Ok(framework)
    }

    pub fn id(&self) -> &str {
        self.id["value"].as_str().unwrap_or_default()
    }

    /// The header `Mesos-Stream-Id` of its calls.
    pub fn stream_id(&self) -> &str {
        &self.stream_id
    }

    /// Gives all offers back and wants no more.
    pub async fn suppress(&mut self) -> Result<()> {
        let offers = self.event("OFFERS").await?;
        let ids: Vec<_> =
            offers["offers"]["offers"].as_array().into_iter().flatten().map(|offer| &offer["id"]).collect();
        self.call("SUPPRESS", "suppress", json!({})).await?;
        self.call("DECLINE", "decline", json!({ "offer_ids": ids })).await
    }

    /// Ends it, and all its tasks.
    pub async fn tear_down(self) -> Result<()> {
        let call = json!({ "type": "TEARDOWN", "framework_id": self.id });
        post(&self.url, &call, Some(&self.stream_id)).await.map(drop)
    }

    /// Runs one task with this `command` on the first offer that comes; returns the status that ends it.
    pub async fn run(&mut self, name: &str, command: Value) -> Result<Value> {
        self.run_where(|_| true, name, command).await
    }

    /// The same on the agent of this hostname.
    pub async fn run_on(&mut self, hostname: &str, name: &str, command: Value) -> Result<Value> {
        self.run_where(|offer| offer["hostname"] == hostname, name, command).await
    }

    async fn run_where(
        &mut self,
        wanted: impl Fn(&Value) -> bool,
        name: &str,
        command: Value,
    ) -> Result<Value> {
        self.call("REVIVE", "revive", json!({})).await?;
        let offer = loop {
            let offers = self.event("OFFERS").await?;
            let mut offers = offers["offers"]["offers"].as_array().context("a list")?.iter();
            if let Some(offer) = offers.find(|offer| wanted(offer)) {
                break offer.clone();
            }
        };
        let amount =
            |name: &str, value: f64| json!({ "name": name, "type": "SCALAR", "scalar": { "value": value } });
        let task = json!({
            "name": name,
            "task_id": { "value": name },
            "agent_id": offer["agent_id"],
            "resources": [amount("cpus", 0.1), amount("mem", 32.0)],
            "command": command,
        });
        let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": [task] } });
        let accept = json!({ "offer_ids": [offer["id"]], "operations": [launch] });
        self.call("ACCEPT", "accept", accept).await?;
        loop {
            let status = self.event("UPDATE").await?["update"]["status"].take();
            if !status["uuid"].is_null() {
                let (agent_id, task_id, uuid) = (&status["agent_id"], &status["task_id"], &status["uuid"]);
                let body = json!({ "agent_id": agent_id, "task_id": task_id, "uuid": uuid });
                self.call("ACKNOWLEDGE", "acknowledge", body).await?;
            }
            match status["state"].as_str().context("a status has a state")? {
                "TASK_STAGING" | "TASK_STARTING" | "TASK_RUNNING" => {}
                _ => return Ok(status),
            }
        }
    }

    async fn call(&self, kind: &str, field: &str, body: Value) -> Result<()> {
        let call = json!({ "type": kind, "framework_id": self.id, field: body });
        post(&self.url, &call, Some(&self.stream_id)).await.map(drop)
    }

    /// The next event of this kind. Of the others, those with offers are kept.
    async fn event(&mut self, kind: &str) -> Result<Value> {
        if kind == "OFFERS"
            && let Some(event) = self.offers.pop_front()
        {
            return Ok(event);
        }
        let next = async {
            loop {
                let event = self.record().await?;
                let found = event["type"].as_str().context("an event has a type")?.to_owned();
                match found.as_str() {
                    "ERROR" => bail!("{event}"),
                    "RESCIND" => self.rescinded(&event["rescind"]["offer_id"]),
                    _ if found == kind => return Ok(event),
                    "OFFERS" => self.offers.push_back(event),
                    _ => {}
                }
            }
        };
        let limit = format!("no {kind} in {EVENT_LIMIT:?}");
        tokio::time::timeout(EVENT_LIMIT, next).await.context(limit)?
    }

    fn rescinded(&mut self, offer_id: &Value) {
        for event in &mut self.offers {
            if let Some(offers) = event["offers"]["offers"].as_array_mut() {
                offers.retain(|offer| offer["id"] != *offer_id);
            }
        }
        self.offers
            .retain(|event| event["offers"]["offers"].as_array().is_some_and(|offers| !offers.is_empty()));
    }

    /// `LENGTH\n`, and so many bytes of JSON.
    async fn record(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let length: usize = std::str::from_utf8(&self.unread[..end])?.parse()?;
                if let Some(record) = self.unread.get(end + 1..end + 1 + length) {
                    let record = serde_json::from_slice(record)?;
                    self.unread.drain(..end + 1 + length);
                    return Ok(record);
                }
            }
            match self.events.chunk().await? {
                Some(chunk) => self.unread.extend_from_slice(&chunk),
                None => bail!("the master has closed the stream"),
            }
        }
    }
}

async fn post(url: &str, call: &Value, stream_id: Option<&str>) -> Result<reqwest::Response> {
    let mut request = reqwest::Client::new()
        .post(url)
        .header("Content-Type", "application/json")
        .header("Accept", "application/json")
        .body(call.to_string());
    if let Some(id) = stream_id {
        request = request.header("Mesos-Stream-Id", id);
    }
    // Only the head: a subscription's body has no end.
    let response = tokio::time::timeout(ANSWER_LIMIT, request.send()).await??;
    let status = response.status();
    ensure!(status.is_success(), "{status}: {}", response.text().await?);
    Ok(response)
}
