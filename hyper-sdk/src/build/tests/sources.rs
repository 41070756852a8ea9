//! The suite of sources on those of images and layouts, and on sources with injected faults, which it must find.

use crate::client::{Loopback, SharedClient};
use crate::oci::{Descriptor, ImageConfig};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::source::conformance::{self as cases, SourceFixture};
use crate::source::{
    ClientFactory, ImageSource, LayoutSource, Source, SourceContent, SourceFiles, SourceImage,
};
use crate::store::{BlobReader, MemoryStore, PutManifest, RegistryStore as _, RegistryStoreExt as _};
use crate::testing::{RandomImage, assert_suite_finds};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

mod images {
    use super::*;

    /// An image in a registry that the local store does not have.
    async fn fixture() -> Option<(SourceFixture, tempfile::TempDir)> {
        let folder = tempfile::tempdir().unwrap();
        let (registry, image) = (Arc::new(MemoryStore::default()), RandomImage::new(3));
        let name = Reference::parse("registry.example/team/app:1").unwrap();
        for (descriptor, bytes) in image.blobs() {
            registry.put_bytes(name.repository(), &descriptor.media_type, bytes).await.unwrap();
        }
        let put = PutManifest::new(image.manifest.clone(), vec![name.tag().unwrap().clone()]);
        registry.put_manifest(name.repository(), put).await.unwrap();
        let clients =
            ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(registry.clone())) as SharedClient));
        let source = ImageSource::new(Arc::new(MemoryStore::default()), clients, folder.path());
        let fixture = SourceFixture {
            source: Arc::new(source),
            image: Some(name.to_string()),
            files: None,
            unknown: "registry.example/team/app:none".to_owned(),
        };
        Some((fixture, folder))
    }
    crate::source_conformance!(fixture);
}

mod layouts {
    use super::*;

    async fn fixture() -> (SourceFixture, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let image = RandomImage::new(4);
        let blobs = folder.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let manifest = image.manifest.descriptor();
        let all = image.blobs().chain([(manifest.clone(), image.manifest.bytes().clone())]);
        for (descriptor, bytes) in all {
            std::fs::write(blobs.join(descriptor.digest.hex()), bytes).unwrap();
        }
        let mut manifest = serde_json::to_value(manifest).unwrap();
        manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "app" });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
        std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
        std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let name = |tag: &str| format!("{}:{tag}", folder.path().display());
        let (image, unknown) = (Some(name("app")), name("none"));
        (SourceFixture { source: Arc::new(LayoutSource), image, files: None, unknown }, folder)
    }
    crate::source_conformance!(fixture);
}

/// An injected fault of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    KnowsEveryName,
    HidesTheName,
    ChangesTheManifest,
    LosesALayer,
    GivesOtherBytes,
    GivesHalf,
    LiesAboutSizes,
    HasWrongDiffIds,
    OpensOnce,
    HasOneReader,
    HasNoFiles,
    ChangesFiles,
}

/// A random image, and a folder with a file.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    image: RandomImage,
    files: PathBuf,
    asked: AtomicUsize,
    open: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

fn faulty(fault: Fault) -> SourceFixture {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    std::fs::write(folder.path().join("files/one"), "1").unwrap();
    let source = Faulty {
        fault,
        image: RandomImage::new(5),
        files: folder.path().join("files"),
        asked: AtomicUsize::new(0),
        open: Arc::default(),
        _folder: folder,
    };
    SourceFixture {
        source: Arc::new(source),
        image: Some("image".to_owned()),
        files: Some("files".to_owned()),
        unknown: "none".to_owned(),
    }
}

#[async_trait]
impl Source for Faulty {
    async fn resolve(&self, name: &str, _: &Platform) -> Result<SourceContent> {
        match name {
            "files" => return Ok(SourceContent::Files),
            "image" => {}
            _ if self.fault == Fault::KnowsEveryName => {}
            _ if self.fault == Fault::HidesTheName => return Err(Error::invalid("there is nothing")),
            _ => return Err(Error::new(ErrorKind::NotFound, format!("there is no `{name}`"))),
        }
        let count = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut config = ImageConfig::parse(&self.image.config)?;
        let mut layers: Vec<Descriptor> = self.image.layers.iter().map(|l| l.descriptor.clone()).collect();
        let mut manifest = self.image.manifest.digest().clone();
        match self.fault {
            Fault::ChangesTheManifest => manifest = Digest::sha256(count.to_string()),
            Fault::LosesALayer => {
                layers.pop();
                config.rootfs.diff_ids.pop();
            }
            Fault::HasWrongDiffIds => config.rootfs.diff_ids.reverse(),
            _ => {}
        }
        let mut image = SourceImage::new(name, manifest, config, &layers)?;
        if self.fault == Fault::LosesALayer {
            image.config = ImageConfig::parse(&self.image.config)?;
        }
        Ok(SourceContent::Image(Box::new(image)))
    }

    async fn open_layer(&self, _: &SourceImage, layer: &Descriptor) -> Result<BlobReader> {
        let found = self.image.layers.iter().find(|own| own.descriptor.digest == layer.digest).unwrap();
        let mut bytes = found.tar.to_vec();
        let size = bytes.len() as u64;
        let count = self.open.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::GivesOtherBytes => bytes[1024] ^= 1,
            Fault::GivesHalf => bytes.truncate(bytes.len() / 2),
            Fault::OpensOnce if count > 0 => return Err(Error::internal("it was opened before")),
            _ => {}
        }
        let stated = size + u64::from(self.fault == Fault::LiesAboutSizes);
        let open = Arc::clone(&self.open);
        let lone = self.fault == Fault::HasOneReader;
        let stream = futures::stream::once(async move {
            tokio::task::yield_now().await;
            match lone && open.load(Ordering::SeqCst) > 1 {
                true => Ok(Bytes::new()),
                false => Ok(Bytes::from(bytes)),
            }
        });
        Ok(BlobReader { size: stated, offset: 0, length: stated, stream: stream.boxed() })
    }

    async fn open_files(&self, _: &str) -> Result<SourceFiles> {
        let count = self.asked.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::HasNoFiles => std::fs::remove_file(self.files.join("one")).unwrap_or_default(),
            Fault::ChangesFiles => std::fs::write(self.files.join("one"), count.to_string())?,
            _ => {}
        }
        Ok(SourceFiles::new(&self.files))
    }
}

#[tokio::test]
async fn the_suite_finds_every_fault() {
    assert_suite_finds! { cases, faulty, Fault;
        KnowsEveryName by an_unknown_name_is_an_error_that_names_it;
        HidesTheName by an_unknown_name_is_an_error_that_names_it;
        ChangesTheManifest by a_name_resolves_to_the_same_content_again;
        LosesALayer by an_image_has_config_manifest_and_layers;
        GivesOtherBytes by a_layer_has_the_bytes_of_its_digest, a_layer_unpacks_to_its_diff_id;
        GivesHalf by a_layer_has_the_bytes_of_its_digest, a_layer_unpacks_to_its_diff_id;
        LiesAboutSizes by a_layer_has_the_bytes_of_its_digest;
        HasWrongDiffIds by a_layer_unpacks_to_its_diff_id;
        OpensOnce by a_layer_can_be_opened_twice, many_tasks_can_use_a_source;
        HasOneReader by many_tasks_can_use_a_source;
        HasNoFiles by files_are_in_a_folder;
        ChangesFiles by files_can_be_opened_again;
    }
}
