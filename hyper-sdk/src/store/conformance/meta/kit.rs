//! Helpers of the cases.

use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::RepositoryName;
use crate::store::blob::BlobKey;
use crate::store::meta::{Change, Edge, EdgeKind, ManifestChange, MetaBackend};
use crate::{Digest, Result};

pub(super) use super::super::kit::{by_digest, by_tag, fails, repository, tag};

/// A time after the end of every lease of these cases.
pub(super) const LATER: i64 = 1_000;

pub(super) fn digest(text: &str) -> Digest {
    Digest::sha256(text)
}

/// Links a blob of five bytes.
pub(super) fn link(name: &RepositoryName, text: &str, leased_until: i64) -> Change {
    let digest = digest(text);
    Change::LinkBlob {
        repository: name.clone(),
        key: BlobKey::Digest(digest.clone()),
        digest,
        size: 5,
        upload: None,
        leased_until,
    }
}

/// Links a blob whose bytes have a [`BlobKey::Own`].
pub(super) fn link_own(name: &RepositoryName, text: &str, key: &str) -> Change {
    Change::LinkBlob {
        repository: name.clone(),
        digest: digest(text),
        size: 5,
        key: BlobKey::Own(key.to_owned()),
        upload: None,
        leased_until: 0,
    }
}

pub(super) fn mount(name: &RepositoryName, text: &str, from: &RepositoryName) -> Change {
    Change::MountBlob { repository: name.clone(), digest: digest(text), from: from.clone(), leased_until: 0 }
}

pub(super) fn unlink(name: &RepositoryName, text: &str) -> Change {
    Change::UnlinkBlob { repository: name.clone(), digest: digest(text) }
}

pub(super) fn collect(name: &RepositoryName, text: &str, now: i64) -> Change {
    Change::CollectLink { repository: name.clone(), digest: digest(text), now }
}

pub(super) fn condemn(text: &str, mark: u64) -> Change {
    Change::CondemnBlob { digest: digest(text), mark }
}

pub(super) fn remove(text: &str, mark: u64) -> Change {
    Change::RemoveBlob { digest: digest(text), mark }
}

/// An image of a config and a layer, five bytes each.
pub(super) fn image(config: &str, layer: &str) -> Manifest {
    let descriptor = |media_type: &str, text| Descriptor::new(media_type, digest(text), 5);
    let layer = descriptor(media_type::OCI_LAYER, layer);
    let image = ImageManifest::new(descriptor(media_type::OCI_CONFIG, config), vec![layer]);
    Manifest::sniff(image.to_bytes()).unwrap()
}

/// An index without entries; `text` makes it different from others.
pub(super) fn index(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

/// A required edge to a blob whose five bytes are stored.
pub(super) fn edge(text: &str) -> Edge {
    Edge {
        kind: EdgeKind::Blob,
        digest: digest(text),
        required: true,
        size: 5,
        stored: Some(5),
        field: "layers[0]".to_owned(),
    }
}

pub(super) fn change(
    name: &RepositoryName,
    manifest: &Manifest,
    edges: Vec<Edge>,
    tags: &[&str],
) -> ManifestChange {
    ManifestChange {
        repository: name.clone(),
        manifest: manifest.clone(),
        edges,
        tags: tags.iter().map(|text| tag(text)).collect(),
        if_match: None,
        undeletes: false,
        entries: Vec::new(),
        guard: None,
    }
}

/// Stores a manifest without references.
pub(super) async fn put(
    meta: &dyn MetaBackend,
    name: &RepositoryName,
    manifest: &Manifest,
    tags: &[&str],
) -> Result<u64> {
    meta.write(Change::PutManifest(Box::new(change(name, manifest, vec![], tags)))).await
}

/// The version, from wherever the backend has it.
pub(super) async fn version(meta: &dyn MetaBackend) -> Option<u64> {
    match meta.version() {
        None => meta.fetch_version().await,
        now => now,
    }
}

/// Links the blobs of an image and stores it.
pub(super) async fn put_image(
    meta: &dyn MetaBackend,
    name: &RepositoryName,
    (config, layer): (&str, &str),
    tags: &[&str],
) -> Manifest {
    for text in [config, layer] {
        meta.write(link(name, text, 0)).await.unwrap();
    }
    let manifest = image(config, layer);
    let change = change(name, &manifest, vec![edge(config), edge(layer)], tags);
    meta.write(Change::PutManifest(Box::new(change))).await.unwrap();
    manifest
}

pub(super) async fn tags(meta: &dyn MetaBackend, name: &RepositoryName) -> Vec<String> {
    let tags = meta.tags(name, None, 100).await.unwrap().unwrap();
    tags.items.iter().map(ToString::to_string).collect()
}
