//! OCI image layouts (image-spec, image-layout.md): read from folders and archives, and written as either.
//!
//! ```text
//!   oci-layout        {"imageLayoutVersion": "1.0.0"}
//!   index.json        the content; the annotation org.opencontainers.image.ref.name is the tag
//!   blobs/ALG/HEX     manifests, configs and layers alike
//! ```
//!
//! The content of a layout is not trusted.
//!
//! # Invariants
//! - Nothing outside of the layout is read: paths come from checked digests, and a link out of the layout is an error.
//! - Opening a file never blocks, and only regular files are read.
//! - Manifests, indexes and configs are read up to a limit, and every digest is checked, for a large blob while it is
//!   read.
//! - The index is written last, and each file appears completely or not at all.

#[cfg(feature = "build")]
mod archive;
#[cfg(feature = "build")]
mod docker;
mod files;
mod image_layout;
mod layout_file;
#[cfg(feature = "build")]
mod open_archive;
#[cfg(test)]
#[cfg(feature = "build")]
mod tests;
#[cfg(feature = "build")]
mod writer;

pub use image_layout::ImageLayout;
pub use layout_file::LayoutFile;
#[cfg(feature = "build")]
pub use writer::LayoutWriter;
#[cfg(feature = "build")]
pub(crate) use writer::{lock_index, write_index};

use crate::oci::Descriptor;
use crate::{Digest, Error, Result};

/// The annotation of a descriptor in the index that has the tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of a descriptor in the index that has the whole name, as containerd writes it.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The largest index, manifest or config, in bytes.
const MAX_JSON: u64 = 16 << 20;
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// The path of a blob in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Whether an entry of the index has a tag. Its name is the tag or, from some tools, a whole reference.
fn is_tagged(descriptor: &Descriptor, tag: &str) -> bool {
    descriptor
        .annotations
        .get(REF_NAME)
        .is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, t)| t == tag))
}

/// Runs file operations on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the work on an OCI layout ended early").with_source(e))?
}
