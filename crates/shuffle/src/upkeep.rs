//! What is done again and again, or once after a start, without anyone asking: unfinished removals, silent drivers,
//! files that others deleted, disk use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::service::Service;

const LOOK_FOR_SILENT_DRIVERS: Duration = Duration::from_secs(1);
const CLOSE_STALE_FILES: Duration = Duration::from_secs(30);
const REMOVE_FORGOTTEN: Duration = Duration::from_secs(3600);
const COUNT_DISK_USE: Duration = Duration::from_secs(60);

pub(crate) async fn run(service: Arc<Service>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work(service) => {}
    }
}

async fn work(service: Arc<Service>) {
    let every = |period| {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    };
    let mut silent = every(LOOK_FOR_SILENT_DRIVERS);
    let mut stale = every(CLOSE_STALE_FILES);
    let mut disk = every(COUNT_DISK_USE);
    let mut forgotten = every(REMOVE_FORGOTTEN);
    loop {
        tokio::select! {
            _ = silent.tick(), if service.config.heartbeat_cleanup => remove_silent(&service).await,
            _ = stale.tick() => service.close_stale_files(),
            _ = forgotten.tick() => remove_forgotten(&service).await,
            _ = disk.tick() => service.count_disk_use().await,
        }
    }
}

async fn remove_forgotten(service: &Arc<Service>) {
    service.finish_removals().await;
    if let Err(error) = service.remove_abandoned(Instant::now()).await {
        tracing::error!(%error, "abandoned applications stay");
    }
    if let Err(error) = service.remove_orphans().await {
        tracing::error!(%error, "orphans stay");
    }
}

async fn remove_silent(service: &Arc<Service>) {
    for app in service.registry.silent_apps(Instant::now()) {
        tracing::warn!(%app, "no heartbeat of the driver for longer than it promised: removing the application");
        let removed = service.remove_app_if(&app, |app| app.is_silent(Instant::now())).await;
        if let Err(error) = removed {
            tracing::error!(%app, %error, "cannot remove the application");
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
    use bellows_transport::rpc::ExecutorInfo;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

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
            self.service.remove_abandoned(Instant::now() + after).await.expect("looked");
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
            (app.to_owned(), BTreeSet::from([block_dir]))
        });
        let stored = (Store::stopped(), Recovered { unfinished_removals: removals.clone().into() });
        let security = Security::load(&config).expect("none");
        let service = Service::new(config, security, Arc::new(Registry::new(10, 10)), stored);
        let service = Arc::new(service);
        service.finish_removals().await;
        assert_eq!(service.unfinished_removals(), removals.clone().into());
        assert!(!removals.iter().flat_map(|(_, dirs)| dirs).any(|dir| dir.exists()), "each was tried");
    }

    #[tokio::test]
    async fn where_nobody_says_when_applications_end_their_age_does() {
        let scene = Scene::new(true);
        let old = scene.register("old").await;
        make_old(&old);
        scene.register("writes").await;
        make_old(&scene.register("has a driver").await);
        scene.service.register_driver("has a driver".into(), 1000).await.expect("registered");
        let all = ["has a driver", "old", "writes"];
        assert_eq!(scene.remove_abandoned(6 * DAY).await, all, "too early");
        assert_eq!(scene.remove_abandoned(8 * DAY).await, ["has a driver", "writes"]);
        assert!(!old.exists());
        assert_eq!(
            scene.service.registry.silent_apps(Instant::now() + DAY),
            ["has a driver".into()],
            "that is for its heartbeats to say"
        );
    }
}
