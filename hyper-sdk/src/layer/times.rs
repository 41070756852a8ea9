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

use super::entry::{Entry, EntryKind, LayerPath, path_order};
use super::file_time::FileTime;
use super::index_format::{Bounds, Input, corrupt, put, put_bytes, put_signed};
use crate::{Digest, Error, Result};
use std::cmp::Ordering;
use std::sync::OnceLock;

const MAGIC: &[u8; 8] = b"HYPERTIM";
const VERSION: u8 = 1;
const SECOND: u32 = 1_000_000_000;

/// A search reads at most this many entries.
const STRIDE: usize = 16;

/// The exact times of the entries of a layer, by path. It takes little more memory than its file.
///
/// Whiteouts and hardlinks have no times in the table.
#[derive(Debug)]
pub struct TimesTable {
    file: Vec<u8>,
    /// Where the entries start in the file.
    body: usize,
    count: usize,
    marks: OnceLock<Vec<Mark>>,
    digest: OnceLock<Digest>,
}

/// Every [`STRIDE`]th entry of a table, to search from.
#[derive(Debug)]
struct Mark {
    path: LayerPath,
    time: FileTime,
    /// Where the next entry starts in the file.
    next: usize,
}

impl Default for TimesTable {
    fn default() -> Self {
        EntryTimes::default().into()
    }
}

impl TimesTable {
    /// The time of the entry at the path.
    pub fn get(&self, path: &LayerPath) -> Option<FileTime> {
        let marks = self.marks.get_or_init(|| self.marks());
        let mark = &marks[marks.partition_point(|mark| mark.path <= *path).checked_sub(1)?];
        if mark.path == *path {
            return Some(mark.time);
        }
        let mut entries = Entries::new(&self.file[mark.next..], mark.path.as_bytes());
        for _ in 1..STRIDE {
            let time = entries.next_time()?;
            match path_order(&entries.path, path.as_bytes()) {
                Ordering::Less => {}
                Ordering::Equal => return Some(time),
                Ordering::Greater => return None,
            }
        }
        None
    }

    fn marks(&self) -> Vec<Mark> {
        let mut marks = Vec::with_capacity(self.count.div_ceil(STRIDE));
        let mut entries = Entries::new(&self.file[self.body..], b"");
        for number in 0..self.count {
            let Some(time) = entries.next_time() else { break };
            if number % STRIDE == 0 {
                let path = LayerPath::root().join_known(&entries.path);
                marks.push(Mark { path, time, next: self.file.len() - entries.input.0.len() });
            }
        }
        marks
    }

    /// How many times there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The digest of the encoded table, which is its name.
    pub fn digest(&self) -> &Digest {
        self.digest.get_or_init(|| Digest::sha256(&self.file))
    }

    /// The table as bytes, for [`TimesTable::from_bytes`].
    pub fn to_bytes(&self) -> &[u8] {
        &self.file
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
        let mut entries = Entries::new(input.0, b"");
        let mut times = EntryTimes::default();
        for number in 0..count {
            let time = entries.next()?;
            bounds.take_path(&entries.path)?;
            let path = match &entries.path[..] {
                b"" => LayerPath::root(),
                path => LayerPath::new(path)?,
            };
            if time.nanoseconds >= SECOND || (number > 0 && times.last >= path) {
                return Err(corrupt());
            }
            times.add(&path, time);
        }
        if entries.input.0.is_empty() { Ok(times.into()) } else { Err(corrupt()) }
    }
}

/// Reads encoded entries one after another.
struct Entries<'a> {
    input: Input<'a>,
    /// The path of the entry that was read last.
    path: Vec<u8>,
}

impl<'a> Entries<'a> {
    fn new(bytes: &'a [u8], before: &[u8]) -> Self {
        Self { input: Input(bytes), path: before.to_vec() }
    }

    fn next(&mut self) -> Result<FileTime> {
        let shared = self.input.number()? as usize;
        if shared > self.path.len() {
            return Err(corrupt());
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(self.input.bytes()?);
        Ok(FileTime { seconds: self.input.signed()?, nanoseconds: self.input.small()? })
    }

    /// The next entry of bytes that were encoded here; `None` at the end.
    fn next_time(&mut self) -> Option<FileTime> {
        if self.input.0.is_empty() { None } else { self.next().ok() }
    }
}

/// Collects times in the order of a layer, as the bytes of a table.
#[derive(Clone, Debug, Default)]
pub struct EntryTimes {
    encoded: Vec<u8>,
    count: usize,
    last: LayerPath,
}

impl EntryTimes {
    /// Adds the time of the next entry.
    pub(crate) fn push(&mut self, entry: &Entry) {
        self.push_as(entry, entry.time());
    }

    /// Adds the next entry with another time.
    pub(crate) fn push_as(&mut self, entry: &Entry, time: FileTime) {
        if !entry.kind.is_whiteout() && !matches!(entry.kind, EntryKind::Hardlink { .. }) {
            self.add(&entry.path, time);
        }
    }

    fn add(&mut self, path: &LayerPath, time: FileTime) {
        debug_assert!(self.count == 0 || self.last < *path);
        let (last, bytes) = (self.last.as_bytes(), path.as_bytes());
        let shared = last.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        put(&mut self.encoded, shared as u64);
        put_bytes(&mut self.encoded, &bytes[shared..]);
        put_signed(&mut self.encoded, time.seconds);
        put(&mut self.encoded, u64::from(time.nanoseconds));
        self.count += 1;
        self.last.clone_from(path);
    }

    fn entries(&self) -> Entries<'_> {
        Entries::new(&self.encoded, b"")
    }

    /// Makes the table. Entries with the time `made` have no source: they get the newest time of the entries with a
    /// source, or `known` if that is newer. `known` is when they were first made, if known.
    ///
    /// So a cached result is never older than its current sources.
    pub(crate) fn table(self, made: FileTime, known: Option<FileTime>) -> TimesTable {
        let (mut newest, mut has_new) = (None, false);
        let mut entries = self.entries();
        while let Some(time) = entries.next_time() {
            match time == made {
                true => has_new = true,
                false => newest = newest.max(Some(time)),
            }
        }
        let new = known.max(newest).unwrap_or(made);
        if !has_new || new == made {
            return self.into();
        }
        let mut changed = Self { encoded: Vec::with_capacity(self.encoded.len()), ..Self::default() };
        let mut entries = self.entries();
        while let Some(time) = entries.next_time() {
            let path = LayerPath::root().join_known(&entries.path);
            changed.add(&path, if time == made { new } else { time });
        }
        changed.into()
    }
}

impl From<EntryTimes> for TimesTable {
    fn from(times: EntryTimes) -> Self {
        let EntryTimes { encoded: mut file, count, .. } = times;
        let mut head = MAGIC.to_vec();
        head.push(VERSION);
        put(&mut head, count as u64);
        let body = head.len();
        file.splice(0..0, head);
        file.shrink_to_fit();
        Self { file, body, count, marks: OnceLock::new(), digest: OnceLock::new() }
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
        fn a_table_is_a_sorted_map(
            model in prop::collection::btree_map("[a-c.]{1,3}(/[abc]{1,2}){0,2}", (-5..5_i64, 0..SECOND), 0..60),
            others in prop::collection::vec("[a-c.]{1,3}(/[abc]{1,2}){0,2}", 0..20),
        ) {
            let sorted: std::collections::BTreeMap<LayerPath, FileTime> = model
                .into_iter()
                .filter_map(|(name, (seconds, nanoseconds))| {
                    Some((LayerPath::new(name).ok()?, FileTime { seconds, nanoseconds }))
                })
                .collect();
            let mut times = EntryTimes::default();
            sorted.iter().for_each(|(path, time)| times.add(path, *time));
            let table = TimesTable::from(times);
            let back = TimesTable::from_bytes(table.to_bytes()).unwrap();
            prop_assert_eq!((back.len(), back.digest()), (sorted.len(), table.digest()));
            let others = others.into_iter().filter_map(|name| LayerPath::new(name).ok());
            for path in sorted.keys().cloned().chain(others).chain([LayerPath::root()]) {
                prop_assert_eq!(table.get(&path), sorted.get(&path).copied(), "{}", path);
                prop_assert_eq!(back.get(&path), sorted.get(&path).copied(), "{}", path);
            }
        }

        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            let _ = TimesTable::from_bytes(&[&MAGIC[..], &[VERSION], &body].concat());
        }
    }
}
