//! Events of several servers at once, of retention and collection, and after a restore.

use super::meta::SqlMeta;
use super::*;
use crate::oci::{ImageIndex, Manifest};
use crate::store::errors::is_cursor_gone;
use std::collections::BTreeSet;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn index(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

async fn push(store: &dyn RegistryStore, repository: &str, tag: &str, text: &str) -> Digest {
    let put = PutManifest::new(index(text), [Tag::parse(tag).unwrap()]);
    store.put_manifest(&name(repository), put).await.unwrap().digest
}

fn store_on(meta: SqlMeta) -> SharedStore {
    let store = Composed::new(blob::MemoryBlobs::default(), meta);
    store.event_log().unwrap().record(Some(EventRules::default()));
    Arc::new(store)
}

/// Reads from the first event on until there are so many.
async fn follow(log: SharedEventLog, count: usize) -> Vec<Event> {
    let (mut start, mut found) = (EventStart::Oldest, Vec::new());
    while found.len() < count {
        let page = log.read(&start, 7).await.unwrap();
        found.extend(page.events);
        start = EventStart::After(page.next);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    found
}

const WRITERS: usize = 4;
const PUSHES: usize = 25;

/// Two servers push at once, and a reader of each follows meanwhile: both see all events, in one order, without a gap.
async fn readers_miss_nothing(servers: [SqlMeta; 2]) {
    let stores = servers.clone().map(store_on);
    // The first push to each repository makes it, and each push makes a tag.
    let count = WRITERS * (1 + 2 * PUSHES);
    let readers: Vec<_> =
        stores.iter().map(|store| tokio::spawn(follow(store.event_log().unwrap(), count))).collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let store = stores[number % 2].clone();
            tokio::spawn(async move {
                for push_number in 0..PUSHES {
                    let tag = format!("t{push_number}");
                    push(&*store, &format!("r{number}"), &tag, &format!("{number} {push_number}")).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut seen = Vec::new();
    for reader in readers {
        seen.push(reader.await.unwrap());
    }
    assert_eq!(seen[0], seen[1]);
    let numbers: Vec<u64> = seen[0].iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=count as u64).collect::<Vec<_>>());
    let pushed = seen[0].iter().filter(|event| event.kind == EventKind::ManifestPushed);
    let digests: BTreeSet<_> = pushed.filter_map(|event| event.digest.clone()).collect();
    assert_eq!(digests.len(), WRITERS * PUSHES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_two_processes_on_sqlite_miss_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let open = async || SqlMeta::open(folder.path().join("hyper.db")).await.unwrap();
    readers_miss_nothing([open().await, open().await]).await;
}

#[cfg(feature = "store-postgres")]
mod postgres {
    use super::super::postgres::{connect, server};
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_of_two_servers_on_postgres_miss_nothing() {
        let Some(server) = server("events of two servers") else { return };
        let url = server.url("events of two servers");
        readers_miss_nothing([connect(&url).await, connect(&url).await]).await;
    }

    /// A transaction that has its numbers and does not commit for a while: the next one waits, so no reader sees a later number
    /// before.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_transaction_that_commits_late_is_not_missed() {
        let Some(server) = server("events that come late") else { return };
        let url = server.database();
        let meta = connect(&url).await;
        let database = url.split(['/', '?']).nth(3).unwrap().to_owned();
        let slow = "BEGIN; UPDATE registry_state SET kept_version = kept_version; \
                    UPDATE event_log SET last = last + 1; \
                    INSERT INTO events (sequence, created_at, repository, body) SELECT last, 0, 'slow', \
                    '{\"kind\":\"repository.emptied\",\"repository\":\"slow\"}' FROM event_log; \
                    SELECT pg_sleep(1.5); COMMIT";
        let slow = tokio::task::spawn_blocking(move || server.sql(&database, slow));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let store = store_on(meta);
        let log = store.event_log().unwrap();
        let pushing = tokio::spawn({
            let store = store.clone();
            async move { push(&*store, "a", "v1", "1").await }
        });
        let first = log.read(&EventStart::Oldest, 10).await.unwrap();
        assert!(first.events.is_empty(), "the push waits: {first:?}");
        let found = follow(log, 4).await;
        let names: Vec<_> = found.iter().map(|event| (event.sequence, event.repository.as_str())).collect();
        assert_eq!(names, [(1, "slow"), (2, "a"), (3, "a"), (4, "a")]);
        pushing.await.unwrap();
        slow.await.unwrap();
    }
}

/// Retention deletes in a task of its own, and who has asked for it is known there.
#[tokio::test]
async fn retention_and_collection_say_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_on(SqlMeta::open(folder.path().join("hyper.db")).await.unwrap());
    for tag in ["b1", "b2"] {
        push(&*store, "a", tag, tag).await;
    }
    let log = store.event_log().unwrap();
    let before = log.read(&EventStart::Now, 0).await.unwrap().next;
    let rule = RetentionRule {
        repositories: vec![crate::RepositoryPattern::parse("**").unwrap()],
        tags: vec![crate::TextPattern::of_tags("b1").unwrap()],
        keep_newest: None,
        keep_younger_than: Some(Duration::from_secs(1)),
        keep_pulled_within: None,
        keep_tags: Vec::new(),
    };
    let rules = Arc::new(RetentionRules::new(vec![rule]).unwrap());
    let operator = ChangeContext { actor: Some("operator".to_owned()), ..ChangeContext::default() };
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(operator.scope(store.retain(RetainOptions::new(rules))).await.unwrap().removed, 1);
    let collect = CollectOptions { untagged_until: Some(i64::MAX), ..CollectOptions::default() };
    assert_eq!(store.collect(collect).await.unwrap().manifests, 1);
    let events = log.read(&EventStart::After(before), 10).await.unwrap().events;
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.by.origin.as_deref(), event.by.actor.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [
            (EventKind::TagDeleted, Some("retention"), Some("operator")),
            (EventKind::ManifestDeleted, Some("collection"), None)
        ]
    );
}

/// What readers knew is not what a restored store has.
#[tokio::test]
async fn a_restored_store_begins_another_log() {
    use super::backup::{BackupFolder, CreateOptions, RestoreOptions, create, restore};
    let folder = tempfile::tempdir().unwrap();
    let source = DiskStore::open(folder.path().join("source")).await.unwrap();
    push(&source, "a", "v1", "1").await;
    let backups = BackupFolder::create(&folder.path().join("backups")).unwrap();
    let created = create(&source, &backups, &CreateOptions::default()).await.unwrap();
    let target = DiskStore::open(folder.path().join("target")).await.unwrap();
    let log = target.event_log().unwrap();
    let before = log.read(&EventStart::Now, 0).await.unwrap().next;
    restore(&backups, Some(&created.id), &target, &RestoreOptions::default()).await.unwrap();
    let e = log.read(&EventStart::After(before), 10).await.unwrap_err();
    assert!(is_cursor_gone(&e), "{e}");
    log.record(Some(EventRules::default()));
    push(&target, "a", "v1", "2").await;
    let events = log.read(&EventStart::Oldest, 10).await.unwrap().events;
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::ManifestPushed, EventKind::TagMoved]);
}
