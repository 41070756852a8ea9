//! Transfers one blob to a registry: the registry has it, mounts it, or gets an upload. A broken upload is resumed as long as
//! it makes progress.

use super::location::Endpoint;
use super::sibling_repositories::SiblingRepositories;
use super::{Mount, RegistryClient, RegistryUpload, SharedClient};
use crate::oci::Descriptor;
use crate::progress::{Progress, Task};
use crate::reference::RepositoryName;
use crate::store::{ByteRange, ByteStream};
use crate::{Error, ErrorKind, Result, ResultExt as _};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many failures in a row without a byte of progress end an upload.
const MAX_FAILURES: u32 = 5;
/// The longest wait that a registry may ask for before the upload goes on.
const LONGEST_WAIT: Duration = Duration::from_secs(90);
/// After this many bytes, earlier failures no longer count.
const PROGRESS: u64 = 64 * 1024;
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The chunk length for a registry that does not take the whole blob in one request.
const FALLBACK_CHUNK: u64 = 16 * 1024 * 1024;
/// The largest chunk that a registry may ask for: a chunk is held in memory.
const MAX_CHUNK: u64 = 512 * 1024 * 1024;

pub(super) struct UploadPlan<'a> {
    pub(super) source: &'a Endpoint,
    pub(super) target: &'a Endpoint,
    pub(super) blob: &'a Descriptor,
    pub(super) verb: &'static str,
    pub(super) mount_from: &'a [RepositoryName],
    pub(super) siblings: &'a SiblingRepositories,
    pub(super) chunk_length: Option<u64>,
    pub(super) progress: &'a Progress,
}

/// The side of an upload that failed.
enum UploadError {
    /// The source; its client has used up its retries.
    Source(Error),
    /// The registry that gets the blob.
    Target(Error),
}

enum Delivery {
    /// The blob was uploaded.
    Uploaded,
    /// The registry had the blob, or mounted it.
    Present,
}

pub(super) async fn send_blob(plan: UploadPlan<'_>) -> Result<()> {
    let name = format!("{} {}", plan.verb, plan.blob.digest.short());
    let task = plan.progress.start(name, Some(plan.blob.size));
    let meter = Meter { task: &task, high: AtomicU64::new(0) };
    let sent = plan.send(&meter).await.op("transfer blob").map_err(|e| match e.context_value("digest") {
        Some(_) => e,
        None => e.with_context("digest", &plan.blob.digest),
    });
    match sent {
        Ok(Delivery::Uploaded) => {
            task.done();
            Ok(())
        }
        Ok(Delivery::Present) => {
            task.cached();
            Ok(())
        }
        Err(e) => {
            task.failed(&e);
            Err(e)
        }
    }
}

impl UploadPlan<'_> {
    fn client(&self) -> &dyn RegistryClient {
        self.target.client.as_ref()
    }

    async fn is_there(&self) -> Result<bool> {
        match self.client().stat_blob(&self.target.repository, &self.blob.digest).await? {
            None => Ok(false),
            Some(size) if size == self.blob.size => Ok(true),
            Some(size) => {
                let e =
                    Error::new(ErrorKind::SizeInvalid, "the blob has another size than its descriptor says")
                        .with_context("expected", self.blob.size)
                        .with_context("got", size);
                Err(with_registry(&self.target.client, e))
            }
        }
    }

    async fn send(&self, meter: &Meter<'_>) -> Result<Delivery> {
        if self.is_there().await? {
            return Ok(Delivery::Present);
        }
        let mut session = None;
        if self.client().capabilities().mount {
            let known = self.siblings.with(&self.blob.digest).await;
            let from = self.mount_from.iter().chain(&known);
            for from in from.filter(|from| **from != self.target.repository) {
                match self.client().mount_blob(&self.target.repository, &self.blob.digest, from).await {
                    Ok(Mount::Mounted) => {
                        self.siblings.mounted_from(from);
                        return Ok(Delivery::Present);
                    }
                    Ok(Mount::Upload(opened)) => {
                        // One of several sessions is used; the others are cancelled.
                        if let Some(mut unused) = session.replace(opened) {
                            let _ = unused.cancel().await;
                        }
                    }
                    Err(e) if is_declined_mount(e.kind()) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let session = match session {
            Some(session) => session,
            None => match self.client().offer_blob(&self.target.repository, &self.blob.digest).await? {
                Mount::Mounted => return Ok(Delivery::Present),
                Mount::Upload(session) => session,
            },
        };
        self.upload(session, meter).await
    }

    async fn upload(&self, mut session: Box<dyn RegistryUpload>, meter: &Meter<'_>) -> Result<Delivery> {
        let capabilities = self.client().capabilities();
        let mut chunk_length = self.chunk_length.filter(|_| capabilities.append);
        let mut failures = 0;
        let mut resumed = false;
        let mut restarted = false;
        let mut reached = session.offset();
        loop {
            let e = match self.attempt(session.as_mut(), chunk_length, meter).await {
                Ok(()) => return Ok(Delivery::Uploaded),
                Err(UploadError::Source(e)) => {
                    let _ = session.cancel().await;
                    return Err(with_registry(&self.source.client, e));
                }
                Err(UploadError::Target(e)) => with_registry(&self.target.client, e),
            };
            if e.kind() == ErrorKind::TooLarge && chunk_length.is_none() && capabilities.append {
                // A proxy before the registry limits the size of a request.
                chunk_length = Some(FALLBACK_CHUNK);
                let _ = session.cancel().await;
                session = self.client().start_upload(&self.target.repository).await?;
                continue;
            }
            let wrong = matches!(e.kind(), ErrorKind::DigestInvalid | ErrorKind::SizeInvalid);
            if wrong && resumed && !restarted {
                // The bytes that the registry kept of a broken upload may be damaged: start again, once.
                meter.task.warn(format!("{e}: sending it again from the start"));
                (restarted, resumed) = (true, false);
                let _ = session.cancel().await;
                session = self.client().start_upload(&self.target.repository).await?;
                continue;
            }
            let can_go_on = e.is_retryable()
                || matches!(
                    e.kind(),
                    ErrorKind::RangeInvalid | ErrorKind::UploadUnknown | ErrorKind::UploadInvalid
                );
            let told = e.retry_after().unwrap_or_default();
            if !can_go_on || failures + 1 >= MAX_FAILURES || told > LONGEST_WAIT {
                // The session would expire anyway. Cancelling it frees the space sooner.
                let _ = session.cancel().await;
                return Err(e);
            }
            let (client, attempt) = (&self.target.client, failures + 2);
            meter.task.warn(format!("{client}: {e}: trying again, attempt {attempt} of {MAX_FAILURES}"));
            tokio::time::sleep((FIRST_DELAY * 2u32.pow(failures)).max(told)).await;
            failures += 1;
            // Registries report `0-0` for no bytes and for one byte. A registry that refuses a start at zero has one.
            let has_one = resumed && session.offset() <= 1 && e.kind() == ErrorKind::RangeInvalid;
            match self.find_again(session.as_mut(), has_one).await {
                Ok(Found::Complete) => return Ok(Delivery::Uploaded),
                Ok(Found::Partial) => {
                    if session.offset() >= reached + PROGRESS {
                        reached = session.offset();
                        failures = 0;
                    }
                    resumed = true;
                }
                Ok(Found::Restarted(opened)) => {
                    session = opened;
                    resumed = false;
                }
                // A registry that does not answer this request in time gets no further attempt.
                Err(again) if again.is_retryable() && again.kind() != ErrorKind::Timeout => {}
                Err(_) => return Err(e),
            }
        }
    }

    /// Finds out where a broken upload continues.
    async fn find_again(&self, session: &mut dyn RegistryUpload, give_up: bool) -> Result<Found> {
        if self.is_there().await? {
            return Ok(Found::Complete);
        }
        if self.client().capabilities().resume {
            match session.refresh().await {
                Ok(offset) if !give_up && offset <= self.blob.size => return Ok(Found::Partial),
                Ok(_) => {
                    let _ = session.cancel().await;
                }
                Err(e) if e.is_retryable() => return Err(e),
                Err(_) => {}
            }
        } else {
            let _ = session.cancel().await;
        }
        self.client().start_upload(&self.target.repository).await.map(Found::Restarted)
    }

    /// Sends the missing bytes. An error of the source is returned as it is, not as the broken request that it causes.
    async fn attempt(
        &self,
        session: &mut dyn RegistryUpload,
        chunk_length: Option<u64>,
        meter: &Meter<'_>,
    ) -> std::result::Result<(), UploadError> {
        let blob = self.blob;
        // The last answer may have reported more bytes than the blob has.
        let offset = session.offset();
        let left = blob.size.checked_sub(offset).ok_or_else(|| {
            let message = "the registry says that it has more than was sent";
            UploadError::Target(Error::new(ErrorKind::RangeInvalid, message).with_context("bytes", offset))
        })?;
        if left == 0 {
            return session.finish(&blob.digest, None).await.map_err(UploadError::Target);
        }
        let range = (offset > 0).then_some(ByteRange::FromTo(offset, None));
        let reader = self.source.client.get_blob(&self.source.repository, &blob.digest, range).await;
        let reader = reader.map_err(UploadError::Source)?;
        if reader.size != blob.size {
            return Err(UploadError::Source(
                Error::new(ErrorKind::SizeInvalid, "the blob has another size than its descriptor says")
                    .with_context("expected", blob.size)
                    .with_context("got", reader.size),
            ));
        }
        let source = SourceError::default();
        let sent = match chunk_length {
            Some(length) if left > length.max(session.min_chunk()) => {
                self.in_chunks(session, length, source.guard(reader.stream), meter).await
            }
            _ => {
                let stream = source.guard(reader.stream);
                let (stream, lengths) = metered(stream);
                let finish = session.finish(&blob.digest, Some((left, stream)));
                meter.run(finish, offset, lengths).await
            }
        };
        match (sent, source.take()) {
            (Err(_), Some(at_source)) => Err(UploadError::Source(at_source)),
            (sent, _) => sent.map_err(UploadError::Target),
        }
    }

    async fn in_chunks(
        &self,
        session: &mut dyn RegistryUpload,
        length: u64,
        mut stream: ByteStream,
        meter: &Meter<'_>,
    ) -> Result<()> {
        let length = length.max(session.min_chunk()).max(1);
        if length > MAX_CHUNK {
            return Err(Error::unsupported("the registry asks for chunks that are too large")
                .with_context("bytes", session.min_chunk()));
        }
        let length = length as usize;
        let mut chunk = BytesMut::new();
        let mut left = self.blob.size - session.offset();
        loop {
            while chunk.len() < length {
                match stream.next().await.transpose()? {
                    Some(bytes) => chunk.extend_from_slice(&bytes),
                    None => break,
                }
            }
            let take = chunk.len().min(length);
            let piece = chunk.split_to(take).freeze();
            let count = piece.len() as u64;
            if count >= left || count == 0 {
                let body = futures::stream::iter([Ok(piece)]).boxed();
                let offset = session.offset();
                session.finish(&self.blob.digest, Some((left, body))).await?;
                meter.reached(offset + count);
                return Ok(());
            }
            let expected = session.offset() + count;
            session.append(piece).await?;
            if session.offset() != expected {
                return Err(Error::new(ErrorKind::RangeInvalid, "the registry took a part of a chunk")
                    .with_context("expected", expected)
                    .with_context("got", session.offset()));
            }
            left -= count;
            meter.reached(expected);
        }
    }
}

/// The state of a broken upload.
enum Found {
    /// The registry has the whole blob.
    Complete,
    /// The registry has a part of the blob: the session says how much.
    Partial,
    /// The registry has no usable bytes: a new session.
    Restarted(Box<dyn RegistryUpload>),
}

/// An error with the name of the registry that it comes from, unless the error has one.
fn with_registry(client: &SharedClient, e: Error) -> Error {
    match client.host() {
        Some(host) if !["blob", "registry"].iter().any(|key| e.context_value(key).is_some()) => {
            e.with_context("registry", host).with_registry(host)
        }
        _ => e,
    }
}

/// Whether a mount failed in a way that an upload can replace.
fn is_declined_mount(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unauthorized
            | ErrorKind::Denied
            | ErrorKind::Unsupported
            | ErrorKind::NameUnknown
            | ErrorKind::BlobUnknown
            | ErrorKind::NotFound
            | ErrorKind::Invalid
    )
}

/// Keeps the error of a source, which a request body would hide.
#[derive(Clone, Default)]
pub(super) struct SourceError(Arc<Mutex<Option<Error>>>);

impl SourceError {
    pub(super) fn guard(&self, stream: ByteStream) -> ByteStream {
        let slot = self.0.clone();
        stream
            .map(move |item| {
                item.map_err(|e| {
                    let stand_in =
                        Error::new(e.kind(), "the source of the upload failed").with_retryable(false);
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    stand_in
                })
            })
            .boxed()
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Lengths = tokio::sync::mpsc::UnboundedReceiver<u64>;

/// A stream that reports the lengths of its chunks to a [`Meter`], which may be dropped earlier.
fn metered(stream: ByteStream) -> (ByteStream, Lengths) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let stream = stream.inspect(move |item: &Result<Bytes>| {
        if let Ok(bytes) = item {
            let _ = sender.send(bytes.len() as u64);
        }
    });
    (stream.boxed(), receiver)
}

/// Counts the bytes of a blob that were sent. Bytes that are sent again are counted once.
struct Meter<'a> {
    task: &'a Task,
    high: AtomicU64,
}

impl Meter<'_> {
    fn reached(&self, position: u64) {
        let before = self.high.fetch_max(position, Ordering::Relaxed);
        if position > before {
            self.task.advance(position - before);
        }
    }

    /// Runs `work` and counts the bytes that pass through its stream, which begins at `position`.
    async fn run<T>(&self, work: impl Future<Output = T>, mut position: u64, mut lengths: Lengths) -> T {
        let mut work = std::pin::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut work => break result,
                Some(length) = lengths.recv() => {
                    position += length;
                    self.reached(position);
                }
            }
        };
        while let Ok(length) = lengths.try_recv() {
            position += length;
            self.reached(position);
        }
        result
    }
}
