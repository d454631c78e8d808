//! Detecting and contending through a real ZooKeeper, as Debian's package `zookeeper` brings it.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bellows_election::{Leader, MasterAddress, Standing, ZooKeeperAddress, contend, detect};
use tokio::sync::watch;

const JAR: &str = "/usr/share/java/zookeeper.jar";
/// No test waits for longer; nothing is asserted about time.
const PATIENCE: Duration = Duration::from_secs(120);

/// One server with its own data. Ended when dropped.
struct ZooKeeper {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl ZooKeeper {
    async fn start() -> Self {
        assert!(Path::new(JAR).exists(), "{JAR} is missing; install the package zookeeper");
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Taken once to learn a free one; ZooKeeper cannot be asked for the port it chose.
        let free = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let process = Self::launch(directory.path(), port);
        let server = Self { process, port, directory };
        server.wait_until_it_serves().await;
        server
    }

    fn launch(directory: &Path, port: u16) -> Child {
        let configuration = directory.join("zoo.cfg");
        let text = format!(
            "tickTime=500\nmaxSessionTimeout=10000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            directory.join("data").display()
        );
        std::fs::write(&configuration, text).expect("written");
        Command::new("java")
            .args(["-Xmx64m", "-cp", JAR, "org.apache.zookeeper.server.ZooKeeperServerMain"])
            .arg(configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java starts")
    }

    async fn wait_until_it_serves(&self) {
        let serving = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, serving).await.expect("ZooKeeper serves");
    }

    fn address(&self, path: &str) -> ZooKeeperAddress {
        let text = format!("zk://127.0.0.1:{}{path}", self.port);
        match MasterAddress::parse(&text) {
            Ok(MasterAddress::ZooKeeper(address)) => address,
            other => panic!("{other:?}"),
        }
    }

    fn stop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    async fn start_again(&mut self) {
        self.process = Self::launch(self.directory.path(), self.port);
        self.wait_until_it_serves().await;
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn master(id: &str, port: u16) -> Leader {
    let mut master = Leader::at("127.0.0.1", port);
    master.id = id.to_owned();
    master.version = "1.12.0".to_owned();
    master
}

async fn becomes<T: Clone + PartialEq + std::fmt::Debug>(receiver: &mut watch::Receiver<T>, expected: T) {
    let reached = tokio::time::timeout(PATIENCE, receiver.wait_for(|now| *now == expected)).await.is_ok();
    assert!(reached, "expected {expected:?}, still {:?}", *receiver.borrow());
}

#[tokio::test]
async fn the_first_candidate_leads_and_the_next_follows_it() {
    let mut server = ZooKeeper::start().await;
    let address = server.address("/clusters/mesos");
    // Before any master ever stood for election.
    let mut detected = detect(&MasterAddress::ZooKeeper(address.clone()));
    let (a, b) = (master("a", 5050), master("b", 5060));
    let mut standing_a = contend(&address, &a);
    becomes(&mut standing_a, Standing::Leading).await;
    becomes(&mut detected, Some(a.clone())).await;

    let mut standing_b = contend(&address, &b);
    becomes(&mut standing_b, Standing::Following).await;
    assert_eq!(*detected.borrow(), Some(a.clone()));

    // Withdrawing hands the lead over.
    drop(standing_a);
    becomes(&mut standing_b, Standing::Leading).await;
    becomes(&mut detected, Some(b.clone())).await;

    // ZooKeeper goes: who led stops leading; who only watches keeps what it knew.
    server.stop();
    becomes(&mut standing_b, Standing::Absent).await;
    assert_eq!(*detected.borrow(), Some(b.clone()));
    server.start_again().await;
    becomes(&mut standing_b, Standing::Leading).await;
    becomes(&mut detected, Some(b)).await;

    drop(standing_b);
    becomes(&mut detected, None).await;
}

#[tokio::test]
async fn credentials_protect_the_election_and_everybody_finds_the_leader() {
    let server = ZooKeeper::start().await;
    let open = server.address("/mesos");
    let mut owned = open.clone();
    owned.credentials = Some("master:secret".to_owned());
    let a = master("a", 5050);
    let mut standing = contend(&owned, &a);
    becomes(&mut standing, Standing::Leading).await;
    let mut detected = detect(&MasterAddress::ZooKeeper(open.clone()));
    becomes(&mut detected, Some(a.clone())).await;
    // Without the credentials nobody may stand; with them one may.
    let intruder = contend(&open, &master("intruder", 6666));
    let mut second = contend(&owned, &master("b", 5060));
    becomes(&mut second, Standing::Following).await;
    assert_eq!(*intruder.borrow(), Standing::Absent);
    assert_eq!(*detected.borrow(), Some(a));
}
