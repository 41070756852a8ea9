//! Cases about bytes: put, adopt, read, delete, list.

use super::super::kit::{fails, noise};
use super::BlobOpener;
use crate::digest::Algorithm;
use crate::store::blob::{BlobBackend, BlobKey};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;
use futures::TryStreamExt as _;
use std::collections::BTreeSet;

/// Puts bytes and returns their key.
pub(super) async fn put(blobs: &dyn BlobBackend, bytes: impl Into<Bytes>) -> BlobKey {
    let bytes = bytes.into();
    let digest = Digest::sha256(&bytes);
    blobs.put(&digest, bytes).await.unwrap();
    digest.into()
}

pub(super) async fn size(blobs: &dyn BlobBackend, key: &BlobKey) -> Option<u64> {
    blobs.sizes(std::slice::from_ref(key)).await.unwrap()[0]
}

/// Reads a part of a blob to its end.
pub(super) async fn read(
    blobs: &dyn BlobBackend,
    key: &BlobKey,
    size: u64,
    offset: u64,
    length: u64,
) -> Result<Vec<u8>> {
    let stream = blobs.read(key, size, offset, length).await?;
    Ok(stream.try_collect::<Vec<Bytes>>().await?.concat())
}

pub(super) async fn read_all(blobs: &dyn BlobBackend, key: &BlobKey, size: usize) -> Vec<u8> {
    read(blobs, key, size as u64, 0, size as u64).await.unwrap()
}

pub async fn put_bytes_can_be_read(opener: BlobOpener) {
    let blobs = opener.open().await;
    for (seed, length) in [1, 4096, 524_287, 524_288, 524_289, 3 << 20].into_iter().enumerate() {
        let bytes = noise(length, seed as u64);
        let key = put(&**blobs, bytes.clone()).await;
        assert_eq!(size(&**blobs, &key).await, Some(length as u64));
        assert!(read_all(&**blobs, &key, length).await == bytes, "{length} bytes");
    }
}

pub async fn an_empty_blob_is_stored(opener: BlobOpener) {
    let blobs = opener.open().await;
    let key = put(&**blobs, "").await;
    assert_eq!(size(&**blobs, &key).await, Some(0));
    assert_eq!(read_all(&**blobs, &key, 0).await, b"");
}

pub async fn a_sha512_digest_is_a_different_key(opener: BlobOpener) {
    let blobs = opener.open().await;
    let digest = Algorithm::Sha512.digest(b"hello");
    blobs.put(&digest, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(read_all(&**blobs, &digest.into(), 5).await, b"hello");
    assert_eq!(size(&**blobs, &Digest::sha256("hello").into()).await, None);
}

pub async fn a_blob_can_be_put_twice(opener: BlobOpener) {
    let blobs = opener.open().await;
    let first = put(&**blobs, "hello").await;
    assert_eq!(put(&**blobs, "hello").await, first);
    assert_eq!(read_all(&**blobs, &first, 5).await, b"hello");
    assert_eq!(blobs.list(None, 10).await.unwrap().items.len(), 1);
}

pub async fn sizes_are_in_the_order_of_the_keys(opener: BlobOpener) {
    let blobs = opener.open().await;
    let mut keys = Vec::new();
    let mut expected = Vec::new();
    for n in 0..9u64 {
        if n % 3 == 1 {
            keys.push(Digest::sha256(format!("absent {n}")).into());
            expected.push(None);
        } else {
            keys.push(put(&**blobs, noise(n as usize + 1, n)).await);
            expected.push(Some(n + 1));
        }
    }
    assert_eq!(blobs.sizes(&keys).await.unwrap(), expected);
    keys.reverse();
    expected.reverse();
    assert_eq!(blobs.sizes(&keys).await.unwrap(), expected);
    assert!(blobs.sizes(&[]).await.unwrap().is_empty());
}

pub async fn a_read_returns_the_requested_bytes(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise((2 << 20) + 5, 7);
    let key = put(&**blobs, bytes.clone()).await;
    let size = bytes.len() as u64;
    for (offset, length) in
        [(0, 0), (0, 1), (1, 1_600_000), (524_287, 3), (1 << 20, 1 << 20), (size - 1, 1), (size, 0)]
    {
        let got = read(&**blobs, &key, size, offset, length).await.unwrap();
        assert!(got == bytes[offset as usize..(offset + length) as usize], "{length} bytes from {offset}");
    }
}

pub async fn concurrent_readers_get_all_bytes(opener: BlobOpener) {
    let blobs = opener.open().await;
    let bytes = noise(1_300_000, 8);
    let key = put(&**blobs, bytes.clone()).await;
    let readers = (0..8).map(|_| read_all(&**blobs, &key, bytes.len()));
    assert!(futures::future::join_all(readers).await.into_iter().all(|got| got == bytes));
}

pub async fn a_read_of_missing_bytes_is_corrupt(opener: BlobOpener) {
    let blobs = opener.open().await;
    let absent = Digest::sha256("absent").into();
    assert_eq!(size(&**blobs, &absent).await, None);
    fails(read(&**blobs, &absent, 6, 0, 6).await, &[ErrorKind::Corrupt]);
}

pub async fn a_read_with_a_wrong_size_is_corrupt(opener: BlobOpener) {
    let blobs = opener.open().await;
    let key = put(&**blobs, "0123456789").await;
    for size in [9, 11] {
        fails(read(&**blobs, &key, size, 0, size).await, &[ErrorKind::Corrupt]);
    }
}

pub async fn an_adopted_file_becomes_a_blob(opener: BlobOpener) {
    let blobs = opener.open().await;
    for (seed, length) in [0, 10, 1 << 20].into_iter().enumerate() {
        let bytes = noise(length, 20 + seed as u64);
        let path = opener.elsewhere().join(format!("file-{length}"));
        std::fs::write(&path, &bytes).unwrap();
        let digest = Digest::sha256(&bytes);
        assert_eq!(blobs.adopt(&digest, &path).await.unwrap(), length as u64);
        assert!(!path.exists(), "the file is still there");
        assert!(read_all(&**blobs, &digest.into(), length).await == bytes);
    }
}

pub async fn an_existing_blob_can_be_adopted_again(opener: BlobOpener) {
    let blobs = opener.open().await;
    let key = put(&**blobs, "hello").await;
    let path = opener.elsewhere().join("file");
    std::fs::write(&path, "hello").unwrap();
    assert_eq!(blobs.adopt(&Digest::sha256("hello"), &path).await.unwrap(), 5);
    assert!(!path.exists(), "the file is still there");
    assert_eq!(read_all(&**blobs, &key, 5).await, b"hello");
}

pub async fn a_path_names_a_file_with_the_bytes(opener: BlobOpener) {
    let blobs = opener.open().await;
    for length in [0, 5, 700_000] {
        let bytes = noise(length, 30 + length as u64);
        let key = put(&**blobs, bytes.clone()).await;
        if let Some(path) = blobs.path(&key) {
            assert!(std::fs::read(path).unwrap() == bytes, "the file has other bytes");
        }
    }
}

pub async fn intact_bytes_are_not_removed_as_damaged(opener: BlobOpener) {
    let blobs = opener.open().await;
    for text in ["", "hello"] {
        let key = put(&**blobs, text).await;
        assert!(!blobs.remove_damaged(&key, &Digest::sha256(text)).await.unwrap());
        assert_eq!(size(&**blobs, &key).await, Some(text.len() as u64));
    }
    let absent = Digest::sha256("absent");
    assert!(!blobs.remove_damaged(&absent.clone().into(), &absent).await.unwrap());
}

/// Only bytes in a file can be damaged by a test.
pub async fn damaged_bytes_are_removed_and_put_again(opener: BlobOpener) {
    let blobs = opener.open().await;
    let digest = Digest::sha256("hello");
    let key = put(&**blobs, "hello").await;
    let Some(path) = blobs.path(&key) else { return };
    std::fs::write(&path, "jello").unwrap();
    put(&**blobs, "hello").await;
    assert_eq!(read_all(&**blobs, &key, 5).await, b"hello", "putting them again repairs them");
    std::fs::write(&path, "jello").unwrap();
    assert!(blobs.remove_damaged(&key, &digest).await.unwrap());
    assert_eq!(size(&**blobs, &key).await, None);
    put(&**blobs, "hello").await;
    assert_eq!(read_all(&**blobs, &key, 5).await, b"hello");
}

/// Only bytes in a file can be damaged by a test.
pub async fn damaged_bytes_are_set_aside(opener: BlobOpener) {
    let blobs = opener.open().await;
    let digest = Digest::sha256("hello");
    let key = put(&**blobs, "hello").await;
    assert!(!blobs.set_aside(&key, &digest).await.unwrap(), "whole bytes are not damaged");
    assert_eq!(size(&**blobs, &key).await, Some(5));
    let absent = Digest::sha256("absent");
    assert!(
        !blobs.set_aside(&absent.clone().into(), &absent).await.unwrap(),
        "missing bytes are not damaged"
    );
    let Some(path) = blobs.path(&key) else { return };
    for text in ["jello", "hell", ""] {
        std::fs::write(&path, text).unwrap();
        assert!(blobs.set_aside(&key, &digest).await.unwrap());
        assert_eq!(size(&**blobs, &key).await, None);
        assert!(!blobs.set_aside(&key, &digest).await.unwrap());
        put(&**blobs, "hello").await;
        assert_eq!(read_all(&**blobs, &key, 5).await, b"hello");
    }
}

pub async fn deleted_bytes_cannot_be_read(opener: BlobOpener) {
    let blobs = opener.open().await;
    let key = put(&**blobs, "hello").await;
    assert!(blobs.delete(&key).await.unwrap());
    assert_eq!(size(&**blobs, &key).await, None);
    fails(read(&**blobs, &key, 5, 0, 5).await, &[ErrorKind::Corrupt]);
    assert!(blobs.list(None, 10).await.unwrap().items.is_empty());
    put(&**blobs, "hello").await;
    assert_eq!(read_all(&**blobs, &key, 5).await, b"hello", "they can be put again");
}

pub async fn deleting_missing_bytes_returns_false(opener: BlobOpener) {
    let blobs = opener.open().await;
    assert!(!blobs.delete(&Digest::sha256("absent").into()).await.unwrap());
    let key = put(&**blobs, "hello").await;
    assert!(blobs.delete(&key).await.unwrap());
    assert!(!blobs.delete(&key).await.unwrap());
}

pub async fn deleting_a_blob_keeps_the_others(opener: BlobOpener) {
    let blobs = opener.open().await;
    let mut keys = Vec::new();
    for n in 0..6u64 {
        keys.push(put(&**blobs, noise(1000, n)).await);
    }
    blobs.delete(&keys[2]).await.unwrap();
    for (n, key) in keys.iter().enumerate() {
        let expected = (n != 2).then_some(1000);
        assert_eq!(size(&**blobs, key).await, expected);
        if n != 2 {
            assert!(read_all(&**blobs, key, 1000).await == noise(1000, n as u64));
        }
    }
}

pub async fn the_list_has_each_key_once(opener: BlobOpener) {
    let blobs = opener.open().await;
    assert!(blobs.list(None, 10).await.unwrap().items.is_empty());
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let mut expected = BTreeSet::new();
    for n in 0..7usize {
        let key = put(&**blobs, noise(n, n as u64)).await;
        expected.insert((key, n as u64));
    }
    let digest = Algorithm::Sha512.digest(b"hello");
    blobs.put(&digest, Bytes::from_static(b"hello")).await.unwrap();
    expected.insert((digest.into(), 5));
    for limit in [1, 3, 8, 100] {
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(|(key, _): &(BlobKey, u64)| key.clone());
            let page = blobs.list(after.as_ref(), limit).await.unwrap();
            assert!(page.items.len() <= limit);
            assert!(!page.more || page.items.len() == limit, "a page that is not full is the last");
            assert!(page.items.iter().all(|stored| stored.modified.is_some_and(|at| at > before)));
            listed.extend(page.items.into_iter().map(|stored| (stored.key, stored.size)));
            assert!(listed.len() <= expected.len(), "something is listed twice");
            if !page.more {
                break;
            }
        }
        assert_eq!(listed.len(), expected.len(), "in pages of {limit}");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

pub async fn one_collector_may_delete_bytes_under_digests(opener: BlobOpener) {
    let blobs = opener.open().await;
    let right = blobs.deletion_right().await.unwrap();
    assert!(right.is_some(), "nobody has it");
    if !blobs.has_own_keys() {
        assert!(blobs.deletion_right().await.unwrap().is_none(), "two have it");
    }
    drop(right);
    assert!(blobs.deletion_right().await.unwrap().is_some(), "it ended");
}

pub async fn a_backend_displays_a_name(opener: BlobOpener) {
    assert!(!opener.open().await.to_string().is_empty());
}
