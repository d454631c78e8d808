//! What an agent shows over HTTP, and what it does not.
mod fake;

use fake::*;
use serde_json::Value;

async fn json(addr: std::net::SocketAddr, path: &str) -> Value {
    let (status, _, body) = get(addr, path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test]
async fn reads_have_the_fields_of_mesos() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut config = config(&master, dir.path());
    config.attributes = "rack:r1".into();
    let agent = bellows_agent::start(config).await.expect("started");
    let addr = agent.local_addr();
    let (mut link, _) = master.register().await;
    link.launch("F", shell("ended", "true")).await;
    link.until_end("F").await;
    link.launch("F", shell("long", "sleep 1000")).await;
    let running = link.until_running("F").await;
    let container = running.container_status.and_then(|status| status.container_id).expect("it runs").value;

    for path in ["/state", "/state.json", "/slave(1)/state", "/slave(1)/state.json"] {
        let state = json(addr, path).await;
        assert_eq!(state["id"], AGENT_ID);
        assert_eq!(state["attributes"]["rack"], "r1");
        assert_eq!(state["resources"]["cpus"], 100.0);
        assert_eq!(state["resources"]["ports"], "[31000-32000]");
        let framework = &state["frameworks"][0];
        assert_eq!(framework["executors"][0]["tasks"][0]["state"], "TASK_RUNNING");
        assert_eq!(framework["executors"][0]["container"], container.as_str());
        assert_eq!(
            framework["completed_executors"][0]["completed_tasks"][0]["statuses"][2]["state"],
            "TASK_FINISHED"
        );
    }
    assert_eq!(json(addr, "/containers").await[0]["container_id"], container.as_str());
    assert!(json(addr, "/monitor/statistics").await[0]["statistics"]["mem_rss_bytes"].as_u64() > Some(0));
    let metrics = json(addr, "/metrics/snapshot").await;
    let recorded = include_str!("data/metrics.txt").lines();
    let missing: Vec<_> = recorded.filter(|name| !metrics[name].is_number()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for (name, value) in [
        ("slave/tasks_finished", 1.0),
        ("slave/tasks_running", 1.0),
        ("slave/executors_terminating", 0.0),
        ("containerizer/fetcher/task_fetches_succeeded", 2.0),
        ("containerizer/fetcher/cache_size_total_bytes", 2_147_483_648.0),
        ("slave/cpus_total", 100.0),
        ("slave/registered", 1.0),
        ("gc/path_removals_pending", 0.0),
    ] {
        assert_eq!(metrics[name], value, "{name}");
    }
    for name in
        ["system/cpus_total", "system/mem_total_bytes", "slave/executor_directory_max_allowed_age_secs"]
    {
        assert!(metrics[name].as_f64() > Some(0.0), "{name}");
    }
    assert!(
        metrics["slave/recovery_time_secs"].as_f64() < metrics["slave/uptime_secs"].as_f64(),
        "{metrics}"
    );
    assert!(json(addr, "/metrics/snapshot.json?timeout=10secs").await["slave/uptime_secs"].is_number());
    assert!(json(addr, "/system/stats.json").await["cpus_total"].as_f64() > Some(0.0));
    let (status, _, text) = get(addr, "/metrics/snapshot?timeout=soon", None).await;
    assert!(status == 400 && text.starts_with("Invalid timeout 'soon': "), "{text}");
    assert!(json(addr, "/flags").await["flags"]["work_dir"].is_string());
    let (status, _, text) = get(addr, "/metrics", None).await;
    assert!(status == 200 && text.contains("bellows_slave_tasks_running 1"), "{text}");
    assert_eq!(get(addr, "/health", None).await.0, 200);
    assert_eq!(get(addr, "/no/such", None).await.0, 404);

    for (kind, pointer) in [
        ("GET_HEALTH", "/get_health/healthy"),
        ("GET_FLAGS", "/get_flags/flags/0/name"),
        ("GET_VERSION", "/get_version/version_info/version"),
        ("GET_METRICS", "/get_metrics/metrics/0/name"),
        ("GET_STATE", "/get_state/get_tasks/launched_tasks/0/statuses/1/uuid"),
        ("GET_CONTAINERS", "/get_containers/containers/0/container_status/executor_pid"),
        ("GET_FRAMEWORKS", "/get_frameworks/frameworks/0/framework_info/id/value"),
        ("GET_EXECUTORS", "/get_executors/executors/0/executor_info/executor_id/value"),
        ("GET_TASKS", "/get_tasks/completed_tasks/0/state"),
        ("GET_AGENT", "/get_agent/agent_info/id/value"),
    ] {
        let (status, body) = call(addr, &format!(r#"{{"type":"{kind}"}}"#)).await;
        assert_eq!(status, 200, "{kind}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["type"], kind);
        assert!(answer.pointer(pointer).is_some(), "{pointer} in {body}");
    }
    assert_eq!(call(addr, "{").await.0, 400);
    assert_eq!(call(addr, r#"{"type":"NO_SUCH"}"#).await.0, 400);
    assert_eq!(call(addr, r#"{"type":"PRUNE_IMAGES"}"#).await.0, 501);
    agent.stop_and_kill_tasks(std::time::Duration::from_secs(10), &Default::default()).await;
}

#[tokio::test]
async fn sandboxes_are_read_and_nothing_else() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let addr = agent.local_addr();
    let (mut link, _) = master.register().await;
    let script = "printf 'one two'; mkdir sub; echo x > sub/file; ln -s /etc/passwd out; ln -s sub/file in";
    link.launch("F", shell("t", script)).await;
    let end = link.until_end("F").await.pop().expect("an end");
    let real = sandbox(&dir.path().canonicalize().expect("there"), "F", &end);
    let real = real.display().to_string();
    let latest = format!("/slaves/{AGENT_ID}/frameworks/F/executors/t/runs/latest");
    for base in [&real, &latest] {
        let rows = json(addr, &format!("/files/browse?path={base}")).await;
        let names: Vec<_> =
            rows.as_array().expect("rows").iter().map(|row| row["path"].as_str().expect("text")).collect();
        let expected = ["in", "out", "stderr", "stdout", "sub"].map(|name| format!("{base}/{name}"));
        assert_eq!(names, expected);
        assert_eq!(rows[3]["mode"].as_str().map(|mode| &mode[..4]), Some("-rw-"));
        let part = json(addr, &format!("/files/read.json?path={base}/stdout&offset=4&length=2")).await;
        assert_eq!((&part["data"], &part["offset"]), (&"tw".into(), &4.into()));
        let size = json(addr, &format!("/files/read?path={base}/stdout&offset=-1")).await;
        assert_eq!((&size["data"], &size["offset"]), (&"".into(), &7.into()));
        assert_eq!(json(addr, &format!("/files/read?path={base}/in&offset=0")).await["data"], "x\n");
        let (status, headers, body) = get(addr, &format!("/files/download?path={base}/stdout"), None).await;
        assert_eq!((status, body.as_str()), (200, "one two"));
        assert_eq!(headers["content-disposition"], "attachment; filename=stdout");
        assert_eq!(headers["content-length"], "7");
        for (path, statuses) in [
            (format!("{base}/out"), [404, 404]),
            (format!("{base}/../../../../../../../../../etc/passwd"), [404, 404]),
            (format!("{base}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/meta/lock"), [404, 404]),
            (format!("{base}/none"), [404, 404]),
            (format!("{base}/sub"), [400, 400]),
        ] {
            for (way, status) in ["read", "download"].iter().zip(statuses) {
                assert_eq!(
                    get(addr, &format!("/files/{way}?path={path}"), None).await.0,
                    status,
                    "{way} {path}"
                );
            }
        }
    }
    let root = dir.path().canonicalize().expect("there");
    for path in [
        "/etc/passwd".to_owned(),
        format!("{}/meta/lock", root.display()),
        "/meta/lock".into(),
        "/slaves/../meta/lock".into(),
        "/".into(),
    ] {
        for way in ["browse", "read", "download"] {
            assert_eq!(get(addr, &format!("/files/{way}?path={path}"), None).await.0, 404, "{way} {path}");
        }
        let (status, _) =
            call(addr, &format!(r#"{{"type":"READ_FILE","read_file":{{"path":"{path}","offset":0}}}}"#))
                .await;
        assert_eq!(status, 404, "{path}");
    }
    assert_eq!(get(addr, "/files/read", None).await.0, 400);
    assert_eq!(get(addr, &format!("/files/read?path={latest}/stdout&offset=x"), None).await.0, 400);
    let (_, body) =
        call(addr, &format!(r#"{{"type":"READ_FILE","read_file":{{"path":"{latest}/stdout","offset":0}}}}"#))
            .await;
    let read: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&read["read_file"]["data"], &read["read_file"]["size"]), (&"b25lIHR3bw==".into(), &7.into()));
    agent.stop().await;
}

#[tokio::test]
async fn the_masters_page_may_read_and_no_other() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (_link, _) = master.register().await;
    let allowed = |headers: &http::HeaderMap| headers.get("access-control-allow-origin").cloned();
    let own = format!("http://{}", master.addr);
    let (_, headers, _) = get(agent.local_addr(), "/state", Some(&own)).await;
    assert_eq!(allowed(&headers).expect("allowed"), own.as_str());
    let (_, headers, _) = get(agent.local_addr(), "/state", Some("http://evil.example")).await;
    assert_eq!(allowed(&headers), None);
    agent.stop().await;
}

#[tokio::test]
async fn requests_that_name_another_host_are_refused() {
    let dir = tempfile::tempdir().expect("temporary");
    let master = Master::start().await;
    let mut config = config(&master, dir.path());
    config.allow_hosts = vec!["proxy.example".to_owned()];
    let agent = bellows_agent::start(config).await.expect("started");
    for (host, expected) in
        [("evil.example", 403), ("", 403), ("proxy.example", 200), ("localhost:1", 200), ("[::1]", 200)]
    {
        for path in ["/state", "/files/browse?path=/slaves", "/health"] {
            let (status, _, text) = get_as(agent.local_addr(), host, path).await;
            assert_eq!(status == 403, expected == 403, "{host} {path}: {status} {text}");
            assert_eq!(text.contains("--allow-host"), expected == 403, "{text}");
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_query_without_end_is_refused() {
    let dir = tempfile::tempdir().expect("temporary");
    let master = Master::start().await;
    let agent = bellows_agent::start(config(&master, dir.path())).await.expect("started");
    let path = format!("/files/browse?{}", "a&".repeat(20_000));
    assert_eq!(get(agent.local_addr(), &path, None).await.0, 414);
    agent.stop().await;
}
