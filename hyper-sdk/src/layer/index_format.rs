//! The file format of a [`super::LayerIndex`].
//!
//! ```text
//!   "HYPERLIX"  8 bytes
//!   version     1 byte, 1
//!   count       varint
//!   entry × count:
//!     shared    varint   bytes that the path shares with the path before
//!     rest      varint length, bytes
//!     kind      1 byte   0 file, 1 file without digest, 2 directory, 3 symlink, 4 hardlink, 5 character device,
//!                        6 block device, 7 fifo, 8 whiteout, 9 opaque whiteout
//!     of kind   0: size varint, SHA-256 in 32 bytes; 1: size varint; 3, 4: varint length, bytes;
//!               5, 6: major varint, minor varint
//!     mode uid gid   varints
//!     mtime     varint, zigzag
//!     xattrs    varint count, then name and value, each varint length and bytes, by name
//!   check       32 bytes, the SHA-256 of everything before
//! ```
//!
//! A varint has seven bits a byte, lowest first, the high bit set on all but the last.

use super::entry::{Entry, EntryKind, LayerPath};
use crate::digest::Hasher;
use crate::{Digest, Error, ErrorKind, Result};
use std::collections::BTreeMap;

const MAGIC: &[u8; 8] = b"HYPERLIX";
const VERSION: u8 = 1;
const CHECK: usize = 32;
const DIRECTORY: u8 = 2;

/// How much an index or a table of times may have. Paths are written without what they share with the path before, so that
/// few bytes can stand for many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The entries that are left.
    entries: usize,
    /// The bytes of paths that are left.
    paths: usize,
}

impl Bounds {
    /// None: for files that this machine wrote.
    pub(super) const NONE: Self = Self { entries: usize::MAX, paths: usize::MAX };
    /// For those of another machine: some 2 GiB of memory.
    pub(crate) const SHARED: Self = Self { entries: 4_000_000, paths: 1 << 30 };

    /// Checks a count, before memory is reserved for it.
    pub(super) fn check_count(self, count: usize) -> Result<()> {
        if count > self.entries { Err(too_large()) } else { Ok(()) }
    }

    /// Counts a path.
    pub(super) fn take_path(&mut self, path: &[u8]) -> Result<()> {
        self.paths = self.paths.checked_sub(path.len()).ok_or_else(too_large)?;
        Ok(())
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "an index or a table of times has too many entries or too long paths")
}

/// Encodes entries one after another, so that an index is made without a list of all entries.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    out: Vec<u8>,
    count: u64,
    last: LayerPath,
}

impl Encoder {
    /// Adds the next entry.
    pub(super) fn push(&mut self, entry: &Entry) {
        let out = &mut self.out;
        self.count += 1;
        let path = entry.path.as_bytes();
        let shared = self.last.as_bytes().iter().zip(path).take_while(|(a, b)| a == b).count();
        put(out, shared as u64);
        put_bytes(out, &path[shared..]);
        self.last.clone_from(&entry.path);
        put_rest(out, entry);
    }

    /// How many entries were added.
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// The file.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.push(VERSION);
        put(&mut head, self.count);
        // In place: a copy would take as much memory again.
        let mut file = self.out;
        file.reserve_exact(head.len() + CHECK);
        file.splice(0..0, head);
        let check = check_of(&file);
        file.extend_from_slice(&check);
        file.shrink_to_fit();
        file
    }
}

/// Encodes an entry without its path.
pub(super) fn put_rest(out: &mut Vec<u8>, entry: &Entry) {
    match &entry.kind {
        EntryKind::File { size, digest } => {
            let hash = digest.as_ref().and_then(|d| <[u8; 32]>::try_from(d.hash_bytes()).ok());
            out.push(if hash.is_some() { 0 } else { 1 });
            put(out, *size);
            out.extend_from_slice(hash.as_ref().map_or(&[], |h| &h[..]));
        }
        EntryKind::Directory => out.push(DIRECTORY),
        EntryKind::Symlink { target } => {
            out.push(3);
            put_bytes(out, target);
        }
        EntryKind::Hardlink { target } => {
            out.push(4);
            put_bytes(out, target.as_bytes());
        }
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            out.push(if matches!(entry.kind, EntryKind::CharDevice { .. }) { 5 } else { 6 });
            put(out, u64::from(*major));
            put(out, u64::from(*minor));
        }
        EntryKind::Fifo => out.push(7),
        EntryKind::Whiteout => out.push(8),
        EntryKind::OpaqueWhiteout => out.push(9),
    }
    put(out, u64::from(entry.mode));
    put(out, u64::from(entry.uid));
    put(out, u64::from(entry.gid));
    put_signed(out, entry.mtime);
    put(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

pub(super) fn decode(bytes: &[u8], mut bounds: Bounds) -> Result<Vec<Entry>> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(corrupt)?;
    match rest.first() {
        Some(&VERSION) => {}
        Some(other) => {
            return Err(Error::unsupported(format!("layer index version {other}: index the layer again")));
        }
        None => return Err(corrupt()),
    }
    let (body, check) = bytes.len().checked_sub(CHECK).map(|at| bytes.split_at(at)).ok_or_else(corrupt)?;
    if check != check_of(body) {
        return Err(corrupt());
    }
    let mut input = Input(body.get(MAGIC.len() + 1..).ok_or_else(corrupt)?);
    let count = input.number()? as usize;
    bounds.check_count(count)?;
    // An entry takes at least eight bytes, so a false count cannot reserve much memory.
    let mut entries = Vec::with_capacity(count.min(input.0.len() / 8 + 1));
    let mut path = Vec::new();
    for _ in 0..count {
        let shared = input.number()? as usize;
        if shared > path.len() {
            return Err(corrupt());
        }
        path.truncate(shared);
        path.extend_from_slice(input.bytes()?);
        bounds.take_path(&path)?;
        entries.push(read_rest(&mut input, &path)?);
    }
    if input.0.is_empty() { Ok(entries) } else { Err(corrupt()) }
}

/// The entry with this path, whose rest [`put_rest`] wrote.
pub(super) fn read_rest(input: &mut Input<'_>, path: &[u8]) -> Result<Entry> {
    let path = if path.is_empty() { LayerPath::root() } else { LayerPath::new(path)? };
    let kind = match input.byte()? {
        0 => EntryKind::File {
            size: input.number()?,
            digest: Some(Digest::from_sha256(input.take(32)?.try_into().map_err(|_| corrupt())?)),
        },
        1 => EntryKind::File { size: input.number()?, digest: None },
        DIRECTORY => EntryKind::Directory,
        3 => EntryKind::Symlink { target: input.bytes()?.to_vec() },
        4 => EntryKind::Hardlink { target: LayerPath::new(input.bytes()?)? },
        5 => EntryKind::CharDevice { major: input.small()?, minor: input.small()? },
        6 => EntryKind::BlockDevice { major: input.small()?, minor: input.small()? },
        7 => EntryKind::Fifo,
        8 => EntryKind::Whiteout,
        9 => EntryKind::OpaqueWhiteout,
        _ => return Err(corrupt()),
    };
    let (mode, uid, gid) = (input.small()?, input.small()?, input.small()?);
    let mtime = input.signed()?;
    let mut xattrs = BTreeMap::new();
    for _ in 0..input.number()? {
        xattrs.insert(input.bytes()?.to_vec(), input.bytes()?.to_vec());
    }
    Ok(Entry { path, kind, mode, uid, gid, mtime, nanoseconds: 0, xattrs })
}

pub(super) fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "the layer index is damaged: index the layer again")
}

fn check_of(bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::sha256();
    hasher.update(bytes);
    hasher.finish().hash_bytes()
}

pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(corrupt)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt())
    }

    pub(super) fn signed(&mut self) -> Result<i64> {
        let zigzag = self.number()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(super) fn small(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| corrupt())
    }

    /// Whether the bytes are the rest of a directory.
    pub(super) fn starts_with_directory(&self) -> bool {
        self.0.first() == Some(&DIRECTORY)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        let count = usize::try_from(self.number()?).map_err(|_| corrupt())?;
        self.take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::{dir, file, index, path, symlink};
    use super::*;
    use crate::layer::LayerIndex;
    use proptest::prelude::*;

    fn sample() -> LayerIndex {
        let mut with_xattr = file("usr/bin/ping", "elf");
        with_xattr.xattrs.insert(b"security.capability".to_vec(), vec![0, 1, 2, 0xff]);
        with_xattr.mtime = -7;
        with_xattr.uid = u32::MAX;
        index(vec![
            Entry::directory(LayerPath::root(), 0o755),
            dir("usr"),
            dir("usr/bin"),
            with_xattr,
            Entry::new(path("usr/bin/p"), EntryKind::Hardlink { target: path("usr/bin/ping") }, 0o755),
            symlink("bin", "usr/bin"),
            Entry::new(path("dev"), EntryKind::CharDevice { major: 1, minor: 3 }, 0o666),
            Entry::new(path("blk"), EntryKind::BlockDevice { major: 8, minor: 1 << 19 }, 0o600),
            Entry::new(path("pipe"), EntryKind::Fifo, 0o600),
            Entry::whiteout(path("gone")),
            Entry::new(path("usr"), EntryKind::OpaqueWhiteout, 0),
            Entry::file(path("unhashed"), 5, 0o600),
        ])
    }

    #[test]
    fn an_index_round_trips() {
        let index = sample();
        assert_eq!(LayerIndex::from_bytes(&index.to_bytes()).unwrap(), index);
    }

    #[test]
    fn damage_is_detected_at_every_byte() {
        let bytes = sample().to_bytes().into_owned();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert!(LayerIndex::from_bytes(&damaged).is_err(), "byte {at}");
            assert!(LayerIndex::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_index_of_another_machine_has_bounds() {
        let sample = sample();
        let bytes = sample.to_bytes();
        let paths: usize = sample.entries().iter().map(|entry| entry.path.as_bytes().len()).sum();
        let entries = sample.entries().len();
        let read = |entries, paths| LayerIndex::from_bytes_within(&bytes, Bounds { entries, paths });
        assert_eq!(read(entries, paths).unwrap(), sample);
        assert_eq!(read(entries - 1, paths).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(read(entries, paths - 1).unwrap_err().kind(), ErrorKind::TooLarge);
        assert!(LayerIndex::from_bytes_within(&bytes, Bounds::SHARED).is_ok());
    }

    #[test]
    fn the_error_for_another_version_names_it() {
        let mut bytes = sample().to_bytes().into_owned();
        bytes[8] = 9;
        assert_eq!(LayerIndex::from_bytes(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            let mut bytes = [&MAGIC[..], &[VERSION], &body].concat();
            let check = check_of(&bytes);
            bytes.extend(check);
            let _ = LayerIndex::from_bytes(&bytes);
        }

        #[test]
        fn numbers_round_trip(number: u64) {
            let mut out = Vec::new();
            put(&mut out, number);
            prop_assert_eq!(Input(&out).number().unwrap(), number);
        }
    }
}
