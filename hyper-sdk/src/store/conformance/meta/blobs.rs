//! Blobs and their links.

use super::MetaOpener;
use super::kit::*;
use crate::ErrorKind;
use crate::reference::RepositoryName;
use crate::store::blob::BlobKey;
use crate::store::meta::MetaBackend;

pub async fn a_linked_blob_is_found_in_its_repository(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    assert!(meta.blob(&a, &digest("x")).await.unwrap().is_none());
    meta.write(link(&a, "x", 0)).await.unwrap();
    let record = meta.blob(&a, &digest("x")).await.unwrap().unwrap();
    assert_eq!((record.digest, record.size, record.condemned), (digest("x"), 5, None));
    assert!(meta.blob(&b, &digest("x")).await.unwrap().is_none(), "a blob of another repository is visible");
    assert!(meta.blob(&a, &digest("y")).await.unwrap().is_none());
}

pub async fn a_link_returns_the_size(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    assert_eq!(meta.write(link(&a, "x", 0)).await.unwrap(), 5);
    assert_eq!(meta.write(mount(&b, "x", &a)).await.unwrap(), 5);
    assert_eq!(meta.write(unlink(&a, "x")).await.unwrap(), 0);
}

pub async fn linking_again_replaces_size_and_key(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 0)).await.unwrap();
    for (key, size) in [("one", 6), ("two", 6)] {
        let mut again = link_own(&b, "x", key);
        if let crate::store::meta::Change::LinkBlob { size: stored, .. } = &mut again {
            *stored = size;
        }
        meta.write(again).await.unwrap();
        for name in [&a, &b] {
            let record = meta.blob(name, &digest("x")).await.unwrap().unwrap();
            assert_eq!((record.size, record.key), (size, BlobKey::Own(key.to_owned())));
        }
    }
}

pub async fn keys_are_recorded(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link(&a, "x", 0)).await.unwrap();
    meta.write(link_own(&a, "y", "uploads/1")).await.unwrap();
    let asked = ["x", "absent", "y"].map(digest);
    let records = meta.blobs(&asked).await.unwrap();
    let keys: Vec<_> = records.into_iter().map(|record| record.map(|r| r.key)).collect();
    assert_eq!(keys, [Some(digest("x").into()), None, Some(BlobKey::Own("uploads/1".to_owned()))]);
}

pub async fn a_mount_needs_the_link_of_its_source(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b, c] = ["a", "b", "c"].map(repository);
    meta.write(link(&a, "x", 0)).await.unwrap();
    for (text, from) in [("x", &c), ("y", &a), ("x", &b)] {
        fails(meta.write(mount(&b, text, from)).await, &[ErrorKind::BlobUnknown]);
    }
    assert!(meta.tags(&b, None, 1).await.unwrap().is_none(), "a rejected mount creates no repository");
    meta.write(mount(&b, "x", &a)).await.unwrap();
    assert!(meta.blob(&b, &digest("x")).await.unwrap().is_some());
}

pub async fn an_unlinked_blob_keeps_its_row(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 0)).await.unwrap();
    meta.write(mount(&b, "x", &a)).await.unwrap();
    meta.write(unlink(&a, "x")).await.unwrap();
    assert!(meta.blob(&a, &digest("x")).await.unwrap().is_none());
    assert!(meta.blob(&b, &digest("x")).await.unwrap().is_some());
    fails(meta.write(unlink(&a, "x")).await, &[ErrorKind::BlobUnknown]);
    meta.write(unlink(&b, "x")).await.unwrap();
    assert!(meta.blobs(&[digest("x")]).await.unwrap()[0].is_some(), "its row still exists");
}

async fn with(meta: &dyn MetaBackend, text: &str, limit: usize) -> Vec<String> {
    let mut names: Vec<RepositoryName> = Vec::new();
    loop {
        let after = names.last().map(|name| name.as_str().to_owned());
        let page = meta.repositories_with(&digest(text), after.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit);
        let more = page.more && !page.items.is_empty();
        names.extend(page.items);
        if !more {
            break;
        }
    }
    let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

pub async fn repositories_with_a_blob_are_listed(opener: MetaOpener) {
    let meta = opener.open().await;
    for name in ["b", "a", "c/d"] {
        meta.write(link(&repository(name), "x", 0)).await.unwrap();
    }
    meta.write(link(&repository("e"), "y", 0)).await.unwrap();
    assert_eq!(with(&**meta, "x", 100).await, ["a", "b", "c/d"]);
    assert_eq!(with(&**meta, "y", 100).await, ["e"]);
    assert_eq!(with(&**meta, "absent", 100).await, [""; 0]);
}

pub async fn repositories_with_a_blob_are_paged(opener: MetaOpener) {
    let meta = opener.open().await;
    let expected: Vec<String> = (0..7).map(|n| format!("r{n}")).collect();
    for name in expected.iter().rev() {
        meta.write(link(&repository(name), "x", 0)).await.unwrap();
    }
    for limit in [1, 2, 7, 8] {
        assert_eq!(with(&**meta, "x", limit).await, expected, "in pages of {limit}");
    }
}

pub async fn the_list_of_repositories_follows_the_links(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 0)).await.unwrap();
    meta.write(mount(&b, "x", &a)).await.unwrap();
    assert_eq!(with(&**meta, "x", 10).await, ["a", "b"]);
    meta.write(unlink(&a, "x")).await.unwrap();
    assert_eq!(with(&**meta, "x", 10).await, ["b"]);
    meta.write(collect(&b, "x", LATER)).await.unwrap();
    assert_eq!(with(&**meta, "x", 10).await, [""; 0]);
}
