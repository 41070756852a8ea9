//! The maintenance tasks of a registry: one removes idle uploads, one what nothing keeps, one old tags, and one looks for
//! damage.

use crate::audit::{AuditLog, Deed, Entry, Outcome};
use crate::options::{GarbageCollection, Retention, Scrub};
use crate::state::State;
use hyper_sdk::ErrorKind;
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::store::{
    CollectOptions, RemovalObserver, RetentionObserver, ScrubEnd, ScrubObserver, ScrubTurn, TagDecision,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How often a collection looks for bytes that no row of the database names, which takes a query for every blob.
const UNNAMED: Duration = Duration::from_secs(24 * 60 * 60);

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
    if let Some(options) = state.options.scrub {
        runtime.spawn(scrub(Arc::downgrade(state), options));
    }
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

/// Counts each tag that is deleted, and writes a line of the audit log.
fn note_expired(state: Weak<State>) -> RetentionObserver {
    Arc::new(move |decision: &TagDecision| {
        let Some(state) = state.upgrade().filter(|_| decision.goes()) else { return };
        state.metrics.tag_expired();
        if let Some(log) = &state.options.audit {
            log.note(&Entry { author: None, deed: Deed::expire(decision), outcome: Outcome::Done });
        }
    })
}

async fn expire_tags(state: Weak<State>, options: Retention) {
    loop {
        tokio::time::sleep(options.every).await;
        let Some(now) = state.upgrade() else { return };
        if let Some(audit) = &now.options.audit
            && audit.ready().await.is_err()
        {
            now.metrics.retention_failed();
            tracing::warn!("old tags are not deleted: the audit log cannot be written");
            continue;
        }
        let (store, authorizer) = (now.store.clone(), now.authorizer.clone());
        drop(now);
        let observer = note_expired(state.clone());
        // A run in a large store takes a while, and the registry may be dropped meanwhile.
        let retained = tokio::select! {
            retained = store.retain(Retention::options(options.rules.clone(), authorizer, observer)) => retained,
            () = dropped(&state) => return,
        };
        let Some(state) = state.upgrade() else { return };
        match retained {
            Ok(retained) => {
                state.metrics.retained();
                tracing::info!(
                    repositories = retained.repositories,
                    tags = retained.tags,
                    removed = retained.removed,
                    changed = retained.changed,
                    "retention of tags has run"
                );
            }
            Err(error) => {
                state.metrics.retention_failed();
                tracing::warn!(%error, "old tags cannot be deleted");
                if error.kind() == ErrorKind::Unsupported {
                    return;
                }
            }
        }
    }
}

/// How often a scrub that is not due, or is left to another server, is asked for again, at most.
const ASK: Duration = Duration::from_secs(60);

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

async fn dropped(state: &Weak<State>) {
    while state.strong_count() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
