//! The maintenance tasks of a registry: one removes idle uploads, one what nothing keeps, one old tags, one looks for damage,
//! one notes pulls, and one counts what namespaces with a quota have.

use crate::audit::{AuditLog, Deed, Entry, Outcome};
use crate::auth::{Passwords, UserWatch};
use crate::ended_logins;
use crate::options::{GarbageCollection, Retention, Scrub};
use crate::state::State;
use hyper_sdk::ErrorKind;
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::store::{
    CollectOptions, EventLimits, PullNotes, RemovalObserver, RetentionEnd, RetentionObserver, RetentionTurn,
    ScrubEnd, ScrubObserver, ScrubTurn, SharedStore, TagDecision, TagReason,
};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How often a collection looks for bytes that no row of the database names, which takes a query for every blob.
const UNNAMED: Duration = Duration::from_secs(24 * 60 * 60);

/// How often events that are too old or too many are removed.
const PRUNE: Duration = Duration::from_secs(60);

/// Starts the maintenance tasks, once for each registry. Without a runtime, a later call starts them. They end when the
/// registry is dropped.
pub(crate) fn start(state: &Arc<State>) {
    if state.has_maintenance.load(Ordering::Relaxed) {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return };
    if state.has_maintenance.swap(true, Ordering::Relaxed) || state.options.read_only {
        return;
    }
    if let Some(age) = state.options.upload_max_age {
        runtime.spawn(expire_uploads(Arc::downgrade(state), age));
    }
    if let Some(options) = state.options.garbage_collection {
        runtime.spawn(collect_garbage(Arc::downgrade(state), options));
    }
    if let Some(options) = state.options.retention.clone() {
        runtime.spawn(expire_tags(Arc::downgrade(state), options));
    }
    if let Some(passwords) = &state.tokens {
        runtime.spawn(forget_logins(Arc::downgrade(state), Arc::downgrade(passwords)));
    }
    state.webhooks.start_waiting();
    if let Some(events) = state.options.events {
        runtime.spawn(prune_events(Arc::downgrade(state), events.limits));
    }
    if let Some(options) = state.options.scrub {
        runtime.spawn(scrub(Arc::downgrade(state), options));
    }
    if state.pulls.is_some() {
        runtime.spawn(note_pulls(Arc::downgrade(state)));
    }
    runtime.spawn(count_quotas(Arc::downgrade(state), state.changed_quotas.clone()));
}

async fn expire_uploads(state: Weak<State>, age: Duration) {
    let pause = (age / 4).clamp(Duration::from_millis(100), Duration::from_secs(600));
    loop {
        tokio::time::sleep(pause).await;
        let Some(state) = state.upgrade() else { return };
        match state.store.expire_uploads(age).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "idle uploads were removed"),
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            Err(error) => tracing::warn!(%error, "idle uploads cannot be removed"),
        }
    }
}

async fn prune_events(state: Weak<State>, limits: EventLimits) {
    loop {
        tokio::time::sleep(PRUNE).await;
        let Some(log) = state.upgrade().and_then(|state| state.store.event_log()) else { return };
        match log.prune(limits).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "old events were removed"),
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            Err(error) => tracing::warn!(%error, "old events cannot be removed"),
        }
    }
}

/// How often what was pulled is written to the store.
const NOTE: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(60) };
/// How long it may take at the end of a server.
const LAST_NOTES: Duration = Duration::from_secs(5);

async fn note_pulls(state: Weak<State>) {
    let mut failed = false;
    loop {
        if !write_pulls(&state, &mut failed).await {
            return;
        }
        let pulls = state.upgrade().and_then(|state| state.pulls.as_ref().map(PullNotes::many));
        let Some(many) = pulls else { return };
        match failed {
            true => tokio::time::sleep(NOTE).await,
            // Many notes are written before their time.
            false => drop(tokio::time::timeout(NOTE, many).await),
        }
    }
}

/// Writes the notes that wait. Returns whether the task goes on.
async fn write_pulls(state: &Weak<State>, failed: &mut bool) -> bool {
    let Some(state) = state.upgrade() else { return false };
    let Some(pulls) = &state.pulls else { return false };
    match pulls.write(&*state.store).await {
        Ok(_) => *failed = false,
        Err(e) if e.kind() == ErrorKind::Unsupported => return false,
        Err(error) => {
            if !*failed {
                tracing::warn!(%error, "pulls cannot be noted, and wait");
            }
            *failed = true;
        }
    }
    true
}

/// Writes the notes of pulls that wait, at the end of a server.
pub(crate) async fn note_last_pulls(state: &State) {
    let Some(pulls) = &state.pulls else { return };
    match tokio::time::timeout(LAST_NOTES, pulls.write(&*state.store)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last pulls are not noted"),
        Err(_) => tracing::warn!("the last pulls are not noted: the database is slow"),
    }
}

/// Writes a line of the audit log for each removal.
fn note_removals(log: AuditLog) -> RemovalObserver {
    Arc::new(move |removal| {
        log.note(&Entry { author: None, deed: Deed::collect(removal), outcome: Outcome::Done });
    })
}

async fn collect_garbage(state: Weak<State>, options: GarbageCollection) {
    let mut looked = None;
    loop {
        tokio::time::sleep(options.every).await;
        let Some(state) = state.upgrade() else { return };
        if let Some(audit) = &state.options.audit
            && audit.ready().await.is_err()
        {
            state.metrics.collection_failed();
            tracing::warn!("garbage is not removed: the audit log cannot be written");
            continue;
        }
        let unnamed = looked.is_none_or(|at: Instant| at.elapsed() >= UNNAMED);
        let observer = state.options.audit.clone().map(note_removals);
        let options = CollectOptions { unnamed, observer, ..options.options(SystemClock.now()) };
        match state.store.collect(options).await {
            Ok(collected) => {
                if unnamed && !collected.left_to_another {
                    looked = Some(Instant::now());
                }
                state.metrics.collected(&collected);
                if collected.manifests + collected.links + collected.blobs > 0 {
                    tracing::info!(
                        manifests = collected.manifests,
                        links = collected.links,
                        blobs = collected.blobs,
                        bytes = collected.bytes,
                        "garbage was removed"
                    );
                }
            }
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            Err(error) => {
                state.metrics.collection_failed();
                tracing::warn!(%error, "garbage cannot be removed");
            }
        }
    }
}

/// Counts each tag that is deleted, and writes a line of the audit log, also of one that may be deleted. A deletion that has begun
/// when the registry is dropped has its line, too.
fn note_expired(state: &Arc<State>) -> RetentionObserver {
    let (log, state) = (state.options.audit.clone(), Arc::downgrade(state));
    Arc::new(move |decision: &TagDecision| {
        let outcome = match decision.reason {
            TagReason::Unconfirmed => Outcome::Unknown,
            _ if decision.goes() => Outcome::Done,
            _ => return,
        };
        if let Some(state) = state.upgrade().filter(|_| outcome == Outcome::Done) {
            state.metrics.tag_expired();
        }
        if let Some(log) = &log {
            log.note(&Entry { author: None, deed: Deed::expire(decision), outcome });
        }
    })
}

async fn expire_tags(state: Weak<State>, options: Retention) {
    let turn = match RetentionTurn::new(options.every) {
        Ok(turn) => turn,
        Err(error) => return tracing::warn!(%error, "old tags cannot be deleted"),
    };
    let mut pause = options.every.min(ASK);
    loop {
        tokio::time::sleep(pause).await;
        pause = options.every.min(ASK);
        let Some(now) = state.upgrade() else { return };
        if let Some(audit) = &now.options.audit
            && audit.ready().await.is_err()
        {
            now.metrics.retention_failed();
            tracing::warn!("old tags are not deleted: the audit log cannot be written");
            pause = options.every.min(AFTER_FAILURE);
            continue;
        }
        // What was pulled a moment ago must not look old, nor what cannot be noted.
        if let Some(pulls) = now.pulls.as_ref().filter(|_| options.rules.asks_about_pulls())
            && let Err(error) = pulls.write(&*now.store).await
        {
            now.metrics.retention_failed();
            tracing::warn!(%error, "old tags are not deleted: pulls cannot be noted");
            pause = options.every.min(AFTER_FAILURE);
            continue;
        }
        let (store, authorizer, observer) = (now.store.clone(), now.authorizer.clone(), note_expired(&now));
        drop(now);
        let run = Retention::options(options.rules.clone(), authorizer, Some(turn), observer);
        // A run in a large store takes a while, and the registry may be dropped meanwhile.
        let retained = tokio::select! {
            retained = store.retain(run) => retained,
            () = dropped(&state) => return,
        };
        let Some(state) = state.upgrade() else { return };
        match retained {
            Ok(retained) => {
                if let Some(at) = retained.last_run {
                    state.metrics.retention_ended(at);
                }
                if retained.end == RetentionEnd::Complete {
                    state.metrics.retained();
                    tracing::info!(
                        repositories = retained.repositories,
                        tags = retained.tags,
                        removed = retained.removed,
                        changed = retained.changed,
                        "retention of tags has run"
                    );
                }
            }
            Err(error) => {
                state.metrics.retention_failed();
                tracing::warn!(%error, "old tags cannot be deleted");
                if error.kind() == ErrorKind::Unsupported {
                    return;
                }
                pause = options.every.min(AFTER_FAILURE);
            }
        }
    }
}

/// How often a scrub or a run of retention that is not due, or is left to another server, is asked for again, at most.
const ASK: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(60) };
/// How long a server leaves retention to others after a run that failed, at most.
const AFTER_FAILURE: Duration = if cfg!(test) { ASK } else { Duration::from_secs(60 * 60) };

async fn scrub(state: Weak<State>, options: Scrub) {
    let turn = match ScrubTurn::new(options.every) {
        Ok(turn) => turn,
        Err(error) => return tracing::warn!(%error, "blobs cannot be read again"),
    };
    let observer: ScrubObserver = Arc::new({
        let state = state.clone();
        move |event| {
            if let Some(state) = state.upgrade() {
                state.metrics.scrubbed(event);
            }
        }
    });
    loop {
        tokio::time::sleep(options.every.min(ASK)).await;
        let Some(store) = state.upgrade().map(|state| state.store.clone()) else { return };
        // A round takes days, and the registry may be dropped meanwhile.
        let scrubbed = tokio::select! {
            scrubbed = store.scrub(options.options(turn, observer.clone())) => scrubbed,
            () = dropped(&state) => return,
        };
        let Some(state) = state.upgrade() else { return };
        match scrubbed {
            Ok(scrubbed) => {
                if let Some(at) = scrubbed.last_round {
                    state.metrics.scrub_ended(at);
                }
                if scrubbed.end == ScrubEnd::Complete {
                    let (blobs, bytes, damaged) = (scrubbed.blobs, scrubbed.bytes, scrubbed.damaged);
                    tracing::info!(
                        blobs,
                        bytes,
                        damaged,
                        unreadable = scrubbed.unreadable,
                        "all blobs were read again"
                    );
                }
            }
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            Err(error) => tracing::warn!(%error, "blobs cannot be read again"),
        }
    }
}

/// How often the users are looked at, to forget the logins of those that were removed.
const LOGINS: Duration = Duration::from_secs(60);

async fn forget_logins(state: Weak<State>, passwords: Weak<Passwords>) {
    let (mut watch, mut gone) = (UserWatch::default(), HashSet::new());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOGINS) => {}
            () = dropped(&state) => return,
        }
        let (Some(now), Some(passwords)) = (state.upgrade(), passwords.upgrade()) else { return };
        let audit = now.options.audit.clone();
        drop(now);
        match watch.look(passwords.bindings(), Instant::now()) {
            Some(new) => gone.extend(new),
            None if gone.is_empty() => continue,
            None => {}
        }
        match ended_logins::forget(&passwords, audit.as_ref(), &gone).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(removed, "refresh tokens were removed: their user, password or time is gone")
            }
            Err(error) => {
                tracing::warn!(%error, "refresh tokens that have ended cannot be removed");
                continue;
            }
        }
        gone.clear();
    }
}

/// How often namespaces are looked for that nobody has begun to count.
const COUNT: Duration = Duration::from_secs(10 * 60);
/// How often a count is looked for that a push or another server has begun, and not ended.
const UNENDED: Duration = Duration::from_secs(20);
/// How long after a failure a count goes on.
const COUNT_AGAIN: Duration = Duration::from_secs(30);

async fn count_quotas(state: Weak<State>, changed: Arc<Notify>) {
    let mut all = None;
    loop {
        let Some(now) = state.upgrade() else { return };
        let (store, has_rules) = (now.store.clone(), !now.quotas().is_empty());
        drop(now);
        // What was counted once is counted to its end also without a rule, when there is time for it.
        let mut pause = if has_rules { UNENDED } else { COUNT };
        let is_due = match all.replace(Instant::now()) {
            None => has_rules,
            Some(at) if has_rules && at.elapsed() >= COUNT => true,
            before => {
                all = before;
                is_unended(&store).await
            }
        };
        if is_due {
            // It may be dropped between any two pieces, and goes on there.
            let counted = tokio::select! {
                counted = store.count_quotas() => counted,
                () = changed.notified() => {
                    all = None;
                    continue;
                }
                () = dropped(&state) => return,
            };
            match counted {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Unsupported => return,
                Err(error) => {
                    tracing::warn!(%error, "namespaces with a quota are not counted: their limits hold for what is");
                    pause = COUNT_AGAIN;
                    all = None;
                }
            }
        }
        drop(store);
        tokio::select! {
            () = changed.notified() => all = None,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether a count has begun and not ended.
async fn is_unended(store: &SharedStore) -> bool {
    store.is_counting().await.is_ok_and(|is_so| is_so)
}

async fn dropped(state: &Weak<State>) {
    while state.strong_count() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::RegistryOptions;
    use hyper_sdk::oci::{ImageIndex, Manifest};
    use hyper_sdk::store::blob::MemoryBlobs;
    use hyper_sdk::store::meta::{Change, MemoryMeta};
    use hyper_sdk::store::wrap::{FaultPlan, FaultyMeta};
    use hyper_sdk::store::{Composed, Page, PutManifest, RetentionRule, RetentionRules, SharedStore};
    use hyper_sdk::testing::FrozenClock;
    use hyper_sdk::{RepositoryName, RepositoryPattern, Tag, TextPattern};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A store in memory, and its clock.
    fn clocked() -> (SharedStore, Arc<FrozenClock>) {
        let clock = Arc::new(FrozenClock::new(1_800_000_000));
        let meta = MemoryMeta::with_clock(clock.clone());
        (Arc::new(Composed::new(MemoryBlobs::default(), meta)), clock)
    }

    /// Pushes some tags, a second apart.
    async fn push(store: &SharedStore, clock: &FrozenClock, tags: &[&str]) {
        let manifest = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes()).unwrap();
        for tag in tags {
            let put = PutManifest::new(manifest.clone(), [Tag::parse(tag).unwrap()]);
            store.put_manifest(&RepositoryName::parse("team/app").unwrap(), put).await.unwrap();
            clock.advance(1);
        }
    }

    async fn tags(store: &SharedStore) -> Vec<String> {
        let name = RepositoryName::parse("team/app").unwrap();
        let listing = store.list_tags(&name, Page::default()).await.unwrap();
        listing.items.iter().map(ToString::to_string).collect()
    }

    /// A server that keeps the newest tag of each repository.
    fn start_server(store: &SharedStore, audit: Option<AuditLog>) -> Arc<State> {
        let rule = RetentionRule {
            repositories: vec![RepositoryPattern::parse("**").unwrap()],
            tags: vec![TextPattern::of_tags("*").unwrap()],
            keep_newest: Some(1),
            keep_younger_than: None,
            keep_pulled_within: None,
            keep_tags: Vec::new(),
        };
        let rules = Arc::new(RetentionRules::new(vec![rule]).unwrap());
        let retention = Some(Retention { every: DAY, rules });
        let options = RegistryOptions { retention, audit, ..RegistryOptions::default() };
        let state = Arc::new(State::new(store.clone(), options).unwrap());
        start(&state);
        state
    }

    async fn wait_until(is_so: impl AsyncFn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is_so().await {
            assert!(Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn last_run(state: &State) -> i64 {
        state.metrics.last_retention.load(Ordering::Relaxed)
    }

    /// The store knows when the last run was, so a restart neither puts the next one off nor makes another one.
    #[tokio::test]
    async fn a_server_that_is_restarted_runs_retention_once_in_the_time_between_two_runs() {
        let (store, clock) = clocked();
        push(&store, &clock, &["b1", "b2", "b3"]).await;
        let first = start_server(&store, None);
        wait_until(async || last_run(&first) != 0).await;
        assert_eq!(tags(&store).await, ["b3"]);
        let ran = hyper_sdk::clock::Clock::now(&*clock);
        assert_eq!(last_run(&first), ran);
        drop(first);
        push(&store, &clock, &["b4"]).await;
        clock.advance(60 * 60);
        let second = start_server(&store, None);
        // It has asked several times by then.
        wait_until(async || last_run(&second) != 0).await;
        tokio::time::sleep(5 * ASK).await;
        assert_eq!((last_run(&second), tags(&store).await.len()), (ran, 2));
        assert_eq!(second.metrics.retentions.load(Ordering::Relaxed), 0);
        drop(second);
        clock.advance(23 * 60 * 60);
        let third = start_server(&store, None);
        wait_until(async || third.metrics.retentions.load(Ordering::Relaxed) == 1).await;
        assert_eq!(tags(&store).await, ["b4"]);
    }
    #[tokio::test]
    async fn without_an_audit_log_no_tag_is_deleted_and_the_failure_counts() {
        let (store, clock) = clocked();
        push(&store, &clock, &["b1", "b2"]).await;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::create_dir(&log).unwrap();
        let audit = AuditLog::open(&log.join("audit.log")).unwrap();
        std::fs::rename(&log, folder.path().join("gone")).unwrap();
        let deed = Deed::cancel_upload(&RepositoryName::parse("a").unwrap());
        audit.write(&Entry { author: None, deed, outcome: Outcome::Done }).await;
        let state = start_server(&store, Some(audit));
        wait_until(async || state.metrics.failed_retentions.load(Ordering::Relaxed) > 1).await;
        assert_eq!(tags(&store).await, ["b1", "b2"]);
        std::fs::create_dir(&log).unwrap();
        wait_until(async || last_run(&state) != 0).await;
        assert_eq!(tags(&store).await, ["b2"]);
    }

    #[tokio::test]
    async fn a_deletion_that_is_not_confirmed_has_a_line_that_says_so() {
        let (clock, plan) = (Arc::new(FrozenClock::new(1_800_000_000)), FaultPlan::none());
        let meta = FaultyMeta::new(MemoryMeta::with_clock(clock.clone()), plan.clone());
        let store: SharedStore = Arc::new(Composed::new(MemoryBlobs::default(), meta));
        push(&store, &clock, &["b1", "b2"]).await;
        plan.refuse(ErrorKind::Unavailable, |change| matches!(change, Change::ExpireTag { .. }));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let state = start_server(&store, Some(AuditLog::open(&path).unwrap()));
        wait_until(async || last_run(&state) != 0).await;
        wait_until(async || std::fs::read_to_string(&path).unwrap().lines().count() == 2).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (line, outcome) in lines.iter().zip(["unknown", "done"]) {
            assert_eq!(
                (&line["action"], &line["outcome"]),
                (&"expire-tag".into(), &outcome.into()),
                "{text}"
            );
            assert_eq!(line["tags"][0], "b1");
        }
        assert_eq!(state.metrics.failed_retentions.load(Ordering::Relaxed), 1);
    }
}
