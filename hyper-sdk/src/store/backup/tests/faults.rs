//! Clocks that go back, collectors beside a restore, restores beside each other, and rows that were lost.

use super::{Place, StatTag as _, back_up, blob_file, kind, name, push, rows, sample_manifest};
use crate::reference::Tag;
use crate::store::backup::{
    BackupFolder, CreateOptions, RestoreOptions, SnapshotHeader, SnapshotWriter, check, create, migrate,
    remove, restore,
};
use crate::store::blob::BlobKey;
use crate::store::meta::{
    Ancestor, BlobRow, Change, LinkRow, MetaBackend as _, RepositoryRow, Row, RowCounts, TagRow,
};
use crate::store::{ByteStream, CollectOptions, DiskStore, Portable, RegistryStore as _};
use crate::{Digest, ErrorKind};
use futures::StreamExt as _;
use std::os::unix::fs::symlink;
use tokio::sync::mpsc::{Receiver, Sender};

fn bytes_alone() -> RestoreOptions {
    RestoreOptions { bytes_only: true, ..RestoreOptions::default() }
}

fn content(text: &'static str) -> (BlobRow, ByteStream) {
    let row = BlobRow { digest: Digest::sha256(text), size: text.len() as u64, created: 0 };
    (row, futures::stream::iter([Ok(text.into())]).boxed())
}

/// Writes a snapshot as a program without checks does.
fn write_snapshot(place: &Place, header: &SnapshotHeader, rows: &[Row]) {
    let mut writer = SnapshotWriter::begin(Vec::new(), header).unwrap();
    rows.iter().for_each(|row| writer.write(row).unwrap());
    let path = place.path("backups/snapshots").join(format!("{}.jsonl", header.id));
    std::fs::write(path, writer.finish().unwrap().0).unwrap();
}

#[tokio::test]
async fn snapshots_are_in_the_order_in_which_they_were_made_when_the_clock_goes_back() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    let registry = store.registry_name().await.unwrap();
    // The number at the end has no next one of as many digits.
    let ahead = "20991231T235959Z-999999999";
    write_snapshot(&place, &SnapshotHeader::new(ahead, registry, "store", 0), &[]);
    let mut made = vec![ahead.to_owned()];
    for text in ["one", "two", "three"] {
        push(&store, "a", "v1", text).await;
        made.push(back_up(&store, &folder).await.id);
    }
    assert!(made.is_sorted_by(|a, b| a < b), "{made:?}");
    let other = place.store("b").await;
    let restored = restore(&folder, None, &other, &RestoreOptions::default()).await.unwrap();
    assert_eq!(Some(&restored.snapshot.id), made.last());
    let newest = made.pop().unwrap();
    assert_eq!(remove(&folder, &[], Some(1)).unwrap().snapshots, made);
    assert!(check(&folder, Some(&newest), true, |_| ()).unwrap().faults.is_empty());
}

/// A row without its bytes, or with those that a dead collector was to delete, is filled as if it was not there.
#[tokio::test]
async fn rows_that_are_quarantined_or_marked_are_filled_again() {
    let place = Place::new();
    let (store, other) = (place.store("a").await, place.store("b").await);
    push(&store, "a", "v1", "one").await;
    assert_eq!(migrate(&store, &other, place.top.path(), &bytes_alone()).await.unwrap().copied, 2);
    let [damaged, marked] = ["one", "layer of one"].map(Digest::sha256);
    place.change("b", "UPDATE blobs SET quarantined = 1 WHERE digest = ?", damaged.as_str());
    place.change("b", "UPDATE blobs SET condemned = 5 WHERE digest = ?", marked.as_str());
    let moved = migrate(&store, &other, place.top.path(), &RestoreOptions::default()).await.unwrap();
    assert_eq!((moved.copied, moved.damaged.len()), (2, 0));
    assert!(rows(&other).await == rows(&store).await);
    for digest in [damaged, marked] {
        other.stat_blob(&name("a"), &digest).await.unwrap();
        assert_eq!(Digest::sha256(std::fs::read(blob_file(&place.path("b"), &digest)).unwrap()), digest);
    }
}

#[tokio::test]
async fn a_restore_that_was_overtaken_or_has_ended_adds_no_blob() {
    let place = Place::new();
    let store = place.store("a").await;
    let add = async |holder, text| {
        let (blob, content) = content(text);
        store.add_bytes(holder, &blob, content).await
    };
    assert_eq!(kind(add(1, "before").await), ErrorKind::Conflict);
    store.begin_restore(1, "test").await.unwrap();
    add(1, "one").await.unwrap();
    store.begin_restore(2, "test").await.unwrap();
    assert_eq!(kind(add(1, "two").await), ErrorKind::Conflict);
    add(2, "three").await.unwrap();
    // A mark of a collector stays: it deletes bytes.
    let (blob, _) = content("three");
    place.change("a", "UPDATE blobs SET condemned = 5 WHERE digest = ?", blob.digest.as_str());
    let added = store.meta().add_blob(2, &blob, &BlobKey::Digest(blob.digest.clone())).await;
    assert_eq!(kind(added), ErrorKind::Unavailable);
    let records = store.meta().blobs(&["one", "two", "three"].map(Digest::sha256)).await.unwrap();
    let marks: Vec<_> = records.into_iter().map(|record| record.map(|record| record.condemned)).collect();
    assert_eq!(marks, [Some(None), None, Some(Some(5))]);
    let (sender, mut none) = tokio::sync::mpsc::channel(1);
    drop(sender);
    store.finish_restore(2, &mut none, &Default::default(), &[]).await.unwrap();
    assert_eq!(kind(add(2, "four").await), ErrorKind::Conflict);
    assert_eq!(store.meta().blobs(&[Digest::sha256("four")]).await.unwrap(), [None]);
}

/// Also a server that was started before, and one that runs between two runs of the restore.
#[tokio::test]
async fn a_store_that_is_not_whole_is_not_collected() {
    let place = Place::new();
    let (store, other) = (place.store("a").await, place.store("b").await);
    push(&store, "a", "v1", "one").await;
    migrate(&store, &other, place.top.path(), &bytes_alone()).await.unwrap();
    assert!(other.hold_bytes(7, 600, false).await.unwrap() && other.hold_bytes(7, 0, false).await.unwrap());
    let collected = other.collect(everything()).await.unwrap();
    assert!(collected.left_to_another && collected.blobs == 0, "{collected:?}");
    // One that had looked before the restore began.
    let digest = Digest::sha256("one");
    let marked = other.meta().write(Change::CondemnBlob { digest: digest.clone(), mark: 1 }).await;
    assert_eq!(marked.unwrap(), 0);
    let unnamed = Change::CondemnBytes { digest: Digest::sha256("two"), size: 3, mark: 1 };
    assert_eq!(other.meta().write(unnamed).await.unwrap(), 0);
    assert!(blob_file(&place.path("b"), &digest).exists());
    migrate(&store, &other, place.top.path(), &RestoreOptions::default()).await.unwrap();
    assert!(rows(&other).await == rows(&store).await);
    let collected = other.collect(everything()).await.unwrap();
    assert!(!collected.left_to_another && collected.blobs == 0, "{collected:?}");
}

#[tokio::test]
async fn a_folder_of_backups_is_no_store() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "a", "v1", "one").await;
    back_up(&store, &folder).await;
    assert_eq!(kind(DiskStore::open(place.path("backups")).await), ErrorKind::Invalid);
    assert!(!place.path("backups/hyper.db").exists() && !place.path("backups/uploads").exists());
    symlink(place.path("backups/blobs"), place.path("link")).unwrap();
    for within in ["backups", "backups/blobs", "backups/new/registry", "link/registry"] {
        assert_eq!(kind(BackupFolder::refuse_within(&place.path(within))), ErrorKind::Invalid, "{within}");
    }
    for beside in ["a", "new/registry", ""] {
        BackupFolder::refuse_within(&place.path(beside)).unwrap();
    }
    assert!(check(&folder, None, true, |_| ()).unwrap().faults.is_empty());
}

/// A database that lost rows: what is left is backed up, and restored.
#[tokio::test]
async fn rows_that_do_not_fit_are_named_and_everything_else_is_restored() {
    let place = Place::new();
    let (store, folder) = (place.store("a").await, place.folder());
    push(&store, "kept", "v1", "one").await;
    let lost = push(&store, "kept", "gone", "two").await;
    push(&store, "lost", "v1", "three").await;
    place.change("a", "DELETE FROM manifests WHERE digest = ?", lost.as_str());
    place.change("a", "DELETE FROM repositories WHERE name = ?", "lost");
    let created = back_up(&store, &folder).await;
    let mut reasons: Vec<_> = created.damaged.iter().map(|row| row.reason.as_str()).collect();
    reasons.sort_unstable();
    // The tag, and of the other repository two links and a manifest with its tag.
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons[3] == "tag gone: its manifest is missing", "{reasons:?}");
    assert!(reasons[2].starts_with("manifest sha256:") && reasons[2].ends_with("; tag v1"), "{reasons:?}");
    assert!(reasons[..2].iter().all(|reason| reason.starts_with("link of blob sha256:")), "{reasons:?}");
    let checked = check(&folder, None, true, |_| ()).unwrap();
    assert!(checked.faults.is_empty() && checked.left_out == 4, "{checked:?}");
    let other = place.store("b").await;
    let restored = restore(&folder, None, &other, &RestoreOptions::default()).await.unwrap();
    assert_eq!(restored.damaged, created.damaged);
    assert_eq!(other.stat_tag(&name("kept"), "v1").await, store.stat_tag(&name("kept"), "v1").await);
    for text in ["one", "layer of two"] {
        other.stat_blob(&name("kept"), &Digest::sha256(text)).await.unwrap();
    }
}

/// A snapshot without faults can be restored.
#[tokio::test]
async fn a_check_finds_rows_that_no_store_takes() {
    let place = Place::new();
    let folder = place.folder();
    let repository =
        |number| Row::Repository(RepositoryRow { number, name: name("a"), created: 0, listed: true });
    let link = |blob: &str| Row::Link(LinkRow { repository: 1, blob: Digest::sha256(blob), leased_until: 0 });
    let manifest = |number, repository| Row::Manifest(sample_manifest(number, repository));
    let tag = |manifest| Row::Tag(TagRow { repository: 1, name: Tag::latest(), manifest, updated: 0 });
    let wrong = [
        vec![repository(0)],
        vec![repository(1), repository(1)],
        vec![repository(1), repository(2)],
        vec![repository(1), link("x")],
        vec![repository(1), manifest(1, 2)],
        vec![repository(1), manifest(1, 1), manifest(2, 1)],
        vec![repository(1), manifest(1, 1), tag(2)],
        vec![repository(1), manifest(1, 1), tag(1), tag(1)],
    ];
    let right = vec![repository(1), manifest(1, 1), tag(1)];
    let store = place.store("a").await;
    for (rows, faults) in wrong.into_iter().map(|rows| (rows, 1)).chain([(right, 0)]) {
        write_snapshot(&place, &SnapshotHeader::new("1", "registry", "store", 0), &rows);
        let checked = check(&folder, None, true, |_| ()).unwrap();
        assert_eq!(checked.faults.len(), faults, "{rows:?}");
        let restored = restore(&folder, None, &store, &RestoreOptions::default()).await;
        assert_eq!(restored.err().map(|e| e.kind()), (faults > 0).then_some(ErrorKind::Corrupt), "{rows:?}");
    }
}

/// A store from which everything is deleted and collected between the list of its rows and the copies of its bytes.
#[derive(Debug)]
struct Collecting {
    store: DiskStore,
    /// Whether a hold on the bytes is passed on.
    holds: bool,
}

impl std::fmt::Display for Collecting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait::async_trait]
impl Portable for Collecting {
    async fn registry_name(&self) -> crate::Result<String> {
        self.store.registry_name().await
    }

    async fn ancestors(&self) -> crate::Result<Vec<Ancestor>> {
        self.store.ancestors().await
    }

    async fn export(&self, rows: Sender<Vec<Row>>) -> crate::Result<()> {
        self.store.export(rows).await?;
        let digest = self.store.stat_tag(&name("a"), "v1").await;
        self.store.delete_manifest(&name("a"), &digest.into()).await?;
        self.store.collect(everything()).await.map(drop)
    }

    async fn hold_bytes(&self, holder: u64, seconds: i64, renews: bool) -> crate::Result<bool> {
        if self.holds { self.store.hold_bytes(holder, seconds, renews).await } else { Ok(true) }
    }

    async fn read_bytes(&self, blob: &BlobRow) -> crate::Result<ByteStream> {
        self.store.read_bytes(blob).await
    }

    async fn begin_restore(&self, holder: u64, source: &str) -> crate::Result<()> {
        self.store.begin_restore(holder, source).await
    }

    async fn has_bytes(&self, blobs: &[BlobRow]) -> crate::Result<Vec<bool>> {
        self.store.has_bytes(blobs).await
    }

    async fn add_bytes(&self, holder: u64, blob: &BlobRow, content: ByteStream) -> crate::Result<()> {
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

fn everything() -> CollectOptions {
    CollectOptions { leases_until: Some(i64::MAX), ..CollectOptions::default() }
}

/// And without the hold they are lost, so the collection does remove bytes.
#[tokio::test]
async fn a_backup_holds_the_bytes_that_a_collection_removes_after_it() {
    for holds in [true, false] {
        let place = Place::new();
        let store = place.store("a").await;
        push(&store, "a", "v1", "one").await;
        let collecting = Collecting { store: store.clone(), holds };
        let created = create(&collecting, &place.folder(), &CreateOptions::default()).await.unwrap();
        let expected = if holds { (2, 0) } else { (0, 2) };
        assert_eq!((created.copied, created.damaged.len() as u64), expected, "{:?}", created.damaged);
        let collected = store.collect(everything()).await.unwrap();
        assert_eq!((collected.left_to_another, collected.blobs), (false, expected.0));
    }
}
