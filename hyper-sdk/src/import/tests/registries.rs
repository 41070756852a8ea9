//! Running registries, through clients.

use super::*;
use crate::client::{ClientCapabilities, Loopback, RegistryClient, SharedClient};
use crate::import::RegistrySource;
use crate::store::{BlobReader, ByteRange, Listing, Page, PutManifest};
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

async fn push(store: &MemoryStore, repository: &str, image: &Image, tags: &[&str]) {
    for blob in &image.blobs {
        store.put_blob(&name(repository), &Digest::sha256(blob), blob.clone().into()).await.unwrap();
    }
    let manifest = Manifest::sniff(image.manifest.clone()).unwrap();
    let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap());
    store.put_manifest(&name(repository), PutManifest::new(manifest, tags)).await.unwrap();
}

fn source(store: &MemoryStore) -> RegistrySource {
    RegistrySource::new(Arc::new(Loopback::new(Arc::new(store.clone()))), [])
}

#[tokio::test]
async fn tags_referrers_and_theirs_come() {
    let (old, new) = (MemoryStore::default(), MemoryStore::default());
    let image = Image::new("{}", &["a"]);
    let signature = Image::of("sig", &[], |manifest| manifest.subject = Some(image.descriptor()));
    let of_signature =
        Image::of("sig of sig", &[], |manifest| manifest.subject = Some(signature.descriptor()));
    push(&old, "team/app", &image, &["1.0"]).await;
    push(&old, "team/app", &signature, &[]).await;
    push(&old, "team/app", &of_signature, &[]).await;
    for n in 0..2500 {
        push(&old, "many", &image, &[&format!("v{n}")]).await;
    }
    let said = into(&new, source(&old)).await;
    assert_eq!((said.failed, said.imported.repositories), (vec![], 2));
    assert_eq!((said.imported.tags_created, said.imported.manifests), (2501, 4));
    for image in [&image, &signature, &of_signature] {
        assert_whole(&new, "team/app", image).await;
    }
    let again = into(&new, source(&old)).await.imported;
    assert_eq!((again.tags_unchanged, again.blobs, again.manifests), (2501, 0, 0));
    let named = RegistrySource::new(Arc::new(Loopback::new(Arc::new(old.clone()))), [name("team/app")]);
    assert_eq!(into(&MemoryStore::default(), named).await.imported.tags_created, 1);
}

/// A registry whose content changes at every moment.
#[derive(Debug)]
struct Moving {
    inner: Loopback,
    /// How often a manifest is gone that a tag had a moment ago.
    moves: AtomicUsize,
    is_down: bool,
}

impl fmt::Display for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a moving registry")
    }
}

#[async_trait]
impl RegistryClient for Moving {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::PULL.with_catalog()
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn resolve(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<Descriptor> {
        let is_moving = matches!(reference, ManifestReference::Tag(tag) if tag.as_str() == "moving");
        if is_moving && self.moves.fetch_add(1, Ordering::Relaxed) == 0 {
            // A manifest that is deleted before it is asked for.
            return Ok(Descriptor::of(media_type::OCI_MANIFEST, b"deleted"));
        }
        self.inner.resolve(name, reference).await
    }

    async fn get_manifest(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
        self.inner.get_manifest(name, reference).await
    }

    async fn stat_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        if self.is_down {
            return Err(Error::new(ErrorKind::Unavailable, "the registry is down"));
        }
        self.inner.stat_blob(name, digest).await
    }

    async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        self.inner.get_blob(name, digest, range).await
    }

    async fn list_tags(&self, name: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.inner.list_tags(name, page).await
    }

    async fn list_tag_texts(&self, name: &RepositoryName, page: Page) -> Result<Listing<String>> {
        if page.after.is_some() {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let mut tags = self.list_tags(name, page).await?.items;
        tags.push(Tag::parse("vanished").unwrap());
        let items = tags.iter().map(ToString::to_string).chain(["no tag!".to_owned()]).collect();
        Ok(Listing { items, more: false })
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        self.inner.list_repositories(page).await
    }

    async fn list_repository_texts(&self, page: Page) -> Result<Listing<String>> {
        let Listing { items, more } = self.list_repositories(page).await?;
        let items = items.iter().map(ToString::to_string).chain(["Not/Accepted".to_owned()]).collect();
        Ok(Listing { items, more })
    }

    async fn list_referrers(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.inner.list_referrers(name, digest, artifact_type).await
    }
}

async fn moving(is_down: bool) -> (RegistrySource, Vec<Image>) {
    let old = MemoryStore::default();
    let images: Vec<Image> = (0..9).map(|n| Image::new(&n.to_string(), &["a"])).collect();
    push(&old, "app", &images[0], &["moving"]).await;
    for (n, image) in images.iter().enumerate().skip(1) {
        push(&old, "app", image, &[&format!("v{n}")]).await;
    }
    let client = Moving { inner: Loopback::new(Arc::new(old)), moves: AtomicUsize::new(0), is_down };
    let client: SharedClient = Arc::new(client);
    (RegistrySource::new(client, []), images)
}

#[tokio::test]
async fn tags_that_move_or_vanish_end_nothing_and_wrong_names_are_reported() {
    let (source, images) = moving(false).await;
    let new = MemoryStore::default();
    let said = into(&new, source).await;
    assert_eq!(said.failed.len(), 2, "{:?}", said.failed);
    assert!(said.failed[0].starts_with("Not/Accepted: ") && said.failed[1].starts_with("app:no tag!: "));
    assert_eq!(said.left_out, ["app:vanished: the source does not have the tag any more"]);
    assert_eq!(tagged(&new, "app", "moving").await, Some(images[0].digest()));
    assert_eq!(said.imported.tags_created, 9);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_ends_the_import() {
    let (source, _) = moving(true).await;
    let target = ImportTarget::Store(Arc::new(MemoryStore::default()));
    let e = import(Arc::new(source), target, ImportOptions::default()).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("does not answer"), "{e}");
}
