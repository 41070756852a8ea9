//! The index of one layer: its entries in order, with the digest of every file.
//!
//! An index contains everything of a layer except the content of the files. It is made while a layer is written or
//! read, so that later steps can look up the files of an image without unpacking it.
//!
//! # Invariants
//! - Entries are in [`Entry::layer_order`]; at one path there is at most one whiteout, one real entry and one opaque
//!   mark. Duplicate entries of a layer are merged when it is read: the last one wins, as in unpacking.
//! - At or below a real entry that is not a directory there are only opaque marks.

use super::entry::{Entry, EntryKind, LayerPath};
use super::index_format::{self, Bounds, Encoder};
use super::packed_entries::PackedEntries;
use crate::{Error, Result};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The entries of one layer.
#[derive(Clone)]
pub struct LayerIndex(Form);

/// An index is made as bytes, which take a third of the memory. Most indexes are only written to the disk.
#[derive(Clone)]
enum Form {
    Entries(Vec<Entry>),
    Encoded { bytes: Vec<u8>, count: usize, entries: OnceLock<Vec<Entry>> },
}

impl Default for LayerIndex {
    fn default() -> Self {
        Self(Form::Entries(Vec::new()))
    }
}

impl PartialEq for LayerIndex {
    fn eq(&self, other: &Self) -> bool {
        self.entries() == other.entries()
    }
}

impl Eq for LayerIndex {}

impl std::fmt::Debug for LayerIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerIndex").field("entries", &self.entries()).finish()
    }
}

impl LayerIndex {
    /// The index of entries that were encoded in order.
    pub(super) fn encoded(entries: Encoder) -> Self {
        let count = entries.count();
        Self(Form::Encoded { bytes: entries.finish(), count, entries: OnceLock::new() })
    }

    /// Makes an index of sorted entries.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when they are not in [`Entry::layer_order`], or two are equal in it.
    pub(crate) fn from_sorted(entries: Vec<Entry>) -> Result<Self> {
        if let Some(pair) = entries.windows(2).find(|p| p[0].layer_order(&p[1]) != Ordering::Less) {
            return Err(Error::internal("the entries of a layer index are out of order")
                .with_context("path", &pair[1].path));
        }
        Ok(Self(Form::Entries(entries)))
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        match &self.0 {
            Form::Entries(entries) => entries,
            Form::Encoded { bytes, entries, .. } => entries.get_or_init(|| {
                index_format::decode(bytes, Bounds::NONE).expect("the bytes were just encoded")
            }),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Entries(entries) => entries.len(),
            Form::Encoded { count, .. } => *count,
        }
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The real entry at the path in this layer; whiteouts are ignored.
    pub fn get(&self, path: &LayerPath) -> Option<&Entry> {
        self.at(path).iter().find(|e| !e.kind.is_whiteout())
    }

    /// All entries at the path: whiteout, real entry, opaque mark.
    pub(crate) fn at(&self, path: &LayerPath) -> &[Entry] {
        let entries = self.entries();
        let start = entries.partition_point(|e| e.path < *path);
        let count = entries[start..].iter().take_while(|e| e.path == *path).count();
        &entries[start..start + count]
    }

    /// Whether this layer hides what lower layers have at the path: by a whiteout of it or of a parent, by an opaque
    /// parent, or by a parent that is not a directory.
    pub(crate) fn hides(&self, path: &LayerPath) -> bool {
        self.at(path).iter().any(|e| e.kind == EntryKind::Whiteout) || self.hides_above(path)
    }

    /// Whether a parent of the path hides what lower layers have there.
    pub(super) fn hides_above(&self, path: &LayerPath) -> bool {
        let hides = |p: &LayerPath| {
            self.at(p).iter().any(|e| e.kind.is_whiteout() || !matches!(e.kind, EntryKind::Directory))
        };
        path.ancestors().any(|p| hides(&p))
            || self.at(&LayerPath::root()).iter().any(|e| e.kind == EntryKind::OpaqueWhiteout)
    }

    /// Whether this layer has a real entry at the path or below it.
    pub(super) fn covers(&self, path: &LayerPath) -> bool {
        let entries = self.entries();
        let start = entries.partition_point(|e| e.path < *path);
        let mut here = entries[start..].iter().take_while(|e| e.path.starts_with(path));
        here.any(|e| !e.kind.is_whiteout())
    }

    /// The index as bytes, for [`LayerIndex::from_bytes`]. The same index always gives the same bytes.
    pub fn to_bytes(&self) -> Cow<'_, [u8]> {
        match &self.0 {
            Form::Encoded { bytes, .. } => Cow::Borrowed(bytes),
            Form::Entries(entries) => {
                let mut encoder = Encoder::default();
                entries.iter().for_each(|entry| encoder.push(entry));
                Cow::Owned(encoder.finish())
            }
        }
    }

    /// Reads the bytes that [`LayerIndex::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when the bytes are damaged, [`crate::ErrorKind::Unsupported`] when another version
    /// wrote them: drop the file and index the layer again.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_bytes_within(bytes, Bounds::NONE)
    }

    /// Like [`LayerIndex::from_bytes`], for bytes of another machine.
    ///
    /// # Errors
    /// Those of [`LayerIndex::from_bytes`], and [`crate::ErrorKind::TooLarge`] beyond the bounds.
    pub(crate) fn from_bytes_within(bytes: &[u8], bounds: Bounds) -> Result<Self> {
        let entries = index_format::decode(bytes, bounds)?;
        Self::from_sorted(entries).map_err(|e| e.with_kind(crate::ErrorKind::Corrupt))
    }
}

/// Collects the entries of an archive and merges duplicates.
#[derive(Debug, Default)]
pub(crate) struct LayerIndexBuilder {
    /// The real entries.
    entries: PackedEntries,
    /// The whiteouts and opaque marks, which few paths have.
    marks: BTreeMap<LayerPath, Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    whiteout: Option<Entry>,
    opaque: Option<Entry>,
}

impl LayerIndexBuilder {
    /// A builder of an empty index.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds the next entry of the archive, with whole seconds. Entries may come in any order.
    ///
    /// A real entry replaces an earlier one of the same path and, unless it is a directory, everything below it. A
    /// whiteout never hides files of its own layer (image-spec, layer.md).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a parent of the entry is not a directory in the archive: a symlink is never
    /// followed.
    pub(crate) fn add(&mut self, mut entry: Entry) -> Result<()> {
        self.check(&entry)?;
        entry.nanoseconds = 0;
        if !entry.kind.is_whiteout() && !entry.is_directory() {
            self.forget_below(&entry.path);
        }
        if !entry.kind.is_whiteout() {
            self.entries.insert(&entry);
            return Ok(());
        }
        let marks = self.marks.entry(entry.path.clone()).or_default();
        match entry.kind {
            EntryKind::Whiteout => marks.whiteout = Some(entry),
            _ => marks.opaque = Some(entry),
        }
        Ok(())
    }

    /// Returns the error that [`LayerIndexBuilder::add`] would return for an entry.
    pub(super) fn check(&self, entry: &Entry) -> Result<()> {
        if !entry.kind.is_whiteout()
            && let Some(parent) =
                entry.path.ancestors().find(|parent| self.entries.is_directory(parent) == Some(false))
        {
            return Err(Error::invalid("a parent of an entry of the layer is not a directory")
                .with_context("entry", &entry.path)
                .with_context("parent", parent));
        }
        Ok(())
    }

    /// Whether a real entry was added at the path or below it.
    pub(super) fn covers(&self, path: &LayerPath) -> bool {
        self.entries.has_at_or_below(path)
    }

    /// The real entry at the path.
    pub(super) fn real(&self, path: &LayerPath) -> Option<Entry> {
        self.entries.get(path)
    }

    fn has_whiteout(&self, path: &LayerPath) -> bool {
        self.marks.get(path).is_some_and(|marks| marks.whiteout.is_some())
    }

    /// The opaque mark at the path. It has no effect unless the path is a directory that is not hidden.
    fn opaque(&self, path: &LayerPath) -> Option<&Entry> {
        let marks = self.marks.get(path)?;
        let is_directory = self.entries.is_directory(path).unwrap_or(marks.whiteout.is_none());
        marks.opaque.as_ref().filter(|_| is_directory)
    }

    /// See [`LayerIndex::hides`].
    pub(super) fn hides(&self, path: &LayerPath) -> bool {
        self.has_whiteout(path) || self.hides_above(path)
    }

    /// See [`LayerIndex::hides_above`].
    pub(super) fn hides_above(&self, path: &LayerPath) -> bool {
        let hides = |above: &LayerPath| {
            self.has_whiteout(above)
                || self.opaque(above).is_some()
                || self.entries.is_directory(above) == Some(false)
        };
        path.ancestors().any(|above| hides(&above)) || self.opaque(&LayerPath::root()).is_some()
    }

    /// The whiteouts and opaque marks, in order.
    pub(super) fn whiteouts(&self) -> Vec<&Entry> {
        let marks = self.marks.iter();
        marks.flat_map(|(path, marks)| [marks.whiteout.as_ref(), self.opaque(path)]).flatten().collect()
    }

    fn forget_below(&mut self, path: &LayerPath) {
        self.entries.remove_below(path);
        if self.marks.is_empty() {
            return;
        }
        let marks = self.marks.range(path.clone()..).map(|(path, _)| path);
        let below = marks.take_while(|mark| mark.starts_with(path)).filter(|mark| *mark != path);
        let below: Vec<_> = below.cloned().collect();
        for mark in below {
            self.marks.remove(&mark);
        }
        if let Some(marks) = self.marks.get_mut(path) {
            marks.opaque = None;
        }
    }

    /// The index of everything added.
    pub(crate) fn finish(self) -> LayerIndex {
        let mut encoder = Encoder::default();
        let mut marks = self.whiteouts().into_iter().peekable();
        for entry in self.entries.iter() {
            while let Some(mark) = marks.next_if(|mark| mark.layer_order(&entry) == Ordering::Less) {
                encoder.push(mark);
            }
            encoder.push(&entry);
        }
        marks.for_each(|mark| encoder.push(mark));
        LayerIndex::encoded(encoder)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Digest;

    pub(crate) fn path(text: &str) -> LayerPath {
        LayerPath::new(text).unwrap()
    }

    pub(crate) fn file(text: &str, content: &str) -> Entry {
        let kind =
            EntryKind::File { size: content.len() as u64, digest: Some(Digest::sha256(content.as_bytes())) };
        Entry::new(path(text), kind, 0o644)
    }

    pub(crate) fn dir(text: &str) -> Entry {
        Entry::directory(path(text), 0o755)
    }

    pub(crate) fn symlink(text: &str, target: &str) -> Entry {
        Entry::new(path(text), EntryKind::Symlink { target: target.into() }, 0o777)
    }

    pub(crate) fn index(entries: Vec<Entry>) -> LayerIndex {
        let mut builder = LayerIndexBuilder::new();
        for entry in entries {
            builder.add(entry).unwrap();
        }
        builder.finish()
    }

    fn paths(index: &LayerIndex) -> Vec<String> {
        index.entries().iter().map(|e| e.path.to_string()).collect()
    }

    #[test]
    fn the_last_duplicate_wins() {
        let i = index(vec![dir("a"), file("a/x", "1"), dir("b"), file("a", "now a file"), file("b/y", "2")]);
        assert_eq!(paths(&i), ["a", "b", "b/y"]);
        assert_eq!(i.get(&path("a")).unwrap().size(), 10);
    }

    #[test]
    fn an_entry_below_a_symlink_is_rejected() {
        let mut builder = LayerIndexBuilder::new();
        builder.add(dir("a")).unwrap();
        builder.add(symlink("a", "/etc")).unwrap();
        let e = builder.add(file("a/passwd", "x")).unwrap_err();
        assert!(e.to_string().contains("not a directory"), "{e}");
    }

    #[test]
    fn whiteouts_and_files_hide_lower_entries() {
        let i = index(vec![
            Entry::whiteout(path("gone")),
            dir("opaque"),
            Entry::new(path("opaque"), EntryKind::OpaqueWhiteout, 0),
            file("plain", "x"),
            dir("open"),
        ]);
        for (p, hidden) in [
            ("gone", true),
            ("gone/x", true),
            ("opaque/x", true),
            ("opaque", false),
            ("plain/x", true),
            ("open/x", false),
        ] {
            assert_eq!(i.hides(&path(p)), hidden, "{p}");
        }
        assert_eq!(i.get(&path("gone")), None);
        assert_eq!(i.at(&path("opaque")).len(), 2);
    }

    #[test]
    fn an_index_is_only_bytes_until_its_entries_are_asked_for() {
        let made = index(vec![dir("a"), file("a/x", "1"), Entry::whiteout(path("gone"))]);
        let is_decoded = |index: &LayerIndex| match &index.0 {
            Form::Encoded { entries, .. } => entries.get().is_some(),
            Form::Entries(_) => true,
        };
        assert_eq!((made.len(), made.is_empty()), (3, false));
        let Cow::Borrowed(bytes) = made.to_bytes() else { panic!("the bytes are made again") };
        assert!(!is_decoded(&made));
        assert_eq!(LayerIndex::from_bytes(bytes).unwrap(), made);
        assert!(is_decoded(&made));
    }

    #[test]
    fn unsorted_entries_are_rejected() {
        assert!(LayerIndex::from_sorted(vec![dir("b"), dir("a")]).is_err());
        assert!(LayerIndex::from_sorted(vec![dir("a"), dir("a")]).is_err());
        assert!(LayerIndex::from_sorted(vec![Entry::whiteout(path("a")), dir("a")]).is_ok());
    }
}
