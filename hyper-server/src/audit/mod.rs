//! The audit log: one line of JSON for each change of the registry, with who made it, what it is, and from where.
//!
//! # Invariants
//! - The line of a change is with the operating system before the client gets the answer, and it is written even when the
//!   client disconnects: the task that makes the change writes it.
//! - While lines are known to fail, no change begins ([`AuditLog::ready`]). The lines of changes that had begun are kept in
//!   memory and are written first; until then the log of the program has them.
//! - Lines of refusals never take the room of others, and are small: anybody with a password can cause them.
//! - A line has names, digests and tags that were parsed, the id of the request and the address of the client, and nothing else
//!   of a request, so no credential gets into it.

mod entry;
mod file;

pub(crate) use entry::{Author, Deed, Entry, Outcome};

use file::{Message, Shared};
use hyper_sdk::{Digest, Error, ErrorKind, Result, ResultExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// How many lines may wait for the file.
const QUEUE: usize = 8192;
/// How long a request waits for its line.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the program waits for the file.
const CLOSING: Duration = Duration::from_secs(5);

/// A file with a line of JSON for each change of a registry. Clones share the file.
///
/// The lines of changes that were made, of changes that a known user was refused, and of changes whose end is not known.
/// A line is with the operating system before the client gets the answer; it is not synced to the disk. A file that was
/// renamed or removed is made anew with the next line. While lines are known to fail, the registry refuses changes with 503.
///
/// A file belongs to one process at a time, which holds a lock on it. What waits when the last clone is dropped is written; if
/// that fails, it goes to the log.
///
/// ```
/// use hyper_server::{AuditLog, RegistryOptions};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("audit.log");
/// let options = RegistryOptions { audit: Some(AuditLog::open(&path)?), ..RegistryOptions::default() };
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AuditLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl AuditLog {
    /// Opens the file for appending, with mode 0600 when it does not exist, and starts the thread that writes it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is not a regular file, [`ErrorKind::Conflict`] when another process writes it, and
    /// [`ErrorKind::Io`] when it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = file::Writer::open(path)?;
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let its = shared.clone();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || file::write_lines(writer, &messages, &its))
            .op("start the audit log")?;
        Ok(Self { queue, shared })
    }

    /// Checks that a file can be an audit log, without making it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is not a regular file, and [`ErrorKind::NotFound`] when its folder does not exist.
    pub(crate) fn check(path: &Path) -> Result<()> {
        file::check(path)
    }

    /// Whether a change may begin: whether lines can be written.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] while they cannot.
    pub(crate) async fn ready(&self) -> Result<()> {
        if !self.shared.is_broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        // One caller tries. Others would fill the queue of a file that does not respond.
        if !self.shared.is_tried.swap(true, Ordering::Relaxed) {
            let (done, written) = oneshot::channel();
            let tried = Trying(&self.shared);
            let works = self.send(Message::Flush(done)).is_ok() && self.written(written).await;
            drop(tried);
            if works {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the audit log cannot be written, so changes are refused"))
    }

    /// Writes the line of a change and waits for it. When it cannot be written, it stays for later, and the log of the
    /// program has it too.
    pub(crate) async fn write(&self, entry: &Entry) {
        let (done, written) = oneshot::channel();
        let line = entry.line();
        let is_written = match self.send(Message::Line(line.clone(), Some(done))) {
            Ok(()) => self.written(written).await,
            Err(_) => return self.shared.lose(&line),
        };
        if !is_written {
            let line = String::from_utf8_lossy(line.trim_ascii_end());
            tracing::error!(%line, "a line of the audit log waits in memory");
        }
    }

    /// Writes that somebody was refused a change. While lines cannot be written, there is no room for such lines: they are
    /// counted as lost.
    pub(crate) async fn refused(&self, entry: &Entry) {
        let (done, written) = oneshot::channel();
        let is_broken = self.shared.is_broken.load(Ordering::Relaxed);
        if is_broken || self.queue.try_send(Message::Line(entry.line(), Some(done))).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.written(written).await;
    }

    /// Writes a line that nobody waits for.
    pub(crate) fn note(&self, entry: &Entry) {
        if let Err(Message::Line(line, _)) = self.send(Message::Line(entry.line(), None)) {
            self.shared.lose(&line);
        }
    }

    /// Writes what waits, for at most five seconds. What cannot be written then goes to the log of the program. It blocks:
    /// for the end of the program.
    pub(crate) fn close(&self) {
        let (done, closed) = sync_channel(1);
        if self.queue.try_send(Message::Close(done)).is_err() || closed.recv_timeout(CLOSING).is_err() {
            tracing::error!("lines of the audit log that waited for the file may be lost");
        }
    }

    /// How many lines were written, and how many could not be written or kept for later.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.written.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }

    async fn written(&self, answer: oneshot::Receiver<bool>) -> bool {
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(written) => written.unwrap_or(false),
            Err(_) => {
                self.shared.broke("the file does not respond");
                false
            }
        }
    }

    fn send(&self, message: Message) -> std::result::Result<(), Message> {
        self.queue.try_send(message).map_err(|e| {
            self.shared.broke("too many lines wait for the file");
            match e {
                TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
            }
        })
    }
}

/// The one that tries whether lines can be written again.
struct Trying<'a>(&'a Shared);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.is_tried.store(false, Ordering::Relaxed);
    }
}

/// A change that has begun. Dropping it without an end writes that the end is not known.
#[derive(Debug)]
pub(crate) struct Pending {
    log: AuditLog,
    entry: Option<Entry>,
    /// Whether the rule for tags has refused the change.
    has_refused: Option<Arc<AtomicBool>>,
}

impl Pending {
    pub(crate) fn new(log: AuditLog, entry: Entry, has_refused: Option<Arc<AtomicBool>>) -> Self {
        Self { log, entry: Some(entry), has_refused }
    }

    /// Whether the change may be made now. When it may not, it has not begun.
    ///
    /// # Errors
    /// Those of [`AuditLog::ready`].
    pub(crate) async fn ready(&mut self) -> Result<()> {
        self.log.ready().await.inspect_err(|_| self.entry = None)
    }

    /// The change was not begun.
    pub(crate) fn forget(mut self) {
        self.entry = None;
    }

    /// The change has found this manifest.
    pub(crate) fn found(&mut self, digest: &Digest) {
        if let Some(entry) = &mut self.entry {
            entry.deed.digest = Some(digest.clone());
        }
    }

    /// Writes the line of the change, unless it has changed nothing.
    pub(crate) async fn ended(mut self, error: Option<&Error>) {
        let Some(mut entry) = self.entry.take() else { return };
        let is_refused = self.has_refused.as_ref().is_some_and(|refused| refused.load(Ordering::Relaxed));
        match Outcome::of(error, is_refused) {
            // Of nobody there is only what was changed.
            Some(Outcome::Refused) if entry.is_of_nobody() => {}
            Some(Outcome::Refused) => {
                entry.outcome = Outcome::Refused;
                self.log.refused(&entry).await;
            }
            Some(outcome) => {
                entry.outcome = outcome;
                self.log.write(&entry).await;
            }
            None => {}
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.outcome = Outcome::Unknown;
            self.log.note(&entry);
        }
    }
}
