//! What COPY, ADD of local files, WORKDIR and inline documents write: planned against an index of the destination,
//! written as one canonical layer straight from the source. Nothing of the destination is unpacked.
//!
//! ```text
//!   SourceRoot ─┐
//!   CopySpec  ──┼─▶ Planner ──▶ Plan ──▶ content_digest   (what the cache key needs)
//!   destination ┘   (rules)      └─────▶ write            (a LayerWriter)
//! ```
//! A [`Planner`] takes the sources of one instruction in order, sees its own earlier entries as part of the
//! destination, and gives every path of the result once, sorted.
//!
//! # Rules (those of BuildKit)
//! - A directory copies its contents. The destination directory itself, when it is missing, is made with mode 0755 (or
//!   the octal `--chmod`), owned by root (or `--chown`), with the time of the source directory; directories below it
//!   take mode and owner of their sources even when they exist already; existing parents are left alone.
//! - Links are followed in the parts of a source before its last, at its last part, and nowhere below it. Links of the
//!   destination are followed within the root file system; below the destination none is: a directory never replaces
//!   a link or a file, nor a file a directory, except when an archive is unpacked, which replaces what it finds.
//! - A source without wildcards must exist, and so must the folder before the first wildcard. A wildcard may match
//!   nothing.
//! - `--exclude` also leaves out what a source names: a file, or what a wildcard finds, as the reference says (BuildKit
//!   copies these), and members of archives. When nothing is left, nothing is made.
//! - Several names of one file within one match stay hard links. Sockets become empty files. Devices and pipes stay.
//! - Of extended attributes only `security.capability` reaches a layer. Files of a build context belong to root.

mod archive;
mod conflicts;
mod destination;
mod file_digest;
mod newest_mtime;
pub(crate) mod pattern;
mod plan;
mod planner;
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
pub(crate) use newest_mtime::newest_mtime;
use pattern::ParentMatch;
pub(crate) use pattern::PatternList;
pub(crate) use plan::Plan;
pub(crate) use planner::Planner;
pub(crate) use request::tree_of;
pub use request::{CopyRequest, CopyStep};
use source::Metadata;
pub(crate) use source::{FilterDecision, PathFilter, SourceKind, SourceRoot};
pub(crate) use stat_cache::StatCache;

use crate::layer::passwd::Owner;
use crate::mode::ModeChange;
use serde::{Deserialize, Serialize};

/// One group of sources of a COPY or ADD and how they are copied; its texts are expanded already.
///
/// It can be sent to another process: the sandbox's helper plans and writes a copy out of a mounted stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopySpec {
    /// The sources, relative to their root whether they start with a slash or not; an empty text is the whole root.
    pub sources: Vec<String>,
    /// The absolute destination; see [`destination_path`]. A slash or `/.` at its end means a directory.
    pub destination: String,
    /// The owner of everything that is made; the source's owner when absent.
    pub chown: Option<Owner>,
    /// The change of the modes of everything that is made, except links.
    pub chmod: Option<ModeChange>,
    /// What is left out, relative to each directory that is copied and to the top of each archive that is unpacked. A
    /// file, and whatever a wildcard finds, is left out itself when its name or its path from the root of the source
    /// matches; a directory that is named copies its contents, and is not.
    pub exclude: PatternList,
    /// Keeps the parents of the sources, from the root or from behind the pivot `/./`.
    pub parents: bool,
    /// Whether `*`, `?` and `[` mean something; they never do in the name of a downloaded file.
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

    /// What `exclude` says to what is in a source, by its name as written or found by a `wildcard`; `None` when the
    /// source itself is left out, with all that is in it.
    fn excluded_source(&self, name: &[u8], metadata: &Metadata, wildcard: bool) -> Option<ParentMatch> {
        if self.exclude.is_empty() || (metadata.is_directory() && !wildcard) {
            return Some(ParentMatch::default());
        }
        match self.exclude.matches_source(name) {
            (false, _) => Some(ParentMatch::default()),
            // An exception may take back what is in it.
            (true, below) if metadata.is_directory() && self.exclude.has_exceptions() => Some(below),
            (true, _) => None,
        }
    }
}

/// The absolute form of a destination as an instruction gives it: joined to the working folder and cleaned, with a
/// slash or `/.` at its end kept. An empty text and `.` are the working folder as a directory.
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
