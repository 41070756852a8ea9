//! Backups: the metadata of one moment, and the bytes that the folder does not have yet.

use super::blob_file;
use super::copies::{Exported, Hold, blobs_of, blocking, copy_out, export, while_held};
use super::folder::{BackupFolder, NewFile, blob_folder};
use super::snapshot_file::SnapshotHeader;
use crate::clock::rfc3339;
use crate::store::Portable;
use crate::store::meta::{BlobRow, DamagedRow, Row, RowCounts};
use crate::{Error, ErrorKind, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

/// Of so many blobs at least not all are damaged: their place is away.
const MANY: u64 = 8;
/// How many blobs that the folder has are looked for in the store, when none was copied. They come from everywhere among the
/// digests, as what is lost may be one place.
const TRIED: usize = 256;

/// What happens during a backup, a restore or a move.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupEvent {
    /// The metadata is read: so much is there.
    Begin(RowCounts),
    /// A blob is done.
    Blob {
        /// Its size in bytes.
        size: u64,
        /// Whether its bytes were copied, and not there before.
        copied: bool,
    },
    /// A blob or a row is damaged and left out, or an image lacks a blob.
    Damaged(DamagedRow),
}

/// A function that is told of each event.
pub type BackupObserver = Arc<dyn Fn(&BackupEvent) + Send + Sync>;

/// How a backup is made.
///
/// ```
/// use hyper_sdk::store::backup::CreateOptions;
///
/// assert_eq!(CreateOptions::default().jobs, 4);
/// ```
#[derive(Clone)]
pub struct CreateOptions {
    /// How many blobs are copied at once.
    pub jobs: usize,
    /// Whether images of the registry may lack blobs. Without, they are named among what is damaged.
    pub sparse: bool,
    /// Is told of each event.
    pub observer: Option<BackupObserver>,
}

impl Default for CreateOptions {
    /// Four blobs at once.
    fn default() -> Self {
        Self { jobs: 4, sparse: false, observer: None }
    }
}

impl Debug for CreateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateOptions").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// What it has.
    pub rows: RowCounts,
    /// How many blobs were copied; the folder had the others.
    pub copied: u64,
    /// The sum of their sizes in bytes.
    pub copied_bytes: u64,
    /// What is damaged in the store and not in the backup, and images that are in the backup and lack a blob.
    pub damaged: Vec<DamagedRow>,
}

/// Makes a snapshot of a store that may be served meanwhile. The snapshot has what was there in one moment after the call;
/// garbage collections keep its bytes until they are copied. Bytes that the folder has are not copied again.
///
/// Blobs and rows that are damaged are left out, and named in the result.
///
/// Dropped or killed, it leaves the snapshots that were there; the next backup goes on with the bytes that were copied.
///
/// # Errors
/// [`crate::ErrorKind::Conflict`] while another process uses the folder, or when the hold on the bytes was lost;
/// [`crate::ErrorKind::Unavailable`] when no blob of the store can be read, as of a volume that is not mounted; the errors of the
/// store and of the folder.
///
/// ```
/// use hyper_sdk::RepositoryName;
/// use hyper_sdk::store::backup::{BackupFolder, CreateOptions, RestoreOptions, create, restore};
/// use hyper_sdk::store::{DiskStore, RegistryStoreExt as _};
///
/// # #[tokio::main]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let top = tempfile::tempdir()?;
/// let store = DiskStore::open(top.path().join("registry")).await?;
/// let name = RepositoryName::parse("team/app")?;
/// let blob = store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// let folder = BackupFolder::create(&top.path().join("backups"))?;
/// let created = create(&store, &folder, &CreateOptions::default()).await?;
/// assert_eq!((created.copied, created.copied_bytes), (1, 5));
///
/// let other = DiskStore::open(top.path().join("restored")).await?;
/// restore(&folder, None, &other, &RestoreOptions::default()).await?;
/// assert_eq!(other.read_blob(&name, &blob.digest, 100).await?, "hello");
/// # Ok(())
/// # }
/// ```
pub async fn create(store: &dyn Portable, folder: &BackupFolder, options: &CreateOptions) -> Result<Created> {
    let lock = Arc::new(folder.lock(true)?);
    folder.clear_tmp()?;
    let (id, now) = new_id(folder, SystemTime::now())?;
    let mut header = SnapshotHeader::new(&id, store.registry_name().await?, store.to_string(), now);
    header.ancestors = store.ancestors().await?;
    while_held(store, |hold| make(hold, store, (folder, lock), header, options)).await
}

/// The id of a snapshot of a moment.
pub(super) fn id_of(moment: SystemTime) -> String {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    format!("{}-{:09}", rfc3339(seconds).replace(['-', ':'], ""), since.subsec_nanos())
}

/// An id that sorts after those of all snapshots that are there, also when the clock was set back, and the moment in seconds.
fn new_id(folder: &BackupFolder, now: SystemTime) -> Result<(String, i64)> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let id = id_of(now);
    match folder.snapshot_ids()?.pop().filter(|last| *last >= id) {
        None => Ok((id, seconds)),
        Some(last) => {
            tracing::warn!(%last, "the clock is behind that of the newest snapshot: the new one is named after it");
            Ok((next_id(&last), seconds))
        }
    }
}

/// The next text in the order of ids: one more in the digits at the end, or one more digit.
fn next_id(last: &str) -> String {
    let (kept, digits) = last.split_at(last.trim_end_matches(|c: char| c.is_ascii_digit()).len());
    // Those that all are nines stay, so that the order is that of the text.
    let low = digits.trim_end_matches('9');
    match low.as_bytes().split_last() {
        None => format!("{last}0"),
        Some((digit, high)) => {
            let high = String::from_utf8_lossy(high);
            let nines = digits.len() - low.len();
            format!("{kept}{high}{}{}", char::from(digit + 1), "0".repeat(nines))
        }
    }
}

async fn make(
    hold: Hold<'_>,
    store: &dyn Portable,
    (folder, lock): (&BackupFolder, Arc<Option<File>>),
    header: SnapshotHeader,
    options: &CreateOptions,
) -> Result<Created> {
    let id = header.id.clone();
    let new = {
        let folder = folder.clone();
        blocking(move || folder.new_file()).await?
    };
    let cannot = |e| Error::io("cannot write the snapshot", folder.path(), e);
    let file = new.file.try_clone().map_err(cannot)?;
    let Exported { mut writer, left_out: mut damaged, incomplete } =
        export(store, header, file, options.sparse).await?;
    damaged.extend(incomplete);
    let rows = *writer.counts();
    let observe = |event: &BackupEvent| {
        if let Some(observer) = &options.observer {
            observer(event);
        }
    };
    observe(&BackupEvent::Begin(rows));
    damaged.iter().for_each(|row| observe(&BackupEvent::Damaged(row.clone())));
    let blobs = blobs_of(new.reopen().map_err(cannot)?, rows.blobs);
    let (copied, copied_bytes, of_blobs) = copy_all(store, folder, blobs, options).await?;
    damaged.extend(of_blobs);
    // Bytes that are missing may have been collected, if the hold was lost.
    hold.confirm().await?;
    let listed = damaged.clone();
    let folder = folder.clone();
    let rows = blocking(move || {
        for row in listed {
            writer.write(&Row::Damaged(row))?;
        }
        let (_, rows) = writer.finish()?;
        finish(&folder, new, &id)?;
        // Until here, also when nobody waits for this thread any more.
        drop(lock);
        Ok((id, rows))
    });
    let (id, rows) = rows.await?;
    Ok(Created { id, rows, copied, copied_bytes, damaged })
}

/// Syncs the snapshot, and gives it its name.
fn finish(folder: &BackupFolder, new: NewFile, id: &str) -> Result<()> {
    new.file.sync_all().map_err(|e| Error::io("cannot write the snapshot", folder.path(), e))?;
    folder.add_snapshot(new, id)
}

/// Fails when none of these blobs can be read.
async fn can_be_read(store: &dyn Portable, blobs: &[BlobRow]) -> Result<()> {
    for blob in blobs {
        if let Ok(mut content) = store.read_bytes(blob).await
            && matches!(content.next().await, None | Some(Ok(_)))
        {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "the blobs of the store cannot be read, so nothing was backed up: is the volume of its blobs there?",
    )
    .with_context("tried", blobs.len())
    .with_context("store", store))
}

/// Copies the blobs that the folder does not have. Returns how many, how many bytes, and those that are damaged.
async fn copy_all(
    store: &dyn Portable,
    folder: &BackupFolder,
    pages: tokio::sync::mpsc::Receiver<Result<Vec<BlobRow>>>,
    options: &CreateOptions,
) -> Result<(u64, u64, Vec<DamagedRow>)> {
    let pages = futures::stream::unfold(pages, |mut pages| async { pages.recv().await.map(|p| (p, pages)) });
    let blobs = pages
        .map_ok(|page| futures::stream::iter(page.into_iter().map(Ok)))
        .try_flatten()
        .map(|blob: Result<BlobRow>| async {
            let blob = blob?;
            let there = {
                let (folder, digest) = (folder.clone(), blob.digest.clone());
                blocking(move || folder.blob_size(&digest)).await?
            };
            if there == Some(blob.size) {
                return Ok((blob, false, None));
            }
            let damaged = copy_out(store, &blob, |content| blob_file::write(folder, &blob, content)).await?;
            Ok::<_, Error>((blob, true, damaged))
        })
        .buffer_unordered(options.jobs.max(1));
    let mut blobs = std::pin::pin!(blobs);
    let (mut copied, mut bytes, mut damaged, mut touched) = (0, 0, Vec::new(), BTreeSet::new());
    let (mut all, mut some, mut step) = (0, Vec::new(), 1);
    while let Some((blob, is_new, fault)) = blobs.try_next().await? {
        all += 1;
        if !is_new && all % step == 0 {
            some.push(blob.clone());
        }
        if some.len() > TRIED {
            let mut at = 0;
            some.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            step *= 2;
        }
        let event = match fault {
            Some(row) => {
                damaged.push(row.clone());
                BackupEvent::Damaged(row)
            }
            None => {
                if is_new {
                    copied += 1;
                    bytes += blob.size;
                }
                // That of a blob that was there, too: its name may come from a backup that was killed before it synced.
                touched.insert(blob_folder(&blob.digest).map(str::to_owned));
                BackupEvent::Blob { size: blob.size, copied: is_new }
            }
        };
        if let Some(observer) = &options.observer {
            observer(&event);
        }
    }
    if copied == 0 && !damaged.is_empty() && all >= MANY {
        can_be_read(store, &some).await?;
    }
    damaged.sort_by(|a, b| a.digest.cmp(&b.digest));
    let folder = folder.clone();
    blocking(move || {
        for names in touched {
            let names = names.each_ref().map(String::as_str);
            let at = folder.made_folder(&names)?;
            rustix::fs::fsync(&at)
                .map_err(|e| Error::io("cannot sync the backups", folder.path(), e.into()))?;
        }
        Ok(())
    })
    .await?;
    Ok((copied, bytes, damaged))
}
