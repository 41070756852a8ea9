//! Full and read-only disks: in every phase of a push, an error leaves no lock and no lost space, and the store works
//! afterwards.

use crate::clock::{Clock as _, FrozenClock, SystemClock};
use crate::oci::{ImageIndex, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::{DiskStore, Page, PutManifest, RegistryStore as _, RegistryStoreExt as _};
use crate::{Digest, Error, ErrorKind};
use bytes::Bytes;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn name() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

/// A small file system, which is unmounted with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(folder.path())
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(folder));
        }
        println!("SKIPPED: a small file system needs the right to mount");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills the free space except for `rest` bytes.
    fn fill(&self, rest: u64) {
        let mut filler = File::create(self.path().join("filler")).unwrap();
        while self.free() > rest {
            let block = vec![0; (self.free() - rest).min(1 << 20) as usize];
            if filler.write_all(&block).is_err() {
                break;
            }
        }
    }

    /// Frees the space by truncating the file: removing it is not enough when a process that another test has just
    /// started inherited the descriptor.
    fn empty(&self) {
        let filler = self.path().join("filler");
        File::options().write(true).open(&filler).and_then(|file| file.set_len(0)).unwrap();
        std::fs::remove_file(filler).unwrap();
    }

    /// Mounts the disk read-only. It is busy until the last file is closed, also in processes that another test has
    /// just started and that inherited a descriptor.
    async fn make_read_only(&self) {
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,ro"]).arg(self.path());
        for _ in 0..500 {
            if remount.output().unwrap().status.success() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the disk stays busy: {:?}", remount.output());
    }

    /// Waits until the last connection is closed, which removes the log. Separate threads close the connections. Two
    /// that close at the same time may each leave the log to the other, so this function opens and closes another one.
    async fn at_rest(&self) {
        let options = SqliteConnectOptions::new().filename(self.path().join("hyper.db"));
        for _ in 0..500 {
            if !self.path().join("hyper.db-wal").exists() {
                return;
            }
            if let Ok(mut last) = options.connect().await {
                let _ = sqlx::raw_sql("SELECT COUNT(*) FROM tags").execute(&mut last).await;
                let _ = last.close().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the log stays");
    }

    fn staged(&self) -> usize {
        std::fs::read_dir(self.path().join("uploads")).unwrap().count()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn index(text: &str, weight: usize) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    index.annotations.insert("weight".to_owned(), "x".repeat(weight));
    Manifest::sniff(index.to_bytes()).unwrap()
}

fn is_full(e: &Error) {
    assert_eq!(e.kind(), ErrorKind::StorageFull, "{e:?}");
}

async fn works(store: &DiskStore, text: &str) {
    store.put_bytes(&name(), "x/y", Bytes::from(text.to_owned())).await.unwrap();
    let tag = Tag::parse(text).unwrap();
    store.put_manifest(&name(), PutManifest::new(index(text, 10), [tag.clone()])).await.unwrap();
    assert_eq!(store.get_manifest(&name(), &tag.into()).await.unwrap(), index(text, 10));
    let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
    upload.append(Bytes::from(text.repeat(1000))).await.unwrap();
    upload.save().await.unwrap();
    upload.finish(&Digest::sha256(text.repeat(1000))).await.unwrap();
}

#[tokio::test]
async fn a_commit_on_a_full_disk_fails_alone() {
    let Some(disk) = Small::new("8m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "before").await;
    for round in 0..3 {
        for rest in [0, 4096, 40_000] {
            disk.fill(rest);
            // Large enough that the log has to grow, whatever space is left in it.
            let mut failed = 0;
            for n in 0..20 {
                let put = PutManifest::new(index(&format!("{round}-{rest}-{n}"), 300_000), []);
                match store.put_manifest(&name(), put).await {
                    Ok(_) => {}
                    Err(e) => {
                        is_full(&e);
                        failed += 1;
                    }
                }
            }
            assert!(failed > 0, "the disk was not full");
            assert!(!store.list_repositories(Page::default()).await.unwrap().items.is_empty());
            disk.empty();
            works(&store, &format!("after-{round}-{rest}")).await;
        }
    }
}

#[tokio::test]
async fn an_upload_that_fills_the_disk_frees_its_space() {
    let Some(disk) = Small::new("8m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "before").await;
    let free = disk.free();
    for saved in [false, true] {
        let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
        let mut outcome = Ok(());
        for _ in 0..20 {
            outcome = upload.append(Bytes::from(vec![1; 600_000])).await;
            if outcome.is_ok() && saved {
                outcome = upload.save().await;
            }
            if outcome.is_err() {
                break;
            }
        }
        is_full(&outcome.unwrap_err());
        assert_eq!(disk.staged(), 0);
        assert!(disk.free() + 300_000 > free, "{} of {free}", disk.free());
        let id = upload.id().clone();
        let e = match store.resume_upload(&name(), &id).await {
            Ok(mut upload) => upload.append(Bytes::from_static(b"x")).await.unwrap_err(),
            Err(e) => e,
        };
        assert_eq!(e.kind(), ErrorKind::UploadUnknown, "{e}");
        works(&store, &format!("after-{saved}")).await;
    }
    let e = store.put_blob_stream(&name(), None, tokio::io::repeat(1)).await.unwrap_err();
    is_full(&e);
    assert_eq!(disk.staged(), 0);
    let whole = Bytes::from(vec![2; 9_000_000]);
    is_full(&store.put_blob(&name(), &Digest::sha256(&whole), whole).await.unwrap_err());
    assert_eq!(disk.staged(), 0);
    works(&store, "afterwards").await;
}

/// What work uses is there on a full disk, and its lease is renewed when there is space.
#[cfg(feature = "build")]
#[tokio::test]
async fn a_lease_is_renewed_as_soon_as_there_is_space() {
    let Some(disk) = Small::new("8m") else { return };
    let clock = Arc::new(FrozenClock::new(SystemClock.now()));
    let store = DiskStore::open(disk.path()).await.unwrap().with_clock(clock.clone());
    works(&store, "before").await;
    let layers = RepositoryName::parse("hyper.local/layers").unwrap();
    let layer = store.put_bytes(&layers, "x/y", Bytes::from_static(b"layer")).await.unwrap().digest;
    disk.fill(0);
    // Each takes space in the log.
    let mut outcome = Ok(0);
    for _ in 0..500 {
        clock.advance(600);
        outcome = store.renew_blob(&layers, &layer).await;
        if outcome.is_err() {
            break;
        }
    }
    is_full(&outcome.unwrap_err());
    clock.advance(86_400);
    assert_eq!(store.lease_blob(&layers, &layer).await.unwrap(), 5);
    let used = crate::store::wrap::InUse::new(Arc::new(store.clone()));
    assert_eq!(used.stat_blob(&layers, &layer).await.unwrap(), 5);
    disk.empty();
    let version = store.version();
    for _ in 0..2 {
        assert_eq!(used.stat_blob(&layers, &layer).await.unwrap(), 5);
    }
    assert_ne!(store.version(), version);
}

/// The bytes of the blob are stored and the database has no space for the row.
#[tokio::test]
async fn a_blob_that_cannot_be_linked_frees_its_space() {
    let Some(disk) = Small::new("8m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "before").await;
    // The name of the repository makes its row larger than the space in the log.
    let long = RepositoryName::parse(&"x".repeat(200)).unwrap();
    let content = Bytes::from(vec![3; 2_000_000]);
    let digest = Digest::sha256(&content);
    let mut failed = false;
    for _ in 0..100 {
        let Ok(mut upload) = store.start_upload(&long, Default::default()).await else {
            disk.empty();
            continue;
        };
        upload.append(content.clone()).await.unwrap();
        disk.fill(0);
        let outcome = upload.finish(&digest).await;
        if let Err(e) = outcome {
            is_full(&e);
            assert_eq!(disk.staged(), 0, "the bytes are gone again");
            assert!(disk.free() + 200_000 >= content.len() as u64, "{}", disk.free());
            assert!(!store.has_blob(&long, &digest).await.unwrap());
            failed = true;
            disk.empty();
            break;
        }
        disk.empty();
        store.delete_blob(&long, &digest).await.unwrap();
    }
    assert!(failed, "the log never had to grow");
    works(&store, "after").await;
}

/// A reader prevents the checkpoint of the log, so the log grows; then the disk is too full for the checkpoint.
#[tokio::test]
async fn a_checkpoint_that_failed_on_a_full_disk_is_repeated() {
    let Some(disk) = Small::new("64m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "before").await;
    let options = SqliteConnectOptions::new().filename(disk.path().join("hyper.db"));
    let mut reader = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT COUNT(*) FROM tags").execute(&mut reader).await.unwrap();
    for n in 0..20 {
        let put = PutManifest::new(index(&n.to_string(), 400_000), [Tag::parse(&n.to_string()).unwrap()]);
        store.put_manifest(&name(), put).await.unwrap();
    }
    disk.fill(0);
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
    for n in 20..40 {
        let put = PutManifest::new(index(&n.to_string(), 400_000), []);
        if let Err(e) = store.put_manifest(&name(), put).await {
            is_full(&e);
        }
    }
    for n in 0..20 {
        let tag = Tag::parse(&n.to_string()).unwrap();
        assert_eq!(store.get_manifest(&name(), &tag.into()).await.unwrap(), index(&n.to_string(), 400_000));
    }
    disk.empty();
    for n in 0..5 {
        works(&store, &format!("after-{n}")).await;
    }
    drop(reader);
    let log = disk.path().join("hyper.db-wal");
    for n in 0..5 {
        let more = index(&format!("more-{n}"), 5_000_000);
        store.put_manifest(&name(), PutManifest::new(more.clone(), [])).await.unwrap();
        store.delete_manifest(&name(), &more.digest().clone().into()).await.unwrap();
    }
    for n in 0..3 {
        works(&store, &format!("then-{n}")).await;
    }
    let length = std::fs::metadata(log).unwrap().len();
    assert!(length < 5_000_000, "the log is cut back when it had to grow: {length}");
}

/// Copies of a store in use, as a killed process leaves it, with the index of the log and without.
#[tokio::test]
async fn a_store_that_was_not_closed_can_be_read_when_it_becomes_read_only() {
    let all = ["hyper.db", "hyper.db-wal", "hyper.db-shm"];
    for parts in [&all[..], &all[..2]] {
        let Some(disk) = Small::new("8m") else { return };
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path()).await.unwrap();
        works(&store, "tag").await;
        for part in parts {
            std::fs::copy(folder.path().join(part), disk.path().join(part)).unwrap();
        }
        assert!(std::fs::metadata(disk.path().join("hyper.db-wal")).unwrap().len() > 0);
        for part in ["blobs", "uploads"] {
            std::fs::create_dir(disk.path().join(part)).unwrap();
        }
        disk.make_read_only().await;
        for _ in 0..2 {
            let copy = DiskStore::open(disk.path()).await.unwrap();
            assert!(!copy.capabilities().write);
            // Data that is only in the log must not be missing.
            assert_eq!(copy.all_tags(&name()).await.unwrap(), [Tag::parse("tag").unwrap()], "{parts:?}");
        }
    }
}

#[tokio::test]
async fn a_store_on_a_read_only_file_system_can_only_be_read() {
    let Some(disk) = Small::new("8m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "tag").await;
    drop(store);
    disk.at_rest().await;
    disk.make_read_only().await;
    let store = DiskStore::open(disk.path()).await.unwrap();
    assert!(!store.capabilities().write && !store.capabilities().delete);
    assert_eq!(store.all_tags(&name()).await.unwrap(), [Tag::parse("tag").unwrap()]);
    let blob = Digest::sha256("tag");
    assert_eq!(store.read_blob(&name(), &blob, 100).await.unwrap(), "tag");
    let shared: crate::store::SharedStore = std::sync::Arc::new(store);
    crate::store::conformance::capabilities_excluded_operations_are_unsupported(shared.clone()).await;
    crate::store::conformance::capabilities_claimed_operations_work(shared).await;
}

/// Abandoned uploads may fill the disk: they are removed even then.
#[tokio::test]
async fn idle_uploads_are_removed_on_a_full_disk() {
    let Some(disk) = Small::new("8m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "before").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut upload = store.start_upload(&name(), Default::default()).await.unwrap();
        upload.append(Bytes::from(vec![1; 1_000_000])).await.unwrap();
        upload.save().await.unwrap();
        ids.push(upload.id().clone());
    }
    disk.fill(0);
    // The space that is left in the log is used up too.
    for n in 0..20 {
        let _ = store.put_manifest(&name(), PutManifest::new(index(&n.to_string(), 300_000), [])).await;
    }
    disk.fill(0);
    let later = Arc::new(FrozenClock::new(SystemClock.now() + 10));
    let expired = store.clone().with_clock(later).expire_uploads(std::time::Duration::from_secs(5)).await;
    assert_eq!(expired.unwrap(), 2);
    assert_eq!(disk.staged(), 0);
    for id in ids {
        assert_eq!(store.resume_upload(&name(), &id).await.unwrap_err().kind(), ErrorKind::UploadUnknown);
    }
    works(&store, "after").await;
}

/// After a clean shutdown there is no log, and no space to create one.
#[tokio::test]
async fn a_store_on_a_full_disk_can_be_opened_and_read() {
    let Some(disk) = Small::new("8m") else { return };
    let store = DiskStore::open(disk.path()).await.unwrap();
    works(&store, "tag").await;
    drop(store);
    let read = async |store: &DiskStore| {
        assert!(store.all_tags(&name()).await.unwrap().contains(&Tag::parse("tag").unwrap()));
        assert_eq!(store.read_blob(&name(), &Digest::sha256("tag"), 100).await.unwrap(), "tag");
        store.get_manifest(&name(), &Tag::parse("tag").unwrap().into()).await.unwrap();
    };
    for rest in [0, 4096, 16 << 10] {
        disk.at_rest().await;
        disk.fill(rest);
        let store = DiskStore::open(disk.path()).await.unwrap();
        let second = DiskStore::open(disk.path()).await.unwrap();
        for _ in 0..10 {
            tokio::join!(read(&store), read(&store), read(&second), read(&second));
        }
        is_full(&store.put_manifest(&name(), PutManifest::new(index("x", 10), [])).await.unwrap_err());
        is_full(&store.start_upload(&name(), Default::default()).await.map(drop).unwrap_err());
        disk.empty();
        works(&store, &format!("after-{rest}")).await;
        tokio::join!(read(&store), read(&second));
        works(&second, &format!("again-{rest}")).await;
    }
}

/// The log of a killed process is read, even when its index has to be kept in memory.
#[tokio::test]
async fn the_log_of_a_killed_process_is_read_on_a_full_disk() {
    let Some(disk) = Small::new("8m") else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).await.unwrap();
    works(&store, "tag").await;
    for part in ["hyper.db", "hyper.db-wal"] {
        std::fs::copy(folder.path().join(part), disk.path().join(part)).unwrap();
    }
    assert!(std::fs::metadata(disk.path().join("hyper.db-wal")).unwrap().len() > 0);
    for part in ["blobs", "uploads"] {
        std::fs::create_dir(disk.path().join(part)).unwrap();
    }
    disk.fill(0);
    let copy = DiskStore::open(disk.path()).await.unwrap();
    assert_eq!(copy.all_tags(&name()).await.unwrap(), [Tag::parse("tag").unwrap()]);
    disk.empty();
    works(&copy, "after").await;
}

#[tokio::test]
async fn a_store_cannot_be_created_before_the_disk_has_space() {
    let Some(disk) = Small::new("8m") else { return };
    disk.fill(0);
    is_full(&DiskStore::open(disk.path()).await.unwrap_err());
    disk.empty();
    works(&DiskStore::open(disk.path()).await.unwrap(), "after").await;
}
