//! Entries by path, in the form of the index of a layer.
//!
//! Layers have hundreds of thousands of entries, usually in the order of their paths. So the entries are one row of bytes,
//! and a sorted list says where each starts. That takes a third of the memory of a list of [`Entry`]. What comes out of order
//! is in a tree beside the list.

use super::entry::{Entry, LayerPath, path_order};
use super::index_format::{Input, put_bytes, put_rest, read_rest};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Entries by path.
#[derive(Debug, Default)]
pub(super) struct PackedEntries {
    /// Each entry is the length of its path, its path, and the rest as in the index. One that was replaced stays.
    bytes: Vec<u8>,
    /// Where entries start, by path.
    sorted: Vec<usize>,
    /// Where those start that came out of order. No path is in both.
    others: BTreeMap<LayerPath, usize>,
}

impl PackedEntries {
    /// The path of the entry that starts at a place, and the rest.
    fn read(&self, at: usize) -> (&[u8], Input<'_>) {
        let mut input = Input(&self.bytes[at..]);
        // The bytes were written here, so they can be read.
        let path = input.bytes().unwrap_or_default();
        (path, input)
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let (path, mut rest) = self.read(at);
        read_rest(&mut rest, path).ok()
    }

    fn place(&self, path: &LayerPath) -> Result<usize, usize> {
        let order = |at: &usize| path_order(self.read(*at).0, path.as_bytes());
        match self.sorted.last() {
            Some(last) if order(last) == Ordering::Less => Err(self.sorted.len()),
            _ => self.sorted.binary_search_by(order),
        }
    }

    fn find(&self, path: &LayerPath) -> Option<usize> {
        match self.place(path) {
            Ok(place) => Some(self.sorted[place]),
            Err(_) => self.others.get(path).copied(),
        }
    }

    /// The entry at a path.
    pub(super) fn get(&self, path: &LayerPath) -> Option<Entry> {
        self.find(path).and_then(|at| self.entry(at))
    }

    /// Whether the entry at a path is a directory; `None` without one.
    pub(super) fn is_directory(&self, path: &LayerPath) -> Option<bool> {
        self.find(path).map(|at| self.read(at).1.starts_with_directory())
    }

    /// Sets the entry at its path, without its nanoseconds.
    pub(super) fn insert(&mut self, entry: &Entry) {
        let start = self.bytes.len();
        put_bytes(&mut self.bytes, entry.path.as_bytes());
        put_rest(&mut self.bytes, entry);
        match self.place(&entry.path) {
            Ok(place) => self.sorted[place] = start,
            Err(place) if place == self.sorted.len() && self.is_last(&entry.path) => self.sorted.push(start),
            Err(_) => {
                self.others.insert(entry.path.clone(), start);
            }
        }
    }

    /// Whether a path comes after all that are out of order.
    fn is_last(&self, path: &LayerPath) -> bool {
        self.others.last_key_value().is_none_or(|(last, _)| last < path)
    }

    /// Whether there is an entry at or below a directory.
    pub(super) fn has_at_or_below(&self, directory: &LayerPath) -> bool {
        let next = self.sorted.get(self.place(directory).unwrap_or_else(|place| place));
        let other = self.others.range(directory.clone()..).next();
        next.is_some_and(|at| is_below(self.read(*at).0, directory))
            || other.is_some_and(|(path, _)| path.starts_with(directory))
    }

    /// Removes the entries below a directory.
    pub(super) fn remove_below(&mut self, directory: &LayerPath) {
        let next = match self.place(directory) {
            Ok(place) => place + 1,
            Err(place) => place,
        };
        if self.sorted.get(next).is_some_and(|at| is_below(self.read(*at).0, directory)) {
            // A list is slow to shrink in its middle. Few layers need this, so a tree has all paths from now on.
            for at in std::mem::take(&mut self.sorted) {
                let path = LayerPath::root().join_known(self.read(at).0);
                self.others.insert(path, at);
            }
        }
        let others = self.others.range(directory.clone()..).map(|(path, _)| path);
        let below = others.take_while(|path| path.starts_with(directory)).filter(|path| *path != directory);
        let below: Vec<_> = below.cloned().collect();
        for path in below {
            self.others.remove(&path);
        }
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        let mut others = self.others.iter().peekable();
        let mut sorted = self.sorted.iter().peekable();
        std::iter::from_fn(move || {
            let is_other = match (sorted.peek(), others.peek()) {
                (Some(at), Some((path, _))) => {
                    path_order(path.as_bytes(), self.read(**at).0) == Ordering::Less
                }
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let at = if is_other { others.next().map(|(_, at)| *at) } else { sorted.next().copied() };
            self.entry(at?)
        })
    }
}

fn is_below(path: &[u8], directory: &LayerPath) -> bool {
    let directory = directory.as_bytes();
    directory.is_empty()
        || path.strip_prefix(directory).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

#[cfg(test)]
mod tests {
    use super::super::entry::EntryKind;
    use super::*;
    use crate::Digest;
    use proptest::prelude::*;

    fn entry(path: &LayerPath, number: usize) -> Entry {
        let target = LayerPath::new("some/target").unwrap();
        let kind = match number % 6 {
            0 => EntryKind::Directory,
            1 => EntryKind::File { size: number as u64, digest: Some(Digest::sha256(path.as_bytes())) },
            2 => EntryKind::Symlink { target: vec![b'x'; number] },
            3 => EntryKind::Hardlink { target },
            4 => EntryKind::CharDevice { major: number as u32, minor: 7 },
            _ => EntryKind::Fifo,
        };
        let mut entry = Entry::new(path.clone(), kind, 0o640);
        (entry.uid, entry.gid, entry.mtime) = (number as u32, 8, number as i64 - 20);
        entry.xattrs.extend(number.is_multiple_of(5).then(|| (b"user.a".to_vec(), vec![number as u8])));
        entry
    }

    proptest! {
        #[test]
        fn they_are_a_map_in_any_order(
            changes in prop::collection::vec((0..3_u8, "([ab]{1,2}(/[abc]{1,2}){0,2})?"), 0..60),
        ) {
            let (mut map, mut model) = (PackedEntries::default(), BTreeMap::new());
            for (number, (kind, text)) in changes.into_iter().enumerate() {
                let path = if text.is_empty() { LayerPath::root() } else { LayerPath::new(text).unwrap() };
                if kind < 2 {
                    let entry = entry(&path, number);
                    map.insert(&entry);
                    model.insert(path.clone(), entry);
                } else {
                    map.remove_below(&path);
                    model.retain(|known: &LayerPath, _| !known.starts_with(&path) || *known == path);
                }
                prop_assert_eq!(map.get(&path), model.get(&path).cloned());
                prop_assert_eq!(map.is_directory(&path), model.get(&path).map(Entry::is_directory));
                let is_below = model.keys().any(|known| known.starts_with(&path));
                prop_assert_eq!(map.has_at_or_below(&path), is_below);
            }
            prop_assert_eq!(map.iter().collect::<Vec<_>>(), model.into_values().collect::<Vec<_>>());
        }
    }
}
