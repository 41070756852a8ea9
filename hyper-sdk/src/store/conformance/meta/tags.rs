//! Cases about tags with the time of their last push.

use super::MetaOpener;
use super::kit::*;
use crate::clock::{Clock as _, SystemClock};
use crate::store::meta::{Change, MetaBackend, TagRecord};

async fn records(meta: &dyn MetaBackend, after: Option<&str>, limit: usize) -> (Vec<TagRecord>, bool) {
    let listing = meta.tag_records(&repository("a"), after, limit).await.unwrap().unwrap();
    (listing.items, listing.more)
}

async fn expire(meta: &dyn MetaBackend, record: &TagRecord) -> u64 {
    let (repository, record) = (repository("a"), record.clone());
    meta.write(Change::ExpireTag { repository, record }).await.unwrap()
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
    let elsewhere = Change::ExpireTag { repository: repository("absent"), record: v1.clone() };
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
