//! eStargz: a gzip layer with a table of contents, from which a snapshotter fetches single files.
//!
//! ```text
//!   [headers] [chunk of a file, headers]…      members of gzip: the tar, byte for byte
//!   [a tar with the file stargz.index.json]    members of gzip: the table
//!   [51 bytes]                                 an empty member, whose header has the offset of the table
//! ```
//!
//! # Invariants
//! - Every chunk of a file begins a member, so that it can be read without what is before it.
//! - The table comes after the end of the archive: programs that do not know it unpack the same files.
//! - The bytes depend on the tar and the level alone.

use super::compress::{LayerCompressor, TailWriter};
use super::entry::{Entry, EntryKind, LayerPath, OPAQUE_NAME, WHITEOUT_PREFIX};
use super::reader::LayerReader;
use crate::clock::rfc3339;
use crate::digest::Hasher;
use crate::oci::Annotations;
use crate::{Digest, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// The name of the table in its archive.
const TABLE: &str = "stargz.index.json";
/// The annotation of a layer with the digest of its table.
pub(crate) const TABLE_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The annotation of a layer with the size of what is compressed in it.
const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// The largest piece of a file that is fetched at once. It is a block of the compressor, too.
const CHUNK: u64 = 1 << 20;
const BLOCK: usize = 512;

/// Compresses a tar as eStargz. The table is written when the compressor is finished.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for a name that the table cannot have; [`crate::ErrorKind::Invalid`] for an archive that
/// is damaged; those of the source and of the compressor.
pub(crate) fn write_estargz<S: Write + Send + 'static>(
    tar: impl Read,
    sink: LayerCompressor<S>,
) -> Result<LayerCompressor<S>> {
    let sink = RefCell::new(sink);
    let mut table = Table::default();
    let mut reader = LayerReader::new(Tap { inner: tar, sink: &sink });
    while let Some(entry) = reader.next_entry()? {
        table.add(&entry, &mut reader, || sink.borrow_mut().cut())?;
    }
    drop(reader);
    let mut sink = sink.into_inner();
    sink.cut()?;
    sink.set_tail(Box::new(move |ends, out| table.write(ends, out)));
    Ok(sink)
}

/// Passes on what is read.
struct Tap<'a, R, S> {
    inner: R,
    sink: &'a RefCell<LayerCompressor<S>>,
}

impl<R: Read, S: Write + Send + 'static> Read for Tap<'_, R, S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.sink.borrow_mut().write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// An entry of the table, but for the offset of its chunk.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "str::is_empty")]
    time: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<&'a Digest>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A chunk of a file.
struct Chunk {
    /// The number of its member.
    member: usize,
    size: u64,
    digest: Digest,
}

/// The table: the text of all rows, without what follows the last field of each.
#[derive(Default)]
struct Table {
    text: String,
    /// Where the text of each row ends, and the number of its member.
    rows: Vec<(usize, Option<usize>)>,
}

impl Table {
    /// Adds an entry, whose data is read. `cut` begins a member and returns its number.
    fn add(
        &mut self,
        entry: &Entry,
        data: &mut impl Read,
        mut cut: impl FnMut() -> Result<usize>,
    ) -> Result<()> {
        let name = name_of(entry)?;
        if name == TABLE {
            let message = format!("a layer with a file `{TABLE}` of its own cannot be compressed as estargz");
            return Err(Error::unsupported(message));
        }
        let (mut whole, mut chunks, mut left) = (Hasher::sha256(), Vec::new(), entry.size());
        while left > 0 {
            let member = cut()?;
            let size = left.min(CHUNK);
            let mut chunk = Hasher::sha256();
            let copied = std::io::copy(&mut data.take(size), &mut Both(&mut whole, &mut chunk))?;
            if copied < size {
                return Err(Error::invalid("the archive is cut off"));
            }
            chunks.push(Chunk { member, size, digest: chunk.finish() });
            left -= size;
        }
        let whole = whole.finish();
        let first = chunks.first();
        let (kind, link, device) = match &entry.kind {
            EntryKind::File { .. } | EntryKind::Whiteout | EntryKind::OpaqueWhiteout => {
                ("reg", String::new(), (0, 0))
            }
            EntryKind::Directory => ("dir", String::new(), (0, 0)),
            EntryKind::Symlink { target } => ("symlink", text(target)?.to_owned(), (0, 0)),
            EntryKind::Hardlink { target } => ("hardlink", text(target.as_bytes())?.to_owned(), (0, 0)),
            EntryKind::CharDevice { major, minor } => ("char", String::new(), (*major, *minor)),
            EntryKind::BlockDevice { major, minor } => ("block", String::new(), (*major, *minor)),
            EntryKind::Fifo => ("fifo", String::new(), (0, 0)),
        };
        let mut xattrs = BTreeMap::new();
        for (key, value) in &entry.xattrs {
            xattrs.insert(text(key)?.to_owned(), STANDARD.encode(value));
        }
        let row = Row {
            name: &name,
            kind,
            size: entry.size(),
            time: &if entry.mtime == 0 { String::new() } else { rfc3339(entry.mtime) },
            link_name: &link,
            mode: entry.mode.into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            dev_major: device.0.into(),
            dev_minor: device.1.into(),
            xattrs,
            digest: (kind == "reg").then_some(&whole),
            chunk_offset: 0,
            chunk_size: first.filter(|_| chunks.len() > 1).map_or(0, |chunk| chunk.size),
            chunk_digest: first.map(|chunk| &chunk.digest),
        };
        self.push(&row, first.map(|chunk| chunk.member))?;
        let mut offset = first.map_or(0, |chunk| chunk.size);
        for chunk in chunks.iter().skip(1) {
            let row = Row {
                kind: "chunk",
                size: 0,
                time: "",
                link_name: "",
                mode: 0,
                uid: 0,
                gid: 0,
                xattrs: BTreeMap::new(),
                digest: None,
                chunk_offset: offset,
                chunk_size: chunk.size,
                chunk_digest: Some(&chunk.digest),
                ..row
            };
            self.push(&row, Some(chunk.member))?;
            offset += chunk.size;
        }
        Ok(())
    }

    fn push(&mut self, row: &Row<'_>, member: Option<usize>) -> Result<()> {
        let json = serde_json::to_string(row)
            .map_err(|e| Error::internal("a row of the table cannot be written").with_source(e))?;
        // The offset follows when the members before it are compressed.
        self.text.push_str(json.strip_suffix('}').unwrap_or(&json));
        self.rows.push((self.text.len(), member));
        Ok(())
    }

    /// Passes on the table as JSON. `ends` are the ends of the members.
    fn json(&self, ends: &[u64], mut pass: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        pass(br#"{"version":1,"entries":["#)?;
        let mut from = 0;
        for (at, (to, member)) in self.rows.iter().enumerate() {
            if at > 0 {
                pass(b",")?;
            }
            pass(&self.text.as_bytes()[from..*to])?;
            if let Some(member) = member {
                let offset = member.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied());
                let offset = offset.ok_or_else(|| Error::internal("a chunk has no offset"))?;
                pass(format!(r#","offset":{offset}"#).as_bytes())?;
            }
            pass(b"}")?;
            from = *to;
        }
        pass(b"]}")
    }

    /// Writes the table in its archive, and the footer.
    fn write(self, ends: &[u64], out: &mut TailWriter<'_>) -> Result<Annotations> {
        let (mut size, mut hasher) = (0, Hasher::sha256());
        self.json(ends, |bytes| {
            size += bytes.len();
            hasher.update(bytes);
            Ok(())
        })?;
        let mut header = tar::Header::new_ustar();
        header.set_path(TABLE)?;
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        self.json(ends, |bytes| Ok(out.write_all(bytes)?))?;
        let padding = size.next_multiple_of(BLOCK) - size;
        out.write_all(&vec![0; padding + 2 * BLOCK])?;
        out.end_member()?;
        out.write_raw(&footer(ends.last().copied().unwrap_or_default()))?;
        Ok(Annotations::from([
            (TABLE_DIGEST.to_owned(), hasher.finish().to_string()),
            (UNCOMPRESSED_SIZE.to_owned(), out.uncompressed_size().to_string()),
        ]))
    }
}

/// The end of the blob: an empty member of gzip, with the offset of the table in an extra field.
fn footer(offset: u64) -> Vec<u8> {
    let field = format!("{offset:016x}STARGZ");
    let mut bytes = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0];
    bytes.extend(field.as_bytes());
    // An empty block that is not compressed, the checksum and the size of nothing.
    bytes.extend([1, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

struct Both<'a>(&'a mut Hasher, &'a mut Hasher);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        self.1.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The name of an entry in an archive.
fn name_of(entry: &Entry) -> Result<String> {
    let below = |folder: &LayerPath, name: &[u8]| match folder.is_root() {
        true => name.to_vec(),
        false => [folder.as_bytes(), b"/", name].concat(),
    };
    let path = &entry.path;
    let name = match entry.kind {
        EntryKind::Directory if path.is_root() => b"./".to_vec(),
        EntryKind::Directory => [path.as_bytes(), b"/"].concat(),
        EntryKind::Whiteout => {
            let parent = path.parent().unwrap_or_default();
            below(&parent, &[WHITEOUT_PREFIX, path.file_name()].concat())
        }
        EntryKind::OpaqueWhiteout => below(path, OPAQUE_NAME),
        _ => path.as_bytes().to_vec(),
    };
    text(&name).map(str::to_owned)
}

/// A text of the table, which is JSON.
fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| {
        let shown = super::entry::escape(bytes);
        Error::unsupported(format!(
            "the name `{shown}` is not UTF-8, so its layer cannot be compressed as estargz"
        ))
    })
}

#[cfg(test)]
mod tests;
