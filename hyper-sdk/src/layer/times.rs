//! The exact times of the files of a layer, stored next to the layer.
//!
//! A layer has times in whole seconds, none later than the epoch of its build, so that it is reproducible. A step sees
//! files with their exact times. The table of exact times is stored with the layer on this machine only.
//!
//! # File
//! Numbers are encoded as in the index of a layer.
//! ```text
//!   "HYPERTIM"  8 bytes
//!   version     1 byte, 1
//!   count       varint
//!   entry × count, by path:
//!     shared    varint   bytes that the path shares with the path before
//!     rest      varint length, bytes
//!     seconds   varint, zigzag
//!     fraction  varint, nanoseconds
//! ```
//! The name of the file is its SHA-256.

use super::entry::{Entry, EntryKind, LayerPath};
use super::file_time::FileTime;
use super::index_format::{Bounds, Input, corrupt, put, put_bytes, put_signed};
use crate::{Digest, Error, Result};
use std::sync::OnceLock;

const MAGIC: &[u8; 8] = b"HYPERTIM";
const VERSION: u8 = 1;
const SECOND: u32 = 1_000_000_000;

/// The exact times of the entries of a layer, by path.
///
/// Whiteouts and hardlinks have no times in the table.
#[derive(Debug, Default)]
pub struct TimesTable {
    times: Vec<(LayerPath, FileTime)>,
    encoded: OnceLock<(Vec<u8>, Digest)>,
}

impl TimesTable {
    pub(crate) fn from_sorted(times: Vec<(LayerPath, FileTime)>) -> Self {
        debug_assert!(times.windows(2).all(|pair| pair[0].0 < pair[1].0));
        Self { times, encoded: OnceLock::new() }
    }

    /// The time of the entry at the path.
    pub fn get(&self, path: &LayerPath) -> Option<FileTime> {
        let at = self.times.binary_search_by(|(known, _)| known.cmp(path)).ok()?;
        Some(self.times[at].1)
    }

    /// How many times there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The digest of the encoded table, which is its name.
    pub fn digest(&self) -> &Digest {
        &self.encoded().1
    }

    /// The table as bytes, for [`TimesTable::from_bytes`].
    pub fn to_bytes(&self) -> &[u8] {
        &self.encoded().0
    }

    fn encoded(&self) -> &(Vec<u8>, Digest) {
        self.encoded.get_or_init(|| {
            let mut out = Vec::with_capacity(64 + self.times.len() * 40);
            out.extend_from_slice(MAGIC);
            out.push(VERSION);
            put(&mut out, self.times.len() as u64);
            let mut last: &[u8] = b"";
            for (path, time) in &self.times {
                let path = path.as_bytes();
                let shared = last.iter().zip(path).take_while(|(a, b)| a == b).count();
                put(&mut out, shared as u64);
                put_bytes(&mut out, &path[shared..]);
                last = path;
                put_signed(&mut out, time.seconds);
                put(&mut out, u64::from(time.nanoseconds));
            }
            let digest = Digest::sha256(&out);
            (out, digest)
        })
    }

    /// Reads the bytes that [`TimesTable::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when the bytes are damaged, [`crate::ErrorKind::Unsupported`] when another version
    /// wrote them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_bytes_within(bytes, Bounds::NONE)
    }

    /// Like [`TimesTable::from_bytes`], for bytes of another machine.
    ///
    /// # Errors
    /// Those of [`TimesTable::from_bytes`], and [`crate::ErrorKind::TooLarge`] beyond the bounds.
    pub(crate) fn from_bytes_within(bytes: &[u8], mut bounds: Bounds) -> Result<Self> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(corrupt)?;
        match rest.first() {
            Some(&VERSION) => {}
            Some(other) => return Err(Error::unsupported(format!("version {other} of a table of times"))),
            None => return Err(corrupt()),
        }
        let mut input = Input(&rest[1..]);
        let count = input.number()? as usize;
        bounds.check_count(count)?;
        // An entry takes at least four bytes, so a false count cannot reserve much memory.
        let mut times: Vec<(LayerPath, FileTime)> = Vec::with_capacity(count.min(input.0.len() / 4 + 1));
        let mut path = Vec::new();
        for _ in 0..count {
            let shared = input.number()? as usize;
            if shared > path.len() {
                return Err(corrupt());
            }
            path.truncate(shared);
            path.extend_from_slice(input.bytes()?);
            bounds.take_path(&path)?;
            let here = if path.is_empty() { LayerPath::root() } else { LayerPath::new(path.clone())? };
            let time = FileTime { seconds: input.signed()?, nanoseconds: input.small()? };
            if time.nanoseconds >= SECOND || times.last().is_some_and(|(last, _)| *last >= here) {
                return Err(corrupt());
            }
            times.push((here, time));
        }
        if input.0.is_empty() { Ok(Self::from_sorted(times)) } else { Err(corrupt()) }
    }
}

/// Collects times in the order of a layer.
#[derive(Clone, Debug, Default)]
pub struct EntryTimes(Vec<(LayerPath, FileTime)>);

impl EntryTimes {
    /// Adds the time of the next entry.
    pub(crate) fn push(&mut self, entry: &Entry) {
        self.push_as(entry, entry.time());
    }

    /// Adds the next entry with another time.
    pub(crate) fn push_as(&mut self, entry: &Entry, time: FileTime) {
        if !entry.kind.is_whiteout() && !matches!(entry.kind, EntryKind::Hardlink { .. }) {
            self.0.push((entry.path.clone(), time));
        }
    }

    /// Makes the table. Entries with the time `made` have no source: they get the newest time of the entries with a
    /// source, or `known` if that is newer. `known` is when they were first made, if known.
    ///
    /// So a cached result is never older than its current sources.
    pub(crate) fn table(mut self, made: FileTime, known: Option<FileTime>) -> TimesTable {
        let newest = self.0.iter().map(|(_, time)| *time).filter(|time| *time != made).max();
        let new = known.max(newest).unwrap_or(made);
        for (_, time) in self.0.iter_mut().filter(|(_, time)| *time == made) {
            *time = new;
        }
        TimesTable::from_sorted(self.0)
    }
}

impl From<EntryTimes> for TimesTable {
    fn from(times: EntryTimes) -> Self {
        Self::from_sorted(times.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::index::tests::{dir, file, path};
    use proptest::prelude::*;

    fn times(entries: &[(Entry, FileTime)]) -> EntryTimes {
        let mut times = EntryTimes::default();
        for (entry, time) in entries {
            let mut entry = entry.clone();
            entry.set_time(*time);
            times.push(&entry);
        }
        times
    }

    #[test]
    fn a_table_round_trips_and_damage_is_detected() {
        let late = FileTime { seconds: -7, nanoseconds: 999_999_999 };
        let mut link = file("d/h", "");
        link.kind = EntryKind::Hardlink { target: path("d/g") };
        let table: TimesTable = times(&[
            (Entry::directory(LayerPath::root(), 0o755), FileTime::of(5)),
            (dir("d"), FileTime::now()),
            (file("d/g", "x"), late),
            (link, FileTime::of(1)),
            (Entry::whiteout(path("gone")), FileTime::of(1)),
        ])
        .into();
        let back = TimesTable::from_bytes(table.to_bytes()).unwrap();
        assert_eq!(back.digest(), table.digest());
        assert_eq!((back.len(), back.get(&path("d/g"))), (3, Some(late)));
        assert_eq!((back.get(&path("d/h")), back.get(&path("gone"))), (None, None));
        for cut in 0..table.to_bytes().len() {
            assert!(TimesTable::from_bytes(&table.to_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn new_entries_have_the_newest_time_of_their_sources() {
        let (made, known) = (FileTime::of(100), FileTime::of(50));
        let entries = |source| times(&[(dir("d"), made), (file("d/f", "x"), FileTime::of(source))]);
        let of = |table: TimesTable| table.get(&path("d")).unwrap().seconds;
        assert_eq!(of(entries(10).table(made, Some(known))), 50);
        assert_eq!(of(entries(70).table(made, Some(known))), 70);
        assert_eq!(of(entries(70).table(made, None)), 70);
        assert_eq!(of(times(&[(dir("d"), made)]).table(made, None)), 100);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            let _ = TimesTable::from_bytes(&[&MAGIC[..], &[VERSION], &body].concat());
        }
    }
}
