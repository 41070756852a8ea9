//! Retention of tags beside pushes, deletions, other runs, and clocks that are set back.

use super::clocked::{self, Turn, stores};
use super::retention::{HOUR, name, push, rules, tag, tags};
use crate::ErrorKind;
use crate::store::blob::MemoryBlobs;
use crate::store::errors::is_clock_back;
use crate::store::meta::{Change, MemoryMeta};
use crate::store::wrap::{FaultPlan, FaultyMeta};
use crate::store::{
    Composed, RegistryStore, RetainOptions, RetentionEnd, RetentionObserver, RetentionTurn, SharedStore,
    TagDecision, TagProtection, TagReason,
};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Waits for a future within a function that a run calls.
fn meanwhile<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

/// A protection that protects nothing, and does something when it is asked about a tag for the n-th time.
fn at_question(
    asked: &'static str,
    number: u64,
    work: impl Fn() + Send + Sync + 'static,
) -> Option<TagProtection> {
    let count = AtomicU64::new(0);
    Some(Arc::new(move |_, tag| {
        if tag.as_str() == asked && count.fetch_add(1, Ordering::SeqCst) + 1 == number {
            work();
        }
        None
    }))
}

type Told = Arc<Mutex<Vec<(String, TagReason)>>>;

fn listener() -> (Told, Option<RetentionObserver>) {
    let told = Told::default();
    let its = told.clone();
    let observer = move |decision: &TagDecision| {
        its.lock().unwrap().push((decision.record.tag.to_string(), decision.reason.clone()));
    };
    (told, Some(Arc::new(observer)))
}

/// Pushes tags, an hour apart, and waits an hour.
async fn push_each(store: &dyn RegistryStore, turn: &Turn, tags: &[&str]) {
    for tag in tags {
        push(store, &name("team/app"), tag, &[tag]).await;
        turn(HOUR);
    }
}

/// A tag that is moved, pushed again or deleted between the judgement and the deletion is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_changes_during_a_run_stays() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a tag that changes during a run", folder.path()).await {
        let app = name("team/app");
        push(&*store, &app, "one", &["a", "b", "c", "d"]).await;
        turn(2 * HOUR);
        let its = store.clone();
        // The run has judged the others by then.
        let protection = at_question("d", 1, move || {
            meanwhile(async {
                push(&*its, &name("team/app"), "two", &["a"]).await;
                its.delete_manifest(&name("team/app"), &tag("b").into()).await.unwrap();
                push(&*its, &name("team/app"), "one", &["c"]).await;
            });
        });
        let (told, observer) = listener();
        let retained =
            store.retain(RetainOptions { protection, observer, ..rules(None, Some(1)) }).await.unwrap();
        assert_eq!((retained.removed, retained.changed), (1, 3), "{told:?}");
        let changed: Vec<bool> =
            told.lock().unwrap().iter().map(|(_, reason)| *reason == TagReason::Changed).collect();
        assert_eq!(changed, [true, true, true, false]);
        assert_eq!(tags(&*store, &app).await, ["a", "c"]);
    }
}

/// Whoever deletes the newest tags during a run still has as many as the rule says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_keeps_its_number_when_the_newest_are_deleted_during_a_run() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("the newest are deleted", folder.path()).await {
        push_each(&*store, &turn, &["a", "b", "c", "d", "e"]).await;
        let its = store.clone();
        // The first question is that of the count.
        let protection = at_question("a", 2, move || {
            meanwhile(async {
                for newest in ["d", "e"] {
                    its.delete_manifest(&name("team/app"), &tag(newest).into()).await.unwrap();
                }
            });
        });
        let retained = store.retain(RetainOptions { protection, ..rules(Some(2), None) }).await.unwrap();
        assert_eq!(retained.removed, 1);
        assert_eq!(tags(&*store, &name("team/app")).await, ["b", "c"]);
    }
}

/// The same after some of the tags are gone: each time before others go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_are_looked_for_before_each_deletion() {
    let (store, turn) = clocked::memory();
    let all: Vec<String> = (0..100).map(|number| format!("b{number:03}")).collect();
    push_each(&store, &turn, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (its, deleted) = (store.clone(), AtomicBool::new(false));
    let observer: RetentionObserver = Arc::new(move |decision| {
        if decision.goes() && !deleted.swap(true, Ordering::SeqCst) {
            for newest in ["b098", "b099"] {
                meanwhile(its.delete_manifest(&name("team/app"), &tag(newest).into())).unwrap();
            }
        }
    });
    store.retain(RetainOptions { observer: Some(observer), ..rules(Some(2), None) }).await.unwrap();
    assert_eq!(tags(&store, &name("team/app")).await, ["b096", "b097"]);
}

/// A tag that becomes immutable stays, and gives its place to another.
#[tokio::test]
async fn a_tag_that_becomes_protected_during_a_run_stays() {
    let (store, turn) = clocked::memory();
    push_each(&store, &turn, &["a", "b", "c"]).await;
    let protection = |protected: &'static str, from: u64| -> Option<TagProtection> {
        let count = AtomicU64::new(0);
        Some(Arc::new(move |_, tag| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            (number >= from && tag.as_str() == protected).then(|| "it is immutable".to_owned())
        }))
    };
    // Three questions count the tags.
    let options = RetainOptions { protection: protection("c", 4), ..rules(Some(1), None) };
    assert_eq!(store.retain(options).await.unwrap().removed, 1);
    assert_eq!(tags(&store, &name("team/app")).await, ["b", "c"]);
    // Two questions judge them, by their age.
    let (told, observer) = listener();
    let options = RetainOptions { protection: protection("b", 3), observer, ..rules(None, Some(1)) };
    assert_eq!(store.retain(options).await.unwrap().removed, 1);
    assert_eq!(tags(&store, &name("team/app")).await, ["b"]);
    assert!(matches!(&told.lock().unwrap()[0], (tag, TagReason::Protected(_)) if tag == "b"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_beside_each_other_and_beside_pushes_delete_each_tag_once() {
    let folder = tempfile::tempdir().unwrap();
    let (store, turn) = clocked::sqlite(folder.path()).await;
    let app = name("team/app");
    let all: Vec<String> = (0..300).map(|number| format!("b{number:04}")).collect();
    for tags in all.chunks(10) {
        push(&store, &app, "one", &tags.iter().map(String::as_str).collect::<Vec<_>>()).await;
        turn(1);
    }
    let (removed, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let run = || async {
        let retained = store.retain(rules(Some(100), None)).await?;
        removed.fetch_add(retained.removed, Ordering::SeqCst);
        done.fetch_add(1, Ordering::SeqCst);
        Ok::<(), crate::Error>(())
    };
    let pushes = async {
        while done.load(Ordering::SeqCst) < 3 {
            push(&store, &app, "two", &["b0000"]).await;
        }
    };
    push(&store, &app, "two", &["b0000"]).await;
    turn(1);
    let (one, two, three, ()) = futures::join!(run(), run(), run(), pushes);
    one.and(two).and(three).unwrap();
    // It is the newest, whenever it was counted, and the second of the last one that stays has ten.
    let left = tags(&store, &app).await;
    assert!(left.contains(&"b0000".to_owned()), "it was pushed during the runs");
    assert!((100..=110).contains(&left.len()), "{}", left.len());
    assert_eq!(removed.load(Ordering::SeqCst), 300 - left.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a clock that goes back", folder.path()).await {
        push_each(&*store, &turn, &["a", "b"]).await;
        // After the last page is read, so that the transaction has to look.
        let its = turn.clone();
        let protection = at_question("a", 2, move || its(-HOUR));
        let error = store.retain(RetainOptions { protection, ..rules(Some(1), None) }).await.unwrap_err();
        assert!(is_clock_back(&error), "{error}");
        assert_eq!(tags(&*store, &name("team/app")).await, ["a", "b"]);
        turn(-24 * HOUR);
        let retained = store.retain(rules(Some(1), Some(1))).await.unwrap();
        assert_eq!(retained.removed, 0, "all tags are of a time to come");
        turn(26 * HOUR);
        assert_eq!(store.retain(rules(Some(1), None)).await.unwrap().removed, 1);
    }
}

/// A server knows the time of the database from its last write, and another one has written since the clock went back.
#[cfg(feature = "store-postgres")]
#[tokio::test]
async fn a_server_that_has_not_written_since_the_clock_went_back_deletes_nothing() {
    let Some((url, turn)) = clocked::postgres("two servers and a clock") else { return };
    let blobs = MemoryBlobs::default();
    let server = async || Composed::new(blobs.clone(), super::postgres::connect(&url).await);
    let (one, other) = (server().await, server().await);
    push(&one, &name("team/app"), "one", &["before"]).await;
    push(&other, &name("team/app"), "one", &["before"]).await;
    turn(-24 * HOUR);
    push(&one, &name("team/app"), "two", &["after"]).await;
    assert_eq!(other.retain(rules(None, Some(12))).await.unwrap().removed, 0);
    assert_eq!(tags(&one, &name("team/app")).await, ["after", "before"]);
    turn(13 * HOUR);
    assert_eq!(other.retain(rules(None, Some(12))).await.unwrap().removed, 1);
    assert_eq!(tags(&one, &name("team/app")).await, ["before"]);
}

/// Deletions that have begun when a run is dropped are told of.
#[tokio::test]
async fn what_a_dropped_run_deletes_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (store, turn) = clocked::sqlite(folder.path()).await;
    push_each(&store, &turn, &["a", "b", "c"]).await;
    let asked = Arc::new(AtomicU64::new(0));
    let its = asked.clone();
    let protection: TagProtection = Arc::new(move |_, tag| {
        its.fetch_add(u64::from(tag.as_str() == "c"), Ordering::SeqCst);
        None
    });
    let (told, observer) = listener();
    let options = RetainOptions { protection: Some(protection), observer, ..rules(None, Some(1)) };
    let mut run = Box::pin(store.retain(options));
    // The last question is right before the deletion.
    while asked.load(Ordering::SeqCst) < 2 {
        assert!(futures::poll!(run.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(run);
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while told.lock().unwrap().len() < 3 {
        assert!(tokio::time::Instant::now() < end, "{told:?}, {:?}", tags(&store, &name("team/app")).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(tags(&store, &name("team/app")).await.is_empty());
}

/// When the program ends during a deletion, the observer hears that the tags may be gone.
#[test]
fn what_the_end_of_the_program_cuts_off_is_told() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let (told, observer) = listener();
    let its = asked.clone();
    let protection: TagProtection = Arc::new(move |_, tag| {
        its.fetch_add(u64::from(tag.as_str() == "b"), Ordering::SeqCst);
        None
    });
    let lock = runtime.block_on(async {
        let (store, turn) = clocked::sqlite(folder.path()).await;
        push_each(&store, &turn, &["a", "b"]).await;
        let options = SqliteConnectOptions::new().filename(folder.path().join("clocked.db"));
        let mut lock = options.connect().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
        let options = RetainOptions { protection: Some(protection), observer, ..rules(None, Some(1)) };
        tokio::spawn(async move { store.retain(options).await });
        // The last question is right before the deletion, which waits for the lock.
        while asked.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        lock
    });
    assert!(told.lock().unwrap().is_empty());
    runtime.shutdown_timeout(Duration::from_secs(20));
    drop(lock);
    let told = told.lock().unwrap();
    assert_eq!(*told, ["a", "b"].map(|tag| (tag.to_owned(), TagReason::Unconfirmed)), "{told:?}");
}

/// A deletion that was not confirmed is told of, and ends the run.
#[tokio::test]
async fn a_deletion_that_is_not_confirmed_is_told() {
    let (clock, turn) = clocked::frozen();
    let plan = FaultPlan::none();
    let meta = FaultyMeta::new(MemoryMeta::with_clock(clock), plan.clone());
    let store: SharedStore = Arc::new(Composed::new(MemoryBlobs::default(), meta));
    push_each(&*store, &turn, &["a", "b", "c"]).await;
    plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::ExpireTag { .. }));
    let (told, observer) = listener();
    let error = store.retain(RetainOptions { observer, ..rules(Some(1), None) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.context().iter().any(|(key, value)| (*key, &**value) == ("deleted tags", "1")),
        "{error:?}"
    );
    let told = told.lock().unwrap();
    assert_eq!(told[0], ("a".to_owned(), TagReason::Unconfirmed));
    assert!(matches!(&told[1], (tag, TagReason::Expired { .. }) if tag == "b"), "{told:?}");
}

/// The servers of a database make one run in the time between two, wherever the last one was, and go on after one that died.
#[tokio::test]
async fn regular_runs_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("regular runs", folder.path()).await {
        push_each(&*store, &turn, &["a", "b"]).await;
        let [one, other] = [(); 2].map(|()| RetentionTurn::new(Duration::from_secs(86400)).unwrap());
        let run = async |turn| {
            let retained =
                store.retain(RetainOptions { turn: Some(turn), ..rules(Some(1), None) }).await.unwrap();
            (retained.end, retained.removed)
        };
        assert_eq!(run(one).await, (RetentionEnd::Complete, 1));
        push_each(&*store, &turn, &["c"]).await;
        for server in [other, one] {
            assert_eq!(run(server).await, (RetentionEnd::NotDue, 0));
        }
        turn(86400);
        // This one stops before its first page.
        let options = RetainOptions { turn: Some(one), ..rules(Some(1), None) };
        let died = at_question("b", 1, || panic!("the server dies"));
        let dying = std::panic::AssertUnwindSafe(store.retain(RetainOptions { protection: died, ..options }));
        assert!(futures::FutureExt::catch_unwind(dying).await.is_err());
        assert_eq!(run(other).await, (RetentionEnd::LeftToAnother, 0));
        turn(301);
        assert_eq!(run(other).await, (RetentionEnd::Complete, 1));
        assert_eq!(run(one).await, (RetentionEnd::NotDue, 0));
        turn(-7 * 86400);
        assert_eq!(run(one).await.0, RetentionEnd::Complete, "the clock was set back");
        // A server that has died, and then a clock that is set back.
        push_each(&*store, &turn, &["d", "e"]).await;
        turn(86400);
        let options = RetainOptions { turn: Some(one), ..rules(Some(1), None) };
        let died = at_question("d", 1, || panic!("the server dies"));
        let dying = std::panic::AssertUnwindSafe(store.retain(RetainOptions { protection: died, ..options }));
        assert!(futures::FutureExt::catch_unwind(dying).await.is_err());
        turn(-7 * 86400);
        assert_eq!(run(other).await.0, RetentionEnd::Complete);
    }
}

/// A run that fails counts as none: the next one is not put off.
#[tokio::test]
async fn a_regular_run_that_fails_is_due_again() {
    let (clock, turn) = clocked::frozen();
    let plan = FaultPlan::none();
    let meta = FaultyMeta::new(MemoryMeta::with_clock(clock), plan.clone());
    let store: SharedStore = Arc::new(Composed::new(MemoryBlobs::default(), meta));
    push_each(&*store, &turn, &["a", "b"]).await;
    let [one, other] = [(); 2].map(|()| RetentionTurn::new(Duration::from_secs(86400)).unwrap());
    plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::ExpireTag { .. }));
    let options = |turn| RetainOptions { turn: Some(turn), ..rules(Some(1), None) };
    store.retain(options(one)).await.unwrap_err();
    let retained = store.retain(options(other)).await.unwrap();
    assert_eq!((retained.end, retained.removed), (RetentionEnd::Complete, 1));
    assert!(retained.last_run.is_some());
}
