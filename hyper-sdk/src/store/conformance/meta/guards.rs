//! Rules for tags that a change asks.

use super::MetaOpener;
use super::kit::*;
use crate::oci::{ImageIndex, Manifest};
use crate::store::meta::{Change, Edge, EdgeKind, ManifestChange, MetaBackend};
use crate::store::{DeleteTarget, TagChange, TagGuard};
use crate::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex};

/// What a guard was asked.
type Asked = Arc<Mutex<Vec<(String, TagChange)>>>;

/// A guard that refuses changes of the tag `v1`, unless it is new.
fn guard(asked: &Asked) -> TagGuard {
    let asked = asked.clone();
    TagGuard::new(move |tag, change| {
        asked.lock().unwrap().push((tag.as_str().to_owned(), change));
        match tag.as_str() == "v1" && change != TagChange::Create {
            true => Err(Error::new(ErrorKind::Denied, "immutable")),
            false => Ok(()),
        }
    })
}

fn taken(asked: &Asked) -> Vec<(String, TagChange)> {
    std::mem::take(&mut asked.lock().unwrap())
}

async fn push(meta: &dyn MetaBackend, manifest: &Manifest, tags: &[&str], asked: &Asked) -> Result<u64> {
    let put =
        ManifestChange { guard: Some(guard(asked)), ..change(&repository("a"), manifest, vec![], tags) };
    meta.write(Change::PutManifest(Box::new(put))).await
}

async fn delete(meta: &dyn MetaBackend, target: DeleteTarget, asked: &Asked) -> Result<u64> {
    meta.write(Change::DeleteGuarded { repository: repository("a"), target, guard: guard(asked) }).await
}

pub async fn a_guard_is_asked_about_tags_that_change(opener: MetaOpener) {
    let meta = opener.open().await;
    let [one, two] = ["1", "2"].map(index);
    let asked = Asked::default();
    push(&**meta, &one, &["v1", "latest"], &asked).await.unwrap();
    assert_eq!(
        taken(&asked),
        [("v1".to_owned(), TagChange::Create), ("latest".to_owned(), TagChange::Create)]
    );
    push(&**meta, &one, &["v1", "latest"], &asked).await.unwrap();
    assert_eq!(taken(&asked), [], "a push of the same manifest changes no tag");
    fails(push(&**meta, &two, &["latest", "v1"], &asked).await, &[ErrorKind::Denied]);
    assert_eq!(taken(&asked), [("latest".to_owned(), TagChange::Move), ("v1".to_owned(), TagChange::Move)]);
    let a = repository("a");
    for name in ["v1", "latest"] {
        let named = meta.manifest(&a, &by_tag(name)).await.unwrap();
        assert_eq!(named.as_ref(), Some(&one), "a push that is refused moves no tag");
    }
    assert!(meta.manifest(&a, &by_digest(two.digest())).await.unwrap().is_none());
    push(&**meta, &two, &["latest"], &asked).await.unwrap();
    assert_eq!(meta.manifest(&a, &by_tag("latest")).await.unwrap().as_ref(), Some(&two));
}

pub async fn a_guard_protects_what_a_tag_needs(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let image = put_image(&**meta, &a, ("c", "l"), &[]).await;
    // The same content has other tags in another repository, which nothing in this one concerns.
    let elsewhere = repository("b");
    put_image(&**meta, &elsewhere, ("c", "l"), &["b"]).await;
    put_image(&**meta, &elsewhere, ("c", "m"), &["b"]).await;
    let other = put_image(&**meta, &a, ("c", "m"), &["latest"]).await;
    let list = Manifest::sniff(ImageIndex::new(vec![image.descriptor()]).to_bytes()).unwrap();
    let entry = Edge {
        kind: EdgeKind::Entry,
        digest: image.digest().clone(),
        required: true,
        size: image.bytes().len() as u64,
        stored: None,
        field: "manifests[0]".to_owned(),
    };
    let put = change(&a, &list, vec![entry], &["v1"]);
    meta.write(Change::PutManifest(Box::new(put))).await.unwrap();
    let asked = Asked::default();
    for target in [
        DeleteTarget::Manifest(by_tag("v1")),
        DeleteTarget::Manifest(by_digest(list.digest())),
        DeleteTarget::Manifest(by_digest(image.digest())),
        DeleteTarget::Blob(digest("l")),
        DeleteTarget::Blob(digest("c")),
    ] {
        fails(delete(&**meta, target.clone(), &asked).await, &[ErrorKind::Denied]);
        let questions = taken(&asked);
        assert!(questions.contains(&("v1".to_owned(), TagChange::Delete)), "{target:?}");
        assert!(!questions.iter().any(|(tag, _)| tag == "b"), "{target:?}");
    }
    assert_eq!(meta.manifest(&a, &by_tag("v1")).await.unwrap().as_ref(), Some(&list));
    assert!(meta.blob(&a, &digest("l")).await.unwrap().is_some());
    delete(&**meta, DeleteTarget::Blob(digest("m")), &asked).await.unwrap();
    let target = DeleteTarget::Manifest(by_digest(other.digest()));
    delete(&**meta, target, &asked).await.unwrap();
    let latest = [("latest".to_owned(), TagChange::Delete), ("latest".to_owned(), TagChange::Delete)];
    assert_eq!(taken(&asked), latest);
    for (target, kind) in [
        (DeleteTarget::Manifest(by_tag("latest")), ErrorKind::ManifestUnknown),
        (DeleteTarget::Manifest(by_digest(other.digest())), ErrorKind::ManifestUnknown),
        (DeleteTarget::Blob(digest("m")), ErrorKind::BlobUnknown),
    ] {
        fails(delete(&**meta, target, &asked).await, &[kind]);
    }
    assert_eq!(taken(&asked), [], "what is not there needs no permission");
}
