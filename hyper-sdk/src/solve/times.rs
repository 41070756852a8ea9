//! The true times of files in layers. They are stored next to the indexes, or read from a context.
//!
//! # Invariants
//! - Published layers and keys do not contain them: only steps see them.
//! - When a table is lost, its step is not cached. When that is found too late, files have the times of the layer.

use super::SolveContext;
use super::value::LayerTimes;
use crate::layer::{FileTime, TimesTable};
use crate::{Digest, Error, Result};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

impl SolveContext {
    /// The time of files that a step makes now. It is at least the epoch, so that the files have the epoch in the layer.
    pub(super) async fn made_now(&self) -> Result<FileTime> {
        let epoch = FileTime::of(self.epoch().await?);
        Ok(if self.copies_as_published { epoch } else { FileTime::now().max(epoch) })
    }

    fn times_path(&self, digest: &Digest) -> PathBuf {
        self.index_folder.join(format!("{}.times", digest.hex()))
    }

    /// Whether a table is stored and intact. A damaged table is removed, so that the step makes it again.
    pub(super) fn has_times(&self, digest: &Digest) -> bool {
        let seen = || self.seen_times.lock().unwrap_or_else(PoisonError::into_inner);
        if seen().contains(digest) {
            return true;
        }
        let is_intact = self.read_times(digest).is_some();
        if is_intact {
            seen().insert(digest.clone());
        }
        is_intact
    }

    fn read_times(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.times_path(digest);
        let bytes = std::fs::read(&path).ok()?;
        if Digest::sha256(&bytes) != *digest {
            std::fs::remove_file(&path).ok();
            return None;
        }
        Some(bytes)
    }

    /// Stores a table.
    pub(super) fn keep_times(&self, table: &TimesTable) -> Result<LayerTimes> {
        let path = self.times_path(table.digest());
        if self.read_times(table.digest()).is_none() {
            tempfile::NamedTempFile::new_in(&self.index_folder)
                .and_then(|mut staged| {
                    staged.write_all(table.to_bytes())?;
                    staged.persist(&path).map(drop).map_err(|e| e.error)
                })
                .map_err(|e| Error::io("cannot write the times of a layer", &path, e))?;
        }
        Ok(LayerTimes::Kept(table.digest().clone()))
    }

    /// The table of a layer; `None` when it is lost or damaged.
    pub(super) fn times(&self, times: Option<&LayerTimes>) -> Option<Arc<TimesTable>> {
        let digest = match times? {
            LayerTimes::Table(table) => return Some(Arc::clone(table)),
            LayerTimes::Kept(digest) => digest,
        };
        let table = self.read_times(digest).and_then(|bytes| TimesTable::from_bytes(&bytes).ok());
        if table.is_none() {
            let path = self.times_path(digest);
            self.progress.warn(format!(
                "the times of files of a layer are lost ({}): steps see those of the layer, which may be earlier",
                path.display()
            ));
        }
        table.map(Arc::new)
    }
}
