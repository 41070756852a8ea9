//! The entries of a plan by path.
//!
//! A plan may have hundreds of thousands of entries, nearly all of them files of listings in the order of their paths. Such
//! an entry is two numbers: the folder that it was listed in, and its place there. Its path, its metadata and its content
//! are made when they are asked for. Other entries are values of their own.

use super::listing::{Listing, SourceFile};
use super::metadata::Metadata;
use super::planned_entry::{Content, LinkGroup, PlannedEntry};
use super::source::SourceRoot;
use crate::layer::entry::path_order;
use crate::layer::{Entry, EntryKind, LayerPath, Owner};
use crate::mode::ModeChange;
use rustix::fs::FileType;
use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How the files of one match of a source become entries.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) root: Arc<SourceRoot>,
    pub(super) chown: Option<Owner>,
    pub(super) chmod: Option<ModeChange>,
    /// The number of the match, for its hard links.
    pub(super) number: u64,
}

impl Rules {
    /// The entry of a file.
    pub(super) fn entry(&self, path: LayerPath, kind: EntryKind, metadata: &Metadata) -> Entry {
        let owner = self.chown.unwrap_or(Owner { uid: metadata.uid, gid: metadata.gid });
        let mode = match (&kind, &self.chmod) {
            (EntryKind::Symlink { .. }, _) => 0o777,
            (_, Some(change)) => change.apply(metadata.mode, metadata.is_directory()),
            (_, None) => metadata.mode,
        };
        let mut entry = Entry::new(path, kind, mode);
        (entry.uid, entry.gid) = (owner.uid, owner.gid);
        entry.set_time(metadata.time());
        entry
    }

    /// The group of the names of a file.
    pub(super) fn links(&self, metadata: &Metadata) -> Option<LinkGroup> {
        let is_linked = metadata.file_type == FileType::RegularFile && metadata.links > 1;
        is_linked.then_some((self.number, metadata.device, metadata.inode))
    }
}

/// The kind of an entry, when the metadata of its file tells it.
pub(super) fn kind_of(metadata: &Metadata) -> Option<EntryKind> {
    let (major, minor) = (rustix::fs::major(metadata.special), rustix::fs::minor(metadata.special));
    Some(match metadata.file_type {
        FileType::RegularFile => EntryKind::File { size: metadata.size, digest: None },
        FileType::Socket => EntryKind::File { size: 0, digest: None },
        FileType::Directory => EntryKind::Directory,
        FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
        FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
        FileType::Fifo => EntryKind::Fifo,
        _ => return None,
    })
}

/// A directory whose listed files are planned.
#[derive(Clone, Debug)]
struct Folder {
    target: LayerPath,
    listing: Arc<Listing>,
    rules: Arc<Rules>,
}

/// A directory whose listed files may be planned. A plan that takes none of them does not keep its listing.
#[derive(Debug)]
pub(super) struct PlannedFolder {
    folder: Folder,
    /// Its number, once the plan has it.
    number: Cell<Option<u32>>,
}

impl PlannedFolder {
    /// A directory with this listing, whose files go to `target`.
    pub(super) fn new(target: &LayerPath, listing: &Arc<Listing>, rules: &Arc<Rules>) -> Self {
        let (target, listing, rules) = (target.clone(), Arc::clone(listing), Arc::clone(rules));
        Self { folder: Folder { target, listing, rules }, number: Cell::new(None) }
    }
}

/// Where an entry is.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The number of its folder, or [`OWN`].
    folder: u32,
    /// Its number there.
    at: u32,
}

/// The folder of an entry that is a value of its own.
const OWN: u32 = u32::MAX;

/// The values that slots stand for.
#[derive(Debug, Default)]
struct Values {
    folders: Vec<Folder>,
    own: Vec<PlannedEntry>,
}

/// The entries of a plan by path, while it is made.
#[derive(Debug, Default)]
pub(super) struct PendingMap {
    values: Values,
    /// By path.
    slots: Vec<Slot>,
    /// What came out of order. No path is in both.
    late: BTreeMap<LayerPath, Slot>,
}

/// The entries of a plan that is complete, in the order of the layer.
#[derive(Debug, Default)]
pub(super) struct PlannedEntries {
    values: Values,
    slots: Vec<Slot>,
}

impl PendingMap {
    /// The place of a path among the slots, where it is or would be.
    fn place(&self, path: &LayerPath) -> Result<usize, usize> {
        match self.slots.last() {
            Some(last) if self.values.order(*last, path) == Ordering::Less => Err(self.slots.len()),
            _ => self.slots.binary_search_by(|slot| self.values.order(*slot, path)),
        }
    }

    fn slot(&self, path: &LayerPath) -> Option<Slot> {
        match self.place(path) {
            Ok(at) => Some(self.slots[at]),
            Err(_) => self.late.get(path).copied(),
        }
    }

    /// The entry at a path.
    pub(super) fn get(&self, path: &LayerPath) -> Option<Cow<'_, PlannedEntry>> {
        self.slot(path).map(|slot| self.values.read(slot))
    }

    /// The entry at a path, to change it.
    pub(super) fn get_mut(&mut self, path: &LayerPath) -> Option<&mut PlannedEntry> {
        let slot = match self.place(path) {
            Ok(at) => &mut self.slots[at],
            Err(_) => self.late.get_mut(path)?,
        };
        Some(self.values.own(slot))
    }

    fn set(&mut self, path: &LayerPath, slot: Slot) {
        match self.place(path) {
            Ok(at) => self.slots[at] = slot,
            Err(at)
                if at == self.slots.len()
                    && self.late.last_key_value().is_none_or(|(last, _)| last < path) =>
            {
                self.slots.push(slot);
            }
            Err(_) => {
                self.late.insert(path.clone(), slot);
            }
        }
    }

    /// Sets the entry at its path.
    pub(super) fn insert(&mut self, entry: PlannedEntry) {
        if let Some(Slot { folder: OWN, at }) = self.slot(&entry.entry.path) {
            self.values.own[at as usize] = entry;
            return;
        }
        let path = entry.entry.path.clone();
        let slot = self.values.push(entry);
        self.set(&path, slot);
    }

    /// Sets the entry at the path of the file with this number in a folder. Its [`kind_of`] must be known.
    pub(super) fn insert_listed(&mut self, path: &LayerPath, folder: &PlannedFolder, at: u32) {
        let folders = &mut self.values.folders;
        let number = folder.number.get().unwrap_or_else(|| {
            folders.push(folder.folder.clone());
            // Each takes more than 100 bytes with its listing, so the number is far below `OWN`.
            (folders.len() - 1) as u32
        });
        folder.number.set(Some(number));
        self.set(path, Slot { folder: number, at });
    }

    /// Whether there is an entry at or below a directory.
    pub(super) fn has_at_or_below(&self, directory: &LayerPath) -> bool {
        let at = self.place(directory).unwrap_or_else(|at| at);
        let next = self.slots.get(at).map(|slot| self.values.path(*slot));
        let late = self.late.range(directory.clone()..).next().map(|(path, _)| path);
        next.is_some_and(|path| path.starts_with(directory))
            || late.is_some_and(|path| path.starts_with(directory))
    }

    /// Removes the entries at and below a directory.
    pub(super) fn remove(&mut self, directory: &LayerPath) {
        if !self.has_at_or_below(directory) {
            return;
        }
        // A list is slow to shrink in its middle. Few plans need this, so a tree has all paths from now on.
        for slot in std::mem::take(&mut self.slots) {
            self.late.insert(self.values.path(slot), slot);
        }
        let below = self.late.range(directory.clone()..).map(|(path, _)| path);
        let below: Vec<_> = below.take_while(|path| path.starts_with(directory)).cloned().collect();
        for path in below {
            self.late.remove(&path);
        }
    }

    /// Changes the entries that belong to some groups of hard links.
    pub(super) fn change_links<'e>(&mut self, change: impl Fn(&LinkGroup) -> Option<&'e Entry>) {
        for slot in self.slots.iter_mut().chain(self.late.values_mut()) {
            if let Some(entry) = self.values.links(*slot).as_ref().and_then(&change) {
                let found = &mut self.values.own(slot).entry;
                (found.mode, found.uid, found.gid) = (entry.mode, entry.uid, entry.gid);
                found.set_time(entry.time());
            }
        }
    }

    /// The entries in order. Of the names of one file all but the first become hard links, and a directory for which
    /// `is_opaque` says so gets an opaque mark.
    pub(super) fn finish(self, is_opaque: Option<&dyn Fn(&LayerPath) -> bool>) -> PlannedEntries {
        let Self { mut values, slots, late } = self;
        let mut slots = values.merge(slots, late);
        let mut first: HashMap<LinkGroup, Slot> = HashMap::new();
        for slot in &mut slots {
            let Some(group) = values.links(*slot) else { continue };
            match first.get(&group) {
                Some(target) => {
                    let target = values.path(*target);
                    let entry = values.own(slot);
                    entry.entry.kind = EntryKind::Hardlink { target };
                    entry.content = Content::None;
                }
                None => {
                    first.insert(group, *slot);
                }
            }
        }
        if let Some(is_opaque) = is_opaque {
            let mut marked = Vec::with_capacity(slots.len());
            for slot in slots {
                marked.push(slot);
                let path = values.path(slot);
                if is_opaque(&path) && values.read(slot).entry.is_directory() {
                    let entry = Entry::new(path, EntryKind::OpaqueWhiteout, 0);
                    marked.push(values.push(PlannedEntry::new(entry, Content::None)));
                }
            }
            slots = marked;
        }
        PlannedEntries { values, slots }
    }
}

impl PlannedEntries {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The entries from one number to before another; the latter may be too high.
    pub(super) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = Cow<'_, PlannedEntry>> {
        self.slots[from..to.min(self.slots.len())].iter().map(|slot| self.values.read(*slot))
    }

    /// All entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = Cow<'_, PlannedEntry>> {
        self.range(0, self.slots.len())
    }
}

impl Values {
    fn folder(&self, slot: Slot) -> Option<&Folder> {
        (slot.folder != OWN).then(|| &self.folders[slot.folder as usize])
    }

    /// Adds a value of its own.
    fn push(&mut self, entry: PlannedEntry) -> Slot {
        self.own.push(entry);
        // Each takes more than 100 bytes, so the number fits.
        Slot { folder: OWN, at: (self.own.len() - 1) as u32 }
    }

    fn path(&self, slot: Slot) -> LayerPath {
        match self.folder(slot) {
            Some(folder) => folder.path(slot.at),
            None => self.own[slot.at as usize].entry.path.clone(),
        }
    }

    fn links(&self, slot: Slot) -> Option<LinkGroup> {
        match self.folder(slot) {
            Some(folder) => folder.links(slot.at),
            None => self.own[slot.at as usize].links.as_deref().copied(),
        }
    }

    fn read(&self, slot: Slot) -> Cow<'_, PlannedEntry> {
        match self.folder(slot) {
            Some(folder) => Cow::Owned(folder.read(slot.at)),
            None => Cow::Borrowed(&self.own[slot.at as usize]),
        }
    }

    /// Makes an entry a value of its own, to change it.
    fn own(&mut self, slot: &mut Slot) -> &mut PlannedEntry {
        if let Some(folder) = self.folder(*slot) {
            let entry = folder.read(slot.at);
            *slot = self.push(entry);
        }
        &mut self.own[slot.at as usize]
    }

    /// How the path of a slot compares with another.
    fn order(&self, slot: Slot, path: &LayerPath) -> Ordering {
        let Some(folder) = self.folder(slot) else {
            return self.own[slot.at as usize].entry.path.cmp(path);
        };
        match path.relative_to(&folder.target) {
            Some(below) if !below.is_empty() => path_order(folder.listing.name(slot.at as usize), below),
            // The directory and what is above it come before its files. Any other path compares with them as it does with
            // the directory.
            _ => folder.target.cmp(path).then(Ordering::Greater),
        }
    }

    /// One list of two in order.
    fn merge(&self, slots: Vec<Slot>, late: BTreeMap<LayerPath, Slot>) -> Vec<Slot> {
        if late.is_empty() {
            return slots;
        }
        let mut all = Vec::with_capacity(slots.len() + late.len());
        let mut slots = slots.into_iter().peekable();
        for (path, slot) in late {
            while let Some(earlier) = slots.next_if(|other| self.order(*other, &path) == Ordering::Less) {
                all.push(earlier);
            }
            all.push(slot);
        }
        all.extend(slots);
        all
    }
}

impl Folder {
    fn path(&self, at: u32) -> LayerPath {
        self.target.join_known(self.listing.name(at as usize))
    }

    fn links(&self, at: u32) -> Option<LinkGroup> {
        let metadata = self.listing.metadata(at as usize);
        self.rules.links(&metadata)
    }

    fn read(&self, at: u32) -> PlannedEntry {
        let metadata = self.listing.metadata(at as usize);
        let content = match metadata.file_type {
            FileType::RegularFile => Content::Source {
                root: Arc::clone(&self.rules.root),
                file: SourceFile::Listed(Arc::clone(&self.listing), at),
            },
            _ => Content::None,
        };
        // Only files of a known kind are inserted.
        let kind = kind_of(&metadata).unwrap_or(EntryKind::File { size: 0, digest: None });
        let entry = self.rules.entry(self.path(at), kind, &metadata);
        PlannedEntry { entry, content, links: self.rules.links(&metadata).map(Box::new) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SourceKind;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn path(text: &str) -> LayerPath {
        LayerPath::new(text).unwrap()
    }

    fn metadata(at: usize) -> Metadata {
        let file_type = if at.is_multiple_of(3) { FileType::Directory } else { FileType::RegularFile };
        Metadata {
            file_type,
            mode: 0o644,
            uid: 1,
            gid: 2,
            size: at as u64,
            device: 1,
            inode: 100 + (at % 4) as u64,
            links: 1 + (at % 2) as u64,
            special: 0,
            mtime: (at as i64, 5),
            ctime: (at as i64, 6),
        }
    }

    /// What a map of whole values would have.
    fn show(entry: &PlannedEntry) -> (LayerPath, u64, i64, Option<LinkGroup>, bool) {
        let PlannedEntry { entry, content, links } = entry;
        let is_source = matches!(content, Content::Source { .. });
        (entry.path.clone(), entry.size(), entry.mtime, links.as_deref().copied(), is_source)
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_any_order(
            names in prop::collection::btree_set("[ab./]{0,1}[abc]{1,2}", 1..6),
            changes in prop::collection::vec((0..5_u8, "[ab]{1,2}(/[abc]{1,2}){0,2}", any::<prop::sample::Index>()), 0..60),
        ) {
            let place = tempfile::tempdir().unwrap();
            let root = Arc::new(SourceRoot::open(place.path(), SourceKind::Context, None).unwrap());
            let rules = Arc::new(Rules { root, chown: None, chmod: None, number: 7 });
            let names: Vec<String> =
                names.into_iter().map(|name| name.replace(['/', '.'], "-")).collect::<BTreeSet<_>>().into_iter().collect();
            let mut listing = Listing::new(b"from");
            for (at, name) in names.iter().enumerate() {
                listing.push(name.as_bytes(), &metadata(at));
            }
            let listing = Arc::new(listing.finish(|_, _| Ok::<_, ()>(true)).unwrap());
            let (mut map, mut model) = (PendingMap::default(), BTreeMap::new());
            for (number, (kind, text, index)) in changes.into_iter().enumerate() {
                let here = path(&text);
                match kind {
                    0 => {
                        let mut entry = PlannedEntry::new(Entry::file(here.clone(), number as u64, 0o600), Content::None);
                        entry.links = (number % 2 == 0).then(|| Box::new((1, 2, 3)));
                        map.insert(entry.clone());
                        model.insert(here.clone(), entry);
                    }
                    1 => {
                        let at = index.index(names.len());
                        let folder = PlannedFolder::new(&here, &listing, &rules);
                        let file = here.join(&names[at]).unwrap();
                        map.insert_listed(&file, &folder, at as u32);
                        let metadata = metadata(at);
                        let mut entry = rules.entry(file.clone(), kind_of(&metadata).unwrap(), &metadata);
                        entry.nanoseconds = 5;
                        let content = match metadata.is_directory() {
                            true => Content::None,
                            false => Content::Source {
                                root: Arc::clone(&rules.root),
                                file: SourceFile::Listed(Arc::clone(&listing), at as u32),
                            },
                        };
                        let links = rules.links(&metadata).map(Box::new);
                        model.insert(file, PlannedEntry { entry, content, links });
                    }
                    2 => {
                        map.remove(&here);
                        model.retain(|known, _| !known.starts_with(&here));
                    }
                    3 => {
                        let time = number as i64;
                        let changed = map.get_mut(&here).map(|found| found.entry.mtime = time);
                        let expected = model.get_mut(&here).map(|found: &mut PlannedEntry| found.entry.mtime = time);
                        prop_assert_eq!(changed, expected);
                    }
                    _ => {
                        let mut entry = Entry::file(here.clone(), 0, 0o123);
                        entry.mtime = -5;
                        let group = (7, 1, 101);
                        map.change_links(|found| (*found == group).then_some(&entry));
                        for found in model.values_mut().filter(|found| found.links.as_deref() == Some(&group)) {
                            found.entry.mtime = -5;
                        }
                    }
                }
                prop_assert_eq!(map.get(&here).map(|found| show(&found)), model.get(&here).map(show));
                let is_below = model.keys().any(|known| known.starts_with(&here));
                prop_assert_eq!(map.has_at_or_below(&here), is_below);
            }
            let opaque = |path: &LayerPath| path.as_bytes().len().is_multiple_of(2);
            let finished = map.finish(Some(&opaque));
            let mut found = finished.iter();
            let mut first: HashMap<LinkGroup, LayerPath> = HashMap::new();
            for (path, expected) in model {
                let entry = found.next().unwrap();
                prop_assert_eq!(&entry.entry.path, &path);
                let target = expected.links.as_deref().and_then(|group| first.get(group));
                match target {
                    Some(target) => {
                        prop_assert_eq!(&entry.entry.kind, &EntryKind::Hardlink { target: target.clone() });
                        prop_assert!(matches!(entry.content, Content::None));
                    }
                    None => prop_assert_eq!(show(&entry), show(&expected)),
                }
                if let Some(group) = expected.links.as_deref() {
                    first.entry(*group).or_insert_with(|| path.clone());
                }
                if entry.entry.is_directory() && opaque(&path) {
                    let mark = found.next().unwrap();
                    prop_assert_eq!((&mark.entry.path, &mark.entry.kind), (&path, &EntryKind::OpaqueWhiteout));
                }
            }
            prop_assert!(found.next().is_none());
        }
    }

    #[test]
    fn a_planned_file_is_small() {
        assert!(size_of::<Slot>() <= 8, "{}", size_of::<Slot>());
    }
}
