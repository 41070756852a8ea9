//! Removes snapshots, and the blobs that no snapshot needs.

use super::fitting::part;
use super::folder::{BLOBS, BackupFolder, names};
use super::inspect::{list, no_snapshots, read_whole};
use crate::digest::Algorithm;
use crate::{Digest, Error, ErrorKind, Result};
use rustix::fs::AtFlags;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The snapshots.
    pub snapshots: Vec<String>,
    /// How many blobs.
    pub blobs: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
}

/// Removes these snapshots, and with `keep` all but the newest so many of each registry; then the blobs that no snapshot needs,
/// among them those of a backup that was killed. A registry that was restored or moved counts as another one. Blocks.
///
/// Killed, it leaves the other snapshots whole; the next one goes on with the blobs.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such snapshot, or none at all; [`ErrorKind::Corrupt`] when one that stays is damaged,
/// because nobody knows what it needs: then nothing is removed. A damaged one can be removed by its id.
/// [`ErrorKind::Conflict`] while another process uses the folder.
pub fn remove(folder: &BackupFolder, ids: &[String], keep: Option<usize>) -> Result<Removed> {
    let _lock = folder.lock(true)?;
    let all = folder.snapshot_ids()?;
    if all.is_empty() {
        return Err(no_snapshots(folder));
    }
    let mut goes = BTreeSet::new();
    for id in ids {
        drop(folder.open_snapshot(id)?);
        goes.insert(id.clone());
    }
    if let Some(keep) = keep {
        goes.extend(old_ones(folder, &goes, keep)?);
    }
    let mut needed = HashSet::new();
    for id in all.iter().filter(|id| !goes.contains(*id)) {
        read_whole(folder, id, |blob| {
            needed.insert(part(&blob.digest));
        })
        .map_err(|e| {
            Error::new(
                ErrorKind::Corrupt,
                "a snapshot cannot be read, so nobody knows which blobs it needs: nothing was removed",
            )
            .with_context("snapshot", id)
            .with_source(e)
        })?;
    }
    folder.clear_tmp()?;
    let mut removed = Removed::default();
    for id in goes {
        folder.remove_snapshot(&id)?;
        removed.snapshots.push(id);
    }
    folder.forget_aside(|digest| !needed.contains(&part(digest)))?;
    for algorithm in Algorithm::ALL {
        remove_blobs(folder, algorithm, &needed, &mut removed)?;
    }
    Ok(removed)
}

/// The snapshots of each registry, but the newest `keep` of those that stay.
fn old_ones(folder: &BackupFolder, goes: &BTreeSet<String>, keep: usize) -> Result<Vec<String>> {
    let mut infos = Vec::new();
    for (id, info) in list(folder)? {
        if goes.contains(&id) {
            continue;
        }
        infos.push(info.map_err(|e| e.with_context("snapshot", &id))?);
    }
    // Not by lines: a copy that was restored for a trial must not push out what the registry itself has.
    let mut of_registry: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for info in infos {
        of_registry.entry(info.header.registry).or_default().push(info.id);
    }
    let old = of_registry.into_values().flat_map(|mut snapshots| {
        snapshots.sort();
        snapshots.truncate(snapshots.len().saturating_sub(keep));
        snapshots
    });
    Ok(old.collect())
}

fn remove_blobs(
    folder: &BackupFolder,
    algorithm: Algorithm,
    needed: &HashSet<u128>,
    removed: &mut Removed,
) -> Result<()> {
    let path = folder.path().join(BLOBS).join(algorithm.name());
    let Some(at) = folder.folder(&[BLOBS, algorithm.name()])? else { return Ok(()) };
    for prefix in names(&at, &path)? {
        let path = path.join(&prefix);
        let Some(at) = folder.folder(&[BLOBS, algorithm.name(), &prefix])? else { continue };
        for name in names(&at, &path)? {
            // What no backup has written stays.
            let Ok(digest) = Digest::parse(&format!("{algorithm}:{name}")) else { continue };
            if needed.contains(&part(&digest)) {
                continue;
            }
            let cannot =
                |e: rustix::io::Errno| Error::io("cannot remove a blob of the backups", &path, e.into());
            let stat = rustix::fs::statat(&at, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(cannot)?;
            rustix::fs::unlinkat(&at, name.as_str(), AtFlags::empty()).map_err(cannot)?;
            removed.blobs += 1;
            removed.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
    Ok(())
}
