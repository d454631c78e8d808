//! About what an event takes in memory and on the wire: streams that are not read are bounded by what they hold.
use bellows_kernel::master::SchedulerEvent;
use bellows_model::{AgentInfo, AttributeValue, ContainerStatus, Label, Offer, Resources, TaskStatus, Value};

/// The fixed part of an event or an offer: its ids, its numbers, its fields' frames.
const FIXED: usize = 1_024;
/// The fixed part of one resource, label or attribute, and of one of its items.
const ENTRY: usize = 96;

pub(crate) fn of_event(event: &SchedulerEvent) -> usize {
    let held = match event {
        SchedulerEvent::Offers(offers) => offers.iter().map(of_offer).sum(),
        SchedulerEvent::Message { data, .. } => data.len(),
        SchedulerEvent::Update(status) => of_status(status),
        SchedulerEvent::Error(message) => message.len(),
        SchedulerEvent::Subscribed { .. } | SchedulerEvent::Rescind(_) | SchedulerEvent::Failure { .. } => 0,
    };
    FIXED + held
}

fn of_status(status: &TaskStatus) -> usize {
    let TaskStatus { task_id, message, agent_id, executor_id, container, data, labels, .. } = status;
    let of_container = |container: &ContainerStatus| {
        container.container_id.as_str().len() + container.ip_address.as_ref().map_or(0, String::len)
    };
    task_id.as_str().len()
        + message.as_ref().map_or(0, String::len)
        + agent_id.as_ref().map_or(0, |id| id.as_str().len())
        + executor_id.as_ref().map_or(0, |id| id.as_str().len())
        + container.as_ref().map_or(0, of_container)
        + data.as_ref().map_or(0, Vec::len)
        + labels.iter().map(of_label).sum::<usize>()
}

fn of_label(label: &Label) -> usize {
    ENTRY + label.key.len() + label.value.as_ref().map_or(0, String::len)
}

fn of_offer(offer: &Offer) -> usize {
    FIXED + offer.role.len() + of_agent(&offer.agent) + of_resources(&offer.resources)
}

/// What each offer repeats of its agent on the wire.
fn of_agent(agent: &AgentInfo) -> usize {
    let attributes = agent.attributes.iter().map(|attribute| {
        let value = match &attribute.value {
            AttributeValue::Scalar(_) => 0,
            AttributeValue::Ranges(ranges) => ranges.len() * ENTRY,
            AttributeValue::Set(items) => of_items(items),
            AttributeValue::Text(text) => text.len(),
        };
        ENTRY + attribute.name.len() + value
    });
    agent.hostname.len() + agent.ip.len() + attributes.sum::<usize>()
}

fn of_resources(resources: &Resources) -> usize {
    let each = resources.iter().map(|resource| {
        let value = match &resource.value {
            Value::Scalar(_) => 0,
            Value::Ranges(ranges) => ranges.len() * ENTRY,
            Value::Set(items) => of_items(items),
        };
        ENTRY + resource.name.len() + resource.reserved_for.as_ref().map_or(0, |role| role.len()) + value
    });
    each.sum()
}

fn of_items<'a>(items: impl IntoIterator<Item = &'a String>) -> usize {
    items.into_iter().map(|item| ENTRY + item.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::scheduler_event;
    use bellows_model::{Attribute, Source, TaskState};
    use bellows_wire::{convert::ResourceFormat, v1::MasterInfo};
    use prost::Message as _;
    use std::{sync::Arc, time::Duration};

    fn status() -> TaskStatus {
        TaskStatus {
            task_id: "t".into(),
            state: TaskState::Failed,
            source: Source::Executor,
            reason: None,
            message: None,
            agent_id: Some("a".into()),
            executor_id: None,
            timestamp: 0.0,
            uuid: None,
            container: None,
            data: None,
            healthy: None,
            labels: Vec::new(),
        }
    }

    fn offer(resources: &str, attributes: Vec<Attribute>) -> Offer {
        let resources = Resources::parse(resources).expect("resources");
        let agent = AgentInfo {
            id: Some("a".into()),
            hostname: "host".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port: 5051,
            resources: resources.clone(),
            attributes,
            version: String::new(),
        };
        Offer {
            id: "o".into(),
            framework_id: "f".into(),
            agent_id: "a".into(),
            agent: Arc::new(agent),
            role: "*".to_owned(),
            resources,
        }
    }

    #[test]
    fn an_event_weighs_no_less_than_it_takes_on_the_wire() {
        let long = "x".repeat(60_000);
        let label = Label { key: long.clone(), value: Some(long.clone()) };
        let ranges: Vec<String> = (0..200).map(|n| format!("{}-{}", n * 10, n * 10 + 1)).collect();
        let items: Vec<String> = (0..200).map(|n| format!("{n}{}", "y".repeat(300))).collect();
        let kinds = format!("cpus:4;ports:[{}];disks:{{{}}}", ranges.join(","), items.join(","));
        let attributes = [AttributeValue::Text(long.clone()), AttributeValue::Set(items)]
            .map(|value| Attribute { name: "rack".to_owned(), value });
        let events = [
            SchedulerEvent::Update(status()),
            SchedulerEvent::Update(TaskStatus { labels: vec![label; 16], ..status() }),
            SchedulerEvent::Update(TaskStatus { message: Some(long.clone()), ..status() }),
            SchedulerEvent::Update(TaskStatus { data: Some(vec![0; 60_000]), ..status() }),
            SchedulerEvent::Offers(vec![offer("cpus:4;mem:1024;ports:[1-2]", Vec::new())]),
            SchedulerEvent::Offers(vec![offer(&kinds, attributes.to_vec()); 3]),
            SchedulerEvent::Error(long),
        ];
        for event in events {
            let (weight, second) = (of_event(&event), Duration::from_secs(1));
            let wire = scheduler_event(event, ResourceFormat::Refined, &MasterInfo::default(), second);
            let on_the_wire = wire.encoded_len();
            assert!(weight >= on_the_wire, "{weight} < {on_the_wire}");
            assert!(weight < 4 * on_the_wire + 4 * FIXED, "{weight} is far from {on_the_wire}");
        }
    }
}
