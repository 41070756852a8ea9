//! The result of planning: the entries of the layer, in order, and the source of each file's content.

use super::file_digest::{CAPABILITY, FileDigest, FileHasher, capability};
use super::pending::PlannedEntries;
use super::planned_entry::{Content, PlannedEntry};
use super::reading::{self, SmallFile};
use crate::digest::Hasher;
use crate::layer::{Entry, EntryKind, EntryTimes, LayerWriter};
use crate::{Digest, Result, ResultExt};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The planned layer of an instruction.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) entries: PlannedEntries,
}

/// An entry of a plan with what its part of the digest is made of, for who lists it.
pub(crate) struct DigestedEntry<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// The path of the file in its source, when it has content from there.
    pub source: Option<Vec<u8>>,
    /// Whether the source was fetched.
    pub is_fetched: bool,
    /// The SHA-256 of the content, and the capability of the file.
    pub hashed: Option<(&'a [u8; 32], &'a [u8])>,
}

/// Receives the entries that a digest is made of.
type EntryList<'a> = &'a mut dyn FnMut(DigestedEntry<'_>);

/// How many files are hashed before their digests are used.
const HASHED_AT_ONCE: usize = 8192;

struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Plan {
    /// The entries in the order of the layer. Each path occurs once, or twice if it has an opaque mark.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<PlannedEntry> {
        self.entries.iter().map(Cow::into_owned).collect()
    }

    /// The exact times of the entries. Fetched files have the time of the fetch.
    pub(crate) fn times(&self) -> EntryTimes {
        let mut times = EntryTimes::default();
        for planned in self.entries.iter() {
            let PlannedEntry { entry, content, .. } = &*planned;
            let fetched = match content {
                Content::Source { root, .. } => root.fetched(),
                _ => None,
            };
            times.push_as(entry, fetched.map_or(entry.time(), |fetched| fetched.max(entry.time())));
        }
        times
    }

    /// Writes all entries and reads the files on the way.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] from either side; [`crate::ErrorKind::Conflict`] when a file changes meanwhile.
    pub(crate) fn write<W: Write>(&self, writer: &mut LayerWriter<W>) -> Result<()> {
        reading::for_each(&self.entries, reading::threads(), |planned, small| {
            let entry = &planned.entry;
            match (&planned.content, small) {
                (Content::None, _) => writer.append(entry, None),
                (Content::Source { .. }, Some(SmallFile { mut content, capability })) => {
                    append_file(writer, entry, capability, &mut content)
                }
                (Content::Source { root, file }, None) => {
                    let mut file = root.open_file(&file.path())?;
                    let capability = capability(&file).context("path", &entry.path)?;
                    append_file(writer, entry, capability, &mut file)
                }
                (Content::Inline(bytes), _) => writer.append(entry, Some(&mut &bytes[..])),
                (Content::Range { file, offset, size }, _) => {
                    writer.append(entry, Some(&mut Part { file, at: *offset, left: *size }))
                }
            }
        })
    }

    /// The digest of all entries without times: path, kind, mode, owner, size, link target, capability and content.
    /// Equal digests mean that the layers differ only in times.
    ///
    /// Files are hashed by `threads` threads (at least one).
    ///
    /// # Errors
    /// Those of reading the files.
    pub(crate) fn content_digest(&self, hasher: &dyn FileHasher, threads: usize) -> Result<Digest> {
        self.listed_digest(hasher, threads, None)
    }

    /// [`Plan::content_digest`]. `list` gets each entry that it is made of.
    ///
    /// # Errors
    /// Those of reading the files.
    pub(crate) fn listed_digest(
        &self,
        hasher: &dyn FileHasher,
        threads: usize,
        list: Option<EntryList<'_>>,
    ) -> Result<Digest> {
        let mut digest = Hasher::sha256();
        self.add_to(&mut digest, hasher, threads, list)?;
        Ok(digest.finish())
    }

    pub(super) fn add_to(
        &self,
        digest: &mut Hasher,
        hasher: &dyn FileHasher,
        threads: usize,
        mut list: Option<EntryList<'_>>,
    ) -> Result<()> {
        digest.update((self.entries.len() as u64).to_le_bytes());
        for from in (0..self.entries.len()).step_by(HASHED_AT_ONCE) {
            let part: Vec<_> = self.entries.range(from, from + HASHED_AT_ONCE).collect();
            let hashed = hash_files(&part, hasher, threads)?;
            add_entries(&part, &hashed, digest);
            if let Some(list) = &mut list {
                part.iter()
                    .zip(&hashed)
                    .for_each(|(planned, hashed)| list(planned.digested(hashed.as_ref())));
            }
        }
        Ok(())
    }
}

fn append_file<W: Write>(
    writer: &mut LayerWriter<W>,
    entry: &Entry,
    capability: Option<Vec<u8>>,
    content: &mut dyn Read,
) -> Result<()> {
    let Some(value) = capability else { return writer.append(entry, Some(content)) };
    let mut entry = entry.clone();
    entry.xattrs.insert(CAPABILITY.as_bytes().to_vec(), value);
    writer.append(&entry, Some(content))
}

impl PlannedEntry {
    fn digested<'a>(&'a self, hashed: Option<&'a FileDigest>) -> DigestedEntry<'a> {
        let (source, is_fetched) = match &self.content {
            Content::Source { root, file } => (Some(file.path()), root.fetched().is_some()),
            _ => (None, false),
        };
        let parts =
            |hashed: &'a FileDigest| (&hashed.sha256, hashed.capability.as_deref().unwrap_or_default());
        DigestedEntry { entry: &self.entry, source, is_fetched, hashed: hashed.map(parts) }
    }
}

/// Adds some of the entries to a digest.
fn add_entries(entries: &[Cow<'_, PlannedEntry>], hashed: &[Option<FileDigest>], digest: &mut Hasher) {
    for (planned, hashed) in entries.iter().zip(hashed) {
        let entry = &planned.entry;
        digest.update_field(entry.path.as_bytes());
        digest.update_field(entry.kind.name());
        for number in [entry.mode, entry.uid, entry.gid] {
            digest.update(number.to_le_bytes());
        }
        match &entry.kind {
            EntryKind::File { size, .. } => digest.update(size.to_le_bytes()),
            EntryKind::Symlink { target } => digest.update_field(target),
            EntryKind::Hardlink { target } => digest.update_field(target.as_bytes()),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                digest.update(major.to_le_bytes());
                digest.update(minor.to_le_bytes());
            }
            _ => {}
        }
        digest.update((entry.xattrs.len() as u64).to_le_bytes());
        for (name, value) in &entry.xattrs {
            digest.update_field(name);
            digest.update_field(value);
        }
        if let Some(hashed) = hashed {
            digest.update(hashed.sha256);
            digest.update_field(hashed.capability.as_deref().unwrap_or_default());
        }
    }
}

/// The digest of every file, in order; `None` for an entry without content.
fn hash_files(
    entries: &[Cow<'_, PlannedEntry>],
    hasher: &dyn FileHasher,
    threads: usize,
) -> Result<Vec<Option<FileDigest>>> {
    let threads = threads.clamp(1, entries.len() / 64 + 1);
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, FileDigest)>> {
        let mut done = Vec::new();
        loop {
            let from = next.fetch_add(32, Ordering::Relaxed);
            if from >= entries.len() {
                return Ok(done);
            }
            for (i, entry) in entries.iter().enumerate().skip(from).take(32) {
                if let Some(hashed) = hash_content(&entry.content, hasher)? {
                    done.push((i, hashed));
                }
            }
        }
    };
    let parts: Vec<Result<Vec<(usize, FileDigest)>>> = std::thread::scope(|scope| {
        // If a thread cannot start, the others do its work.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut parts = vec![work()];
        for other in others {
            parts.push(
                other.join().unwrap_or_else(|_| Err(crate::Error::internal("a hashing thread panicked"))),
            );
        }
        parts
    });
    let mut hashed = vec![None; entries.len()];
    for part in parts {
        for (i, found) in part? {
            hashed[i] = Some(found);
        }
    }
    Ok(hashed)
}

fn hash_content(content: &Content, hasher: &dyn FileHasher) -> Result<Option<FileDigest>> {
    let mut sha = <sha2::Sha256 as sha2::Digest>::new();
    match content {
        Content::None => return Ok(None),
        Content::Source { root, file } => {
            return hasher.hash_file(&file.metadata(), &|| root.open_file(&file.path())).map(Some);
        }
        Content::Inline(bytes) => sha2::Digest::update(&mut sha, bytes),
        Content::Range { file, offset, size } => {
            let mut part = Part { file, at: *offset, left: *size };
            let mut buffer = vec![0; 64 << 10];
            loop {
                match part.read(&mut buffer)? {
                    0 => break,
                    n => sha2::Digest::update(&mut sha, &buffer[..n]),
                }
            }
        }
    }
    Ok(Some(FileDigest { sha256: sha2::Digest::finalize(sha).into(), capability: None }))
}
