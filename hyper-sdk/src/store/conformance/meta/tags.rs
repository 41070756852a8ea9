//! Cases about tags with the time of their last push.

use super::MetaOpener;
use super::kit::*;
use crate::clock::{Clock as _, SystemClock};
use crate::store::errors::is_clock_back;
use crate::store::meta::{Change, MetaBackend, TagRecord};
use std::time::Duration;

async fn records(meta: &dyn MetaBackend, after: Option<&str>, limit: usize) -> (Vec<TagRecord>, bool) {
    let listing = meta.tag_records(&repository("a"), after, limit).await.unwrap().unwrap();
    (listing.items, listing.more)
}

async fn expire(meta: &dyn MetaBackend, record: &TagRecord) -> u64 {
    let (repository, record) = (repository("a"), record.clone());
    let judged_at = meta.fetch_time().await.unwrap();
    meta.write(Change::ExpireTag { repository, record, judged_at, unpulled_since: None }).await.unwrap()
}

pub async fn tags_are_listed_with_the_time_of_their_last_push(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    assert!(meta.tag_records(&a, None, 10).await.unwrap().is_none());
    let [one, two] = ["1", "2"].map(index);
    let start = SystemClock.now();
    put(&**meta, &a, &one, &["v1", "v2", "latest"]).await.unwrap();
    put(&**meta, &a, &two, &["latest"]).await.unwrap();
    put(&**meta, &b, &two, &["other"]).await.unwrap();
    let (listed, more) = records(&**meta, None, 10).await;
    let named: Vec<_> = listed.iter().map(|record| (record.tag.as_str(), &record.digest)).collect();
    assert_eq!(named, [("latest", two.digest()), ("v1", one.digest()), ("v2", one.digest())]);
    assert!(!more);
    for record in &listed {
        // A database may be on another machine.
        assert!((record.pushed_at - start).abs() < 3600, "{record:?}");
    }
    assert_eq!(records(&**meta, None, 2).await, (listed[..2].to_vec(), true));
    assert_eq!(records(&**meta, Some("v1"), 2).await, (listed[2..].to_vec(), false));
    assert_eq!(records(&**meta, Some("zz"), 2).await, (Vec::new(), false));
    assert_eq!(records(&**meta, None, 0).await, (Vec::new(), false));
}

pub async fn a_tag_expires_if_it_is_what_it_was(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two] = ["1", "2"].map(index);
    put(&**meta, &a, &one, &["v1", "v2"]).await.unwrap();
    let (listed, _) = records(&**meta, None, 10).await;
    let [v1, v2] = &listed[..] else { panic!("{listed:?}") };
    // It was pushed again meanwhile: the same manifest, or another one.
    let earlier = TagRecord { pushed_at: v1.pushed_at - 1, ..v1.clone() };
    let moved = TagRecord { digest: two.digest().clone(), ..v1.clone() };
    put(&**meta, &a, &two, &[]).await.unwrap();
    for other in [earlier, moved] {
        assert_eq!(expire(&**meta, &other).await, 0, "{other:?}");
    }
    let elsewhere = Change::ExpireTag {
        repository: repository("absent"),
        record: v1.clone(),
        judged_at: v1.pushed_at,
        unpulled_since: None,
    };
    assert_eq!(meta.write(elsewhere).await.unwrap(), 0);
    assert_eq!(records(&**meta, None, 10).await.0, listed);
    for expected in [1, 0] {
        assert_eq!(expire(&**meta, v1).await, expected);
    }
    assert_eq!(records(&**meta, None, 10).await.0, std::slice::from_ref(v2));
    for reference in [by_tag("v2"), by_digest(one.digest())] {
        assert_eq!(meta.manifest(&a, &reference).await.unwrap().as_ref(), Some(&one));
    }
    assert_eq!(expire(&**meta, v2).await, 1);
    assert!(meta.manifest(&a, &by_digest(one.digest())).await.unwrap().is_some(), "the manifest stays");
}

/// A push of the same manifest in a later second is a push since.
pub async fn a_tag_that_is_pushed_again_does_not_expire(opener: MetaOpener) {
    let meta = opener.open().await;
    let (a, one) = (repository("a"), index("1"));
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    let (before, _) = records(&**meta, None, 10).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    assert_eq!(expire(&**meta, &before[0]).await, 0);
    let (now, _) = records(&**meta, None, 10).await;
    assert!(now[0].pushed_at > before[0].pushed_at, "{now:?}");
    assert_eq!(expire(&**meta, &now[0]).await, 1);
}

pub async fn no_tag_expires_by_a_time_to_come(opener: MetaOpener) {
    let meta = opener.open().await;
    let (a, one) = (repository("a"), index("1"));
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    let (listed, _) = records(&**meta, None, 10).await;
    let now = meta.fetch_time().await.unwrap();
    assert!((now - listed[0].pushed_at).abs() < 60, "it is the time that changes record");
    let by = |judged_at| Change::ExpireTag {
        repository: a.clone(),
        record: listed[0].clone(),
        judged_at,
        unpulled_since: None,
    };
    for ahead in [60, i64::MAX - now] {
        let refused = meta.write(by(now + ahead)).await.unwrap_err();
        assert!(is_clock_back(&refused), "{refused}");
    }
    assert_eq!(records(&**meta, None, 10).await.0, listed);
    assert_eq!(meta.write(by(now)).await.unwrap(), 1);
}

pub async fn manifests_are_found_without_their_bytes(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let [one, two] = ["1", "2"].map(index);
    let asked = [by_tag("v2"), by_digest(two.digest()), by_tag("v1"), by_digest(one.digest()), by_tag("v1")];
    assert_eq!(meta.has_manifests(&a, &asked).await.unwrap(), [false; 5]);
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    put(&**meta, &b, &two, &["v2"]).await.unwrap();
    assert_eq!(meta.has_manifests(&a, &asked).await.unwrap(), [false, false, true, true, true]);
    assert!(meta.has_manifests(&a, &[]).await.unwrap().is_empty());
}

async fn hold(meta: &dyn MetaBackend, holder: u64, seconds: i64, ended_at: Option<i64>) -> u64 {
    meta.write(Change::HoldRetention { holder, seconds, ended_at }).await.unwrap()
}

async fn last(meta: &dyn MetaBackend) -> Option<i64> {
    meta.last_retention().await.unwrap()
}

pub async fn one_holder_deletes_old_tags_at_a_time(opener: MetaOpener) {
    let meta = opener.open().await;
    assert_eq!(last(&**meta).await, None);
    assert_eq!(hold(&**meta, 1, 3600, None).await, 1);
    for (seconds, ended_at) in [(3600, None), (0, Some(7))] {
        assert_eq!(hold(&**meta, 2, seconds, ended_at).await, 0, "another one has the right");
    }
    assert_eq!(last(&**meta).await, None);
    assert_eq!(hold(&**meta, 1, 3600, None).await, 1, "it is renewed");
    assert_eq!(hold(&**meta, 1, 0, Some(5)).await, 1);
    assert_eq!(last(&**meta).await, Some(5));
    assert_eq!(hold(&**meta, 2, 3600, None).await, 1);
    assert_eq!(last(&**meta).await, Some(5), "a run that has begun has not ended");
    // Who scrubs is another matter.
    let scrub = Change::HoldScrub { holder: 3, seconds: 3600, place: None };
    assert_eq!(meta.write(scrub).await.unwrap(), 1);
    assert_eq!(meta.scrub_place().await.unwrap().ended_at, None);
}
