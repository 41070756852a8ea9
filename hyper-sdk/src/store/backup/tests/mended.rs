//! What a restore leaves out, folders that were damaged, sources that change, and rows that are not valid.

use super::{Place, StatTag as _, back_up, blob_file, kind, name, push, rows};
use crate::store::backup::{
    BackupFolder, CreateOptions, RestoreOptions, check, create, list, migrate, remove, restore,
};
use crate::store::meta::{Ancestor, BlobRow, Row, RowCounts};
use crate::store::{
    ByteStream, CollectOptions, DiskStore, Portable, RegistryStore as _, RegistryStoreExt as _, ScrubOptions,
};
use crate::{Digest, Error, ErrorKind};
use futures::StreamExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::{Receiver, Sender};

fn skipping() -> RestoreOptions {
    RestoreOptions { skip_damaged: true, ..RestoreOptions::default() }
}

async fn damaged_blobs(store: &DiskStore) -> u64 {
    store.scrub(ScrubOptions::default()).await.unwrap().damaged
}

/// The store knows of a blob that it never got: it is reported until it is pushed.
#[tokio::test]
async fn a_blob_that_a_restore_left_out_is_damaged_until_it_is_pushed() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    push(&store, "a", "v2", "two").await;
    let lost = Digest::sha256("layer of one");
    std::fs::remove_file(blob_file(&place.path("a"), &Digest::sha256("two"))).unwrap();
    // One is lost before the backup is made, and one after.
    let _ = back_up(&store, &folder).await;
    std::fs::remove_file(blob_file(&place.path("backups"), &lost)).unwrap();
    let other = place.store("b").await;
    assert_eq!(restore(&folder, None, &other, &skipping()).await.unwrap().damaged.len(), 2);
    assert_eq!(kind(other.stat_blob(&name("a"), &lost).await), ErrorKind::BlobUnknown);
    assert_eq!(damaged_blobs(&other).await, 2);
    let collected = CollectOptions { leases_until: Some(i64::MAX), ..CollectOptions::default() };
    assert_eq!(other.collect(collected).await.unwrap().blobs, 0);
    let again = BackupFolder::create(&place.path("again")).unwrap();
    let created = back_up(&other, &again).await;
    let named: Vec<_> = created.damaged.iter().filter_map(|row| row.digest.clone()).collect();
    assert!(named.len() == 2 && named.contains(&lost), "{:?}", created.damaged);
    assert_eq!(
        kind(migrate(&other, &place.store("c").await, place.top.path(), &RestoreOptions::default()).await),
        ErrorKind::Corrupt
    );
    push(&other, "a", "v1", "one").await;
    push(&other, "a", "v2", "two").await;
    assert_eq!(damaged_blobs(&other).await, 0);
    assert_eq!(other.stat_blob(&name("a"), &lost).await.unwrap(), 12);
    assert!(back_up(&other, &again).await.damaged.is_empty());
}

/// A bucket is not asked for the bytes of each blob, so there the row says that they are missing.
#[cfg(feature = "store-s3")]
#[tokio::test]
async fn a_blob_that_a_restore_into_a_bucket_left_out_is_damaged_until_it_is_pushed() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    back_up(&store, &folder).await;
    let lost = Digest::sha256("layer of one");
    std::fs::remove_file(blob_file(&place.path("backups"), &lost)).unwrap();
    let objects = std::sync::Arc::new(object_store::memory::InMemory::new());
    let blobs = crate::store::blob::S3Blobs::over(objects, "s3://memory/r".parse().unwrap());
    let meta = crate::store::meta::SqlMeta::open(place.path("meta.db")).await.unwrap();
    let other = crate::store::Composed::new(blobs, meta);
    assert_eq!(restore(&folder, None, &other, &skipping()).await.unwrap().damaged.len(), 1);
    assert_eq!(kind(other.stat_blob(&name("a"), &lost).await), ErrorKind::BlobUnknown);
    let damaged = async || other.scrub(ScrubOptions::default()).await.unwrap().damaged;
    assert_eq!(damaged().await, 1);
    let again = BackupFolder::create(&place.path("again")).unwrap();
    let created = create(&other, &again, &CreateOptions::default()).await.unwrap();
    assert_eq!(created.damaged.len(), 1);
    assert_eq!(created.damaged[0].digest.as_ref(), Some(&lost));
    other.put_bytes(&name("a"), "text/plain", "layer of one".into()).await.unwrap();
    assert_eq!(damaged().await, 0);
    assert_eq!(other.stat_blob(&name("a"), &lost).await.unwrap(), 12);
    assert!(create(&other, &again, &CreateOptions::default()).await.unwrap().damaged.is_empty());
}

/// Bytes that changed in the folder are moved aside by a check that reads them, and the next backup copies them again.
#[tokio::test]
async fn a_check_that_reads_lets_the_next_backup_heal_a_blob() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let created = back_up(&store, &folder).await;
    let flipped = Digest::sha256("layer of one");
    std::fs::write(blob_file(&place.path("backups"), &flipped), "layer of onf").unwrap();
    let faults = check(&folder, None, true, |_| ()).unwrap().faults;
    assert!(faults.len() == 1 && faults[0].blob == Some(flipped.clone()), "{faults:?}");
    assert!(faults[0].reason.contains("does not match its digest"), "{faults:?}");
    assert_eq!(check(&folder, None, true, |_| ()).unwrap().faults.len(), 1, "it is damaged still");
    assert_eq!(back_up(&store, &folder).await.copied, 1);
    assert!(check(&folder, None, true, |_| ()).unwrap().faults.is_empty());
    let other = place.store("b").await;
    restore(&folder, Some(&created.id), &other, &RestoreOptions::default()).await.unwrap();
    // Nothing is left of the bad bytes.
    assert_eq!(std::fs::read_dir(place.path("backups/damaged")).unwrap().count(), 0);
}

/// A registry that was restored, and is backed up to the same folder, goes on where the former one ended.
#[tokio::test]
async fn the_newest_snapshot_of_one_line_of_registries_is_restored() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let first = back_up(&store, &folder).await;
    push(&store, "a", "v2", "two").await;
    back_up(&store, &folder).await;
    let restored = place.store("b").await;
    restore(&folder, None, &restored, &RestoreOptions::default()).await.unwrap();
    push(&restored, "a", "v3", "three").await;
    back_up(&restored, &folder).await;
    // And the one that was restored is moved.
    let moved = place.store("c").await;
    migrate(&restored, &moved, place.top.path(), &RestoreOptions::default()).await.unwrap();
    push(&moved, "a", "v4", "four").await;
    let newest = back_up(&moved, &folder).await;
    let target = place.store("d").await;
    let got = restore(&folder, None, &target, &RestoreOptions::default()).await.unwrap();
    assert_eq!(got.snapshot.id, newest.id);
    // Each registry keeps its own when old ones are removed: the restored one may be a copy for a trial.
    let removed = remove(&folder, &[], Some(1)).unwrap();
    assert_eq!(removed.snapshots, [first.id]);
    // The former one goes on: now there are two.
    push(&store, "a", "v5", "five").await;
    back_up(&store, &folder).await;
    let target = place.store("e").await;
    assert_eq!(kind(restore(&folder, None, &target, &RestoreOptions::default()).await), ErrorKind::Invalid);
    let removed = remove(&folder, &[], Some(1)).unwrap();
    assert!(!removed.snapshots.contains(&newest.id), "{removed:?}");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_hides_older_ones_alone() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    let mut made = Vec::new();
    for text in ["one", "two", "three"] {
        push(&store, "a", text, text).await;
        made.push(back_up(&store, &folder).await.id);
    }
    let cut = |id: &str| {
        let path = place.path("backups/snapshots").join(format!("{id}.jsonl"));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    };
    cut(&made[0]);
    let target = place.store("b").await;
    let restored = restore(&folder, None, &target, &RestoreOptions::default()).await.unwrap();
    assert_eq!(restored.snapshot.id, made[2]);
    // An older one in place of the newest is a choice.
    cut(&made[2]);
    let target = place.store("c").await;
    assert_eq!(kind(restore(&folder, None, &target, &RestoreOptions::default()).await), ErrorKind::Corrupt);
    restore(&folder, Some(&made[1]), &target, &RestoreOptions::default()).await.unwrap();
    assert_eq!(list(&folder).unwrap().len(), 3);
}

#[tokio::test]
async fn a_move_goes_on_from_the_source_that_it_began_with() {
    let place = Place::new();
    let (one, two, target) = (place.store("a").await, place.store("b").await, place.store("c").await);
    push(&one, "a", "v1", "one").await;
    push(&two, "a", "v1", "two").await;
    let bytes = RestoreOptions { bytes_only: true, ..RestoreOptions::default() };
    migrate(&one, &target, place.top.path(), &bytes).await.unwrap();
    for options in [&bytes, &RestoreOptions::default()] {
        let error = migrate(&two, &target, place.top.path(), options).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Conflict && error.to_string().contains("another source"),
            "{error}"
        );
    }
    migrate(&one, &target, place.top.path(), &RestoreOptions::default()).await.unwrap();
    assert!(rows(&target).await == rows(&one).await);
}

#[tokio::test]
async fn a_folder_within_a_store_takes_no_backups() {
    let place = Place::new();
    let _store = place.store("a").await;
    symlink(place.path("a"), place.path("link")).unwrap();
    for within in ["a", "a/backups", "a/blobs/backups", "link/backups"] {
        let error = BackupFolder::create(&place.path(within)).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Invalid && error.to_string().contains("store"),
            "{within}: {error}"
        );
    }
    assert!(!place.path("a/backups").exists());
}

/// Rows of which a part was lost, or was never valid.
#[tokio::test]
async fn an_image_without_a_blob_and_rows_that_are_not_valid_are_named() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let broken = push(&store, "a", "bad", "two").await;
    let garbled = push(&store, "a", "v3", "three").await;
    let odd = push(&store, "a", "v4", "four").await;
    let blob = Digest::sha256("layer of two");
    place.change(
        "a",
        "DELETE FROM blob_links WHERE blob_id = (SELECT id FROM blobs WHERE digest = ?)",
        blob.as_str(),
    );
    place.change("a", "UPDATE tags SET name = 'bad tag' WHERE name = ?", "bad");
    place.change(
        "a",
        "UPDATE manifests SET media_type = CAST(x'ff' AS TEXT) WHERE digest = ?",
        garbled.as_str(),
    );
    place.change(
        "a",
        "INSERT INTO manifest_refs SELECT id, 0, 'sha256:xyz' FROM manifests WHERE digest = ?",
        odd.as_str(),
    );
    place.change(
        "a",
        "INSERT INTO tags SELECT 1, CAST(x'62ff' AS TEXT), id, 0 FROM manifests WHERE digest = ?",
        odd.as_str(),
    );
    let created = back_up(&store, &folder).await;
    let reasons: Vec<_> =
        created.damaged.iter().map(|row| format!("{:?} {}", row.digest, row.reason)).collect();
    let has = |parts: &[&str]| reasons.iter().any(|reason| parts.iter().all(|part| reason.contains(part)));
    assert!(has(&[broken.as_str(), blob.as_str()]), "{reasons:?}");
    assert!(has(&["bad tag"]), "{reasons:?}");
    assert!(has(&["manifest number 3"]), "{reasons:?}");
    assert!(has(&[odd.as_str(), "sha256:xyz"]), "{reasons:?}");
    assert!(has(&["tag v3"]), "the manifest of a tag: {reasons:?}");
    assert!(has(&["tag after"]), "{reasons:?}");
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(check(&folder, None, true, |_| ()).unwrap().faults.is_empty());
    let other = place.store("b").await;
    assert_eq!(restore(&folder, None, &other, &RestoreOptions::default()).await.unwrap().damaged.len(), 6);
    for tag in ["v1", "v4"] {
        assert_eq!(other.stat_tag(&name("a"), tag).await, store.stat_tag(&name("a"), tag).await);
    }
}

/// Only the errors of the bytes themselves are damage.
#[tokio::test]
async fn an_error_of_the_system_is_no_damage() {
    let place = Place::new();
    let store = place.store("a").await;
    push(&store, "a", "v1", "one").await;
    for (code, is_damage) in [(5, true), (13, false), (24, false), (116, false)] {
        let faulty = Faulty { reads: Some(code), ..Faulty::of(&store) };
        let folder = BackupFolder::create(&place.path(&format!("backups {code}"))).unwrap();
        match create(&faulty, &folder, &CreateOptions::default()).await {
            Ok(created) => assert!(is_damage && created.damaged.len() == 2, "{code}: {created:?}"),
            Err(e) => assert!(!is_damage && e.kind() == ErrorKind::Io, "{code}: {e}"),
        }
    }
}

/// A volume that is not mounted.
#[tokio::test]
async fn a_store_of_which_no_blob_can_be_read_is_not_backed_up() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    for text in ["one", "two", "three", "four"] {
        push(&store, "a", text, text).await;
    }
    back_up(&store, &folder).await;
    push(&store, "a", "five", "five").await;
    std::fs::rename(place.path("a/blobs"), place.path("moved")).unwrap();
    std::fs::create_dir(place.path("a/blobs")).unwrap();
    assert_eq!(kind(create(&store, &folder, &CreateOptions::default()).await), ErrorKind::Unavailable);
    assert_eq!(list(&folder).unwrap().len(), 1);
    std::fs::remove_dir_all(place.path("a/blobs")).unwrap();
    std::fs::rename(place.path("moved"), place.path("a/blobs")).unwrap();
    assert_eq!(back_up(&store, &folder).await.copied, 2);
}

/// The target cannot keep the bytes, which are whole in the source.
#[tokio::test]
async fn a_fault_of_the_target_is_no_damage_of_the_source() {
    let place = Place::new();
    let (store, folder, other) = (place.store("a").await, place.folder(), place.store("b").await);
    push(&store, "a", "v1", "one").await;
    back_up(&store, &folder).await;
    let faulty = Faulty { writes: true, ..Faulty::of(&other) };
    assert_eq!(kind(restore(&folder, None, &faulty, &skipping()).await), ErrorKind::DigestInvalid);
}

/// A process that was stopped for long finds that its hold is over before it names a snapshot.
#[tokio::test]
async fn a_backup_whose_hold_is_over_makes_no_snapshot() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    let faulty = Faulty { loses_hold: true, ..Faulty::of(&store) };
    assert_eq!(kind(create(&faulty, &folder, &CreateOptions::default()).await), ErrorKind::Conflict);
    assert!(list(&folder).unwrap().is_empty());
    assert_eq!(faulty.holds.load(Ordering::Relaxed), 1, "it was asked for");
}

#[tokio::test]
async fn a_folder_without_its_lock_and_with_odd_files_is_used() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    back_up(&store, &folder).await;
    std::fs::remove_file(place.path("backups/lock")).unwrap();
    assert!(check(&folder, None, true, |_| ()).unwrap().faults.is_empty());
    std::fs::remove_file(place.path("backups/lock")).unwrap();
    restore(&folder, None, &place.store("b").await, &RestoreOptions::default()).await.unwrap();
    let tmp = place.path("backups/tmp");
    std::fs::create_dir(tmp.join("folder")).unwrap();
    std::fs::write(tmp.join("folder/file"), "x").unwrap();
    std::fs::write(tmp.join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
    back_up(&store, &folder).await;
    remove(&folder, &[], Some(1)).unwrap();
    assert!(!tmp.join(std::ffi::OsStr::from_bytes(b"\xff")).exists());
}

/// A store that another process has open, such as a server, is not filled.
#[tokio::test]
async fn a_store_in_use_is_not_filled_and_one_that_is_filled_is_not_opened() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    back_up(&store, &folder).await;
    let (target, server) = (place.store("b").await, place.store("b").await);
    let error = restore(&folder, None, &target, &RestoreOptions::default()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("another process"), "{error}");
    assert_eq!(kind(migrate(&store, &target, place.top.path(), &skipping()).await), ErrorKind::Conflict);
    assert_eq!(target.meta().unfinished_restore().await.unwrap(), None, "it is as before");
    push(&server, "a", "v1", "other").await;
    let (again, alone) = (place.store("c").await, place.path("c"));
    let bytes = RestoreOptions { bytes_only: true, ..RestoreOptions::default() };
    migrate(&store, &again, place.top.path(), &bytes).await.unwrap();
    assert_eq!(kind(DiskStore::open(&alone).await), ErrorKind::Conflict);
    migrate(&store, &again, place.top.path(), &RestoreOptions::default()).await.unwrap();
    drop(DiskStore::open(&alone).await.unwrap());
}

#[test]
fn a_path_that_cannot_be_looked_at_is_no_folder_without_backups() {
    let place = Place::new();
    symlink("loop", place.path("loop")).unwrap();
    assert_eq!(kind(BackupFolder::open(&place.path("loop"))), ErrorKind::Io);
    std::fs::write(place.path("file"), "x").unwrap();
    assert_eq!(kind(BackupFolder::open(&place.path("file"))), ErrorKind::NotFound);
    assert_eq!(kind(BackupFolder::open(&place.path("none/below"))), ErrorKind::NotFound);
}

/// A store with faults.
#[derive(Debug)]
struct Faulty {
    store: DiskStore,
    /// The number of the system's error of each read.
    reads: Option<i32>,
    /// Whether what is stored differs.
    writes: bool,
    loses_hold: bool,
    holds: AtomicU64,
}

impl Faulty {
    fn of(store: &DiskStore) -> Self {
        Self { store: store.clone(), reads: None, writes: false, loses_hold: false, holds: AtomicU64::new(0) }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait::async_trait]
impl Portable for Faulty {
    async fn registry_name(&self) -> crate::Result<String> {
        self.store.registry_name().await
    }

    async fn ancestors(&self) -> crate::Result<Vec<Ancestor>> {
        self.store.ancestors().await
    }

    async fn export(&self, rows: Sender<Vec<Row>>) -> crate::Result<()> {
        self.store.export(rows).await
    }

    async fn hold_bytes(&self, holder: u64, seconds: i64, renews: bool) -> crate::Result<bool> {
        if renews && self.loses_hold {
            self.holds.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        self.store.hold_bytes(holder, seconds, renews).await
    }

    async fn read_bytes(&self, blob: &BlobRow) -> crate::Result<ByteStream> {
        match self.reads {
            Some(code) => {
                let error = std::io::Error::from_raw_os_error(code);
                Err(Error::io("cannot read the blob", "/blob", error))
            }
            None => self.store.read_bytes(blob).await,
        }
    }

    async fn begin_restore(&self, holder: u64, source: &str) -> crate::Result<()> {
        self.store.begin_restore(holder, source).await
    }

    async fn has_bytes(&self, blobs: &[BlobRow]) -> crate::Result<Vec<bool>> {
        self.store.has_bytes(blobs).await
    }

    async fn add_bytes(&self, holder: u64, blob: &BlobRow, content: ByteStream) -> crate::Result<()> {
        if self.writes {
            let _: Vec<_> = content.collect().await;
            return Err(Error::new(ErrorKind::DigestInvalid, "the bytes that were stored differ"));
        }
        self.store.add_bytes(holder, blob, content).await
    }

    async fn finish_restore(
        &self,
        holder: u64,
        rows: &mut Receiver<Vec<Row>>,
        counts: &RowCounts,
        ancestors: &[Ancestor],
    ) -> crate::Result<()> {
        self.store.finish_restore(holder, rows, counts, ancestors).await
    }
}
