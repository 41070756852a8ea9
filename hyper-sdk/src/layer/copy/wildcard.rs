//! Wildcards of sources: finds the files of a source that match a pattern.

use super::metadata::join;
use super::pattern::{NamePattern, has_wildcards};
use super::source::SourceRoot;
use crate::Result;

/// Splits a path before its first part with a wildcard.
pub(super) fn split_wildcards(path: &[u8], wildcards: bool) -> (Vec<u8>, Option<Vec<u8>>) {
    let parts: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
    match parts.iter().position(|part| wildcards && has_wildcards(part)) {
        Some(at) => (parts[..at].join(&b'/'), Some(parts[at..].join(&b'/'))),
        None => (path.to_vec(), None),
    }
}

/// The matching paths below `base`, in the order of a walk; links to directories on the way are not followed.
pub(super) fn find_matches(root: &SourceRoot, base: &[u8], pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut level = match root.lookup(base)? {
        Some(metadata) if metadata.is_directory() => vec![base.to_vec()],
        _ => return Ok(Vec::new()),
    };
    let parts: Vec<&[u8]> = pattern.split(|&b| b == b'/').collect();
    for (i, part) in parts.iter().enumerate() {
        let name_pattern = NamePattern::new(part)?;
        let last = i + 1 == parts.len();
        let mut next = Vec::new();
        for directory in &level {
            for (name, metadata) in root.list(directory)?.iter() {
                if (last || metadata.is_directory()) && name_pattern.matches(name) {
                    next.push(join(directory, name));
                }
            }
        }
        level = next;
    }
    Ok(level)
}
