//! Joins: folders with the files of several snapshots that lie on one another, so that long chains have short lists of
//! layers.
//!
//! A join is named after the topmost snapshot in it, and its level: a join of level 2 is made of joins of level 1. It is
//! not needed: without it the snapshots themselves are used. So a lost or damaged one is made again.

use super::{Claim, Folders, MAX_CHAIN, Removed, checked, locked, unchecked};
use crate::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::MutexGuard;

/// The highest level of a join.
pub(in super::super) const MAX_LEVEL: u32 = 8;

/// The record of a join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Join {
    id: u64,
    /// The chain below the lowest snapshot in it.
    below: Option<Digest>,
    boot: String,
    /// From the name of the file.
    #[serde(skip)]
    level: u32,
}

/// A folder of a chain: a snapshot, or a join of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Piece {
    /// Its files.
    pub(in super::super) files: PathBuf,
    /// The number of times that its files were joined; 0 for a snapshot.
    pub(in super::super) level: u32,
    /// The topmost chain in it.
    pub(in super::super) top: Digest,
    /// The chain below it.
    pub(in super::super) below: Option<Digest>,
}

impl Folders {
    /// The folders of a chain, topmost first. Joins replace the snapshots that are in them.
    pub(in super::super) fn pieces(&self, chain: Option<&Digest>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut next = chain.cloned();
        while let Some(top) = next {
            let joined = self.known_joins()?.get(&top).map(|join| (join.id, join.level, join.below.clone()));
            let (id, level, below) = match joined {
                Some(joined) => joined,
                None => {
                    let record = self.record(&top)?.ok_or_else(|| {
                        Error::new(ErrorKind::NotFound, "a snapshot does not exist")
                            .with_context("chain", &top)
                    })?;
                    (record.id, 0, record.parent)
                }
            };
            next = below.clone();
            pieces.push(Piece { files: self.files(id), level, top, below });
            if pieces.len() > MAX_CHAIN {
                return Err(Error::new(ErrorKind::Corrupt, "the parents of a snapshot form a loop"));
            }
        }
        Ok(pieces)
    }

    /// The joins, read from the folder if they are not yet.
    fn known_joins(&self) -> Result<MutexGuard<'_, HashMap<Digest, Join>>> {
        if self.joins_are_read.get().is_none() {
            self.read_joins()?;
        }
        Ok(locked(&self.joins))
    }

    fn join_path(&self, chain: &Digest, level: u32) -> PathBuf {
        self.root.join("joins").join(format!("{}.{level}", chain.as_str().replace(':', "-")))
    }

    /// Turns a claimed folder into a join of the pieces from the topmost snapshot `top` to the chain `below`. Returns the
    /// folder if there is one of this level already. The record of one that is damaged or has no files is replaced.
    pub(in super::super) fn commit_join(
        &self,
        claim: Claim,
        top: &Digest,
        below: Option<&Digest>,
        level: u32,
    ) -> Result<Option<Removed>> {
        let folder = self.root.join("layers").join(claim.id.to_string());
        std::fs::rename(&claim.folder, &folder).map_err(|e| Error::io("cannot keep a join", &folder, e))?;
        let join = Join { id: claim.id, below: below.cloned(), boot: self.boot.clone(), level };
        let (fresh, path) = (folder.join("record"), self.join_path(top, level));
        std::fs::write(&fresh, checked(&join))
            .map_err(|e| Error::io("cannot write the record of a join", &fresh, e))?;
        let link = || std::fs::hard_link(&fresh, &path);
        let mut linked = link();
        if linked.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AlreadyExists) {
            let other = std::fs::read(&path).ok().and_then(|bytes| unchecked::<Join>(&bytes));
            if let Some(other) = other.filter(|other| self.files(other.id).is_dir()) {
                locked(&self.joins).insert(top.clone(), Join { level, ..other });
                return self.set_aside(&folder, Some(claim.lock)).map(Some);
            }
            // It is damaged, or its files are gone. Records are added complete, so nobody is writing it.
            let _ = std::fs::remove_file(&path);
            linked = link();
        }
        linked.map_err(|e| Error::io("cannot write the record of a join", path, e))?;
        locked(&self.joins).insert(top.clone(), join);
        Ok(None)
    }

    /// Reads the records of joins. Those without files, of a snapshot that does not exist, and those that a power cut may
    /// have damaged are dropped. Returns the numbers of the others.
    pub(super) fn read_joins(&self) -> Result<BTreeSet<u64>> {
        let folder = self.root.join("joins");
        let entries =
            std::fs::read_dir(&folder).map_err(|e| Error::io("cannot read a folder", &folder, e))?;
        let (synced, mut named) = (self.synced(), BTreeSet::new());
        for entry in entries.flatten() {
            let name = entry.file_name();
            let parsed = name.to_str().and_then(|name| {
                let (chain, level) = name.rsplit_once('.')?;
                Some((chain.replacen('-', ":", 1).parse::<Digest>().ok()?, level.parse::<u32>().ok()?))
            });
            let Some((chain, level)) = parsed else { continue };
            let join = std::fs::read(entry.path()).ok().and_then(|bytes| unchecked::<Join>(&bytes));
            let join = join.filter(|join| {
                (join.boot == self.boot || join.id <= synced)
                    && self.files(join.id).is_dir()
                    && self.record_path(&chain).exists()
            });
            let Some(join) = join else {
                // It is made again.
                let _ = std::fs::remove_file(entry.path());
                continue;
            };
            named.insert(join.id);
            let mut joins = locked(&self.joins);
            if joins.get(&chain).is_none_or(|known| known.level < level) {
                joins.insert(chain, Join { level, ..join });
            }
        }
        let _ = self.joins_are_read.set(());
        Ok(named)
    }

    /// Removes the records of the joins that are named after a chain. Their folders stay without a name.
    pub(super) fn forget_joins(&self, chain: &Digest) -> Result<()> {
        for path in self.joins_of(chain) {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("cannot remove the record of a join", path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn joins_of(&self, chain: &Digest) -> Vec<PathBuf> {
        locked(&self.joins).remove(chain);
        (1..=MAX_LEVEL).map(|level| self.join_path(chain, level)).collect()
    }

    /// Moves the joins that are named after a chain to `removed`.
    pub(in super::super) fn retire_joins(&self, chain: &Digest) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for path in self.joins_of(chain) {
            let join = std::fs::read(&path).ok().and_then(|bytes| unchecked::<Join>(&bytes));
            if std::fs::remove_file(&path).is_ok()
                && let Some(join) = join
            {
                removed.push(self.retire(join.id)?);
            }
        }
        Ok(removed)
    }
}
