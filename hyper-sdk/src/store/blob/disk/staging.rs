//! The staging area of an upload: a file with a lock.

use super::super::reading::READ_CHUNK;
use super::super::{BlobStaging, StagedState, Verified};
use super::{Folders, blocking, is_at};
use crate::digest::{Algorithm, Hasher};
use crate::store::errors::{digest_mismatch, interrupted, not_verified, staging_lost};
use crate::{Digest, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Appended bytes are gathered up to this many before they are written.
const WRITE_CHUNK: usize = 512 * 1024;

/// A staging area. While a thread works on it the area is there, not here; when the waiting task is cancelled it does
/// not come back, and neither is its lock given up before the thread is done.
#[derive(Debug)]
pub(super) struct DiskStaging {
    area: Option<Area>,
    pending: usize,
}

#[derive(Debug)]
pub(super) struct Area {
    folders: Arc<Folders>,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    written: u64,
    pending: Vec<Bytes>,
    /// The digest that everything written was found to have.
    verified: Option<Digest>,
    /// How much is saved, once that is known. What is not saved goes with the handle.
    saved: Option<u64>,
}

impl Drop for Area {
    /// Gives the lock up. Closing the file would not do while a process that this one is starting still has it, too.
    fn drop(&mut self) {
        // A request that ends before it knows what is saved may have made the file just now.
        let holds_nothing = match self.saved {
            Some(saved) => saved == 0,
            None => self.file.metadata().is_ok_and(|stat| stat.len() == 0),
        };
        if holds_nothing && is_at(&self.file, &self.path) {
            let _ = self.discard();
        }
        let _ = self.file.unlock();
    }
}

impl DiskStaging {
    pub(super) fn new(area: Area) -> Self {
        Self { area: Some(area), pending: 0 }
    }

    async fn with_area<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Area) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut area = self.area.take().ok_or_else(interrupted)?;
        let (area, outcome) = blocking(move || {
            let outcome = work(&mut area);
            Ok((area, outcome))
        })
        .await?;
        self.pending = area.pending.iter().map(Bytes::len).sum();
        self.area = Some(area);
        outcome
    }
}

impl Area {
    /// The area of a staging file that its opener has locked.
    pub(super) fn new(folders: Arc<Folders>, path: PathBuf, file: File) -> Self {
        Self {
            folders,
            path,
            file,
            hasher: Hasher::sha256(),
            written: 0,
            pending: Vec::new(),
            verified: None,
            saved: None,
        }
    }

    /// Writes what is gathered. After a fault the file may be longer than `written`; the next write is again there.
    fn flush(&mut self) -> Result<()> {
        self.verified = None;
        let mut at = self.written;
        for bytes in &self.pending {
            self.file.write_all_at(bytes, at).at("cannot write to the staging file", &self.path)?;
            at += bytes.len() as u64;
        }
        for bytes in self.pending.drain(..) {
            self.hasher.update(&bytes);
        }
        self.written = at;
        Ok(())
    }

    fn rehash(&mut self, algorithm: Algorithm) -> Result<Digest> {
        let read = || -> std::io::Result<Digest> {
            let mut file = &self.file;
            file.rewind()?;
            let mut hasher = algorithm.hasher();
            std::io::copy(
                &mut std::io::BufReader::with_capacity(READ_CHUNK as usize, file.take(self.written)),
                &mut hasher,
            )?;
            Ok(hasher.finish())
        };
        read().at("cannot read the staging file again", &self.path)
    }

    fn verify(&mut self, digest: &Digest) -> Result<u64> {
        self.flush()?;
        let got = if digest.algorithm() == self.hasher.algorithm() {
            self.hasher.clone().finish()
        } else {
            self.rehash(digest.algorithm())?
        };
        if got != *digest {
            return Err(digest_mismatch(digest, &got));
        }
        // A write that failed half-way and was not repeated in full may have left bytes behind the end.
        self.file.set_len(self.written).at("cannot cut the staging file", &self.path)?;
        self.file.sync_data().at("cannot sync the staging file", &self.path)?;
        self.verified = Some(got);
        Ok(self.written)
    }

    fn commit(&mut self, digest: &Digest) -> Result<()> {
        if self.verified.as_ref() != Some(digest) || !self.pending.is_empty() {
            return Err(not_verified());
        }
        self.folders.place(&self.path, digest)
    }

    fn discard(&mut self) -> Result<()> {
        self.pending.clear();
        // Its space comes back now, not when the last handle is closed; removing it is what counts. A file that has
        // become a blob is not touched.
        if is_at(&self.file, &self.path) {
            let _ = self.file.set_len(0);
        }
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).at("cannot remove the staging file", &self.path)
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl BlobStaging for DiskStaging {
    async fn restore(&mut self, state: &StagedState, algorithm: Algorithm) -> Result<()> {
        let state = state.clone();
        self.with_area(move |area| {
            area.hasher = if state.offset == 0 { algorithm.hasher() } else { Hasher::restore(&state.hash)? };
            let length = area.file.metadata().at("cannot read the staging file", &area.path)?.len();
            if length < state.offset {
                return Err(staging_lost());
            }
            if length > state.offset {
                area.file.set_len(state.offset).at("cannot cut the staging file", &area.path)?;
            }
            (area.written, area.saved) = (state.offset, Some(state.offset));
            Ok(())
        })
        .await
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        let area = self.area.as_mut().ok_or_else(interrupted)?;
        let length = bytes.len();
        if length == 0 {
            return Ok(());
        }
        area.pending.push(bytes);
        self.pending += length;
        if self.pending < WRITE_CHUNK {
            return Ok(());
        }
        self.with_area(move |area| {
            area.flush().inspect_err(|_| {
                // The caller's bytes are not taken; what was gathered before them still is.
                area.pending.pop();
            })
        })
        .await
    }

    async fn save(&mut self) -> Result<StagedState> {
        self.with_area(|area| {
            area.flush()?;
            area.file.sync_data().at("cannot sync the staging file", &area.path)?;
            area.saved = Some(area.written);
            Ok(StagedState { offset: area.written, hash: area.hasher.save(), ..StagedState::default() })
        })
        .await
    }

    async fn verify(&mut self, digest: &Digest) -> Result<Verified> {
        let wanted = digest.clone();
        let size = self.with_area(move |area| area.verify(&wanted)).await?;
        Ok(Verified::by_digest(digest, size))
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.with_area(move |area| area.commit(&digest)).await
    }

    async fn discard(&mut self) -> Result<()> {
        self.with_area(Area::discard).await
    }
}
