//! The content key of a copy: a digest of what it selects.

use super::CopySpec;
use super::destination::EmptyDestination;
use super::file_digest::FileHasher;
use super::planner::Planner;
use super::source::SourceRoot;
use crate::digest::Hasher;
use crate::layer::FileTime;
use crate::{Digest, Result};
use std::sync::Arc;

/// The digest of what `spec` selects from a source, whatever the destination holds: the content key of the cache.
///
/// Archives count by their own bytes. The destination, `--unpack` and the texts of the sources belong into the
/// definition key beside it.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] when a source does not exist, and those of reading.
pub fn content_digest(
    root: &Arc<SourceRoot>,
    spec: &CopySpec,
    hasher: &dyn FileHasher,
    threads: usize,
) -> Result<Digest> {
    let mut digest = Hasher::sha256();
    // Every source is planned by itself, so that none hides another and none can collide with another.
    for source in &spec.sources {
        let spec = CopySpec {
            sources: vec![source.clone()],
            destination: "/".to_owned(),
            unpack: false,
            ..spec.clone()
        };
        let mut planner = Planner::new(&EmptyDestination, FileTime::of(0));
        planner.copy(root, &spec)?;
        planner.finish().add_to(&mut digest, hasher, threads)?;
    }
    Ok(digest.finish())
}
