//! What builds that were killed leave in the folder of the builder: contexts that were being unpacked or fetched.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No build takes longer.
pub(super) const AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where they lie, and how their names begin.
const PLACES: [(&str, &str); 3] =
    [("scratch", "context-"), ("sources/web", ".new-"), ("sources/checkouts", ".new-")];

/// Removes those that are older than `age`. What cannot be removed stays for the next time.
pub(super) fn sweep(root: &Path, age: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (folder, prefix) in PLACES {
        for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            let is_one = entry.file_name().to_string_lossy().starts_with(prefix);
            // The time of the last change of the folder itself: archives choose the other one.
            let changed = entry.metadata().map_or(i64::MAX, |meta| meta.ctime());
            if is_one && changed.saturating_add(age.as_secs() as i64) <= now.as_secs() as i64 {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_old_and_was_being_made_goes() {
        let root = tempfile::tempdir().unwrap();
        let names =
            ["scratch/context-a/b", "sources/web/.new-a/b", "sources/checkouts/.new-a", "scratch/other"];
        for name in names {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        sweep(root.path(), AGE);
        assert!(names.iter().all(|name| root.path().join(name).exists()));
        sweep(root.path(), Duration::ZERO);
        assert_eq!(names.map(|name| root.path().join(name).exists()), [false, false, false, true]);
    }
}
