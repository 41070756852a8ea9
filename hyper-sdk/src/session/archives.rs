//! Images of the local store as archives: OCI image layouts in a tar.

use super::Session;
use super::images::manifest;
use crate::client::{Layout, LocalTarget, PullOptions, RemoteImage, SharedClient, pull};
use crate::layout::{IMAGE_NAME, ImageLayout, LayoutWriter, REF_NAME, blocking};
use crate::oci::{Descriptor, ImageIndex, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::progress::{Event, Progress, Task};
use crate::reference::RepositoryName;
use crate::store::damage::blame_store;
use crate::store::{BlobReader, RegistryStoreExt as _, SharedStore};
use crate::uses::UseKind;
use crate::{Digest, Error, ErrorKind, Reference, Result, media_type};
use bytes::Bytes;
use futures::{StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// How many manifests one archive may have.
const MAX_MANIFESTS: usize = 10_000;
/// The name of a layout's repository, which may be any.
const ANY: &str = "layout";

/// How to save.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// The platform whose image of an index is written; all images that the store has without.
    pub platform: Option<Platform>,
    /// Where events go.
    pub progress: Progress,
}

impl Session {
    /// Writes images of the local store into an archive, each under its name: an OCI image layout in a tar, whole or not at
    /// all. Of an index, all images in the store are written, or with a platform the image for it. Dropping the future leaves
    /// no archive.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] for a name that the store does not have, [`ErrorKind::Invalid`] without names and for
    /// a name by digest alone; [`ErrorKind::Corrupt`] when a blob of the store is damaged, which is then removed; those of
    /// writing the file.
    pub async fn save(&self, names: &[Reference], destination: &Path, options: &SaveOptions) -> Result<()> {
        let _use = self.hold(UseKind::Work).await?;
        if names.is_empty() {
            return Err(Error::invalid("nothing to save: name at least one image"));
        }
        let store = self.store().await?;
        let mut content = Content { store: store.clone(), manifests: BTreeMap::new(), blobs: HashMap::new() };
        let (mut entries, mut results) = (Vec::new(), Vec::new());
        for name in names {
            let found = self.local(name).await?;
            let root = manifest(&found.over_loopback(), options.platform.as_ref()).await?;
            results.push(Event::Result { name: name.to_string(), digest: root.digest().clone() });
            let mut entry = root.descriptor();
            if let Some(tag) = name.tag() {
                entry.annotations.insert(REF_NAME.to_owned(), tag.to_string());
                entry.annotations.insert(IMAGE_NAME.to_owned(), name.at_tag(tag.clone()).to_string());
            }
            content.add(&found.repository, root).await?;
            entries.push(entry);
        }
        let shown: Vec<String> = names.iter().map(Reference::familiar).collect();
        let total = content.blobs.values().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        let task = Arc::new(options.progress.start(format!("save {}", shown.join(" ")), Some(total)));
        let mut writer = LayoutWriter::new(&ImageIndex::new(entries));
        for (digest, manifest) in content.manifests {
            writer.add_bytes(&digest, manifest.bytes().clone());
        }
        for (digest, (repository, size)) in content.blobs {
            writer.add_blob(&digest, blob(&store, repository, digest.clone(), size, task.clone()));
        }
        let written = match writer.write_tar(destination, 0).await {
            Ok(()) => Ok(()),
            Err(e) => Err(blame_store(&store, e).await.with_op("save")),
        };
        // The streams of the blobs, which had the task too, are gone.
        match Arc::into_inner(task) {
            Some(task) => task.end_with(written)?,
            None => written?,
        }
        results.into_iter().for_each(|result| options.progress.send(result));
        Ok(())
    }

    /// Loads the images of a layout or an archive into the local store, and returns their names: each image under the names
    /// that the layout has for it, or the only image under `name`. An index is loaded with all of its images in the layout.
    /// Dropping the future leaves the images that are complete.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is no name, and when `name` is given for several images; those of reading the
    /// layout and of [`pull`].
    pub async fn load(
        &self,
        layout: &ImageLayout,
        name: Option<&Reference>,
        options: &PullOptions,
    ) -> Result<Vec<(Reference, Descriptor)>> {
        let _use = self.hold(UseKind::Work).await?;
        let read = layout.clone();
        let index = blocking(move || read.index()).await?;
        let images = named(&index.manifests, name)?;
        let store = self.store().await?;
        let client: SharedClient = Arc::new(Layout::from(layout.clone()));
        let repository = RepositoryName::parse(ANY)?;
        let mut loaded = Vec::new();
        for (name, digest) in images {
            let from = RemoteImage::new(&client, &repository, &digest.into());
            let shown = name.clone();
            // The archive has names of its own; people know those that the images get.
            let progress = options.progress.map(move |event| match event {
                Event::Started { task, name, total } => {
                    let name = name.strip_prefix("pull ").map(|what| format!("load {what}")).unwrap_or(name);
                    Event::Started { task, name, total }
                }
                Event::Result { digest, .. } => Event::Result { name: shown.to_string(), digest },
                other => other,
            });
            let options = PullOptions { progress, ..options.clone() };
            let descriptor = pull(&from, &LocalTarget::named(&store, &name)?, &options).await?;
            loaded.push((name, descriptor));
        }
        Ok(loaded)
    }
}

/// The images of an index, with their names in the store.
fn named(entries: &[Descriptor], name: Option<&Reference>) -> Result<Vec<(Reference, Digest)>> {
    if let Some(name) = name {
        let Some(first) = entries.first() else { return Err(Error::invalid("the archive has no image")) };
        if entries.iter().any(|entry| entry.digest != first.digest) {
            return Err(Error::invalid(
                "the archive has several images: load them without a name, under those of the archive",
            ));
        }
        return Ok(vec![(name.clone(), first.digest.clone())]);
    }
    let mut images = Vec::new();
    for entry in entries {
        let written = [IMAGE_NAME, REF_NAME].into_iter().filter_map(|key| entry.annotations.get(key));
        // A tag alone names no repository.
        let mut names = written.filter(|name| name.contains([':', '/']));
        if let Some(name) = names.next() {
            images.push((Reference::parse(name)?, entry.digest.clone()));
        }
    }
    if images.is_empty() {
        return Err(Error::invalid(match entries.is_empty() {
            true => "the archive has no image",
            false => "the archive has no name for its image: give one",
        }));
    }
    Ok(images)
}

/// The content of an archive.
struct Content {
    store: SharedStore,
    manifests: BTreeMap<Digest, Manifest>,
    /// Repository and size.
    blobs: HashMap<Digest, (RepositoryName, u64)>,
}

impl Content {
    /// Adds a manifest, and everything below it that the store has.
    async fn add(&mut self, repository: &RepositoryName, root: Manifest) -> Result<()> {
        let mut waiting = vec![root];
        while let Some(manifest) = waiting.pop() {
            if self.manifests.contains_key(manifest.digest()) {
                continue;
            }
            if self.manifests.len() >= MAX_MANIFESTS {
                return Err(Error::new(ErrorKind::TooLarge, "the images have too many manifests")
                    .with_context("limit", MAX_MANIFESTS));
            }
            match manifest.body() {
                ManifestBody::Image(image) => {
                    for blob in std::iter::once(&image.config).chain(&image.layers) {
                        // A layer that may not be distributed need not be in the store.
                        if !media_type::is_non_distributable(&blob.media_type) {
                            let place = (repository.clone(), blob.size);
                            self.blobs.entry(blob.digest.clone()).or_insert(place);
                        }
                    }
                }
                ManifestBody::Index(index) => {
                    for entry in &index.manifests {
                        // An index may be sparse.
                        let reference = entry.digest.clone().into();
                        waiting.extend(self.store.find_manifest(repository, &reference).await?);
                    }
                }
            }
            self.manifests.insert(manifest.digest().clone(), manifest);
        }
        Ok(())
    }
}

/// A blob of the store, opened when it is read.
fn blob(
    store: &SharedStore,
    repository: RepositoryName,
    digest: Digest,
    size: u64,
    task: Arc<Task>,
) -> BlobReader {
    let client = crate::client::Loopback::new(store.clone());
    let open = async move {
        use crate::client::RegistryClient as _;
        client.get_blob(&repository, &digest, None).await.map(|blob| blob.stream)
    };
    let advance = move |bytes: &Bytes| task.advance(bytes.len() as u64);
    let stream = open.try_flatten_stream().inspect_ok(advance).boxed();
    BlobReader { size, offset: 0, length: size, stream }
}
