//! What a clean-up takes away: it stays beside its old place, under a name that nothing looks for, until its bytes are
//! removed.
//!
//! A folder keeps its parent. To move it to another one takes the right to write to the folder itself, and a cache mount
//! may belong to a user of a step.

use crate::uses::take_away;
use crate::{Error, Result, ResultExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the name of what was taken away begins.
const PREFIX: &str = ".removed-";
/// The folders that a clean-up takes something from.
const FOLDERS: [&str; 8] = [
    "mounts",
    "sources/git",
    "sources/checkouts",
    "sources/web",
    "sources/images",
    "indexes",
    "logs",
    "history",
];

/// Whether a name is that of something that a clean-up has taken away.
pub(super) fn is_aside(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The files and folders that one clean-up has taken away, to be removed.
#[derive(Debug)]
pub(super) struct Aside(Vec<PathBuf>);

impl Aside {
    /// Begins with what clean-ups left that were interrupted. Only who has the right to clean up may do so: there is no
    /// other clean-up.
    pub(super) fn begin(root: &Path) -> Self {
        let within = |folder: &str, prefix: &'static str| {
            let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            let left = entries.filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix));
            left.map(|entry| entry.path())
        };
        let left = FOLDERS.into_iter().flat_map(|folder| within(folder, PREFIX));
        // Earlier versions moved everything there.
        Self(left.chain(within("scratch", "removed-")).collect())
    }

    /// Takes something away that is unused. Returns whether it did.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn take(&mut self, path: &Path, is_unused: impl Fn(SystemTime) -> bool) -> Result<bool> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = path.parent().ok_or_else(|| Error::internal("a root cannot be removed"))?;
        // The time makes a name that an earlier process with the same number did not use.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let aside = parent.join(format!("{PREFIX}{}-{number}-{time}", std::process::id()));
        let taken = take_away(path, &aside, is_unused).at("cannot remove", path)?;
        if taken {
            self.0.push(aside);
        }
        Ok(taken)
    }

    /// Adds folders that a snapshotter has taken away.
    pub(super) fn extend(&mut self, folders: Vec<PathBuf>) {
        self.0.extend(folders);
    }

    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        self.0
    }
}
