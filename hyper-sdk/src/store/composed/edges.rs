//! The references of a manifest, and which of them are required.

use crate::media_type;
use crate::oci::{Descriptor, Manifest, ManifestBody};
use crate::store::errors::two_sizes;
use crate::store::meta::{Edge, EdgeKind};
use crate::{Digest, Result};
use std::collections::HashMap;

/// The references of a manifest, each digest once: the config and layers of an image, the entries of an index.
///
/// # Errors
/// [`crate::ErrorKind::SizeInvalid`] when two descriptors of one digest have different sizes.
pub(in crate::store) fn edges(manifest: &Manifest) -> Result<Vec<Edge>> {
    let edge = |kind, field: String, d: &Descriptor, required| Edge {
        kind,
        digest: d.digest.clone(),
        required,
        size: d.size,
        stored: None,
        field,
    };
    let all: Vec<Edge> = match manifest.body() {
        ManifestBody::Image(image) => {
            std::iter::once(edge(EdgeKind::Blob, "config".to_owned(), &image.config, true))
                .chain(image.layers.iter().enumerate().map(|(i, layer)| {
                    let exempt =
                        media_type::is_non_distributable(&layer.media_type) || !layer.urls.is_empty();
                    edge(EdgeKind::Blob, format!("layers[{i}]"), layer, !exempt)
                }))
                .collect()
        }
        // An entry with a platform may be missing: the index is then sparse (image-spec, image-index.md).
        ManifestBody::Index(index) => index
            .manifests
            .iter()
            .enumerate()
            .map(|(i, entry)| {
                edge(EdgeKind::Entry, format!("manifests[{i}]"), entry, entry.platform.is_none())
            })
            .collect(),
    };
    let mut places: HashMap<Digest, usize> = HashMap::with_capacity(all.len());
    let mut edges: Vec<Edge> = Vec::with_capacity(all.len());
    for edge in all {
        let Some(first) = places.get(&edge.digest).and_then(|i| edges.get_mut(*i)) else {
            places.insert(edge.digest.clone(), edges.len());
            edges.push(edge);
            continue;
        };
        if edge.size != first.size {
            return Err(two_sizes(&first.field, &edge.field, &first.digest));
        }
        // A required reference takes precedence over an optional one to the same content.
        first.required |= edge.required;
    }
    Ok(edges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{ImageIndex, ImageManifest};
    use crate::platform::Platform;

    #[test]
    fn exemptions_follow_the_media_type_the_urls_and_the_platform() {
        let blob = |media_type: &str, text: &str| Descriptor::of(media_type, text.as_bytes());
        let elsewhere =
            Descriptor { urls: vec!["https://example.org/b".into()], ..blob(media_type::OCI_LAYER, "b") };
        let foreign = blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "c");
        let config = blob(media_type::OCI_CONFIG, "{}");
        let layers =
            vec![foreign, elsewhere, blob(media_type::OCI_LAYER, "a"), blob(media_type::OCI_LAYER, "a")];
        let image = ImageManifest::new(config, layers).to_bytes();
        let image = edges(&Manifest::parse(image, media_type::OCI_MANIFEST).unwrap()).unwrap();
        let required = |text: &str| image.iter().find(|e| e.digest == Digest::sha256(text)).unwrap().required;
        assert_eq!(image.len(), 4);
        assert!(required("{}") && required("a") && !required("b") && !required("c"));

        let plain = blob(media_type::OCI_MANIFEST, "m");
        let linux = Platform::new("linux", "amd64", None);
        let index = ImageIndex::new(vec![Descriptor { platform: Some(linux), ..plain.clone() }, plain]);
        let index = edges(&Manifest::parse(index.to_bytes(), media_type::OCI_INDEX).unwrap()).unwrap();
        assert!(index.len() == 1 && index[0].required && index[0].kind == EdgeKind::Entry);
        assert_eq!(index[0].field, "manifests[0]");
    }
}
