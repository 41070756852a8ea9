//! Retention of tags on stores of the SDK: pages, races, and what a run leaves alone.

use crate::ErrorKind;
use crate::clock::{Clock as _, SystemClock};
use crate::oci::{ImageIndex, Manifest};
use crate::reference::{ManifestReference, RepositoryName, RepositoryPattern, Tag, TextPattern};
use crate::store::blob::MemoryBlobs;
use crate::store::meta::{MemoryMeta, SqlMeta};
use crate::store::{
    CollectOptions, Composed, MemoryStore, Page, PutManifest, RegistryStore, RetainOptions, RetentionRule,
    RetentionRules, SharedStore, TagReason,
};
use crate::testing::FrozenClock;
use futures::FutureExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: i64 = 60 * 60;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn manifest(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

fn rules(newest: Option<usize>, hours: Option<u64>) -> RetainOptions {
    let rule = RetentionRule {
        repositories: vec![RepositoryPattern::parse("team/**").unwrap()],
        tags: vec![TextPattern::of_tags("*").unwrap()],
        keep_newest: newest,
        keep_younger_than: hours.map(|hours| Duration::from_secs(hours * 3600)),
        keep_tags: vec![TextPattern::of_tags("latest").unwrap()],
    };
    RetainOptions::new(RetentionRules::new(vec![rule]).unwrap())
}

async fn push(store: &dyn RegistryStore, at: &RepositoryName, text: &str, tags: &[&str]) -> Manifest {
    let manifest = manifest(text);
    let put = PutManifest::new(manifest.clone(), tags.iter().map(|text| tag(text)));
    store.put_manifest(at, put).await.unwrap();
    manifest
}

async fn tags(store: &dyn RegistryStore, at: &RepositoryName) -> Vec<String> {
    let listing = store.list_tags(at, Page::default()).await.unwrap();
    listing.items.iter().map(ToString::to_string).collect()
}

/// A store whose clock is so many hours ahead of the times of its pushes.
fn ahead<M: crate::store::meta::MetaBackend>(
    meta: M,
    hours: i64,
) -> (Composed<MemoryBlobs, M>, Arc<FrozenClock>) {
    let clock = Arc::new(FrozenClock::new(SystemClock.now() + hours * HOUR));
    (Composed::new(MemoryBlobs::default(), meta).with_clock(clock.clone()), clock)
}

/// A run, an image whose tag went, a collection: on both backends.
async fn images_stay_until_the_collection(store: SharedStore) {
    let [app, other] = ["team/app", "other"].map(name);
    let one = push(&*store, &app, "one", &["v1", "v1-again"]).await;
    let two = push(&*store, &app, "two", &["v2", "latest"]).await;
    push(&*store, &other, "one", &["v1"]).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let of = |options: RetainOptions| {
        let told = told.clone();
        let observer =
            move |decision: &crate::store::TagDecision| told.lock().unwrap().push(decision.clone());
        RetainOptions { observer: Some(Arc::new(observer)), ..options }
    };
    let dry = RetainOptions { dry_run: true, ..rules(Some(1), Some(1)) };
    let would = store.retain(of(dry)).await.unwrap();
    let foreseen = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(tags(&*store, &app).await, ["latest", "v1", "v1-again", "v2"]);
    let did = store.retain(of(rules(Some(1), Some(1)))).await.unwrap();
    assert_eq!((did, &*told.lock().unwrap()), (would, &foreseen), "a dry run says what a run does");
    assert_eq!((did.repositories, did.tags, did.removed, did.changed), (1, 4, 2, 0));
    assert_eq!(tags(&*store, &app).await, ["latest", "v2"]);
    assert_eq!(tags(&*store, &other).await, ["v1"], "no rule is about it");
    let by_digest = |manifest: &Manifest| ManifestReference::Digest(manifest.digest().clone());
    assert_eq!(store.get_manifest(&app, &by_digest(&one)).await.unwrap(), one);
    let options = CollectOptions { untagged_until: Some(i64::MAX), ..CollectOptions::default() };
    store.collect(options).await.unwrap();
    let gone = store.get_manifest(&app, &by_digest(&one)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ManifestUnknown);
    for (at, manifest) in [(&app, &two), (&other, &one)] {
        assert_eq!(store.get_manifest(at, &by_digest(manifest)).await.unwrap(), *manifest);
    }
}

#[tokio::test]
async fn an_image_without_its_tag_stays_until_the_collection() {
    images_stay_until_the_collection(Arc::new(ahead(MemoryMeta::default(), 2).0)).await;
    let folder = tempfile::tempdir().unwrap();
    let meta = SqlMeta::open(folder.path().join("a.db")).await.unwrap();
    images_stay_until_the_collection(Arc::new(ahead(meta, 2).0)).await;
}

#[cfg(feature = "store-postgres")]
#[tokio::test]
async fn an_image_without_its_tag_stays_until_the_collection_in_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let meta = crate::testing::given(
        "retention on PostgreSQL",
        super::postgres::meta(&folder.path().join("a")).await,
    );
    let Some(meta) = meta else { return };
    images_stay_until_the_collection(Arc::new(ahead::<SqlMeta>(meta, 2).0)).await;
}

#[tokio::test]
async fn a_repository_with_many_pages_keeps_exactly_the_newest() {
    let (store, _) = ahead(MemoryMeta::default(), 2);
    let app = name("team/app");
    let all: Vec<String> = (0..3500).map(|number| format!("b{number:05}")).collect();
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    push(&store, &app, "one", &names).await;
    let retained = store.retain(rules(Some(1234), None)).await.unwrap();
    assert_eq!((retained.tags, retained.removed), (3500, 3500 - 1234));
    // They have one time: the later names are newer.
    assert_eq!(tags(&store, &app).await, all[3500 - 1234..]);
}

/// A tag that is moved, pushed again or deleted between the judgement and the deletion is left alone.
#[tokio::test]
async fn a_tag_that_changes_during_a_run_stays() {
    let (store, _) = ahead(MemoryMeta::default(), 2);
    let app = name("team/app");
    push(&store, &app, "one", &["a", "b", "c"]).await;
    // The protection is asked during the judgement, in the middle of the run.
    let (its, moved) = (store.clone(), AtomicBool::new(false));
    let protection = move |at: &RepositoryName, judged: &Tag| {
        if judged.as_str() == "c" && !moved.swap(true, Ordering::SeqCst) {
            // Nothing waits in memory.
            let change = async {
                push(&its, at, "two", &["a"]).await;
                its.delete_manifest(at, &tag("b").into()).await.unwrap();
            };
            change.now_or_never().unwrap();
        }
        None
    };
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let seen = reasons.clone();
    let options = RetainOptions {
        protection: Some(Arc::new(protection)),
        observer: Some(Arc::new(move |decision| {
            seen.lock().unwrap().push((decision.record.tag.to_string(), decision.reason.clone()));
        })),
        ..rules(None, Some(1))
    };
    let retained = store.retain(options).await.unwrap();
    assert_eq!((retained.removed, retained.changed), (1, 2), "{reasons:?}");
    let changed: Vec<bool> =
        reasons.lock().unwrap().iter().map(|(_, reason)| *reason == TagReason::Changed).collect();
    assert_eq!(changed, [true, true, false]);
    assert_eq!(tags(&store, &app).await, ["a"]);
}

#[tokio::test]
async fn runs_beside_each_other_and_beside_pushes_delete_each_tag_once() {
    let folder = tempfile::tempdir().unwrap();
    let meta = SqlMeta::open(folder.path().join("a.db")).await.unwrap();
    let (store, _) = ahead(meta, 2);
    let app = name("team/app");
    let all: Vec<String> = (0..300).map(|number| format!("b{number:04}")).collect();
    push(&store, &app, "one", &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // What is pushed from now on is newer by its time.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let removed = Arc::new(AtomicU64::new(0));
    let run = || async {
        let retained = store.retain(rules(Some(100), None)).await?;
        removed.fetch_add(retained.removed, Ordering::SeqCst);
        Ok::<(), crate::Error>(())
    };
    let pushes = async {
        for _ in 0..20 {
            push(&store, &app, "two", &["b0000"]).await;
            tokio::task::yield_now().await;
        }
    };
    let (one, two, three, ()) = futures::join!(run(), run(), run(), pushes);
    one.and(two).and(three).unwrap();
    let left = tags(&store, &app).await;
    assert!(left.contains(&"b0000".to_owned()), "it was pushed during the runs");
    assert!((100..=101).contains(&left.len()), "{}", left.len());
    assert!((199..=201).contains(&removed.load(Ordering::SeqCst)), "{removed:?}");
}

#[tokio::test]
async fn a_clock_that_goes_back_ends_the_run() {
    let (store, clock) = ahead(MemoryMeta::default(), 2);
    let app = name("team/app");
    push(&store, &app, "one", &["a", "b"]).await;
    let its = clock.clone();
    let options = RetainOptions {
        protection: Some(Arc::new(move |_, _| {
            its.advance(-HOUR);
            None
        })),
        ..rules(Some(1), None)
    };
    assert_eq!(store.retain(options).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(tags(&store, &app).await, ["a", "b"]);
    clock.advance(-24 * HOUR);
    let retained = store.retain(rules(Some(1), Some(1))).await.unwrap();
    assert_eq!(retained.removed, 0, "all tags are of a time to come");
}

#[tokio::test]
async fn one_repository_is_explained_and_others_are_left() {
    let (store, _) = ahead(MemoryMeta::default(), 2);
    let store: SharedStore = Arc::new(store);
    for at in ["team/app", "team/web", "other"] {
        push(&*store, &name(at), "one", &["v1", "v2"]).await;
    }
    let of = |repository: &str| RetainOptions {
        repository: Some(name(repository)),
        dry_run: true,
        ..rules(Some(1), None)
    };
    assert_eq!(store.retain(of("team/app")).await.unwrap().removed, 1);
    let other = store.retain(of("other")).await.unwrap();
    assert_eq!((other.repositories, other.tags, other.removed), (0, 2, 0));
    for absent in ["absent", "team/absent"] {
        assert_eq!(store.retain(of(absent)).await.unwrap_err().kind(), ErrorKind::NameUnknown);
    }
    let web = RetainOptions { dry_run: false, ..of("team/web") };
    assert_eq!(store.retain(web).await.unwrap().removed, 1);
    assert_eq!(tags(&*store, &name("team/app")).await, ["v1", "v2"]);
    let read_only = crate::store::wrap::ReadOnly::new(store.clone());
    let refused = read_only.retain(rules(Some(1), None)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(read_only.retain(of("team/app")).await.unwrap().removed, 1, "a dry run writes nothing");
    assert_eq!(MemoryStore::default().retain(rules(Some(1), None)).await.unwrap().repositories, 0);
}
