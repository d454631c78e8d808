//! What this machine has, unless its operator says otherwise.
use bellows_model::{MILLI, Resource, ResourceError, Resources, Scalar, Value};
use std::path::Path;

const MB: u64 = 1 << 20;
const GB_IN_MB: u64 = 1_024;

/// The resources in `text`, and what was detected of every kind that it does not name.
pub(crate) fn resources(text: &str, work_dir: &Path) -> Result<Resources, ResourceError> {
    let mut given = Resources::parse(text)?;
    let named = |name: &str| given.iter().any(|resource| &*resource.name == name);
    let detected: Vec<Resource> = [
        ("cpus", scalar(cpus())),
        ("mem", memory_mb().map(|all| leave_room(all, GB_IN_MB)).map_or(Value::Scalar(Scalar(0)), scalar)),
        (
            "disk",
            disk_mb(work_dir)
                .map(|all| leave_room(all, 5 * GB_IN_MB))
                .map_or(Value::Scalar(Scalar(0)), scalar),
        ),
        ("ports", Value::ranges(vec![(31_000, 32_000)])?),
    ]
    .into_iter()
    .filter(|(name, _)| !named(name))
    .map(|(name, value)| Resource { name: name.into(), reserved_for: None, value })
    .collect();
    given.add(&Resources::from_items(detected)?);
    Ok(given)
}

fn scalar(units: u64) -> Value {
    Value::Scalar(Scalar(i64::try_from(units).unwrap_or(i64::MAX / MILLI).saturating_mul(MILLI)))
}

/// All but `room`, or half of what is scarce (Mesos `slave/containerizer/containerizer.cpp`).
fn leave_room(all: u64, room: u64) -> u64 {
    if all > 2 * room { all - room } else { all / 2 }
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

pub(crate) fn memory_mb() -> Option<u64> {
    Some(meminfo_kb("MemTotal:")? / 1_024)
}

/// A line of `/proc/meminfo`.
pub(crate) fn meminfo_kb(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn disk_mb(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize) / MB)
}

/// The part of the file system below `path` that is not free, 0 to 1.
pub(crate) fn disk_usage(path: &Path) -> Option<f64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    (stat.f_blocks > 0).then(|| 1.0 - stat.f_bavail as f64 / stat.f_blocks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_replaces_what_is_detected() {
        let resources = resources("cpus:64;ports:[1-2];gpus:1", Path::new("/")).expect("valid");
        assert_eq!(resources.cpus(), Scalar(64_000));
        assert_eq!(resources.scalar("gpus"), Scalar(1_000));
        assert!(resources.to_string().contains("ports:[1-2]"));
        assert!(resources.mem().0 > 0 && resources.scalar("disk").0 > 0);
    }

    #[test]
    fn small_machines_give_half() {
        assert_eq!(leave_room(16_384, 1_024), 15_360);
        assert_eq!(leave_room(1_500, 1_024), 750);
    }
}
