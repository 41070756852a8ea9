//! The requests of the backend, with errors that a registry can pass on.

use super::place::Place;
use super::throttled::Throttled;
use crate::breaker::{Attempt, Breaker, BreakerOptions, Refused, is_refusal};
use crate::s3::{Object, S3BlobPlace, asks_to_slow_down, code, is_no_answer, is_unclear, of_request};
use crate::store::work;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

/// The most bytes of the name that a server gives an upload in parts.
const MAX_NAME: usize = 4096;

/// A store of objects that puts parts together.
pub(crate) trait Objects: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Objects for T {}

/// The bytes of a part of an object, as they come.
pub(super) type Body = BoxStream<'static, object_store::Result<Bytes>>;

/// The bucket with the place of the blobs in it.
#[derive(Clone)]
pub(super) struct Bucket {
    store: Arc<dyn Objects>,
    /// Gets the size of each object that the server is about to put together, which takes time.
    pub(super) announce: Arc<dyn Fn(u64) + Send + Sync>,
    pub(super) place: Arc<Place>,
    /// Every request passes it.
    pub(super) breaker: Breaker,
    throttled: Throttled,
}

/// Without the store of objects, which shows the id of its key.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Calls a function with each item of a stream, and with its end.
fn judged<T: Send + 'static>(
    mut stream: BoxStream<'static, T>,
    mut judge: impl FnMut(Option<&T>) + Send + 'static,
) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::poll_fn(move |cx| {
        let polled = stream.poll_next_unpin(cx);
        if let Poll::Ready(item) = &polled {
            judge(item.as_ref());
        }
        polled
    })
}

/// Whether an error is none of the answers that a bucket gives to questions, such as that an object is not there.
fn is_fault(error: &object_store::Error) -> bool {
    use object_store::Error::{AlreadyExists, NotFound, NotModified, Precondition};
    !matches!(error, AlreadyExists { .. } | NotFound { .. } | NotModified { .. } | Precondition { .. })
}

/// The refusal of the breaker, as the error of a request.
fn refused(refused: Refused) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: Box::new(refused) }
}

impl Bucket {
    pub(super) fn new(store: Arc<dyn Objects>, place: S3BlobPlace) -> Self {
        let breaker = Breaker::new("bucket", BreakerOptions::default());
        let (place, throttled) = (Arc::new(Place::new(place)), Throttled::default());
        Self { store, announce: Arc::new(|_| {}), place, breaker, throttled }
    }

    /// Sends a request, unless the bucket does not answer.
    async fn ask<T>(
        &self,
        name: &'static str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let attempt = self.breaker.enter().map_err(refused)?;
        let outcome = work::within_where(work::blobs("bucket", name), is_fault, request).await;
        self.judge(&attempt, outcome.as_ref().err());
        outcome
    }

    /// Tells the breaker whether the bucket has answered. What was asked several times in vain comes here once.
    fn judge(&self, attempt: &Attempt, error: Option<&object_store::Error>) {
        match error {
            Some(error) if is_no_answer(error) => attempt.failed(&self.cause(error)),
            Some(error) if asks_to_slow_down(error) => match self.throttled.slow_down() {
                true => attempt.failed(&self.cause(error)),
                false => attempt.answered(),
            },
            // It may be no answer, so it says nothing for a while.
            Some(error) if is_unclear(error) => {
                if self.throttled.slow_down() {
                    attempt.failed(&self.cause(error));
                }
            }
            _ => {
                self.throttled.answered();
                attempt.answered();
            }
        }
    }

    /// What went wrong, in the words for whoever set the bucket up.
    fn cause(&self, error: &object_store::Error) -> Error {
        let mut links =
            std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |link| link.source());
        if let Some(refused) = links.find_map(|link| link.downcast_ref::<Refused>()) {
            return refused.clone().into();
        }
        of_request(&self.place.s3().bucket, Object::Blob, error)
    }

    /// What went wrong, for a request of a client: it can do nothing about the bucket but come again.
    pub(super) fn error(&self, error: &object_store::Error) -> Error {
        let cause = self.cause(error);
        match cause.kind() {
            ErrorKind::StorageFull => cause,
            _ if is_refusal(&cause) => cause,
            _ => Error::new(ErrorKind::Unavailable, "the bucket of the blobs cannot be used at the moment")
                .with_source(cause),
        }
    }

    /// Whether there is no such object or upload.
    pub(super) fn is_missing(&self, error: &object_store::Error) -> bool {
        matches!(error, object_store::Error::NotFound { .. })
            || self.cause(error).kind() == ErrorKind::BlobUnknown
    }

    /// Whether the parts that the server has are not those that were sent, so that sending the request again does not help.
    /// Any other refusal may pass, such as one of a proxy.
    pub(super) fn has_other_parts(&self, error: &object_store::Error) -> bool {
        matches!(code(error), Some("InvalidPart" | "InvalidPartOrder"))
    }

    fn optional<T>(&self, outcome: object_store::Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(e) if self.is_missing(&e) => Ok(None),
            Err(e) => Err(self.error(&e)),
        }
    }

    /// Asks for something, so that a wrong address and wrong credentials are known.
    pub(super) async fn check(&self) -> Result<()> {
        let uploads = self.place.uploads();
        match self.objects(&uploads, None).next().await {
            Some(Err(e)) => Err(self.cause(&e)),
            _ => Ok(()),
        }
    }

    /// Who has the place, if anybody does. A longer name is an empty one.
    pub(super) async fn owner(&self, most: u64) -> Result<Option<Bytes>> {
        match self.ask("get", self.store.get(&self.place.owner())).await {
            Ok(found) if found.meta.size <= most => found.bytes().await.map(Some).map_err(|e| self.cause(&e)),
            Ok(_) => Ok(Some(Bytes::new())),
            Err(e) if self.is_missing(&e) => Ok(None),
            Err(e) => Err(self.cause(&e)),
        }
    }

    /// Who has the place: whoever was the first to say so.
    pub(super) async fn take(&self, owner: &str, most: u64) -> Result<Bytes> {
        if let Some(found) = self.owner(most).await? {
            return Ok(found);
        }
        let text = Bytes::copy_from_slice(owner.as_bytes());
        let first = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.ask("put", self.store.put_opts(&self.place.owner(), text.into(), first)).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(e) => match self.cause(&e) {
                // Another one was first.
                e if e.kind() == ErrorKind::Conflict => {}
                e => return Err(e),
            },
        }
        Ok(self.owner(most).await?.unwrap_or_default())
    }

    pub(super) async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        self.optional(self.ask("head", self.store.head(key)).await)
    }

    pub(super) async fn put(&self, key: &Key, payload: PutPayload) -> Result<()> {
        self.ask("put", self.store.put(key, payload)).await.map(drop).map_err(|e| self.error(&e))
    }

    /// Removes an object. A missing one is no error.
    pub(super) async fn delete(&self, key: &Key) -> Result<()> {
        self.optional(self.ask("delete", self.store.delete(key)).await).map(drop)
    }

    /// A part of an object that is not empty, with the size of the whole.
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Option<(u64, Body)>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.ask("get", self.store.get_opts(key, options)).await {
            Ok(found) => Ok(Some((found.meta.size, found.into_stream()))),
            Err(e) if self.is_missing(&e) => Ok(None),
            // An object that ends before the range is refused, too.
            Err(e) => match self.head(key).await {
                Ok(Some(meta)) => Ok(Some((meta.size, futures::stream::once(async { Err(e) }).boxed()))),
                Ok(None) => Ok(None),
                Err(_) => Err(self.error(&e)),
            },
        }
    }

    /// A small object of exactly this size; `None` when there is none, or it has another size.
    pub(super) async fn get_small(&self, key: &Key, size: u64) -> Result<Option<Vec<Bytes>>> {
        if size == 0 {
            return Ok(self.head(key).await?.filter(|meta| meta.size == 0).map(|_| Vec::new()));
        }
        let Some(found) = self.optional(self.ask("get", self.store.get(key)).await)? else { return Ok(None) };
        if found.meta.size != size {
            return Ok(None);
        }
        let pieces: Vec<Bytes> = found.into_stream().try_collect().await.map_err(|e| self.error(&e))?;
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        match length == size {
            true => Ok(Some(pieces)),
            false => Err(Error::new(ErrorKind::Unavailable, "the bucket sent a part of an object only")),
        }
    }

    /// The objects in a folder, with the errors of requests. A page of them is a request.
    fn objects(
        &self,
        folder: &Key,
        after: Option<&Key>,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let attempt = match self.breaker.enter() {
            Ok(attempt) => attempt,
            Err(e) => return futures::stream::once(async { Err(refused(e)) }).boxed(),
        };
        let objects = match after {
            Some(after) => self.store.list_with_offset(Some(folder), after),
            None => self.store.list(Some(folder)),
        };
        let bucket = self.clone();
        let mut has_failed = false;
        // Also the end of an empty list is an answer.
        let judge = move |polled: Option<&object_store::Result<ObjectMeta>>| match polled {
            Some(found) => {
                has_failed |= found.is_err();
                bucket.judge(&attempt, found.as_ref().err());
            }
            None if has_failed => {}
            None => bucket.judge(&attempt, None),
        };
        judged(objects, judge).boxed()
    }

    /// The objects in a folder, in the order of the bucket.
    pub(super) fn list(&self, folder: &Key, after: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        let bucket = self.clone();
        self.objects(folder, after).map_err(move |e| bucket.error(&e)).boxed()
    }

    pub(super) async fn begin(&self, key: &Key) -> Result<String> {
        let name = self
            .ask("create_multipart", self.store.create_multipart(key))
            .await
            .map_err(|e| self.error(&e))?;
        match name.len() <= MAX_NAME && name.bytes().all(|c| c.is_ascii_graphic()) {
            true => Ok(name),
            false => Err(Error::new(
                ErrorKind::Unavailable,
                "the bucket names an upload in a way that cannot be sent back to it",
            )),
        }
    }

    pub(super) async fn put_part(
        &self,
        key: &Key,
        name: &str,
        number: usize,
        payload: PutPayload,
    ) -> object_store::Result<String> {
        let part = self.ask("put_part", self.store.put_part(key, &name.to_owned(), number, payload)).await?;
        Ok(part.content_id)
    }

    pub(super) async fn complete(
        &self,
        key: &Key,
        name: &str,
        parts: Vec<String>,
        size: u64,
    ) -> object_store::Result<()> {
        (self.announce)(size);
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        self.ask("complete_multipart", self.store.complete_multipart(key, &name.to_owned(), parts))
            .await
            .map(drop)
    }

    /// Removes the parts of an upload. One that has ended is no error.
    pub(super) async fn abort(&self, key: &Key, name: &str) -> Result<()> {
        self.optional(self.ask("abort_multipart", self.store.abort_multipart(key, &name.to_owned())).await)
            .map(drop)
    }
}
