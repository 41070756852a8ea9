//! Reads layers as a stream: USTAR, PAX, GNU and old tar.
//!
//! The reader interprets ambiguous archives like Go's `archive/tar`, which other builders and engines use, or rejects
//! them. It never guesses.
//!
//! # Invariants
//! - Paths are clean ([`LayerPath`]); `..` is rejected, never interpreted; leading slashes are dropped.
//! - A size is accepted only if header and PAX record agree, or the header is zero or at its maximum because it cannot
//!   hold the size. Links, directories and devices have no data, whatever their size field is.
//! - The internal attributes of overlay (`user.overlay.*`, `trusted.overlay.*`) are dropped.
//! - Memory is bounded: one extended header may have 1 MiB, and all those of one entry together 4 MiB.

use super::entry::{Entry, EntryKind, LayerPath, OPAQUE_NAME, WHITEOUT_PREFIX, escape};
use super::file_time::FileTime;
use super::index::{LayerIndex, LayerIndexBuilder};
use crate::digest::Hasher;
use crate::{Error, ErrorKind, Result, ResultExt as _};
use std::collections::BTreeMap;
use std::io::Read;

const BLOCK: usize = 512;
/// How many bytes may follow the end of an archive: the table of an eStargz layer with a million files, and more than any
/// padding.
const MAX_TRAILER: u64 = 512 << 20;
const MAX_EXTENDED: u64 = 1 << 20;
const MAX_EXTENDED_OF_ENTRY: u64 = 4 << 20;
const MAX_11: u64 = 0o77_777_777_777;
const SPARSE: &str = "a sparse file in a layer: write the archive without holes";
const BAD_TIME: &str = "a time in a PAX record of the archive is malformed";

/// Reads the entries of a layer, one after another.
///
/// [`LayerReader::next_entry`] skips the unread data of the last entry. The reader implements [`Read`] for the data of
/// the current entry. At the end of the archive the source is read to its end, so that a verifying source sees
/// everything.
///
/// ```
/// use hyper_sdk::layer::LayerReader;
/// use hyper_sdk::testing::RandomImage;
///
/// let layer = RandomImage::new(1).layers.remove(0);
/// let mut reader = LayerReader::new(&layer.tar[..]);
/// let mut names = Vec::new();
/// while let Some(entry) = reader.next_entry()? {
///     names.push(entry.path.to_string());
/// }
/// assert!(!names.is_empty());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerReader<R> {
    inner: R,
    /// The unread bytes of the current entry's data and of its padding.
    left: u64,
    padding: u64,
    /// The bytes of the extended headers of the entry.
    extended: u64,
    /// Whether names with `.wh.` stand for what is removed.
    is_layer: bool,
    done: bool,
}

#[derive(Debug, Default)]
struct Extended {
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extended {
    /// The value of a PAX record; `None` if it is missing or empty.
    fn record(&self, key: &str) -> Option<&Vec<u8>> {
        self.pax.get(key.as_bytes()).filter(|value| !value.is_empty())
    }
}

impl<R: Read> LayerReader<R> {
    /// Reads an uncompressed layer.
    pub fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, extended: 0, is_layer: true, done: false }
    }

    /// Reads an uncompressed archive that is no layer: names that begin with `.wh.` are names as all others are.
    pub(crate) fn of_files(inner: R) -> Self {
        Self { is_layer: false, ..Self::new(inner) }
    }

    /// The next entry; `None` at the end. AUFS metadata (such as `.wh..wh.aufs`) is skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the archive is damaged, cut off or hostile; [`ErrorKind::Unsupported`] for sparse
    /// files, volumes and unknown types; the errors of the source.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        self.extended = 0;
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                if extended.pax.is_empty() && extended.long_name.is_none() && extended.long_link.is_none() {
                    return Ok(None);
                }
                return Err(damaged("the archive ends after an extended header"));
            };
            match header[156] {
                b'x' => {
                    let records = self.extended_data(&header)?;
                    parse_pax(&records, &mut extended.pax)?;
                }
                b'g' => {
                    let records = self.extended_data(&header)?;
                    let mut global = BTreeMap::new();
                    parse_pax(&records, &mut global)?;
                    if let Some(key) = global.keys().find(|k| *k != b"comment") {
                        return Err(Error::unsupported(format!(
                            "the global PAX record `{}` of a tar archive",
                            escape(key)
                        )));
                    }
                }
                b'L' => extended.long_name = Some(c_string(&self.extended_data(&header)?)),
                b'K' => extended.long_link = Some(c_string(&self.extended_data(&header)?)),
                _ => match self.entry(&header, &extended)? {
                    Some(entry) => return Ok(Some(entry)),
                    None => (extended, self.extended) = (Extended::default(), 0),
                },
            }
        }
    }

    fn skip_data(&mut self) -> Result<()> {
        let mut left = self.left + self.padding;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..want])?;
            left -= want as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_exact(buffer).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("the archive is cut off"),
            _ => Error::from(e),
        })
    }

    /// The next header block, with a verified checksum; `None` at the end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.done {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut block[have..]) {
                Ok(0) if have == 0 => {
                    self.done = true;
                    return Ok(None);
                }
                Ok(0) => return Err(damaged("the archive is cut off")),
                Ok(count) => have += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if block.iter().all(|b| *b == 0) {
            self.done = true;
            // The source is read to its end, so that a verifying source sees everything.
            let rest = std::io::copy(&mut (&mut self.inner).take(MAX_TRAILER + 1), &mut std::io::sink())?;
            if rest > MAX_TRAILER {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "more than 512 MiB follow the end of the archive: it is padded without end",
                ));
            }
            return Ok(None);
        }
        let announced = numeric(&block[148..156])?;
        let sum = |signed: bool| -> i64 {
            let byte = |(at, b): (usize, &u8)| match (148..156).contains(&at) {
                true => i64::from(b' '),
                false if signed => i64::from(*b as i8),
                false => i64::from(*b),
            };
            block.iter().enumerate().map(byte).sum()
        };
        if announced != sum(false) && announced != sum(true) {
            return Err(damaged("a header of the archive has a wrong checksum"));
        }
        Ok(Some(block))
    }

    fn extended_data(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u8>> {
        let size = u64::try_from(numeric(&header[124..136])?).unwrap_or(u64::MAX);
        if size > MAX_EXTENDED {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "an extended header of the archive is larger than 1 MiB",
            ));
        }
        self.extended += size;
        if self.extended > MAX_EXTENDED_OF_ENTRY {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the extended headers of an entry of the archive are larger than 4 MiB",
            ));
        }
        let mut data = vec![0; size as usize];
        self.fill(&mut data)?;
        self.padding = padding(size);
        Ok(data)
    }

    fn entry(&mut self, header: &[u8; BLOCK], extended: &Extended) -> Result<Option<Entry>> {
        if extended.pax.keys().any(|k| k.starts_with(b"GNU.sparse.")) {
            return Err(Error::unsupported(SPARSE));
        }
        let raw_name = match (extended.record("path"), &extended.long_name) {
            (Some(path), _) => path.clone(),
            (None, Some(name)) => name.clone(),
            (None, None) => header_name(header),
        };
        let raw_link = match (extended.record("linkpath"), &extended.long_link) {
            (Some(path), _) => path.clone(),
            (None, Some(name)) => name.clone(),
            (None, None) => c_string(&header[157..257]),
        };
        let path = LayerPath::from_archive(&raw_name)?;
        let (mut entry, data) =
            read_entry(header, extended, &raw_name, raw_link, &path).context("entry", &path)?;
        entry.path = path;
        self.left = data;
        self.padding = padding(data);
        if entry.path.is_root() && entry.kind != EntryKind::Directory {
            return Err(damaged("the root of the archive is not a directory"));
        }
        Ok(if !self.is_layer || whiteout(&mut entry)? { Some(entry) } else { None })
    }
}

/// Makes the entry of a header and its extended headers, without the path, and returns it with the length of its data.
fn read_entry(
    header: &[u8; BLOCK],
    extended: &Extended,
    raw_name: &[u8],
    raw_link: Vec<u8>,
    path: &LayerPath,
) -> Result<(Entry, u64)> {
    let size = size_of(header, extended)?;
    let id = |key: &'static str, field: std::ops::Range<usize>| -> Result<u32> {
        let value = match extended.record(key) {
            Some(text) => decimal(text)?,
            None => numeric(&header[field])?.try_into().unwrap_or(u64::MAX),
        };
        u32::try_from(value).map_err(|_| damaged("an entry has an impossible owner"))
    };
    let (uid, gid) = (id("uid", 108..116)?, id("gid", 116..124)?);
    let mode = (numeric(&header[100..108])? & 0o7777) as u32;
    let FileTime { seconds: mtime, nanoseconds } = match extended.record("mtime") {
        Some(text) => file_time(text).ok_or_else(|| damaged(BAD_TIME))?,
        None => FileTime::of(numeric(&header[136..148])?),
    };
    let xattrs = xattrs_of(extended)?;
    let device = |field: std::ops::Range<usize>| -> Result<u32> {
        numeric(&header[field])?.try_into().map_err(|_| damaged("an entry has an impossible device number"))
    };
    let mut data = 0;
    let kind = match header[156] {
        b'0' | 0 if raw_name.ends_with(b"/") => EntryKind::Directory,
        b'0' | 0 | b'7' => {
            data = size;
            EntryKind::File { size, digest: None }
        }
        b'1' => EntryKind::Hardlink { target: LayerPath::from_archive(&raw_link)? },
        b'2' => {
            if raw_link.is_empty() || raw_link.len() > super::entry::MAX_PATH || raw_link.contains(&0) {
                return Err(damaged("a symlink has an empty, overlong or impossible target"));
            }
            EntryKind::Symlink { target: raw_link }
        }
        b'3' => EntryKind::CharDevice { major: device(329..337)?, minor: device(337..345)? },
        b'4' => EntryKind::BlockDevice { major: device(329..337)?, minor: device(337..345)? },
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        b'S' => return Err(Error::unsupported(SPARSE)),
        other => return Err(Error::unsupported(format!("a tar entry of type `{}`", escape(&[other])))),
    };
    if let EntryKind::Hardlink { target } = &kind
        && (target.is_root() || target == path)
    {
        return Err(damaged("a hardlink names itself or the root"));
    }
    let path = LayerPath::root();
    Ok((Entry { path, kind, mode, uid, gid, mtime, nanoseconds, xattrs }, data))
}

/// The length of the data of an entry, checked against header and PAX record.
fn size_of(header: &[u8; BLOCK], extended: &Extended) -> Result<u64> {
    let header_size = numeric(&header[124..136])?;
    let size = match extended.record("size") {
        None => u64::try_from(header_size).map_err(|_| damaged("an entry has a negative size"))?,
        Some(text) => {
            let size = decimal(text)?;
            let agrees = u64::try_from(header_size)
                .is_ok_and(|h| h == size || h == 0 || (h == MAX_11 && size > MAX_11));
            if !agrees {
                return Err(damaged("the header and the PAX record of an entry disagree about its size"));
            }
            size
        }
    };
    if i64::try_from(size).is_err() {
        return Err(damaged("an entry has an impossible size"));
    }
    Ok(size)
}

/// The extended attributes of an entry.
fn xattrs_of(extended: &Extended) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut xattrs = BTreeMap::new();
    for (key, value) in &extended.pax {
        // libarchive writes its own percent- and base64-encoded copy in addition to the SCHILY one.
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            xattrs.insert(name.to_vec(), value.clone());
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name = percent_decoded(name)?;
            let value = base64_decoded(value)?;
            xattrs.entry(name).or_insert(value);
        }
    }
    if xattrs.keys().any(|n| n.is_empty() || n.len() > 255 || n.contains(&0)) {
        return Err(damaged("an entry has an impossible extended attribute"));
    }
    // They would change the overlay that the layer is unpacked for.
    xattrs.retain(|name, _| !super::files::is_overlay_xattr(name));
    Ok(xattrs)
}

impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = self.left.min(buffer.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(damaged("the archive is cut off").into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Indexes a layer: reads all of it, with the digest of every file.
///
/// # Errors
/// Those of [`LayerReader::next_entry`] and [`LayerIndexBuilder::add`].
pub(crate) fn scan(source: impl Read) -> Result<LayerIndex> {
    let mut reader = LayerReader::new(source);
    let mut builder = LayerIndexBuilder::new();
    let mut buffer = vec![0; 64 << 10];
    while let Some(mut entry) = reader.next_entry()? {
        if let EntryKind::File { digest, .. } = &mut entry.kind {
            *digest = Some(hash_data(&mut reader, &mut buffer, |_| Ok(()))?);
        }
        builder.add(entry)?;
    }
    Ok(builder.finish())
}

/// Reads all data of the current entry, passes it to the callback and returns its digest.
pub(super) fn hash_data<R: Read>(
    reader: &mut LayerReader<R>,
    buffer: &mut [u8],
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<crate::Digest> {
    let mut hasher = Hasher::sha256();
    pass_data(reader, buffer, |bytes| {
        hasher.update(bytes);
        sink(bytes)
    })?;
    Ok(hasher.finish())
}

/// Reads all data of the current entry and passes it to the callback.
pub(super) fn pass_data<R: Read>(
    reader: &mut LayerReader<R>,
    buffer: &mut [u8],
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink(&buffer[..count])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Turns an entry with a `.wh.` name into a whiteout. Returns `false` for AUFS metadata, which must be dropped.
fn whiteout(entry: &mut Entry) -> Result<bool> {
    if entry.path.ancestors().any(|p| p.file_name().starts_with(b".wh..wh.")) {
        return Ok(false);
    }
    let name = entry.path.file_name();
    let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else { return Ok(true) };
    let parent = entry.path.parent().unwrap_or_default();
    if name == OPAQUE_NAME {
        entry.kind = EntryKind::OpaqueWhiteout;
        entry.path = parent;
    } else if hidden.starts_with(WHITEOUT_PREFIX) {
        return Ok(false);
    } else {
        let path = parent.join(hidden)?;
        entry.kind = EntryKind::Whiteout;
        entry.path = path;
    }
    Ok(true)
}

fn damaged(why: &str) -> Error {
    Error::invalid(why.to_owned())
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn c_string(field: &[u8]) -> Vec<u8> {
    field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())].to_vec()
}

fn header_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = c_string(&header[..100]);
    // GNU tar uses the prefix field of USTAR for other data.
    let prefix = if &header[257..263] == b"ustar\0" { c_string(&header[345..500]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [&prefix, &b"/"[..], &name].concat() }
}

/// A number field: octal text, or base 256 when the high bit of the first byte is set.
fn numeric(field: &[u8]) -> Result<i64> {
    let bad = || damaged("a number in a header of the archive is malformed");
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = (value << 8) | i128::from(byte);
            if i64::try_from(value).is_err() {
                return Err(bad());
            }
        }
        return Ok(value as i64);
    }
    let digits = trimmed(field);
    let mut value = 0i64;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad());
        }
        value = value.checked_mul(8).and_then(|v| v.checked_add(i64::from(digit - b'0'))).ok_or_else(bad)?;
    }
    Ok(value)
}

/// A field without the spaces and NULs around it.
fn trimmed(field: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let end = field.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &field[start..end]
}

fn parse_pax(mut records: &[u8], into: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    let bad = || damaged("a PAX record of the archive is malformed");
    while !records.is_empty() {
        let space = records.iter().take(8).position(|b| *b == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(&records[..space])?).map_err(|_| bad())?;
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &records[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let is_text = !key.starts_with(b"SCHILY.xattr.");
        if key.is_empty() || key.contains(&0) || (is_text && value.contains(&0)) {
            return Err(bad());
        }
        into.insert(key.to_vec(), value.to_vec());
        records = &records[length..];
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Result<u64> {
    let bad = || damaged("a number in a PAX record of the archive is malformed");
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)
}

/// The time `[-]SECONDS[.FRACTION]`, rounded down to nanoseconds.
pub(crate) fn file_time(text: &[u8]) -> Option<FileTime> {
    const SECOND: u32 = 1_000_000_000;
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at| fraction.get(at).map_or(0, |b| u32::from(b - b'0'));
    let nanoseconds = (0..9).fold(0, |number, at| number * 10 + digit(at));
    let seconds = i64::try_from(decimal(whole).ok()?).ok()?;
    if !negative {
        return Some(FileTime { seconds, nanoseconds });
    }
    // For a negative time, rounding down is away from zero.
    let below = nanoseconds + u32::from(fraction.iter().skip(9).any(|b| *b != b'0'));
    let seconds = seconds.checked_neg()?;
    if below == 0 {
        return Some(FileTime::of(seconds));
    }
    Some(FileTime { seconds: seconds.checked_sub(1)?, nanoseconds: SECOND - below })
}

fn percent_decoded(text: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'%' {
            let hex = text.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
            let byte = hex.and_then(|h| u8::from_str_radix(h, 16).ok());
            out.push(byte.ok_or_else(|| damaged("an extended attribute has a malformed name"))?);
            at += 3;
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    Ok(out)
}

fn base64_decoded(text: &[u8]) -> Result<Vec<u8>> {
    use base64::Engine;
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine.decode(text).map_err(|e| damaged("an extended attribute has a malformed value").with_source(e))
}
