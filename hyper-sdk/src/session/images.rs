//! Images of the local store and of registries.

use super::Session;
use super::names::{find_manifest, name_of, names};
use crate::client::{
    LocalImage, Loopback, PushOptions, RegistryClientExt as _, RemoteImage, SharedClient, choose, copy,
};
use crate::oci::Manifest;
use crate::platform::Platform;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::space::{family_of, release};
use crate::store::damage::blame_store;
use crate::store::{PutManifest, RegistryStoreExt as _, SharedStore, local_repository};
use crate::uses::UseKind;
use crate::{Digest, Error, ErrorKind, Reference, Result, media_type};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;

/// How deep indexes may contain indexes.
const MAX_DEPTH: usize = 4;
/// How many bytes of manifests are read to describe one image.
const MAX_MANIFESTS: usize = 64 << 20;
/// The largest config that is read.
const MAX_CONFIG: u64 = 8 << 20;

/// Where to look for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// In the local store.
    #[default]
    Local,
    /// At the registry of its name.
    Remote,
}

/// A tag of the local store, and its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// The name as users write it.
    pub name: String,
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The platforms of its images that are in the store.
    pub platforms: Vec<String>,
    /// When the newest of these images was made.
    pub created: Option<String>,
    /// The bytes of config and layers of all platforms, as they are stored. Each image counts once; images of indexes that
    /// are nested more than four deep, or that are larger than 64 MiB together, may be left out.
    pub size: u64,
}

/// An image in full.
#[derive(Clone, Debug)]
pub struct ImageDetails {
    /// The name that was asked for.
    pub reference: Reference,
    /// The manifest, or the index when no platform was asked for.
    pub manifest: Manifest,
    /// The config, when the manifest is that of an image and the config has at most 8 MiB.
    pub config: Option<serde_json::Value>,
}

impl ImageDetails {
    /// The manifest as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is no JSON.
    pub fn manifest_json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(self.manifest.bytes())
            .map_err(|e| Error::invalid("the manifest is not JSON").with_source(e))
    }
}

impl Session {
    /// The images of the local store, one for each tag, in the order of their repositories; with a text only those whose name
    /// contains it. Every method finds an image by its name here.
    ///
    /// # Errors
    /// Those of [`Session::store`] and of reading it.
    pub async fn images(&self, text: Option<&str>) -> Result<Vec<ImageSummary>> {
        let store = self.store().await?;
        let mut images = Vec::new();
        for (repository, tag) in names(&store).await? {
            if let Some(name) = name_of(&store, &repository, &tag).await?
                && text.is_none_or(|text| name.contains(text))
            {
                images.extend(describe(&store, &repository, tag, name).await?);
            }
        }
        Ok(images)
    }

    /// Finds the client and the repository of an image. The image need not exist.
    ///
    /// # Errors
    /// Those of [`Session::store`] and [`find_local`], or of [`Session::client`].
    pub async fn find(&self, image: &Reference, location: Location) -> Result<RemoteImage> {
        Ok(match location {
            Location::Local => LocalImage::find(&self.store().await?, image).await?.over_loopback(),
            Location::Remote => RemoteImage::named(&self.client(image.host())?, image),
        })
    }

    /// Like [`Session::find`]; an image that the local store does not have is an error.
    async fn existing(&self, image: &Reference, location: Location) -> Result<RemoteImage> {
        match location {
            Location::Local => Ok(self.local(image).await?.over_loopback()),
            Location::Remote => self.find(image, location).await,
        }
    }

    /// The place where the content of a name is put: [`Session::find`] for what is not there yet.
    ///
    /// # Errors
    /// Those of [`Session::store`] and of [`crate::store::local_repository`], or of [`Session::client`].
    pub async fn target(&self, image: &Reference, location: Location) -> Result<RemoteImage> {
        Ok(match location {
            Location::Local => {
                LocalImage::new(&self.store().await?, &local_repository(image)?, &image.manifest())
                    .over_loopback()
            }
            Location::Remote => RemoteImage::named(&self.client(image.host())?, image),
        })
    }

    /// The manifest of a name; of an index with a platform, the manifest of the image for it.
    ///
    /// # Errors
    /// Those of [`Session::find`] and of the client; [`ErrorKind::ManifestUnknown`] when there is no image of the name, or
    /// none for the platform; [`ErrorKind::Invalid`] when indexes are nested more than four deep.
    pub async fn manifest(
        &self,
        image: &Reference,
        platform: Option<&Platform>,
        location: Location,
    ) -> Result<Manifest> {
        manifest(&self.existing(image, location).await?, platform).await
    }

    /// The manifest and the config of an image.
    ///
    /// # Errors
    /// Those of [`Session::manifest`]; [`ErrorKind::Corrupt`] when the config in the local store is damaged, which is then
    /// removed.
    pub async fn inspect(
        &self,
        image: &Reference,
        platform: Option<&Platform>,
        location: Location,
    ) -> Result<ImageDetails> {
        let found = self.existing(image, location).await?;
        let manifest = manifest(&found, platform).await?;
        let config = match (config(&found, &manifest).await, location) {
            (Err(e), Location::Local) => return Err(blame_store(&self.store().await?, e).await),
            (other, _) => other?,
        };
        Ok(ImageDetails { reference: image.clone(), manifest, config })
    }

    /// Whether there is an image of a name.
    ///
    /// # Errors
    /// Those of [`Session::find`] and of the client. An unknown image or repository is not an error.
    pub async fn exists(&self, image: &Reference, location: Location) -> Result<bool> {
        let found = self.find(image, location).await?;
        match found.client.resolve(&found.repository, &found.reference).await {
            Ok(_) => Ok(true),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::ManifestUnknown | ErrorKind::NameUnknown | ErrorKind::NotFound
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Gives an image of the local store another name, which has a tag and no digest. The blobs are linked, not copied.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a new name with a digest; [`ErrorKind::ManifestUnknown`] when the store does not have the
    /// image; those of the store.
    pub async fn tag(&self, image: &Reference, name: &Reference) -> Result<()> {
        let (Some(tag), None) = (name.tag().cloned(), name.digest()) else {
            return Err(Error::invalid("the new name needs a tag and no digest").with_context("name", name));
        };
        let _use = self.hold(UseKind::Work).await?;
        let LocalImage { store, repository: from, .. } = self.local(image).await?;
        let to = local_repository(name)?;
        if from == to {
            let manifest = store.get_manifest(&from, &image.manifest()).await?;
            store.put_manifest(&to, PutManifest::new(manifest, [tag])).await?;
        } else {
            // The same client on both sides: blobs are linked.
            let client: SharedClient = Arc::new(Loopback::new(store));
            let from = RemoteImage::new(&client, &from, &image.manifest());
            let to = RemoteImage::new(&client, &to, &ManifestReference::Tag(tag));
            copy(&from, &to, &PushOptions::default()).await?;
        }
        Ok(())
    }

    /// Removes a name from the local store; a name with a digest removes the image and all of its tags in that repository.
    /// What no other name, no cache and no running work uses is removed with it; what running work may use, when that ends.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] when it is not there; those of the store.
    pub async fn remove(&self, image: &Reference) -> Result<()> {
        let LocalImage { store, repository, reference } = self.local(image).await?;
        let family = match find_manifest(&store, &repository, &reference).await? {
            Some(manifest) => family_of(&*store, &repository, manifest.digest()).await?,
            None => HashSet::new(),
        };
        store.delete_manifest(&repository, &reference).await?;
        let manifests = family.into_iter().map(|digest| (repository.clone(), digest)).collect();
        release(self.root()?, &store, manifests).await
    }
}

/// The image of a tag, or `None` when the tag was removed meanwhile. Each manifest counts once. The number of manifests that
/// are read is bounded: one pushed image must not prevent the listing of the others.
async fn describe(
    store: &SharedStore,
    repository: &RepositoryName,
    tag: Tag,
    name: String,
) -> Result<Option<ImageSummary>> {
    let Some(root) = find_manifest(store, repository, &tag.into()).await? else { return Ok(None) };
    let mut image = ImageSummary {
        name,
        digest: root.digest().clone(),
        media_type: root.media_type().to_owned(),
        platforms: Vec::new(),
        created: None,
        size: 0,
    };
    let mut seen = HashSet::from([root.digest().clone()]);
    let (mut queue, mut next, mut bytes_read) = (Vec::new(), Some((root, 0)), 0);
    while let Some((manifest, depth)) = next.take() {
        bytes_read += manifest.bytes().len();
        let index = manifest.index().filter(|_| depth < MAX_DEPTH);
        for entry in index.iter().flat_map(|index| &index.manifests) {
            if seen.insert(entry.digest.clone()) {
                queue.push((entry.digest.clone(), depth + 1));
            }
        }
        if let Some(body) = manifest.image() {
            let sizes = body.layers.iter().map(|layer| layer.size);
            image.size = sizes.fold(image.size.saturating_add(body.config.size), u64::saturating_add);
            // An artifact has no config of an image.
            if let Ok(stored) = store.get_image(repository, &manifest.digest().clone().into(), None).await
                && !stored.config.os.is_empty()
            {
                image.platforms.push(stored.config.platform().to_string());
                image.created = image.created.take().max(stored.config.created);
            }
        }
        while next.is_none()
            && bytes_read <= MAX_MANIFESTS
            && let Some((digest, depth)) = queue.pop()
        {
            // An index may be sparse: only images in the store count.
            next = find_manifest(store, repository, &digest.into()).await?.map(|child| (child, depth));
        }
    }
    image.platforms.sort();
    Ok(Some(image))
}

pub(super) async fn manifest(at: &RemoteImage, platform: Option<&Platform>) -> Result<Manifest> {
    let mut manifest = at.client.get_manifest(&at.repository, &at.reference).await?;
    let Some(platform) = platform else { return Ok(manifest) };
    for _ in 0..MAX_DEPTH {
        let Some(index) = manifest.index() else { break };
        let entry = choose(&index.manifests, platform)?;
        manifest = at.client.get_manifest(&at.repository, &entry.digest.into()).await?;
    }
    if manifest.index().is_some() {
        return Err(Error::invalid(format!("the indexes are nested more than {MAX_DEPTH} deep")));
    }
    Ok(manifest)
}

/// The config, when the manifest is of an image.
async fn config(at: &RemoteImage, manifest: &Manifest) -> Result<Option<serde_json::Value>> {
    let Some(image) = manifest.image() else { return Ok(None) };
    let known = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG];
    if !known.contains(&image.config.media_type.as_str()) || image.config.size > MAX_CONFIG {
        return Ok(None);
    }
    let bytes = at.client.read_blob(&at.repository, &image.config.digest, MAX_CONFIG).await?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::invalid("the config of the image is not JSON").with_source(e))
}
