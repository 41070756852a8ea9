//! The owners of files without attributes (links, pipes), in files next to the folders of layers.
//!
//! ```text
//! owners.json        {"bin/tool": [0, 42], …}     by path, each byte of a path as the character of that number; 0:0
//!                                                 is left out, unless a layer below says something else
//! step-owners.json   [[ino, seconds, nanoseconds, uid, gid], …]   owners that a step set, by inode and time of birth
//! ```

use super::view;
use crate::layer::{EntryKind, LayerIndex, LayerPath, OWNER_ATTRIBUTE, parse_owner};
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Stat, StatxFlags};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const OWNERS: &str = "owners.json";
const STEP: &str = "step-owners.json";

/// Owners by path.
pub(crate) type LowerOwners = BTreeMap<String, (u32, u32)>;
/// Owners by inode and time of birth.
pub(crate) type StepRecord = Vec<(u64, i64, u32, u32, u32)>;

/// An inode and when it was made: its number may be used again.
pub(crate) type Inode = (u64, i64, u32);

/// The text of a path in a record.
pub(crate) fn key(path: &[u8]) -> String {
    path.iter().map(|byte| char::from(*byte)).collect()
}

/// The owner of a file without a record: what belongs to this process belongs to root. In a user namespace it is root
/// already.
pub(crate) fn seen_owner(stat: &Stat) -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    (if stat.st_uid == uid { 0 } else { stat.st_uid }, if stat.st_gid == gid { 0 } else { stat.st_gid })
}

/// The inode at a path; the last part is not followed.
pub(crate) fn inode(folder: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<Inode> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let status = rustix::fs::statx(folder, path, flags, StatxFlags::INO | StatxFlags::BTIME)?;
    Ok((status.stx_ino, status.stx_btime.tv_sec, status.stx_btime.tv_nsec))
}

fn record_path(layer: &Path, name: &str) -> Option<PathBuf> {
    layer.parent().map(|folder| folder.join(name))
}

fn load<T: serde::de::DeserializeOwned + Default>(layer: &Path, name: &str) -> Result<T> {
    let Some(file) = record_path(layer, name) else { return Ok(T::default()) };
    match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(
                crate::ErrorKind::Corrupt,
                "the recorded owners of a layer are damaged: remove the snapshots",
            )
            .with_context("path", file.display())
            .with_source(e)
        }),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(T::default())
        }
        Err(e) => Err(Error::io("cannot read the recorded owners of a layer", file, e)),
    }
}

fn save(layer: &Path, name: &str, value: &impl serde::Serialize) -> Result<()> {
    let Some(file) = record_path(layer, name) else { return Ok(()) };
    let text = serde_json::to_vec(value).expect("plain data");
    std::fs::write(&file, text).map_err(|e| Error::io("cannot record the owners of a layer", file, e))
}

/// The owners that layers record by path, topmost first.
pub(crate) fn lower_owners(lowers: &[PathBuf]) -> Result<LowerOwners> {
    let mut all = LowerOwners::new();
    for lower in lowers {
        for (path, owner) in load::<LowerOwners>(lower, OWNERS)? {
            all.entry(path).or_insert(owner);
        }
    }
    Ok(all)
}

/// Saves the record of a step next to its upper folder.
pub(crate) fn save_step(upper: &Path, record: &StepRecord) -> Result<()> {
    save(upper, STEP, record)
}

/// Saves the owners of a layer's links and pipes next to its folder. `lowers` are the layers below; with `plain` the
/// folder is a whole tree, and its existing record is extended.
pub(crate) fn save_layer(layer: &Path, lowers: &[PathBuf], plain: bool, index: &LayerIndex) -> Result<()> {
    let mut owners = if plain { load::<LowerOwners>(layer, OWNERS)? } else { LowerOwners::new() };
    let below = lower_owners(lowers)?;
    for entry in index.entries() {
        if !matches!(entry.kind, EntryKind::Symlink { .. } | EntryKind::Fifo) {
            continue;
        }
        let (path, owner) = (key(entry.path.as_bytes()), (entry.uid, entry.gid));
        if owner != (0, 0) || owners.contains_key(&path) || below.contains_key(&path) {
            owners.insert(path, owner);
        }
    }
    if owners.is_empty() { Ok(()) } else { save(layer, OWNERS, &owners) }
}

/// Saves the record of joined layers (topmost first) next to their folder.
pub(crate) fn save_join(folder: &Path, run: &[PathBuf]) -> Result<()> {
    let owners = lower_owners(run)?;
    if owners.is_empty() { Ok(()) } else { save(folder, OWNERS, &owners) }
}

/// The recorded owners of the files of a tree.
pub(crate) struct Recorded {
    upper: Option<PathBuf>,
    step: HashMap<Inode, (u32, u32)>,
    lower: LowerOwners,
}

impl Recorded {
    /// The owners of the folder that a step wrote to, on top of those of the layers below.
    pub(crate) fn of_step(upper: &Path, lowers: &[PathBuf]) -> Result<Self> {
        let step = load::<StepRecord>(upper, STEP)?;
        let step = step.into_iter().map(|(ino, s, ns, uid, gid)| ((ino, s, ns), (uid, gid))).collect();
        Ok(Self { upper: Some(upper.to_owned()), step, lower: lower_owners(lowers)? })
    }

    /// The owners of layers, topmost first.
    pub(crate) fn of_layers(layers: &[PathBuf]) -> Result<Self> {
        Ok(Self { upper: None, step: HashMap::new(), lower: lower_owners(layers)? })
    }

    /// The recorded owner of a name in an open folder (or of the open file itself when `name` is empty) of the tree
    /// that the kernel shows at `top`; `None` without a record.
    pub(crate) fn owner_at(
        &self,
        top: &[u8],
        folder: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
    ) -> Option<(u32, u32)> {
        let mut path = view::fd_path(&folder);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                if !name.is_empty() {
                    path.push(OsStr::from_bytes(name));
                }
                let mut value = [0; 32];
                let length = rustix::fs::getxattr(path, OWNER_ATTRIBUTE, &mut value).ok()?;
                parse_owner(&value[..length])
            }
            _ if self.lower.is_empty() => None,
            _ => {
                let shown = rustix::fs::readlink(path, Vec::new()).ok()?.into_bytes();
                let below = shown.strip_prefix(top)?;
                let parts = [below.strip_prefix(b"/").unwrap_or(below), name];
                let path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/');
                self.lower.get(&key(&path)).copied()
            }
        }
    }

    /// The owner of a file: from its own attribute, or from the record.
    pub(crate) fn owner(&self, path: &LayerPath, stat: &Stat, own: Option<(u32, u32)>) -> (u32, u32) {
        let as_seen = seen_owner(stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => own.unwrap_or(as_seen),
            _ => self
                .upper
                .as_ref()
                .and_then(|upper| inode(CWD, upper.join(path.as_path())).ok())
                .filter(|inode| inode.0 == stat.st_ino)
                .and_then(|inode| self.step.get(&inode))
                .or_else(|| self.lower.get(&key(path.as_bytes())))
                .copied()
                .unwrap_or(as_seen),
        }
    }
}
