//! Cases about notes of pulls.

use super::MetaOpener;
use super::kit::*;
use crate::oci::Manifest;
use crate::reference::RepositoryName;
use crate::store::PullNote;
use crate::store::meta::{Change, MetaBackend, TagRecord};
use std::time::Duration;

fn pull(name: &RepositoryName, manifest: &Manifest, by: Option<&str>) -> PullNote {
    PullNote { repository: name.clone(), digest: manifest.digest().clone(), tag: by.map(tag) }
}

async fn note(meta: &dyn MetaBackend, pulls: Vec<PullNote>) {
    assert_eq!(meta.write(Change::NotePulls { pulls, lost: false }).await.unwrap(), 0);
}

async fn records(meta: &dyn MetaBackend, name: &RepositoryName) -> Vec<TagRecord> {
    meta.tag_records(name, None, 1000).await.unwrap().unwrap().items
}

/// Which tags count as pulled.
async fn pulled(meta: &dyn MetaBackend, name: &RepositoryName) -> Vec<String> {
    let records = records(meta, name).await.into_iter();
    records.filter(|record| record.pulled_at.is_some()).map(|record| record.tag.to_string()).collect()
}

pub async fn pulls_are_noted(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let [one, two, three] = ["1", "2", "3"].map(index);
    put(&**meta, &a, &one, &["v1", "also-v1"]).await.unwrap();
    put(&**meta, &a, &two, &["v2"]).await.unwrap();
    put(&**meta, &a, &three, &["v3"]).await.unwrap();
    put(&**meta, &b, &one, &["v1", "v3"]).await.unwrap();
    assert_eq!(pulled(&**meta, &a).await, [""; 0]);
    let before = meta.fetch_time().await.unwrap();
    note(&**meta, vec![pull(&a, &two, None)]).await;
    assert_eq!(pulled(&**meta, &a).await, ["v2"], "by digest");
    // Also of what is not there, and twice.
    let gone = index("gone");
    let pulls = vec![
        pull(&a, &three, Some("v3")),
        pull(&a, &three, Some("v3")),
        pull(&a, &three, None),
        pull(&a, &gone, Some("gone")),
        pull(&repository("absent"), &one, Some("v1")),
    ];
    note(&**meta, pulls).await;
    assert_eq!(pulled(&**meta, &a).await, ["v2", "v3"]);
    assert_eq!(pulled(&**meta, &b).await, [""; 0]);
    for record in records(&**meta, &a).await.iter().filter(|record| record.pulled_at.is_some()) {
        assert!((record.pulled_at.unwrap() - before).abs() < 60, "{record:?}");
    }
    note(&**meta, vec![pull(&a, &one, Some("v1"))]).await;
    assert_eq!(pulled(&**meta, &a).await, ["also-v1", "v1", "v2", "v3"], "tags of one manifest");
    // The note of a tag stays when it moves, and that of the manifest stays there.
    put(&**meta, &a, &gone, &["v3"]).await.unwrap();
    assert_eq!(pulled(&**meta, &a).await, ["also-v1", "v1", "v2", "v3"]);
    put(&**meta, &a, &three, &["v4"]).await.unwrap();
    assert_eq!(pulled(&**meta, &a).await, ["also-v1", "v1", "v2", "v3", "v4"]);
}

pub async fn a_tag_that_was_pulled_since_does_not_expire(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two, three] = ["1", "2", "3"].map(index);
    for (manifest, tag) in [(&one, "v1"), (&two, "v2"), (&three, "v3")] {
        put(&**meta, &a, manifest, &[tag]).await.unwrap();
    }
    let listed = records(&**meta, &a).await;
    let judged_at = meta.fetch_time().await.unwrap();
    let expire = |number: usize, unpulled_since| {
        let (repository, record) = (a.clone(), listed[number].clone());
        Change::ExpireTag { repository, record, judged_at, unpulled_since }
    };
    note(&**meta, vec![pull(&a, &one, Some("v1")), pull(&a, &two, None)]).await;
    let at = records(&**meta, &a).await[0].pulled_at.unwrap();
    assert_eq!(meta.write(expire(2, Some(at - 100))).await.unwrap(), 0, "pulls of before are not known");
    for number in [0, 1] {
        assert_eq!(
            meta.write(expire(number, Some(at - 1))).await.unwrap(),
            0,
            "it was pulled after it was judged"
        );
    }
    assert_eq!(tags(&**meta, &a).await, ["v1", "v2", "v3"]);
    assert_eq!(meta.write(expire(0, Some(at))).await.unwrap(), 1, "the pull is older than that");
    assert_eq!(meta.write(expire(1, None)).await.unwrap(), 1, "pulls do not matter");
    assert_eq!(meta.write(expire(2, Some(at))).await.unwrap(), 1, "it was never pulled");
}

pub async fn notes_of_pulls_begin_once(opener: MetaOpener) {
    let meta = opener.open().await;
    assert_eq!(meta.pulls_noted_since().await.unwrap(), None);
    note(&**meta, Vec::new()).await;
    let since = meta.pulls_noted_since().await.unwrap().unwrap();
    assert!((since - meta.fetch_time().await.unwrap()).abs() < 60);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    note(&**meta, Vec::new()).await;
    assert_eq!(meta.pulls_noted_since().await.unwrap(), Some(since));
    meta.write(Change::NotePulls { pulls: Vec::new(), lost: true }).await.unwrap();
    let anew = meta.pulls_noted_since().await.unwrap().unwrap();
    assert!(anew > since, "some are not known");
}

pub async fn notes_of_pulls_go_with_what_was_pulled(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two, three] = ["1", "2", "3"].map(index);
    put(&**meta, &a, &one, &["v1", "w1"]).await.unwrap();
    put(&**meta, &a, &two, &["v2", "w2"]).await.unwrap();
    let all =
        ["v1", "w1", "v2", "w2"].map(|tag| pull(&a, if tag.ends_with('1') { &one } else { &two }, Some(tag)));
    note(&**meta, all.to_vec()).await;
    assert_eq!(pulled(&**meta, &a).await, ["v1", "v2", "w1", "w2"]);
    meta.write(Change::DeleteManifest { repository: a.clone(), digest: two.digest().clone() }).await.unwrap();
    meta.write(Change::DeleteTag { repository: a.clone(), tag: tag("v1") }).await.unwrap();
    let record = records(&**meta, &a).await.remove(0);
    let judged_at = meta.fetch_time().await.unwrap();
    let expire = Change::ExpireTag { repository: a.clone(), record, judged_at, unpulled_since: None };
    assert_eq!(meta.write(expire).await.unwrap(), 1);
    // Others of the same names were never pulled.
    put(&**meta, &a, &two, &["v2", "w2"]).await.unwrap();
    put(&**meta, &a, &three, &["v1", "w1"]).await.unwrap();
    assert_eq!(pulled(&**meta, &a).await, [""; 0]);
}

pub async fn many_pulls_are_noted_at_once(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let names: Vec<String> = (0..150).map(|number| format!("v{number:03}")).collect();
    let mut pulls = Vec::new();
    for name in &names {
        let manifest = index(name);
        put(&**meta, &a, &manifest, &[name]).await.unwrap();
        pulls.push(pull(&a, &manifest, Some(name)));
    }
    note(&**meta, pulls[1..].to_vec()).await;
    assert_eq!(pulled(&**meta, &a).await, names[1..]);
}
