//! Machines on several networks, each a network namespace: what masters and agents announce when nobody says what.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{binaries, eventually};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// As Debian's installer writes it.
const HOSTS: &str = "127.0.0.1 localhost\n127.0.1.1 node7.example.org node7\n";

/// `sh SCRIPT BELLOWS DIRECTORY`: a master, an agent on each of two networks that lead to it, and one behind NAT.
const SCRIPT: &str = r#"
set -e
bellows=$1 dir=$2
mount -t tmpfs tmpfs /run && mkdir /run/netns
mount --bind "$dir/hosts" /etc/hosts
echo node7 > /proc/sys/kernel/hostname
ip link set lo up
for i in 1 2; do
    ip netns add net$i
    ip link add veth$i type veth peer name eth0 netns net$i
    ip addr add 10.77.$i.1/24 dev veth$i
    ip link set veth$i up
    ip -n net$i addr add 10.77.$i.2/24 dev eth0
    ip -n net$i link set lo up
    ip -n net$i link set eth0 up
done
pids=
trap 'kill $pids; wait' TERM
"$bellows" master 2> "$dir/master.log" &
pids="$pids $!"
for i in 1 2; do
    ip netns exec net$i "$bellows" agent --master 10.77.$i.1:5050 --work-dir "$dir/agent$i" 2> "$dir/agent$i.log" &
    pids="$pids $!"
done
"$bellows" agent --master 127.0.0.1:5050 --work-dir "$dir/agent3" --hostname node9.example.org \
    --advertise-ip 203.0.113.9 --advertise-port 15051 2> "$dir/agent3.log" &
pids="$pids $!"
wait
"#;

/// Ends with all that the script has started.
struct Machines(Child);

impl Machines {
    fn start(dir: &Path) -> Result<Self> {
        fs::write(dir.join("hosts"), HOSTS)?;
        fs::write(dir.join("script"), SCRIPT)?;
        let mut command = Command::new("unshare");
        command.arg(if is_root() { "-nmu" } else { "-rnmu" }).arg("sh").arg(dir.join("script"));
        command
            .arg(binaries().join("bellows"))
            .arg(dir)
            .stdin(Stdio::null())
            .stderr(File::create(dir.join("log"))?);
        Ok(Self(command.spawn().context("unshare")?))
    }

    /// GETs JSON from the master on its own machine.
    fn get(&self, path: &str) -> Result<Value> {
        let fetch = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())";
        let mut command = Command::new("nsenter");
        if !is_root() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.args(["-n", "-t", &self.0.id().to_string(), "python3", "-c", fetch]);
        let output = command.arg(format!("http://127.0.0.1:5050{path}")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The hostnames of the agents that are connected, by their address.
    fn agents(&self) -> Result<BTreeMap<String, String>> {
        let answer = self.get("/slaves")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let agents = answer["slaves"].as_array().context("a list")?.iter();
        Ok(agents
            .filter(|agent| agent["active"] == true)
            .map(|agent| (text(&agent["pid"]), text(&agent["hostname"])))
            .collect())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn everybody_announces_the_address_that_others_reach() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let machines = Machines::start(dir.path())?;
    let log = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    // With one address for all, each would have taken the place of the one before.
    let expected = [
        ("slave(1)@10.77.1.2:5051", "node7.example.org"),
        ("slave(1)@10.77.2.2:5051", "node7.example.org"),
        ("slave(1)@203.0.113.9:15051", "node9.example.org"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(pid, name)| (pid.to_owned(), name.to_owned())).into();
    let all = eventually("all agents", Duration::from_secs(60), || async {
        let agents = machines.agents()?;
        ensure!(agents == expected, "{agents:?}");
        Ok(())
    });
    all.await.with_context(|| {
        ["log", "master.log", "agent1.log", "agent2.log", "agent3.log"].map(log).join("\n")
    })?;
    let state = machines.get("/state")?;
    ensure!(state["pid"] == "master@10.77.1.1:5050", "{}", state["pid"]);
    ensure!(state["leader_info"]["hostname"] == "node7.example.org", "{}", state["leader_info"]);
    for name in ["master.log", "agent1.log", "agent2.log"] {
        ensure!(log(name).contains("stands for a loopback address"), "{name}: {}", log(name));
    }
    Ok(())
}
