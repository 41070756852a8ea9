//! Exporters of build results: the local store, OCI and Docker archives, the root file system as tar or folder.
//!
//! # Invariants
//! - Blobs first, then the config, the manifest, the tag: an image is never visible without all of its parts.
//! - An output file appears completely or not at all.
//! - Archives depend on the image alone: entries are sorted and carry the time of the image.

mod archive;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod exporter;
mod load;
mod rootfs;

pub use crate::atomic_file::{open_without_waiting, write_file};
pub(crate) use archive::{ArchiveKind, write_archive};
pub use exporter::{Export, Exporter};
pub(crate) use load::load_image;
pub(crate) use rootfs::{export_folder, export_tar};

use crate::clock::rfc3339;
use crate::frontend::HistoryStep;
use crate::media_type;
use crate::oci::{
    Annotations, Descriptor, History, ImageConfig, ImageIndex, ImageManifest, Manifest, RootFs,
};
use crate::reference::{RepositoryName, Tag};
use crate::solve::LayerChain;
use crate::store::{PutManifest, RegistryStore, RegistryStoreExt as _};
use crate::{Error, Result};
use bytes::Bytes;
use futures::future;
use std::collections::BTreeMap;

/// A complete image without a name: config, manifest and layers.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The config.
    pub config: Bytes,
    /// The manifest.
    pub manifest: Manifest,
    /// The index of the manifest, if the image has one.
    pub index: Option<Manifest>,
    /// Annotations of the descriptor of the image, which names its index, or else its manifest.
    pub descriptor_annotations: Annotations,
    /// The layers, with their repositories.
    pub chain: LayerChain,
    /// The time of the image, in seconds since 1970.
    pub epoch: i64,
    /// The images of the other platforms of a build for several: the index names this one first, and then these.
    pub others: Vec<BuiltImage>,
}

impl BuiltImage {
    /// Assembles an image.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when history and layers do not match.
    pub(crate) fn new(
        mut config: ImageConfig,
        steps: &[HistoryStep],
        chain: LayerChain,
        epoch: i64,
        annotations: Annotations,
    ) -> Result<Self> {
        let created = rfc3339(epoch);
        config.created = Some(
            match steps {
                // There is no new step, so the image is as old as its base.
                [] => config.history.iter().rev().find_map(|entry| entry.created.clone()).or(config.created),
                _ => None,
            }
            .unwrap_or_else(|| created.clone()),
        );
        config.rootfs = RootFs {
            diff_ids: chain.layers().iter().map(|(layer, _)| layer.diff_id.clone()).collect(),
            ..RootFs::default()
        };
        for step in steps {
            config.history.push(History {
                created: Some(created.clone()),
                created_by: Some(step.created_by.clone()),
                empty_layer: !step.layer,
                ..History::default()
            });
        }
        let made = config.history.iter().filter(|h| !h.empty_layer).count();
        if !config.history.is_empty() && made != chain.layers().len() {
            // A base may have an incomplete history. It is filled up, so that the history of the new layers matches the
            // layers.
            let missing = chain.layers().len().saturating_sub(made);
            let filler =
                History { created_by: Some("unknown layer of the base image".into()), ..History::default() };
            config.history.splice(0..0, std::iter::repeat_n(filler, missing));
        }
        let config = Bytes::from(config.to_bytes());
        let layers = chain.layers().iter().map(|(layer, _)| layer.blob.clone()).collect();
        let mut manifest = ImageManifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), layers);
        for layer in &mut manifest.layers {
            layer.media_type = oci_media_type(&layer.media_type)?;
        }
        manifest.annotations = annotations;
        let manifest = Manifest::parse(manifest.to_bytes(), media_type::OCI_MANIFEST)?;
        let (index, descriptor_annotations) = (None, Annotations::new());
        let others = Vec::new();
        Ok(Self { config, manifest, index, descriptor_annotations, chain, epoch, others })
    }

    /// One image for several platforms: an index of the images, in their order. The index has the annotations `of_index`, each
    /// of its entries those of the descriptor of its image so far, and the descriptor of the index the annotations
    /// `of_descriptor`. An index of images with Docker's media types has Docker's, too.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] without an image, and when the index cannot be read.
    pub(crate) fn of_platforms(
        images: Vec<Self>,
        of_index: Annotations,
        of_descriptor: Annotations,
    ) -> Result<Self> {
        let mut index = ImageIndex::new(images.iter().map(Self::descriptor).collect());
        index.annotations = of_index;
        let is_docker = images.iter().all(|image| image.manifest.media_type() == media_type::DOCKER_MANIFEST);
        let media_type = if is_docker { media_type::DOCKER_MANIFEST_LIST } else { media_type::OCI_INDEX };
        index.media_type = Some(media_type.to_owned());
        let mut images = images.into_iter();
        let Some(mut first) = images.next() else { return Err(Error::internal("an index of no image")) };
        first.index = Some(Manifest::parse(index.to_bytes(), media_type)?);
        first.descriptor_annotations = of_descriptor;
        first.others = images.collect();
        Ok(first)
    }

    /// The images of all platforms: this one and the others.
    pub fn platforms(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// The same image with Docker's media types.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] for layers in a compression that Docker has no media type for.
    pub(crate) fn with_docker_types(mut self) -> Result<Self> {
        let Some(mut manifest) = self.manifest.image().cloned() else {
            return Err(Error::internal("the manifest is not an image manifest"));
        };
        manifest.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
        manifest.config.media_type = media_type::DOCKER_CONFIG.to_owned();
        for layer in &mut manifest.layers {
            let compression = media_type::Compression::of_layer(&layer.media_type);
            let Some(media_type) = compression.and_then(media_type::Compression::docker_layer) else {
                return Err(Error::unsupported(format!(
                    "a layer of the base image is a `{}`, which Docker's media types do not have: add `force-compression=true`, or leave `oci-mediatypes=false` out",
                    layer.media_type
                )));
            };
            layer.media_type = media_type.to_owned();
        }
        self.manifest = Manifest::parse(manifest.to_bytes(), media_type::DOCKER_MANIFEST)?;
        Ok(self)
    }

    /// The same image with an index of its manifest. The index has the annotations `of_index`, its entry those of the
    /// descriptor so far, and the descriptor of the index the annotations `of_descriptor`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when the index cannot be read.
    pub(crate) fn with_index(mut self, of_index: Annotations, of_descriptor: Annotations) -> Result<Self> {
        let mut index = ImageIndex::new(vec![self.descriptor()]);
        index.annotations = of_index;
        self.index = Some(Manifest::parse(index.to_bytes(), media_type::OCI_INDEX)?);
        self.descriptor_annotations = of_descriptor;
        Ok(self)
    }

    /// The manifest that identifies the image: the index, or else the image manifest.
    pub fn root(&self) -> &Manifest {
        self.index.as_ref().unwrap_or(&self.manifest)
    }

    /// The descriptor of the image.
    pub fn descriptor(&self) -> Descriptor {
        let mut descriptor = self.root().descriptor();
        descriptor.annotations.clone_from(&self.descriptor_annotations);
        if self.index.is_none() {
            descriptor.platform = ImageConfig::parse(&self.config).ok().map(|config| config.platform());
        }
        descriptor
    }

    /// The descriptor of the config.
    pub fn config_descriptor(&self) -> Descriptor {
        let media_type = self.manifest.image().map_or(media_type::OCI_CONFIG, |m| &m.config.media_type);
        Descriptor::of(media_type, &self.config)
    }

    /// Stores the image with these tags in a repository of the store that has its layers.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn store(
        &self,
        store: &dyn RegistryStore,
        repository: &RepositoryName,
        tags: Vec<Tag>,
    ) -> Result<Descriptor> {
        let layers = self.platforms().flat_map(|image| image.chain.layers());
        let elsewhere: BTreeMap<_, _> = layers.map(|(l, _)| (&l.blob.digest, l)).collect();
        // An image of this name has most of the layers, if it has any. One that cannot be read is replaced.
        let has_layers = match tags.first() {
            Some(tag) => matches!(store.find_manifest(repository, &tag.clone().into()).await, Ok(Some(_))),
            None => false,
        };
        let mounts =
            elsewhere.into_values().filter(|layer| layer.repository != *repository).map(async |layer| {
                let digest = &layer.blob.digest;
                // The lease keeps it until the manifest is stored. Most of the time it writes nothing.
                if has_layers && store.lease_blob(repository, digest).await.is_ok() {
                    return Ok(());
                }
                store.mount_blob(repository, digest, &layer.repository).await.map(drop)
            });
        // In parallel, so that the store can commit them together.
        future::try_join_all(mounts).await?;
        for image in self.platforms() {
            store.put_bytes(repository, media_type::OCI_CONFIG, image.config.clone()).await?;
        }
        let Some(index) = &self.index else {
            return store.put_manifest(repository, PutManifest::new(self.manifest.clone(), tags)).await;
        };
        for image in self.platforms() {
            store.put_manifest(repository, PutManifest::new(image.manifest.clone(), Vec::new())).await?;
        }
        store.put_manifest(repository, PutManifest::new(index.clone(), tags)).await
    }
}

/// Layers keep their bytes; only their media type becomes that of OCI.
fn oci_media_type(media_type: &str) -> Result<String> {
    if media_type.starts_with("application/vnd.oci.") {
        return Ok(media_type.to_owned());
    }
    media_type::Compression::of_layer(media_type)
        .map(|c| c.oci_layer().to_owned())
        .ok_or_else(|| Error::unsupported(format!("layers of the media type `{media_type}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::Layer;
    use crate::store::MemoryStore;
    use crate::{Digest, ErrorKind};

    /// Layers that the repository has are not mounted again, and what is missing is.
    #[tokio::test]
    async fn an_image_is_stored_again_with_what_is_missing() {
        let name = |text: &str| RepositoryName::parse(text).unwrap();
        let (app, layers) = (name("docker.io/library/app"), name("hyper.local/layers"));
        let store = MemoryStore::default();
        let content = Bytes::from_static(b"a layer");
        let blob = store.put_bytes(&layers, media_type::OCI_LAYER, content.clone()).await.unwrap();
        let blob = Descriptor { media_type: media_type::OCI_LAYER.to_owned(), ..blob };
        let layer = Layer {
            diff_id: blob.digest.clone(),
            blob,
            repository: layers.clone(),
            times: None,
            origin: None,
        };
        let chain = LayerChain::new(vec![layer]);
        let config = ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
        let step = [HistoryStep { created_by: "COPY".into(), layer: true }];
        let image = BuiltImage::new(config, &step, chain, 5, Annotations::default()).unwrap();
        let tag = |text: &str| vec![Tag::parse(text).unwrap()];
        let first = image.store(&store, &app, tag("1")).await.unwrap();
        assert_eq!(image.store(&store, &app, tag("1")).await.unwrap(), first);
        // Each part, the name, and another name.
        let (config, layer) = (image.config_descriptor().digest, Digest::sha256(&content));
        for digest in [&config, &layer] {
            store.delete_blob(&app, digest).await.unwrap();
            assert_eq!(image.store(&store, &app, tag("1")).await.unwrap(), first);
            assert!(store.has_blob(&app, digest).await.unwrap(), "{digest}");
        }
        for missing in [tag("1"), tag("2")] {
            let _ = store.delete_manifest(&app, &missing[0].clone().into()).await;
            image.store(&store, &app, missing.clone()).await.unwrap();
            let named = store.get_manifest(&app, &missing[0].clone().into()).await.unwrap();
            assert_eq!(named.digest(), &first.digest);
        }
        // The repository has the layer, so that the builder need not.
        store.delete_blob(&layers, &layer).await.unwrap();
        assert_eq!(image.store(&store, &app, tag("2")).await.unwrap(), first);
        let e = image.store(&store, &app, tag("3")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BlobUnknown);
    }

    #[test]
    fn an_image_without_new_steps_has_the_time_of_its_base() {
        let created = |config: &ImageConfig, steps: &[HistoryStep]| {
            let built =
                BuiltImage::new(config.clone(), steps, LayerChain::default(), 5, Annotations::default())
                    .unwrap();
            ImageConfig::parse(&built.config).unwrap().created.unwrap()
        };
        let step = HistoryStep { created_by: "ENV A=1".into(), layer: false };
        let mut config =
            ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
        assert_eq!(created(&config, &[]), "1970-01-01T00:00:05Z");
        config.created = Some("2001-01-01T00:00:00Z".into());
        assert_eq!(created(&config, &[]), "2001-01-01T00:00:00Z");
        let entry = |created: Option<&str>| History {
            created: created.map(str::to_owned),
            empty_layer: true,
            ..History::default()
        };
        config.history = vec![entry(Some("2000-01-01T00:00:00Z")), entry(None)];
        assert_eq!(created(&config, &[]), "2000-01-01T00:00:00Z");
        assert_eq!(created(&config, &[step]), "1970-01-01T00:00:05Z");
    }
}
