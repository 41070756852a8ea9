//! The hierarchies of control groups of this machine, from `/proc/self/cgroup` and `/proc/self/mountinfo`.

use crate::exec::group_limits::GroupLimits;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Version {
    One,
    Two,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }

    /// The name of the first limit that needs it.
    pub(super) fn needed_by(self, limits: &GroupLimits) -> Option<&'static str> {
        limits.names().into_iter().find(|name| Self::of(name) == Some(self))
    }

    /// The controller that enforces a limit.
    fn of(limit: &str) -> Option<Self> {
        match limit {
            "memory" | "memory-swap" => Some(Self::Memory),
            "cpus" | "cpu-shares" | "cpu-quota" | "cpu-period" => Some(Self::Cpu),
            "cpuset-cpus" | "cpuset-mems" => Some(Self::Cpuset),
            "pids-limit" => Some(Self::Pids),
            _ => None,
        }
    }
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) mount: PathBuf,
    /// The group of this process, when the mount shows it.
    pub(super) own: Option<PathBuf>,
}

/// What the kernel says of the groups and the mounts of this process.
pub(super) struct Tables {
    groups: String,
    mounts: String,
}

impl Tables {
    pub(super) fn read() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self { groups: read("cgroup"), mounts: read("mountinfo") }
    }

    /// The hierarchy that has a controller: one of version 1, or that of version 2.
    pub(super) fn of(&self, controller: Controller) -> Option<Hierarchy> {
        self.find(Some(controller)).or_else(|| self.unified())
    }

    /// The hierarchy of version 2.
    pub(super) fn unified(&self) -> Option<Hierarchy> {
        self.find(None)
    }

    fn find(&self, controller: Option<Controller>) -> Option<Hierarchy> {
        let has = |names: &str| controller.is_some_and(|one| names.split(',').any(|name| name == one.name()));
        let own = self.groups.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            (if controller.is_some() { has(names) } else { names.is_empty() }).then_some(path)
        });
        self.mounts.lines().find_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut kind = file_system.split(' ');
            let version = match (kind.next()?, controller) {
                ("cgroup2", None) => Version::Two,
                ("cgroup", Some(_)) if has(kind.nth(1)?) => Version::One,
                _ => return None,
            };
            let mut fields = mount.split(' ').skip(3);
            let (root, place) = (fields.next()?, fields.next()?);
            let below = own.and_then(|own| Path::new(own).strip_prefix(root).ok());
            // The name of a group above the root of a control group namespace begins with `..`.
            let below = below.filter(|path| path.components().all(|part| part.as_os_str() != ".."));
            Some(Hierarchy {
                version,
                mount: place.into(),
                own: below.map(|below| join(Path::new(place), below)),
            })
        })
    }
}

/// `at` with `below`, without a slash at the end.
fn join(at: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { at.to_owned() } else { at.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                          33 31 0:30 /docker/7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    const GROUPS: &str = "5:devices:/x\n4:memory:/docker/7/a\n1:cpu,cpuacct:/b\n0::/user.slice/s\n";

    fn tables(groups: &str, mounts: &str) -> Tables {
        Tables { groups: groups.to_owned(), mounts: mounts.to_owned() }
    }

    #[test]
    fn the_own_group_is_found_below_its_mount() {
        let find = |groups: &str, mounts: &str| tables(groups, mounts).unified().and_then(|found| found.own);
        let unified = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(find("5:devices:/x\n0::/\n", MOUNTS).as_deref(), Some(unified));
        assert_eq!(find(GROUPS, MOUNTS), Some(unified.join("user.slice/s")));
        let part = "41 31 0:38 /docker/7 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(find("0::/docker/7/a\n", part).as_deref(), Some(Path::new("/sys/fs/cgroup/a")));
        assert_eq!(find("0::/docker/7\n", part).as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(find("0::/other\n", part), None);
        assert_eq!(find("0::/../../other\n", MOUNTS), None);
        assert_eq!(find("5:devices:/x\n", MOUNTS), None);
        assert_eq!(find("0::/\n", ""), None);
    }

    #[test]
    fn the_group_of_a_controller_is_in_its_hierarchy() {
        let tables = tables(GROUPS, MOUNTS);
        let find = |controller| tables.of(controller).map(|found| (found.version, found.own));
        let one = |path: &str| Some((Version::One, Some(PathBuf::from(path))));
        assert_eq!(find(Controller::Memory), one("/sys/fs/cgroup/memory/a"));
        assert_eq!(find(Controller::Cpu), one("/sys/fs/cgroup/cpu/b"));
        let two = Some((Version::Two, Some(PathBuf::from("/sys/fs/cgroup/unified/user.slice/s"))));
        assert_eq!([find(Controller::Cpuset), find(Controller::Pids)], [two.clone(), two]);
    }
}
