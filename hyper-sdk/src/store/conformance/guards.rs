//! Cases about rules for tags.

use super::kit::*;
use crate::oci::{ImageIndex, Manifest};
use crate::reference::RepositoryName;
use crate::store::{DeleteTarget, PutManifest, SharedStore, TagChange, TagGuard};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex};

const DENIED: &[ErrorKind] = &[ErrorKind::Denied];

/// What a guard was asked. A store may ask again, so questions count once.
type Asked = Arc<Mutex<Vec<(String, TagChange)>>>;

/// A guard that refuses to move or to delete `v1`.
fn guard(asked: &Asked) -> TagGuard {
    let asked = asked.clone();
    TagGuard::new(move |tag, change| {
        let mut asked = asked.lock().unwrap();
        let question = (tag.to_string(), change);
        if !asked.contains(&question) {
            asked.push(question);
        }
        match tag.as_str() == "v1" && change != TagChange::Create {
            true => Err(Error::new(ErrorKind::Denied, "immutable")),
            false => Ok(()),
        }
    })
}

fn taken(asked: &Asked) -> Vec<(String, TagChange)> {
    std::mem::take(&mut asked.lock().unwrap())
}

async fn put_guarded(
    store: &SharedStore,
    name: &RepositoryName,
    manifest: &Manifest,
    tags: &[&str],
    guard: TagGuard,
) -> Result<()> {
    let put = PutManifest::new(manifest.clone(), tags.iter().map(|t| tag(t)));
    store.put_manifest(name, PutManifest { guard: Some(guard), ..put }).await.map(drop)
}

pub async fn a_guard_rejects_a_whole_push(store: SharedStore) {
    needs!(store, write, tag_guards);
    let (name, asked) = (repository("a"), Asked::default());
    let one = push_image(&store, &name, "1", &["latest"]).await;
    let two = parse(image(&store, &name, "2").await.to_bytes());
    put_guarded(&store, &name, &one, &["v1"], guard(&asked)).await.unwrap();
    assert_eq!(taken(&asked), [("v1".to_owned(), TagChange::Create)]);
    put_guarded(&store, &name, &one, &["v1", "latest"], guard(&asked)).await.unwrap();
    assert_eq!(taken(&asked), [], "the tags have the manifest already");
    fails(put_guarded(&store, &name, &two, &["latest", "v1"], guard(&asked)).await, DENIED);
    assert_eq!(taken(&asked), [("latest".to_owned(), TagChange::Move), ("v1".to_owned(), TagChange::Move)]);
    for name_of in ["v1", "latest"] {
        assert_eq!(store.get_manifest(&name, &by_tag(name_of)).await.unwrap(), one);
    }
    put_guarded(&store, &name, &two, &["latest"], guard(&asked)).await.unwrap();
    assert_eq!(store.get_manifest(&name, &by_tag("latest")).await.unwrap(), two);
}

pub async fn a_guard_keeps_what_a_tag_needs(store: SharedStore) {
    needs!(store, write, delete, tag_guards);
    let (name, asked) = (repository("a"), Asked::default());
    let one = push_image(&store, &name, "1", &["latest"]).await;
    let list = parse(ImageIndex::new(vec![one.descriptor()]).to_bytes());
    put(&store, &name, &list, &["v1"]).await.unwrap();
    let layer = crate::Digest::sha256("layer 1");
    for target in [
        DeleteTarget::Manifest(by_tag("v1")),
        DeleteTarget::Manifest(by_digest(list.digest())),
        DeleteTarget::Manifest(by_digest(one.digest())),
        DeleteTarget::Blob(layer.clone()),
    ] {
        fails(store.delete_guarded(&name, target.clone(), guard(&asked)).await, DENIED);
        assert!(taken(&asked).contains(&("v1".to_owned(), TagChange::Delete)), "{target:?}");
    }
    assert_eq!(store.get_manifest(&name, &by_tag("v1")).await.unwrap(), list);
    assert_eq!(store.stat_blob(&name, &layer).await.unwrap(), 7);
    store.delete_guarded(&name, DeleteTarget::Manifest(by_tag("latest")), guard(&asked)).await.unwrap();
    assert_eq!(taken(&asked), [("latest".to_owned(), TagChange::Delete)]);
    let free = guard(&asked).without_deletions();
    for target in [
        DeleteTarget::Blob(layer.clone()),
        DeleteTarget::Manifest(by_tag("v1")),
        DeleteTarget::Manifest(by_digest(one.digest())),
    ] {
        store.delete_guarded(&name, target, free.clone()).await.unwrap();
    }
    assert_eq!(taken(&asked), [], "a guard that allows every deletion is not asked");
    fails(store.get_manifest(&name, &by_tag("v1")).await, &[ErrorKind::ManifestUnknown]);
    fails(store.stat_blob(&name, &layer).await, &[ErrorKind::BlobUnknown]);
}

/// The tags, manifests and blobs of another repository are the same, and are not asked about.
pub async fn a_guard_sees_one_repository(store: SharedStore) {
    needs!(store, write, delete, tag_guards);
    let asked = Asked::default();
    let [a, b] = ["a", "b"].map(repository);
    let one = push_image(&store, &a, "1", &["edge"]).await;
    push_image(&store, &b, "1", &["v1"]).await;
    let list = parse(ImageIndex::new(vec![one.descriptor()]).to_bytes());
    put(&store, &b, &list, &["v1", "list"]).await.unwrap();
    put_guarded(&store, &a, &one, &["v2"], guard(&asked)).await.unwrap();
    assert_eq!(taken(&asked), [("v2".to_owned(), TagChange::Create)]);
    let layer = crate::Digest::sha256("layer 1");
    let both = [("edge".to_owned(), TagChange::Delete), ("v2".to_owned(), TagChange::Delete)];
    for target in [DeleteTarget::Blob(layer.clone()), DeleteTarget::Manifest(by_digest(one.digest()))] {
        store.delete_guarded(&a, target, guard(&asked)).await.unwrap();
        assert_eq!(taken(&asked), both);
    }
    assert_eq!(store.get_manifest(&b, &by_tag("v1")).await.unwrap(), list);
    assert_eq!(store.get_manifest(&b, &by_digest(one.digest())).await.unwrap(), one);
    assert_eq!(store.stat_blob(&b, &layer).await.unwrap(), 7);
}

pub async fn a_guard_that_panics_harms_no_other_change(store: SharedStore) {
    needs!(store, write, tag_guards);
    let name = repository("a");
    let one = push_image(&store, &name, "1", &[]).await;
    let fault = TagGuard::new(|_, _| panic!("a fault of the rule"));
    fails(put_guarded(&store, &name, &one, &["v1"], fault).await, &[ErrorKind::Internal]);
    put(&store, &name, &one, &["v2"]).await.unwrap();
    assert_eq!(tags(&*store, &name).await, ["v2"]);
}
