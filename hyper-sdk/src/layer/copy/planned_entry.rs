//! An entry of a plan, and where the content of its file comes from.

use super::listing::SourceFile;
use super::source::SourceRoot;
use crate::layer::Entry;
use std::fs::File;
use std::sync::Arc;

/// Identifies the names of one file: the match or archive that they belong to, and the file.
pub(super) type LinkGroup = (u64, u64, u64);

/// The source of a file's content.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// No content: not a file, or an empty one.
    None,
    /// A regular file of a source.
    Source {
        /// The source.
        root: Arc<SourceRoot>,
        /// The file in it.
        file: SourceFile,
    },
    /// These bytes.
    Inline(Arc<[u8]>),
    /// A part of a file: a member of an archive.
    Range {
        /// The file.
        file: Arc<File>,
        /// Where the part starts.
        offset: u64,
        /// Its length.
        size: u64,
    },
}

/// One planned entry of a layer.
#[derive(Clone, Debug)]
pub(crate) struct PlannedEntry {
    /// The entry; the digest and the capability of a file are not set yet.
    pub entry: Entry,
    /// The source of its content.
    pub content: Content,
    /// The group of names of one file that it belongs to.
    pub(super) links: Option<Box<LinkGroup>>,
}

impl PlannedEntry {
    /// An entry that shares its file with no other.
    pub(super) fn new(entry: Entry, content: Content) -> Self {
        Self { entry, content, links: None }
    }
}
