//! What a backup and a move have in common: the rows of one moment in a file, and a hold on the bytes meanwhile.

use super::blob_file::Failed;
use super::fitting::{Fitting, name_of};
use super::snapshot_file::{SnapshotHeader, SnapshotReader, SnapshotWriter};
use crate::reference::RepositoryName;
use crate::store::Portable;
use crate::store::meta::{BlobRow, DamagedRow, LinkRow, ManifestRow, Row, TagRow};
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

/// Does the work while all bytes of the store are held.
///
/// # Errors
/// Those of the work; [`ErrorKind::Conflict`] when the hold was lost, because then bytes may be missing that were there.
pub(super) async fn while_held<T>(store: &dyn Portable, work: impl Future<Output = Result<T>>) -> Result<T> {
    let holder = random()?;
    store.hold_bytes(holder, HOLD, false).await?;
    let outcome = tokio::select! {
        outcome = work => outcome,
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
            Ok(false) => {
                return Error::new(
                    ErrorKind::Conflict,
                    "the hold on the bytes of the store was lost: they may be collected meanwhile",
                );
            }
            Err(e) if held.elapsed() > life => return e,
            Err(error) => tracing::warn!(%error, "the hold on the bytes of the store is renewed later"),
        }
    }
}

/// Writes the header and the rows of one moment, without the last line. Returns the writer, and the manifests that are damaged
/// and not among the rows.
pub(super) async fn export(
    store: &dyn Portable,
    header: SnapshotHeader,
    file: File,
) -> Result<(SnapshotWriter<BufWriter<File>>, Vec<DamagedRow>)> {
    let (sender, receiver) = mpsc::channel(2);
    let writing = blocking(move || {
        let writer = SnapshotWriter::begin(BufWriter::with_capacity(1 << 20, file), &header)?;
        RowSieve::new(writer).write_all(receiver)
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
}

impl RowSieve {
    fn new(writer: SnapshotWriter<BufWriter<File>>) -> Self {
        Self {
            writer,
            names: HashMap::new(),
            fitting: Fitting::default(),
            damaged: HashMap::new(),
            others: Vec::new(),
        }
    }

    fn write_all(
        mut self,
        mut rows: mpsc::Receiver<Vec<Row>>,
    ) -> Result<(SnapshotWriter<BufWriter<File>>, Vec<DamagedRow>)> {
        while let Some(page) = rows.blocking_recv() {
            for row in page {
                self.write(&row)?;
            }
        }
        self.writer.flush()?;
        let mut damaged: Vec<DamagedRow> = self.damaged.into_values().collect();
        damaged.extend(self.others);
        damaged.sort_by(|a, b| (&a.repository, &a.digest).cmp(&(&b.repository, &b.digest)));
        Ok((self.writer, damaged))
    }

    fn write(&mut self, row: &Row) -> Result<()> {
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
                    return written;
                }
            },
            Some(reason) => reason,
        };
        self.leave_out(row, reason);
        Ok(())
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
pub(super) fn blobs_of(file: File, count: u64) -> mpsc::Receiver<Result<Vec<BlobRow>>> {
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

/// What an error says about the bytes of a blob.
///
/// # Errors
/// The error, when it says nothing about them.
pub(super) fn damage(blob: &BlobRow, e: Error) -> Result<DamagedRow> {
    let reason = match e.kind() {
        ErrorKind::Corrupt | ErrorKind::BlobUnknown | ErrorKind::NotFound => e.message().to_owned(),
        ErrorKind::DigestInvalid | ErrorKind::SizeInvalid => "the bytes do not match the digest".to_owned(),
        ErrorKind::Io => format!("the bytes cannot be read: {}", e.message()),
        _ => return Err(e.with_context("digest", &blob.digest)),
    };
    Ok(DamagedRow { digest: Some(blob.digest.clone()), repository: None, reason })
}
