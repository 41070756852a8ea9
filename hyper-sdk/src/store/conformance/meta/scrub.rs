//! Cases of what a scrub asks and writes.

use super::MetaOpener;
use super::kit::*;
use crate::ErrorKind;
use crate::store::blob::BlobKey;
use crate::store::meta::{Change, ManifestAt, ScrubPlace};

fn quarantine(text: &str, key: &str) -> Change {
    Change::QuarantineBlob { digest: digest(text), key: BlobKey::Own(key.to_owned()) }
}

fn hold(holder: u64, seconds: i64, place: Option<ScrubPlace>) -> Change {
    Change::HoldScrub { holder, seconds, place }
}

pub async fn linked_blobs_are_listed_in_byte_order(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let mut digests = Vec::new();
    for text in ["one", "two", "three", "four", "five"] {
        meta.write(link(&a, text, 0)).await.unwrap();
        digests.push(digest(text));
    }
    meta.write(link(&a, "unlinked", 0)).await.unwrap();
    meta.write(unlink(&a, "unlinked")).await.unwrap();
    digests.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = meta.linked_blobs(after.as_ref(), 2).await.unwrap();
        assert!(page.len() <= 2);
        assert!(page.iter().all(|record| record.size == 5 && !record.quarantined));
        let Some(last) = page.last() else { break };
        after = Some(last.digest.clone());
        found.extend(page.into_iter().map(|record| record.digest));
        assert!(found.len() <= 5, "a page repeats blobs");
    }
    assert_eq!(found, digests);
}

pub async fn a_quarantined_blob_is_nowhere_until_it_has_another_key(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link_own(&a, "hello", "k1")).await.unwrap();
    assert_eq!(meta.write(quarantine("hello", "k0")).await.unwrap(), 0, "the row has another key");
    assert_eq!(meta.write(quarantine("other", "k1")).await.unwrap(), 0, "there is no such blob");
    assert!(meta.blob(&a, &digest("hello")).await.unwrap().is_some());
    assert_eq!(meta.write(quarantine("hello", "k1")).await.unwrap(), 1);
    assert_eq!(meta.write(quarantine("hello", "k1")).await.unwrap(), 0, "it is marked once");
    assert_eq!(meta.blob(&a, &digest("hello")).await.unwrap(), None);
    assert_eq!(meta.leased_blob(&a, &digest("hello")).await.unwrap(), None);
    fails(meta.write(mount(&b, "hello", &a)).await, &[ErrorKind::BlobUnknown]);
    let lease = Change::LeaseBlob { repository: a.clone(), digest: digest("hello"), until: LATER };
    fails(meta.write(lease).await, &[ErrorKind::BlobUnknown]);
    let needing = index("needs it");
    let needs = || Change::PutManifest(Box::new(change(&a, &needing, vec![edge("hello")], &["v1"])));
    fails(meta.write(needs()).await, &[ErrorKind::ManifestBlobUnknown]);
    // Its row stays, and its key is named.
    let row = meta.linked_blobs(None, 10).await.unwrap();
    assert!(row.len() == 1 && row[0].quarantined && row[0].key == BlobKey::Own("k1".to_owned()), "{row:?}");
    assert_eq!(meta.has_keys(&[BlobKey::Own("k1".to_owned())]).await.unwrap(), [true]);
    fails(meta.write(link_own(&a, "hello", "k1")).await, &[ErrorKind::BlobUnknown]);
    meta.write(link_own(&b, "hello", "k2")).await.unwrap();
    for name in [&a, &b] {
        let record = meta.blob(name, &digest("hello")).await.unwrap().unwrap();
        assert!(record.key == BlobKey::Own("k2".to_owned()) && !record.quarantined, "{record:?}");
    }
    meta.write(needs()).await.unwrap();
    assert_eq!(meta.write(quarantine("hello", "k1")).await.unwrap(), 0, "the mark is of the former bytes");
    let at = ManifestAt { repository: a.clone(), digest: needing.digest().clone() };
    assert_eq!(meta.manifests_with(&digest("hello"), 10).await.unwrap(), [at]);
    assert!(meta.manifests_with(&digest("hello"), 0).await.unwrap().is_empty());
}

pub async fn a_blob_that_is_removed_is_not_quarantined(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link_own(&a, "hello", "k1")).await.unwrap();
    meta.write(unlink(&a, "hello")).await.unwrap();
    meta.write(condemn("hello", 1)).await.unwrap();
    assert_eq!(meta.write(quarantine("hello", "k1")).await.unwrap(), 0);
    assert_eq!(meta.write(remove("hello", 1)).await.unwrap(), 1);
}

pub async fn one_holder_scrubs_at_a_time(opener: MetaOpener) {
    let meta = opener.open().await;
    assert_eq!(meta.scrub_place().await.unwrap(), ScrubPlace::default());
    let place = |text: &str| Some(ScrubPlace { after: Some(digest(text)), ended_at: None });
    assert_eq!(meta.write(hold(1, 60, place("x"))).await.unwrap(), 1);
    assert_eq!(meta.write(hold(u64::MAX, 60, place("y"))).await.unwrap(), 0, "another one has it");
    assert_eq!(Some(meta.scrub_place().await.unwrap()), place("x"), "only the holder moves the place");
    assert_eq!(meta.write(hold(1, 60, None)).await.unwrap(), 1);
    assert_eq!(Some(meta.scrub_place().await.unwrap()), place("x"));
    assert_eq!(meta.write(hold(1, 0, place("z"))).await.unwrap(), 1);
    assert_eq!(Some(meta.scrub_place().await.unwrap()), place("z"));
    let ended = ScrubPlace { after: None, ended_at: Some(7) };
    assert_eq!(meta.write(hold(u64::MAX, 60, Some(ended.clone()))).await.unwrap(), 1);
    assert_eq!(meta.scrub_place().await.unwrap(), ended);
    assert_eq!(meta.write(hold(1, 60, None)).await.unwrap(), 0);
}

pub async fn held_bytes_are_not_condemned(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let hold = |holder, seconds, renews| Change::HoldBytes { holder, seconds, renews };
    for text in ["before", "x"] {
        meta.write(link(&a, text, 0)).await.unwrap();
        meta.write(unlink(&a, text)).await.unwrap();
    }
    let unnamed = |mark| Change::CondemnBytes { digest: digest("unnamed"), size: 5, mark };
    assert_eq!(meta.write(condemn("before", 1)).await.unwrap(), 1);
    assert!(!meta.bytes_held().await.unwrap());
    assert_eq!(meta.write(hold(1, 600, true)).await.unwrap(), 0, "there is no hold to renew");
    assert_eq!(meta.write(hold(1, 600, false)).await.unwrap(), 1);
    assert_eq!(meta.write(hold(u64::MAX, 600, false)).await.unwrap(), 1, "many may hold");
    assert!(meta.bytes_held().await.unwrap());
    assert_eq!(meta.write(condemn("x", 2)).await.unwrap(), 0);
    assert_eq!(meta.write(unnamed(2)).await.unwrap(), 0);
    assert_eq!(meta.write(condemn("before", 2)).await.unwrap(), 1, "a removal that began before can end");
    assert_eq!(meta.write(remove("before", 2)).await.unwrap(), 1);
    assert_eq!(meta.write(hold(1, 600, true)).await.unwrap(), 1);
    assert_eq!(meta.write(hold(1, 0, false)).await.unwrap(), 1);
    assert_eq!(meta.write(condemn("x", 3)).await.unwrap(), 0, "another one holds");
    assert_eq!(meta.write(hold(u64::MAX, 0, false)).await.unwrap(), 1);
    assert_eq!(meta.write(hold(1, 600, true)).await.unwrap(), 0, "it has ended");
    assert_eq!(meta.write(hold(2, -1, false)).await.unwrap(), 1, "the holder died long ago");
    assert!(!meta.bytes_held().await.unwrap());
    assert_eq!(meta.write(condemn("x", 4)).await.unwrap(), 1);
    assert_eq!(meta.write(unnamed(4)).await.unwrap(), 1);
}
