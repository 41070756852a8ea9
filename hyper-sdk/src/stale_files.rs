//! Temporary files that a killed process left behind.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Removes the regular files of a folder whose names match `is_one`, that this user owns and that were not written to
/// for `age`. A temporary file is used only briefly, so an old one is not in use. A file that cannot be removed stays.
pub fn remove(folder: &Path, age: Duration, is_one: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let is_mine = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw();
        if is_mine && is_one(&entry.file_name().to_string_lossy()) && is_older(meta.mtime(), age) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a name has the form of the crate `tempfile`: `.tmp` and six letters or digits.
pub fn is_temporary(name: &str) -> bool {
    let rest = name.strip_prefix(".tmp");
    rest.is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether a time in seconds since 1970 is at least `age` ago.
pub(crate) fn is_older(time: i64, age: Duration) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    time.saturating_add(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)) <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_files_with_matching_names_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let names = [".tmpAb12cd", ".tmpAb12cd7", ".tmp", "tmpAb12cd", ".tmp-b12cd"];
        let there = || names.map(|name| folder.path().join(name).exists());
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join(".tmpFolder")).unwrap();
        let age = Duration::from_secs(60);
        remove(folder.path(), age, is_temporary);
        assert_eq!(there(), [true; 5]);
        for name in names {
            let file = std::fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - 2 * age).unwrap();
        }
        remove(folder.path(), age, is_temporary);
        assert_eq!(there(), [false, true, true, true, true]);
        assert!(folder.path().join(".tmpFolder").exists());
        remove(&folder.path().join("nowhere"), Duration::ZERO, is_temporary);
    }
}
