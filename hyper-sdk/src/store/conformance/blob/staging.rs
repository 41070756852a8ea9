//! Cases about staging areas: parts, competing writers, and the fate of the bytes.

use super::super::kit::{fails, noise};
use super::BlobOpener;
use super::content::{put, read_all, size};
use crate::digest::Algorithm;
use crate::store::UploadId;
use crate::store::blob::{BlobBackend, BlobKey, BlobStaging, StagedState};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use std::time::{Duration, SystemTime};

/// Opens the area of a session with the saved state `state`.
pub(super) async fn resume(
    blobs: &dyn BlobBackend,
    id: &UploadId,
    state: &StagedState,
) -> Box<dyn BlobStaging> {
    let mut staging = blobs.stage(id).await.unwrap();
    staging.restore(state, Algorithm::Sha256).await.unwrap();
    staging
}

/// Opens the area of a new session.
pub(super) async fn start(blobs: &dyn BlobBackend) -> (UploadId, Box<dyn BlobStaging>) {
    let id = UploadId::random().unwrap();
    let staging = resume(blobs, &id, &StagedState::default()).await;
    (id, staging)
}

/// Stores a blob through a staging area and returns its key.
pub(super) async fn commit(blobs: &dyn BlobBackend, bytes: &Bytes) -> BlobKey {
    let (_, mut staging) = start(blobs).await;
    staging.append(bytes.clone()).await.unwrap();
    let digest = Digest::sha256(bytes);
    let verified = staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    verified.key
}

/// Whether a session with the saved state `state` cannot be resumed.
pub(super) async fn is_lost(blobs: &dyn BlobBackend, id: &UploadId, state: &StagedState) -> bool {
    let mut staging = match blobs.stage(id).await {
        Ok(staging) => staging,
        Err(e) => return e.kind() == ErrorKind::UploadUnknown,
    };
    match staging.restore(state, Algorithm::Sha256).await {
        Ok(()) => false,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::UploadUnknown, "{e}");
            staging.discard().await.unwrap();
            true
        }
    }
}

/// The areas without a writer, whenever they were written to.
async fn leftovers(blobs: &dyn BlobBackend) -> Vec<UploadId> {
    blobs.leftovers(SystemTime::now() + Duration::from_secs(3600)).await.unwrap()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub async fn staged_parts_become_a_blob(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(1_500_000, 5);
    let (_, mut staging) = start(&**blobs).await;
    let mut rest = bytes.clone();
    for size in [0, 1, 2, 100_000, 700_000, 699_997] {
        staging.append(rest.split_to(size)).await.unwrap();
    }
    let digest = Digest::sha256(&bytes);
    let verified = staging.verify(&digest).await.unwrap();
    assert_eq!(verified.size, 1_500_000);
    staging.commit(&digest).await.unwrap();
    assert_eq!(size(&**blobs, &verified.key).await, Some(1_500_000));
    assert!(read_all(&**blobs, &verified.key, bytes.len()).await == bytes);
}

pub async fn a_committed_blob_has_the_verified_key(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(4000, 6);
    let key = commit(&**blobs, &bytes).await;
    match &key {
        BlobKey::Digest(digest) => assert_eq!(*digest, Digest::sha256(&bytes)),
        BlobKey::Own(_) => assert!(blobs.has_own_keys(), "the backend says that it has no keys of its own"),
    }
    assert!(read_all(&**blobs, &key, 4000).await == bytes);
    assert!(!blobs.remove_damaged(&key, &Digest::sha256(&bytes)).await.unwrap());
    if let Some(path) = blobs.path(&key) {
        assert!(std::fs::read(path).unwrap() == bytes);
    }
    let listed = blobs.list(None, 10).await.unwrap().items;
    assert_eq!(listed.iter().map(|stored| (&stored.key, stored.size)).collect::<Vec<_>>(), [(&key, 4000)]);
    assert!(blobs.delete(&key).await.unwrap());
    assert_eq!(size(&**blobs, &key).await, None);
}

pub async fn commit_requires_verify(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (_, mut staging) = start(&**blobs).await;
    staging.append(text("hello")).await.unwrap();
    let digest = Digest::sha256("hello");
    fails(staging.commit(&digest).await, &[ErrorKind::Internal]);
    staging.verify(&digest).await.unwrap();
    fails(staging.commit(&Digest::sha256("other")).await, &[ErrorKind::Internal]);
    staging.commit(&digest).await.unwrap();
}

pub async fn verify_rejects_a_wrong_digest(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (_, mut staging) = start(&**blobs).await;
    staging.append(text("hallo")).await.unwrap();
    for other in [Digest::sha256("hello"), Algorithm::Sha512.digest(b"hello")] {
        fails(staging.verify(&other).await, &[ErrorKind::DigestInvalid]);
        fails(staging.commit(&other).await, &[ErrorKind::Internal]);
        assert_eq!(size(&**blobs, &other.into()).await, None);
    }
    let right = Digest::sha256("hallo");
    let verified = staging.verify(&right).await.unwrap();
    staging.commit(&right).await.unwrap();
    assert_eq!(read_all(&**blobs, &verified.key, 5).await, b"hallo", "the content was still staged");
}

pub async fn verify_accepts_another_algorithm(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(1_200_000, 7);
    let (_, mut staging) = start(&**blobs).await;
    staging.append(bytes.clone()).await.unwrap();
    let digest = Algorithm::Sha512.digest(&bytes);
    let verified = staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    assert!(read_all(&**blobs, &verified.key, bytes.len()).await == bytes);
}

pub async fn appended_bytes_must_be_verified_again(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (_, mut staging) = start(&**blobs).await;
    staging.append(text("hello")).await.unwrap();
    staging.verify(&Digest::sha256("hello")).await.unwrap();
    staging.append(text(" world")).await.unwrap();
    fails(staging.commit(&Digest::sha256("hello")).await, &[ErrorKind::Internal]);
    let digest = Digest::sha256("hello world");
    let verified = staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    assert_eq!(read_all(&**blobs, &verified.key, 11).await, b"hello world");
}

pub async fn a_saved_area_is_resumed(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(900_001, 8);
    let (id, mut staging) = start(&**blobs).await;
    for part in [0..300_000, 300_000..900_000, 900_000..900_001] {
        staging.append(bytes.slice(part.clone())).await.unwrap();
        let state = staging.save().await.unwrap();
        assert_eq!(state.offset, part.end as u64);
        drop(staging);
        staging = resume(&**blobs, &id, &state).await;
    }
    let digest = Digest::sha256(&bytes);
    let verified = staging.verify(&digest).await.unwrap();
    assert_eq!(verified.size, bytes.len() as u64);
    staging.commit(&digest).await.unwrap();
    assert!(read_all(&**blobs, &verified.key, bytes.len()).await == bytes);
}

pub async fn unsaved_bytes_are_discarded(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(1_400_000, 9);
    let (id, mut staging) = start(&**blobs).await;
    staging.append(bytes.slice(..100)).await.unwrap();
    let state = staging.save().await.unwrap();
    staging.append(bytes.slice(100..700_000)).await.unwrap();
    drop(staging);
    let mut staging = resume(&**blobs, &id, &state).await;
    staging.append(bytes.slice(100..)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    let verified = staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    assert!(read_all(&**blobs, &verified.key, bytes.len()).await == bytes);
}

pub async fn one_area_has_one_writer(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (id, mut staging) = start(&**blobs).await;
    fails(blobs.stage(&id).await, &[ErrorKind::Conflict]);
    staging.append(text("hello")).await.unwrap();
    let state = staging.save().await.unwrap();
    fails(blobs.stage(&id).await, &[ErrorKind::Conflict]);
    drop(staging);
    let staging = resume(&**blobs, &id, &state).await;
    fails(blobs.stage(&id).await, &[ErrorKind::Conflict]);
    drop(staging);
}

pub async fn areas_are_independent(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (_, mut one) = start(&**blobs).await;
    let (_, mut two) = start(&**blobs).await;
    for _ in 0..3 {
        one.append(text("one ")).await.unwrap();
        two.append(text("two ")).await.unwrap();
        one.save().await.unwrap();
    }
    for (staging, content) in [(&mut one, "one one one "), (&mut two, "two two two ")] {
        let digest = Digest::sha256(content);
        let verified = staging.verify(&digest).await.unwrap();
        staging.commit(&digest).await.unwrap();
        assert_eq!(read_all(&**blobs, &verified.key, 12).await, content.as_bytes());
    }
}

pub async fn discarded_bytes_cannot_be_restored(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (id, mut staging) = start(&**blobs).await;
    staging.append(noise(700_000, 10)).await.unwrap();
    let state = staging.save().await.unwrap();
    staging.discard().await.unwrap();
    drop(staging);
    assert!(!blobs.staged().await.unwrap().contains(&id), "the area still holds bytes");
    assert!(!leftovers(&**blobs).await.contains(&id), "the area is left over");
    assert!(is_lost(&**blobs, &id, &state).await, "the discarded bytes are still there");
    assert!(blobs.list(None, 10).await.unwrap().items.is_empty());
}

pub async fn committed_bytes_are_no_longer_staged(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (id, mut staging) = start(&**blobs).await;
    staging.append(text("hello")).await.unwrap();
    let state = staging.save().await.unwrap();
    let digest = Digest::sha256("hello");
    let verified = staging.verify(&digest).await.unwrap();
    staging.commit(&digest).await.unwrap();
    if blobs.has_own_keys() {
        // Such an area may keep what its store needs until a row names the bytes.
        staging.discard().await.unwrap();
    }
    drop(staging);
    assert!(!blobs.staged().await.unwrap().contains(&id) && !leftovers(&**blobs).await.contains(&id));
    assert!(is_lost(&**blobs, &id, &state).await, "a blob can be written to");
    assert_eq!(read_all(&**blobs, &verified.key, 5).await, b"hello");
}

pub async fn a_state_without_bytes_is_upload_unknown(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (_, mut staging) = start(&**blobs).await;
    staging.append(text("hello")).await.unwrap();
    let state = staging.save().await.unwrap();
    assert!(is_lost(&**blobs, &UploadId::random().unwrap(), &state).await);
}

pub async fn idle_areas_are_listed(opener: BlobOpener) {
    let blobs = opener.open().await;
    let (id, mut staging) = start(&**blobs).await;
    staging.append(text("hello")).await.unwrap();
    staging.save().await.unwrap();
    drop(staging);
    assert!(leftovers(&**blobs).await.contains(&id), "the area is not listed");
}

pub async fn staged_bytes_are_not_listed_as_blobs(opener: BlobOpener) {
    let blobs = opener.open().await;
    let key = put(&**blobs, "hello").await;
    let (_, mut staging) = start(&**blobs).await;
    staging.append(noise(600_000, 11)).await.unwrap();
    staging.save().await.unwrap();
    let listed = blobs.list(None, 10).await.unwrap().items;
    assert_eq!(listed.into_iter().map(|stored| stored.key).collect::<Vec<_>>(), [key]);
}

pub async fn a_blob_staged_twice_is_stored_once(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(100_000, 12);
    let digest = Digest::sha256(&bytes);
    let (_, mut one) = start(&**blobs).await;
    let (_, mut two) = start(&**blobs).await;
    let mut keys = Vec::new();
    for staging in [&mut one, &mut two] {
        staging.append(bytes.clone()).await.unwrap();
        keys.push(staging.verify(&digest).await.unwrap().key);
    }
    for (staging, key) in [&mut one, &mut two].into_iter().zip(&keys) {
        staging.commit(&digest).await.unwrap();
        assert!(read_all(&**blobs, key, bytes.len()).await == bytes);
    }
    assert!(read_all(&**blobs, &keys[0], bytes.len()).await == bytes);
}
