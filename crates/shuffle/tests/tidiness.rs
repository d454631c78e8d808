//! Whatever happens in whatever order: what a live application wrote stays, and what none needs goes.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bellows_transport::rpc::Rpc;
use proptest::prelude::*;
use support::{Bench, Client, TestExecutor, eventually, exists};

#[derive(Debug, Clone)]
enum Event {
    Register {
        app: usize,
        executor: usize,
    },
    Depart {
        app: usize,
        executor: usize,
    },
    Remove {
        app: usize,
    },
    RemoveBlock {
        app: usize,
        executor: usize,
    },
    /// Its driver promises a heartbeat each second, and stays connected without ever sending one.
    Drive {
        app: usize,
    },
    /// Nothing was written in its directories for long.
    Age {
        app: usize,
    },
    /// Left by an application that nobody remembers.
    Orphan,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let (app, executor) = (0..3usize, 0..3usize);
    prop_oneof![
        6 => (app.clone(), executor.clone()).prop_map(|(app, executor)| Event::Register { app, executor }),
        2 => (app.clone(), executor.clone()).prop_map(|(app, executor)| Event::Depart { app, executor }),
        2 => app.clone().prop_map(|app| Event::Remove { app }),
        2 => (app.clone(), executor).prop_map(|(app, executor)| Event::RemoveBlock { app, executor }),
        1 => app.clone().prop_map(|app| Event::Drive { app }),
        1 => app.prop_map(|app| Event::Age { app }),
        1 => Just(Event::Orphan),
        1 => Just(Event::Restart),
    ]
}

/// Which of an executor's files there should be.
#[derive(Default, Clone)]
struct Files {
    shuffle: bool,
    block: bool,
    private: bool,
}

const OLD: Duration = Duration::from_secs(3600);
const SHUFFLE: &str = "shuffle_0_1_0.data";
const BLOCK: &str = "shuffle_0_2_0.data";
const PRIVATE: &str = "temp_local_1";

struct World {
    bench: Bench,
    service: bellows_shuffle::Running,
    executors: BTreeMap<(usize, usize), (TestExecutor, Files)>,
    drivers: Vec<Client>,
    orphans: Vec<TestExecutor>,
}

impl World {
    async fn new() -> World {
        let mut bench = Bench::new();
        bench.config.orphan_age = Some(OLD / 2);
        let service = bench.start().await;
        let (drivers, orphans) = (Vec::new(), Vec::new());
        World { bench, service, executors: BTreeMap::new(), drivers, orphans }
    }

    async fn apply(mut self, event: &Event) -> World {
        match *event {
            Event::Register { app, executor } => {
                let entry = self.bench.executor(&format!("app{app}"), &executor.to_string());
                Client::connect(&self.service).await.register(&entry).await;
                for file in [SHUFFLE, BLOCK, PRIVATE] {
                    entry.write(file, b"12345");
                }
                let files = Files { shuffle: true, block: true, private: true };
                self.executors.insert((app, executor), (entry, files));
            }
            Event::Depart { app, executor } => {
                let known = self.executors.get_mut(&(app, executor));
                let answer =
                    self.bench.admin().executor_departed(&format!("app{app}"), &executor.to_string()).await;
                assert_eq!(answer.expect("answered").known, known.is_some());
                if let Some((_, files)) = known {
                    files.private = false;
                }
            }
            Event::Remove { app } => {
                self.bench.admin().remove_app(&format!("app{app}")).await.expect("removed");
                self.executors.retain(|(of, _), (executor, _)| {
                    let gone = *of == app;
                    assert!(
                        !gone || !executor.dirs.iter().any(|dir| exists(dir)),
                        "{:?} stays",
                        executor.dirs
                    );
                    !gone
                });
            }
            Event::RemoveBlock { app, executor } => {
                let (app_id, id) = (format!("app{app}"), executor.to_string());
                let call = Rpc::RemoveBlocks { app: app_id, executor: id, blocks: vec![BLOCK.to_owned()] };
                let answer = Client::connect(&self.service).await.call(&call).await;
                if let Some((_, files)) = self.executors.get_mut(&(app, executor)) {
                    assert_eq!(answer, Ok(Some(Rpc::BlocksRemoved { count: i32::from(files.block) })));
                    files.block = false;
                }
            }
            Event::Drive { app } => {
                // Of one that nobody registered an executor of there are no files.
                if self.executors.keys().any(|(of, _)| *of == app) {
                    let mut driver = Client::connect(&self.service).await;
                    let promise = Rpc::RegisterDriver { app: format!("app{app}"), heartbeat_timeout_ms: 1 };
                    assert_eq!(driver.call(&promise).await, Ok(None));
                    self.drivers.push(driver);
                }
            }
            Event::Age { app } => {
                let of_app = self.executors.iter().filter(|((of, _), _)| *of == app);
                of_app.for_each(|(_, (executor, _))| make_old(executor));
            }
            Event::Orphan => {
                let orphan = self.bench.executor(&format!("lost{}", self.orphans.len()), "1");
                orphan.write(SHUFFLE, b"12345");
                make_old(&orphan);
                self.orphans.push(orphan);
            }
            Event::Restart => {
                self.service.stop().await;
                self.service = self.bench.start().await;
                for orphan in self.orphans.drain(..) {
                    let gone = async || (!orphan.dirs.iter().any(|dir| exists(dir))).then_some(());
                    eventually("an orphan goes after a start", gone).await;
                }
            }
        }
        self
    }

    fn check(&self) {
        for (executor, files) in self.executors.values() {
            for (file, expected) in [(SHUFFLE, files.shuffle), (BLOCK, files.block), (PRIVATE, files.private)]
            {
                assert_eq!(
                    exists(&executor.path(file)),
                    expected,
                    "{file} of {} {}",
                    executor.app,
                    executor.id
                );
            }
        }
        let apps: BTreeSet<String> = self.executors.keys().map(|(app, _)| format!("app{app}")).collect();
        assert_eq!(self.service.status().applications.into_keys().collect::<BTreeSet<_>>(), apps);
    }
}

/// As if nothing had been written for [`OLD`].
fn make_old(executor: &TestExecutor) {
    let long_ago = std::time::SystemTime::now() - OLD;
    let written = [SHUFFLE, BLOCK, PRIVATE].map(|file| executor.path(file));
    let parents = written.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect::<Vec<_>>();
    for path in written.iter().chain(&parents).chain(&executor.dirs).filter(|path| exists(path)) {
        let file = std::fs::File::open(path).expect("there");
        file.set_times(std::fs::FileTimes::new().set_modified(long_ago)).expect("its own");
    }
}

fn is_empty(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir).expect("directory").next().is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn live_files_stay_and_others_go(events in prop::collection::vec(event(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let mut world = World::new().await;
            for event in &events {
                world = world.apply(event).await;
                world.check();
            }
            for app in 0..3 {
                world = world.apply(&Event::Remove { app }).await;
            }
            world = world.apply(&Event::Restart).await;
            // An orphan's directory goes before the one above it.
            eventually("nothing is left", async || is_empty(&world.bench.disk()).then_some(())).await;
            world.service.stop().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_applications_come_and_go_and_leave_nothing() {
    let bench = std::sync::Arc::new(Bench::new());
    let service = bench.start().await;
    let address = service.local_addr();
    let mut lives = tokio::task::JoinSet::new();
    for number in 0..200 {
        if lives.len() >= 16 {
            lives.join_next().await.expect("some").expect("lived");
        }
        let bench = bench.clone();
        lives.spawn(async move {
            let app = format!("app-{number}");
            let mut client = Client::connect_to(address).await;
            for id in ["1", "2"] {
                let executor = bench.executor(&app, id);
                client.register(&executor).await;
                let blocks = executor.map_output(0, 1, &[500, 70_000]);
                executor.write("temp_shuffle_1", b"leftover");
                let fetched = client.fetch(&executor.fetch(0, &[(1, &[0, 1])], false)).await.expect("blocks");
                assert!(fetched == blocks);
                bench.admin().executor_departed(&app, id).await.expect("noted");
            }
            if number % 10 == 0 {
                // Nobody says that this one ended; its driver just falls silent.
                let promise = Rpc::RegisterDriver { app: app.clone(), heartbeat_timeout_ms: 1 };
                assert_eq!(client.call(&promise).await, Ok(None));
                return;
            }
            let removal = bench.admin().remove_app(&app).await.expect("removed");
            assert_eq!((removal.executors, removal.kept), (2, vec![]));
        });
    }
    while let Some(lived) = lives.join_next().await {
        lived.expect("lived");
    }
    eventually("the disk is as it was", async || is_empty(&bench.disk()).then_some(())).await;
    let status = eventually("all are forgotten", async || {
        Some(service.status()).filter(|status| status.applications.is_empty())
    })
    .await;
    assert!(status.blocks_served == 800 && status.registered_executors == 0 && status.errors.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn orphans_go_and_their_age_is_respected() {
    let mut bench = Bench::new();
    let orphan = bench.executor("forgotten", "1");
    orphan.write(SHUFFLE, b"12345");
    make_old(&orphan);
    let young = bench.executor("young", "1");
    bench.config.orphan_age = Some(OLD / 2);
    let service = bench.start().await;
    eventually("the orphan goes", async || (!orphan.dirs.iter().any(|dir| exists(dir))).then_some(())).await;
    assert!(young.dirs.iter().all(|dir| exists(dir)));
    service.stop().await;
}
