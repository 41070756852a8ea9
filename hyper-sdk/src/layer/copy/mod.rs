//! Makes the layers of COPY, ADD of local files, WORKDIR and inline documents. A copy is planned against an index of
//! the destination and written as one canonical layer, directly from the source. The destination is not unpacked.
//!
//! ```text
//!   SourceRoot ─┐
//!   CopySpec  ──┼─▶ Planner ──▶ Plan ──▶ content_digest   (what the cache key needs)
//!   destination ┘   (rules)      └─────▶ write            (a LayerWriter)
//! ```
//! A `Planner` takes the sources of one instruction in order and treats its own earlier entries as part of the
//! destination. The plan contains every path once, sorted.
//!
//! # Rules (those of BuildKit)
//! - A directory copies its contents. The destination directory itself, when it is missing, is made with mode 0755 (or
//!   the octal `--chmod`), owned by root (or `--chown`), with the time of the source directory; directories below it
//!   get the mode and owner of their sources even if they exist already; existing parents are unchanged.
//! - Links are followed in all parts of a source, but not below it. Links of the destination are followed within the
//!   root file system, but not below it. A directory never replaces a link or a file, and a file never replaces a
//!   directory, except when an archive is unpacked.
//! - A source without wildcards must exist, and so must the folder before the first wildcard. A wildcard may have no
//!   matches.
//! - `--exclude` also applies to the source itself (a named file or a wildcard match), as the Dockerfile reference says
//!   (BuildKit copies these), and to members of archives. If nothing is left, nothing is made.
//! - Several names of one file within one match stay hard links. Sockets become empty files. Devices and pipes are
//!   copied.
//! - Of extended attributes only `security.capability` reaches a layer. Files of a build context belong to root.

mod archive;
mod conflicts;
mod destination;
mod file_digest;
mod listing;
mod metadata;
mod newest_mtime;
pub(crate) mod pattern;
mod pending;
mod plan;
mod planned_entry;
mod planner;
mod reading;
mod request;
mod source;
mod sparse;
mod stat_cache;
mod suggest;
#[cfg(test)]
mod tests;
mod times;
mod wildcard;

pub(crate) use destination::{Destination, EmptyDestination};
use metadata::Metadata;
pub(crate) use newest_mtime::newest_mtime;
use pattern::ParentMatch;
pub use pattern::PatternList;
pub(crate) use plan::{DigestedEntry, Plan};
pub(crate) use planner::Planner;
pub(crate) use reading::threads;
pub use request::{CopyRequest, CopyStep};
pub(crate) use request::{index_of, tree_of};
pub use source::SourceKind;
pub(crate) use source::{FilterDecision, PathFilter, SourceRoot};
pub(crate) use stat_cache::StatCache;

use crate::layer::Owner;
use crate::mode::ModeChange;
use serde::{Deserialize, Serialize};

/// One group of sources of a COPY or ADD and how they are copied. Variables are already expanded.
///
/// It can be sent to another process: the sandbox's helper plans and writes copies from mounted stages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopySpec {
    /// The sources, relative to their root with or without a leading slash; an empty text is the whole root.
    pub sources: Vec<String>,
    /// The absolute destination; see `destination_path`. A slash or `/.` at its end means a directory.
    pub destination: String,
    /// The owner of all new entries; `None` for the source's owner.
    pub chown: Option<Owner>,
    /// The change of the modes of all new entries except links.
    pub chmod: Option<ModeChange>,
    /// The patterns of files to leave out, relative to each copied directory and to the root of each unpacked archive.
    /// A named file or a wildcard match is left out if its name or its path from the root of the source matches. A
    /// named directory is not left out, since only its content is copied.
    pub exclude: PatternList,
    /// Keeps the parents of the sources, from the root or from the pivot `/./` on.
    pub parents: bool,
    /// Whether `*`, `?` and `[` are wildcards. They are not in the name of a downloaded file.
    pub wildcards: bool,
    /// Whether a directory copies its contents (always, in a Dockerfile) instead of itself.
    pub directory_contents: bool,
    /// Whether regular files that are tar archives, compressed or not, are unpacked: ADD, or `--unpack`.
    pub unpack: bool,
}

impl PartialEq for PatternList {
    fn eq(&self, other: &Self) -> bool {
        self.texts() == other.texts()
    }
}

impl CopySpec {
    /// The spec of a plain `COPY SOURCES DESTINATION`.
    pub fn new<S: Into<String>>(
        sources: impl IntoIterator<Item = S>,
        destination: impl Into<String>,
    ) -> Self {
        Self {
            sources: sources.into_iter().map(Into::into).collect(),
            destination: destination.into(),
            wildcards: true,
            directory_contents: true,
            ..Self::default()
        }
    }

    /// The result of `exclude` for the content of a source, by its name as written or found by a `wildcard`; `None` if
    /// the source itself is left out with its content.
    fn excluded_source(&self, name: &[u8], metadata: &Metadata, wildcard: bool) -> Option<ParentMatch> {
        if self.exclude.is_empty() || (metadata.is_directory() && !wildcard) {
            return Some(ParentMatch::default());
        }
        match self.exclude.matches_source(name) {
            (false, _) => Some(ParentMatch::default()),
            // An exception may include some of its content again.
            (true, below) if metadata.is_directory() && self.exclude.has_exceptions() => Some(below),
            (true, _) => None,
        }
    }
}

/// The absolute form of the destination of an instruction: joined to the working folder and cleaned, with a trailing
/// slash or `/.` kept. An empty text and `.` mean the working folder as a directory.
pub fn destination_path(working_directory: &str, destination: &str) -> String {
    let text = if matches!(destination, "" | ".") { "./" } else { destination };
    let joined = if text.starts_with('/') { text.to_owned() } else { format!("{working_directory}/{text}") };
    let clean = pattern::clean(joined.as_bytes());
    let mut path = format!("/{}", String::from_utf8_lossy(&clean));
    if (text.ends_with('/') || text.ends_with("/.")) && path != "/" {
        path.push('/');
    }
    path
}
