//! Files that dead processes left in the folder of uploads.

use crate::store::UploadId;
use crate::{Result, ResultExt as _};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Looks at the files that were not written to after `before`: removes those that belong to no upload, and returns the
/// ids of the staged ones.
///
/// A file with a lock is in use, however old it is.
pub(super) fn clear(uploads: &Path, before: SystemTime) -> Result<Vec<UploadId>> {
    let mut staged = Vec::new();
    for entry in fs::read_dir(uploads).at("cannot read the folder of uploads", uploads)? {
        let entry = entry.at("cannot read the folder of uploads", uploads)?;
        // Another process may have removed the file in the meantime.
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() || meta.modified().is_ok_and(|written| written > before) {
            continue;
        }
        match entry.file_name().to_str().map(UploadId::parse) {
            Some(Ok(id)) => staged.push(id),
            _ => {
                let path = entry.path();
                if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                    remove(&path)?;
                }
            }
        }
    }
    Ok(staged)
}

/// How long a staged file without bytes may be that of a writer which has not locked it yet.
const NEW: Duration = Duration::from_secs(60);

/// The staged files that hold bytes, and those that were never written to by a process which was killed.
pub(super) fn staged(uploads: &Path) -> Result<Vec<UploadId>> {
    let entries = fs::read_dir(uploads).at("cannot read the folder of uploads", uploads)?;
    let is_new = |meta: &fs::Metadata| {
        // A time in the future is not known to be old.
        !meta.modified().is_ok_and(|made| made.elapsed().is_ok_and(|age| age >= NEW))
    };
    let is_staged = |entry: &fs::DirEntry| {
        entry.metadata().is_ok_and(|meta| meta.is_file() && (meta.len() > 0 || !is_new(&meta)))
    };
    let entries = entries.flatten().filter(is_staged);
    Ok(entries.filter_map(|entry| UploadId::parse(entry.file_name().to_str()?).ok()).collect())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).at("cannot remove the leftovers of an upload", path)
        }
        _ => Ok(()),
    }
}
