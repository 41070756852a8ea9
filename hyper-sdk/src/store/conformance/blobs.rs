//! Blobs: content, ranges, mounts, isolation, deletion.

use super::kit::*;
use crate::digest::Algorithm;
use crate::store::{ByteRange, RegistryStoreExt as _, SharedStore};
use crate::{Digest, ErrorKind};
use bytes::Bytes;

pub async fn a_blob_can_be_read(store: SharedStore) {
    needs!(store, write);
    let name = repository("a/b");
    let blob = push(&store, &name, "hello").await;
    assert_eq!((blob.size, &blob.digest), (5, &Digest::sha256("hello")));
    assert_eq!(store.stat_blob(&name, &blob.digest).await.unwrap(), 5);
    assert_eq!(read(&store, &name, &blob.digest, None).await.unwrap(), b"hello");
    assert!(store.has_blob(&name, &blob.digest).await.unwrap());
}

pub async fn an_empty_blob_can_be_read(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let digest = Digest::sha256("");
    let upload = store.start_upload(&name, Default::default()).await.unwrap();
    assert_eq!(upload.finish(&digest).await.unwrap().size, 0);
    assert_eq!(store.stat_blob(&name, &digest).await.unwrap(), 0);
    assert_eq!(read(&store, &name, &digest, None).await.unwrap(), b"");
    fails(store.get_blob(&name, &digest, Some(ByteRange::Suffix(1))).await, &[ErrorKind::RangeInvalid]);
}

pub async fn a_large_blob_can_be_read(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = noise((3 << 20) + 17, 1);
    let blob = push(&store, &name, bytes.clone()).await;
    assert!(read(&store, &name, &blob.digest, None).await.unwrap() == bytes);
    assert!(store.read_blob(&name, &blob.digest, 4 << 20).await.unwrap() == bytes);
    fails(store.read_blob(&name, &blob.digest, 1 << 20).await, &[ErrorKind::TooLarge]);
}

pub async fn a_sha512_blob_is_found_under_sha512(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let digest = Algorithm::Sha512.digest(b"hello");
    let blob = store.put_blob(&name, &digest, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!((blob.digest, blob.size), (digest.clone(), 5));
    assert_eq!(read(&store, &name, &digest, None).await.unwrap(), b"hello");
}

pub async fn an_unknown_blob_is_blob_unknown(store: SharedStore) {
    let (name, digest) = (repository("no/such"), Digest::sha256("nothing"));
    fails(store.stat_blob(&name, &digest).await, &[ErrorKind::BlobUnknown]);
    fails(store.get_blob(&name, &digest, None).await, &[ErrorKind::BlobUnknown]);
    assert!(!store.has_blob(&name, &digest).await.unwrap());
}

pub async fn a_blob_pushed_twice_is_stored_once(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let first = push(&store, &name, "hello").await;
    let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
    upload.append(Bytes::from_static(b"hello")).await.unwrap();
    let second = upload.finish(&first.digest).await.unwrap();
    assert_eq!((second.digest, second.size), (first.digest.clone(), 5));
    assert_eq!(read(&store, &name, &first.digest, None).await.unwrap(), b"hello");
}

pub async fn ranges_are_clipped_and_inclusive(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let digest = push(&store, &name, "0123456789").await.digest;
    for (range, expected) in [
        (ByteRange::FromTo(0, Some(0)), "0"),
        (ByteRange::FromTo(2, Some(4)), "234"),
        (ByteRange::FromTo(7, None), "789"),
        (ByteRange::FromTo(8, Some(100)), "89"),
        (ByteRange::FromTo(0, None), "0123456789"),
        (ByteRange::Suffix(3), "789"),
        (ByteRange::Suffix(30), "0123456789"),
    ] {
        let got = read(&store, &name, &digest, Some(range)).await.unwrap();
        assert_eq!(got, expected.as_bytes(), "{range:?}");
    }
    let blob = store.get_blob(&name, &digest, Some(ByteRange::FromTo(2, Some(4)))).await.unwrap();
    assert_eq!((blob.size, blob.offset, blob.length), (10, 2, 3));
}

pub async fn a_range_outside_of_the_blob_is_range_invalid(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let digest = push(&store, &name, "0123456789").await.digest;
    for range in [ByteRange::FromTo(10, None), ByteRange::FromTo(11, Some(20))] {
        fails(store.get_blob(&name, &digest, Some(range)).await, &[ErrorKind::RangeInvalid]);
    }
}

pub async fn a_range_of_a_large_blob_can_be_read(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = noise(2 << 20, 2);
    let digest = push(&store, &name, bytes.clone()).await.digest;
    for (first, last) in [(1usize, 1_600_001usize), (524_287, 524_289), (1_048_576, 2_097_151)] {
        let range = ByteRange::FromTo(first as u64, Some(last as u64));
        let got = read(&store, &name, &digest, Some(range)).await.unwrap();
        assert!(got == bytes[first..=last], "{first}-{last}");
    }
}

pub async fn put_blob_checks_the_digest(store: SharedStore) {
    needs!(store, write);
    let (name, digest) = (repository("a"), Digest::sha256("hello"));
    fails(store.put_blob(&name, &digest, Bytes::from_static(b"hallo")).await, &[ErrorKind::DigestInvalid]);
    fails(store.stat_blob(&name, &digest).await, &[ErrorKind::BlobUnknown]);
}

pub async fn a_file_becomes_a_blob(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    for length in [0, 10, 1 << 20] {
        let bytes = noise(length, 3);
        let unique = crate::store::UploadId::random().unwrap();
        let path = std::env::temp_dir().join(format!("hyper-store-conformance-{unique}"));
        std::fs::write(&path, &bytes).unwrap();
        let digest = Digest::sha256(&bytes);
        let blob = store.put_blob_file(&name, &digest, &path).await.unwrap();
        assert_eq!((blob.digest, blob.size), (digest.clone(), length as u64));
        assert!(!path.exists(), "the file is taken over");
        assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
    }
}

pub async fn a_blob_path_names_a_file_with_the_bytes(store: SharedStore) {
    let name = repository("a");
    fails(store.blob_path(&name, &Digest::sha256("x")).await, &[ErrorKind::BlobUnknown]);
    needs!(store, write);
    let digest = push(&store, &name, "hello").await.digest;
    if let Some(path) = store.blob_path(&name, &digest).await.unwrap() {
        assert_eq!(std::fs::read(path).unwrap(), b"hello");
    }
    fails(store.blob_path(&repository("b"), &digest).await, &[ErrorKind::BlobUnknown]);
}

pub async fn a_deleted_blob_is_blob_unknown(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let digest = push(&store, &name, "hello").await.digest;
    store.delete_blob(&name, &digest).await.unwrap();
    fails(store.stat_blob(&name, &digest).await, &[ErrorKind::BlobUnknown]);
    fails(store.get_blob(&name, &digest, None).await, &[ErrorKind::BlobUnknown]);
    fails(store.delete_blob(&name, &digest).await, &[ErrorKind::BlobUnknown]);
}

pub async fn deleting_an_unknown_blob_is_blob_unknown(store: SharedStore) {
    needs!(store, delete);
    fails(store.delete_blob(&repository("a"), &Digest::sha256("x")).await, &[ErrorKind::BlobUnknown]);
}

pub async fn a_deleted_blob_can_be_pushed_again(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let digest = push(&store, &name, "hello").await.digest;
    store.delete_blob(&name, &digest).await.unwrap();
    push(&store, &name, "hello").await;
    assert_eq!(read(&store, &name, &digest, None).await.unwrap(), b"hello");
}

pub async fn a_mounted_blob_can_be_read(store: SharedStore) {
    needs!(store, write);
    let (from, to) = (repository("from"), repository("to"));
    let digest = push(&store, &from, "hello").await.digest;
    assert_eq!(store.mount_blob(&to, &digest, &from).await.unwrap(), 5);
    assert_eq!(read(&store, &to, &digest, None).await.unwrap(), b"hello");
    assert_eq!(store.mount_blob(&to, &digest, &from).await.unwrap(), 5);
}

pub async fn a_mount_without_the_blob_is_blob_unknown(store: SharedStore) {
    needs!(store, write);
    let digest = push(&store, &repository("has"), "hello").await.digest;
    let to = repository("to");
    for from in ["has-not", "to"] {
        fails(store.mount_blob(&to, &digest, &repository(from)).await, &[ErrorKind::BlobUnknown]);
    }
    fails(store.stat_blob(&to, &digest).await, &[ErrorKind::BlobUnknown]);
}

pub async fn repositories_do_not_leak_blobs(store: SharedStore) {
    needs!(store, write);
    let digest = push(&store, &repository("mine"), "secret").await.digest;
    push(&store, &repository("yours"), "other").await;
    for other in ["yours", "mine/sub", "min"] {
        fails(store.stat_blob(&repository(other), &digest).await, &[ErrorKind::BlobUnknown]);
        fails(store.get_blob(&repository(other), &digest, None).await, &[ErrorKind::BlobUnknown]);
    }
}

pub async fn deleting_a_blob_keeps_it_in_other_repositories(store: SharedStore) {
    needs!(store, write, delete);
    let (a, b) = (repository("a"), repository("b"));
    let digest = push(&store, &a, "hello").await.digest;
    store.mount_blob(&b, &digest, &a).await.unwrap();
    store.delete_blob(&a, &digest).await.unwrap();
    fails(store.stat_blob(&a, &digest).await, &[ErrorKind::BlobUnknown]);
    assert_eq!(read(&store, &b, &digest, None).await.unwrap(), b"hello");
}

pub async fn streamed_blobs_are_verified(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = noise((1 << 20) + 3, 4);
    let blob = store.put_blob_stream(&name, None, &bytes[..]).await.unwrap();
    assert_eq!((&blob.digest, blob.size), (&Digest::sha256(&bytes), bytes.len() as u64));
    assert!(read(&store, &name, &blob.digest, None).await.unwrap() == bytes);
    let wrong = Digest::sha256("wrong");
    fails(store.put_blob_stream(&name, Some(&wrong), &bytes[..]).await, &[ErrorKind::DigestInvalid]);
}
