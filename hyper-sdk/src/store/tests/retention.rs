//! Retention of tags on stores of the SDK: pages, and what a run leaves alone.

use super::clocked::{self, stores};
use crate::ErrorKind;
use crate::oci::{ImageIndex, Manifest};
use crate::reference::{ManifestReference, RepositoryName, RepositoryPattern, Tag, TextPattern};
use crate::store::{
    CollectOptions, MemoryStore, Page, PutManifest, RegistryStore, RetainOptions, RetentionRule,
    RetentionRules, SharedStore,
};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) const HOUR: i64 = 60 * 60;

pub(super) fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

pub(super) fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn manifest(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

pub(super) fn rules(newest: Option<usize>, hours: Option<u64>) -> RetainOptions {
    let rule = RetentionRule {
        repositories: vec![RepositoryPattern::parse("team/**").unwrap()],
        tags: vec![TextPattern::of_tags("*").unwrap()],
        keep_newest: newest,
        keep_younger_than: hours.map(|hours| Duration::from_secs(hours * 3600)),
        keep_pulled_within: None,
        keep_tags: vec![TextPattern::of_tags("latest").unwrap()],
    };
    RetainOptions::new(RetentionRules::new(vec![rule]).unwrap())
}

pub(super) async fn push(
    store: &dyn RegistryStore,
    at: &RepositoryName,
    text: &str,
    tags: &[&str],
) -> Manifest {
    let manifest = manifest(text);
    let put = PutManifest::new(manifest.clone(), tags.iter().map(|text| tag(text)));
    store.put_manifest(at, put).await.unwrap();
    manifest
}

pub(super) async fn tags(store: &dyn RegistryStore, at: &RepositoryName) -> Vec<String> {
    let listing = store.list_tags(at, Page::default()).await.unwrap();
    listing.items.iter().map(ToString::to_string).collect()
}

/// A run, an image whose tag went, a collection.
#[tokio::test]
async fn an_image_without_its_tag_stays_until_the_collection() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("an image without its tag", folder.path()).await {
        let [app, other] = ["team/app", "other"].map(name);
        let one = push(&*store, &app, "one", &["v1", "v1-again"]).await;
        turn(HOUR);
        let two = push(&*store, &app, "two", &["v2", "latest"]).await;
        push(&*store, &other, "one", &["v1"]).await;
        turn(2 * HOUR);
        let told = Arc::new(Mutex::new(Vec::new()));
        let of = |options: RetainOptions| {
            let told = told.clone();
            let observer =
                move |decision: &crate::store::TagDecision| told.lock().unwrap().push(decision.clone());
            RetainOptions { observer: Some(Arc::new(observer)), ..options }
        };
        let dry = RetainOptions { dry_run: true, ..rules(Some(1), Some(1)) };
        let would = store.retain(of(dry)).await.unwrap();
        let mut foreseen = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(tags(&*store, &app).await, ["latest", "v1", "v1-again", "v2"]);
        let did = store.retain(of(rules(Some(1), Some(1)))).await.unwrap();
        assert_eq!((did, &*told.lock().unwrap()), (would, &foreseen), "a dry run says what a run does");
        assert_eq!((did.repositories, did.tags, did.removed, did.changed), (1, 4, 2, 0));
        foreseen.retain(crate::store::TagDecision::goes);
        assert!(foreseen[0].to_string().contains("team/app:v1 goes"), "{}", foreseen[0]);
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
}

#[tokio::test]
async fn a_repository_with_many_pages_keeps_exactly_the_newest() {
    let (store, turn) = clocked::memory();
    let app = name("team/app");
    let all: Vec<String> = (0..3500).map(|number| format!("b{number:05}")).collect();
    for tag in &all {
        push(&store, &app, "one", &[tag]).await;
        turn(1);
    }
    let retained = store.retain(rules(Some(1234), None)).await.unwrap();
    assert_eq!((retained.tags, retained.removed), (3500, 3500 - 1234));
    assert_eq!(tags(&store, &app).await, all[3500 - 1234..]);
}

/// Pushes of one second have one time, so nobody knows which came last.
#[tokio::test]
async fn tags_of_the_second_of_the_last_one_that_stays_stay_too() {
    let folder = tempfile::tempdir().unwrap();
    let (store, turn) = clocked::sqlite(folder.path()).await;
    let app = name("team/app");
    push(&store, &app, "one", &["older"]).await;
    turn(10);
    push(&store, &app, "two", &["z"]).await;
    push(&store, &app, "three", &["a"]).await;
    turn(10);
    assert_eq!(store.retain(rules(Some(1), None)).await.unwrap().removed, 1);
    assert_eq!(tags(&store, &app).await, ["a", "z"]);
}

/// Signatures and lists of referrers stay with their image, and take no place.
#[tokio::test]
async fn a_tag_that_belongs_to_an_image_stays_with_it() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("tags of signatures", folder.path()).await {
        let app = name("team/app");
        let signed = |manifest: &Manifest| manifest.digest().to_string().replace(':', "-");
        let (old, new) = (manifest("old"), manifest("new"));
        push(&*store, &app, "old", &["old"]).await;
        let lost = format!("{}.sig", signed(&manifest("absent")));
        let of_new = [signed(&new), format!("{}.sig", signed(&new)), format!("{}.att", signed(&new))];
        let of_old = format!("{}.sig", signed(&old));
        push(&*store, &app, "signature", &[&of_new[0], &of_new[1], &of_new[2], &of_old, &lost]).await;
        turn(HOUR);
        push(&*store, &app, "new", &["new"]).await;
        turn(HOUR);
        // A tag that names an image by its own digest is one like any other.
        let own = push(&*store, &name("team/own"), "own", &[]).await;
        for text in ["own", "newer"] {
            push(&*store, &name("team/own"), text, &[&signed(&own), "x"][usize::from(text == "newer")..])
                .await;
            turn(HOUR);
        }
        let retained = store.retain(rules(Some(1), None)).await.unwrap();
        assert_eq!(tags(&*store, &name("team/own")).await, ["x"]);
        assert_eq!(retained.removed, 3, "the tags of the old images, and the signature of none");
        let mut expected = vec!["new".to_owned(), of_old.clone()];
        expected.extend(of_new.clone());
        expected.sort();
        assert_eq!(tags(&*store, &app).await, expected);
        // The image goes, and its signature with the next run.
        let options = CollectOptions { untagged_until: Some(i64::MAX), ..CollectOptions::default() };
        store.collect(options).await.unwrap();
        assert_eq!(store.retain(rules(Some(1), None)).await.unwrap().removed, 1);
        expected.retain(|tag| *tag != of_old);
        assert_eq!(tags(&*store, &app).await, expected);
    }
}

/// What is damaged in one repository does not keep old tags in the others.
#[tokio::test]
async fn a_repository_that_fails_does_not_keep_the_run_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (store, turn) = clocked::sqlite(folder.path()).await;
    for at in ["team/a", "team/b", "team/c"] {
        push(&store, &name(at), "one", &["v1"]).await;
    }
    turn(HOUR);
    for at in ["team/a", "team/b", "team/c"] {
        push(&store, &name(at), "two", &["v2"]).await;
    }
    let options = SqliteConnectOptions::new().filename(folder.path().join("clocked.db"));
    let mut connection = options.connect().await.unwrap();
    let damage = "UPDATE tags SET name = '-' WHERE name = 'v1' AND repository_id = \
                  (SELECT id FROM repositories WHERE name = 'team/a')";
    assert_eq!(sqlx::query(damage).execute(&mut connection).await.unwrap().rows_affected(), 1);
    let error = store.retain(rules(Some(1), None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let context: Vec<String> = error.context().iter().map(|(key, value)| format!("{key}={value}")).collect();
    for part in ["repository=team/a", "deleted tags=2", "failed repositories=1"] {
        assert!(context.iter().any(|text| text == part), "{context:?}");
    }
    for at in ["team/b", "team/c"] {
        assert_eq!(tags(&store, &name(at)).await, ["v2"]);
    }
}

#[tokio::test]
async fn one_repository_is_explained_and_others_are_left() {
    let (store, turn) = clocked::memory();
    let store: SharedStore = Arc::new(store);
    for tag in ["v1", "v2"] {
        for at in ["team/app", "team/web", "other"] {
            push(&*store, &name(at), "one", &[tag]).await;
        }
        turn(HOUR);
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
    assert_eq!(tags(&*store, &name("team/web")).await, ["v2"]);
    let read_only = crate::store::wrap::ReadOnly::new(store.clone());
    let refused = read_only.retain(rules(Some(1), None)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(read_only.retain(of("team/app")).await.unwrap().removed, 1, "a dry run writes nothing");
    assert_eq!(MemoryStore::default().retain(rules(Some(1), None)).await.unwrap().repositories, 0);
}
