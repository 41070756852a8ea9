//! Writes layers: canonical tar, USTAR with PAX records where USTAR is too small.
//!
//! ```text
//!   [PAX header + records]  header  data, padded to 512     one entry
//!   ...
//!   1024 zero bytes                                         the end
//! ```
//!
//! # Invariants
//! - The bytes depend on the entries only: no clock, no user names, PAX records sorted by key, nothing optional.
//! - Entries come in [`Entry::layer_order`], and a parent in the same layer is always a directory.
//! - Times are whole seconds and never later than the epoch, if there is one. Archives that only transfer files between
//!   processes of a build have exact times.

use super::entry::{Entry, EntryKind, LayerPath, OPAQUE_NAME, WHITEOUT_PREFIX};
use super::index::LayerIndex;
use super::index_format::Encoder;
use super::reader::LayerReader;
use super::times::EntryTimes;
use crate::digest::Hasher;
use crate::{Error, ErrorKind, Result, ResultExt};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{Read, Write};

const BLOCK: usize = 512;
const COPY_BUFFER: usize = 128 << 10;
/// The largest numbers for the eleven and seven octal digits of a header.
const MAX_11: u64 = 0o77_777_777_777;
const MAX_7: u64 = 0o7_777_777;

/// Writes one layer as a tar archive and makes its index.
///
/// Dropping it without [`LayerWriter::finish`] leaves an incomplete archive.
///
/// ```
/// use hyper_sdk::layer::LayerWriter;
/// use hyper_sdk::testing::RandomImage;
///
/// // The canonical form of a layer, with no time after the epoch.
/// let layer = RandomImage::new(1).layers.remove(0);
/// let mut writer = LayerWriter::new(Vec::new(), Some(0));
/// writer.append_all(&layer.tar[..])?;
/// let (tar, index) = writer.finish()?;
/// assert!(index.entries().iter().all(|entry| entry.mtime <= 0));
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    inner: W,
    epoch: Option<i64>,
    exact: bool,
    /// Whether names with `.wh.` would stand for what is removed.
    is_layer: bool,
    times: EntryTimes,
    index: Encoder,
    last: Option<Entry>,
    buffer: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Makes a writer to `inner`; every time later than `epoch` becomes `epoch`.
    pub fn new(inner: W, epoch: Option<i64>) -> Self {
        let (times, index, last, buffer) = (EntryTimes::default(), Encoder::default(), None, Vec::new());
        Self { inner, epoch, exact: false, is_layer: true, times, index, last, buffer }
    }

    /// Makes a writer to `inner` that keeps exact times in nanoseconds. The result is not a layer to store: it is the
    /// input for [`LayerWriter::append_all`] of another writer.
    pub fn exact(inner: W) -> Self {
        Self { exact: true, ..Self::new(inner, None) }
    }

    /// Makes a writer to `inner` of an archive that is no layer: it has exact times, and names that begin with `.wh.` are
    /// names as all others are.
    pub(crate) fn of_files(inner: W) -> Self {
        Self { is_layer: false, ..Self::exact(inner) }
    }

    /// The times of the entries written so far, before they were rounded and clamped to the epoch.
    pub fn take_times(&mut self) -> EntryTimes {
        std::mem::take(&mut self.times)
    }

    /// Writes every entry of another archive.
    ///
    /// # Errors
    /// Those of [`LayerReader::next_entry`] and of [`LayerWriter::append`].
    pub fn append_all(&mut self, archive: impl Read) -> Result<()> {
        let mut reader = LayerReader::new(archive);
        while let Some(entry) = reader.next_entry()? {
            self.append(&entry, Some(&mut reader))?;
        }
        Ok(())
    }

    /// Writes an entry. The content of a file comes from `data`, which must have exactly the size of the entry and, if
    /// set, its digest. `None` is allowed for an empty file and for all other kinds.
    ///
    /// After an error the archive is unusable.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when entries are out of order; [`ErrorKind::Conflict`] when a file shrinks, grows or
    /// changes while it is read; [`ErrorKind::Invalid`] when a name would be read as a whiteout or an attribute cannot
    /// be written; [`ErrorKind::Io`] from either side.
    pub fn append(&mut self, entry: &Entry, data: Option<&mut dyn Read>) -> Result<()> {
        self.check(entry)?;
        let mut entry = entry.clone();
        if !self.exact {
            self.times.push(&entry);
            entry.mtime = entry.mtime.min(self.epoch.unwrap_or(i64::MAX));
            entry.nanoseconds = 0;
        }
        self.inner.write_all(&head(&entry)?).context("path", &entry.path)?;
        if let EntryKind::File { size, digest } = &mut entry.kind {
            let got = self.copy(&entry.path, *size, data)?;
            if digest.as_ref().is_some_and(|d| *d != got && d.algorithm() == got.algorithm()) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the file changed while it was read: build again once nothing writes to it",
                )
                .with_context("path", &entry.path));
            }
            *digest = Some(got);
        }
        self.index.push(&entry);
        self.last = Some(entry);
        Ok(())
    }

    /// Finishes the archive and returns the flushed writer and the index.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the end cannot be written.
    pub fn finish(mut self) -> Result<(W, LayerIndex)> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok((self.inner, LayerIndex::encoded(self.index)))
    }

    fn check(&self, entry: &Entry) -> Result<()> {
        let internal = |why: &str| Err(Error::internal(why.to_owned()).with_context("path", &entry.path));
        if let Some(last) = &self.last {
            if last.layer_order(entry) != Ordering::Less {
                return internal("the entries of a layer must be written in order");
            }
            if last.path == entry.path
                && entry.kind == EntryKind::OpaqueWhiteout
                && last.kind != EntryKind::Directory
            {
                return internal("an opaque mark of a layer is not on a directory");
            }
            // In this order the first entry below another one follows it directly.
            if last.path != entry.path
                && entry.path.starts_with(&last.path)
                && !matches!(last.kind, EntryKind::Directory | EntryKind::OpaqueWhiteout)
            {
                return internal("a parent of an entry of a layer is not a directory");
            }
        }
        if entry.mode & !0o7777 != 0 {
            return internal("the mode of a layer entry has more than permission bits");
        }
        if entry.path.is_root() && !matches!(entry.kind, EntryKind::Directory | EntryKind::OpaqueWhiteout) {
            return internal("the root of a layer must be a directory");
        }
        if let EntryKind::Hardlink { target } = &entry.kind
            && *target == entry.path
        {
            return internal("a hardlink of a layer names itself");
        }
        if self.is_layer && entry.path.parts().any(|part| part.starts_with(WHITEOUT_PREFIX)) {
            return Err(Error::invalid(
                "a file name that starts with `.wh.` would be read as a whiteout: rename it",
            )
            .with_context("path", &entry.path));
        }
        Ok(())
    }

    fn copy(&mut self, path: &LayerPath, size: u64, data: Option<&mut dyn Read>) -> Result<crate::Digest> {
        let changed = |how: &str| {
            Error::new(
                ErrorKind::Conflict,
                format!("the file {how} while it was read: build again once nothing writes to it"),
            )
            .with_context("path", path)
            .with_context("expected size", size)
        };
        let mut hasher = Hasher::sha256();
        let mut empty = std::io::empty();
        let data = data.unwrap_or(&mut empty);
        self.buffer.resize(COPY_BUFFER, 0);
        let mut left = size;
        loop {
            // One byte more than announced is read, to detect a file that grew.
            let want = left.saturating_add(1).min(COPY_BUFFER as u64) as usize;
            let count = match data.read(&mut self.buffer[..want]) {
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::from(e)).context("path", path),
            };
            if count == 0 {
                break;
            }
            left = left.checked_sub(count as u64).ok_or_else(|| changed("grew"))?;
            hasher.update(&self.buffer[..count]);
            self.inner.write_all(&self.buffer[..count]).context("path", path)?;
        }
        if left != 0 {
            return Err(changed("shrank"));
        }
        self.inner.write_all(&[0; BLOCK][..padding(size)])?;
        Ok(hasher.finish())
    }
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// The header blocks of an entry: the PAX header and records if needed, then the header itself.
fn head(entry: &Entry) -> Result<Vec<u8>> {
    let mut pax: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut header = [0u8; BLOCK];
    let name = archive_name(entry)?;
    put_name(&mut header, &mut pax, &name);
    let (kind, link, size): (u8, &[u8], u64) = match &entry.kind {
        EntryKind::File { size, .. } => (b'0', b"", *size),
        EntryKind::Whiteout | EntryKind::OpaqueWhiteout => (b'0', b"", 0),
        EntryKind::Hardlink { target } => (b'1', target.as_bytes(), 0),
        EntryKind::Symlink { target } => (b'2', target, 0),
        EntryKind::CharDevice { .. } => (b'3', b"", 0),
        EntryKind::BlockDevice { .. } => (b'4', b"", 0),
        EntryKind::Directory => (b'5', b"", 0),
        EntryKind::Fifo => (b'6', b"", 0),
    };
    if matches!(kind, b'1' | b'2')
        && (link.is_empty() || link.contains(&0) || link.len() > super::entry::MAX_PATH)
    {
        return Err(Error::invalid("a link of a layer has an empty, overlong or impossible target")
            .with_context("path", &entry.path));
    }
    header[156] = kind;
    if link.len() <= 100 && link.is_ascii() {
        header[157..157 + link.len()].copy_from_slice(link);
    } else {
        pax.insert(b"linkpath".to_vec(), link.to_vec());
        put_ascii(&mut header[157..257], link);
    }
    octal(&mut header[100..108], u64::from(entry.mode));
    for (field, key, value) in [(108, "uid", entry.uid), (116, "gid", entry.gid)] {
        number(&mut header[field..field + 8], &mut pax, key, u64::from(value), MAX_7);
    }
    number(&mut header[124..136], &mut pax, "size", size, MAX_11);
    match u64::try_from(entry.mtime) {
        Ok(mtime) if entry.nanoseconds == 0 => {
            number(&mut header[136..148], &mut pax, "mtime", mtime, MAX_11);
        }
        _ => {
            octal(&mut header[136..148], 0);
            pax.insert(b"mtime".to_vec(), time_text(entry).into_bytes());
        }
    }
    header[257..265].copy_from_slice(b"ustar\x0000");
    if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } = entry.kind {
        for (field, value) in [(329, major), (337, minor)] {
            if u64::from(value) > MAX_7 {
                return Err(Error::unsupported("a device number that a tar archive cannot hold")
                    .with_context("path", &entry.path));
            }
            octal(&mut header[field..field + 8], u64::from(value));
        }
    }
    for (key, value) in &entry.xattrs {
        if key.is_empty() || key.contains(&b'=') || key.contains(&0) {
            return Err(Error::invalid("an extended attribute has a name that a tar archive cannot hold")
                .with_context("path", &entry.path)
                .with_context("attribute", super::entry::escape(key)));
        }
        pax.insert([b"SCHILY.xattr.", &key[..]].concat(), value.clone());
    }
    let mut out = Vec::with_capacity(BLOCK);
    if !pax.is_empty() {
        let mut records = Vec::new();
        for (key, value) in &pax {
            put_record(&mut records, key, value);
        }
        let mut extra = [0u8; BLOCK];
        let base = entry.path.file_name();
        extra[..13].copy_from_slice(b"PaxHeaders.0/");
        put_ascii(&mut extra[13..100], if base.is_empty() { b"root" } else { base });
        octal(&mut extra[100..108], 0o644);
        octal(&mut extra[108..116], 0);
        octal(&mut extra[116..124], 0);
        octal(&mut extra[124..136], records.len() as u64);
        octal(&mut extra[136..148], 0);
        extra[156] = b'x';
        extra[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut extra);
        out.extend_from_slice(&extra);
        let size = records.len() as u64;
        out.append(&mut records);
        out.resize(out.len() + padding(size), 0);
    }
    seal(&mut header);
    out.extend_from_slice(&header);
    Ok(out)
}

/// A time in PAX format: the seconds, with a fraction if needed.
fn time_text(entry: &Entry) -> String {
    const SECOND: u32 = 1_000_000_000;
    match (entry.mtime, entry.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., fraction) => format!("{seconds}.{fraction:09}"),
        // The nanoseconds count upwards, but a negative number with a fraction counts down.
        (seconds, fraction) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), SECOND - fraction),
    }
}

/// The name in the archive: a slash after directories, `.wh.` before whiteouts, `./` for the root.
fn archive_name(entry: &Entry) -> Result<Vec<u8>> {
    let path = entry.path.as_bytes();
    Ok(match entry.kind {
        EntryKind::Directory if path.is_empty() => b"./".to_vec(),
        EntryKind::Directory => [path, b"/"].concat(),
        EntryKind::OpaqueWhiteout if path.is_empty() => OPAQUE_NAME.to_vec(),
        EntryKind::OpaqueWhiteout => [path, b"/", OPAQUE_NAME].concat(),
        EntryKind::Whiteout => {
            let hidden = entry.path.file_name();
            let parent = &path[..path.len() - hidden.len()];
            let name = [parent, WHITEOUT_PREFIX, hidden].concat();
            if hidden.len() + WHITEOUT_PREFIX.len() > super::entry::MAX_NAME {
                return Err(Error::unsupported("a whiteout of a name longer than 251 bytes")
                    .with_context("path", &entry.path));
            }
            name
        }
        _ => path.to_vec(),
    })
}

fn put_name(header: &mut [u8; BLOCK], pax: &mut BTreeMap<Vec<u8>, Vec<u8>>, name: &[u8]) {
    if name.is_ascii() {
        if name.len() <= 100 {
            header[..name.len()].copy_from_slice(name);
            return;
        }
        // The leftmost slash that leaves at most 100 bytes for the name: the shortest prefix.
        let slash = (name.len() - 101..name.len().saturating_sub(1)).find(|&at| name[at] == b'/');
        if let Some(slash) = slash.filter(|&at| at > 0 && at <= 155) {
            header[345..345 + slash].copy_from_slice(&name[..slash]);
            header[..name.len() - slash - 1].copy_from_slice(&name[slash + 1..]);
            return;
        }
    }
    pax.insert(b"path".to_vec(), name.to_vec());
    put_ascii(&mut header[..100], name);
}

/// Writes a fallback for readers that do not know PAX.
fn put_ascii(field: &mut [u8], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = if from.is_ascii_graphic() { *from } else { b'_' };
    }
}

fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

fn number(field: &mut [u8], pax: &mut BTreeMap<Vec<u8>, Vec<u8>>, key: &str, value: u64, max: u64) {
    if value <= max {
        octal(field, value);
    } else {
        octal(field, 0);
        pax.insert(key.as_bytes().to_vec(), value.to_string().into_bytes());
    }
}

/// A PAX record: its own length in decimal, a space, `key=value` and a newline.
fn put_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn seal(header: &mut [u8; BLOCK]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    octal(&mut header[148..155], u64::from(sum));
    header[154] = 0;
}
