//! Cases about durable backends: what they keep when they are closed and opened again.

use super::super::kit::{fails, noise};
use super::BlobOpener;
use super::content::{put, read, read_all, size};
use super::staging::{commit, is_lost, resume, start};
use crate::{Digest, ErrorKind};

pub async fn put_blobs_survive_reopening(opener: BlobOpener) {
    let blobs = opener.open().await;
    if !blobs.durable() {
        return;
    }
    let bytes = noise(700_000, 40);
    let key = put(&**blobs, bytes.clone()).await;
    let path = opener.elsewhere().join("file");
    std::fs::write(&path, "adopted").unwrap();
    let adopted = Digest::sha256("adopted");
    blobs.adopt(&adopted, &path).await.unwrap();
    drop(blobs);
    let blobs = opener.open().await;
    assert!(read_all(&**blobs, &key, bytes.len()).await == bytes);
    assert_eq!(read_all(&**blobs, &adopted.into(), 7).await, b"adopted");
    assert_eq!(blobs.list(None, 10).await.unwrap().items.len(), 2);
}

pub async fn committed_blobs_survive_reopening(opener: BlobOpener) {
    let blobs = opener.open().await;
    if !blobs.durable() {
        return;
    }
    let bytes = noise(700_000, 41);
    let key = commit(&**blobs, &bytes).await;
    drop(blobs);
    let blobs = opener.open().await;
    assert_eq!(size(&**blobs, &key).await, Some(bytes.len() as u64));
    assert!(read_all(&**blobs, &key, bytes.len()).await == bytes);
}

pub async fn deleted_content_stays_deleted_after_reopening(opener: BlobOpener) {
    let blobs = opener.open().await;
    if !blobs.durable() {
        return;
    }
    let (kept, gone) = (put(&**blobs, "kept").await, put(&**blobs, "gone").await);
    let committed = commit(&**blobs, &noise(5000, 42)).await;
    blobs.delete(&gone).await.unwrap();
    blobs.delete(&committed).await.unwrap();
    drop(blobs);
    let blobs = opener.open().await;
    assert_eq!(read_all(&**blobs, &kept, 4).await, b"kept");
    fails(read(&**blobs, &gone, 4, 0, 4).await, &[ErrorKind::Corrupt]);
    assert_eq!(size(&**blobs, &committed).await, None);
}

pub async fn a_saved_area_is_resumed_after_reopening(opener: BlobOpener) {
    let blobs = opener.open().await;
    if !blobs.durable() {
        return;
    }
    let bytes = noise(1_500_000, 43);
    let (id, mut staging) = start(&**blobs).await;
    staging.append(bytes.slice(..700_001)).await.unwrap();
    let state = staging.save().await.unwrap();
    staging.append(bytes.slice(700_001..1_400_000)).await.unwrap();
    drop(staging);
    drop(blobs);
    let blobs = opener.open().await;
    let mut staging = resume(&**blobs, &id, &state).await;
    staging.append(bytes.slice(700_001..)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    let verified = staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    assert!(read_all(&**blobs, &verified.key, bytes.len()).await == bytes);
}

pub async fn a_discarded_area_stays_discarded_after_reopening(opener: BlobOpener) {
    let blobs = opener.open().await;
    if !blobs.durable() {
        return;
    }
    let (id, mut staging) = start(&**blobs).await;
    staging.append(noise(700_000, 44)).await.unwrap();
    let state = staging.save().await.unwrap();
    staging.discard().await.unwrap();
    drop(staging);
    drop(blobs);
    let blobs = opener.open().await;
    assert!(is_lost(&**blobs, &id, &state).await, "the discarded bytes are there again");
    assert!(!blobs.staged().await.unwrap().contains(&id));
}
