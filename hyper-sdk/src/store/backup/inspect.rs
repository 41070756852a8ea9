//! What is in a folder of backups, and whether a restore would find all that it needs.

use super::fitting::{Fitting, name_of, part};
use super::folder::BackupFolder;
use super::snapshot_file::{MAX_LINE, SnapshotHeader, SnapshotReader, parse_end};
use crate::digest::VerifyingReader;
use crate::store::meta::{BlobRow, DamagedRow, Row, RowCounts};
use crate::{Digest, Error, ErrorKind, Result};
use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read, Seek as _, SeekFrom};

/// Larger than the last line of a snapshot.
const LAST: u64 = 4096;

/// A snapshot, as its first and last lines have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The id.
    pub id: String,
    /// What the first line says.
    pub header: SnapshotHeader,
    /// What the last line says.
    pub rows: RowCounts,
    /// The size of its file in bytes, without blobs.
    pub size: u64,
}

/// What is wrong with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The snapshot.
    pub snapshot: String,
    /// The blob that it needs; `None` when the snapshot itself is damaged.
    pub blob: Option<Digest>,
    /// What is wrong.
    pub reason: String,
}

/// The result of [`check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many snapshots were read.
    pub snapshots: u64,
    /// How many blobs they need, each counted once.
    pub blobs: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
    /// What was damaged in the store when the snapshots were made, and images that lacked a blob.
    pub left_out: u64,
    /// What is wrong. A restore of the snapshots that are not named would be whole.
    pub faults: Vec<Fault>,
}

/// The snapshots of a folder, the oldest first. Their first and last lines are read, and nothing is verified; one that has no
/// such lines is an error in its place.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when a file between the snapshots is none; those of reading.
pub fn list(folder: &BackupFolder) -> Result<Vec<(String, Result<SnapshotInfo>)>> {
    let ids = folder.snapshot_ids()?;
    Ok(ids.into_iter().map(|id| (id.clone(), info(folder, &id))).collect())
}

fn info(folder: &BackupFolder, id: &str) -> Result<SnapshotInfo> {
    let mut file = folder.open_snapshot(id)?;
    let cannot = |e| Error::io("cannot read a snapshot in", folder.path(), e);
    let size = file.metadata().map_err(cannot)?.len();
    let header = SnapshotReader::open(BufReader::new((&file).take(MAX_LINE)))?.header().clone();
    check_id(id, &header)?;
    file.seek(SeekFrom::Start(size.saturating_sub(LAST))).map_err(cannot)?;
    let mut tail = Vec::new();
    file.take(LAST).read_to_end(&mut tail).map_err(cannot)?;
    let end = tail.strip_suffix(b"\n").and_then(|tail| tail.rsplit(|byte| *byte == b'\n').next());
    let rows = end.and_then(parse_end).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the snapshot ends early, or its last line is damaged")
    })?;
    Ok(SnapshotInfo { id: id.to_owned(), header, rows, size })
}

fn check_id(id: &str, header: &SnapshotHeader) -> Result<()> {
    if header.id == id {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "the snapshot has the name of another one")
        .with_context("id", &header.id))
}

/// A snapshot that was read to its end and is whole.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) header: SnapshotHeader,
    pub(super) rows: RowCounts,
    /// The blobs that it names and does not have.
    pub(super) damaged: HashMap<Digest, String>,
    /// Manifests and other rows that it does not have.
    pub(super) rows_left_out: Vec<DamagedRow>,
}

/// Reads all of a snapshot, and verifies it.
pub(super) fn read_whole(folder: &BackupFolder, id: &str, mut blob: impl FnMut(BlobRow)) -> Result<Whole> {
    let file = folder.open_snapshot(id)?;
    let whole = read_file(file, &mut blob).and_then(|whole| check_id(id, &whole.header).map(|()| whole));
    whole.map_err(|e| e.with_context("snapshot", id))
}

/// Reads all of a file, and verifies it.
pub(super) fn read_file(file: impl Read, blob: &mut impl FnMut(BlobRow)) -> Result<Whole> {
    let mut reader = SnapshotReader::open(BufReader::with_capacity(1 << 18, file))?;
    let (mut damaged, mut rows_left_out, mut fitting) = (HashMap::new(), Vec::new(), Fitting::default());
    while let Some(row) = reader.next_row()? {
        if let Some(reason) = fitting.fault(&row) {
            let message = format!("a row of the snapshot does not fit the others: {reason}");
            return Err(Error::new(ErrorKind::Corrupt, message).with_context("row", name_of(&row)));
        }
        fitting.add(&row);
        match row {
            Row::Blob(row) => blob(row),
            Row::Damaged(DamagedRow { digest: Some(digest), repository: None, reason }) => {
                damaged.insert(digest, reason);
            }
            Row::Damaged(row) => rows_left_out.push(row),
            _ => {}
        }
    }
    let header = reader.header().clone();
    let rows = *reader.counts().ok_or_else(|| Error::internal("a snapshot has no end"))?;
    Ok(Whole { header, rows, damaged, rows_left_out })
}

/// Checks that a snapshot, or each one, is whole and that every blob that it needs is there with the right size. With
/// `read_data` the blobs are read, too, and compared with their digests; bytes that differ are moved to the folder `damaged` of
/// the backups, so that the next backup copies the blob again. `progress` is told of each blob.
///
/// Blocks; other readers may use the folder meanwhile.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such snapshot, or none at all; [`ErrorKind::Conflict`] while another process writes;
/// those of reading folders. What is wrong with the content is no error but a [`Fault`].
pub fn check(
    folder: &BackupFolder,
    id: Option<&str>,
    read_data: bool,
    mut progress: impl FnMut(&BlobRow),
) -> Result<Checked> {
    let _lock = folder.lock(false)?;
    let ids = match id {
        Some(id) => {
            drop(folder.open_snapshot(id)?);
            vec![id.to_owned()]
        }
        None => folder.snapshot_ids()?,
    };
    if ids.is_empty() {
        return Err(no_snapshots(folder));
    }
    let (mut checked, mut seen, mut wrong) = (Checked::default(), HashSet::new(), HashMap::new());
    for id in ids {
        checked.snapshots += 1;
        let whole = match read_whole(folder, &id, |_| ()) {
            Ok(whole) => whole,
            Err(e) => {
                checked.faults.push(Fault { snapshot: id, blob: None, reason: e.to_string() });
                continue;
            }
        };
        checked.left_out += whole.rows.damaged;
        let mut failed = None;
        read_whole(folder, &id, |blob| {
            if whole.damaged.contains_key(&blob.digest) || failed.is_some() {
                return;
            }
            if seen.insert(part(&blob.digest)) {
                checked.blobs += 1;
                checked.bytes += blob.size;
                progress(&blob);
                match look_at(folder, &blob, read_data) {
                    Ok(None) => {}
                    Ok(Some(reason)) => {
                        wrong.insert(blob.digest.clone(), reason);
                    }
                    Err(e) => failed = Some(e),
                }
            }
            if let Some(reason) = wrong.get(&blob.digest) {
                let (snapshot, reason) = (id.clone(), reason.clone());
                checked.faults.push(Fault { snapshot, blob: Some(blob.digest), reason });
            }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
    }
    Ok(checked)
}

pub(super) fn no_snapshots(folder: &BackupFolder) -> Error {
    Error::new(ErrorKind::NotFound, "the backups have no snapshot")
        .with_context("path", folder.path().display())
}

/// Moves bytes away that do not match their digest. Returns what is wrong.
fn set_aside(folder: &BackupFolder, digest: &Digest) -> String {
    match folder.set_aside(digest) {
        Ok(()) => {
            "the blob does not match its digest: it was moved aside, and the next backup copies it again \
                   if the store has it"
                .to_owned()
        }
        Err(e) => format!("the blob does not match its digest, and cannot be moved aside: {e}"),
    }
}

/// What is wrong with the bytes of a blob. With `read_data` those that differ are moved aside.
pub(super) fn look_at(folder: &BackupFolder, blob: &BlobRow, read_data: bool) -> Result<Option<String>> {
    match folder.blob_size(&blob.digest) {
        Ok(Some(size)) if size == blob.size => {}
        Ok(Some(size)) => return Ok(Some(format!("the blob has {size} bytes instead of {}", blob.size))),
        Ok(None) => return Ok(Some("the blob is missing".to_owned())),
        Err(e) if e.kind() == ErrorKind::Invalid => return Ok(Some(e.to_string())),
        Err(e) => return Err(e),
    }
    if !read_data {
        return Ok(None);
    }
    let Some(file) = folder.open_blob(&blob.digest)? else {
        return Ok(Some("the blob is missing".to_owned()));
    };
    let mut reader = VerifyingReader::new(file, blob.digest.clone(), blob.size);
    let mut block = vec![0; 1 << 20];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) if e.get_ref().is_some_and(|e| e.is::<Error>()) => {
                return Ok(Some(set_aside(folder, &blob.digest)));
            }
            Err(e) => return Ok(Some(format!("the blob cannot be read: {e}"))),
        }
    }
}
