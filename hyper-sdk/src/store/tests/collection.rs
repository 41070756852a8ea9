//! Random histories of pushes, deletions and collections, checked against a model; faults in a collection.

mod model;

use self::model::{Repository, Stored, Time};
use crate::clock::FrozenClock;
use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::{BlobBackend, BlobKey, MemoryBlobs};
use crate::store::meta::{Change, MemoryMeta, MetaBackend};
use crate::store::wrap::{FaultPlan, FaultyBlobs, FaultyMeta};
use crate::store::{
    BlobReader, CollectOptions, Composed, PutManifest, RegistryStore, RegistryStoreExt as _, Roots, Undelete,
};
use crate::testing::Random;
use crate::{Digest, ErrorKind};
use bytes::Bytes;
use futures::TryStreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const DAY: i64 = 24 * 60 * 60;
const BLOBS: usize = 8;
const REPOSITORIES: [&str; 3] = ["a", "b", "hyper.local/c"];
const TAGS: [&str; 3] = ["one", "two", "three"];

/// No roots besides tags, also in internal repositories.
#[derive(Debug)]
struct TagsAlone;

impl Roots for TagsAlone {
    fn keeps_manifest(&self, _: &RepositoryName, _: &Digest) -> bool {
        false
    }

    fn keeps_blob(&self, _: &RepositoryName, _: &Digest) -> bool {
        false
    }
}

pub(super) fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

/// The content of a blob of the histories. Some are larger than one read.
pub(super) fn content(n: usize) -> Bytes {
    Bytes::from(format!("blob {n} ").repeat(if n == 0 { 200_000 } else { 100 }))
}

pub(super) fn digest(n: usize) -> Digest {
    Digest::sha256(content(n))
}

/// What the store must have.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<&'static str, Repository>);

impl Model {
    fn at(&mut self, repository: &'static str) -> &mut Repository {
        self.0.entry(repository).or_default()
    }

    /// Every object can be read.
    async fn check(&self, store: &dyn RegistryStore, history: &[String]) {
        for (repository, content_of) in &self.0 {
            let repository = name(repository);
            for n in content_of.links.keys() {
                let read = store.read_blob(&repository, &digest(*n), 1 << 30).await;
                let read = read.unwrap_or_else(|e| panic!("blob {n} of {repository}: {e}\n{history:#?}"));
                assert!(read == content(*n), "blob {n} of {repository} has other bytes\n{history:#?}");
            }
            for digest in content_of.manifests.keys() {
                let found = store.get_manifest(&repository, &digest.clone().into()).await;
                found.unwrap_or_else(|e| panic!("manifest {digest} of {repository}: {e}\n{history:#?}"));
            }
            for (tag, digest) in &content_of.tags {
                let found = store.get_manifest(&repository, &Tag::parse(tag).unwrap().into()).await;
                assert_eq!(found.unwrap().digest(), digest, "{tag} of {repository}\n{history:#?}");
            }
        }
    }

    /// Follows a collection: what it had to remove is gone. When it failed, what it was free to remove may be gone, and
    /// the model takes over what is left.
    async fn collected(&mut self, store: &dyn RegistryStore, now: i64, untagged: bool, failed: bool) {
        for (repository, content_of) in &mut self.0 {
            let repository = name(repository);
            if untagged {
                let kept = content_of.kept(now);
                for digest in content_of.manifests.keys().cloned().collect::<Vec<_>>() {
                    if kept.contains(&digest) {
                        continue;
                    }
                    let there =
                        store.find_manifest(&repository, &digest.clone().into()).await.unwrap().is_some();
                    assert!(failed || !there, "{digest} of {repository} was not collected");
                    if !there {
                        content_of.manifests.remove(&digest);
                    }
                }
            }
            let referenced = content_of.referenced(now);
            for (n, lease) in content_of.links.clone() {
                if referenced.contains(&n) || lease > now {
                    continue;
                }
                let there = store.has_blob(&repository, &digest(n)).await.unwrap();
                if !there {
                    content_of.links.remove(&n);
                }
            }
        }
    }
}

/// Undeletes something that is kept. It fails when something is missing that was deleted by itself, or earlier.
async fn undelete(
    store: &dyn RegistryStore,
    model: &mut Model,
    repository: &'static str,
    now: i64,
    random: &mut Random,
) -> String {
    let (at, of) = (name(repository), model.at(repository));
    let all: Vec<Stored> = of.undeletable(now).cloned().collect();
    let Some(Stored { manifest, .. }) = random.pick(&all) else { return "nothing".to_owned() };
    let (mut is_whole, mut open) = (true, vec![manifest.digest().clone()]);
    while let Some(digest) = open.pop() {
        let deleted = all.iter().find(|stored| *stored.manifest.digest() == digest);
        let Some(stored) = of.manifests.get(&digest).or(deleted) else {
            is_whole = false;
            break;
        };
        is_whole &= deleted.is_none() || stored.blobs.iter().all(|n| of.links.contains_key(n));
        open.extend(stored.manifest.index().into_iter().flat_map(|i| &i.manifests).map(|e| e.digest.clone()));
    }
    let outcome = store.undelete(&at, Undelete::new(manifest.digest().clone())).await;
    match &outcome {
        Ok(descriptor) => assert!(is_whole && descriptor.digest == *manifest.digest(), "{manifest:?}"),
        Err(e) => assert!(!is_whole && e.kind() == ErrorKind::ManifestBlobUnknown, "{e}: {manifest:?}"),
    }
    // Entries come back with the index, or not at all.
    for digest in of.deleted.keys().cloned().collect::<Vec<_>>() {
        if store.find_manifest(&at, &digest.clone().into()).await.unwrap().is_some() {
            let (stored, _) = of.deleted.remove(&digest).unwrap();
            of.manifests.insert(digest, stored);
        }
    }
    assert_eq!(outcome.is_ok(), of.manifests.contains_key(manifest.digest()));
    format!("undelete {} of {repository}: {}", manifest.digest(), outcome.is_ok())
}

/// One step of a history.
async fn step(store: &dyn RegistryStore, model: &mut Model, clock: &Time, random: &mut Random) -> String {
    let repository = *random.pick(&REPOSITORIES).unwrap();
    let at = name(repository);
    let n = random.below(BLOBS);
    // A lease lasts at least a day.
    let lease = clock.now() + DAY - 1;
    let until = clock.now() + clock.window;
    match random.below(13) {
        0..=2 => {
            store.put_blob(&at, &digest(n), content(n)).await.unwrap();
            let old = model.at(repository).links.insert(n, lease).unwrap_or(lease);
            model.at(repository).links.insert(n, old.max(lease));
            format!("push blob {n} to {repository}")
        }
        3 => {
            let from = *random.pick(&REPOSITORIES).unwrap();
            let known = model.at(from).links.contains_key(&n);
            match store.mount_blob(&at, &digest(n), &name(from)).await {
                Ok(_) => {
                    let old = model.at(repository).links.get(&n).copied().unwrap_or(lease);
                    model.at(repository).links.insert(n, old.max(lease));
                }
                Err(e) => assert!(e.kind() == ErrorKind::BlobUnknown && !known, "mount of {n}: {e}"),
            }
            format!("mount blob {n} from {from} to {repository}")
        }
        4..=6 => {
            let links: Vec<usize> = model.at(repository).links.keys().copied().collect();
            let (Some(config), Some(layer)) = (random.pick(&links), random.pick(&links)) else {
                return "nothing".to_owned();
            };
            let describe =
                |n: usize| Descriptor::new(media_type::OCI_LAYER, digest(n), content(n).len() as u64);
            let mut image = ImageManifest::new(describe(*config), vec![describe(*layer)]);
            let all: Vec<Stored> = model.at(repository).manifests.values().cloned().collect();
            if random.once_in(3) {
                image.subject = random.pick(&all).map(|stored| stored.manifest.descriptor());
            }
            let manifest = Manifest::sniff(image.to_bytes()).unwrap();
            put(store, (model, until), repository, manifest, [*config, *layer].into(), random).await
        }
        7 => {
            let all: Vec<Stored> = model.at(repository).manifests.values().cloned().collect();
            let (Some(one), Some(two)) = (random.pick(&all), random.pick(&all)) else {
                return "nothing".to_owned();
            };
            let mut index = ImageIndex::new(vec![one.manifest.descriptor()]);
            if random.once_in(2) {
                index.subject = Some(two.manifest.descriptor());
            }
            let index = Manifest::sniff(index.to_bytes()).unwrap();
            put(store, (model, until), repository, index, BTreeSet::new(), random).await
        }
        8 => {
            let tags: Vec<&'static str> = model.at(repository).tags.keys().copied().collect();
            let Some(tag) = random.pick(&tags) else { return "nothing".to_owned() };
            store.delete_manifest(&at, &Tag::parse(tag).unwrap().into()).await.unwrap();
            let lost = model.at(repository).tags.remove(tag).unwrap();
            model.at(repository).lost.push((lost, until));
            format!("delete tag {tag} of {repository}")
        }
        9 => {
            let all: Vec<Digest> = model.at(repository).manifests.keys().cloned().collect();
            let Some(gone) = random.pick(&all) else { return "nothing".to_owned() };
            store.delete_manifest(&at, &gone.clone().into()).await.unwrap();
            model.at(repository).delete(gone, until);
            format!("delete manifest {gone} of {repository}")
        }
        10 => {
            let links: Vec<usize> = model.at(repository).links.keys().copied().collect();
            let Some(n) = random.pick(&links) else { return "nothing".to_owned() };
            store.delete_blob(&at, &digest(*n)).await.unwrap();
            model.at(repository).links.remove(n);
            format!("delete blob {n} of {repository}")
        }
        11 => undelete(store, model, repository, clock.now(), random).await,
        _ => {
            let hours = random.below(40) as i64;
            clock.pass(hours * 3600);
            format!("{hours} hours pass")
        }
    }
}

async fn put(
    store: &dyn RegistryStore,
    (model, until): (&mut Model, i64),
    repository: &'static str,
    manifest: Manifest,
    blobs: BTreeSet<usize>,
    random: &mut Random,
) -> String {
    let tag = random.once_in(2).then(|| *random.pick(&TAGS).unwrap());
    let put = PutManifest::new(manifest.clone(), tag.map(|tag| Tag::parse(tag).unwrap()));
    store.put_manifest(&name(repository), put).await.unwrap();
    let digest = manifest.digest().clone();
    if let Some(tag) = tag
        && let Some(lost) =
            model.at(repository).tags.insert(tag, digest.clone()).filter(|lost| *lost != digest)
    {
        model.at(repository).lost.push((lost, until));
    }
    model.at(repository).deleted.remove(&digest);
    model.at(repository).manifests.insert(digest.clone(), Stored { manifest, blobs });
    format!("put manifest {digest} to {repository}, tag {tag:?}")
}

fn options(clock: &Time, untagged: bool) -> CollectOptions {
    CollectOptions {
        untagged_until: untagged.then_some(i64::MAX),
        leases_until: Some(clock.now()),
        roots: Arc::new(TagsAlone),
        ..CollectOptions::default()
    }
}

/// Runs a history with the backends of `open`, which opens the same ones each time. Without a window their clock is of no account.
async fn history<B: BlobBackend, M: MetaBackend>(seed: u64, clock: &Time, open: impl AsyncFn() -> (B, M)) {
    let mut random = Random::new(seed);
    let (mut model, mut told) = (Model::default(), vec![format!("seed {seed}")]);
    let mut readers: Vec<(usize, BlobReader)> = Vec::new();
    let plan = FaultPlan::none();
    let reopen = async || {
        let (blobs, meta) = open().await;
        meta.set_undelete_window(clock.window).unwrap();
        Composed::new(FaultyBlobs::new(blobs, plan.clone()), FaultyMeta::new(meta, plan.clone()))
            .with_clock(clock.clock.clone())
    };
    let mut store = reopen().await;
    for _ in 0..120 {
        if !random.once_in(6) {
            told.push(step(&store, &mut model, clock, &mut random).await);
            continue;
        }
        let untagged = random.once_in(2);
        // A reader that is open reads to the end, or is told; it never gets other bytes.
        let links = model.0.iter().flat_map(|(r, c)| c.links.keys().map(move |n| (*r, *n)));
        if let Some((repository, n)) = random.pick(&links.collect::<Vec<_>>()) {
            readers.push((*n, store.get_blob(&name(repository), &digest(*n), None).await.unwrap()));
        }
        let failing = random.once_in(2);
        if failing {
            plan.after_the_operation(random.once_in(2));
            plan.fail_at(1 + random.below(40) as u64);
        }
        let outcome = store.collect(options(clock, untagged)).await;
        let failed = outcome.is_err();
        told.push(format!("collect, untagged: {untagged}: {outcome:?}"));
        assert!(!failed || failing && plan.has_failed(), "{told:#?}");
        plan.fail_at(0);
        if failed || random.once_in(4) {
            drop(store);
            store = reopen().await;
        }
        model.collected(&store, clock.now(), untagged, failed).await;
        model.check(&store, &told).await;
        for (n, reader) in readers.drain(..) {
            match reader.stream.try_collect::<Vec<Bytes>>().await {
                Ok(parts) => assert!(parts.concat() == content(n), "blob {n}\n{told:#?}"),
                Err(e) => assert!(matches!(e.kind(), ErrorKind::Corrupt), "{e}\n{told:#?}"),
            }
        }
    }
    // Quiescence: nothing is left but what a tag keeps.
    clock.pass(10 * DAY);
    store.collect(options(clock, true)).await.unwrap();
    model.collected(&store, clock.now(), true, false).await;
    model.check(&store, &told).await;
    let needed: BTreeSet<BlobKey> = model
        .0
        .values()
        .flat_map(|repository| repository.referenced(clock.now()))
        .map(|n| BlobKey::Digest(digest(n)))
        .collect();
    let there = store.blobs().list(None, 1000).await.unwrap().items;
    let mut there: BTreeSet<BlobKey> = there.into_iter().map(|stored| stored.key).collect();
    // A collector removes bytes under keys of the backend a day after the last row named them.
    let own: Vec<BlobKey> = there.extract_if(.., |key| matches!(key, BlobKey::Own(_))).collect();
    let mut named = 0;
    for key in &own {
        named += usize::from(store.meta().has_keys(std::slice::from_ref(key)).await.unwrap()[0]);
    }
    assert!(named <= needed.len(), "rows name {named} objects, for {} blobs\n{told:#?}", needed.len());
    assert!(there.is_subset(&needed), "left: {:?}\n{told:#?}", there.difference(&needed));
    assert!(store.meta().unlinked_blobs(None, 10).await.unwrap().is_empty(), "{told:#?}");
    let again = store.collect(options(clock, true)).await.unwrap();
    assert_eq!(again, Default::default(), "a second collection found more\n{told:#?}");
}

#[tokio::test]
async fn random_histories_in_memory_lose_nothing_and_leave_nothing() {
    for seed in 0..150 {
        let time = Time::with_window(seed as i64 % 3 * DAY);
        let (blobs, meta) = (MemoryBlobs::default(), MemoryMeta::with_clock(time.clock.clone()));
        history(seed, &time, async || (blobs.clone(), meta.clone())).await;
    }
}

#[cfg(feature = "store-sql")]
#[tokio::test]
async fn random_histories_on_disk_lose_nothing_and_leave_nothing() {
    use crate::store::{blob::DiskBlobs, meta::SqlMeta};
    // The test makes thousands of syncs, so it uses a folder in memory if there is one.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for seed in 1000..1012 {
        let (root, time) = (folder.path().join(seed.to_string()), Time::with_window(seed as i64 % 3 * DAY));
        history(seed, &time, async || {
            let blobs = DiskBlobs::open(&root).await.unwrap();
            (blobs, SqlMeta::open_with_clock(root.join("m.db"), time.clock.clone()).await.unwrap())
        })
        .await;
    }
}

#[cfg(feature = "store-postgres")]
#[tokio::test]
async fn random_histories_on_postgres_lose_nothing_and_leave_nothing() {
    let Some(server) = super::postgres::server("random histories on PostgreSQL") else { return };
    for seed in 2000..2008 {
        let (blobs, mut time) = (MemoryBlobs::default(), Time::with_window(seed as i64 % 3 * DAY));
        let Some((url, turn)) = super::clocked::postgres(&format!("history {seed}")) else { return };
        time.turn = Some(turn);
        history(seed, &time, async || (blobs.clone(), super::postgres::connect(&url).await)).await;
    }
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for seed in 3000..3004 {
        let (root, url) = (folder.path().join(seed.to_string()), server.url(&format!("history {seed}")));
        history(seed, &Time::with_window(0), async || {
            let blobs = crate::store::blob::DiskBlobs::open(&root).await.unwrap();
            (blobs, super::postgres::connect(&url).await)
        })
        .await;
    }
}

/// Metadata in PostgreSQL, and blobs in a bucket: the pair of several servers without a folder.
#[cfg(all(feature = "store-postgres", feature = "store-s3"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_on_postgres_with_a_bucket_lose_nothing_and_leave_nothing() {
    use crate::testing::{S3Server, given};
    let Some(server) = super::postgres::server("random histories on PostgreSQL with S3") else { return };
    if given::<&S3Server>("random histories on PostgreSQL with S3", S3Server::running()).is_none() {
        return;
    }
    for seed in 4000..4002 {
        let url = server.url(&format!("history {seed}"));
        history(seed, &Time::with_window(0), async || {
            let blobs = super::s3::blobs_of(std::path::Path::new(&format!("history {seed}"))).unwrap();
            (blobs, super::postgres::connect(&url).await)
        })
        .await;
    }
}

/// A collector that died after each step of a removal: the blob is not there, can be pushed at once, and is then whole.
#[tokio::test]
async fn a_blob_can_be_pushed_after_a_collector_died_anywhere() {
    let at = name("a");
    for after in [false, true] {
        for k in 1.. {
            let (blobs, meta, plan) = (MemoryBlobs::default(), MemoryMeta::default(), FaultPlan::none());
            let sound = Composed::new(blobs.clone(), meta.clone());
            let faulty =
                Composed::new(FaultyBlobs::new(blobs, plan.clone()), FaultyMeta::new(meta, plan.clone()));
            sound.put_blob(&at, &digest(1), content(1)).await.unwrap();
            sound.delete_blob(&at, &digest(1)).await.unwrap();
            plan.after_the_operation(after);
            plan.fail_at(k);
            let outcome = faulty.collect(CollectOptions::default()).await;
            if !plan.has_failed() {
                assert!(k > 5 && outcome.unwrap().blobs == 1, "only {k} operations");
                break;
            }
            assert!(outcome.is_err(), "fault {k} was swallowed");
            assert!(!sound.has_blob(&at, &digest(1)).await.unwrap());
            sound.put_blob(&at, &digest(1), content(1)).await.unwrap();
            assert_eq!(sound.read_blob(&at, &digest(1), 1 << 20).await.unwrap(), content(1), "fault {k}");
            sound.collect(CollectOptions::default()).await.unwrap();
            assert_eq!(sound.read_blob(&at, &digest(1), 1 << 20).await.unwrap(), content(1), "fault {k}");
        }
    }
}

/// Bytes that a push placed after its blob was deleted and collected: no row names them.
#[tokio::test]
async fn bytes_that_no_row_names_are_removed() {
    let store = crate::store::MemoryStore::default();
    store.blobs().put(&digest(1), content(1)).await.unwrap();
    let collected =
        store.collect(CollectOptions { dry_run: true, ..CollectOptions::default() }).await.unwrap();
    assert_eq!((collected.blobs, collected.bytes), (1, content(1).len() as u64));
    assert_eq!(store.collect(CollectOptions::default()).await.unwrap(), collected);
    assert!(store.blobs().list(None, 1).await.unwrap().items.is_empty());
    assert!(store.meta().blobs(&[digest(1)]).await.unwrap()[0].is_none());
}

#[tokio::test]
async fn a_second_collector_leaves_bytes_to_the_first() {
    let (store, at) = (crate::store::MemoryStore::default(), name("a"));
    store.put_blob(&at, &digest(1), content(1)).await.unwrap();
    store.delete_blob(&at, &digest(1)).await.unwrap();
    let right = store.blobs().deletion_right().await.unwrap().unwrap();
    let mark = Change::CondemnBlob { digest: digest(1), mark: 1 };
    assert_eq!(store.meta().write(mark).await.unwrap(), 1);
    let collected = store.collect(CollectOptions::default()).await.unwrap();
    assert!(collected.left_to_another && collected.blobs == 0);
    assert_eq!(store.blobs().list(None, 10).await.unwrap().items.len(), 1);
    // A push waits for the first, and ends its removal when it dies.
    let push = tokio::spawn({
        let (store, at) = (store.clone(), at.clone());
        async move { store.put_blob(&at, &digest(1), content(1)).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    assert!(!push.is_finished(), "the push did not wait");
    drop(right);
    push.await.unwrap().unwrap();
    assert_eq!(store.read_blob(&at, &digest(1), 1 << 20).await.unwrap(), content(1));
}

/// A client that was told that a blob is there has a day to push the manifest, also when the last manifest with the blob is
/// deleted meanwhile.
#[tokio::test]
async fn a_blob_that_a_client_was_told_of_stays_for_its_manifest() {
    let clock = Arc::new(FrozenClock::default());
    let (store, at) = (crate::store::MemoryStore::default().with_clock(clock.clone()), name("a"));
    for n in [1, 2, 3] {
        store.put_blob(&at, &digest(n), content(n)).await.unwrap();
    }
    let config = Descriptor::new(media_type::OCI_CONFIG, digest(1), content(1).len() as u64);
    let image = Manifest::sniff(ImageManifest::new(config, vec![]).to_bytes()).unwrap();
    let image = store.put_manifest(&at, PutManifest::new(image, [])).await.unwrap().digest;
    clock.advance(DAY - 60);
    for n in [1, 2] {
        assert_eq!(store.lease_blob(&at, &digest(n)).await.unwrap(), content(n).len() as u64);
    }
    assert_eq!(store.lease_blob(&at, &digest(9)).await.unwrap_err().kind(), ErrorKind::BlobUnknown);
    store.delete_manifest(&at, &image.into()).await.unwrap();
    clock.advance(DAY / 2);
    assert_eq!(store.collect(CollectOptions::default()).await.unwrap().blobs, 1);
    for (n, stays) in [(1, true), (2, true), (3, false)] {
        assert_eq!(store.has_blob(&at, &digest(n)).await.unwrap(), stays, "blob {n}");
    }
    clock.advance(DAY);
    assert_eq!(store.collect(CollectOptions::default()).await.unwrap().blobs, 2);
}

/// Whoever asks often writes rarely.
#[tokio::test]
async fn a_lease_that_ends_late_is_not_written_again() {
    let clock = Arc::new(FrozenClock::default());
    let (store, at) = (crate::store::MemoryStore::default().with_clock(clock.clone()), name("a"));
    store.put_blob(&at, &digest(1), content(1)).await.unwrap();
    let mut writes = 0;
    for _ in 0..96 {
        clock.advance(DAY / 48);
        let before = store.version();
        store.lease_blob(&at, &digest(1)).await.unwrap();
        writes += u32::from(store.version() != before);
    }
    assert!((3..=5).contains(&writes), "{writes}");
}

/// A dry run tells the same as the collection removes, and removes nothing.
#[tokio::test]
async fn a_dry_run_explains() {
    let (store, at) = (crate::store::MemoryStore::default(), name("a"));
    for n in [1, 2, 3] {
        store.put_blob(&at, &digest(n), content(n)).await.unwrap();
    }
    store.delete_blob(&at, &digest(3)).await.unwrap();
    let index = Manifest::sniff(ImageIndex::new(vec![]).to_bytes()).unwrap();
    store.put_manifest(&at, PutManifest::new(index, [])).await.unwrap();
    let run = async |dry_run| {
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let to = Arc::clone(&told);
        let options = CollectOptions {
            dry_run,
            untagged_until: Some(i64::MAX),
            leases_until: Some(i64::MAX),
            observer: Some(Arc::new(move |removal| to.lock().unwrap().push(removal.to_string()))),
            ..CollectOptions::default()
        };
        let collected = store.collect(options).await.unwrap();
        (collected, std::mem::take(&mut *told.lock().unwrap()))
    };
    let (dry, told) = run(true).await;
    assert_eq!((dry.manifests, dry.links, dry.blobs), (1, 2, 1), "{told:?}");
    assert!(told.len() == 4 && told[0].starts_with("manifest a@sha256:"), "{told:?}");
    assert!(store.has_blob(&at, &digest(1)).await.unwrap());
    let (wet, told) = run(false).await;
    assert_eq!((wet.manifests, wet.links, wet.blobs), (1, 2, 3), "{told:?}");
}
