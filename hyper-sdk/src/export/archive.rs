//! Image archives: an OCI image layout (image-spec, image-layout.md) as a tar or a folder, with Docker's additional
//! `manifest.json` for `docker load`.
//!
//! ```text
//!   oci-layout  index.json  [manifest.json]  blobs/sha256/HEX…
//! ```

use super::BuiltImage;
use crate::Result;
use crate::client::verify::verified;
use crate::layout::{IMAGE_NAME, LayoutWriter, REF_NAME, blob_path};
use crate::oci::{Descriptor, ImageIndex};
use crate::reference::Reference;
use crate::store::RegistryStore;
use serde_json::json;
use std::path::Path;

/// The kind of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// An OCI image layout that `docker load` accepts too.
    Docker,
}

/// Writes an image as an archive: a tar file, or a folder when `folder` is set.
///
/// The index has one entry for each name. A tar file appears under its name when it is complete. `/dev/stdout` and
/// other paths that are not regular files are written directly.
///
/// # Errors
/// Those of the store, and [`crate::ErrorKind::Io`] with the path.
pub(crate) async fn write_archive(
    image: &BuiltImage,
    store: &dyn RegistryStore,
    names: &[Reference],
    kind: ArchiveKind,
    destination: &Path,
    folder: bool,
) -> Result<()> {
    let layout = layout_of(image, store, names, kind, 0).await?;
    match folder {
        true => layout.write_folder(destination).await,
        false => layout.write_tar(destination, image.epoch).await,
    }
}

/// The files of an image, without the blobs of its first `known` layers.
///
/// # Errors
/// Those of the store.
pub(super) async fn layout_of(
    image: &BuiltImage,
    store: &dyn RegistryStore,
    names: &[Reference],
    kind: ArchiveKind,
    known: usize,
) -> Result<LayoutWriter> {
    let mut layout = LayoutWriter::new(&index(image, names));
    if kind == ArchiveKind::Docker {
        layout.add_file("manifest.json", docker_manifest(image, names));
    }
    for manifest in image.index.iter().chain(image.platforms().map(|image| &image.manifest)) {
        layout.add_bytes(manifest.digest(), manifest.bytes().clone());
    }
    for image in image.platforms() {
        layout.add_bytes(&image.config_descriptor().digest, image.config.clone());
    }
    for (layer, _) in image.platforms().flat_map(|image| image.chain.layers().iter().skip(known)) {
        if !layout.has_blob(&layer.blob.digest) {
            let blob = store.get_blob(&layer.repository, &layer.blob.digest, None).await?;
            layout.add_blob(&layer.blob.digest, verified(blob, &layer.blob.digest));
        }
    }
    Ok(layout)
}

fn index(image: &BuiltImage, names: &[Reference]) -> ImageIndex {
    let base = image.descriptor();
    let mut manifests: Vec<Descriptor> = names
        .iter()
        .map(|name| {
            let mut named = base.clone();
            let tag = name.tag().map_or("latest", |t| t.as_str());
            named
                .annotations
                .extend([(IMAGE_NAME.to_owned(), name.to_string()), (REF_NAME.to_owned(), tag.to_owned())]);
            named
        })
        .collect();
    if manifests.is_empty() {
        manifests.push(base);
    }
    ImageIndex::new(manifests)
}

fn docker_manifest(image: &BuiltImage, names: &[Reference]) -> Vec<u8> {
    let layers: Vec<String> = image.chain.layers().iter().map(|(l, _)| blob_path(&l.blob.digest)).collect();
    let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
    json!([{"Config": blob_path(&image.config_descriptor().digest), "RepoTags": tags, "Layers": layers}])
        .to_string()
        .into_bytes()
}
