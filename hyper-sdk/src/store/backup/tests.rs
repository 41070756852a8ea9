//! Snapshots and folders of backups, on stores of several kinds.

mod faults;
mod format;
mod mended;

use super::*;
use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::{DiskBlobs, MemoryBlobs};
use crate::store::meta::{
    LinkRow, ManifestRow, RepositoryRow, Row, SqlMeta, TagRow, TokenRecord, TokenStore as _,
};
use crate::store::{
    CollectOptions, Composed, DiskStore, Portable, PutManifest, RegistryStore as _, RegistryStoreExt as _,
};
use crate::testing::Random;
use crate::{Digest, ErrorKind};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Place {
    top: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { top: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    async fn store(&self, name: &str) -> DiskStore {
        DiskStore::open(self.path(name)).await.unwrap()
    }

    /// Changes the database of a store, as a fault does.
    fn change(&self, store: &str, statement: &str, argument: &str) {
        let program = "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1])\nd.execute(sys.argv[2], sys.argv[3:])\nd.commit()";
        let database = self.path(store).join("hyper.db");
        let changed = std::process::Command::new("python3")
            .args(["-c", program, database.to_str().unwrap(), statement, argument])
            .status();
        assert!(changed.unwrap().success());
    }

    fn folder(&self) -> BackupFolder {
        BackupFolder::create(&self.path("backups")).unwrap()
    }
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

/// Pushes an image of a config and a layer.
async fn push(store: &DiskStore, repository: &str, tag: &str, text: &str) -> Digest {
    let repository = name(repository);
    let config = store.put_bytes(&repository, media_type::OCI_CONFIG, text.to_owned().into()).await.unwrap();
    let layer = format!("layer of {text}");
    let layer = store.put_bytes(&repository, media_type::OCI_LAYER, layer.into()).await.unwrap();
    let manifest = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes()).unwrap();
    let tags = (!tag.is_empty()).then(|| Tag::parse(tag).unwrap());
    store.put_manifest(&repository, PutManifest::new(manifest, tags)).await.unwrap().digest
}

async fn rows(store: &dyn Portable) -> Vec<Row> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let taking = async {
        let mut all = Vec::new();
        while let Some(page) = receiver.recv().await {
            all.extend(page);
        }
        // Links come in the order of ids, which another store gives otherwise.
        all.sort_by_key(|row: &Row| (row.kind(), serde_json::to_string(row).unwrap()));
        all
    };
    let (exported, all) = tokio::join!(store.export(sender), taking);
    exported.unwrap();
    all
}

async fn back_up(store: &DiskStore, folder: &BackupFolder) -> Created {
    create(store, folder, &CreateOptions::default()).await.unwrap()
}

fn blob_file(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

fn kind<T: std::fmt::Debug>(result: crate::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn a_restored_store_has_what_the_snapshot_has() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    let first = push(&store, "team/app", "v1", "one").await;
    push(&store, "team/app", "", "untagged").await;
    push(&store, "empty", "gone", "gone").await;
    store.delete_manifest(&name("empty"), &Tag::parse("gone").unwrap().into()).await.unwrap();
    let subject = store.get_manifest(&name("team/app"), &first.clone().into()).await.unwrap().descriptor();
    let artifact = ImageIndex { subject: Some(subject), ..ImageIndex::new(vec![]) };
    let artifact = Manifest::sniff(artifact.to_bytes()).unwrap();
    store.put_manifest(&name("team/app"), PutManifest::new(artifact, [])).await.unwrap();
    let token = TokenRecord {
        id: "t".to_owned(),
        hash: Digest::sha256("t"),
        user: "alice".to_owned(),
        name: String::new(),
        scopes: vec!["**:pull".to_owned()],
        created: 1,
        expires: Some(2),
        used: None,
        bound_to: Some(Digest::sha256("bound")),
    };
    store.meta().add_token(&token).await.unwrap();

    let created = back_up(&store, &folder).await;
    assert_eq!(
        (created.rows.blobs, created.copied, created.rows.manifests, created.rows.tokens),
        (6, 6, 4, 1)
    );
    push(&store, "team/app", "v1", "two").await;
    let second = back_up(&store, &folder).await;
    assert_eq!((second.rows.blobs, second.copied), (8, 2), "only what is new is copied");
    let snapshot = place.path("backups/snapshots").join(format!("{}.jsonl", created.id));
    assert_eq!(std::fs::metadata(snapshot).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(place.path("backups/tmp")).unwrap().count(), 0);

    let newest = place.store("newest").await;
    let restored = restore(&folder, None, &newest, &RestoreOptions::default()).await.unwrap();
    assert_eq!((restored.snapshot.id, restored.copied), (second.id, 8));
    assert!(rows(&newest).await == rows(&store).await);
    let older = place.store("older").await;
    restore(&folder, Some(&created.id), &older, &RestoreOptions::default()).await.unwrap();
    assert_eq!(older.stat_tag(&name("team/app"), "v1").await, first);
    assert_eq!(older.list_referrers(&name("team/app"), &first, None).await.unwrap().len(), 1);
    assert_eq!(older.meta().token("t").await.unwrap(), Some(token));
    // A restored store is one like any other.
    push(&older, "team/new", "v1", "new").await;
    assert_ne!(older.registry_name().await.unwrap(), store.registry_name().await.unwrap());
    assert_eq!(kind(restore(&folder, None, &older, &RestoreOptions::default()).await), ErrorKind::Conflict);
}

trait StatTag {
    async fn stat_tag(&self, repository: &RepositoryName, tag: &str) -> Digest;
}

impl StatTag for DiskStore {
    async fn stat_tag(&self, repository: &RepositoryName, tag: &str) -> Digest {
        let tag = Tag::parse(tag).unwrap().into();
        self.get_manifest(repository, &tag).await.unwrap().digest().clone()
    }
}

/// A random history of pushes, deletions and collections.
async fn history(store: &DiskStore, seed: u64) {
    let mut random = Random::new(seed);
    let mut pushed: Vec<(String, Digest)> = Vec::new();
    for step in 0..30 {
        let repository = format!("r{}", random.below(3));
        match random.below(8) {
            0 if !pushed.is_empty() => {
                let (repository, digest) = pushed.swap_remove(random.below(pushed.len()));
                let _ = store.delete_manifest(&name(&repository), &digest.into()).await;
            }
            1 => {
                let tag = Tag::parse(&format!("t{}", random.below(4))).unwrap().into();
                let _ = store.delete_manifest(&name(&repository), &tag).await;
            }
            2 => {
                let digest = Digest::sha256(format!("c{}", random.below(10)));
                let _ = store.delete_blob(&name(&repository), &digest).await;
            }
            3 => {
                let all = CollectOptions { leases_until: Some(i64::MAX), ..CollectOptions::default() };
                store.collect(all).await.unwrap();
            }
            _ => {
                let tag = if random.below(3) == 0 { String::new() } else { format!("t{}", random.below(4)) };
                let text =
                    if random.below(2) == 0 { format!("c{}", random.below(10)) } else { format!("s{step}") };
                let digest = push(store, &repository, &tag, &text).await;
                pushed.push((repository, digest));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_are_restored_on_every_kind_of_store() {
    for seed in 0..12 {
        let place = Place::new();
        let (store, folder) = (place.store("a").await, place.folder());
        history(&store, seed).await;
        back_up(&store, &folder).await;
        history(&store, seed + 100).await;
        // Blobs of images were deleted.
        let damaged = back_up(&store, &folder).await.damaged;
        assert!(damaged.iter().all(|row| row.reason.contains("cannot be pulled")), "{damaged:?}");
        let checked = check(&folder, None, true, |_| ()).unwrap();
        assert_eq!((checked.snapshots, checked.faults), (2, vec![]));
        let expected = rows(&store).await;
        let memory = SqlMeta::open(place.path("memory.db")).await.unwrap();
        let memory = Composed::new(MemoryBlobs::default(), memory);
        restore(&folder, None, &memory, &RestoreOptions::default()).await.unwrap();
        assert!(rows(&memory).await == expected, "seed {seed}");
        let moved = place.store("moved").await;
        migrate(&memory, &moved, place.top.path(), &RestoreOptions::default()).await.unwrap();
        assert!(rows(&moved).await == expected, "seed {seed}");
        for row in &expected {
            if let Row::Blob(blob) = row {
                let bytes = std::fs::read(blob_file(&place.path("moved"), &blob.digest)).unwrap();
                assert_eq!(Digest::sha256(bytes), blob.digest);
            }
        }
    }
}

/// Bytes that no push takes any more, and that an earlier version may have stored.
#[tokio::test]
async fn a_manifest_that_is_not_text_is_backed_up() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    let content = vec![
        Row::Repository(RepositoryRow { number: 1, name: name("a"), created: 0, listed: true }),
        Row::Manifest(sample_manifest(1, 1)),
    ];
    let mut counts = crate::store::meta::RowCounts::default();
    content.iter().for_each(|row| counts.add(row));
    store.begin_restore(1, "test").await.unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    sender.send(content.clone()).await.unwrap();
    drop(sender);
    store.finish_restore(1, &mut receiver, &counts, &[]).await.unwrap();
    assert!(std::str::from_utf8(&sample_manifest(1, 1).body).is_err());
    assert!(back_up(&store, &folder).await.damaged.is_empty());
    let other = place.store("b").await;
    restore(&folder, None, &other, &RestoreOptions::default()).await.unwrap();
    assert!(rows(&other).await == content);
}

#[tokio::test]
async fn what_is_damaged_is_named_and_everything_else_is_backed_up() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    for text in ["one", "two", "three"] {
        push(&store, "a", text, text).await;
    }
    let [missing, flipped] = ["one", "layer of two"].map(Digest::sha256);
    std::fs::remove_file(blob_file(&place.path("a"), &missing)).unwrap();
    std::fs::write(blob_file(&place.path("a"), &flipped), "layer of twp").unwrap();
    let broken = store.stat_tag(&name("a"), "three").await;
    place.change("a", "UPDATE manifests SET body = CAST('{}' AS BLOB) WHERE digest = ?", broken.as_str());
    let created = back_up(&store, &folder).await;
    let mut named: Vec<_> = created.damaged.iter().filter_map(|row| row.digest.clone()).collect();
    named.sort();
    let mut expected = vec![missing.clone(), flipped.clone(), broken.clone()];
    expected.sort();
    assert_eq!(named, expected, "{:?}", created.damaged);
    let manifest = created.damaged.iter().find(|row| row.digest.as_ref() == Some(&broken)).unwrap();
    assert!(manifest.repository == Some(name("a")) && manifest.reason.contains("tag three"), "{manifest:?}");
    let checked = check(&folder, None, true, |_| ()).unwrap();
    assert!(checked.faults.is_empty() && checked.left_out == 3 && checked.blobs == 4, "{checked:?}");
    let other = place.store("b").await;
    let restored = restore(&folder, None, &other, &RestoreOptions::default()).await.unwrap();
    assert_eq!(restored.damaged.len(), 3);
    assert_eq!(kind(other.stat_blob(&name("a"), &missing).await), ErrorKind::BlobUnknown);
    assert_eq!(other.stat_tag(&name("a"), "one").await, store.stat_tag(&name("a"), "one").await);
    // A push repairs the store, and the next snapshot has all.
    for text in ["one", "two", "three"] {
        push(&store, "a", text, text).await;
    }
    let again = back_up(&store, &folder).await;
    assert_eq!((again.damaged.len(), again.copied), (0, 2));
}

#[tokio::test]
async fn a_backup_with_lost_blobs_is_restored_only_when_that_is_asked_for() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    back_up(&store, &folder).await;
    let [lost, flipped] = ["one", "layer of one"].map(Digest::sha256);
    let path = blob_file(&place.path("backups"), &flipped);
    std::fs::write(&path, "layer of twp").unwrap();
    let checked = check(&folder, None, false, |_| ()).unwrap();
    assert!(checked.faults.is_empty(), "sizes alone do not show it: {checked:?}");
    let checked = check(&folder, None, true, |_| ()).unwrap();
    assert_eq!(
        checked.faults.iter().map(|fault| fault.blob.clone()).collect::<Vec<_>>(),
        [Some(flipped.clone())]
    );
    // The check has moved it aside.
    std::fs::write(&path, "layer of twp").unwrap();
    let other = place.store("b").await;
    assert_eq!(kind(restore(&folder, None, &other, &RestoreOptions::default()).await), ErrorKind::Corrupt);
    assert!(
        other.meta().unfinished_restore().await.unwrap().is_some(),
        "the store says that it is not whole"
    );
    std::fs::remove_file(blob_file(&place.path("backups"), &lost)).unwrap();
    let third = place.store("c").await;
    assert_eq!(kind(restore(&folder, None, &third, &RestoreOptions::default()).await), ErrorKind::Corrupt);
    assert_eq!(third.meta().unfinished_restore().await.unwrap(), None, "what is missing is known before");
    let options = RestoreOptions { skip_damaged: true, ..RestoreOptions::default() };
    let restored = restore(&folder, None, &other, &options).await.unwrap();
    assert_eq!(restored.damaged.len(), 2);
    assert_eq!(other.meta().unfinished_restore().await.unwrap(), None);
    assert_eq!(other.stat_tag(&name("a"), "v1").await, store.stat_tag(&name("a"), "v1").await);
    // The first restore may have brought the other one here, before it was lost.
    assert_eq!(kind(other.stat_blob(&name("a"), &flipped).await), ErrorKind::BlobUnknown);
    assert_eq!(restore(&folder, None, &third, &options).await.unwrap().damaged.len(), 2);
    for digest in [&lost, &flipped] {
        assert_eq!(kind(third.stat_blob(&name("a"), digest).await), ErrorKind::BlobUnknown);
    }
    // The next backup brings back what is missing, and what has another size.
    assert_eq!(back_up(&store, &folder).await.copied, 1);
}

#[tokio::test]
async fn links_in_the_folder_are_not_followed() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let created = back_up(&store, &folder).await;
    let outside = place.path("outside");
    let digest = Digest::sha256("one");
    let path = blob_file(&place.path("backups"), &digest);
    std::fs::rename(&path, &outside).unwrap();
    symlink(&outside, &path).unwrap();
    assert_eq!(check(&folder, None, false, |_| ()).unwrap().faults.len(), 1);
    let other = place.store("b").await;
    assert_eq!(kind(restore(&folder, None, &other, &RestoreOptions::default()).await), ErrorKind::Corrupt);
    assert_eq!(back_up(&store, &folder).await.copied, 1, "the link is replaced");
    assert!(path.symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "one");
    let snapshot = place.path("backups/snapshots").join(format!("{}.jsonl", created.id));
    std::fs::rename(&snapshot, place.path("snapshot")).unwrap();
    symlink(place.path("snapshot"), &snapshot).unwrap();
    assert_eq!(
        kind(restore(&folder, Some(&created.id), &other, &RestoreOptions::default()).await),
        ErrorKind::Invalid
    );
    for part in ["tmp", "blobs", "snapshots"] {
        let at = place.path("backups").join(part);
        std::fs::rename(&at, place.path("moved")).unwrap();
        symlink(place.path("moved"), &at).unwrap();
        let made = BackupFolder::open(&place.path("backups"));
        let made = match made {
            Ok(folder) => create(&store, &folder, &CreateOptions::default()).await.map(drop),
            Err(e) => Err(e),
        };
        assert_eq!(kind(made), ErrorKind::Invalid, "{part}");
        std::fs::remove_file(&at).unwrap();
        std::fs::rename(place.path("moved"), &at).unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_lost_its_snapshots_keeps_its_blobs() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let created = back_up(&store, &folder).await;
    assert_eq!(kind(remove(&folder, &["none".to_owned()], None)), ErrorKind::NotFound);
    std::fs::rename(place.path("backups/snapshots"), place.path("moved")).unwrap();
    for opened in [BackupFolder::open(&place.path("backups")), BackupFolder::create(&place.path("backups"))] {
        let error = opened.unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("snapshots"), "{error}");
    }
    std::fs::create_dir(place.path("backups/snapshots")).unwrap();
    assert_eq!(kind(remove(&folder, &[], Some(1))), ErrorKind::NotFound);
    std::fs::remove_dir(place.path("backups/snapshots")).unwrap();
    std::fs::rename(place.path("moved"), place.path("backups/snapshots")).unwrap();
    let checked = check(&folder, Some(&created.id), true, |_| ()).unwrap();
    assert!(checked.faults.is_empty() && checked.blobs == 2);
    // Something else is not taken for a folder of backups.
    // One that has the name of the file by which such a folder is known is none for what is beside it.
    let named = place.path("all/hyperregistry-backup");
    BackupFolder::create(&named).unwrap();
    std::fs::create_dir(place.path("all/hyper.db")).unwrap();
    BackupFolder::refuse_within(&place.path("all/restored")).unwrap();
    assert!(BackupFolder::refuse_within(&named.join("restored")).is_err());
    BackupFolder::create(&place.path("all/others")).unwrap();
    std::fs::create_dir(place.path("home")).unwrap();
    std::fs::write(place.path("home/.bash_history"), "ls").unwrap();
    BackupFolder::refuse_foreign(&place.path("home")).unwrap();
    for (file, text) in [("photo", "x"), ("hyperregistry-backup", "x")] {
        let at = place.path(&format!("other {file}"));
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join(file), text).unwrap();
        assert!(BackupFolder::create(&at).is_err() && BackupFolder::open(&at).is_err(), "{file}");
    }
    assert_eq!(kind(BackupFolder::open(&place.path("nowhere"))), ErrorKind::NotFound);
    assert!(!place.path("nowhere").exists());
}

#[tokio::test]
async fn registries_share_a_folder_and_keep_their_own_snapshots() {
    let place = Place::new();
    let folder = place.folder();
    let (one, two) = (place.store("one").await, place.store("two").await);
    push(&one, "a", "v1", "common").await;
    push(&two, "a", "v1", "common").await;
    push(&two, "a", "v2", "of two").await;
    let first = back_up(&one, &folder).await;
    assert_eq!(back_up(&two, &folder).await.copied, 2, "common blobs are there");
    push(&one, "a", "v2", "later").await;
    let newest = back_up(&one, &folder).await;
    assert_eq!(
        kind(restore(&folder, None, &place.store("c").await, &RestoreOptions::default()).await),
        ErrorKind::Invalid
    );
    let removed = remove(&folder, &[], Some(1)).unwrap();
    assert_eq!((removed.snapshots, removed.blobs), (vec![first.id], 0), "each registry keeps its newest one");
    let removed = remove(&folder, &[newest.id], None).unwrap();
    assert_eq!(removed.blobs, 2, "what the other registry needs stays");
    let checked = check(&folder, None, true, |_| ()).unwrap();
    assert_eq!((checked.snapshots, checked.blobs, checked.faults.len()), (1, 4, 0));
}

#[tokio::test]
async fn no_blob_goes_while_a_snapshot_cannot_be_read() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let first = back_up(&store, &folder).await;
    push(&store, "a", "v1", "two").await;
    let second = back_up(&store, &folder).await;
    let path = place.path("backups/snapshots").join(format!("{}.jsonl", first.id));
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() - 30], &whole[..40], b"", b"text\n"] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(kind(remove(&folder, std::slice::from_ref(&second.id), None)), ErrorKind::Corrupt);
        assert_eq!(kind(remove(&folder, &[], Some(1))), ErrorKind::Corrupt);
        let checked = check(&folder, None, true, |_| ()).unwrap();
        assert!(checked.faults.len() == 1 && checked.blobs == 4, "{checked:?}");
        assert!(list(&folder).unwrap()[0].1.is_err());
    }
    std::fs::write(&path, &whole).unwrap();
    let foreign = place.path("backups/snapshots/notes.txt");
    std::fs::write(&foreign, "x").unwrap();
    assert_eq!(kind(remove(&folder, std::slice::from_ref(&second.id), None)), ErrorKind::Corrupt);
    std::fs::remove_file(foreign).unwrap();
    std::fs::write(&path, &whole[..40]).unwrap();
    let removed = remove(&folder, &[first.id], None).unwrap();
    assert_eq!(removed.blobs, 0, "the damaged one goes by its id, and the other needs all blobs");
    assert!(check(&folder, Some(&second.id), true, |_| ()).unwrap().faults.is_empty());
}

#[tokio::test]
async fn one_process_writes_at_a_time_and_readers_keep_it_out() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let created = back_up(&store, &folder).await;
    let writer = folder.lock(true).unwrap();
    assert_eq!(kind(create(&store, &folder, &CreateOptions::default()).await), ErrorKind::Conflict);
    assert_eq!(kind(remove(&folder, std::slice::from_ref(&created.id), None)), ErrorKind::Conflict);
    assert_eq!(kind(check(&folder, None, false, |_| ())), ErrorKind::Conflict);
    drop(writer);
    let reader = folder.lock(false).unwrap();
    assert_eq!(check(&folder, None, false, |_| ()).unwrap().blobs, 2);
    assert_eq!(kind(remove(&folder, &[created.id], None)), ErrorKind::Conflict);
    drop(reader);
}

/// The bytes of what the rows name stay, whatever is deleted and collected before they are copied.
#[tokio::test]
async fn a_collection_leaves_held_bytes() {
    let place = Place::new();
    let store = place.store("a").await;
    let digest = push(&store, "a", "v1", "one").await;
    assert!(store.hold_bytes(7, 600, false).await.unwrap());
    let held = rows(&store).await;
    store.delete_manifest(&name("a"), &digest.into()).await.unwrap();
    let all = || CollectOptions { leases_until: Some(i64::MAX), ..CollectOptions::default() };
    let collected = store.collect(all()).await.unwrap();
    assert!(collected.left_to_another && collected.links == 2 && collected.blobs == 0, "{collected:?}");
    for row in held {
        if let Row::Blob(blob) = row {
            let _ = store.read_bytes(&blob).await.unwrap();
        }
    }
    assert!(store.hold_bytes(7, 0, false).await.unwrap());
    let collected = store.collect(all()).await.unwrap();
    assert!(!collected.left_to_another && collected.blobs == 2, "{collected:?}");
}

#[tokio::test]
async fn a_store_is_filled_once_and_by_one() {
    let place = Place::new();
    let (store, other) = (place.store("a").await, place.store("b").await);
    push(&store, "a", "v1", "one").await;
    let options = RestoreOptions { bytes_only: true, ..RestoreOptions::default() };
    let first = migrate(&store, &other, place.top.path(), &options).await.unwrap();
    assert_eq!(first.copied, 2);
    assert!(other.meta().unfinished_restore().await.unwrap().unwrap().contains("the store"));
    push(&store, "a", "v2", "two").await;
    let second = migrate(&store, &other, place.top.path(), &RestoreOptions::default()).await.unwrap();
    assert_eq!(second.copied, 2, "it goes on with what is there");
    assert!(rows(&other).await == rows(&store).await);
    // Whoever began last may finish.
    let third = place.store("c").await;
    for holder in [1, 2] {
        third.begin_restore(holder, "test").await.unwrap();
    }
    let (sender, mut none) = tokio::sync::mpsc::channel(1);
    drop(sender);
    let counts = Default::default();
    assert_eq!(kind(third.finish_restore(1, &mut none, &counts, &[]).await), ErrorKind::Conflict);
    third.finish_restore(2, &mut none, &counts, &[]).await.unwrap();
    // A push in between is not mixed in.
    let fourth = place.store("d").await;
    fourth.begin_restore(1, "test").await.unwrap();
    push(&fourth, "a", "v1", "one").await;
    assert_eq!(kind(fourth.finish_restore(1, &mut none, &counts, &[]).await), ErrorKind::Conflict);
}

/// Rows that do not fit each other fill nothing.
#[tokio::test]
async fn rows_that_name_what_is_not_there_are_refused() {
    let repository =
        |number| Row::Repository(RepositoryRow { number, name: name("a"), created: 0, listed: true });
    let link = Row::Link(LinkRow { repository: 1, blob: Digest::sha256("x"), leased_until: 0 });
    let manifest = |number, repository| Row::Manifest(sample_manifest(number, repository));
    let tag = |manifest| Row::Tag(TagRow { repository: 1, name: Tag::latest(), manifest, updated: 0 });
    let wrong = [
        vec![repository(0)],
        vec![repository(i64::MAX)],
        vec![repository(1), repository(1)],
        vec![repository(1), repository(2)],
        vec![repository(1), link],
        vec![repository(1), manifest(1, 2)],
        vec![repository(1), manifest(1, 1), manifest(2, 1)],
        vec![repository(1), manifest(1, 1), tag(2)],
        vec![repository(1), manifest(1, 1), tag(1), tag(1)],
    ];
    let place = Place::new();
    let store = place.store("a").await;
    for (number, rows) in wrong.into_iter().enumerate() {
        let mut counts = crate::store::meta::RowCounts::default();
        rows.iter().for_each(|row| counts.add(row));
        store.begin_restore(number as u64, "test").await.unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        sender.send(rows).await.unwrap();
        drop(sender);
        let finished = store.finish_restore(number as u64, &mut receiver, &counts, &[]).await;
        assert_eq!(kind(finished), ErrorKind::Corrupt, "{number}");
    }
    assert!(rows(&store).await.is_empty());
}

fn sample_manifest(number: i64, repository: i64) -> ManifestRow {
    let body = b"{}\xff".to_vec();
    ManifestRow {
        number,
        repository,
        digest: Digest::sha256(&body),
        media_type: "a/b".to_owned(),
        subject: Some(Digest::sha256("subject").to_string()),
        artifact_type: None,
        annotations: "{}".to_owned(),
        created: 5,
        blobs: vec![Digest::sha256("x")],
        manifests: vec![],
        body,
    }
}

/// A backend of blobs and a database that nothing else opens.
#[tokio::test]
async fn a_backend_of_ones_own_is_backed_up_as_well() {
    let place = Place::new();
    let blobs = DiskBlobs::open(place.path("blobs")).await.unwrap();
    let store = Composed::new(blobs, SqlMeta::open(place.path("meta.db")).await.unwrap());
    let descriptor: Descriptor = store.put_bytes(&name("a"), "text/plain", "hello".into()).await.unwrap();
    let folder = place.folder();
    create(&store, &folder, &CreateOptions::default()).await.unwrap();
    assert_eq!(folder.blob_size(&descriptor.digest).unwrap(), Some(5));
}
