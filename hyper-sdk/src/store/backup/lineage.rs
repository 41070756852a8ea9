//! Which registries of a folder are one: a registry that was restored or moved goes on where the former one ended.
//!
//! ```text
//!   registry A:  a1 ── a2                     restored from a2: the line A, B, whose newest snapshot is b2
//!                        └─ registry B:  b1 ── b2
//!   registry A:  a1 ── a2 ── a3               A has gone on: two lines, and only a person knows which one counts
//!                        └─ registry B:  b1 ── b2
//! ```

use super::folder::BackupFolder;
use super::inspect::{SnapshotInfo, list, no_snapshots};
use crate::store::meta::Ancestor;
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// The most registries that one remembers of which it was made.
const MOST: usize = 64;

/// The snapshots of each line, the oldest first; the line with the newest snapshot comes first.
pub(super) fn lines(infos: Vec<SnapshotInfo>) -> Vec<Vec<SnapshotInfo>> {
    let mut of_registry: BTreeMap<String, Vec<SnapshotInfo>> = BTreeMap::new();
    for info in infos {
        of_registry.entry(info.header.registry.clone()).or_default().push(info);
    }
    let mut all: Vec<Vec<SnapshotInfo>> = of_registry.into_values().collect();
    all.iter_mut().for_each(|snapshots| snapshots.sort_by(|a, b| a.id.cmp(&b.id)));
    // A registry belongs to the line of its heirs when these are one.
    let heirs: Vec<Vec<usize>> = all
        .iter()
        .map(|former| (0..all.len()).filter(|heir| goes_on(&all[*heir], former)).collect())
        .collect();
    let is_one = |some: &[usize]| {
        some.iter().all(|a| some.iter().all(|b| a == b || heirs[*a].contains(b) || heirs[*b].contains(a)))
    };
    let mut line: Vec<usize> = (0..all.len()).collect();
    for (former, heirs) in heirs.iter().enumerate().filter(|(_, heirs)| !heirs.is_empty() && is_one(heirs)) {
        for heir in heirs {
            let (from, to) = (line[former], line[*heir]);
            line.iter_mut().filter(|line| **line == from).for_each(|line| *line = to);
        }
    }
    let mut joined: BTreeMap<usize, Vec<SnapshotInfo>> = BTreeMap::new();
    for (snapshots, line) in all.into_iter().zip(line) {
        joined.entry(line).or_default().extend(snapshots);
    }
    let mut lines: Vec<Vec<SnapshotInfo>> = joined.into_values().collect();
    lines.iter_mut().for_each(|snapshots| snapshots.sort_by(|a, b| a.id.cmp(&b.id)));
    lines.sort_by(|a, b| b.last().map(|info| &info.id).cmp(&a.last().map(|info| &info.id)));
    lines
}

/// Whether a registry has all that the snapshots of a former one have.
fn goes_on(heir: &[SnapshotInfo], former: &[SnapshotInfo]) -> bool {
    let (Some(heir), Some(newest)) = (heir.first(), former.last()) else { return false };
    let is_it = |of: &Ancestor| of.registry == newest.header.registry && of.until >= newest.id;
    heir.header.registry != newest.header.registry && heir.header.ancestors.iter().any(is_it)
}

/// The registries of which one is made that a snapshot fills.
pub(super) fn with(mut ancestors: Vec<Ancestor>, registry: &str, until: &str) -> Vec<Ancestor> {
    ancestors.retain(|of| of.registry != registry);
    ancestors.push(Ancestor { registry: registry.to_owned(), until: until.to_owned() });
    ancestors.drain(..ancestors.len().saturating_sub(MOST));
    ancestors
}

/// What [`restore`](super::restore) takes without an id: the newest snapshot, when the folder has those of one registry, and of
/// others that were restored or moved from it since and are what it was. Else there are several: the newest of each, the
/// newest first.
///
/// Snapshots that cannot be read count for nothing, unless one of them is the newest of all.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no snapshot; [`ErrorKind::Corrupt`] when the newest one cannot be read: its context
/// `readable` is the id of the newest that can.
///
/// ```
/// use hyper_sdk::store::DiskStore;
/// use hyper_sdk::store::backup::{BackupFolder, CreateOptions, create, newest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let top = tempfile::tempdir()?;
/// let folder = BackupFolder::create(&top.path().join("backups"))?;
/// for name in ["one", "two"] {
///     let store = DiskStore::open(top.path().join(name)).await?;
///     create(&store, &folder, &CreateOptions::default()).await?;
/// }
/// assert_eq!(newest(&folder)?.len(), 2);
/// # Ok(())
/// # }
/// ```
pub fn newest(folder: &BackupFolder) -> Result<Vec<SnapshotInfo>> {
    let (mut infos, mut unreadable) = (Vec::new(), None);
    for (id, info) in list(folder)? {
        match info {
            Ok(info) => {
                unreadable = None;
                infos.push(info);
            }
            Err(error) => {
                tracing::warn!(snapshot = %id, %error, "a snapshot cannot be read");
                unreadable = Some((id, error));
            }
        }
    }
    if let Some((id, e)) = unreadable {
        let error = Error::new(ErrorKind::Corrupt, "the newest snapshot cannot be read: name an older one")
            .with_context("snapshot", id)
            .with_source(e);
        return Err(match infos.last() {
            Some(info) => error.with_context("readable", &info.id),
            None => error,
        });
    }
    let newest: Vec<SnapshotInfo> = lines(infos).into_iter().filter_map(|mut line| line.pop()).collect();
    if newest.is_empty() { Err(no_snapshots(folder)) } else { Ok(newest) }
}
