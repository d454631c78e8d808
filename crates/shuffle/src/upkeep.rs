//! What is done again and again, or once after a start, without anyone asking: unfinished removals, silent drivers,
//! files that others deleted, disk use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::service::Service;

const LOOK_FOR_SILENT_DRIVERS: Duration = Duration::from_secs(1);
const CLOSE_STALE_FILES: Duration = Duration::from_secs(30);
const REMOVE_ORPHANS: Duration = Duration::from_secs(3600);
const COUNT_DISK_USE: Duration = Duration::from_secs(60);

pub(crate) async fn run(
    service: Arc<Service>,
    unfinished: Vec<(String, Vec<PathBuf>)>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work(service, unfinished) => {}
    }
}

async fn work(service: Arc<Service>, unfinished: Vec<(String, Vec<PathBuf>)>) {
    for (app, dirs) in unfinished {
        if let Err(error) = service.finish_removal(app.clone(), dirs).await {
            tracing::error!(app, %error, "removal stays unfinished until the next start");
        }
    }
    let every = |period| {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    };
    let mut silent = every(LOOK_FOR_SILENT_DRIVERS);
    let mut stale = every(CLOSE_STALE_FILES);
    let mut disk = every(COUNT_DISK_USE);
    let mut orphans = every(REMOVE_ORPHANS);
    loop {
        tokio::select! {
            _ = silent.tick(), if service.config.heartbeat_cleanup => remove_silent(&service).await,
            _ = stale.tick() => service.close_stale_files(),
            _ = orphans.tick() => {
                if let Err(error) = service.remove_orphans().await {
                    tracing::error!(%error, "orphans stay");
                }
            }
            _ = disk.tick() => service.count_disk_use().await,
        }
    }
}

async fn remove_silent(service: &Arc<Service>) {
    for app in service.registry.silent_apps(Instant::now()) {
        tracing::warn!(%app, "no heartbeat of the driver for longer than it promised: removing the application");
        if let Err(error) = service.remove_app(&app).await {
            tracing::error!(%app, %error, "cannot remove the application");
        }
    }
}
