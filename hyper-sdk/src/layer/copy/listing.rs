//! The content of a directory to copy from, and the files in it that a plan refers to.
//!
//! A plan may have hundreds of thousands of files. So all names of a directory are in one allocation, what most of its
//! files have in common is stored once, and a planned file is a place in a listing, not a path and metadata of its own.

use super::metadata::{Metadata, join};
use rustix::fs::FileType;
use std::sync::Arc;

/// How many of the newest shared parts are compared with those of the next file.
const COMPARED: usize = 8;

/// One name of a listing. Its name ends where the one of the next item starts.
#[derive(Clone, Copy, Debug)]
struct Item {
    start: u32,
    shared: u32,
    size: u64,
    inode: u64,
    mtime: i64,
    ctime: i64,
    mtime_nanoseconds: u32,
    ctime_nanoseconds: u32,
}

/// What many files of a directory have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shared {
    file_type: FileType,
    mode: u32,
    uid: u32,
    gid: u32,
    device: u64,
    links: u64,
    special: u64,
}

/// The content of a directory, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    folder: Box<[u8]>,
    names: Vec<u8>,
    items: Vec<Item>,
    shared: Vec<Shared>,
}

impl Listing {
    /// An empty listing of the directory with this path.
    pub(super) fn new(folder: &[u8]) -> Self {
        Self { folder: folder.into(), ..Self::default() }
    }

    /// Adds a name.
    pub(super) fn push(&mut self, name: &[u8], metadata: &Metadata) {
        // No directory has 4 GiB of names.
        let (Ok(start), Ok(_)) =
            (u32::try_from(self.names.len()), u32::try_from(name.len() + self.names.len()))
        else {
            return;
        };
        let Metadata { file_type, mode, uid, gid, device, links, special, size, inode, mtime, ctime } =
            *metadata;
        let shared = Shared { file_type, mode, uid, gid, device, links, special };
        let newest = self.shared.len().saturating_sub(COMPARED);
        let known = self.shared[newest..].iter().position(|known| *known == shared);
        let at = known.map_or(self.shared.len(), |at| newest + at);
        if known.is_none() {
            self.shared.push(shared);
        }
        self.names.extend_from_slice(name);
        self.items.push(Item {
            start,
            // There are at most as many as names.
            shared: at as u32,
            size,
            inode,
            mtime: mtime.0,
            ctime: ctime.0,
            mtime_nanoseconds: mtime.1,
            ctime_nanoseconds: ctime.1,
        });
    }

    /// Keeps the names for which `keep` says so, and sorts them.
    pub(super) fn finish<E>(
        self,
        mut keep: impl FnMut(&[u8], &Metadata) -> Result<bool, E>,
    ) -> Result<Self, E> {
        let mut kept = Vec::with_capacity(self.items.len());
        for (at, (name, metadata)) in self.iter().enumerate() {
            if keep(name, &metadata)? {
                kept.push(at);
            }
        }
        kept.sort_unstable_by(|a, b| self.name(*a).cmp(self.name(*b)));
        let length = kept.iter().map(|at| self.name(*at).len()).sum();
        let (mut names, mut items) = (Vec::with_capacity(length), Vec::with_capacity(kept.len()));
        for at in kept {
            items.push(Item { start: names.len() as u32, ..self.items[at] });
            names.extend_from_slice(self.name(at));
        }
        let mut shared = self.shared;
        shared.shrink_to_fit();
        Ok(Self { folder: self.folder, names, items, shared })
    }

    /// The name with a number.
    pub(super) fn name(&self, at: usize) -> &[u8] {
        let end = self.items.get(at + 1).map_or(self.names.len(), |next| next.start as usize);
        &self.names[self.items[at].start as usize..end]
    }

    /// The metadata of the file with a number.
    pub(super) fn metadata(&self, at: usize) -> Metadata {
        let item = &self.items[at];
        let Shared { file_type, mode, uid, gid, device, links, special } = self.shared[item.shared as usize];
        Metadata {
            file_type,
            mode,
            uid,
            gid,
            size: item.size,
            device,
            inode: item.inode,
            links,
            special,
            mtime: (item.mtime, item.mtime_nanoseconds),
            ctime: (item.ctime, item.ctime_nanoseconds),
        }
    }

    /// The names with their metadata, in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], Metadata)> {
        (0..self.items.len()).map(|at| (self.name(at), self.metadata(at)))
    }
}

/// A file of a source: a name in a listing, or a path that was named itself.
#[derive(Clone, Debug)]
pub(crate) enum SourceFile {
    /// The name with this number in a listing.
    Listed(Arc<Listing>, u32),
    /// A path without links, and the metadata that was found there.
    Named(Box<(Vec<u8>, Metadata)>),
}

impl SourceFile {
    /// The file at a path.
    pub(super) fn named(path: &[u8], metadata: &Metadata) -> Self {
        Self::Named(Box::new((path.to_vec(), *metadata)))
    }

    /// The path from the root of the source, without links.
    pub(crate) fn path(&self) -> Vec<u8> {
        match self {
            Self::Listed(listing, at) => join(&listing.folder, listing.name(*at as usize)),
            Self::Named(named) => named.0.clone(),
        }
    }

    /// The metadata of the file when it was planned.
    pub(crate) fn metadata(&self) -> Metadata {
        match self {
            Self::Listed(listing, at) => listing.metadata(*at as usize),
            Self::Named(named) => named.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn metadata(seed: u64) -> Metadata {
        let types = [FileType::RegularFile, FileType::Directory, FileType::Symlink];
        Metadata {
            file_type: types[(seed % 3) as usize],
            mode: (seed % 11) as u32,
            uid: (seed % 2) as u32,
            gid: (seed % 5) as u32,
            size: seed * 3,
            device: seed % 2,
            inode: seed,
            links: seed % 4,
            special: seed % 2,
            mtime: (seed.cast_signed() - 50, (seed * 7) as u32),
            ctime: (seed.cast_signed() - 40, (seed * 5) as u32),
        }
    }

    proptest! {
        #[test]
        fn a_listing_is_a_sorted_map(files in prop::collection::btree_map("[a-c./]{1,5}", 0..100_u64, 0..40)) {
            let mut listing = Listing::new(b"folder");
            // The order of a directory is any.
            for (name, seed) in files.iter().rev() {
                listing.push(name.as_bytes(), &metadata(*seed));
            }
            let keep = |name: &[u8], metadata: &Metadata| Ok::<_, ()>(!metadata.inode.is_multiple_of(5) && name != b"a");
            let listing = listing.finish(keep).unwrap();
            let found: Vec<_> = listing.iter().map(|(name, metadata)| (name.to_vec(), metadata)).collect();
            let model: BTreeMap<_, _> =
                files.iter().map(|(name, seed)| (name.as_bytes().to_vec(), metadata(*seed))).collect();
            let expected: Vec<_> =
                model.into_iter().filter(|(name, metadata)| keep(name, metadata) == Ok(true)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_name_of_a_listing_is_small() {
        assert!(size_of::<Item>() <= 48, "{}", size_of::<Item>());
    }
}
