//! Removes what killed builds left in the folder of the builder: unfinished contexts, image archives and files.

use crate::stale_files::{self, is_older, is_temporary};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// The age of a leftover that is removed. No build takes longer.
pub(super) const AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The parents of temporary folders, and how the names of those begin.
const FOLDERS: [(&str, &str); 4] = [
    ("scratch", "context-"),
    ("scratch", "archive-"),
    ("sources/web", ".new-"),
    ("sources/checkouts", ".new-"),
];

/// The folders that contain temporary files.
const FILES: [&str; 7] = ["", "indexes", "cache", "mounts", "snapshots", "sources/web", "sources/images"];

/// Removes leftovers that are older than `age`. One that cannot be removed stays until the next time.
pub(super) fn sweep(root: &Path, age: Duration) {
    for (folder, prefix) in FOLDERS {
        for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            let is_one = entry.file_name().to_string_lossy().starts_with(prefix);
            // The change time of the folder: its modification time can come from an archive.
            let changed = entry.metadata().map_or(i64::MAX, |meta| meta.ctime());
            if is_one && is_older(changed, age) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
    for folder in FILES {
        stale_files::remove(&root.join(folder), age, is_temporary);
    }
    // The records of the cache are one level deeper.
    for entry in std::fs::read_dir(root.join("cache")).into_iter().flatten().flatten() {
        stale_files::remove(&entry.path(), age, is_temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_temporary_files_and_folders_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let folders = [
            "scratch/context-a/b",
            "scratch/archive-a/b",
            "sources/web/.new-a/b",
            "sources/checkouts/.new-a",
            "scratch/other",
        ];
        let files = [
            ".tmp000000",
            "indexes/.tmpAAAAAA",
            "cache/ab/.tmpBBBBBB",
            "mounts/.tmpcccccc",
            "snapshots/.tmpDDDDDD",
            "sources/web/.tmpeeeeee",
            "sources/images/.tmpffffff",
            "cache/ab/abcd",
            "snapshots/layers/1/fs/.tmpgggggg",
        ];
        for name in folders {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        for name in files {
            std::fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(root.path().join(name), "x").unwrap();
        }
        sweep(root.path(), AGE);
        assert!(folders.iter().chain(&files).all(|name| root.path().join(name).exists()));
        sweep(root.path(), Duration::ZERO);
        assert_eq!(folders.map(|name| root.path().join(name).exists()), [false, false, false, false, true]);
        let left = files.map(|name| root.path().join(name).exists());
        assert_eq!(left, [false, false, false, false, false, false, false, true, true]);
    }
}
