//! Damage is found, quarantined, and repaired by the next push; nothing else is.

use super::collection::name;
use super::*;
use crate::ErrorKind;
use crate::media_type;
use crate::oci::{Descriptor, ImageManifest};
use crate::reference::ManifestReference;
use crate::store::blob::{BlobBackend, BlobKey, MemoryBlobs};
use crate::store::meta::{Change, MemoryMeta, MetaBackend, ScrubPlace};
use crate::store::wrap::{FaultPlan, FaultyBlobs};
use std::sync::Mutex;

/// A backend whose bytes a test can damage.
#[async_trait]
pub(super) trait Spoil: BlobBackend {
    /// Replaces the bytes under a key, or removes them.
    async fn spoil(&self, key: &BlobKey, bytes: Option<&str>);
}

#[async_trait]
impl Spoil for blob::DiskBlobs {
    async fn spoil(&self, key: &BlobKey, bytes: Option<&str>) {
        let path = self.path(key).unwrap();
        match bytes {
            // In place, as a disk does it.
            Some(bytes) if path.exists() => std::fs::write(path, bytes).unwrap(),
            Some(_) => {}
            None => std::fs::remove_file(path).unwrap(),
        }
    }
}

#[cfg(feature = "store-s3")]
#[async_trait]
impl Spoil for blob::S3Blobs {
    async fn spoil(&self, key: &BlobKey, bytes: Option<&str>) {
        self.replace(key, bytes).await;
    }
}

fn whole() -> ScrubOptions {
    ScrubOptions { quarantine: true, ..ScrubOptions::default() }
}

/// What a scrub finds.
async fn damage(store: &dyn RegistryStore, quarantine: bool) -> (Scrubbed, Vec<BlobDamage>) {
    let found = Arc::new(Mutex::new(Vec::new()));
    let observer: ScrubObserver = Arc::new({
        let found = found.clone();
        move |event: &ScrubEvent<'_>| {
            if let ScrubEvent::Damaged(damage) = event {
                found.lock().unwrap().push((*damage).clone());
            }
        }
    });
    let options = ScrubOptions { quarantine, observer: Some(observer), ..ScrubOptions::default() };
    let scrubbed = store.scrub(options).await.unwrap();
    let found = std::mem::take(&mut *found.lock().unwrap());
    (scrubbed, found)
}

const LAYERS: [&str; 4] = ["flipped", "cut short", "missing", "whole"];

async fn push(store: &dyn RegistryStore, at: &RepositoryName, text: &'static str) -> Descriptor {
    let digest = Digest::sha256(text);
    store.put_blob(at, &digest, Bytes::from_static(text.as_bytes())).await.unwrap();
    Descriptor::new(media_type::OCI_LAYER, digest, text.len() as u64)
}

/// From the damage to the push that repairs it.
pub(super) async fn damage_is_quarantined_until_a_push<B: Spoil, M: MetaBackend>(store: Composed<B, M>) {
    let (a, b) = (name("a"), name("b"));
    let config = Descriptor { media_type: media_type::OCI_CONFIG.into(), ..push(&store, &a, "{}").await };
    let mut layers = Vec::new();
    for text in LAYERS {
        layers.push(push(&store, &a, text).await);
    }
    let image = Manifest::sniff(ImageManifest::new(config, layers.clone()).to_bytes()).unwrap();
    let put = |tag: &str| PutManifest::new(image.clone(), [Tag::parse(tag).unwrap()]);
    store.put_manifest(&a, put("latest")).await.unwrap();
    for (layer, bytes) in layers.iter().zip([Some("flippet"), Some("cut"), None]) {
        let key = store.meta().blob(&a, &layer.digest).await.unwrap().unwrap().key;
        store.blobs().spoil(&key, bytes).await;
    }

    // Without the order to quarantine, nothing changes.
    for _ in 0..2 {
        let (scrubbed, found) = damage(&store, false).await;
        assert_eq!((scrubbed.blobs, scrubbed.damaged, scrubbed.unreadable), (5, 3, 0));
        let kind = |text| found.iter().find(|d| d.digest == Digest::sha256(text)).map(|d| d.kind);
        assert_eq!(
            [kind("flipped"), kind("cut short"), kind("missing")],
            [Some(DamageKind::Content), Some(DamageKind::Size { stored: 3 }), Some(DamageKind::Missing)]
        );
        assert_eq!(store.stat_blob(&a, &layers[0].digest).await.unwrap(), 7);
    }
    let (scrubbed, found) = damage(&store, true).await;
    assert_eq!(scrubbed.damaged, 3);
    for damage in &found {
        assert_eq!(damage.repositories, std::slice::from_ref(&a));
        let at = meta::ManifestAt { repository: a.clone(), digest: image.digest().clone() };
        assert_eq!(damage.manifests, [at], "{damage}");
    }
    // Nobody is told that they are there, and no collection takes away what a push needs.
    let later = CollectOptions { leases_until: Some(i64::MAX), ..CollectOptions::default() };
    store.collect(later.clone()).await.unwrap();
    for layer in &layers[..3] {
        let digest = &layer.digest;
        let errors = [
            store.stat_blob(&a, digest).await.unwrap_err(),
            store.lease_blob(&a, digest).await.unwrap_err(),
            store.get_blob(&a, digest, None).await.unwrap_err(),
            store.mount_blob(&b, digest, &a).await.unwrap_err(),
        ];
        assert_eq!(errors.map(|e| e.kind()), [ErrorKind::BlobUnknown; 4]);
    }
    let refused = store.put_manifest(&a, put("again")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ManifestBlobUnknown);
    let latest = ManifestReference::Tag(Tag::latest());
    assert_eq!(store.get_manifest(&a, &latest).await.unwrap().digest(), image.digest());

    for text in LAYERS {
        push(&store, &a, text).await;
        assert_eq!(store.read_blob(&a, &Digest::sha256(text), 100).await.unwrap(), text);
        store.mount_blob(&b, &Digest::sha256(text), &a).await.unwrap();
    }
    store.put_manifest(&a, put("again")).await.unwrap();
    assert_eq!(damage(&store, true).await.0.damaged, 0);
    // What was kept aside is garbage now.
    store.delete_manifest(&a, &image.digest().clone().into()).await.unwrap();
    for at in [&a, &b] {
        for text in LAYERS {
            store.delete_blob(at, &Digest::sha256(text)).await.unwrap();
        }
    }
    store.collect(later).await.unwrap();
    assert!(store.meta().linked_blobs(None, 10).await.unwrap().is_empty());
}

#[cfg(feature = "store-sql")]
#[tokio::test]
async fn damage_in_a_folder_is_quarantined_until_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    damage_is_quarantined_until_a_push(store.clone()).await;
    let kept = || std::fs::read_dir(folder.path().join("quarantine")).unwrap().count();
    assert_eq!(kept(), 2, "the damaged bytes are kept");
    assert_eq!(store.blobs().forget_set_aside(std::time::UNIX_EPOCH).await.unwrap(), 0);
    let later = std::time::SystemTime::now() + Duration::from_secs(60);
    assert_eq!(store.blobs().forget_set_aside(later).await.unwrap(), 2);
    assert_eq!(kept(), 0);
}

#[cfg(feature = "store-postgres")]
#[tokio::test]
async fn damage_in_a_folder_with_postgres_is_quarantined_until_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let Some(meta) = postgres::meta(&folder.path().join("meta")).await else { return };
    let blobs = blob::DiskBlobs::open(folder.path().join("blobs")).await.unwrap();
    damage_is_quarantined_until_a_push(Composed::new(blobs, meta)).await;
}

/// A process that died between two steps of moving a damaged file away has moved a whole one.
#[tokio::test]
async fn a_whole_file_that_lies_aside_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = blob::DiskBlobs::open(folder.path()).await.unwrap();
    let store = Composed::new(blobs, MemoryMeta::default());
    let digest = push(&store, &name("a"), "hello").await.digest;
    let aside = folder.path().join("quarantine");
    std::fs::create_dir(&aside).unwrap();
    let path = store.blobs().path(&digest.clone().into()).unwrap();
    std::fs::write(aside.join(format!("sha256-{}.0", digest.hex())), "jello").unwrap();
    std::fs::rename(path, aside.join(format!("sha256-{}.1", digest.hex()))).unwrap();
    assert_eq!(damage(&store, true).await.0.damaged, 0);
    assert_eq!(store.read_blob(&name("a"), &digest, 100).await.unwrap(), "hello");
}

/// Whatever fails while a whole store is scrubbed, nothing is quarantined.
#[tokio::test]
async fn a_failure_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let plan = FaultPlan::none();
    let blobs = FaultyBlobs::new(blob::DiskBlobs::open(folder.path()).await.unwrap(), plan.clone());
    let store = Composed::new(blobs, MemoryMeta::default());
    for text in LAYERS {
        push(&store, &name("a"), text).await;
    }
    for k in 1..=4 {
        plan.fail_at(k);
        let scrubbed = store.scrub(whole()).await.unwrap();
        assert!(plan.has_failed(), "{k}");
        assert_eq!((scrubbed.blobs, scrubbed.damaged, scrubbed.unreadable), (4, 0, 1), "{k}");
    }
    plan.fail_at(0);
    let scrubbed = store.scrub(whole()).await.unwrap();
    assert_eq!((scrubbed.blobs, scrubbed.damaged, scrubbed.unreadable), (4, 0, 0));
    assert!(!folder.path().join("quarantine").exists());
}

/// A blob that is damaged, scrubbed and pushed at once can be read when the push is answered.
pub(super) async fn a_push_wins_against_scrubs<B: Spoil, M: MetaBackend>(store: Composed<B, M>) {
    let at = name("a");
    let digest = push(&store, &at, "hello").await.digest;
    for round in 0..60 {
        let key = store.meta().blob(&at, &digest).await.unwrap().unwrap().key;
        store.blobs().spoil(&key, Some(if round % 2 == 0 { "jello" } else { "hell" })).await;
        let scrub = || {
            let store = store.clone();
            tokio::spawn(async move { store.scrub(whole()).await })
        };
        let scrubs = [scrub(), scrub()];
        let collect = tokio::spawn({
            let store = store.clone();
            async move { store.collect(CollectOptions::default()).await }
        });
        push(&store, &at, "hello").await;
        let read = store.read_blob(&at, &digest, 100).await;
        assert_eq!(read.unwrap_or_else(|e| panic!("round {round}: {e}")), "hello");
        for scrub in scrubs {
            scrub.await.unwrap().unwrap();
        }
        collect.await.unwrap().unwrap();
        assert_eq!(store.read_blob(&at, &digest, 100).await.unwrap(), "hello", "round {round}");
    }
}

#[cfg(feature = "store-sql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_push_wins_against_scrubs_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    a_push_wins_against_scrubs(DiskStore::open(folder.path()).await.unwrap()).await;
}

/// Scrubs beside pushes, deletions and collections of whole blobs find nothing.
#[cfg(feature = "store-sql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whole_blobs_are_never_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    let mut tasks = Vec::new();
    for pusher in 0..3 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let at = name(&format!("r{pusher}"));
            for round in 0..60 {
                let digest = push(&store, &at, LAYERS[round % 4]).await.digest;
                assert_eq!(store.read_blob(&at, &digest, 100).await.unwrap(), LAYERS[round % 4]);
                store.delete_blob(&at, &digest).await.unwrap();
            }
        }));
    }
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        let (scrubbed, found) = damage(&store, true).await;
        assert!(scrubbed.damaged == 0, "{found:?}");
        store.collect(CollectOptions::default()).await.unwrap();
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(!folder.path().join("quarantine").exists());
}

#[tokio::test]
async fn a_scrub_goes_on_where_it_was_stopped() {
    let store = Composed::new(MemoryBlobs::default(), MemoryMeta::default());
    for n in 0..6 {
        let text = format!("blob {n}");
        store.put_blob(&name("a"), &Digest::sha256(&text), text.into()).await.unwrap();
    }
    let turn = ScrubTurn::new(Duration::from_secs(3600)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let begun = Arc::new(Mutex::new(Vec::new()));
    let (third, reached) = (Arc::new(tokio::sync::Notify::new()), seen.clone());
    let observer: ScrubObserver = Arc::new({
        let (third, begun) = (third.clone(), begun.clone());
        move |event: &ScrubEvent<'_>| {
            if let ScrubEvent::Begins(last) = event {
                begun.lock().unwrap().push(*last);
            }
            if let ScrubEvent::Whole(digest) = event {
                reached.lock().unwrap().push((*digest).clone());
                if reached.lock().unwrap().len() == 3 {
                    third.notify_one();
                }
            }
        }
    });
    // Ten blobs in a second.
    let slow = ScrubOptions { turn: Some(turn), observer: Some(observer), rate: Some(640 * 1024), ..whole() };
    tokio::select! {
        ended = store.scrub(slow.clone()) => panic!("{ended:?}"),
        () = third.notified() => {}
    }
    let other = ScrubOptions { turn: Some(ScrubTurn::new(Duration::ZERO).unwrap()), ..whole() };
    let elsewhere = store.scrub(other.clone()).await.unwrap();
    assert_eq!((elsewhere.end, elsewhere.blobs), (ScrubEnd::LeftToAnother, 0));
    let rest = store.scrub(ScrubOptions { rate: None, ..slow.clone() }).await.unwrap();
    assert_eq!(rest.end, ScrubEnd::Complete);
    assert!(rest.blobs < 6, "it began anew");
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.dedup();
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted());
    // It is not due again; where it is, whoever comes first begins.
    assert_eq!(store.scrub(slow).await.unwrap().end, ScrubEnd::NotDue);
    assert_eq!(*begun.lock().unwrap(), [None, None]);
    let observer: ScrubObserver = Arc::new({
        let begun = begun.clone();
        move |event: &ScrubEvent<'_>| {
            if let ScrubEvent::Begins(last) = event {
                begun.lock().unwrap().push(*last);
            }
        }
    });
    let other = ScrubOptions { observer: Some(observer), ..other };
    assert_eq!(store.scrub(other).await.unwrap().blobs, 6);
    assert_eq!(begun.lock().unwrap()[2..], [rest.last_round]);
    let place = store.meta().scrub_place().await.unwrap();
    assert!(place.after.is_none() && place.ended_at == rest.last_round.max(place.ended_at), "{place:?}");
}

/// A server that was stopped for long loses the right to go on.
#[tokio::test]
async fn a_scrub_ends_when_another_server_has_its_turn() {
    let store = Composed::new(MemoryBlobs::default(), MemoryMeta::default());
    for text in LAYERS {
        push(&store, &name("a"), text).await;
    }
    let turn = ScrubTurn::new(Duration::from_secs(3600)).unwrap();
    let hold = |holder, seconds| Change::HoldScrub { holder, seconds, place: None };
    let observer: ScrubObserver = Arc::new({
        let meta = store.meta().clone();
        move |event: &ScrubEvent<'_>| {
            if let ScrubEvent::Whole(_) = event {
                for change in [hold(turn.holder, 0), hold(!turn.holder, 60)] {
                    let _ = futures::executor::block_on(meta.write(change));
                }
            }
        }
    });
    let options = ScrubOptions { turn: Some(turn), observer: Some(observer), ..whole() };
    let scrubbed = store.scrub(options).await.unwrap();
    assert_eq!((scrubbed.end, scrubbed.blobs), (ScrubEnd::LeftToAnother, 1));
    assert_eq!(store.meta().scrub_place().await.unwrap().ended_at, ScrubPlace::default().ended_at);
}

#[cfg(feature = "store-s3")]
mod in_a_bucket {
    use super::*;
    use crate::store::blob::S3Blobs;
    use object_store::memory::InMemory;

    fn in_memory() -> S3Blobs {
        S3Blobs::over(Arc::new(InMemory::new()), "s3://memory/r".parse().unwrap())
    }

    #[tokio::test]
    async fn damage_is_quarantined_until_a_push() {
        super::damage_is_quarantined_until_a_push(Composed::new(in_memory(), MemoryMeta::default())).await;
        let folder = tempfile::tempdir().unwrap();
        let meta = meta::SqlMeta::open(folder.path().join("db")).await.unwrap();
        super::damage_is_quarantined_until_a_push(Composed::new(in_memory(), meta)).await;
    }

    #[cfg(feature = "store-postgres")]
    #[tokio::test]
    async fn damage_on_a_server_with_postgres_is_quarantined_until_a_push() {
        let folder = tempfile::tempdir().unwrap();
        let Some(blobs) = s3::blobs_of(folder.path()) else { return };
        let Some(meta) = postgres::meta(folder.path()).await else { return };
        super::damage_is_quarantined_until_a_push(Composed::new(blobs, meta)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_push_wins_against_scrubs() {
        let folder = tempfile::tempdir().unwrap();
        let meta = meta::SqlMeta::open(folder.path().join("db")).await.unwrap();
        super::a_push_wins_against_scrubs(Composed::new(in_memory(), meta)).await;
    }
}
