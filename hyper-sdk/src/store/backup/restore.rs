//! An empty store becomes what a snapshot, or another store, has.
//!
//! Bytes first, while the store says that it is not whole; then all other rows at once. Whatever ends it before leaves a store
//! that a server refuses, and that the next restore goes on with.

use super::blob_file::{self, Failed};
use super::copies::{Exported, Hold, blobs_of, blocking, copy_out, damage, export, random, while_held};
use super::create::{BackupEvent, BackupObserver, id_of};
use super::folder::{BackupFolder, FromBegin};
use super::inspect::{Whole, look_at, read_file, read_whole};
use super::lineage::{newest, with};
use super::snapshot_file::{SnapshotHeader, SnapshotReader};
use crate::clock::{Clock as _, SystemClock};
use crate::store::Portable;
use crate::store::meta::{Ancestor, BlobRow, DamagedRow, Row, RowCounts, move_source};
use crate::{Digest, Error, ErrorKind, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::mpsc;

/// How many rows, and of how many bytes, are added together.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 4 << 20;

/// How a store is filled.
#[derive(Clone)]
pub struct RestoreOptions {
    /// How many blobs are copied at once.
    pub jobs: usize,
    /// Leaves out what is damaged in the source, and names it in the result. Without, it is an error.
    pub skip_damaged: bool,
    /// Whether images of the source of a [`migrate`] may lack blobs. Without, they are named in the result.
    pub sparse: bool,
    /// Copies the bytes alone, for a [`migrate`] that ends later: the store is not whole yet.
    pub bytes_only: bool,
    /// Is told of each event.
    pub observer: Option<BackupObserver>,
}

impl Default for RestoreOptions {
    /// Four blobs at once, and all of them.
    fn default() -> Self {
        Self { jobs: 4, skip_damaged: false, sparse: false, bytes_only: false, observer: None }
    }
}

impl Debug for RestoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreOptions")
            .field("jobs", &self.jobs)
            .field("skip_damaged", &self.skip_damaged)
            .field("bytes_only", &self.bytes_only)
            .finish_non_exhaustive()
    }
}

/// What a store got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The snapshot.
    pub snapshot: SnapshotHeader,
    /// What the store has of it now.
    pub rows: RowCounts,
    /// How many blobs were copied; the store had the others.
    pub copied: u64,
    /// The sum of their sizes in bytes.
    pub copied_bytes: u64,
    /// What is damaged in the source, and images that lack a blob. The store knows of each blob here that it lacks: it counts as
    /// damaged until it is pushed.
    pub damaged: Vec<DamagedRow>,
}

/// From where bytes come.
enum Source<'a> {
    Folder(&'a BackupFolder),
    Store(&'a dyn Portable, Hold<'a>),
}

/// Fills an empty store from a snapshot: the one with this id, or the one of [`newest`]. Every digest is verified. Before anything is
/// written, the snapshot is read, and its blobs are looked for.
///
/// Killed or failed, it leaves a store that is not whole and says so; the next restore of it goes on with the bytes that are
/// there.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the store is not empty, another process has it open, or one writes to the folder;
/// [`ErrorKind::NotFound`] when there is no such snapshot; [`ErrorKind::Invalid`] without an id when the folder has snapshots of
/// several registries; [`ErrorKind::Corrupt`] when the snapshot or a blob is damaged; the errors of the store.
pub async fn restore(
    folder: &BackupFolder,
    id: Option<&str>,
    target: &dyn Portable,
    options: &RestoreOptions,
) -> Result<Restored> {
    let lock = folder.lock(false)?;
    let (of, asked, skips) = (folder.clone(), id.map(str::to_owned), options.skip_damaged);
    let (file, whole, lost) = blocking(move || {
        let id = match asked {
            Some(id) => id,
            None => only(&of)?,
        };
        let mut missing = Vec::new();
        let mut failed = None;
        let whole = read_whole(&of, &id, |blob| match look_at(&of, &blob, false) {
            Ok(None) => {}
            Ok(Some(reason)) => missing.push((blob.digest, reason)),
            Err(e) => failed = failed.take().or(Some(e)),
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        missing.retain(|(digest, _)| !whole.damaged.contains_key(digest));
        if let (false, Some((digest, reason))) = (skips, missing.first()) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the backups lack {} blobs of the snapshot: {reason}", missing.len()),
            )
            .with_context("digest", digest)
            .with_context("snapshot", &id));
        }
        Ok((of.open_snapshot(&id)?, whole, missing))
    })
    .await?;
    let source = format!("the snapshot {} of {}", whole.header.id, folder.path().display());
    let ancestors = with(whole.header.ancestors.clone(), &whole.header.registry, &whole.header.id);
    let plan = Plan { file, whole, lost, source, ancestors };
    let restored = fill(plan, &Source::Folder(folder), target, options).await;
    drop(lock);
    restored
}

/// The snapshot that is meant without an id.
fn only(folder: &BackupFolder) -> Result<String> {
    match newest(folder)?.as_slice() {
        [info] => Ok(info.id.clone()),
        _ => Err(Error::invalid("the backups have snapshots of several registries: name one")
            .with_context("path", folder.path().display())),
    }
}

/// Fills an empty store with what another one has in one moment after the call. The source stays as it is, and may be served
/// meanwhile; what is pushed to it later is not in the target. Every digest is verified. The list of rows is for the time being
/// in a file without a name in the folder `spool`.
///
/// Killed or failed, or with [`RestoreOptions::bytes_only`], it leaves a store that is not whole and says so; the next one from
/// the same source goes on with the bytes that are there.
///
/// # Errors
/// Those of [`restore`], and of the source; [`ErrorKind::Conflict`] when the store is being filled from another source.
///
/// ```
/// use hyper_sdk::RepositoryName;
/// use hyper_sdk::store::backup::{RestoreOptions, migrate};
/// use hyper_sdk::store::{DiskStore, RegistryStoreExt as _};
///
/// # #[tokio::main]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let top = tempfile::tempdir()?;
/// let from = DiskStore::open(top.path().join("from")).await?;
/// let name = RepositoryName::parse("team/app")?;
/// let blob = from.put_bytes(&name, "text/plain", "hello".into()).await?;
/// let to = DiskStore::open(top.path().join("to")).await?;
/// migrate(&from, &to, top.path(), &RestoreOptions::default()).await?;
/// assert_eq!(to.read_blob(&name, &blob.digest, 100).await?, "hello");
/// # Ok(())
/// # }
/// ```
pub async fn migrate(
    source: &dyn Portable,
    target: &dyn Portable,
    spool: &Path,
    options: &RestoreOptions,
) -> Result<Restored> {
    let cannot = |e| Error::io("cannot make a file in", spool, e);
    let file = tempfile::tempfile_in(spool).map_err(cannot)?;
    let registry = source.registry_name().await?;
    let name = move_source(&source.to_string(), &registry);
    let mut header = SnapshotHeader::new("migration", &registry, source.to_string(), SystemClock.now());
    header.ancestors = source.ancestors().await?;
    let ancestors = with(header.ancestors.clone(), &registry, &id_of(SystemTime::now()));
    while_held(source, |hold| async move {
        let written = file.try_clone().map_err(cannot)?;
        let Exported { writer, left_out, incomplete } =
            export(source, header, written, options.sparse).await?;
        if let (false, Some(row)) = (options.skip_damaged, left_out.first()) {
            return Err(of_damage(row));
        }
        let read = FromBegin::of(&file).map_err(cannot)?;
        let whole = blocking(move || {
            let mut writer = writer;
            for row in left_out.into_iter().chain(incomplete) {
                writer.write(&Row::Damaged(row))?;
            }
            writer.finish()?;
            read_file(read, &mut |_| ())
        });
        let whole = whole.await?;
        let plan = Plan { file, whole, lost: Vec::new(), source: name, ancestors };
        fill(plan, &Source::Store(source, hold), target, options).await
    })
    .await
}

fn of_damage(row: &DamagedRow) -> Error {
    let error = Error::new(ErrorKind::Corrupt, format!("the source is damaged: {}", row.reason));
    let error = match &row.digest {
        Some(digest) => error.with_context("digest", digest),
        None => error,
    };
    match &row.repository {
        Some(repository) => error.with_context("repository", repository),
        None => error,
    }
}

/// What a store is filled with.
struct Plan {
    file: File,
    whole: Whole,
    /// Blobs that the source lacks.
    lost: Vec<(Digest, String)>,
    /// For people.
    source: String,
    /// Those that the store gets.
    ancestors: Vec<Ancestor>,
}

/// Fills the target, whose bytes are held meanwhile.
async fn fill(
    plan: Plan,
    source: &Source<'_>,
    target: &dyn Portable,
    options: &RestoreOptions,
) -> Result<Restored> {
    while_held(target, |hold| fill_held(hold, plan, source, target, options)).await
}

async fn fill_held(
    hold: Hold<'_>,
    plan: Plan,
    source: &Source<'_>,
    target: &dyn Portable,
    options: &RestoreOptions,
) -> Result<Restored> {
    let Plan { file, whole, lost, source: name, ancestors } = plan;
    let observe = |event: &BackupEvent| {
        if let Some(observer) = &options.observer {
            observer(event);
        }
    };
    let holder = random()?;
    target.begin_restore(holder, &name).await?;
    observe(&BackupEvent::Begin(whole.rows));
    let mut damaged: HashMap<Digest, String> = whole.damaged;
    damaged.extend(lost);
    for row in &whole.rows_left_out {
        observe(&BackupEvent::Damaged(row.clone()));
    }
    for (digest, reason) in &damaged {
        let row = DamagedRow { digest: Some(digest.clone()), repository: None, reason: reason.clone() };
        observe(&BackupEvent::Damaged(row));
    }
    let cannot = |e| Error::internal("the snapshot cannot be read again").with_source(e);
    let (mut copied, mut copied_bytes, mut rows) = (0, 0, whole.rows);
    let lacks = |rows: &mut RowCounts, blob: &BlobRow| {
        rows.blobs -= 1;
        rows.bytes -= blob.size;
    };
    let mut pages = blobs_of(FromBegin::of(&file).map_err(cannot)?, whole.rows.blobs);
    while let Some(page) = pages.recv().await {
        let (without, page): (Vec<BlobRow>, Vec<BlobRow>) =
            page?.into_iter().partition(|blob| damaged.contains_key(&blob.digest));
        without.iter().for_each(|blob| lacks(&mut rows, blob));
        let there = target.has_bytes(&page).await?;
        let copies = page.into_iter().zip(there).map(|(blob, is_there)| async move {
            if is_there {
                return Ok((blob, None, false));
            }
            copy(source, (target, holder), &blob).await.map(|fault| (blob, fault, true))
        });
        let mut copies = futures::stream::iter(copies).buffer_unordered(options.jobs.max(1));
        while let Some((blob, fault, is_new)) = copies.try_next().await? {
            match fault {
                Some(row) if options.skip_damaged => {
                    observe(&BackupEvent::Damaged(row.clone()));
                    lacks(&mut rows, &blob);
                    damaged.insert(blob.digest, row.reason);
                }
                Some(row) => return Err(of_damage(&row)),
                None => {
                    (copied, copied_bytes) = match is_new {
                        true => (copied + 1, copied_bytes + blob.size),
                        false => (copied, copied_bytes),
                    };
                    observe(&BackupEvent::Blob { size: blob.size, copied: is_new });
                }
            }
        }
    }
    if !options.bytes_only {
        if let Source::Store(_, hold) = source {
            hold.confirm().await?;
        }
        hold.confirm().await?;
        finish(&file, Arc::new(damaged.clone()), holder, &whole.rows, (target, &ancestors)).await?;
    }
    let mut faults: Vec<DamagedRow> = damaged
        .into_iter()
        .map(|(of, reason)| DamagedRow { digest: Some(of), repository: None, reason })
        .collect();
    faults.sort_by(|a, b| a.digest.cmp(&b.digest));
    faults.extend(whole.rows_left_out);
    Ok(Restored { snapshot: whole.header, rows, copied, copied_bytes, damaged: faults })
}

/// Copies the bytes of a blob. Returns why it is damaged in the source, if it is.
async fn copy(
    source: &Source<'_>,
    target: (&dyn Portable, u64),
    blob: &BlobRow,
) -> Result<Option<DamagedRow>> {
    match source {
        Source::Store(store, _) => copy_out(*store, blob, |content| put(target, blob, content)).await,
        Source::Folder(folder) => {
            let put = async {
                match blob_file::read(folder, blob).await {
                    Ok(content) => put(target, blob, content).await,
                    Err(e) => Err(Failed::Source(e)),
                }
            };
            match put.await {
                Ok(()) => Ok(None),
                Err(Failed::Target(e)) => Err(e),
                Err(Failed::Source(e)) => damage(blob, e).map(Some),
            }
        }
    }
}

/// Puts bytes into the target, and finds out whose fault an error is.
async fn put(
    (target, holder): (&dyn Portable, u64),
    blob: &BlobRow,
    content: crate::store::ByteStream,
) -> std::result::Result<(), Failed> {
    let passed = Arc::new(Mutex::new((blob.digest.algorithm().hasher(), false)));
    let noted = Arc::clone(&passed);
    let content = content.inspect(move |part| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        match part {
            Ok(part) => noted.0.update(part),
            Err(_) => noted.1 = true,
        }
    });
    target.add_bytes(holder, blob, content.boxed()).await.map_err(|e| {
        let passed = passed.lock().unwrap_or_else(PoisonError::into_inner);
        // Bytes that were whole when they were passed on are no fault of the source.
        let differ = || passed.0.clone().finish() != blob.digest;
        let is_of_source =
            passed.1 || matches!(e.kind(), ErrorKind::DigestInvalid | ErrorKind::SizeInvalid) && differ();
        if is_of_source { Failed::Source(e) } else { Failed::Target(e) }
    })
}

/// Adds all rows but those of blobs that are there.
async fn finish(
    file: &File,
    damaged: Arc<HashMap<Digest, String>>,
    holder: u64,
    rows: &RowCounts,
    (target, ancestors): (&dyn Portable, &[Ancestor]),
) -> Result<()> {
    let cannot = |e| Error::internal("the snapshot cannot be read again").with_source(e);
    let (sender, mut receiver) = mpsc::channel(2);
    let file = FromBegin::of(file).map_err(cannot)?;
    let reading = blocking(move || {
        let (mut page, mut size) = (Vec::new(), 0);
        let gone = || Error::new(ErrorKind::Cancelled, "the store takes no more rows");
        each_row(file, |row| {
            match &row {
                Row::Blob(blob) if !damaged.contains_key(&blob.digest) => return Ok(()),
                Row::Damaged(_) => return Ok(()),
                Row::Manifest(row) => size += row.body.len(),
                _ => {}
            }
            if page.len() >= PAGE || size >= PAGE_BYTES {
                size = 0;
                sender.blocking_send(std::mem::take(&mut page)).map_err(|_| gone())?;
            }
            page.push(row);
            Ok(())
        })?;
        // The last row goes when all are verified: without it nothing is added.
        sender.blocking_send(page).map_err(|_| gone())
    });
    let (read, added) = tokio::join!(reading, async {
        let added = target.finish_restore(holder, &mut receiver, rows, ancestors).await;
        // So that the reader ends when the store does not take all.
        drop(receiver);
        added
    });
    match (read, added) {
        (_, Err(e)) if e.kind() != ErrorKind::Corrupt => Err(e),
        (Err(e), _) if e.kind() != ErrorKind::Cancelled => Err(e),
        (_, added) => added,
    }
}

fn each_row(file: FromBegin, mut take: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let mut reader = SnapshotReader::open(BufReader::with_capacity(1 << 18, file))?;
    while let Some(row) = reader.next_row()? {
        take(row)?;
    }
    Ok(())
}
