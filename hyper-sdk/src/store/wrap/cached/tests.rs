//! What is served from memory, and what is not.

use super::*;
use crate::oci::ImageIndex;
use crate::store::{MemoryStore, RegistryStoreExt as _};

fn index(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

/// Changes of another writer are visible immediately.
#[tokio::test]
async fn no_entry_is_served_after_a_change_of_the_store() {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let cached = Cached::new(store.clone(), CacheOptions::default());
    let name = RepositoryName::parse("a").unwrap();
    let reference: ManifestReference = Tag::latest().into();
    for n in 0..3 {
        let manifest = index(&n.to_string());
        store.put_manifest(&name, PutManifest::new(manifest.clone(), [Tag::latest()])).await.unwrap();
        for _ in 0..3 {
            assert_eq!(cached.get_manifest(&name, &reference).await.unwrap(), manifest);
            let content = cached.manifest(&name, &reference).await.unwrap();
            assert_eq!(content.digest(), manifest.digest().as_str());
            assert_eq!(content.bytes, manifest.bytes());
        }
    }
    assert_eq!(cached.statistics().hits, 3 * 5 + 2, "stale entries are found too");
    let blob = store.put_bytes(&name, "x/y", Bytes::from_static(b"hello")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(cached.read_blob(&name, &blob.digest, 10).await.unwrap(), "hello");
    }
    store.delete_blob(&name, &blob.digest).await.unwrap();
    store.delete_manifest(&name, &reference).await.unwrap();
    assert!(cached.read_blob(&name, &blob.digest, 10).await.is_err());
    assert!(cached.get_manifest(&name, &reference).await.is_err());
}

/// A deletion leaves nothing of its target in memory, also when it is guarded.
#[tokio::test]
async fn a_deletion_empties_the_cache_of_its_target() {
    let cached = Cached::new(Arc::new(MemoryStore::default()), CacheOptions::default());
    let name = RepositoryName::parse("a").unwrap();
    let blob = cached.put_bytes(&name, "x/y", Bytes::from_static(b"hello")).await.unwrap().digest;
    let tag: ManifestReference = Tag::latest().into();
    for guard in [None, Some(TagGuard::new(|_, _| Ok(())))] {
        cached.put_manifest(&name, PutManifest::new(index("x"), [Tag::latest()])).await.unwrap();
        cached.get_manifest(&name, &tag).await.unwrap();
        assert_ne!(cached.statistics().bytes, 0);
        match guard {
            None => cached.delete_manifest(&name, &tag).await.unwrap(),
            Some(guard) => {
                let target = DeleteTarget::Manifest(tag.clone());
                cached.delete_guarded(&name, target, guard.clone()).await.unwrap();
                assert_eq!(cached.statistics().bytes, 0);
                cached.read_blob(&name, &blob, 10).await.unwrap();
                assert_ne!(cached.statistics().bytes, 0);
                cached.delete_guarded(&name, DeleteTarget::Blob(blob.clone()), guard).await.unwrap();
            }
        }
        assert_eq!(cached.statistics().bytes, 0);
    }
}

#[tokio::test]
async fn a_cache_of_size_zero_is_empty() {
    let options = CacheOptions { bytes: 0, ..CacheOptions::default() };
    let cached = Cached::new(Arc::new(MemoryStore::default()), options);
    let name = RepositoryName::parse("a").unwrap();
    let blob = cached.put_bytes(&name, "x/y", Bytes::new()).await.unwrap();
    cached.put_manifest(&name, PutManifest::new(index("x"), [Tag::latest()])).await.unwrap();
    for _ in 0..2 {
        cached.read_blob(&name, &blob.digest, 10).await.unwrap();
        cached.get_manifest(&name, &Tag::latest().into()).await.unwrap();
    }
    assert_eq!((cached.statistics().bytes, cached.statistics().hits), (0, 0));
}
