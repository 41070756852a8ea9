//! The staging area of an upload: a file with a lock.

use super::super::reading::READ_CHUNK;
use super::super::{BlobStaging, StagedState, Verified};
use super::{Folders, PLACE, blocking, is_at};
use crate::digest::{Algorithm, Hasher};
use crate::store::errors::{digest_mismatch, interrupted, not_verified, staging_lost};
use crate::store::work;
use crate::{Digest, Result, ResultExt as _};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// The size of the buffer for appended bytes.
const WRITE_CHUNK: usize = 512 * 1024;

/// A staging area. An operation moves the area to a thread and back. When the caller drops the future, the area is not
/// moved back, and its lock is released only when the thread has finished.
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
    /// The verified digest of everything that was written.
    verified: Option<Digest>,
    /// The saved offset, once it is known. Bytes after it are removed with the handle.
    saved: Option<u64>,
}

impl Drop for Area {
    /// Releases the lock. Closing the file does not release it while a child process that was started just now still
    /// has the descriptor.
    fn drop(&mut self) {
        // A request that ends before the saved offset is known may have created the file.
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
    /// The area of a staging file that the caller has locked.
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

    /// Writes the buffer. After an error the file may be longer than `written`; the next write starts at `written`
    /// again.
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
        read().at("cannot read the staging file", &self.path)
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
        // A failed write may have left bytes after the end.
        self.file.set_len(self.written).at("cannot truncate the staging file", &self.path)?;
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
        // Truncating frees the space now, not when the last handle is closed; only a failure to remove the file is an
        // error. A file that has become a blob is not touched.
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
                area.file.set_len(state.offset).at("cannot truncate the staging file", &area.path)?;
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
                // The bytes of the caller are not taken; the buffer keeps the bytes before them.
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
        let verify = self.with_area(move |area| area.verify(&wanted));
        let size = work::within(work::blobs(PLACE, "verify"), verify).await?;
        Ok(Verified::by_digest(digest, size))
    }

    async fn commit(&mut self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        let commit = self.with_area(move |area| area.commit(&digest));
        work::within(work::blobs(PLACE, "commit"), commit).await
    }

    async fn discard(&mut self) -> Result<()> {
        self.with_area(Area::discard).await
    }
}
