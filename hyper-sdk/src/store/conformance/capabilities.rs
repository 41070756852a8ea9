//! Cases about capabilities.

use super::kit::*;
use crate::store::{DeleteTarget, Page, PutManifest, SharedStore, TagGuard, UploadId};
use crate::{Digest, ErrorKind};
use bytes::Bytes;

const REFUSED: &[ErrorKind] = &[ErrorKind::Unsupported];

pub async fn capabilities_excluded_operations_are_unsupported(store: SharedStore) {
    let capabilities = store.capabilities();
    let (name, digest) = (repository("a"), Digest::sha256("x"));
    if !capabilities.write {
        fails(store.start_upload(&name, Default::default()).await, REFUSED);
        fails(store.put_blob(&name, &digest, Bytes::from_static(b"x")).await, REFUSED);
        let path = std::env::temp_dir().join(format!("hyper-capabilities-{}", UploadId::random().unwrap()));
        std::fs::write(&path, "x").unwrap();
        fails(store.put_blob_file(&name, &digest, &path).await, REFUSED);
        assert!(path.exists(), "the file of a rejected blob must stay");
        std::fs::remove_file(path).unwrap();
        fails(store.mount_blob(&name, &digest, &repository("b")).await, REFUSED);
        let manifest = parse(r#"{"schemaVersion":2,"manifests":[]}"#);
        fails(store.put_manifest(&name, PutManifest::new(manifest, [tag("t")])).await, REFUSED);
    }
    if !capabilities.delete {
        fails(store.delete_blob(&name, &digest).await, REFUSED);
        for reference in [by_tag("t"), by_digest(&digest)] {
            fails(store.delete_manifest(&name, &reference).await, REFUSED);
        }
    }
    if !capabilities.tag_guards {
        let guard = TagGuard::new(|_, _| Ok(()));
        let manifest = parse(r#"{"schemaVersion":2,"manifests":[]}"#);
        let put = PutManifest { guard: Some(guard.clone()), ..PutManifest::new(manifest, [tag("t")]) };
        fails(store.put_manifest(&name, put).await, REFUSED);
        let target = DeleteTarget::Manifest(by_tag("t"));
        fails(store.delete_guarded(&name, target, guard).await, REFUSED);
    }
    if !capabilities.quotas {
        fails(store.set_quotas(quota("a", 0)), REFUSED);
    }
    store.set_quotas(Default::default()).unwrap();
    if !capabilities.resume {
        fails(store.resume_upload(&name, &UploadId::random().unwrap()).await, REFUSED);
    }
}

pub async fn capabilities_claimed_operations_work(store: SharedStore) {
    let capabilities = store.capabilities();
    let name = repository("a");
    if capabilities.write {
        push_image(&store, &name, "x", &["t"]).await;
    }
    if capabilities.write && capabilities.resume {
        let upload = store.start_upload(&name, Default::default()).await.unwrap();
        store.resume_upload(&name, upload.id()).await.unwrap();
        upload.abort().await.unwrap();
    }
    if capabilities.write && capabilities.delete {
        store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    }
    assert_eq!(store.capabilities(), capabilities, "capabilities do not change");
}

pub async fn a_store_displays_a_name(store: SharedStore) {
    assert!(!store.to_string().is_empty());
}

/// A store without an index returns none.
pub async fn repositories_with_a_blob_are_found(store: SharedStore) {
    needs!(store, write);
    let [a, b, c] = ["a", "b", "c"].map(repository);
    let digest = push(&store, &a, "hello").await.digest;
    push(&store, &c, "other").await;
    store.mount_blob(&b, &digest, &a).await.unwrap();
    let mut with = store.repositories_with(&digest, Page::default()).await.unwrap().items;
    with.sort();
    if with.is_empty() {
        return;
    }
    assert_eq!(with, [a.clone(), b.clone()]);
    let page = store.repositories_with(&digest, Page { limit: Some(1), after: None }).await.unwrap();
    assert!(page.more && page.items.len() == 1);
    let rest = Page { limit: Some(1), after: Some(page.items[0].to_string()) };
    let rest = store.repositories_with(&digest, rest).await.unwrap();
    assert!(!rest.more && rest.items.len() == 1 && rest.items != page.items, "{rest:?}");
    needs!(store, delete);
    store.delete_blob(&a, &digest).await.unwrap();
    assert_eq!(store.repositories_with(&digest, Page::default()).await.unwrap().items, [b]);
}

pub async fn the_version_changes_with_every_change(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    push(&store, &name, "first").await;
    let version = async || match store.version() {
        None => store.fetch_version().await,
        now => now,
    };
    let Some(mut last) = version().await else { return };
    let changed = async |last: &mut u64, what: &str| {
        store.list_tags(&name, Page::default()).await.unwrap();
        let now = version().await.unwrap();
        assert_ne!(now, std::mem::replace(last, now), "the version did not change when {what}");
    };
    let digest = push(&store, &name, "second").await.digest;
    changed(&mut last, "a blob was pushed").await;
    for text in ["one", "two"] {
        push_image(&store, &name, text, &["t"]).await;
        changed(&mut last, "a tag moved").await;
    }
    needs!(store, delete);
    store.delete_blob(&name, &digest).await.unwrap();
    changed(&mut last, "a blob was deleted").await;
    store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    changed(&mut last, "a tag was deleted").await;
}
