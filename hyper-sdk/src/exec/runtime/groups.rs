//! The control groups that a runtime makes for steps.
//!
//! ```text
//! FOLDER/steps/NAME   a file for each step, locked while its operation lives; NAME is that of its control groups, too
//! ```
//!
//! A runtime makes a group in each hierarchy, and a group stays when its processes have died. The operation of a step
//! removes them after the step. When it was killed, its record has no lock, and the next step removes the groups.

use crate::{Error, Result, ResultExt};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a record is named, and the container of its step.
const PREFIX: &str = "hyper-oci-";
const TRIES: usize = 200;
const A_MOMENT: Duration = Duration::from_millis(2);

/// A step that runs. Dropping it removes its control groups, whose processes must have ended, and its record.
#[derive(Debug)]
pub(in crate::exec) struct Step {
    name: String,
    record: PathBuf,
    _lock: File,
}

impl Step {
    /// Makes a record for a step, and removes what killed ones left behind.
    pub(in crate::exec) fn begin(records: &Path) -> Result<Self> {
        sweep(records);
        loop {
            let made = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(16)
                .tempfile_in(records)
                .at("cannot make a record of a step", records)?;
            let (lock, record) =
                made.keep().map_err(|e| Error::io("cannot keep a record", records, e.error))?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
            // A sweep can take it before it is locked.
            let Some(name) = record.file_name().and_then(|name| name.to_str()) else { continue };
            if record.exists() {
                return Ok(Self { name: name.to_owned(), record: record.clone(), _lock: lock });
            }
        }
    }

    /// The name of the container and of its control groups.
    pub(in crate::exec) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if remove(&self.name) {
            let _ = std::fs::remove_file(&self.record);
        }
    }
}

/// Removes the control groups of steps whose operation is gone.
fn sweep(records: &Path) {
    let Ok(entries) = std::fs::read_dir(records) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_record(name)) else { continue };
        let Ok(file) = File::open(entry.path()) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && remove(name) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn is_record(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Removes the groups of a step. Returns whether none is left.
fn remove(name: &str) -> bool {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    folders(&groups, &mounts).iter().all(|folder| remove_group(&folder.join(name)))
}

/// Newer kernels count a process for a moment after its end.
fn remove_group(group: &Path) -> bool {
    for _ in 0..TRIES {
        match std::fs::remove_dir(group) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => std::thread::sleep(A_MOMENT),
            Err(e) => return e.kind() == std::io::ErrorKind::NotFound,
            Ok(()) => return true,
        }
    }
    false
}

/// Where a runtime makes groups for what is started by this process: below the group of this process, and in version 2
/// beside it.
fn folders(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut fields = mount.split(' ').skip(3);
        let (Some(root), Some(place)) = (fields.next(), fields.next()) else { continue };
        let mut rest = file_system.split(' ');
        let (kind, options) = (rest.next().unwrap_or_default(), rest.nth(1).unwrap_or_default());
        let own = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let is_it = match (kind, controllers) {
                ("cgroup2", "") => true,
                ("cgroup", controllers) if !controllers.is_empty() => {
                    controllers.split(',').all(|one| options.split(',').any(|option| option == one))
                }
                _ => false,
            };
            is_it.then_some(path)
        });
        let Some(own) = own else { continue };
        let Ok(below) = Path::new(own).strip_prefix(root) else { continue };
        let folder = Path::new(place).join(below);
        if let (true, Some(above)) = (kind == "cgroup2" && below != Path::new(""), folder.parent()) {
            found.push(above.to_owned());
        }
        found.push(folder);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                          33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                          34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_groups_of_every_hierarchy_are_found() {
        let groups = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/u/s\n";
        let expected = ["cpu,cpuacct", "systemd", "memory/a/b", "unified/u", "unified/u/s"];
        let expected: Vec<PathBuf> =
            expected.iter().map(|name| Path::new("/sys/fs/cgroup").join(name)).collect();
        let found: Vec<PathBuf> =
            folders(groups, MOUNTS).iter().map(|path| path.components().collect()).collect();
        assert_eq!(found, expected);
        assert!(folders("", MOUNTS).is_empty());
        assert!(folders("0::/\n", "broken\n").is_empty());
    }

    #[test]
    fn a_record_is_swept_when_its_step_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let running = Step::begin(folder.path()).unwrap();
        let left = folder.path().join("hyper-oci-abc123");
        std::fs::write(&left, "").unwrap();
        std::fs::write(folder.path().join("hyper-oci-..x"), "").unwrap();
        std::fs::write(folder.path().join("other"), "").unwrap();
        let next = Step::begin(folder.path()).unwrap();
        assert!(!left.exists());
        assert!(running.record.exists() && next.record.exists() && running.name() != next.name());
        drop((running, next));
        let mut rest: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        rest.sort();
        assert_eq!(rest, ["hyper-oci-..x", "other"]);
    }
}
