//! Retention by the last pull, on stores of the SDK whose clock a test turns.

use super::clocked::{self, stores};
use super::retention::{HOUR, name, push, rules, tag, tags};
use crate::clock::{Clock as _, SystemClock};
use crate::oci::Manifest;
use crate::store::meta::{Change, MetaBackend as _, RowCounts, SqlMeta};
use crate::store::{
    PULL_LAG, PullNote, RegistryStore, RetainOptions, Retained, RetentionRule, RetentionRules, TagDecision,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For how long the rule keeps what was pulled, in hours.
const WITHIN: i64 = 24;

/// Keeps what was pulled within a day.
fn pulled_within_a_day() -> RetainOptions {
    let rule = rules(Some(1), None).rules.as_slice()[0].clone();
    let within = Some(Duration::from_secs(WITHIN as u64 * 3600));
    let rule = RetentionRule { keep_newest: None, keep_pulled_within: within, ..rule };
    RetainOptions::new(RetentionRules::new(vec![rule]).unwrap())
}

async fn retain(store: &dyn RegistryStore) -> Retained {
    store.retain(pulled_within_a_day()).await.unwrap()
}

/// What the decision about each tag says.
async fn explained(store: &dyn RegistryStore) -> Vec<(String, &'static str, Option<i64>)> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let its = told.clone();
    let observer = move |decision: &TagDecision| {
        let tag = decision.record.tag.to_string();
        its.lock().unwrap().push((tag, decision.reason.name(), decision.goes_at()));
    };
    let options =
        RetainOptions { dry_run: true, observer: Some(Arc::new(observer)), ..pulled_within_a_day() };
    store.retain(options).await.unwrap();
    let told = told.lock().unwrap();
    told.clone()
}

async fn note(store: &dyn RegistryStore, pulls: &[(&Manifest, Option<&str>)]) {
    let repository = name("team/app");
    let note = |(manifest, by): &(&Manifest, Option<&str>)| PullNote {
        repository: repository.clone(),
        digest: manifest.digest().clone(),
        tag: by.map(tag),
    };
    store.note_pulls(pulls.iter().map(note).collect(), false).await.unwrap();
}

#[tokio::test]
async fn what_is_pulled_stays_and_what_was_never_pulled_counts_from_its_push() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("retention by pulls", folder.path()).await {
        let app = name("team/app");
        note(&*store, &[]).await;
        let one = push(&*store, &app, "one", &["by-tag", "same-image"]).await;
        let two = push(&*store, &app, "two", &["by-digest"]).await;
        push(&*store, &app, "three", &["never"]).await;
        turn(20 * HOUR);
        push(&*store, &app, "four", &["young"]).await;
        note(&*store, &[(&one, Some("by-tag")), (&two, None)]).await;
        turn(5 * HOUR);
        assert_eq!(retain(&*store).await.removed, 0, "a note may be two hours older than the last pull");
        turn(HOUR + 60);
        let all = explained(&*store).await;
        let whys: Vec<_> = all.iter().map(|(tag, why, _)| (tag.as_str(), *why)).collect();
        let expected = [
            ("by-digest", "pulled"),
            ("by-tag", "pulled"),
            ("never", "expired"),
            ("same-image", "pulled"),
            ("young", "pulled"),
        ];
        assert_eq!(whys, expected);
        assert_eq!(retain(&*store).await.removed, 1);
        assert_eq!(tags(&*store, &app).await, ["by-digest", "by-tag", "same-image", "young"]);
        // A later pull puts it off. Servers tell every hour that they note pulls.
        note(&*store, &[]).await;
        turn(18 * HOUR);
        note(&*store, &[(&two, None)]).await;
        turn(3 * HOUR);
        assert_eq!(retain(&*store).await.removed, 3);
        assert_eq!(tags(&*store, &app).await, ["by-digest"]);
        let goes_at = explained(&*store).await[0].2.unwrap();
        let pulled_at = store.list_tag_records(&app, Default::default()).await.unwrap().items[0].pulled_at;
        assert_eq!(goes_at, pulled_at.unwrap() + WITHIN * HOUR + PULL_LAG);
    }
}

/// A registry that is upgraded does not lose what was pulled before.
#[tokio::test]
async fn nothing_counts_as_not_pulled_from_before_the_notes() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("the first notes of pulls", folder.path()).await {
        let app = name("team/app");
        push(&*store, &app, "one", &["old"]).await;
        turn(1000 * HOUR);
        assert_eq!(retain(&*store).await.removed, 0);
        assert_eq!(explained(&*store).await, [("old".to_owned(), "unnoted", None)]);
        note(&*store, &[]).await;
        turn(20 * HOUR);
        note(&*store, &[]).await;
        turn((WITHIN - 20) * HOUR + PULL_LAG - 60);
        assert_eq!(retain(&*store).await.removed, 0);
        assert_eq!(explained(&*store).await[0].1, "pulled");
        turn(120);
        assert_eq!(retain(&*store).await.removed, 1);
    }
}

/// When notes were lost, or when nobody has noted pulls for long, what is not known does not count as old.
#[tokio::test]
async fn notes_with_a_gap_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a gap in notes of pulls", folder.path()).await {
        let app = name("team/app");
        note(&*store, &[]).await;
        push(&*store, &app, "one", &["v1"]).await;
        turn(20 * HOUR);
        note(&*store, &[]).await;
        turn(20 * HOUR);
        assert_eq!(explained(&*store).await[0].1, "expired", "servers may be off for some hours");
        // No server runs for long, and somebody deletes old tags before the first one notes pulls again.
        turn(91 * 24 * HOUR);
        assert_eq!(explained(&*store).await[0].1, "unnoted");
        assert_eq!(retain(&*store).await.removed, 0);
        note(&*store, &[]).await;
        assert_eq!(explained(&*store).await[0].1, "pulled", "what was pulled meanwhile is unknown");
        turn(20 * HOUR);
        note(&*store, &[]).await;
        turn(7 * HOUR);
        assert_eq!(explained(&*store).await[0].1, "expired");
        store.note_pulls(Vec::new(), true).await.unwrap();
        assert_eq!(explained(&*store).await[0].1, "pulled", "some are unknown");
    }
}

/// A note of a time to come is no reason to stay for ever, and does not stop later ones.
#[tokio::test]
async fn notes_of_a_clock_that_is_set_back_are_mended() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a clock that is set back after a pull", folder.path()).await {
        let app = name("team/app");
        note(&*store, &[]).await;
        let one = push(&*store, &app, "one", &["v1"]).await;
        turn(10_000 * HOUR);
        note(&*store, &[(&one, Some("v1"))]).await;
        turn(-9_999 * HOUR);
        note(&*store, &[(&one, Some("v1"))]).await;
        assert_eq!(retain(&*store).await.removed, 0);
        turn(20 * HOUR);
        note(&*store, &[]).await;
        turn((WITHIN - 17) * HOUR);
        assert_eq!(retain(&*store).await.removed, 1);
    }
}

/// Two servers of one database note the same pulls, and the later time stays.
#[tokio::test]
async fn a_run_sees_a_pull_that_another_server_has_noted_since() {
    let folder = tempfile::tempdir().unwrap();
    let (store, turn) = clocked::sqlite(folder.path()).await;
    let app = name("team/app");
    note(&store, &[]).await;
    let one = push(&store, &app, "one", &["v1"]).await;
    turn((WITHIN + 3) * HOUR);
    let judged = store.list_tag_records(&app, Default::default()).await.unwrap().items.remove(0);
    note(&store, &[(&one, Some("v1"))]).await;
    let now = crate::store::meta::MetaBackend::fetch_time(store.meta()).await.unwrap();
    let unpulled_since = Some(now - WITHIN * HOUR - PULL_LAG);
    let expire = crate::store::meta::Change::ExpireTag {
        repository: app.clone(),
        record: judged,
        judged_at: now,
        unpulled_since,
    };
    let gone = crate::store::meta::MetaBackend::write(store.meta(), expire).await.unwrap();
    assert_eq!((gone, tags(&store, &app).await.len()), (0, 1));
}

/// What is restored may have been pulled before: a server of the empty store had noted nothing of it.
#[tokio::test]
async fn notes_begin_anew_with_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    #[allow(unused_mut, reason = "there may be one database")]
    let mut all = vec![SqlMeta::open(folder.path().join("hyper.db")).await.unwrap()];
    #[cfg(feature = "store-postgres")]
    if let Some(server) = super::postgres::server("notes of pulls after a restore") {
        all.push(super::postgres::connect(&server.url("notes after a restore")).await);
    }
    for meta in all {
        let note = async || meta.write(Change::NotePulls { pulls: Vec::new(), lost: false }).await.unwrap();
        note().await;
        assert!(meta.pulls_noted_since().await.unwrap().is_some());
        meta.begin_restore(1, "test").await.unwrap();
        // A server that began before.
        note().await;
        let (_, mut rows) = tokio::sync::mpsc::channel(1);
        meta.finish_restore(1, &mut rows, &RowCounts::default(), &[], false).await.unwrap();
        assert_eq!(meta.pulls_noted_since().await.unwrap(), None);
        // Nor is a run of retention due that nobody has prepared for.
        let last = meta.last_retention().await.unwrap().unwrap();
        assert!((last - SystemClock.now()).abs() < 60, "{last}");
        note().await;
        assert!(meta.pulls_noted_since().await.unwrap().is_some());
    }
}
