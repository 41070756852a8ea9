//! The content of a directory to copy from, and the files in it that a plan refers to.
//!
//! A plan may have hundreds of thousands of files. So all names of a directory are in one allocation, and a planned file
//! is a place in a listing, not a path and metadata of its own.

use super::metadata::{Metadata, join};
use std::sync::Arc;

/// One name of a listing: where it is among the names.
#[derive(Clone, Copy, Debug)]
struct Item {
    start: u32,
    length: u16,
    metadata: Metadata,
}

/// The content of a directory, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    folder: Box<[u8]>,
    names: Vec<u8>,
    items: Vec<Item>,
}

impl Listing {
    /// An empty listing of the directory with this path.
    pub(super) fn new(folder: &[u8]) -> Self {
        Self { folder: folder.into(), ..Self::default() }
    }

    /// Adds a name.
    pub(super) fn push(&mut self, name: &[u8], metadata: Metadata) {
        // No directory has 4 GiB of names, and no name has more than 255 bytes.
        let (Ok(start), Ok(length)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else {
            return;
        };
        self.names.extend_from_slice(name);
        self.items.push(Item { start, length, metadata });
    }

    /// Keeps the names for which `keep` says so, and sorts them.
    pub(super) fn finish<E>(
        mut self,
        mut keep: impl FnMut(&[u8], &Metadata) -> Result<bool, E>,
    ) -> Result<Self, E> {
        let mut kept = Vec::with_capacity(self.items.len());
        for item in &self.items {
            if keep(self.name_of(item), &item.metadata)? {
                kept.push(*item);
            }
        }
        kept.sort_unstable_by(|a, b| self.name_of(a).cmp(self.name_of(b)));
        self.items = kept;
        self.names.shrink_to_fit();
        Ok(self)
    }

    fn name_of(&self, item: &Item) -> &[u8] {
        &self.names[item.start as usize..][..usize::from(item.length)]
    }

    /// The names with their metadata, in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &Metadata)> {
        self.items.iter().map(|item| (self.name_of(item), &item.metadata))
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
            Self::Listed(listing, at) => join(&listing.folder, listing.name_of(&listing.items[*at as usize])),
            Self::Named(named) => named.0.clone(),
        }
    }

    /// The metadata of the file when it was planned.
    pub(crate) fn metadata(&self) -> &Metadata {
        match self {
            Self::Listed(listing, at) => &listing.items[*at as usize].metadata,
            Self::Named(named) => &named.1,
        }
    }
}
