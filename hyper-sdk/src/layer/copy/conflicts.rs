//! Errors for conflicts between files, and for names that layers cannot contain.

use crate::layer::entry::{WHITEOUT_PREFIX, escape};
use crate::layer::{EntryKind, LayerPath};
use crate::{Error, ErrorKind, Result};

/// The error for a directory that would replace something else.
pub(super) fn directory_over(target: &LayerPath, other: &EntryKind, from: &[u8]) -> Error {
    let message = format!(
        "cannot copy a directory over the {} `/{target}`: remove it first or choose another destination",
        other.name()
    );
    Error::new(ErrorKind::Conflict, message).with_context("directory", escape(from))
}

/// The error for something that would replace a directory.
pub(super) fn file_over_directory(target: &LayerPath, kind: &EntryKind, from: &str) -> Error {
    let message = format!(
        "cannot replace the directory `/{target}` by a {}: remove it first or choose another destination",
        kind.name()
    );
    Error::new(ErrorKind::Conflict, message).with_context("file", from)
}

/// Rejects names that have a special meaning in a layer.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.starts_with(WHITEOUT_PREFIX) {
        return Err(Error::unsupported(
            "a name that starts with `.wh.` marks a removed file in a layer: rename it",
        )
        .with_context("name", escape(name)));
    }
    Ok(())
}
