//! The static release binary and the machine's name service: no module of it is ever loaded into the binary itself.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{Cluster, ClusterOptions, Framework, eventually, get_json, release_binary};
use object::{Object as _, ObjectSymbol as _};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

/// As Debian has them, with the modules that come from systemd. Nobody answers as DNS.
const NSSWITCH: &str = "passwd: files systemd\ngroup: files systemd\nhosts: files dns myhostname\n";
const RESOLV: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
const UNKNOWN_UID: u32 = 54_321;

#[test]
fn the_binary_links_no_name_service() -> Result<()> {
    let data = fs::read(release_binary())?;
    let binary = object::File::parse(&*data)?;
    ensure!(binary.section_by_name(".interp").is_none(), "it is static");
    // glibc asks weakly whether some are there.
    let defined = binary.symbols().filter(|symbol| !symbol.is_undefined());
    let names: Vec<&str> = defined.filter_map(|symbol| symbol.name().ok()).collect();
    ensure!(names.contains(&"getaddrinfo"), "its symbols are there");
    let found: Vec<_> =
        names.iter().filter(|name| name.starts_with("__nss_") || name.starts_with("_nss_")).collect();
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn no_module_of_the_name_service_is_loaded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let trace = dir.path().join("trace");
    let cluster = Cluster::start_by(traced(dir.path(), &trace)?, ClusterOptions { agents: 1, cpus: 2 }, &[])?;
    let pid = cluster.pid();
    let agent = agent_address(&cluster).await?;

    let mut framework = Framework::subscribe(cluster.master(), "nosuchuser").await?;
    let status = framework.run("stranger", json!({ "value": "true" })).await?;
    ensure!(status["state"] == "TASK_FAILED", "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.contains("no user 'nosuchuser' on this machine"), "{message}");

    let web = web_server()?;
    let is_root = rustix::process::geteuid().is_root();
    let chown = if is_root { format!(" && chown {UNKNOWN_UID} x") } else { String::new() };
    let command = |value: &str, uri: &str| json!({ "value": value, "user": "root", "uris": [{ "value": uri, "extract": false }] });
    let uri = format!("http://a.localhost:{web}/x");
    let status = framework.run("fetcher", command(&format!("grep -q fetched x{chown}"), &uri)).await?;
    ensure!(status["state"] == "TASK_FINISHED", "{status}");
    let listing = listing(&agent, "fetcher").await?;
    let file = listing
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["path"].as_str().is_some_and(|path| path.ends_with("/x")));
    let owner = if is_root { UNKNOWN_UID.to_string() } else { "root".to_owned() };
    ensure!(file.is_some_and(|file| file["uid"] == owner), "{listing}");

    let status = framework.run("lost", command("true", "http://nosuchhost.invalid/x")).await?;
    ensure!(status["state"] == "TASK_FAILED", "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.contains("cannot resolve 'nosuchhost.invalid'"), "{message}");

    let health = get_json(&format!("http://{agent}/version")).await?;
    ensure!(health["version"].is_string(), "the agent lives: {health}");
    cluster.stop()?;
    // strace pads a short number with blanks.
    let ended = |line: &str| {
        line.split_once(' ').is_some_and(|(number, said)| {
            number == pid.to_string() && said.trim_start() == "+++ exited with 0 +++"
        })
    };
    let trace = eventually("the end of the trace", Duration::from_secs(30), || async {
        let trace = fs::read_to_string(&trace)?;
        ensure!(trace.lines().any(ended), "{pid} has not exited with 0");
        Ok(trace)
    })
    .await?;
    let loaders = loaders(&trace);
    ensure!(
        loaders.iter().any(|(program, _)| program.ends_with("/getent")),
        "getent asks the modules: {loaders:?}"
    );
    let own: Vec<_> =
        loaders.iter().filter(|(program, _)| program.contains("bellows") || *program == SELF).collect();
    ensure!(own.is_empty(), "{own:?}");
    Ok(())
}

/// A process that has executed nothing is a thread, or a fork, of the binary itself.
const SELF: &str = "/proc/self/exe";

/// A command that runs `bellows` with the files above in the place of the machine's own, and traces what it executes and
/// opens.
fn traced(dir: &Path, trace: &Path) -> Result<Command> {
    let script = "mount --bind \"$1\" /etc/nsswitch.conf && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";
    let (nsswitch, resolv) = (dir.join("nsswitch.conf"), dir.join("resolv.conf"));
    fs::write(&nsswitch, NSSWITCH)?;
    fs::write(&resolv, RESOLV)?;
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-rm" });
    command.args(["sh", "-c", script, "sh"]).arg(nsswitch).arg(resolv);
    // -D: the tracer is not in the way of signals.
    command
        .args(["strace", "-D", "-f", "-q", "-e", "trace=execve,open,openat", "-e", "signal=none", "-o"])
        .arg(trace);
    command.arg(release_binary());
    Ok(command)
}

/// Who opened a module, by the program that it ran: `PID execve("PROGRAM"…`, `PID openat(…"…/libnss_…"…`.
fn loaders(trace: &str) -> Vec<(&str, &str)> {
    let mut programs = BTreeMap::new();
    let mut loaders = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(char::is_whitespace) else { continue };
        if let Some(executed) = call.trim_start().strip_prefix("execve(\"") {
            programs.insert(pid, executed.split('"').next().unwrap_or_default());
        } else if call.contains("/libnss_") {
            loaders.push((programs.get(pid).copied().unwrap_or(SELF), line));
        }
    }
    loaders
}

async fn agent_address(cluster: &Cluster) -> Result<String> {
    let agents = cluster.get("/slaves").await?;
    let pid = agents["slaves"][0]["pid"].as_str().context("an agent with a pid")?;
    Ok(pid.rsplit('@').next().unwrap_or_default().to_owned())
}

/// `/files/browse` of a task's sandbox.
async fn listing(agent: &str, task: &str) -> Result<Value> {
    let state = get_json(&format!("http://{agent}/state")).await?;
    let framework = &state["frameworks"][0];
    let executors =
        ["executors", "completed_executors"].iter().filter_map(|kind| framework[*kind].as_array()).flatten();
    let executor =
        executors.into_iter().find(|executor| executor["id"] == task).context("the task is there")?;
    let directory = executor["directory"].as_str().context("it has a sandbox")?;
    get_json(&format!("http://{agent}/files/browse?path={directory}")).await
}

/// Serves one file to one client; returns the port.
fn web_server() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        // One read has all of so short a request.
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nfetched\n")?;
        Ok(())
    });
    Ok(port)
}
