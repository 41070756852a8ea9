//! Runs the suite on every cache of the SDK, and on caches with injected faults that it must find.

use super::conformance as cases;
use super::*;
use crate::testing::{assert_suite_finds, is_caught};

mod memory {
    use super::*;

    async fn fixture() -> Option<(SharedCache, ())> {
        Some((Arc::new(MemoryCache::default()), ()))
    }
    crate::cache_conformance!(fixture);
}

mod disk {
    use super::*;

    async fn fixture() -> (SharedCache, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (reopen(&folder).await, folder)
    }

    async fn reopen(folder: &tempfile::TempDir) -> SharedCache {
        Arc::new(DiskCache::open(folder.path()).unwrap())
    }
    crate::cache_conformance!(fixture, reopen);
}

/// A fault to inject.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    FindsWhatIsNotThere,
    Forgets,
    KeepsTheFirst,
    HasOneKey,
    CutsKeys,
    LosesTheTimes,
    LosesWhenItWasMade,
    LosesTheSnapshot,
    LosesTheOrigin,
    RoundsTheTime,
    LosesAnnotations,
    ReadsOnce,
    RemovesNothing,
    RemovesAll,
    CannotRemoveNothing,
    StaysRemoved,
    WritesInTwoSteps,
    IsEmptyBetweenTwoRecords,
    ListsTheFirstPage,
    FindingIsNoUse,
    RemovesUsed,
    HasNoName,
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    records: MemoryCache,
    removed: std::sync::Mutex<std::collections::HashSet<Digest>>,
    keys: std::sync::Mutex<std::collections::HashSet<Digest>>,
}

impl Faulty {
    fn with(fault: Fault) -> SharedCache {
        Arc::new(Self {
            fault,
            records: MemoryCache::default(),
            removed: Default::default(),
            keys: Default::default(),
        })
    }

    fn key(&self, key: &Digest) -> Digest {
        match self.fault {
            Fault::HasOneKey => Digest::sha256(""),
            Fault::CutsKeys => Digest::sha256(&key.hex()[..64]),
            _ => key.clone(),
        }
    }
}

impl Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.fault == Fault::HasNoName { "" } else { "faulty cache" })
    }
}

#[async_trait]
impl CacheStore for Faulty {
    async fn get(&self, key: &Digest) -> Result<Option<CacheRecord>> {
        if self.fault == Fault::FindingIsNoUse {
            let all = self.records.list(None, usize::MAX).await?;
            return Ok(all.into_iter().find(|entry| entry.key == *key).map(|entry| entry.record));
        }
        let found = self.records.get(&self.key(key)).await?;
        match self.fault {
            Fault::FindsWhatIsNotThere if found.is_none() => Ok(Some(record())),
            Fault::ReadsOnce => self.records.remove(key).await.map(|()| found),
            _ => Ok(found),
        }
    }

    async fn put(&self, key: &Digest, record: &CacheRecord) -> Result<()> {
        let (key, mut record) = (self.key(key), record.clone());
        let before = self.records.get(&key).await?;
        self.keys.lock().unwrap().insert(key.clone());
        match self.fault {
            Fault::Forgets => return Ok(()),
            Fault::KeepsTheFirst if before.is_some() => return Ok(()),
            Fault::LosesTheTimes => record.times = None,
            Fault::LosesWhenItWasMade => record.made = None,
            Fault::LosesTheSnapshot => record.snapshot = None,
            Fault::LosesTheOrigin => record.origin = None,
            Fault::RoundsTheTime => {
                if let Some(made) = &mut record.made {
                    made.nanoseconds = 0;
                }
            }
            Fault::LosesAnnotations => record.layer.iter_mut().for_each(|layer| layer.annotations.clear()),
            Fault::StaysRemoved if self.removed.lock().unwrap().contains(&key) => return Ok(()),
            Fault::WritesInTwoSteps => {
                if let Some(before) = before {
                    let half = CacheRecord { diff_id: before.diff_id, ..record.clone() };
                    self.records.put(&key, &half).await?;
                    tokio::task::yield_now().await;
                }
            }
            Fault::IsEmptyBetweenTwoRecords => {
                self.records.remove(&key).await?;
                tokio::task::yield_now().await;
            }
            _ => {}
        }
        self.records.put(&key, &record).await
    }

    async fn remove(&self, key: &Digest) -> Result<()> {
        let key = self.key(key);
        self.removed.lock().unwrap().insert(key.clone());
        match self.fault {
            Fault::RemovesNothing => Ok(()),
            Fault::RemovesAll => {
                let all: Vec<Digest> = self.keys.lock().unwrap().iter().cloned().collect();
                for key in all {
                    self.records.remove(&key).await?;
                }
                Ok(())
            }
            Fault::CannotRemoveNothing if self.records.get(&key).await?.is_none() => {
                Err(crate::Error::new(crate::ErrorKind::NotFound, "there is no such record"))
            }
            _ => self.records.remove(&key).await,
        }
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<CacheEntry>> {
        match self.fault {
            Fault::ListsTheFirstPage if after.is_some() => Ok(Vec::new()),
            _ => self.records.list(after, limit).await,
        }
    }

    async fn remove_unused(&self, key: &Digest, before: Option<SystemTime>) -> Result<bool> {
        let before = before.filter(|_| self.fault != Fault::RemovesUsed);
        self.records.remove_unused(key, before).await
    }
}

fn record() -> CacheRecord {
    let layer = Descriptor::of(crate::media_type::OCI_LAYER, b"layer");
    CacheRecord::of_blob(layer, Digest::sha256("layer"), crate::RepositoryName::parse("a/b").unwrap())
}

#[tokio::test]
async fn the_suite_finds_every_fault() {
    assert_suite_finds! { cases, Faulty::with, Fault;
        FindsWhatIsNotThere by an_unknown_key_has_no_record;
        Forgets by a_record_is_returned_unchanged, a_record_without_times_is_returned_unchanged;
        KeepsTheFirst by a_second_record_replaces_the_first;
        HasOneKey by keys_do_not_mix, removing_a_record_keeps_the_others, many_tasks_write_many_keys;
        CutsKeys by a_sha512_key_has_its_own_record;
        LosesTheTimes by a_record_is_returned_unchanged;
        LosesWhenItWasMade by a_record_is_returned_unchanged;
        LosesTheSnapshot by a_record_is_returned_unchanged;
        LosesTheOrigin by a_record_is_returned_unchanged;
        RoundsTheTime by a_record_is_returned_unchanged;
        LosesAnnotations by a_record_of_an_annotated_layer_is_returned_unchanged;
        ReadsOnce by a_record_is_returned_unchanged;
        RemovesNothing by removing_a_record_keeps_the_others, many_tasks_write_many_keys;
        RemovesAll by removing_a_record_keeps_the_others;
        CannotRemoveNothing by removing_a_missing_record_is_not_an_error;
        StaysRemoved by a_removed_record_can_be_put_again;
        WritesInTwoSteps by racing_writers_leave_one_complete_record;
        IsEmptyBetweenTwoRecords by racing_writers_leave_one_complete_record;
        ListsTheFirstPage by records_are_listed_in_pages;
        FindingIsNoUse by a_record_that_was_found_is_used;
        RemovesUsed by only_unused_records_are_removed_as_such;
        HasNoName by a_cache_has_a_name;
    }
    // A fault of two handles: neither sees the records of the other.
    let (one, other) = (Arc::new(MemoryCache::default()), Arc::new(MemoryCache::default()));
    assert!(is_caught(cases::a_record_exists_after_reopening(one.clone(), other.clone())).await);
    assert!(is_caught(cases::two_handles_see_the_same_records(one, other)).await);
}

#[tokio::test]
async fn a_damaged_record_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path()).unwrap();
    let key = Digest::sha256("key");
    let path = cache.path(&key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "{").unwrap();
    assert_eq!(cache.get(&key).await.unwrap(), None);
    let record = record();
    cache.put(&key, &record).await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        // Most changes of one digit leave a record that can still be parsed.
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert_eq!(cache.get(&key).await.unwrap(), None, "byte {at}");
        std::fs::write(&path, &bytes[..at]).unwrap();
        assert_eq!(cache.get(&key).await.unwrap(), None, "cut to {at}");
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(cache.get(&key).await.unwrap(), Some(record));
}

/// Earlier versions wrote records that always have a blob and never a snapshot.
#[tokio::test]
async fn a_record_of_an_earlier_version_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path()).unwrap();
    let (key, digest) = (Digest::sha256("key"), Digest::sha256("layer"));
    let json = format!(
        r#"{{"layer":{{"mediaType":"{}","digest":"{digest}","size":5}},"diff_id":"{digest}","repository":"a/b"}}"#,
        crate::media_type::OCI_LAYER
    );
    let path = cache.path(&key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, format!("{json}\n{}", Digest::sha256(&json).hex())).unwrap();
    assert_eq!(cache.get(&key).await.unwrap(), Some(record()));
}
