//! Hostile peers against a master, an agent and a shuffle service of the release binary. After each kind of input an honest
//! framework runs a task, its executor registers with the shuffle service, and no process ever took more memory than it
//! may.
//!
//! | | kind | held by |
//! |---|---|---|
//! | 1 | a static program loads modules of the name service | `names.rs`; `users_and_ids_become_no_path` |
//! | 2 | what an agent reports is believed | `agents_are_not_believed`; liars in `kernel` and `sim` |
//! | 3 | a process whose heart has died looks alive | `runtime`'s `vital`; `crates/master/src/driver.rs`, `crates/agent/src/driver.rs`, `crates/shuffle/src/service.rs`; every test here sees that all live |
//! | 4 | decoding multiplies memory | `messages_take_memory_in_proportion`; `crates/wire/tests/memory.rs` |
//! | 5 | work grows with the square, places never come free | `names_and_counts_are_bounded`, `peers_that_stay_make_room`; `crates/master/tests/hostile.rs`, `crates/shuffle/tests/hostile.rs` |
//! | 6 | a framework's id becomes a path | `users_and_ids_become_no_path`; `crates/agent/tests/shuffle.rs` |
//! | 7 | the fetcher opens with the agent's rights | `only_what_the_user_may_read_is_fetched`; `crates/containment/tests/fetcher.rs` |
//! | 8 | ids are taken over | `ids_stay_with_whom_they_belong_to` |
//! | 9 | an agent announces a loopback address | `addresses.rs` |
//! | 10 | directories that are not ours change | `directories_of_others_stay_as_they_are`; `crates/containment/tests/root` |
//! | 11 | DNS rebinding | `other_hosts_are_refused_on_every_port`; `runtime`'s `hosts` |
//! | 12 | squatting in the shuffle service | `nobody_squats_in_the_shuffle_service`; `crates/shuffle/tests/squatting.rs` |
#[path = "hostile/peer.rs"]
mod peer;
#[path = "hostile/scene.rs"]
mod scene;

use anyhow::{Result, ensure};
use bellows_testkit::{Framework, get_json};
use peer::{
    Link, REFUSED, REGISTERED, TRY_LATER, agent_info, call_shuffle, connect, connect_from, field, number,
    register, register_executor, remove_blocks, request, scalar, status_update,
};
use scene::{is_root, scene};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn messages_take_memory_in_proportion() -> Result<()> {
    let scene = scene().await?;
    let master = scene.cluster.master();
    let mut framework = Framework::subscribe(&master, "root").await?;
    // It takes no offers from those that are honest.
    framework.suppress().await?;
    let head = |kind: &str| {
        format!(
            "POST /api/v1/scheduler HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{kind}\r\nMesos-Stream-Id: {}",
            framework.stream_id()
        )
    };
    let call = |kind: u8, tag: u8, content: Vec<u8>| {
        [field(1, field(1, framework.id())), number(2, kind), field(tag, content)].concat()
    };
    let operation = |task: Vec<u8>| field(2, [number(1, 1), field(2, field(1, task))].concat());
    let empty = |tag: u8| [tag << 3 | 2, 0].repeat(MIB / 2);
    for (name, body) in [
        ("operations", call(3, 4, empty(2))),
        ("offers", call(3, 4, empty(1))),
        ("roles", call(5, 15, empty(1))),
        ("reconciled tasks", call(9, 9, empty(1))),
        ("resources", call(3, 4, operation(empty(4)))),
        ("environment", call(3, 4, operation(field(7, field(2, empty(1)))))),
    ] {
        let (status, answer) = request(&master, &head("x-protobuf"), &body)?;
        ensure!((400..500).contains(&status), "{name}: {status} {answer}");
    }
    for (name, content) in [
        ("operations", format!(r#""accept":{{"operations":[{}]}}"#, vec!["{}"; MIB / 3].join(","))),
        ("unknown", format!(r#""unknown":[{}]"#, vec!["1"; MIB / 2].join(","))),
        ("nested", format!(r#""unknown":{}{}"#, "[".repeat(MIB / 2), "]".repeat(MIB / 2))),
    ] {
        let body =
            format!(r#"{{"type":"ACCEPT","framework_id":{{"value":"{}"}},{content}}}"#, framework.id());
        let (status, answer) = request(&master, &head("json"), body.as_bytes())?;
        ensure!((400..500).contains(&status), "{name}: {status} {answer}");
    }
    for address in [&master, &scene.cluster.agent()] {
        let operator =
            "POST /api/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf".to_owned();
        let (status, answer) = request(address, &operator, &empty(3))?;
        ensure!((400..500).contains(&status), "{status} {answer}");
    }
    // A link's registration, at the size that a record may have.
    let info = agent_info(None, &[("cpus", 1.0)]);
    for more in [[3 << 3 | 2, 0].repeat(15 * MIB), [4 << 3 | 2, 0].repeat(MIB)] {
        let mut link = Link::open(&master)?;
        let _ = link.say(&register(&info, &more));
        ensure!(!matches!(link.hear(), Ok((REGISTERED, _))));
    }
    // Each costs much to look through; side by side they would take all threads.
    let ranges = [field(1, "ports"), number(2, 1), field(4, [10, 0].repeat(8 * MIB))].concat();
    let large = register(&[info, field(3, ranges)].concat(), &[]);
    let mut links = Vec::new();
    for _ in 0..4 {
        let mut link = Link::open(&master)?;
        link.say(&large)?;
        links.push(link);
    }
    scene.others_go_on().await?;
    for mut link in links {
        ensure!(!matches!(link.hear(), Ok((REGISTERED, _))));
    }
    for length in ["99999999999999999999999\n", "-1\n", "67108865\n", "x\n"] {
        let mut link = Link::open(&master)?;
        link.write(length.as_bytes())?;
        ensure!(link.hear().is_err(), "{length}");
    }
    scene.others_go_on().await
}

#[tokio::test]
async fn names_and_counts_are_bounded() -> Result<()> {
    let scene = scene().await?;
    let master = scene.cluster.master();
    let roles = |count: usize| (0..count).map(|role| format!("role{role}")).collect::<Vec<_>>();
    let multi = json!([{ "type": "MULTI_ROLE" }]);
    for (name, info) in [
        ("roles", json!({ "user": "root", "name": "x", "roles": roles(60_000), "capabilities": multi })),
        ("name", json!({ "user": "root", "name": "n".repeat(12 * MIB) })),
        ("principal", json!({ "user": "root", "name": "x", "principal": "p".repeat(MIB) })),
        ("webui_url", json!({ "user": "root", "name": "x", "webui_url": "u".repeat(MIB) })),
    ] {
        let refused = Framework::subscribe_as(&master, info).await;
        ensure!(refused.is_err(), "{name} is taken");
    }
    // More than a master takes, and each leaves at once and wants its place for ever.
    let squatter = |number: u32| json!({ "user": "root", "name": format!("squatter{number}"), "failover_timeout": 1e12 });
    let head = "POST /api/v1/scheduler HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json";
    for number in 0..10_050 {
        let call = json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": squatter(number) } });
        let call = call.to_string();
        let source = Ipv4Addr::new(127, 0, 1, (number % 250) as u8 + 1);
        let mut stream = connect_from(source, &master)?;
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{call}", call.len())?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        ensure!(status.ends_with(b"200"), "{number}: {}", String::from_utf8_lossy(&status));
    }
    scene.others_go_on().await
}

#[tokio::test]
async fn peers_that_stay_make_room() -> Result<()> {
    let scene = scene().await?;
    let (master, agent) = (scene.cluster.master(), scene.cluster.agent());
    let mut staying = Vec::new();
    // Links that begin a large record and stop, requests without an end, connections without a request.
    for number in 0..20 {
        let mut link = Link::open(&master)?;
        link.write(format!("60000000\n{}", "x".repeat(MIB * (1 + number % 2))).as_bytes())?;
        staying.push(Err(link));
    }
    for number in 0..1_200 {
        let address = if number % 2 == 0 { &master } else { &agent };
        let source = Ipv4Addr::new(127, 0, 2, (number / 10 % 250) as u8 + 1);
        let mut stream = connect_from(source, address)?;
        let begun: &[u8] = match number % 3 {
            0 => b"",
            1 => b"POST /api/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{",
            _ => b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\nGET /state HTTP/1.1\r\nHost: localhost\r\n\r\n",
        };
        // It may have had to make room already.
        let _ = stream.write_all(begun);
        staying.push(Ok(stream));
    }
    scene.others_go_on().await?;
    drop(staying);
    scene.others_go_on().await
}

#[tokio::test]
async fn agents_are_not_believed() -> Result<()> {
    let scene = scene().await?;
    let master = scene.cluster.master();
    let answer = |registration: Vec<u8>| -> Result<(u8, Link)> {
        let mut link = Link::open(&master)?;
        link.say(&registration)?;
        Ok((link.hear()?.0, link))
    };
    for lie in [f64::NAN, f64::INFINITY, -1.0, 1e300, 9e15] {
        let (kind, _) = answer(register(&agent_info(None, &[("cpus", lie)]), &[]))?;
        ensure!(kind == REFUSED, "{lie} CPUs are believed");
    }
    for id in ["..", "a/b", "", "a\nb", &"i".repeat(4096)] {
        let (kind, _) = answer(register(&agent_info(Some(id), &[("cpus", 1.0)]), &[]))?;
        ensure!(kind == REFUSED, "{id:?} is an agent's id");
    }
    for (hostname, ip) in [("a\nb", "10.0.0.1"), ("a", "10.0.0.1\nb"), ("a", "999.0.0.1"), ("a", "b")] {
        let register = [field(1, field(1, hostname)), field(2, "1"), field(5, ip)].concat();
        let (kind, _) = answer(field(1, register))?;
        ensure!(kind == REFUSED, "{hostname:?} is at {ip:?}");
    }
    let task = |cpus: f64, state: u8| {
        let agent = field(3, field(1, "liar"));
        let task = [field(1, "t"), field(2, field(1, "t")), agent, field(4, scalar("cpus", cpus))].concat();
        field(3, [field(1, task), field(2, field(1, "stranger")), number(4, state)].concat())
    };
    let stranger = field(4, [field(1, "root"), field(2, "x"), field(3, field(1, "stranger"))].concat());
    let registration = |cpus: f64, state: u8| {
        let more = [task(2.0, state), stranger.clone()].concat();
        register(&agent_info(Some("liar"), &[("cpus", cpus)]), &more)
    };
    let (running, unreachable, finished) = (1, 10, 2);
    let (kind, mut link) = answer(registration(2.0, running))?;
    ensure!(kind == REGISTERED);
    // There and back again, after its end too, and of tasks and frameworks that are not its own.
    for state in [unreachable, running, unreachable, finished, running, 99, unreachable, running] {
        for (framework, task) in [("stranger", "t"), ("stranger", "nobody's"), ("nobody's", "t")] {
            // A state that does not exist ends the connection.
            let _ = link.say(&status_update(framework, task, state, state));
        }
    }
    scene.others_go_on().await?;
    drop(link);
    for (cpus, state) in [(1.0, unreachable), (0.1, running), (1.0, finished), (2.0, unreachable), (1.0, 99)]
    {
        // Whether it is taken depends on what the task has come to; that all live is what counts.
        let _ = answer(registration(cpus, state));
    }
    scene.others_go_on().await
}

#[tokio::test]
async fn ids_stay_with_whom_they_belong_to() -> Result<()> {
    let scene = scene().await?;
    let master = scene.cluster.master();
    let agents = get_json(&format!("http://{master}/slaves")).await?;
    let real =
        agents["slaves"].as_array().into_iter().flatten().find(|agent| agent["hostname"] == "127.0.0.1");
    let real = real.and_then(|agent| agent["id"].as_str()).unwrap_or_default().to_owned();
    let mut link = Link::open(&master)?;
    link.say(&register(&agent_info(Some(&real), &[("cpus", 1.0)]), &[]))?;
    ensure!(link.hear()?.0 == TRY_LATER, "the agent lives");
    let ids = get_json(&format!("http://{master}/state")).await?;
    let ids = ids["id"].as_str().unwrap_or_default().to_owned();
    for number in ["99999", "00", "+0", "18446744073709551615"] {
        let mut link = Link::open(&master)?;
        link.say(&register(&agent_info(Some(&format!("{ids}-S{number}")), &[("cpus", 1.0)]), &[]))?;
        ensure!(link.hear()?.0 == REFUSED, "nobody was given the number {number}");
    }

    let with_id = |id: &str, user: &str| json!({ "user": user, "name": "x", "id": { "value": id }, "failover_timeout": 1e6 });
    let chosen = Framework::subscribe_as(&master, with_id(&format!("{ids}-99999"), "root")).await;
    ensure!(chosen.is_err(), "a generated id cannot be chosen");
    let victim =
        Framework::subscribe_as(&master, json!({ "user": "nobody", "name": "x", "failover_timeout": 1e6 }))
            .await?;
    let thief = Framework::subscribe_as(&master, with_id(victim.id(), "root")).await;
    ensure!(thief.is_err(), "a framework's user does not change");
    let frameworks = get_json(&format!("http://{master}/frameworks")).await?;
    let user = frameworks["frameworks"].as_array().into_iter().flatten().find(|one| one["id"] == victim.id());
    ensure!(user.is_some_and(|one| one["user"] == "nobody"), "{frameworks}");
    victim.tear_down().await?;
    scene.others_go_on().await
}

#[tokio::test]
async fn users_and_ids_become_no_path() -> Result<()> {
    let scene = scene().await?;
    let master = scene.cluster.master();
    for user in ["nosuchuser", "../x", "4294967295"] {
        let mut framework = Framework::subscribe(&master, user).await?;
        let status = framework.run("stranger", json!({ "value": "true" })).await?;
        ensure!(status["state"] == "TASK_FAILED" && said(&status).contains("no user"), "{user}: {status}");
        framework.tear_down().await?;
    }
    for id in ["..", "a/b", "a\nb", &"i".repeat(4096)] {
        let info = json!({ "user": "root", "name": "x", "id": { "value": id } });
        ensure!(Framework::subscribe_as(&master, info).await.is_err(), "{id:?} is an id");
    }
    if is_root() {
        let disk = scene.cluster.disk();
        let before = foreign(&disk)?;
        for id in ["cassandra", "linked", "bellows-foreign", "foreign", ".bellows", "app-20260101000000-0000"]
        {
            let info = json!({ "user": "nobody", "name": "x", "id": { "value": id } });
            let mut framework = Framework::subscribe_as(&master, info).await?;
            // It may fail, where a name is taken; but nobody's directory changes.
            framework.run("t", json!({ "value": "touch ${SPARK_EXECUTOR_DIRS%%:*}/x" })).await?;
            framework.tear_down().await?;
        }
        scene.others_go_on().await?;
        ensure!(before == look(&disk)?, "{before:?} {:?}", look(&disk)?);
    }
    scene.others_go_on().await
}

/// Directories, files and links of others, on a disk for shuffle files.
fn foreign(disk: &Path) -> Result<Vec<(String, u64, u32)>> {
    for name in ["cassandra", "bellows-foreign", "app-20260101000000-0000/executor-1", "target"] {
        fs::create_dir_all(disk.join(name))?;
        fs::write(disk.join(name).join("file"), "keep")?;
    }
    symlink(disk.join("target"), disk.join("linked"))?;
    symlink(disk.join("target"), disk.join("bellows-linked"))?;
    look(disk)
}

/// Name, inode and owner of each of them.
fn look(disk: &Path) -> Result<Vec<(String, u64, u32)>> {
    let names = [
        "cassandra",
        "cassandra/file",
        "bellows-foreign",
        "bellows-foreign/file",
        "app-20260101000000-0000/executor-1/file",
        "target",
        "target/file",
        "linked",
        "bellows-linked",
        ".bellows",
    ];
    let seen = names.map(|name| {
        let found = fs::symlink_metadata(disk.join(name))?;
        Ok((name.to_owned(), found.ino(), found.uid()))
    });
    seen.into_iter().collect()
}

#[tokio::test]
async fn only_what_the_user_may_read_is_fetched() -> Result<()> {
    let scene = scene().await?;
    let dir = scene.cluster.dir().join("sources");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    let secret = dir.join("secret");
    fs::write(&secret, "SECRET")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    for (name, target) in [("fd", "/proc/self/fd/3"), ("dev", "/dev/fd/3"), ("zero", "/dev/zero")] {
        symlink(target, dir.join(name))?;
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_bits_truncate(0o666),
        0,
    )?;
    let agent = scene.cluster.pid("agent");
    let mut sources: Vec<String> = (3..32).map(|fd| format!("file:///proc/self/fd/{fd}")).collect();
    sources.push(format!("/proc/{agent}/environ"));
    sources.extend(
        ["/dev/zero", "/dev/fd/3", "file:////proc//self/environ", "/sys/kernel/notes"].map(str::to_owned),
    );
    sources.extend(["fd", "dev", "zero", "fifo"].map(|name| dir.join(name).display().to_string()));
    let mut user = "root";
    if is_root() {
        user = "nobody";
        sources.push(secret.display().to_string());
        sources.push(format!("/proc/{agent}/root{}", secret.display()));
    }
    let mut framework = Framework::subscribe(&scene.cluster.master(), user).await?;
    for (number, source) in sources.iter().enumerate() {
        let command =
            json!({ "value": "true", "user": user, "uris": [{ "value": source, "extract": false }] });
        let status = framework.run(&format!("fetch{number}"), command).await?;
        ensure!(status["state"] == "TASK_FAILED", "{source}: {status}");
        ensure!(said(&status).contains(source.trim_start_matches("file://")), "{source}: {status}");
    }
    framework.tear_down().await?;
    scene.others_go_on().await
}

fn said(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn directories_of_others_stay_as_they_are() -> Result<()> {
    let scene = scene().await?;
    let meta = scene.cluster.dir().join("agent/meta");
    ensure!(fs::metadata(&meta)?.mode() & 0o077 == 0, "the checkpoint is for its owner alone");
    for file in fs::read_dir(&meta)? {
        let file = file?;
        ensure!(file.metadata()?.mode() & 0o077 == 0, "{:?}", file.path());
    }
    if is_root() {
        scene::with_an_agent_in_a_sticky_directory(&scene).await?;
    }
    scene.others_go_on().await
}

#[tokio::test]
async fn other_hosts_are_refused_on_every_port() -> Result<()> {
    let scene = scene().await?;
    let cluster = &scene.cluster;
    for address in [cluster.master(), cluster.agent(), cluster.shuffle_metrics()] {
        for path in ["/metrics", "/health", "/state", "/api/v1", "/v1/status", "/nowhere"] {
            for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a.localhost"] {
                for headers in [String::new(), format!("\r\nOrigin: http://{host}")] {
                    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}{headers}");
                    let (status, answer) = request(&address, &head, b"")?;
                    ensure!(status == 403, "{address}: {head}: {status} {answer}");
                }
            }
        }
        for headers in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
            let head = format!("POST /api/v1 HTTP/1.1\r\nHost: {address}\r\n{headers}");
            let (status, answer) = request(&address, &head, b"{}")?;
            ensure!(status == 403, "{address}: {head}: {status} {answer}");
        }
        for host in ["localhost", "127.0.0.1:1", "[::1]"] {
            let (status, answer) = request(&address, &format!("GET /metrics HTTP/1.1\r\nHost: {host}"), b"")?;
            ensure!(status == 200, "{address}: {host}: {status} {answer}");
        }
    }
    scene.others_go_on().await
}

#[tokio::test]
async fn nobody_squats_in_the_shuffle_service() -> Result<()> {
    let scene = scene().await?;
    let disk = scene.cluster.disk().join("bellows-other");
    let strangers = disk.join("blockmgr-stranger");
    let files: Vec<_> = (0..64).map(|number| format!("rdd_1_{number}")).collect();
    for part in 0..64 {
        fs::create_dir_all(strangers.join(format!("{part:02x}")))?;
        for file in &files {
            fs::write(strangers.join(format!("{part:02x}")).join(file), "keep")?;
        }
    }
    let mut stream = connect(&format!("127.0.0.1:{}", scene.cluster.shuffle_port()))?;
    let path = |path: &Path| path.display().to_string();
    for dir in [
        "/".to_owned(),
        path(&scene.cluster.disk()),
        path(&disk),
        path(&strangers),
        path(&strangers.join("00")),
        format!("{}/blockmgr-x/../blockmgr-stranger", disk.display()),
        "/etc".to_owned(),
        String::new(),
    ] {
        let answer = call_shuffle(&mut stream, &register_executor("evil", std::slice::from_ref(&dir)))?;
        ensure!(answer.is_err(), "{dir:?} is registered");
    }
    let removed = call_shuffle(&mut stream, &remove_blocks("evil", &files))?;
    ensure!(removed.is_err() || removed == Ok(vec![8, 0, 0, 0, 0]), "{removed:?}");
    let odd = ["../../../../etc/passwd", "/etc/passwd", "", "..", "rdd_1_1\0"].map(str::to_owned);
    call_shuffle(&mut stream, &remove_blocks("evil", &odd))?.ok();
    for part in 0..64 {
        ensure!(fs::read_dir(strangers.join(format!("{part:02x}")))?.count() == files.len(), "{part:02x}");
    }
    for bytes in [(-1_i64).to_be_bytes(), 0_i64.to_be_bytes(), i64::MAX.to_be_bytes()] {
        let mut stream = connect(&format!("127.0.0.1:{}", scene.cluster.shuffle_port()))?;
        stream.write_all(&bytes)?;
        stream.write_all(&[3; 64])?;
        ensure!(stream.read(&mut [0]).is_ok_and(|read| read == 0), "{bytes:?} is a length");
    }
    scene.others_go_on().await
}
