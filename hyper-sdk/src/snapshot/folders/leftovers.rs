//! What dead processes left: a build that was killed leaves the folders of its steps, a clean-up that was killed as many as
//! there were snapshots.

use super::{Folders, Listing, Removed};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::Ordering;

/// The most leftovers that are held at once: each is an open file, of which a process may have few.
pub(super) const AT_ONCE: usize = 64;

impl Folders {
    /// Moves the folders of dead processes to `removed`, and finds those that are there already, [`AT_ONCE`] at most. The
    /// caller holds the numbers. Without a listing, those of `layers` are not looked at.
    pub(super) fn clean(&self, listing: Option<&Listing>) -> Result<Vec<Removed>> {
        self.has_more.store(false, Ordering::Relaxed);
        let mut leftovers = Vec::new();
        self.set_aside_dead("active", &BTreeSet::new(), &mut leftovers)?;
        if let Some(listing) = listing {
            self.set_aside_dead("layers", &listing.named, &mut leftovers)?;
        }
        let removed = self.root.join("removed");
        let entries =
            std::fs::read_dir(&removed).map_err(|e| Error::io("cannot read a folder", &removed, e))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if leftovers.iter().any(|leftover| leftover.path == path) {
                continue;
            }
            if self.is_full(&leftovers) {
                break;
            }
            if let Some(lock) = free(&path)? {
                leftovers.push(Removed { path, _lock: lock });
            }
        }
        Ok(leftovers)
    }

    /// The next leftovers, if there are more than those that were found last. The caller has removed these.
    pub(in crate::snapshot) fn more_leftovers(&self) -> Result<Vec<Removed>> {
        match self.has_more.load(Ordering::Relaxed) {
            true => self.look_again().map(|(_, leftovers)| leftovers),
            false => Ok(Vec::new()),
        }
    }

    /// Whether no more leftovers may be held. Says that there are more.
    fn is_full<T>(&self, held: &[T]) -> bool {
        let is_full = held.len() >= AT_ONCE;
        self.has_more.fetch_or(is_full, Ordering::Relaxed);
        is_full
    }

    /// Moves folders that have no record and whose owner is dead to `removed`.
    fn set_aside_dead(&self, of: &str, named: &BTreeSet<u64>, leftovers: &mut Vec<Removed>) -> Result<()> {
        let mut dead = Vec::new();
        for number in self.numbers(of)?.difference(named) {
            if leftovers.len() + dead.len() >= AT_ONCE {
                self.has_more.store(true, Ordering::Relaxed);
                break;
            }
            let folder = self.root.join(of).join(number.to_string());
            if let Some(lock) = free(&folder)? {
                dead.push((*number, folder, lock));
            }
        }
        // A commit holds the lock until the record exists, so records may have been added since the list was read.
        let named_since: BTreeSet<u64> = match of == "layers" && !dead.is_empty() {
            true => {
                let records = self.list()?.into_iter().map(|(_, record)| record.id);
                records.chain(self.read_joins()?).collect()
            }
            false => BTreeSet::new(),
        };
        for (number, folder, lock) in dead {
            if named_since.contains(&number) {
                continue;
            }
            leftovers.extend(self.set_one_aside(of, &folder, lock)?);
        }
        Ok(())
    }

    fn set_one_aside(&self, of: &str, folder: &Path, lock: Option<File>) -> Result<Option<Removed>> {
        let _in_order = if of == "active" && folder.is_dir() {
            match self.put_in_order(folder, false) {
                Ok(Some(order)) => Some(order),
                // Its step is still ending.
                Ok(None) => return Ok(None),
                Err(error) => {
                    tracing::warn!(%error, "the caches of a killed step are still in its tree");
                    return Ok(None);
                }
            }
        } else {
            None
        };
        match self.set_aside(folder, lock) {
            Ok(removed) => Ok(Some(removed)),
            // Its owner has just moved it.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Takes the lock of a folder if it is free. The inner value is `None` if the owner died before it made the lock file.
fn free(folder: &Path) -> Result<Option<Option<File>>> {
    let path = folder.join("lock");
    match File::options().write(true).open(&path) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => Ok(Some(Some(lock))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("cannot lock a folder", folder, e)),
        },
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(Some(None))
        }
        Err(e) => Err(Error::io("cannot open a lock file", path, e)),
    }
}
