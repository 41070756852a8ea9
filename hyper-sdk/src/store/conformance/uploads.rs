//! Cases about upload sessions: chunks, resuming, competing writers.

use super::kit::*;
use crate::digest::Algorithm;
use crate::store::{Page, SharedStore, UploadId, UploadOptions};
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use std::time::Duration;

const GONE: &[ErrorKind] = &[ErrorKind::UploadUnknown];
const IN_THE_WAY: &[ErrorKind] = &[ErrorKind::Conflict, ErrorKind::RangeInvalid];

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub async fn chunks_become_one_blob(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = noise(1_500_000, 5);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let mut rest = bytes.clone();
    for size in [1, 2, 100_000, 700_000, 699_997] {
        upload.append(rest.split_to(size)).await.unwrap();
    }
    assert!(rest.is_empty());
    let digest = Digest::sha256(&bytes);
    assert_eq!(upload.finish(&digest).await.unwrap().size, 1_500_000);
    assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
}

pub async fn an_upload_has_an_offset(store: SharedStore) {
    needs!(store, write);
    let mut upload = store.start_upload(&repository("a"), Default::default()).await.unwrap();
    assert_eq!(upload.offset(), 0);
    upload.append(text("hello")).await.unwrap();
    assert_eq!(upload.offset(), 5);
    upload.save().await.unwrap();
    upload.append(text(" world")).await.unwrap();
    assert_eq!(upload.offset(), 11);
    upload.abort().await.unwrap();
}

pub async fn a_wrong_digest_is_rejected_and_ends_the_upload(store: SharedStore) {
    needs!(store, write);
    let (name, digest) = (repository("a"), Digest::sha256("hello"));
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(text("hallo")).await.unwrap();
    fails(upload.finish(&digest).await, &[ErrorKind::DigestInvalid]);
    fails(store.stat_blob(&name, &digest).await, &[ErrorKind::BlobUnknown]);
    fails(store.stat_blob(&name, &Digest::sha256("hallo")).await, &[ErrorKind::BlobUnknown]);
    needs!(store, resume);
    fails(store.resume_upload(&name, &id).await, GONE);
}

pub async fn finish_may_use_sha512(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = noise(1_200_000, 6);
    let digest = Algorithm::Sha512.digest(&bytes);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    upload.append(bytes.clone()).await.unwrap();
    assert_eq!(upload.finish(&digest).await.unwrap().digest, digest);
    assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    upload.append(text("other")).await.unwrap();
    fails(upload.finish(&digest).await, &[ErrorKind::DigestInvalid]);
}

pub async fn finish_may_use_an_algorithm_that_was_not_announced(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    for end in Algorithm::ALL {
        let options = UploadOptions { algorithm: Some(Algorithm::Sha512), digest: None };
        let mut upload = store.start_upload(&name, options).await.unwrap();
        upload.append(text("hello")).await.unwrap();
        let digest = end.digest(b"hello");
        upload.finish(&digest).await.unwrap();
        assert_eq!(read(&store, &name, &digest, None).await.unwrap(), b"hello");
    }
}

pub async fn a_saved_upload_is_resumed(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let bytes = noise(900_001, 7);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    for part in [0..300_000, 300_000..900_000, 900_000..900_001] {
        assert_eq!(upload.offset(), part.start as u64);
        upload.append(bytes.slice(part)).await.unwrap();
        upload.save().await.unwrap();
        drop(upload);
        upload = store.resume_upload(&name, &id).await.unwrap();
        assert_eq!(upload.id(), &id);
    }
    let digest = Digest::sha256(&bytes);
    upload.finish(&digest).await.unwrap();
    assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
}

pub async fn a_resumed_upload_may_finish_with_sha512(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(text("hello")).await.unwrap();
    upload.save().await.unwrap();
    drop(upload);
    let mut upload = store.resume_upload(&name, &id).await.unwrap();
    upload.append(text(" world")).await.unwrap();
    let digest = Algorithm::Sha512.digest(b"hello world");
    assert_eq!(upload.finish(&digest).await.unwrap().size, 11);
    assert_eq!(read(&store, &name, &digest, None).await.unwrap(), b"hello world");
}

pub async fn a_new_upload_can_be_resumed(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let id = store.start_upload(&name, Default::default()).await.unwrap().id().clone();
    let mut upload = store.resume_upload(&name, &id).await.unwrap();
    assert_eq!(upload.offset(), 0);
    upload.append(text("hello")).await.unwrap();
    upload.finish(&Digest::sha256("hello")).await.unwrap();
}

pub async fn unsaved_bytes_do_not_corrupt_a_blob(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let bytes = noise(1_400_000, 8);
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(bytes.slice(..100)).await.unwrap();
    upload.save().await.unwrap();
    upload.append(bytes.slice(100..700_000)).await.unwrap();
    drop(upload);
    let mut upload = store.resume_upload(&name, &id).await.unwrap();
    let offset = upload.offset() as usize;
    assert!((100..=700_000).contains(&offset), "saved bytes must be kept: {offset}");
    upload.append(bytes.slice(offset..)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    upload.finish(&digest).await.unwrap();
    assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
}

pub async fn an_upload_can_be_saved_twice(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    upload.save().await.unwrap();
    upload.append(text("hello")).await.unwrap();
    upload.save().await.unwrap();
    upload.save().await.unwrap();
    assert_eq!(upload.offset(), 5);
    upload.append(text("!")).await.unwrap();
    upload.finish(&Digest::sha256("hello!")).await.unwrap();
}

pub async fn an_aborted_upload_is_upload_unknown(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    for appended in [false, true] {
        let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
        let id = upload.id().clone();
        if appended {
            upload.append(text("hello")).await.unwrap();
            upload.save().await.unwrap();
        }
        upload.abort().await.unwrap();
        fails(store.resume_upload(&name, &id).await, GONE);
    }
}

pub async fn a_finished_upload_is_upload_unknown(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    let id = upload.id().clone();
    upload.append(text("hello")).await.unwrap();
    upload.finish(&Digest::sha256("hello")).await.unwrap();
    fails(store.resume_upload(&name, &id).await, GONE);
}

pub async fn an_unknown_upload_is_upload_unknown(store: SharedStore) {
    needs!(store, resume);
    fails(store.resume_upload(&repository("a"), &UploadId::random().unwrap()).await, GONE);
}

pub async fn an_upload_of_another_repository_is_upload_unknown(store: SharedStore) {
    needs!(store, write, resume);
    let (mine, yours) = (repository("mine"), repository("yours"));
    push(&store, &yours, "other").await;
    let mut upload = store.start_upload(&mine, Default::default()).await.unwrap();
    upload.append(text("hello")).await.unwrap();
    upload.save().await.unwrap();
    fails(store.resume_upload(&yours, upload.id()).await, GONE);
    upload.finish(&Digest::sha256("hello")).await.unwrap();
}

pub async fn a_second_writer_does_not_corrupt_the_upload(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let mut first = store.start_upload(&name, Default::default()).await.unwrap();
    first.append(text("one ")).await.unwrap();
    if let Ok(mut second) = store.resume_upload(&name, first.id()).await
        && let Err(e) = second.append(text("two ")).await
    {
        assert!(IN_THE_WAY.contains(&e.kind()), "{e}");
    }
    // Whichever writer was accepted, the digest of mixed content is rejected.
    let outcome = match first.append(text("three")).await {
        Ok(()) => first.finish(&Digest::sha256("one three")).await.map(drop),
        Err(e) => Err(e),
    };
    match outcome {
        Ok(()) => {
            let got = read(&store, &name, &Digest::sha256("one three"), None).await.unwrap();
            assert_eq!(got, b"one three");
        }
        Err(e) => assert!(
            IN_THE_WAY.contains(&e.kind())
                || matches!(e.kind(), ErrorKind::UploadUnknown | ErrorKind::DigestInvalid),
            "{e}"
        ),
    }
}

pub async fn an_outdated_writer_is_rejected(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let mut first = store.start_upload(&name, Default::default()).await.unwrap();
    first.append(text("one ")).await.unwrap();
    first.save().await.unwrap();
    let mut second = store.resume_upload(&name, first.id()).await.unwrap();
    second.append(text("two")).await.unwrap();
    second.save().await.unwrap();
    fails(first.append(text("three")).await, IN_THE_WAY);
    second.finish(&Digest::sha256("one two")).await.unwrap();
    assert_eq!(read(&store, &name, &Digest::sha256("one two"), None).await.unwrap(), b"one two");
}

pub async fn empty_appends_are_accepted(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    for part in ["", "hello", ""] {
        upload.append(text(part)).await.unwrap();
    }
    assert_eq!(upload.finish(&Digest::sha256("hello")).await.unwrap().size, 5);
}

pub async fn upload_ids_are_unique(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut names = std::collections::HashSet::new();
    for _ in 0..8 {
        let upload = store.start_upload(&name, Default::default()).await.unwrap();
        assert!(names.insert(upload.id().clone()));
        upload.abort().await.unwrap();
    }
}

pub async fn an_upload_creates_no_repository(store: SharedStore) {
    needs!(store, write);
    let name = repository("only/started");
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    upload.append(text("hello")).await.unwrap();
    upload.save().await.unwrap();
    assert!(store.list_repositories(Page::default()).await.unwrap().items.is_empty());
    fails(store.list_tags(&name, Page::default()).await, &[ErrorKind::NameUnknown]);
}

pub async fn only_idle_uploads_expire(store: SharedStore) {
    needs!(store, write, resume);
    let name = repository("a");
    let empty = store.start_upload(&name, Default::default()).await.unwrap().id().clone();
    let mut saved = store.start_upload(&name, Default::default()).await.unwrap();
    saved.append(text("hello")).await.unwrap();
    saved.save().await.unwrap();
    let saved = saved.id().clone();
    let mut busy = store.start_upload(&name, Default::default()).await.unwrap();
    busy.append(text("hello")).await.unwrap();
    assert_eq!(store.expire_uploads(Duration::from_secs(3600)).await.unwrap(), 0, "all are young");
    store.resume_upload(&name, &saved).await.unwrap();
    if store.expire_uploads(Duration::ZERO).await.unwrap() == 0 {
        // A remote store expires uploads by itself.
        return;
    }
    for id in [&empty, &saved] {
        fails(store.resume_upload(&name, id).await, GONE);
    }
    busy.append(text(" world")).await.unwrap();
    busy.finish(&Digest::sha256("hello world")).await.unwrap();
    assert_eq!(store.expire_uploads(Duration::ZERO).await.unwrap(), 0);
}
