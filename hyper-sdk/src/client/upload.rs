//! Brings one blob to a registry: there already, mounted, or uploaded with as many resumptions as it makes progress.

use super::location::Endpoint;
use super::neighbours::Neighbours;
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
/// How many bytes make up for the failures before them.
const PROGRESS: u64 = 64 * 1024;
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// What is sent at a time to a registry that does not take the whole blob in one request.
const FALLBACK_CHUNK: u64 = 16 * 1024 * 1024;
/// The largest chunk that a registry may ask for: a chunk is held in memory.
const MAX_CHUNK: u64 = 512 * 1024 * 1024;

pub(super) struct UploadPlan<'a> {
    pub(super) source: &'a Endpoint,
    pub(super) target: &'a Endpoint,
    pub(super) blob: &'a Descriptor,
    pub(super) verb: &'static str,
    pub(super) mount_from: &'a [RepositoryName],
    pub(super) neighbours: &'a Neighbours,
    pub(super) chunk_length: Option<u64>,
    pub(super) progress: &'a Progress,
}

/// Which side of an upload failed.
enum Trouble {
    /// The source, whose client has tried again as often as it may.
    Source(Error),
    /// The registry that gets the blob.
    Target(Error),
}

enum Sent {
    Now,
    Before,
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
        Ok(Sent::Now) => {
            task.done();
            Ok(())
        }
        Ok(Sent::Before) => {
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
                Err(said_by(&self.target.client, e))
            }
        }
    }

    async fn send(&self, meter: &Meter<'_>) -> Result<Sent> {
        if self.is_there().await? {
            return Ok(Sent::Before);
        }
        let mut session = None;
        if self.client().capabilities().mount {
            let known = self.neighbours.with(&self.blob.digest).await;
            let from = self.mount_from.iter().chain(&known);
            for from in from.filter(|from| **from != self.target.repository) {
                match self.client().mount_blob(&self.target.repository, &self.blob.digest, from).await {
                    Ok(Mount::Mounted) => {
                        self.neighbours.had(from);
                        return Ok(Sent::Before);
                    }
                    Ok(Mount::Upload(opened)) => {
                        // Of several sessions one is used; the rest are given back.
                        if let Some(mut unused) = session.replace(opened) {
                            let _ = unused.cancel().await;
                        }
                    }
                    Err(e) if is_no_mount(e.kind()) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let session = match session {
            Some(session) => session,
            None => match self.client().offer_blob(&self.target.repository, &self.blob.digest).await? {
                Mount::Mounted => return Ok(Sent::Before),
                Mount::Upload(session) => session,
            },
        };
        self.upload(session, meter).await
    }

    async fn upload(&self, mut session: Box<dyn RegistryUpload>, meter: &Meter<'_>) -> Result<Sent> {
        let capabilities = self.client().capabilities();
        let mut chunk_length = self.chunk_length.filter(|_| capabilities.append);
        let mut failures = 0;
        let mut resumed = false;
        let mut restarted = false;
        let mut reached = session.offset();
        loop {
            let e = match self.attempt(session.as_mut(), chunk_length, meter).await {
                Ok(()) => return Ok(Sent::Now),
                Err(Trouble::Source(e)) => {
                    let _ = session.cancel().await;
                    return Err(said_by(&self.source.client, e));
                }
                Err(Trouble::Target(e)) => said_by(&self.target.client, e),
            };
            if e.kind() == ErrorKind::TooLarge && chunk_length.is_none() && capabilities.append {
                // A proxy before the registry limits the size of a request.
                chunk_length = Some(FALLBACK_CHUNK);
                session = self.client().start_upload(&self.target.repository).await?;
                continue;
            }
            let wrong = matches!(e.kind(), ErrorKind::DigestInvalid | ErrorKind::SizeInvalid);
            if wrong && resumed && !restarted {
                // What the registry kept of a broken upload may be damaged, or not what it said: from the start, once.
                meter.task.warn(format!("{e}: sending it again from the start"));
                (restarted, resumed) = (true, false);
                session = self.client().start_upload(&self.target.repository).await?;
                continue;
            }
            let can_go_on = e.is_retryable()
                || matches!(
                    e.kind(),
                    ErrorKind::RangeInvalid | ErrorKind::UploadUnknown | ErrorKind::UploadInvalid
                );
            if !can_go_on || failures + 1 >= MAX_FAILURES {
                // The session would expire by itself; the registry is told as a courtesy.
                let _ = session.cancel().await;
                return Err(e);
            }
            let (client, attempt) = (&self.target.client, failures + 2);
            meter.task.warn(format!("{client}: {e}: trying again, attempt {attempt} of {MAX_FAILURES}"));
            tokio::time::sleep(FIRST_DELAY * 2u32.pow(failures)).await;
            failures += 1;
            // Registries say `0-0` for no byte and for one: one that refuses a start at zero has the one.
            let has_one = resumed && session.offset() <= 1 && e.kind() == ErrorKind::RangeInvalid;
            match self.find_again(session.as_mut(), has_one).await {
                Ok(Found::Arrived) => return Ok(Sent::Now),
                Ok(Found::Broken) => {
                    if session.offset() >= reached + PROGRESS {
                        reached = session.offset();
                        failures = 0;
                    }
                    resumed = true;
                }
                Ok(Found::Anew(opened)) => {
                    session = opened;
                    resumed = false;
                }
                // A registry that does not even answer such a question in time was given all the time that it gets.
                Err(again) if again.is_retryable() && again.kind() != ErrorKind::Timeout => {}
                Err(_) => return Err(e),
            }
        }
    }

    /// Where an upload that broke off goes on.
    async fn find_again(&self, session: &mut dyn RegistryUpload, give_up: bool) -> Result<Found> {
        if self.is_there().await? {
            return Ok(Found::Arrived);
        }
        if self.client().capabilities().resume {
            match session.refresh().await {
                Ok(offset) if !give_up && offset <= self.blob.size => return Ok(Found::Broken),
                Ok(_) => {
                    let _ = session.cancel().await;
                }
                Err(e) if e.is_retryable() => return Err(e),
                Err(_) => {}
            }
        }
        self.client().start_upload(&self.target.repository).await.map(Found::Anew)
    }

    /// Sends what is missing. An error of the source is reported as it was, not as the broken request it causes.
    async fn attempt(
        &self,
        session: &mut dyn RegistryUpload,
        chunk_length: Option<u64>,
        meter: &Meter<'_>,
    ) -> std::result::Result<(), Trouble> {
        let blob = self.blob;
        // What was answered last may have gone beyond the blob, and nothing since said where the session is.
        let offset = session.offset();
        let left = blob.size.checked_sub(offset).ok_or_else(|| {
            let message = "the registry says that it has more than was sent";
            Trouble::Target(Error::new(ErrorKind::RangeInvalid, message).with_context("bytes", offset))
        })?;
        if left == 0 {
            return session.finish(&blob.digest, None).await.map_err(Trouble::Target);
        }
        let range = (offset > 0).then_some(ByteRange::FromTo(offset, None));
        let reader = self.source.client.get_blob(&self.source.repository, &blob.digest, range).await;
        let reader = reader.map_err(Trouble::Source)?;
        if reader.size != blob.size {
            return Err(Trouble::Source(
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
            (Err(_), Some(at_source)) => Err(Trouble::Source(at_source)),
            (sent, _) => sent.map_err(Trouble::Target),
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

/// What became of an upload that broke off.
enum Found {
    /// All of it has arrived.
    Arrived,
    /// A part of it has arrived: the session says how much.
    Broken,
    /// Nothing that is of use has arrived: another session.
    Anew(Box<dyn RegistryUpload>),
}

/// An error with the registry that it is of, where it has a name and the error does not tell.
fn said_by(client: &SharedClient, e: Error) -> Error {
    match client.host() {
        Some(host) if !["blob", "registry"].iter().any(|key| e.context_value(key).is_some()) => {
            e.with_context("registry", host).with_registry(host)
        }
        _ => e,
    }
}

/// Refusals of a mount that only mean that the bytes have to be sent.
fn is_no_mount(kind: ErrorKind) -> bool {
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

/// Keeps the error with which a source ended, which its way through a request body would disguise.
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

/// A stream that tells the lengths of what passes to a [`Meter`], which need not live as long.
fn metered(stream: ByteStream) -> (ByteStream, Lengths) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let stream = stream.inspect(move |item: &Result<Bytes>| {
        if let Ok(bytes) = item {
            let _ = sender.send(bytes.len() as u64);
        }
    });
    (stream.boxed(), receiver)
}

/// Counts how far a blob has come. What is sent again after a break is not counted again.
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

    /// Does some work and counts what passes through its stream meanwhile, which begins at `position`.
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
