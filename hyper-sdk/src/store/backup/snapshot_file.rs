//! The file of a snapshot: lines of JSON.
//!
//! ```text
//!   {"snapshot":{"version":1,"id":…,"registry":…,"store":…,"created":…}}
//!   {"blob":{…}} … {"repository":{…}} … {"link":{…}} … {"manifest":{…}} … {"tag":{…}} … {"token":{…}} … {"damaged":{…}} …
//!   {"end":{"rows":{"blobs":…,"manifests":…,…},"digest":"sha256:…"}}
//! ```
//!
//! # Invariants
//! - The digest in the last line is that of all lines before. A reader has verified nothing before it has read the last line.
//! - Kinds come in their order, blobs in the order of their digests, and each manifest matches its digest.
//! - A reader keeps one line in memory, which is no longer than [`MAX_LINE`].

use crate::digest::Hasher;
use crate::store::meta::{Ancestor, Row, RowCounts, RowKind};
use crate::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read as _, Write};

/// The longest line in bytes.
pub(super) const MAX_LINE: u64 = 64 << 20;

/// The version of the format.
const VERSION: u32 = 1;

/// What the first line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The version of the format.
    pub version: u32,
    /// The name of the snapshot.
    pub id: String,
    /// The name of the registry ([`Portable::registry_name`](crate::store::Portable::registry_name)).
    pub registry: String,
    /// Where the registry was, for people.
    pub store: String,
    /// The moment, in seconds since 1970.
    pub created: i64,
    /// The registries of which this one was made, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

impl SnapshotHeader {
    /// The header of a new snapshot.
    pub fn new(
        id: impl Into<String>,
        registry: impl Into<String>,
        store: impl Into<String>,
        created: i64,
    ) -> Self {
        Self {
            version: VERSION,
            id: id.into(),
            registry: registry.into(),
            store: store.into(),
            created,
            ancestors: Vec::new(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct First {
    snapshot: SnapshotHeader,
}

#[derive(Serialize, Deserialize)]
struct Last {
    end: End,
}

/// What the last line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) rows: RowCounts,
    digest: Digest,
}

/// Writes a snapshot. Without [`SnapshotWriter::finish`] it is none.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::store::backup::{SnapshotHeader, SnapshotReader, SnapshotWriter};
/// use hyper_sdk::store::meta::{BlobRow, Row};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let row = Row::Blob(BlobRow { digest: Digest::sha256("hello"), size: 5, created: 0 });
/// let header = SnapshotHeader::new("1", "registry", "memory", 0);
/// let mut writer = SnapshotWriter::begin(Vec::new(), &header)?;
/// writer.write(&row)?;
/// let (bytes, counts) = writer.finish()?;
/// let mut reader = SnapshotReader::open(&bytes[..])?;
/// assert_eq!(reader.header(), &header);
/// assert_eq!(reader.next_row()?, Some(row));
/// assert_eq!(reader.next_row()?, None);
/// assert_eq!(reader.counts(), Some(&counts));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SnapshotWriter<W> {
    out: W,
    hasher: Hasher,
    counts: RowCounts,
}

impl<W: Write> SnapshotWriter<W> {
    /// Writes the first line.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(out: W, header: &SnapshotHeader) -> Result<Self> {
        let mut writer = Self { out, hasher: Hasher::sha256(), counts: RowCounts::default() };
        writer.line(&First { snapshot: header.clone() })?;
        Ok(writer)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)
            .map_err(|e| Error::internal("a row cannot be written as JSON").with_source(e))?;
        line.push(b'\n');
        if line.len() as u64 > MAX_LINE {
            return Err(Error::new(ErrorKind::TooLarge, "a row is too large for a snapshot"));
        }
        self.hasher.update(&line);
        Ok(self.out.write_all(&line)?)
    }

    /// Writes a row. The caller keeps the order.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for a row that no reader would take, of which nothing is written; those of writing.
    pub fn write(&mut self, row: &Row) -> Result<()> {
        self.line(row)?;
        self.counts.add(row);
        Ok(())
    }

    /// What was written.
    pub fn counts(&self) -> &RowCounts {
        &self.counts
    }

    /// Writes what is still in buffers.
    ///
    /// # Errors
    /// Those of writing.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> Result<(W, RowCounts)> {
        let digest = self.hasher.clone().finish();
        self.line(&Last { end: End { rows: self.counts, digest } })?;
        self.out.flush()?;
        Ok((self.out, self.counts))
    }
}

/// Reads a snapshot, row by row. What it has given is verified once it has given `None`.
#[derive(Debug)]
pub struct SnapshotReader<R> {
    input: R,
    header: SnapshotHeader,
    hasher: Hasher,
    counts: RowCounts,
    kind: RowKind,
    last_blob: Option<Digest>,
    end: Option<RowCounts>,
    line: Vec<u8>,
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

impl<R: BufRead> SnapshotReader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when this is no snapshot, [`ErrorKind::Unsupported`] when it has another version, and those of
    /// reading.
    pub fn open(input: R) -> Result<Self> {
        let mut reader = Self {
            input,
            header: SnapshotHeader::new("", "", "", 0),
            hasher: Hasher::sha256(),
            counts: RowCounts::default(),
            kind: RowKind::Blob,
            last_blob: None,
            end: None,
            line: Vec::new(),
        };
        reader.read_line()?;
        let First { snapshot } = serde_json::from_slice(&reader.line)
            .map_err(|e| damaged("the file is not a snapshot: its first line is another").with_source(e))?;
        if snapshot.version != VERSION {
            return Err(Error::unsupported(format!(
                "the snapshot has version {}, and this program knows version {VERSION}",
                snapshot.version
            )));
        }
        reader.hasher.update(&reader.line);
        reader.header = snapshot;
        Ok(reader)
    }

    /// Reads a line with its end.
    fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        let mut limited = (&mut self.input).take(MAX_LINE);
        limited.read_until(b'\n', &mut self.line)?;
        match self.line.last() {
            Some(b'\n') => Ok(()),
            None => Err(damaged("the snapshot ends early")),
            Some(_) if self.line.len() as u64 == MAX_LINE => {
                Err(damaged("a line of the snapshot is too long"))
            }
            Some(_) => Err(damaged("the snapshot ends within a line")),
        }
    }

    /// The first line.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The numbers of rows, once all are read and verified.
    pub fn counts(&self) -> Option<&RowCounts> {
        self.end.as_ref()
    }

    /// The next row; `None` at the end, which is then verified.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the snapshot is damaged; those of reading.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        if self.end.is_some() {
            return Ok(None);
        }
        self.read_line()?;
        if self.line.starts_with(b"{\"end\":") {
            self.finish()?;
            return Ok(None);
        }
        self.hasher.update(&self.line);
        let row: Row = serde_json::from_slice(&self.line)
            .map_err(|e| damaged("a line of the snapshot is not a row").with_source(e))?;
        self.check(&row)?;
        self.counts.add(&row);
        Ok(Some(row))
    }

    fn check(&mut self, row: &Row) -> Result<()> {
        if row.kind() < self.kind {
            return Err(damaged("the rows of the snapshot are not in their order"));
        }
        self.kind = row.kind();
        match row {
            Row::Blob(blob) => {
                if self.last_blob.as_ref().is_some_and(|last| *last >= blob.digest) {
                    return Err(damaged("the blobs of the snapshot are not in their order"));
                }
                self.last_blob = Some(blob.digest.clone());
            }
            Row::Manifest(row) if row.digest.algorithm().digest(&row.body) != row.digest => {
                return Err(damaged("a manifest of the snapshot does not match its digest")
                    .with_context("digest", &row.digest));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let Last { end } = serde_json::from_slice(&self.line)
            .map_err(|e| damaged("the last line of the snapshot is damaged").with_source(e))?;
        if end.digest != self.hasher.clone().finish() || end.rows != self.counts {
            return Err(damaged("the snapshot does not match the digest in its last line"));
        }
        if !self.input.fill_buf()?.is_empty() {
            return Err(damaged("the snapshot has something after its last line"));
        }
        self.end = Some(end.rows);
        Ok(())
    }
}

/// What the last line says, without a check of what is before.
pub(super) fn parse_end(line: &[u8]) -> Option<RowCounts> {
    serde_json::from_slice::<Last>(line).ok().map(|last| last.end.rows)
}
