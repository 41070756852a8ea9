//! Removes what killed builds left in the folder of the builder: unfinished contexts, image archives and files. A build
//! that runs locks its own folders, however long it takes, and needs its files for moments.

use crate::stale_files::{self, is_temporary};
use crate::uses::STEP_PREFIX;
use std::path::Path;
use std::time::Duration;

/// The age of a leftover that is removed. Older versions of this program lock nothing; no build of theirs takes longer.
const AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The parents of temporary folders, and how the names of those begin.
const FOLDERS: [(&str, &str); 7] = [
    ("scratch", "context-"),
    ("scratch", "removed-"),
    ("scratch", "archive-"),
    ("scratch", "jobs-"),
    ("sources/web", ".new-"),
    ("sources/checkouts", ".new-"),
    ("snapshots", "probe-"),
];

/// The folders that contain temporary files.
const FILES: [&str; 8] =
    ["", "indexes", "cache", "mounts", "snapshots", "sources/web", "sources/images", "uses"];

/// After so long the folders are looked through again. What is removed is a day old, so some hours more do not matter; a
/// build that is cached would spend more time on looking than on anything else.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// The file whose time is that of the last look.
const LOOKED: &str = "uses/swept";

/// Removes leftovers that are a day old, if the last look is long enough ago.
pub(crate) fn sweep_at_times(root: &Path) {
    sweep_all_at_times(root, AGE);
}

/// Removes leftovers that are a minute old: for who knows that no work has begun. A builder that is being opened has begun
/// none yet, and needs its files for moments.
pub(super) fn sweep_unused(root: &Path) {
    sweep(root, Duration::from_secs(60));
}

fn sweep_all_at_times(root: &Path, age: Duration) {
    let looked = root.join(LOOKED);
    let modified = std::fs::metadata(&looked).and_then(|meta| meta.modified());
    // A time in the future tells nothing.
    let is_recent = modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed < EVERY));
    if !is_recent {
        sweep(root, age);
        // Without the file, the next build looks again.
        let _ = std::fs::create_dir_all(root.join("uses")).and_then(|()| std::fs::write(&looked, ""));
    }
}

/// Removes leftovers that are older than `age`. One that cannot be removed stays until the next time.
fn sweep(root: &Path, age: Duration) {
    for (folder, prefix) in FOLDERS {
        stale_files::remove_folders(&root.join(folder), age, |name| name.starts_with(prefix));
    }
    for folder in FILES {
        stale_files::remove(&root.join(folder), age, is_temporary);
    }
    // Nobody holds the file of a command any more whose build was killed.
    stale_files::remove(&root.join("uses"), age, |name| name.starts_with(STEP_PREFIX));
    // The records of the cache and the notes about snapshots are one level deeper.
    let entries = ["cache", "snapshots"].map(|folder| std::fs::read_dir(root.join(folder)));
    for entry in entries.into_iter().flatten().flatten().flatten() {
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
            "scratch/jobs-a/b",
            "sources/web/.new-a/b",
            "sources/checkouts/.new-a",
            "snapshots/probe-a/work/work",
            "scratch/other",
        ];
        let files = [
            ".tmp000000",
            "indexes/.tmpAAAAAA",
            "cache/ab/.tmpBBBBBB",
            "mounts/.tmpcccccc",
            "snapshots/.tmpDDDDDD",
            "snapshots/overlay/.tmphhhhhh",
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
        assert_eq!(
            folders.map(|name| root.path().join(name).exists()),
            [false, false, false, false, false, false, true]
        );
        let left = files.map(|name| root.path().join(name).exists());
        assert_eq!(left, [false, false, false, false, false, false, false, false, true, true]);
    }

    #[test]
    fn a_look_is_taken_once_an_hour() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join("scratch/context-a");
        let is_removed = || {
            std::fs::create_dir_all(&left).unwrap();
            sweep_all_at_times(root.path(), Duration::ZERO);
            !left.exists()
        };
        assert_eq!([is_removed(), is_removed()], [true, false]);
        let looked = std::fs::File::options().write(true).open(root.path().join(LOOKED)).unwrap();
        let now = std::time::SystemTime::now();
        for time in [now - Duration::from_secs(3700), now + Duration::from_secs(100)] {
            looked.set_modified(time).unwrap();
            assert_eq!([is_removed(), is_removed()], [true, false]);
        }
    }

    /// What is unpacked, fetched or probed is in use as long as its owner has it.
    #[tokio::test]
    async fn what_a_build_still_uses_stays_however_old_it_is() {
        let root = tempfile::tempdir().unwrap();
        for (folder, _) in FOLDERS {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let scratch = root.path().join("scratch");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, "oci-layout", &b""[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        tar.append_data(&mut header, "manifest.json", &b"[]"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let context = crate::source::read_context_blocking(&tar[..], &scratch).unwrap();
        let archive =
            crate::layout::ImageLayout::read_archive(std::io::Cursor::new(tar), &scratch).await.unwrap();
        let mut made = Vec::new();
        for (folder, prefix) in FOLDERS {
            let within = root.path().join(folder);
            made.push(crate::private_folder::temporary(prefix, Some(&within)).unwrap());
        }
        let count = || std::fs::read_dir(&scratch).unwrap().count();
        assert_eq!(count(), 6);
        sweep(root.path(), Duration::ZERO);
        assert_eq!(count(), 6);
        assert!(made.iter().all(|folder| folder.path().exists()));
        // A process that is killed gives up its locks and removes nothing.
        let left: Vec<_> = made.into_iter().map(crate::private_folder::TemporaryFolder::keep).collect();
        sweep(root.path(), Duration::ZERO);
        assert!(left.iter().all(|folder| !folder.exists()));
        assert_eq!(count(), 2);
        drop((context, archive));
        assert_eq!(count(), 0);
    }
}
