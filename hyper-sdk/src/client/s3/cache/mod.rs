//! A shared cache in a bucket of S3 as a registry: one repository with one manifest, on the crate `object_store`.
//!
//! # Invariants
//! - A blob is there complete or not at all, and a manifest is written after its blobs.
//! - What was asked for by digest has that digest, as with every client.
//! - No more of blobs is in memory than the parts that are being sent.

mod touch;
mod upload;

use super::connection::store;
use super::transport::{Largest, Transport};
use crate::client::verify::{verified, verified_manifest};
use crate::client::{ClientCapabilities, RegistryClient, S3Access};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::s3::{Object, S3Address, S3Place, of_request};
use crate::store::{BlobReader, ByteRange, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, media_type};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3;
use object_store::client::HttpClient;
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, PutOptions, PutPayload, RetryConfig,
};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// The largest manifest, in bytes.
const MAX_MANIFEST: u64 = 4 << 20;

/// How much the clock of a server may be ahead.
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// Whether a bucket has a blob.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It is there, and young enough.
    Yes,
    /// It is there, and its time could not be renewed.
    Aging(Error),
    /// It is not there, or something else is.
    No,
}

/// A client of a cache in a bucket.
pub(crate) struct S3Cache {
    place: S3Place,
    access: S3Access,
    address: S3Address,
    store: AmazonS3,
    http: HttpClient,
    largest: Largest,
    /// How many more parts may be in memory.
    parts: Arc<Semaphore>,
}

impl fmt::Debug for S3Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Cache").field("place", &self.place).finish_non_exhaustive()
    }
}

impl fmt::Display for S3Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

impl S3Cache {
    /// A client of this place. Reads the files with credentials and certificates, and blocks while it does; nothing is sent
    /// yet.
    ///
    /// # Errors
    /// Those of [`S3Place::check`], of [`crate::s3::S3Bucket::resolve`] and of reading the certificates.
    pub(crate) fn open(place: &S3Place, access: &S3Access) -> Result<Self> {
        place.check()?;
        let address = place.bucket.resolve(&access.environment)?;
        let transport = Transport::new(&address.url, access)?;
        let store = store(&address, &transport, retries())?;
        let parts = Arc::new(Semaphore::new(place.upload_parallelism.max(1)));
        let http = transport.client();
        Ok(Self {
            place: place.clone(),
            access: access.clone(),
            address,
            store,
            http,
            largest: transport.largest(),
            parts,
        })
    }

    /// How many blobs may be sent at once.
    pub(crate) fn parallel(&self) -> usize {
        self.place.upload_parallelism.max(1)
    }

    fn blob(&self, digest: &Digest) -> Result<Key> {
        key(&self.place.blob_key(digest))
    }

    fn error(&self, object: Object, error: &(dyn std::error::Error + 'static)) -> Error {
        of_request(&self.place.bucket, object, error)
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(e) => match self.error(Object::Blob, &e) {
                e if e.kind() == ErrorKind::BlobUnknown => Ok(None),
                e if e.kind() == ErrorKind::Denied => Err(self.why_denied(key).await.unwrap_or(e)),
                e => Err(e),
            },
        }
    }

    /// Why an object cannot be asked for: the answer to HEAD has no text, that to GET has.
    async fn why_denied(&self, key: &Key) -> Option<Error> {
        let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
        self.store.get_opts(key, options).await.err().map(|e| self.error(Object::Blob, &e))
    }

    /// Whether the bucket has a blob. The time of one that is older than the place says is renewed, so that rules which
    /// remove old objects spare it.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn keep(&self, blob: &Descriptor) -> Result<Kept> {
        let key = self.blob(&blob.digest)?;
        let Some(meta) = self.head(&key).await?.filter(|meta| meta.size == blob.size) else {
            return Ok(Kept::No);
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
        if is_young(Duration::from_secs(time), now, self.place.touch_refresh) {
            return Ok(Kept::Yes);
        }
        match self.touch(&key, meta.size).await {
            Ok(()) => Ok(Kept::Yes),
            // It was removed between the two requests.
            Err(e) if e.kind() == ErrorKind::BlobUnknown => Ok(Kept::No),
            Err(e) => Ok(Kept::Aging(e)),
        }
    }

    /// Writes the manifest under each name of the cache. Its blobs must be there.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn put_names(&self, manifest: &Manifest) -> Result<()> {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, manifest.media_type().to_owned().into());
        for name in &self.place.names {
            let key = key(&self.place.manifest_key(name))?;
            let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
            let payload = PutPayload::from_bytes(manifest.bytes().clone());
            let put = self.store.put_opts(&key, payload, options).await;
            put.map_err(|e| self.error(Object::Manifest, &e))?;
        }
        Ok(())
    }
}

/// Whether a time of the server, since the epoch like `now`, is less than `refresh` ago. One in the future says nothing,
/// unless the clocks differ a little.
fn is_young(time: Duration, now: Duration, refresh: Duration) -> bool {
    now.saturating_sub(time) < refresh && time <= now + MAX_SKEW
}

fn key(text: &str) -> Result<Key> {
    Key::parse(text).map_err(|e| {
        Error::invalid(format!("`{}` cannot be the key of an object", text.escape_debug())).with_source(e)
    })
}

/// How often requests are sent again.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(10),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(90) }
}

#[async_trait]
impl RegistryClient for S3Cache {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::PULL
    }

    async fn ping(&self) -> Result<()> {
        let key = key(&self.place.manifest_key(&self.place.names[0]))?;
        self.head(&key).await.map(drop)
    }

    /// The manifest with the first name of the cache, whatever the tag.
    async fn get_manifest(&self, _: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
        let key = key(&self.place.manifest_key(&self.place.names[0]))?;
        let broken = |e: object_store::Error| self.error(Object::Manifest, &e);
        let found = self.store.get(&key).await.map_err(broken)?;
        let too_large = || {
            Error::new(ErrorKind::TooLarge, "the manifest of the cache is too large")
                .with_context("limit", MAX_MANIFEST)
        };
        if found.meta.size > MAX_MANIFEST {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut stream = found.into_stream();
        while let Some(piece) = stream.try_next().await.map_err(broken)? {
            if (bytes.len() + piece.len()) as u64 > MAX_MANIFEST {
                return Err(too_large());
            }
            bytes.extend_from_slice(&piece);
        }
        verified_manifest(Manifest::parse(bytes.freeze(), media_type::OCI_MANIFEST)?, reference)
    }

    async fn stat_blob(&self, _: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.head(&self.blob(digest)?).await?.map(|meta| meta.size))
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let range = range.map(|range| match range {
            ByteRange::FromTo(first, Some(last)) => GetRange::Bounded(first..last.saturating_add(1)),
            ByteRange::FromTo(first, None) => GetRange::Offset(first),
            ByteRange::Suffix(count) => GetRange::Suffix(count),
        });
        let options = GetOptions { range, ..GetOptions::default() };
        let found = self.store.get_opts(&self.blob(digest)?, options).await;
        let found = found.map_err(|e| self.error(Object::Blob, &e).with_context("digest", digest))?;
        let (size, offset) = (found.meta.size, found.range.start);
        let length = found.range.end.saturating_sub(offset);
        let (place, wanted) = (self.place.clone(), digest.clone());
        let stream = found.into_stream().map(move |piece: object_store::Result<Bytes>| {
            piece.map_err(|e| of_request(&place.bucket, Object::Blob, &e).with_context("digest", &wanted))
        });
        Ok(verified(BlobReader { size, offset, length, stream: stream.boxed() }, digest))
    }

    async fn list_tags(&self, _: &RepositoryName, _: Page) -> Result<Listing<Tag>> {
        Ok(Listing { items: Vec::new(), more: false })
    }

    async fn list_referrers(
        &self,
        _: &RepositoryName,
        _: &Digest,
        _: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_future_is_not_young() {
        let (seconds, refresh) = (Duration::from_secs, Duration::from_secs(3600));
        let now = seconds(1 << 30);
        for (time, young) in [
            (now - seconds(3599), true),
            (now - seconds(3600), false),
            (now, true),
            (now + seconds(899), true),
            (now + seconds(901), false),
            (seconds(u64::MAX), false),
        ] {
            assert_eq!(is_young(time, now, refresh), young, "{time:?}");
        }
        assert!(!is_young(now, now, Duration::ZERO));
    }
}
