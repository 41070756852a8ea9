//! Lists the folder of blobs in the order of the file names.

use super::super::{BlobKey, StoredBytes};
use crate::digest::Algorithm;
use crate::store::Listing;
use crate::{Digest, Result, ResultExt as _};
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The files after the key `after`, at most `limit`: by the name of the algorithm, then by the hash.
pub(super) fn list(blobs: &Path, after: Option<&BlobKey>, limit: usize) -> Result<Listing<StoredBytes>> {
    let after = match after {
        Some(BlobKey::Digest(digest)) => Some(digest),
        // Such a key sorts after every digest, and this backend has none.
        Some(BlobKey::Own(_)) => return Ok(Listing { items: Vec::new(), more: false }),
        None => None,
    };
    let mut algorithms = Algorithm::ALL.map(Algorithm::name);
    algorithms.sort_unstable();
    let mut items = Vec::new();
    for algorithm in algorithms {
        // The name within this folder to start after.
        let last = match after.map(|after| (after.algorithm().name(), after)) {
            Some((name, _)) if name > algorithm => continue,
            Some((name, after)) if name == algorithm => after.hex(),
            _ => "",
        };
        let folder = blobs.join(algorithm);
        for prefix in names(&folder)? {
            if last.get(..prefix.len()).is_some_and(|first| *prefix < *first) {
                continue;
            }
            for name in names(&folder.join(&prefix))? {
                let Ok(digest) = Digest::parse(&format!("{algorithm}:{name}")) else { continue };
                // A file that is removed in the meantime is not listed.
                let Ok(meta) = fs::metadata(folder.join(&prefix).join(&name)) else { continue };
                if *name <= *last || !meta.is_file() {
                    continue;
                }
                if items.len() == limit {
                    return Ok(Listing { items, more: limit > 0 });
                }
                let modified = meta.modified().unwrap_or(UNIX_EPOCH);
                items.push(StoredBytes {
                    key: BlobKey::Digest(digest),
                    size: meta.len(),
                    modified: Some(modified),
                });
            }
        }
    }
    Ok(Listing { items, more: false })
}

/// The names in a folder in byte order; none when it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e).at("cannot read the folder of blobs", folder),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.at("cannot read the folder of blobs", folder)?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
