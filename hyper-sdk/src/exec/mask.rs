//! Hides the parts of `/proc` and `/sys` that reveal too much about the host, as Docker does.

use super::mount_api::{QUIET, attach, clone_tree, read_only, wrong};
use crate::Result;
use crate::sandbox::view;
use rustix::fs::{Dir, FileType, OFlags};
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The paths that are hidden, together with those that [`throttles`] finds.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// The folder that has one folder for each processor.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// Hides the paths in a tree with `/proc`, `/sys` and `/dev/null`.
pub(super) fn apply(root: BorrowedFd<'_>) -> Result<()> {
    let null = view::open_in(root, "/dev/null", OFlags::PATH).map_err(wrong("cannot open", "/dev/null"))?;
    let mut empty: Option<OwnedFd> = None;
    for path in MASKED.iter().map(|path| (*path).to_owned()).chain(throttles(root)) {
        let Ok(place) = view::open_in(root, &path, OFlags::PATH) else { continue };
        let stat = rustix::fs::fstat(&place).map_err(wrong("cannot stat", &path))?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let cover = match (is_folder, &empty) {
            (false, _) => clone_tree(null.as_fd(), Path::new(""), false)?,
            (true, Some(empty)) => clone_tree(empty.as_fd(), Path::new(""), false)?,
            (true, None) => view::tmpfs(&[("mode", "0555")], QUIET | MountAttrFlags::MOUNT_ATTR_RDONLY)?,
        };
        attach(cover.as_fd(), place.as_fd(), "")?;
        // Only a mount can be cloned.
        if is_folder {
            empty = Some(cover);
        }
    }
    for path in READ_ONLY {
        let Ok(place) = view::open_in(root, path, OFlags::PATH) else { continue };
        let again = clone_tree(place.as_fd(), Path::new(""), true)?;
        attach(again.as_fd(), place.as_fd(), "")?;
        read_only(again.as_fd(), true)?;
    }
    Ok(())
}

/// The thermal counters of each processor, which reveal what else runs on the host.
fn throttles(root: BorrowedFd<'_>) -> Vec<String> {
    let folder = view::open_in(root, PROCESSORS, OFlags::RDONLY | OFlags::DIRECTORY);
    let Ok(entries) = folder.and_then(Dir::new) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of_processors = names.filter(|name| {
        name.strip_prefix("cpu").is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
    });
    of_processors.map(|name| format!("{PROCESSORS}/{name}/thermal_throttle")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throttle_folders_of_all_processors_are_found() {
        let root = tempfile::tempdir().unwrap();
        for name in ["cpu0", "cpu12", "cpufreq", "cpuidle", "power"] {
            std::fs::create_dir_all(root.path().join(&PROCESSORS[1..]).join(name)).unwrap();
        }
        let mut found = throttles(view::open_folder(root.path()).unwrap().as_fd());
        found.sort();
        assert_eq!(found, ["0", "12"].map(|n| format!("{PROCESSORS}/cpu{n}/thermal_throttle")));
    }
}
