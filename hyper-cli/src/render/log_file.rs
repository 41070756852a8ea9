//! Log files under the state folder: `logs/WHAT-SECONDS-PID.log`, the newest [`KEPT`] of them.

use hyper_sdk::{Error, Result};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many log files are kept.
const KEPT: usize = 100;

/// Makes a log file, and removes the oldest when there are too many.
pub(super) fn create(folder: &Path, what: &str) -> Result<(PathBuf, File)> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| Error::io("cannot make the folder of logs", folder, e))?;
    prune(folder);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let stem = format!("{what}-{seconds:012}-{}", std::process::id());
    for attempt in 0..1000 {
        let name = if attempt == 0 { format!("{stem}.log") } else { format!("{stem}-{attempt}.log") };
        let path = folder.join(name);
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("cannot make the log file", &path, e)),
        }
    }
    Err(Error::internal("every name for a log file is taken").with_context("path", folder.display()))
}

/// Removes the oldest log files. A file that cannot be removed stays.
fn prune(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut logs: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|x| x == "log"))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    logs.sort();
    let excess = logs.len().saturating_sub(KEPT - 1);
    for (_, path) in &logs[..excess] {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_log_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..KEPT + 5 {
            create(folder.path(), "build").unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), KEPT);
    }
}
