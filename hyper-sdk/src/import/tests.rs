//! Imports of trees that are written by hand, into stores in memory.

mod distribution;
mod layouts;
#[cfg(feature = "client")]
mod registries;

use super::{ImportEvent, ImportOptions, ImportSource, ImportTarget, Imported, import};
use crate::digest::Algorithm;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{MemoryStore, RegistryStore as _, RegistryStoreExt as _};
use crate::{Digest, media_type};
use std::path::Path;
use std::sync::{Arc, Mutex};

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// An image: its config and layers, and its manifest.
struct Image {
    blobs: Vec<Vec<u8>>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(config: &str, layers: &[&str]) -> Self {
        Self::of(config, layers, |_| {})
    }

    fn of(config: &str, layers: &[&str], change: impl FnOnce(&mut ImageManifest)) -> Self {
        let descriptor = |text: &&str| Descriptor::of(media_type::OCI_LAYER, text.as_bytes());
        let mut manifest = ImageManifest::new(
            Descriptor::of(media_type::OCI_CONFIG, config.as_bytes()),
            layers.iter().map(descriptor).collect(),
        );
        change(&mut manifest);
        let blobs = std::iter::once(config).chain(layers.iter().copied()).map(|b| b.as_bytes().to_vec());
        Self { blobs: blobs.collect(), manifest: manifest.to_bytes() }
    }

    fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor::of(media_type::OCI_MANIFEST, &self.manifest)
    }

    fn all(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.blobs.iter().chain([&self.manifest])
    }
}

/// What an import said.
struct Said {
    imported: Imported,
    failed: Vec<String>,
    left_out: Vec<String>,
    lines: Vec<String>,
}

async fn run(source: impl ImportSource, target: ImportTarget, mut options: ImportOptions) -> Said {
    let lines: Arc<Mutex<[Vec<String>; 3]>> = Arc::default();
    let to = lines.clone();
    options.observer = Some(Arc::new(move |event| {
        let (at, line) = match event {
            ImportEvent::Failed { name, error } => (0, format!("{name}: {error}")),
            ImportEvent::LeftOut { name, reason } => (1, format!("{name}: {reason}")),
            ImportEvent::Tag { repository, tag, digest, outcome } => {
                (2, format!("{repository}:{tag} {digest} {outcome:?}"))
            }
            ImportEvent::Manifest { repository, digest } => (2, format!("{repository}@{digest}")),
            _ => return,
        };
        to.lock().unwrap()[at].push(line);
    }));
    let imported = import(Arc::new(source), target, options).await.unwrap();
    let mut lines = lines.lock().unwrap();
    lines.iter_mut().for_each(|lines| lines.sort());
    let [failed, left_out, lines] = std::mem::take(&mut *lines);
    assert_eq!(imported.failed, failed.len() as u64);
    Said { imported, failed, left_out, lines }
}

async fn into(store: &MemoryStore, source: impl ImportSource) -> Said {
    run(source, ImportTarget::Store(Arc::new(store.clone())), ImportOptions::default()).await
}

/// The digest that a tag of a store has.
async fn tagged(store: &MemoryStore, repository: &str, tag: &str) -> Option<Digest> {
    let reference = ManifestReference::Tag(Tag::parse(tag).unwrap());
    let manifest = store.find_manifest(&name(repository), &reference).await.unwrap();
    manifest.map(|manifest| manifest.digest().clone())
}

/// Checks that a store has an image with the bytes of its blobs.
async fn assert_whole(store: &MemoryStore, repository: &str, image: &Image) {
    let digest = image.digest();
    let manifest = store.get_manifest(&name(repository), &digest.into()).await.unwrap();
    assert_eq!(manifest.bytes(), &image.manifest);
    for blob in &image.blobs {
        let read = store.read_blob(&name(repository), &Digest::sha256(blob), 8 << 20).await.unwrap();
        assert_eq!(read, *blob);
    }
}
