//! Cases about blobs and uploads.

use super::kit::*;
use crate::client::{Mount, SharedClient};
use crate::digest::Algorithm;
use crate::store::ByteRange;
use crate::{Digest, Error, ErrorKind};
use bytes::Bytes;
use futures::StreamExt as _;

/// An upload that is over: some registries know, some do not.
const GONE: &[ErrorKind] = &[ErrorKind::UploadUnknown, ErrorKind::UploadInvalid];

pub async fn the_registry_answers(client: SharedClient) {
    client.ping().await.unwrap();
}

pub async fn a_blob_comes_back_whole(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a/b"), noise(10_000, 1));
    let digest = push(&client, &name, &bytes).await;
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), Some(10_000));
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn an_empty_blob_is_a_blob(client: SharedClient) {
    needs!(client, push);
    let (name, digest) = (repository("a"), Digest::sha256(b""));
    let session = client.start_upload(&name).await.unwrap();
    client.finish_upload(&name, session, &digest, None).await.unwrap();
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), Some(0));
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), b"");
}

pub async fn a_large_blob_comes_back_whole(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(9 << 20, 2));
    let digest = push(&client, &name, &bytes).await;
    assert!(read(&client, &name, &digest, None).await.unwrap() == bytes);
}

pub async fn a_sha512_blob_comes_back(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(1000, 3));
    let digest = push_as(&client, &name, &bytes, Algorithm::Sha512).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn an_unknown_blob_is_none_and_blob_unknown(client: SharedClient) {
    let (name, digest) = (repository("a"), Digest::sha256(b"nothing"));
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), None);
    fails(read(&client, &name, &digest, None).await, &[ErrorKind::BlobUnknown, ErrorKind::NameUnknown]);
}

pub async fn ranges_are_exact(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(5000, 4));
    let digest = push(&client, &name, &bytes).await;
    for (range, expected) in [
        (ByteRange::FromTo(0, Some(0)), 0..1),
        (ByteRange::FromTo(100, Some(199)), 100..200),
        (ByteRange::FromTo(4000, None), 4000..5000),
        (ByteRange::FromTo(4000, Some(9999)), 4000..5000),
        (ByteRange::Suffix(10), 4990..5000),
    ] {
        let reader = client.get_blob(&name, &digest, Some(range)).await.unwrap();
        let (offset, length) = (expected.start as u64, expected.len() as u64);
        assert_eq!((reader.size, reader.offset, reader.length), (5000, offset, length), "{range:?}");
        assert_eq!(read(&client, &name, &digest, Some(range)).await.unwrap(), bytes[expected]);
    }
}

pub async fn a_range_outside_is_range_invalid(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(100, 5));
    let digest = push(&client, &name, &bytes).await;
    fails(
        read(&client, &name, &digest, Some(ByteRange::FromTo(100, None))).await,
        &[ErrorKind::RangeInvalid],
    );
}

pub async fn chunks_add_up(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(3000, 6));
    let mut session = client.start_upload(&name).await.unwrap();
    for at in [0, 1000, 2000] {
        assert_eq!(session.offset, at as u64);
        session = client.upload_chunk(&name, &session, bytes.slice(at..at + 1000)).await.unwrap();
    }
    let digest = Digest::sha256(&bytes);
    client.finish_upload(&name, session, &digest, None).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn chunks_and_a_rest_add_up(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(3000, 7));
    let session = client.start_upload(&name).await.unwrap();
    let session = client.upload_chunk(&name, &session, bytes.slice(..1234)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    finish(&client, &name, session, &digest, &bytes.slice(1234..)).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn the_status_says_how_far_an_upload_is(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(3000, 8));
    let session = client.start_upload(&name).await.unwrap();
    assert_eq!(client.upload_status(&name, &session).await.unwrap().offset, 0);
    let old = session.clone();
    client.upload_chunk(&name, &session, bytes.slice(..2000)).await.unwrap();
    let found = client.upload_status(&name, &old).await.unwrap();
    assert_eq!(found.offset, 2000);
    finish(&client, &name, found, &Digest::sha256(&bytes), &bytes.slice(2000..)).await.unwrap();
}

pub async fn a_wrong_digest_is_digest_invalid(client: SharedClient) {
    needs!(client, push);
    let (name, bytes, wrong) = (repository("a"), noise(100, 9), Digest::sha256(b"other"));
    let session = client.start_upload(&name).await.unwrap();
    fails(finish(&client, &name, session, &wrong, &bytes).await, &[ErrorKind::DigestInvalid]);
    assert_eq!(client.stat_blob(&name, &wrong).await.unwrap(), None);
    assert_eq!(client.stat_blob(&name, &Digest::sha256(&bytes)).await.unwrap(), None);
}

pub async fn a_chunk_out_of_order_is_refused(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(100, 10));
    let session = client.start_upload(&name).await.unwrap();
    let session = client.upload_chunk(&name, &session, bytes.clone()).await.unwrap();
    let mut ahead = session.clone();
    ahead.offset = 500;
    let late = client.upload_chunk(&name, &ahead, bytes.clone()).await;
    fails(late, &[ErrorKind::RangeInvalid, ErrorKind::UploadInvalid]);
    assert_eq!(client.upload_status(&name, &session).await.unwrap().offset, 100);
}

pub async fn a_cancelled_upload_is_gone(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let session = client.start_upload(&name).await.unwrap();
    client.cancel_upload(&name, session.clone()).await.unwrap();
    fails(client.upload_status(&name, &session).await, GONE);
}

pub async fn a_finished_upload_is_gone(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(100, 11));
    let session = client.start_upload(&name).await.unwrap();
    finish(&client, &name, session.clone(), &Digest::sha256(&bytes), &bytes).await.unwrap();
    fails(client.upload_status(&name, &session).await, GONE);
}

pub async fn a_stream_that_fails_stores_nothing(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(100_000, 12));
    let digest = Digest::sha256(&bytes);
    let session = client.start_upload(&name).await.unwrap();
    let items = [Ok(bytes.slice(..50_000)), Err(Error::new(ErrorKind::Io, "the source failed"))];
    let broken = futures::stream::iter(items).boxed();
    let finished = client.finish_upload(&name, session.clone(), &digest, Some((100_000, broken))).await;
    assert!(finished.is_err());
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), None);
    // A stream that ends too early is no better.
    let session = client.start_upload(&name).await.unwrap();
    let short = futures::stream::iter([Ok(bytes.slice(..50_000))]).boxed();
    assert!(client.finish_upload(&name, session, &digest, Some((100_000, short))).await.is_err());
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), None);
}

pub async fn the_same_blob_twice_is_one(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(1000, 13));
    let digest = push(&client, &name, &bytes).await;
    assert_eq!(push(&client, &name, &bytes).await, digest);
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn a_mount_brings_the_blob(client: SharedClient) {
    needs!(client, push, mount);
    let (from, to, bytes) = (repository("from"), repository("to"), noise(1000, 14));
    let digest = push(&client, &from, &bytes).await;
    assert_eq!(client.mount_blob(&to, &digest, &from).await.unwrap(), Mount::Mounted);
    assert_eq!(read(&client, &to, &digest, None).await.unwrap(), bytes);
}

pub async fn a_mount_of_nothing_is_a_session(client: SharedClient) {
    needs!(client, push, mount);
    let (from, to, bytes) = (repository("from"), repository("to"), noise(1000, 15));
    let digest = Digest::sha256(&bytes);
    let Mount::Upload(session) = client.mount_blob(&to, &digest, &from).await.unwrap() else {
        panic!("nothing can be mounted from an empty repository");
    };
    finish(&client, &to, session, &digest, &bytes).await.unwrap();
    assert_eq!(read(&client, &to, &digest, None).await.unwrap(), bytes);
}

pub async fn an_offer_is_a_mount_or_a_session(client: SharedClient) {
    needs!(client, push);
    let (from, to, bytes) = (repository("from"), repository("to"), noise(1000, 16));
    let digest = push(&client, &from, &bytes).await;
    let unknown = noise(1000, 17);
    for (digest, bytes) in [(digest, bytes), (Digest::sha256(&unknown), unknown)] {
        if let Mount::Upload(session) = client.offer_blob(&to, &digest).await.unwrap() {
            finish(&client, &to, session, &digest, &bytes).await.unwrap();
        }
        assert_eq!(read(&client, &to, &digest, None).await.unwrap(), bytes);
    }
}

pub async fn a_found_session_of_nothing_goes_on(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(1000, 18));
    let digest = Digest::sha256(&bytes);
    let session = client.start_upload(&name).await.unwrap();
    let found = client.upload_status(&name, &session).await.unwrap();
    assert_eq!(found.offset, 0);
    finish(&client, &name, found, &digest, &bytes).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn a_deleted_blob_is_gone(client: SharedClient) {
    needs!(client, push, delete);
    let (name, bytes) = (repository("a"), Bytes::from_static(b"short-lived"));
    let digest = push(&client, &name, &bytes).await;
    client.delete_blob(&name, &digest).await.unwrap();
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), None);
}
