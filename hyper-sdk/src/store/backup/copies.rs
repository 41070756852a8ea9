//! What a backup and a move have in common: the rows of one moment in a file, and a hold on the bytes meanwhile.
//!
//! Damage is what an error says of the bytes of one blob: they are missing, differ, or the disk cannot read them. Any other error
//! ends the copy, because a healthy blob must not be left out.

use super::blob_file::Failed;
use super::fitting::{Fitting, name_of};
use super::folder::FromBegin;
use super::snapshot_file::{SnapshotHeader, SnapshotReader, SnapshotWriter};
use crate::oci::Manifest;
use crate::reference::RepositoryName;
use crate::store::Portable;
use crate::store::composed::edges;
use crate::store::meta::{BlobRow, DamagedRow, Edge, EdgeKind, LinkRow, ManifestRow, Row, TagRow};
use crate::{Error, ErrorKind, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// For how many seconds bytes are held, and how often that is renewed: the hold of a process that dies ends soon.
const HOLD: i64 = 10 * 60;
const RENEWAL: Duration = Duration::from_secs(60);
/// How long before the end of a hold its holder gives up.
const MARGIN: Duration = Duration::from_secs(60);
/// How often bytes that cannot be read are asked for, and the first pause.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// How many rows are read from a file together.
const PAGE: usize = 256;

pub(super) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(std::io::Error::from)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Runs work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a thread of the backup ended early").with_source(e))?
}

/// The hold of this process on all bytes of a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold<'a> {
    store: &'a dyn Portable,
    holder: u64,
}

impl Hold<'_> {
    /// Fails when the hold was lost since it was taken, as by a process that was stopped for long.
    pub(super) async fn confirm(self) -> Result<()> {
        if self.store.hold_bytes(self.holder, HOLD, true).await? { Ok(()) } else { Err(lost()) }
    }
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the hold on the bytes of the store was lost: some may have been collected meanwhile, so begin again",
    )
}

/// Does the work while all bytes of the store are held. The work confirms the hold before it says that all is there.
///
/// # Errors
/// Those of the work; [`ErrorKind::Conflict`] when the hold was lost, because then bytes may be missing that were there.
pub(super) async fn while_held<'a, T, F: Future<Output = Result<T>>>(
    store: &'a dyn Portable,
    work: impl FnOnce(Hold<'a>) -> F,
) -> Result<T> {
    let holder = random()?;
    store.hold_bytes(holder, HOLD, false).await?;
    let outcome = tokio::select! {
        outcome = work(Hold { store, holder }) => outcome,
        lost = renew(store, holder) => Err(lost),
    };
    if let Err(error) = store.hold_bytes(holder, 0, false).await {
        tracing::warn!(%error, "the hold on the bytes of the store ends by itself in some minutes");
    }
    outcome
}

/// Renews a hold until that fails.
async fn renew(store: &dyn Portable, holder: u64) -> Error {
    let life = Duration::from_secs(HOLD.unsigned_abs()) - MARGIN;
    let mut held = Instant::now();
    loop {
        tokio::time::sleep(RENEWAL).await;
        let asked = Instant::now();
        match store.hold_bytes(holder, HOLD, true).await {
            Ok(true) => held = asked,
            Ok(false) => return lost(),
            Err(e) if held.elapsed() > life => return e,
            Err(error) => tracing::warn!(%error, "the hold on the bytes of the store is renewed later"),
        }
    }
}

/// The rows of one moment, in a file.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) writer: SnapshotWriter<BufWriter<File>>,
    /// What is damaged, and not among the rows.
    pub(super) left_out: Vec<DamagedRow>,
    /// Images whose repository lacks a blob. They are among the rows.
    pub(super) incomplete: Vec<DamagedRow>,
}

/// Writes the header and the rows of one moment, without the last line. Images of a `sparse` registry may lack blobs.
pub(super) async fn export(
    store: &dyn Portable,
    header: SnapshotHeader,
    file: File,
    sparse: bool,
) -> Result<Exported> {
    let (sender, receiver) = mpsc::channel(2);
    let writing = blocking(move || {
        let writer = SnapshotWriter::begin(BufWriter::with_capacity(1 << 20, file), &header)?;
        RowSieve::new(writer, sparse).write_all(receiver)
    });
    let (written, exported) = tokio::join!(writing, store.export(sender));
    exported?;
    written
}

/// Leaves out rows that do not fit each other, and manifests that do not match their digests with their tags.
struct RowSieve {
    writer: SnapshotWriter<BufWriter<File>>,
    names: HashMap<i64, RepositoryName>,
    fitting: Fitting,
    damaged: HashMap<i64, DamagedRow>,
    others: Vec<DamagedRow>,
    incomplete: Vec<DamagedRow>,
    sparse: bool,
}

impl RowSieve {
    fn new(writer: SnapshotWriter<BufWriter<File>>, sparse: bool) -> Self {
        Self {
            writer,
            names: HashMap::new(),
            fitting: Fitting::default(),
            damaged: HashMap::new(),
            others: Vec::new(),
            incomplete: Vec::new(),
            sparse,
        }
    }

    fn write_all(mut self, mut rows: mpsc::Receiver<Vec<Row>>) -> Result<Exported> {
        while let Some(page) = rows.blocking_recv() {
            for row in page {
                self.write(&row)?;
            }
        }
        self.writer.flush()?;
        let mut damaged: Vec<DamagedRow> = self.damaged.into_values().collect();
        damaged.extend(self.others);
        damaged.sort_by(|a, b| (&a.repository, &a.digest).cmp(&(&b.repository, &b.digest)));
        Ok(Exported { writer: self.writer, left_out: damaged, incomplete: self.incomplete })
    }

    fn write(&mut self, row: &Row) -> Result<()> {
        if let Row::Damaged(row) = row {
            self.others.push(row.clone());
            return Ok(());
        }
        let reason = match row {
            Row::Manifest(row) if row.digest.algorithm().digest(&row.body) != row.digest => {
                Some("the manifest does not match its digest".to_owned())
            }
            Row::Tag(tag) => {
                if let Some(damaged) = self.damaged.get_mut(&tag.manifest) {
                    damaged.reason.push_str(&format!("; tag {}", tag.name));
                    return Ok(());
                }
                None
            }
            _ => None,
        };
        let reason = match reason.or_else(|| self.fitting.fault(row)) {
            None => match self.writer.write(row) {
                Err(e) if e.kind() == ErrorKind::TooLarge && matches!(row, Row::Manifest(_)) => {
                    "the manifest is too large for a snapshot".to_owned()
                }
                written => {
                    self.fitting.add(row);
                    if let Row::Repository(row) = row {
                        self.names.insert(row.number, row.name.clone());
                    }
                    if let Row::Manifest(row) = row {
                        self.look_for_blobs(row);
                    }
                    return written;
                }
            },
            Some(reason) => reason,
        };
        self.leave_out(row, reason);
        Ok(())
    }

    /// Names an image whose repository lacks a blob that a push of it would need.
    fn look_for_blobs(&mut self, row: &ManifestRow) {
        if self.sparse {
            return;
        }
        let Ok(manifest) = Manifest::sniff(row.body.clone()) else { return };
        let lacks = |edge: &Edge| {
            edge.required
                && edge.kind == EdgeKind::Blob
                && !self.fitting.is_linked(row.repository, &edge.digest)
        };
        let lacking: Vec<Edge> = edges(&manifest).unwrap_or_default().into_iter().filter(lacks).collect();
        let Some(first) = lacking.first() else { return };
        let others = match lacking.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} others"),
        };
        self.incomplete.push(DamagedRow {
            digest: Some(row.digest.clone()),
            repository: self.names.get(&row.repository).cloned(),
            reason: format!("it cannot be pulled: its repository lacks the blob {}{others}", first.digest),
        });
    }

    fn leave_out(&mut self, row: &Row, reason: String) {
        let repository = match row {
            Row::Repository(row) => Some(row.name.clone()),
            Row::Link(LinkRow { repository, .. })
            | Row::Manifest(ManifestRow { repository, .. })
            | Row::Tag(TagRow { repository, .. }) => self.names.get(repository).cloned(),
            Row::Blob(_) | Row::Token(_) | Row::Damaged(_) => None,
        };
        match row {
            Row::Manifest(row) if repository.is_some() => {
                let damaged = DamagedRow { digest: Some(row.digest.clone()), repository, reason };
                self.damaged.insert(row.number, damaged);
            }
            row => {
                let damaged =
                    DamagedRow { digest: None, repository, reason: format!("{}: {reason}", name_of(row)) };
                match row {
                    Row::Manifest(row) => drop(self.damaged.insert(row.number, damaged)),
                    _ => self.others.push(damaged),
                }
            }
        }
    }
}

/// The blobs of a snapshot, page by page: the first `count` rows.
pub(super) fn blobs_of(file: FromBegin, count: u64) -> mpsc::Receiver<Result<Vec<BlobRow>>> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let read = || {
            let mut reader = SnapshotReader::open(BufReader::with_capacity(1 << 18, file))?;
            let mut left = count;
            while left > 0 {
                let mut page = Vec::new();
                while page.len() < PAGE && left > 0 {
                    left -= 1;
                    match reader.next_row()? {
                        Some(Row::Blob(blob)) => page.push(blob),
                        _ => return Err(Error::new(ErrorKind::Corrupt, "the snapshot lacks blobs")),
                    }
                }
                if sender.blocking_send(Ok(page)).is_err() {
                    break;
                }
            }
            Ok(())
        };
        if let Err(e) = read() {
            let _ = sender.blocking_send(Err(e));
        }
    });
    receiver
}

/// Copies the bytes of a blob out of a store; tries again what may be over soon. Returns why the blob is damaged, if it is.
///
/// # Errors
/// Those of the target, and those of a source that does not answer.
pub(super) async fn copy_out<F>(
    store: &dyn Portable,
    blob: &BlobRow,
    mut write: impl FnMut(crate::store::ByteStream) -> F,
) -> Result<Option<DamagedRow>>
where
    F: Future<Output = std::result::Result<(), Failed>>,
{
    let mut attempt = 1;
    loop {
        // Each time anew: a push may have given the blob another key.
        let copied = match store.read_bytes(blob).await {
            Ok(content) => write(content).await,
            Err(e) => Err(Failed::Source(e)),
        };
        match copied {
            Ok(()) => return Ok(None),
            Err(Failed::Target(e)) => return Err(e),
            Err(Failed::Source(e)) if attempt == ATTEMPTS => return damage(blob, e).map(Some),
            Err(Failed::Source(error)) => {
                tracing::debug!(%error, digest = %blob.digest, "a blob is read again");
            }
        }
        tokio::time::sleep(PAUSE * attempt).await;
        attempt += 1;
    }
}

/// Whether a disk says that it cannot read what it has.
fn is_of_disk(e: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(errno) = rustix::io::Errno::from_io_error(io)
        {
            use rustix::io::Errno;
            return [Errno::IO, Errno::BADMSG, Errno::UCLEAN].contains(&errno);
        }
        cause = error.source();
    }
    false
}

/// What an error says about the bytes of a blob.
///
/// # Errors
/// The error, when it says nothing about them.
pub(super) fn damage(blob: &BlobRow, e: Error) -> Result<DamagedRow> {
    let reason = match e.kind() {
        ErrorKind::Corrupt | ErrorKind::BlobUnknown | ErrorKind::NotFound => e.message().to_owned(),
        ErrorKind::DigestInvalid | ErrorKind::SizeInvalid => "the bytes do not match the digest".to_owned(),
        ErrorKind::Io if is_of_disk(&e) => format!("the bytes cannot be read: {}", e.message()),
        _ => return Err(e.with_context("digest", &blob.digest)),
    };
    Ok(DamagedRow { digest: Some(blob.digest.clone()), repository: None, reason })
}
