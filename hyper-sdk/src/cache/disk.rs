//! A cache in a folder: one small file for each record, `AB/ABCDEF…` by the hexadecimal key, written by a rename. The
//! first line is the record as JSON, the second line its SHA-256. A file that does not match its hash is ignored.
//!
//! The mtime of a file is its last use. A lookup reads one file, so a fully cached build reads one file for each step.

use super::{CacheEntry, CacheRecord, CacheStore};
use crate::{Digest, Error, Result, ResultExt as _, private_folder, uses};
use async_trait::async_trait;
use std::fmt;
use std::io::ErrorKind::NotFound;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Keeps records in a folder.
#[derive(Debug)]
pub struct DiskCache {
    folder: PathBuf,
}

impl DiskCache {
    /// Opens the cache in a folder, which is made if missing. Other users cannot enter it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be made, and those of [`private_folder::open`].
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        private_folder::open(&folder)?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self, key: &Digest) -> PathBuf {
        self.folder.join(&key.hex()[..2]).join(key.hex())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder)?;
        let mut staged = tempfile::NamedTempFile::new_in(folder)?;
        staged.write_all(bytes)?;
        staged.persist(path).map(drop).map_err(|e| e.error)
    }
}

fn parse(bytes: &[u8]) -> Option<CacheRecord> {
    checked(bytes).and_then(|json| serde_json::from_slice(json).ok())
}

/// The names in a folder in byte order; none when it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), NotFound | std::io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(e).at("cannot read the folder of the cache", folder),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// The key whose record is in a file with this name.
fn key_of(name: &str) -> Option<Digest> {
    let algorithm = if name.len() == 128 { "sha512" } else { "sha256" };
    Digest::parse(&format!("{algorithm}:{name}")).ok()
}

/// The JSON of a record whose hash matches.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (json, check) = bytes.split_at(bytes.iter().rposition(|byte| *byte == b'\n')?);
    (check[1..] == *Digest::sha256(json).hex().as_bytes()).then_some(json)
}

impl fmt::Display for DiskCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache in {}", self.folder.display())
    }
}

#[async_trait]
impl CacheStore for DiskCache {
    async fn get(&self, key: &Digest) -> Result<Option<CacheRecord>> {
        let path = self.path(key);
        // A record is smaller than a page and usually in the page cache, so no other thread is needed.
        match std::fs::read(&path) {
            // One that a clean-up takes away at this moment counts as missing.
            Ok(bytes) if uses::touch(&path) => Ok(parse(&bytes)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot read the cache record", &path, e)),
        }
    }

    async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()> {
        let path = self.path(key);
        let mut bytes = serde_json::to_vec(record)
            .map_err(|e| Error::internal("a cache record cannot be written as JSON").with_source(e))?;
        let check = Digest::sha256(&bytes);
        bytes.push(b'\n');
        bytes.extend_from_slice(check.hex().as_bytes());
        self.write(&path, &bytes).map_err(|e| Error::io("cannot write the cache record", &path, e))
    }

    async fn remove(&self, key: &Digest) -> Result<()> {
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != NotFound => Err(Error::io("cannot remove the cache record", &path, e)),
            _ => Ok(()),
        }
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<CacheEntry>> {
        let (mut page, last) = (Vec::new(), after.map_or("", Digest::hex));
        for prefix in names(&self.folder)? {
            if last.get(..prefix.len()).is_some_and(|first| *prefix < *first) {
                continue;
            }
            for name in names(&self.folder.join(&prefix))? {
                if page.len() == limit {
                    return Ok(page);
                }
                let Some(key) = key_of(&name).filter(|_| *name > *last) else { continue };
                // A record that is removed meanwhile is not listed, nor is a damaged one.
                let path = self.path(&key);
                let Ok(bytes) = std::fs::read(&path) else { continue };
                let used = std::fs::metadata(&path).and_then(|meta| meta.modified());
                if let (Some(record), Ok(used)) = (parse(&bytes), used) {
                    page.push(CacheEntry { key, used, record });
                }
            }
        }
        Ok(page)
    }

    async fn remove_unused(&self, key: &Digest, before: Option<SystemTime>) -> Result<bool> {
        let path = self.path(key);
        let failed = |e| Error::io("cannot remove the cache record", &path, e);
        // The name is that of a temporary file, which is removed when it is old.
        let aside = tempfile::Builder::new().tempfile_in(&self.folder).map_err(failed)?.into_temp_path();
        let is_unused = |used| before.is_none_or(|before| used < before);
        uses::take_away(&path, &aside, is_unused).map_err(failed)
    }
}
