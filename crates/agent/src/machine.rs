//! What this machine has, unless its operator says otherwise.
use crate::{
    cgroup,
    resources::{ResourcesError, parse},
};
use bellows_model::{MILLI, Resource, Resources, Scalar, Value};
use std::path::Path;

const MB: u64 = 1 << 20;
const GB_IN_MB: u64 = 1_024;

/// The resources in `text`, and what was detected of every kind that it does not name: `cpus:0` names it, too.
pub(crate) fn resources(text: &str, work_dir: &Path) -> Result<Resources, ResourcesError> {
    let given = parse(text)?;
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
    Ok(Resources::from_items(given.into_iter().chain(detected))?)
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

fn memory_mb() -> Option<u64> {
    let all = bellows_runtime::metrics::meminfo_kb("MemTotal:")? / 1_024;
    Some(cgroup::memory_limit_bytes(Path::new("/proc/self")).map_or(all, |limit| all.min(limit / MB)))
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
    fn zero_is_zero() {
        for zero in [
            "cpus:0;mem:0;disk:0;ports:[]",
            r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":0}},
                {"name":"mem","type":"SCALAR","scalar":{"value":0}},
                {"name":"disk","type":"SCALAR","scalar":{"value":0}},
                {"name":"ports","type":"RANGES","ranges":{"range":[]}}]"#,
        ] {
            assert!(resources(zero, Path::new("/")).expect("valid").is_empty(), "{zero}");
        }
        let some = resources("cpus:0", Path::new("/")).expect("valid");
        assert!(some.cpus().0 == 0 && some.mem().0 > 0);
    }

    #[test]
    fn both_forms_say_the_same() {
        let text = "cpus:2.5;cpus(etl):1;mem:512;disk:0;ports:[31000-31005,31010-31010];zones:{a,b};gpus:2";
        let json = r#" [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 2.5}},
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}, "role": "etl"},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 512}},
            {"name": "disk", "type": "SCALAR", "scalar": {"value": 0}},
            {"name": "ports", "type": "RANGES",
             "ranges": {"range": [{"begin": 31000, "end": 31005}, {"begin": 31010, "end": 31010}]}},
            {"name": "zones", "type": "SET", "set": {"item": ["a", "b"]}},
            {"name": "gpus", "type": "SCALAR", "scalar": {"value": 2},
             "reservations": [{"role": "*", "type": "STATIC"}]}
        ]"#;
        let read = |text| resources(text, Path::new("/")).expect("valid");
        assert_eq!(read(text), read(json));
    }

    #[test]
    fn what_no_machine_can_have_is_refused_by_name() {
        for (text, named) in [
            ("gpus:0.5", "'gpus'"),
            ("cpus:{a,b}", "'cpus'"),
            ("mem:[1-2]", "'mem'"),
            ("disk:{}", "'disk'"),
            ("ports:8", "'ports'"),
            ("ports:[0-10]", "0-10"),
            ("ports:[1-99999999]", "1-99999999"),
            ("ports:[1-18446744073709551616]", "18446744073709551616"),
            ("ports:[5-3]", "5-3"),
            ("cpus:-1", "'cpus'"),
            ("cpus:1e300", "'cpus'"),
            ("cpus:inf", "'cpus'"),
            ("cpus:4:5", "cpus:4:5"),
            ("zones:{a,a}", "zones:{a,a}"),
            ("zones:{a:b}", "zones:{a:b}"),
            ("mem:1024MB", "mem:1024MB"),
            ("[{]", "JSON"),
            (r#"[{"name":"cpus"}]"#, "[0]"),
            (r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":-1}}]"#, "[0]"),
            (r#"[{"name":"cpus","type":"SET","set":{"item":["a"]}}]"#, "'cpus'"),
            (r#"[{"name":"x","type":"TEXT"}]"#, "[0]"),
            (
                r#"[{"name":"x","type":"RANGES","ranges":{"range":[{"begin":1,"end":5},{"begin":3,"end":9}]}}]"#,
                "[0]",
            ),
            (
                r#"[{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"persistence":{"id":"1"}}}]"#,
                "[0]",
            ),
            (
                r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"r","reservation":{"principal":"p"}}]"#,
                "[0]",
            ),
            (
                r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"role":"r","type":"DYNAMIC"}]}]"#,
                "[0]",
            ),
        ] {
            let error = resources(text, Path::new("/")).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn small_machines_give_half() {
        assert_eq!(leave_room(16_384, 1_024), 15_360);
        assert_eq!(leave_room(1_500, 1_024), 750);
    }
}
