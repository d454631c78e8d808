//! What is done again and again, or once after a start, without anyone asking: unfinished removals, silent drivers,
//! files that others deleted, disk use. What waits for a disk has a turn of its own for each, so that one that hangs
//! holds up nothing of the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{join, join_all, join3};
use futures::stream::FuturesUnordered;
use tokio::time::{Interval, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::disks::Disk;
use crate::processes::Name;
use crate::service::Service;
use crate::store::Removed;

const LOOK_FOR_SILENT_DRIVERS: Duration = Duration::from_secs(1);
const LOOK_FOR_ENDED_EXECUTORS: Duration = Duration::from_secs(2);
/// What an executor left is tried again where its disk failed.
const CLEAR_AGAIN: Duration = Duration::from_secs(60);
const RETRY_REMOVALS: Duration = Duration::from_secs(10);
const CLOSE_STALE_FILES: Duration = Duration::from_secs(30);
const REMOVE_FORGOTTEN: Duration = Duration::from_secs(3600);
const COUNT_DISK_USE: Duration = Duration::from_secs(60);
/// Of a disk's time, counting takes one part in so many at most, however many files there are.
const COUNTING_SHARE: u32 = 20;

pub(crate) async fn run(service: Arc<Service>, stop: CancellationToken) {
    let disks =
        join_all(service.disks.all().map(|disk| join(tend(&service, disk), watch_disk(&service, disk))));
    let applications = join3(watch_drivers(&service), watch_executors(&service), remove_abandoned(&service));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = join3(disks, applications, retry_removals(&service)) => {}
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Says when a disk goes and comes back, and then does what was left for it.
async fn watch_disk(service: &Service, disk: Disk) {
    let mut look = every(service.config.disk_check_interval);
    loop {
        look.tick().await;
        if service.disks.look(disk).await {
            service.finish_removals(disk).await;
        }
    }
}

/// One disk.
async fn tend(service: &Service, disk: Disk) {
    let mut forgotten = every(REMOVE_FORGOTTEN);
    let mut stale = every(CLOSE_STALE_FILES);
    let mut use_counted = every(COUNT_DISK_USE);
    loop {
        tokio::select! {
            biased;
            _ = forgotten.tick() => {
                service.finish_removals(disk).await;
                if let Err(error) = service.remove_orphans(disk).await {
                    tracing::error!(%error, "orphans stay");
                }
            }
            _ = stale.tick() => service.close_stale_files(disk).await,
            _ = use_counted.tick() => {
                let start = Instant::now();
                service.count_disk_use(disk).await;
                use_counted.reset_after(COUNT_DISK_USE.max(COUNTING_SHARE * start.elapsed()));
            }
        }
    }
}

/// Nothing here waits for a disk but that of the registrations.
async fn watch_drivers(service: &Service) {
    if !service.config.heartbeat_cleanup {
        return;
    }
    let mut silent = every(LOOK_FOR_SILENT_DRIVERS);
    let mut deletions = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = silent.tick() => {
                let forgotten = forget_silent(service).await;
                deletions.extend(forgotten.into_iter().map(|(app, removed)| delete(service, app, removed)));
            }
            Some(()) = deletions.next() => {}
        }
    }
}

/// One with a directory on a disk that hangs holds up no other.
async fn watch_executors(service: &Service) {
    let mut look = every(LOOK_FOR_ENDED_EXECUTORS);
    let mut again = every(CLEAR_AGAIN);
    let (mut departures, mut under_way) = (FuturesUnordered::new(), HashSet::new());
    let mut not_cleared = Vec::new();
    loop {
        let ended: Vec<Name> = tokio::select! {
            _ = look.tick() => service.ended_executors().await,
            () = service.standalone_registered.notified() => service.ended_executors().await,
            _ = again.tick() => std::mem::take(&mut not_cleared),
            Some::<(Name, bool)>((name, cleared)) = departures.next() => {
                under_way.remove(&name);
                if !cleared {
                    not_cleared.push(name);
                }
                continue;
            }
        };
        let new = ended.into_iter().filter(|name| under_way.insert(name.clone()));
        departures.extend(new.collect::<Vec<_>>().into_iter().map(|name| depart(service, name)));
    }
}

/// Also returns whether what the executor left was deleted.
async fn depart(service: &Service, name: Name) -> (Name, bool) {
    let (app, executor) = &name;
    let cleared = service.depart(app, executor).await.map(|(_, cleared)| cleared);
    let cleared = cleared.inspect_err(|error| service.note(error)).unwrap_or(false);
    (name, cleared)
}

/// Brings to their end removals that were not durable at first.
async fn retry_removals(service: &Service) {
    let mut retry = every(RETRY_REMOVALS);
    loop {
        retry.tick().await;
        service.retry_removals().await;
    }
}

async fn forget_silent(service: &Service) -> Vec<(Arc<str>, Removed)> {
    let mut forgotten = Vec::new();
    for app in service.registry.silent_apps(Instant::now()) {
        tracing::warn!(%app, "no heartbeat of the driver for longer than it promised: removing the application");
        match service.forget_app_if(&app, |app| app.is_silent(Instant::now())).await {
            Ok(removed) => forgotten.push((app, removed)),
            Err(error) => tracing::error!(%app, %error, "cannot remove the application"),
        }
    }
    forgotten
}

async fn delete(service: &Service, app: Arc<str>, removed: Removed) {
    if let Err(error) = service.delete(&app, removed).await {
        tracing::error!(%app, %error, "removal stays unfinished");
    }
}

async fn remove_abandoned(service: &Service) {
    let mut look = every(REMOVE_FORGOTTEN);
    loop {
        look.tick().await;
        // What one disk holds up must not keep the next look from those on others.
        if timeout(REMOVE_FORGOTTEN, service.remove_abandoned(Instant::now())).await.is_err() {
            tracing::warn!("a look for abandoned applications did not come to an end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::registry::Registry;
    use crate::security::Security;
    use crate::store::{Recovered, Store};
    use crate::tidy::Doomed;
    use bellows_transport::rpc::ExecutorInfo;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::Ordering::Relaxed;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct Scene {
        dir: tempfile::TempDir,
        service: Arc<Service>,
    }

    impl Scene {
        fn new(heartbeat_cleanup: bool) -> Scene {
            let dir = tempfile::tempdir().expect("directory");
            let mut config = Config::new(dir.path().join("work"));
            config.heartbeat_cleanup = heartbeat_cleanup;
            config.orphan_age = Some(7 * DAY);
            let registry = Arc::new(Registry::new(10, 10));
            let security = Security::load(&config).expect("none");
            let (store, recovered, _) = Store::open(&config.work_dir, registry.clone()).expect("opens");
            let service = Arc::new(Service::new(config, security, registry, (store, recovered)));
            Scene { dir, service }
        }

        async fn register(&self, app: &str) -> PathBuf {
            let dir = self.dir.path().canonicalize().expect("exists").join(app).join("blockmgr-1");
            std::fs::create_dir_all(&dir).expect("directory");
            let told = dir.to_str().expect("UTF-8").to_owned();
            let info = ExecutorInfo {
                local_dirs: vec![told],
                sub_dirs_per_local_dir: 64,
                shuffle_manager: "sort".into(),
            };
            self.service.register(app.into(), "1".into(), info).await.expect("registered");
            dir
        }

        async fn remove_abandoned(&self, after: Duration) -> Vec<String> {
            self.service.remove_abandoned(Instant::now() + after).await;
            self.service.status().applications.into_keys().collect()
        }
    }

    fn make_old(dir: &Path) {
        let old = std::time::SystemTime::now() - 30 * DAY;
        let dir = std::fs::File::open(dir).expect("there");
        dir.set_times(std::fs::FileTimes::new().set_modified(old)).expect("its own");
    }

    #[tokio::test]
    async fn an_application_of_which_nothing_is_left_is_forgotten() {
        let scene = Scene::new(false);
        let gone = scene.register("gone").await;
        make_old(&scene.register("idle").await);
        std::fs::remove_dir_all(&gone).expect("there");
        assert_eq!(scene.remove_abandoned(Duration::from_secs(60)).await, ["gone", "idle"], "too early");
        // Where the agent says when applications end, no age is enough.
        assert_eq!(scene.remove_abandoned(30 * DAY).await, ["idle"]);
    }

    #[tokio::test]
    async fn removals_whose_end_cannot_be_stored_stay_duties() {
        let dir = tempfile::tempdir().expect("directory");
        let config = Config::new(dir.path().join("work"));
        let root = dir.path().canonicalize().expect("exists");
        let removals = ["a", "b"].map(|app| {
            let block_dir = root.join(app).join("blockmgr-1");
            std::fs::create_dir_all(&block_dir).expect("directory");
            (app.to_owned(), Doomed::from([(block_dir, None)]))
        });
        let stored = (Store::stopped(), Recovered { unfinished_removals: removals.clone().into() });
        let security = Security::load(&config).expect("none");
        let service = Service::new(config, security, Arc::new(Registry::new(10, 10)), stored);
        let service = Arc::new(service);
        join_all(service.disks.all().map(|disk| service.finish_removals(disk))).await;
        assert_eq!(service.unfinished_removals(), removals.clone().into());
        assert!(!removals.iter().flat_map(|(_, dirs)| dirs.keys()).any(|dir| dir.exists()), "each was tried");
    }

    #[tokio::test]
    async fn upkeep_runs_with_and_without_heartbeats() {
        for heartbeat_cleanup in [true, false] {
            let scene = Scene::new(heartbeat_cleanup);
            std::fs::write(scene.register("app").await.join("file"), "12345").expect("written");
            let stop = CancellationToken::new();
            let upkeep = tokio::spawn(run(scene.service.clone(), stop.clone()));
            while scene.service.status().applications["app"].disk_bytes != Some(5) {
                assert!(!upkeep.is_finished());
                tokio::task::yield_now().await;
            }
            stop.cancel();
            upkeep.await.expect("no panic");
        }
    }

    /// Drivers of a Standalone cluster send no heartbeats: that none came says nothing of them.
    #[tokio::test]
    async fn only_an_application_whose_driver_promised_heartbeats_before_a_restart_is_removed_for_its_age() {
        let scene = Scene::new(true);
        make_old(&scene.register("promises nothing").await);
        let before = scene.register("promised before").await;
        make_old(&before);
        let writes = scene.register("promised before and writes").await;
        make_old(&scene.register("promises").await);
        scene.service.register_driver("promises".into(), 1000).await.expect("registered");
        for app in ["promised before", "promised before and writes"] {
            scene.service.registry.remember_driver(app, Duration::from_secs(1));
        }
        let all = ["promised before", "promised before and writes", "promises", "promises nothing"];
        assert_eq!(scene.remove_abandoned(6 * DAY).await, all, "too early");
        assert_eq!(scene.remove_abandoned(8 * DAY).await, all[1..]);
        assert!(!before.exists() && writes.exists());
        assert_eq!(
            scene.service.registry.silent_apps(Instant::now() + DAY),
            ["promises".into()],
            "that is for its heartbeats to say"
        );
    }

    #[tokio::test]
    async fn a_disk_that_hangs_keeps_no_executor_on_another_from_being_noticed() {
        let dir = tempfile::tempdir().expect("directory");
        let top = dir.path().canonicalize().expect("exists");
        let mut config = Config::new(top.join("work"));
        config.allowed_roots = ["hangs", "works"].map(|root| top.join(root)).into();
        config.limits.disk_answers_within = DAY;
        let registry = Arc::new(Registry::new(10, 10));
        let security = Security::load(&config).expect("none");
        let (store, recovered, _) = Store::open(&config.work_dir, registry.clone()).expect("opens");
        let service = Arc::new(Service::new(config, security, registry, (store, recovered)));
        let ended = async |root: &str| {
            let dir = top.join(root).join("spark-1/executor-1/blockmgr-1");
            std::fs::create_dir_all(&dir).expect("directory");
            let info = ExecutorInfo {
                local_dirs: vec![dir.to_str().expect("UTF-8").to_owned()],
                sub_dirs_per_local_dir: 64,
                shuffle_manager: "sort".into(),
            };
            service.register(root.into(), "1".into(), info).await.expect("registered");
            let executor = service.registry.app(root).and_then(|app| app.executor("1")).expect("known");
            let private = dir.join("temp_local_1");
            std::fs::write(&private, "12345").expect("written");
            // No process has this number.
            executor.pid.store(i32::MAX - 1, Relaxed);
            private
        };
        let hangs = ended("hangs").await;
        let (answer, hanging) = std::sync::mpsc::channel::<()>();
        let hanging = Arc::new(std::sync::Mutex::new(hanging));
        let disk = service.disks.of(&hangs);
        let waiting = service.clone();
        let stuck = tokio::spawn(async move {
            let stuck = (0..4).map(|_| {
                let hanging = hanging.clone();
                waiting.disks.tend(disk, move || drop(hanging.lock().map(|hanging| hanging.recv())))
            });
            join_all(stuck).await;
        });
        while service.disks.waiting().values().sum::<u64>() < 4 {
            tokio::task::yield_now().await;
        }
        let watching = service.clone();
        let watch = tokio::spawn(async move { watch_executors(&watching).await });
        let departed = |app: &str| service.status().applications[app].departed_executors == 1;
        while !departed("hangs") {
            tokio::task::yield_now().await;
        }
        let works = ended("works").await;
        while works.exists() {
            assert!(!watch.is_finished());
            tokio::task::yield_now().await;
        }
        assert!(hangs.exists());
        drop(answer);
        stuck.await.expect("no panic");
        while hangs.exists() {
            tokio::task::yield_now().await;
        }
        watch.abort();
    }
}
