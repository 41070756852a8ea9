//! Cases about durable stores: what they keep when they are closed and opened again.

use super::Opener;
use super::kit::*;
use crate::store::{Page, SharedStore};
use crate::{Digest, ErrorKind};

pub async fn acknowledged_content_survives_reopening(opener: Opener<SharedStore>) {
    let store = opener.open().await;
    needs!(*store, write, durable);
    let (name, other) = (repository("a"), repository("b"));
    let bytes = noise(700_000, 50);
    let blob = push(&store, &name, bytes.clone()).await;
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    upload.append(bytes.slice(1..)).await.unwrap();
    let uploaded = upload.finish(&Digest::sha256(&bytes[1..])).await.unwrap();
    let manifest = push_image(&store, &name, "x", &["t", "u"]).await;
    store.mount_blob(&other, &blob.digest, &name).await.unwrap();
    drop(store);
    let store = opener.open().await;
    assert!(store.capabilities().durable, "capabilities do not change");
    for (name, digest, expected) in [
        (&name, &blob.digest, &bytes[..]),
        (&name, &uploaded.digest, &bytes[1..]),
        (&other, &blob.digest, &bytes[..]),
    ] {
        assert!(read(&store, name, digest, None).await.unwrap() == expected);
    }
    assert_eq!(store.get_manifest(&name, &by_tag("u")).await.unwrap(), manifest);
    assert_eq!(tags(&**store, &name).await, ["t", "u"]);
}

pub async fn deleted_content_stays_deleted_after_reopening(opener: Opener<SharedStore>) {
    let store = opener.open().await;
    needs!(*store, write, delete, durable);
    let name = repository("a");
    let blob = push(&store, &name, "hello").await;
    let manifest = push_image(&store, &name, "x", &["t", "u"]).await;
    store.delete_blob(&name, &blob.digest).await.unwrap();
    store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    drop(store);
    let store = opener.open().await;
    fails(store.stat_blob(&name, &blob.digest).await, &[ErrorKind::BlobUnknown]);
    assert_eq!(tags(&**store, &name).await, ["u"]);
    store.delete_manifest(&name, &by_digest(manifest.digest())).await.unwrap();
    drop(store);
    let store = opener.open().await;
    fails(store.get_manifest(&name, &by_tag("u")).await, &[ErrorKind::ManifestUnknown]);
    assert!(store.list_repositories(Page::default()).await.unwrap().items.is_empty());
}

pub async fn a_saved_upload_is_resumed_after_reopening(opener: Opener<SharedStore>) {
    let store = opener.open().await;
    needs!(*store, write, resume, durable);
    let name = repository("a");
    let bytes = noise(1_500_000, 51);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(bytes.slice(..700_001)).await.unwrap();
    upload.save().await.unwrap();
    drop((upload, store));
    let store = opener.open().await;
    let mut upload = store.resume_upload(&name, &id).await.unwrap();
    assert_eq!(upload.offset(), 700_001);
    upload.append(bytes.slice(700_001..)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    upload.finish(&digest).await.unwrap();
    assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
}

pub async fn an_ended_upload_stays_ended_after_reopening(opener: Opener<SharedStore>) {
    let store = opener.open().await;
    needs!(*store, write, resume, durable);
    let name = repository("a");
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(noise(1000, 52)).await.unwrap();
    upload.save().await.unwrap();
    upload.abort().await.unwrap();
    drop(store);
    let store = opener.open().await;
    fails(store.resume_upload(&name, &id).await, &[ErrorKind::UploadUnknown]);
}
