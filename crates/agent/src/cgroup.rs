//! The memory that the control groups of this process leave it: a container's limit, or that of a systemd unit.
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The smallest limit of this process' own group and all above it, in both versions of the hierarchy. `proc`:
/// `/proc/self`. `None`: no limit, or none that can be seen.
pub(crate) fn memory_limit_bytes(proc: &Path) -> Option<u64> {
    let groups = fs::read_to_string(proc.join("cgroup")).ok()?;
    let mounts = fs::read_to_string(proc.join("mountinfo")).ok()?;
    mounts.lines().filter_map(Hierarchy::parse).filter_map(|hierarchy| hierarchy.limit(&groups)).min()
}

/// One place where a hierarchy that may limit memory is mounted.
struct Hierarchy {
    /// Which of its groups is seen there as the topmost; all of them for `/`.
    root: PathBuf,
    mount: PathBuf,
    is_v2: bool,
}

impl Hierarchy {
    /// Reads a line of `mountinfo` (proc_pid_mountinfo(5)).
    fn parse(line: &str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (unescaped(mount.next()?), unescaped(mount.next()?));
        let mut source = source.split(' ');
        let kind = source.next()?;
        let mut controls_memory =
            || source.nth(1).is_some_and(|options| options.split(',').any(|o| o == "memory"));
        let is_v2 = kind == "cgroup2";
        (is_v2 || kind == "cgroup" && controls_memory()).then_some(Self { root, mount: at, is_v2 })
    }

    /// `groups`: the content of `/proc/self/cgroup`.
    fn limit(&self, groups: &str) -> Option<u64> {
        let own = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let is_this = match self.is_v2 {
                true => controllers.is_empty(),
                false => controllers.split(',').any(|controller| controller == "memory"),
            };
            is_this.then(|| PathBuf::from(path))
        })?;
        // Seen from a container the own path may be one of the host's, which means nothing there: then what is mounted
        // is the container's own group.
        let below = own.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let below =
            if below.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { below };
        let name = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let limit = |group: &Path| -> Option<u64> {
            // `max` is none.
            fs::read_to_string(self.mount.join(group).join(name)).ok()?.trim().parse().ok()
        };
        below.ancestors().filter_map(limit).min()
    }
}

/// Spaces and their like are written as octal numbers.
fn unescaped(text: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, char)| text.replace(escape, char)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        /// `mounts`: root, mount point, type, options of the hierarchy.
        fn new(groups: &str, mounts: &[(&str, &str, &str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().expect("directory"));
            let line = |(root, at, kind, options): &(&str, &str, &str, &str)| {
                let at = machine.0.path().join(at).display().to_string().replace(' ', "\\040");
                format!("31 23 0:27 {root} {at} rw,nosuid shared:9 - {kind} cgroup rw,{options}\n")
            };
            let mounts: String = mounts.iter().map(line).collect();
            let other = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
            fs::write(machine.0.path().join("mountinfo"), format!("{other}{mounts}")).expect("written");
            fs::write(machine.0.path().join("cgroup"), groups).expect("written");
            machine
        }

        fn set(&self, file: &str, value: &str) -> &Self {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, format!("{value}\n")).expect("written");
            self
        }

        fn limit(&self) -> Option<u64> {
            memory_limit_bytes(self.0.path())
        }
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_holds() {
        let machine =
            Machine::new("0::/user.slice/app.scope\n", &[("/", "cg roup", "cgroup2", "nsdelegate")]);
        assert_eq!(machine.limit(), None);
        machine.set("cg roup/user.slice/app.scope/memory.max", "max");
        assert_eq!(machine.limit(), None);
        machine.set("cg roup/user.slice/memory.max", "2147483648");
        assert_eq!(machine.limit(), Some(2 << 30));
        machine.set("cg roup/user.slice/app.scope/memory.max", "1073741824");
        assert_eq!(machine.limit(), Some(1 << 30));
        machine.set("cg roup/user.slice/memory.max", "1000");
        assert_eq!(machine.limit(), Some(1_000));
        machine.set("cg roup/other/memory.max", "1");
        assert_eq!(machine.limit(), Some(1_000));
    }

    #[test]
    fn version_1_and_both_at_once() {
        let groups = "9:memory:/docker/c1\n3:cpu,cpuacct:/docker/c1\n0::/system.slice\n";
        let both = [
            ("/docker/c1", "v1/memory", "cgroup", "memory"),
            ("/docker/c1", "v1/cpu", "cgroup", "cpu,cpuacct"),
            ("/", "v2", "cgroup2", "nsdelegate"),
        ];
        let machine = Machine::new(groups, &both);
        machine.set("v1/memory/memory.limit_in_bytes", "536870912").set("v1/cpu/memory.limit_in_bytes", "1");
        assert_eq!(machine.limit(), Some(512 << 20));
        machine.set("v2/system.slice/memory.max", "268435456");
        assert_eq!(machine.limit(), Some(256 << 20));
    }

    #[test]
    fn a_container_sees_its_own_group_whatever_its_path_is_called() {
        for path in ["/", "/../../app", "/kubepods/pod1/c1"] {
            let groups = format!("0::{path}\n");
            let machine = Machine::new(&groups, &[("/", "fs", "cgroup2", "rw")]);
            machine.set("fs/memory.max", "3221225472");
            assert_eq!(machine.limit(), Some(3 << 30), "{path}");
        }
        // Version 1 without a namespace of its own, mounted with another root.
        let machine = Machine::new("4:memory:/kube/pod/c\n", &[("/docker/x", "m", "cgroup", "memory")]);
        machine.set("m/memory.limit_in_bytes", "1048576");
        assert_eq!(machine.limit(), Some(1 << 20));
    }
}
