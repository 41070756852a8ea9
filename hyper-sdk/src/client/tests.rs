//! The suite on the clients that need no network, and tests of the image layout.

use super::*;
use crate::oci::{ImageIndex, ImageManifest};
use crate::store::MemoryStore;
use crate::{ErrorKind, media_type};
use futures::TryStreamExt;
use std::path::Path;

mod mutants;
#[cfg(feature = "build")]
mod nested;
mod sessions;

mod loopback {
    use super::*;

    async fn fixture() -> Option<(SharedClient, ())> {
        Some((Arc::new(Loopback::new(Arc::new(MemoryStore::default()))), ()))
    }
    crate::client_conformance!(fixture);
}

mod layout {
    use super::*;

    async fn fixture() -> (SharedClient, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        write_layout(folder.path(), &ImageIndex::new(vec![]));
        (Arc::new(Layout::open(folder.path()).await.unwrap()), folder)
    }
    crate::client_conformance!(fixture);
}

fn write_layout(root: &Path, index: &ImageIndex) {
    std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    std::fs::write(root.join("index.json"), index.to_bytes()).unwrap();
}

fn write_blob(root: &Path, kind: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(kind, bytes);
    std::fs::write(root.join("blobs/sha256").join(descriptor.digest.hex()), bytes).unwrap();
    descriptor
}

#[tokio::test]
async fn a_layout_is_pulled_into_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_layout(root, &ImageIndex::new(vec![]));
    let config = write_blob(root, media_type::OCI_CONFIG, b"{}");
    let layer = write_blob(root, media_type::OCI_LAYER, b"the layer");
    let image = ImageManifest::new(config, vec![layer.clone()]);
    let mut entry = write_blob(root, media_type::OCI_MANIFEST, &image.to_bytes());
    let digest = entry.digest.clone();
    entry.annotations.insert("org.opencontainers.image.ref.name".into(), "r.example/a:v1".into());
    write_layout(root, &ImageIndex::new(vec![entry]));

    let client: SharedClient = Arc::new(Layout::open(root).await.unwrap());
    let (store, name): (crate::store::SharedStore, _) =
        (Arc::new(MemoryStore::default()), RepositoryName::parse("a").unwrap());
    let (v1, tag) = (Tag::parse("v1").unwrap(), Tag::latest());
    let pulled = pull(
        &RemoteImage::new(&client, &name, &v1.clone().into()),
        &LocalTarget::new(&store, &name, Some(&tag)),
        &PullOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(pulled.digest, digest);
    assert_eq!(store.stat_blob(&name, &layer.digest).await.unwrap(), 9);
    assert_eq!(client.list_tags(&name, Page::default()).await.unwrap().items, [v1]);

    // Content that is not what its name says is never handed on.
    std::fs::write(root.join("blobs/sha256").join(layer.digest.hex()), b"forged!!!").unwrap();
    let read =
        client.get_blob(&name, &layer.digest, None).await.unwrap().stream.try_collect::<Vec<_>>().await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::DigestInvalid);
}

#[tokio::test]
async fn a_layout_leads_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_layout(root, &ImageIndex::new(vec![]));
    let (name, digest) = (RepositoryName::parse("a").unwrap(), Digest::sha256(b"secret"));
    std::fs::write(root.join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink("../../secret", root.join("blobs/sha256").join(digest.hex())).unwrap();
    let layout = Layout::open(root).await.unwrap();
    assert!(layout.get_blob(&name, &digest, Some(ByteRange::FromTo(0, Some(0)))).await.is_err());
    assert_eq!(Layout::open(root.join("blobs")).await.unwrap_err().kind(), ErrorKind::NotFound);
    let named = layout.named(RepositoryName::parse("b").unwrap());
    let e = named.get_manifest(&name, &Tag::latest().into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ManifestUnknown);
}

#[tokio::test]
async fn a_pull_links_what_another_repository_of_the_store_has() {
    use crate::store::{PutManifest, RegistryStore as _, RegistryStoreExt as _};
    let there: Arc<MemoryStore> = Arc::default();
    let client: SharedClient = Arc::new(Loopback::new(there.clone()));
    let name = RepositoryName::parse("a").unwrap();
    let config = there.put_bytes(&name, media_type::OCI_CONFIG, "{}".into()).await.unwrap();
    let layer = there.put_bytes(&name, media_type::OCI_LAYER, "layer".into()).await.unwrap();
    let image = Manifest::sniff(ImageManifest::new(config, vec![layer.clone()]).to_bytes()).unwrap();
    there.put_manifest(&name, PutManifest::new(image, [Tag::latest()])).await.unwrap();
    // The registry has lost the layer: only a link can bring it.
    there.delete_blob(&name, &layer.digest).await.unwrap();
    let other = RepositoryName::parse("other").unwrap();
    let latest = Tag::latest();
    let from = RemoteImage::new(&client, &name, &latest.clone().into());
    for (mount_from, with_blob, is_pulled) in [
        (vec![other.clone()], Some(&other), true),
        (vec![], Some(&other), true),
        (vec![other.clone()], None, false),
        (vec![], None, false),
    ] {
        let store: crate::store::SharedStore = Arc::new(MemoryStore::default());
        if let Some(repository) = with_blob {
            store.put_bytes(repository, media_type::OCI_LAYER, "layer".into()).await.unwrap();
        }
        let options = PullOptions { mount_from: mount_from.clone(), ..PullOptions::default() };
        let pulled = pull(&from, &LocalTarget::new(&store, &name, Some(&latest)), &options).await;
        assert_eq!(pulled.is_ok(), is_pulled, "{mount_from:?} {pulled:?}");
        assert_eq!(store.stat_blob(&name, &layer.digest).await.ok(), is_pulled.then_some(5));
    }
}

#[tokio::test]
async fn manifests_that_are_too_large_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_layout(root, &ImageIndex::new(vec![]));
    let config = write_blob(root, media_type::OCI_CONFIG, b"{}");
    let large = |n: usize| {
        let mut image = ImageManifest::new(config.clone(), vec![]);
        image.annotations.insert("k".to_owned(), n.to_string().repeat(14 << 20));
        write_blob(root, media_type::OCI_MANIFEST, &image.to_bytes())
    };
    for (count, fits) in [(4, true), (5, false)] {
        let index = ImageIndex::new((0..count).map(large).collect());
        let mut entry = write_blob(root, media_type::OCI_INDEX, &index.to_bytes());
        entry.annotations.insert("org.opencontainers.image.ref.name".into(), "v1".into());
        write_layout(root, &ImageIndex::new(vec![entry]));
        let client: SharedClient = Arc::new(Layout::open(root).await.unwrap());
        let store: crate::store::SharedStore = Arc::new(MemoryStore::default());
        let (name, v1) = (RepositoryName::parse("a").unwrap(), Tag::parse("v1").unwrap().into());
        let pulled = pull(
            &RemoteImage::new(&client, &name, &v1),
            &LocalTarget::new(&store, &name, None),
            &PullOptions::default(),
        )
        .await;
        assert_eq!(pulled.as_ref().err().map(crate::Error::kind), (!fits).then_some(ErrorKind::TooLarge));
    }
}

#[tokio::test]
async fn referrers_of_a_layout_are_looked_for_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_layout(root, &ImageIndex::new(vec![]));
    let large = |text: &str| {
        let mut image = ImageManifest::new(Descriptor::of(media_type::OCI_EMPTY, b"{}"), vec![]);
        image.annotations.insert("a".to_owned(), text.repeat(14 << 20));
        write_blob(root, media_type::OCI_MANIFEST, &image.to_bytes())
    };
    let entries: Vec<Descriptor> = ["a", "b", "c", "d", "e"].into_iter().map(large).collect();
    let name = RepositoryName::parse("a").unwrap();
    for (entries, fits) in [(vec![entries[0].clone(); 1000], true), (entries, false)] {
        write_layout(root, &ImageIndex::new(entries));
        let client = Layout::open(root).await.unwrap();
        match client.list_referrers(&name, &Digest::sha256("x"), None).await {
            Ok(found) => assert!(fits && found.is_empty()),
            Err(e) => assert!(!fits && e.kind() == ErrorKind::TooLarge, "{e}"),
        }
    }
}
