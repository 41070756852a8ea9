//! The file, and the index of it in memory: made anew from the records when the file is opened.

use crate::record::{MAX_LINE, Record};
use hyper_sdk::digest::{Algorithm, Hasher};
use hyper_sdk::store::UploadId;
use hyper_sdk::store::errors::missing_bytes;
use hyper_sdk::{Digest, Error, ErrorKind, Result, ResultExt as _};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How much is read or copied at a time.
pub(crate) const CHUNK: usize = 512 << 10;

/// A part of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) at: u64,
    pub(crate) length: u64,
}

/// Content in the file: its parts in order, and when the last of them came.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) extents: Vec<Extent>,
    pub(crate) modified: SystemTime,
    /// Somebody writes to it.
    pub(crate) busy: bool,
}

impl Default for Content {
    fn default() -> Self {
        Self { extents: Vec::new(), modified: UNIX_EPOCH, busy: false }
    }
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }

    /// The same content without what comes after `size` bytes.
    fn cut(&mut self, size: u64) {
        let mut left = size;
        self.extents.retain_mut(|extent| {
            extent.length = extent.length.min(left);
            left -= extent.length;
            extent.length > 0
        });
    }
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    end: u64,
    pub(crate) blobs: BTreeMap<Digest, Content>,
    pub(crate) uploads: HashMap<UploadId, Content>,
}

impl Index {
    /// Takes in a record whose bytes begin at `at`.
    fn apply(&mut self, record: Record, at: u64) {
        let when = |time| UNIX_EPOCH + Duration::from_secs(time);
        match record {
            Record::Put { digest, size, time } => {
                let extents = vec![Extent { at, length: size }];
                self.blobs.insert(digest, Content { extents, modified: when(time), busy: false });
            }
            Record::Part { upload, size, time } => {
                let content = self.uploads.entry(upload).or_default();
                content.extents.push(Extent { at, length: size });
                content.modified = when(time);
            }
            Record::Cut { upload, size } => self.uploads.entry(upload).or_default().cut(size),
            Record::Commit { upload, digest, time } => {
                let content = self.uploads.remove(&upload).unwrap_or_default();
                self.blobs.insert(digest, Content { modified: when(time), busy: false, ..content });
            }
            Record::Drop { upload } => drop(self.uploads.remove(&upload)),
            Record::Delete { digest } => drop(self.blobs.remove(&digest)),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    file: File,
    index: Mutex<Index>,
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

impl Log {
    /// Opens the file for this process alone, and reads its records up to the first that is not whole.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.at("cannot open the file of blobs", path)?;
        if file.try_lock().is_err() {
            return Err(Error::new(ErrorKind::Unavailable, "another process has the file of blobs open")
                .with_context("path", path.display()));
        }
        let length = file.metadata().at("cannot read the file of blobs", path)?.len();
        let mut index = Index::default();
        while let Some((record, at)) = next(&file, index.end).at("cannot read the file of blobs", path)? {
            let end = at + record.size();
            if end > length {
                break;
            }
            index.apply(record, at);
            index.end = end;
        }
        file.set_len(index.end).at("cannot cut the file of blobs", path)?;
        Ok(Self { path: path.to_owned(), file, index: Mutex::new(index) })
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record with its bytes; what cannot be written whole is not there at all.
    pub(crate) fn append(&self, record: Record, mut bytes: impl Read) -> Result<()> {
        let mut index = self.index();
        let (start, line) = (index.end, record.to_string());
        let written = (|| {
            let mut file = &self.file;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start))?;
            file.write_all(line.as_bytes())?;
            std::io::copy(&mut bytes, &mut file)
        })();
        let at = start + line.len() as u64;
        match written {
            Ok(count) if count == record.size() => {
                index.end = at + count;
                index.apply(record, at);
                Ok(())
            }
            outcome => {
                let _ = self.file.set_len(start);
                outcome.at("cannot write to the file of blobs", &self.path)?;
                Err(Error::invalid("the content has another size than was announced"))
            }
        }
    }

    /// Appends a record and makes everything last.
    pub(crate) fn append_durably(&self, record: Record, bytes: impl Read) -> Result<()> {
        self.append(record, bytes)?;
        self.sync()
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().at("cannot sync the file of blobs", &self.path)
    }

    /// The bytes from `offset` in the content, at most [`CHUNK`] and at most `length`.
    pub(crate) fn read(
        &self,
        content: &Content,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>> {
        let mut skip = offset;
        for extent in &content.extents {
            if skip < extent.length {
                let wanted = (extent.length - skip).min(length).min(CHUNK as u64) as usize;
                let mut chunk = vec![0; wanted];
                let read = self.file.read_exact_at(&mut chunk, extent.at + skip);
                read.map_err(|e| missing_bytes(digest).with_source(e))?;
                return Ok(chunk);
            }
            skip -= extent.length;
        }
        Err(missing_bytes(digest))
    }

    /// The digest of the content.
    pub(crate) fn hash(&self, content: &Content, algorithm: Algorithm, named: &Digest) -> Result<Digest> {
        let mut hasher: Hasher = algorithm.hasher();
        let (mut at, size) = (0, content.size());
        while at < size {
            let chunk = self.read(content, named, at, size - at)?;
            hasher.update(&chunk);
            at += chunk.len() as u64;
        }
        Ok(hasher.finish())
    }
}

/// The record at an offset and where its bytes begin; `None` at the end, or where there is no whole record.
fn next(file: &File, at: u64) -> std::io::Result<Option<(Record, u64)>> {
    let mut line = [0; MAX_LINE];
    let mut filled = 0;
    while filled < line.len() {
        match file.read_at(&mut line[filled..], at + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    let Some(end) = line[..filled].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let record = std::str::from_utf8(&line[..end]).ok().and_then(Record::parse);
    Ok(record.map(|record| (record, at + end as u64 + 1)))
}
