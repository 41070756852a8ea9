//! The suite that every build cache must pass, one function a case.
//!
//! [`cache_conformance!`](crate::cache_conformance) makes a named test of every case. A case takes an empty cache and
//! uses only [`CacheStore`](crate::cache::CacheStore). Cases that need a second handle on the same records, like that
//! of another process, run only if the caller names a function that opens one.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

use crate::cache::{CacheEntry, CacheRecord, Origin, SharedCache};
use crate::layer::FileTime;
use crate::oci::Descriptor;
use crate::{Digest, ErrorKind, RepositoryName, media_type};
use futures::future::join_all;
use std::time::Duration;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> (SharedCache, G)`. It returns an empty cache and a guard that must
/// outlive it, or an `Option` of them that is `None` if this machine cannot run the suite: every case then prints
/// `SKIPPED:`. The optional second argument is for a cache that several processes can open: the path of an `async
/// fn(&G) -> SharedCache` that opens the same records again. The calling crate needs `tokio` with `macros` and
/// `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod memory {
///     use hyper_sdk::cache::{MemoryCache, SharedCache};
///
///     async fn fixture() -> (SharedCache, ()) {
///         (std::sync::Arc::new(MemoryCache::default()), ())
///     }
///     hyper_sdk::cache_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! cache_conformance {
    ($fixture:path) => {
        $crate::cache_conformance!(@cases $fixture;
            an_unknown_key_has_no_record, a_record_is_returned_unchanged, a_record_without_times_is_returned_unchanged,
            a_record_of_an_annotated_layer_is_returned_unchanged, a_second_record_replaces_the_first, keys_do_not_mix,
            a_sha512_key_has_its_own_record, removing_a_record_keeps_the_others, removing_a_missing_record_is_not_an_error,
            a_removed_record_can_be_put_again, racing_writers_leave_one_complete_record,
            many_tasks_write_many_keys, records_are_listed_in_pages, a_record_that_was_found_is_used,
            only_unused_records_are_removed_as_such, a_cache_has_a_name,
        );
    };
    ($fixture:path, $reopen:path) => {
        $crate::cache_conformance!($fixture);
        $crate::cache_conformance!(@reopened $fixture, $reopen;
            a_record_exists_after_reopening, two_handles_see_the_same_records,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((cache, _guard)) = given else { return };
                $crate::cache::conformance::$case(cache).await;
            }
        )*
    };
    (@reopened $fixture:path, $reopen:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((cache, guard)) = given else { return };
                let other = $reopen(&guard).await;
                $crate::cache::conformance::$case(cache, other).await;
            }
        )*
    };
}

fn key(text: &str) -> Digest {
    Digest::sha256(text)
}

/// A record whose fields are all derived from the text.
fn record(text: &str) -> CacheRecord {
    CacheRecord {
        layer: Some(Descriptor::of(media_type::OCI_LAYER, text.as_bytes())),
        diff_id: Digest::sha256(text),
        repository: RepositoryName::parse("a/b").unwrap(),
        times: Some(Digest::sha256(format!("times of {text}"))),
        made: Some(FileTime { seconds: -(text.len() as i64), nanoseconds: 999_999_999 }),
        snapshot: Some(Digest::sha256(format!("snapshot of {text}"))),
        origin: Some(Origin { build: format!("build of {text}"), step: text.len() as u64 }),
    }
}

pub async fn an_unknown_key_has_no_record(cache: SharedCache) {
    assert_eq!(cache.get(&key("unknown")).await.unwrap(), None);
}

pub async fn a_record_is_returned_unchanged(cache: SharedCache) {
    cache.put(&key("k"), &record("one")).await.unwrap();
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(record("one")));
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(record("one")), "reading does not consume it");
}

pub async fn a_record_without_times_is_returned_unchanged(cache: SharedCache) {
    let without =
        CacheRecord { layer: None, times: None, made: None, snapshot: None, origin: None, ..record("one") };
    cache.put(&key("k"), &without).await.unwrap();
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(without));
}

pub async fn a_record_of_an_annotated_layer_is_returned_unchanged(cache: SharedCache) {
    let mut annotated = record("one");
    let annotations = (0..200).map(|i| (format!("org.example/{i}"), format!("line\n\"{i}\" é\u{0}")));
    annotated.layer.as_mut().unwrap().annotations = annotations.collect();
    cache.put(&key("k"), &annotated).await.unwrap();
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(annotated));
}

pub async fn a_second_record_replaces_the_first(cache: SharedCache) {
    for text in ["a longer first record", "two"] {
        cache.put(&key("k"), &record(text)).await.unwrap();
        assert_eq!(cache.get(&key("k")).await.unwrap(), Some(record(text)));
    }
}

pub async fn keys_do_not_mix(cache: SharedCache) {
    // Enough keys that some share their first digits, by which records are often grouped.
    let names: Vec<String> = (0..300).map(|i| i.to_string()).collect();
    for name in &names {
        cache.put(&key(name), &record(name)).await.unwrap();
    }
    for name in &names {
        assert_eq!(cache.get(&key(name)).await.unwrap(), Some(record(name)), "{name}");
    }
    assert_eq!(cache.get(&key("300")).await.unwrap(), None);
}

pub async fn a_sha512_key_has_its_own_record(cache: SharedCache) {
    let long = Digest::parse(&format!("sha512:{}{}", key("k").hex(), key("k").hex())).unwrap();
    cache.put(&key("k"), &record("short")).await.unwrap();
    assert_eq!(cache.get(&long).await.unwrap(), None);
    cache.put(&long, &record("long")).await.unwrap();
    assert_eq!(cache.get(&long).await.unwrap(), Some(record("long")));
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(record("short")));
}

pub async fn removing_a_record_keeps_the_others(cache: SharedCache) {
    for name in ["a", "b"] {
        cache.put(&key(name), &record(name)).await.unwrap();
    }
    cache.remove(&key("a")).await.unwrap();
    assert_eq!(cache.get(&key("a")).await.unwrap(), None);
    assert_eq!(cache.get(&key("b")).await.unwrap(), Some(record("b")));
}

pub async fn removing_a_missing_record_is_not_an_error(cache: SharedCache) {
    cache.remove(&key("unknown")).await.unwrap();
    cache.put(&key("k"), &record("one")).await.unwrap();
    cache.remove(&key("k")).await.unwrap();
    cache.remove(&key("k")).await.unwrap();
}

pub async fn a_removed_record_can_be_put_again(cache: SharedCache) {
    for text in ["one", "two"] {
        cache.put(&key("k"), &record(text)).await.unwrap();
        cache.remove(&key("k")).await.unwrap();
    }
    cache.put(&key("k"), &record("three")).await.unwrap();
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(record("three")));
}

pub async fn racing_writers_leave_one_complete_record(cache: SharedCache) {
    let written: Vec<CacheRecord> = (0..8).map(|i| record(&"x".repeat(i * 50))).collect();
    let tasks = written.iter().cloned().map(|own| {
        let (cache, written) = (cache.clone(), written.clone());
        tokio::spawn(async move {
            for _ in 0..20 {
                cache.put(&key("k"), &own).await.unwrap();
                tokio::task::yield_now().await;
                let found = cache.get(&key("k")).await.unwrap().expect("a replaced record is never missing");
                assert!(written.contains(&found), "the record mixes two writers: {found:?}");
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
}

pub async fn many_tasks_write_many_keys(cache: SharedCache) {
    let tasks = (0..16).map(|i| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let (own, other) = (format!("own {i}"), format!("other {i}"));
            cache.put(&key(&own), &record(&own)).await.unwrap();
            cache.put(&key(&other), &record(&other)).await.unwrap();
            cache.remove(&key(&other)).await.unwrap();
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    for i in 0..16 {
        let own = format!("own {i}");
        assert_eq!(cache.get(&key(&own)).await.unwrap(), Some(record(&own)));
        assert_eq!(cache.get(&key(&format!("other {i}"))).await.unwrap(), None);
    }
}

/// The records, or `None` when the cache does not list them.
async fn list(cache: &SharedCache, limit: usize) -> Option<Vec<CacheEntry>> {
    let (mut all, mut after) = (Vec::<CacheEntry>::new(), None);
    loop {
        let page = match cache.list(after.as_ref(), limit).await {
            Err(e) if e.kind() == ErrorKind::Unsupported => return None,
            page => page.unwrap(),
        };
        assert!(page.len() <= limit);
        for entry in &page {
            assert!(all.iter().all(|other| other.key != entry.key), "{} was listed twice", entry.key);
        }
        let Some(last) = page.last() else { return Some(all) };
        after = Some(last.key.clone());
        all.extend(page);
    }
}

pub async fn records_are_listed_in_pages(cache: SharedCache) {
    let names: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    for name in &names {
        cache.put(&key(name), &record(name)).await.unwrap();
    }
    let long = Digest::parse(&format!("sha512:{}{}", key("0").hex(), key("1").hex())).unwrap();
    cache.put(&long, &record("long")).await.unwrap();
    let Some(all) = list(&cache, 7).await else { return };
    assert_eq!(all.len(), 41);
    for (key, name) in names.iter().map(|name| (key(name), name.as_str())).chain([(long, "long")]) {
        let entry = all.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!(entry.record, record(name));
    }
    for name in &names {
        cache.remove(&key(name)).await.unwrap();
    }
    assert_eq!(list(&cache, 7).await.unwrap().len(), 1);
}

pub async fn a_record_that_was_found_is_used(cache: SharedCache) {
    cache.put(&key("k"), &record("one")).await.unwrap();
    let Some(before) = list(&cache, 2).await else { return };
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(list(&cache, 2).await.unwrap()[0].used, before[0].used, "listing is no use");
    cache.get(&key("k")).await.unwrap();
    let found = list(&cache, 2).await.unwrap()[0].used;
    assert!(found > before[0].used, "it was found");
    tokio::time::sleep(Duration::from_millis(20)).await;
    cache.put(&key("k"), &record("two")).await.unwrap();
    assert!(list(&cache, 2).await.unwrap()[0].used > found, "it was stored again");
}

pub async fn only_unused_records_are_removed_as_such(cache: SharedCache) {
    for name in ["old", "found"] {
        cache.put(&key(name), &record(name)).await.unwrap();
    }
    if list(&cache, 9).await.is_none() {
        return;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    cache.get(&key("found")).await.unwrap();
    let all = list(&cache, 9).await.unwrap();
    let used = all.iter().find(|entry| entry.key == key("found")).unwrap().used;
    for (name, goes) in [("old", true), ("old", false), ("found", false), ("unknown", false)] {
        assert_eq!(cache.remove_unused(&key(name), Some(used)).await.unwrap(), goes, "{name}");
    }
    assert_eq!(cache.get(&key("old")).await.unwrap(), None);
    assert_eq!(cache.get(&key("found")).await.unwrap(), Some(record("found")));
    assert!(cache.remove_unused(&key("found"), None).await.unwrap());
    assert_eq!(cache.get(&key("found")).await.unwrap(), None);
}

pub async fn a_cache_has_a_name(cache: SharedCache) {
    assert!(!cache.to_string().is_empty());
}

pub async fn a_record_exists_after_reopening(cache: SharedCache, other: SharedCache) {
    cache.put(&key("k"), &record("one")).await.unwrap();
    drop(cache);
    assert_eq!(other.get(&key("k")).await.unwrap(), Some(record("one")));
}

pub async fn two_handles_see_the_same_records(cache: SharedCache, other: SharedCache) {
    assert_eq!(other.get(&key("k")).await.unwrap(), None);
    cache.put(&key("k"), &record("one")).await.unwrap();
    assert_eq!(other.get(&key("k")).await.unwrap(), Some(record("one")));
    other.put(&key("k"), &record("two")).await.unwrap();
    assert_eq!(cache.get(&key("k")).await.unwrap(), Some(record("two")));
    cache.remove(&key("k")).await.unwrap();
    assert_eq!(other.get(&key("k")).await.unwrap(), None);
}
