//! Cases about blobs.

use super::kit::*;
use crate::client::{RegistryClientExt as _, SharedClient};
use crate::digest::Algorithm;
use crate::store::ByteRange;
use crate::{Digest, ErrorKind};
use bytes::Bytes;

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

pub async fn the_same_blob_twice_is_one(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(1000, 13));
    let digest = push(&client, &name, &bytes).await;
    assert_eq!(push(&client, &name, &bytes).await, digest);
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn a_deleted_blob_is_gone(client: SharedClient) {
    needs!(client, push, delete);
    let (name, bytes) = (repository("a"), Bytes::from_static(b"short-lived"));
    let digest = push(&client, &name, &bytes).await;
    client.delete_blob(&name, &digest).await.unwrap();
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), None);
}

pub async fn a_blob_is_read_up_to_a_limit(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(1000, 19));
    let descriptor = client.put_bytes(&name, "text/plain", bytes.clone()).await.unwrap();
    assert_eq!((descriptor.size, descriptor.media_type.as_str()), (1000, "text/plain"));
    assert!(client.has_blob(&name, &descriptor.digest).await.unwrap());
    assert_eq!(client.read_blob(&name, &descriptor.digest, 1000).await.unwrap(), bytes);
    fails(client.read_blob(&name, &descriptor.digest, 999).await, &[ErrorKind::TooLarge]);
    // An existing blob is not sent again.
    assert_eq!(client.put_bytes(&name, "text/plain", bytes).await.unwrap(), descriptor);
}

pub async fn a_dropped_stream_ends_nothing_else(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(3 << 20, 20));
    let digest = push(&client, &name, &bytes).await;
    for _ in 0..3 {
        let mut reader = client.get_blob(&name, &digest, None).await.unwrap();
        let first = futures::StreamExt::next(&mut reader.stream).await.unwrap().unwrap();
        assert!(bytes.starts_with(&first));
        drop(reader);
        assert!(read(&client, &name, &digest, None).await.unwrap() == bytes);
    }
}
