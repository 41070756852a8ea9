//! An upload that starts again leaves no session at the registry.

use super::*;
use crate::client::location::Endpoint;
use crate::client::sibling_repositories::SiblingRepositories;
use crate::client::upload::{UploadPlan, send_blob};
use crate::progress::Progress;
use crate::store::{BlobReader, ByteStream, RegistryStoreExt as _};
use crate::{Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const CONTENT: &str = "the content of the blob";

#[derive(Debug, Default)]
struct Sessions {
    started: AtomicUsize,
    finished: AtomicUsize,
    cancelled: AtomicUsize,
    /// How the next attempts fail.
    failures: Mutex<VecDeque<ErrorKind>>,
}

/// A registry whose first uploads fail. Each failure leaves a byte there.
#[derive(Debug)]
struct Failing {
    inner: Loopback,
    resume: bool,
    sessions: Arc<Sessions>,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait]
impl RegistryClient for Failing {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities { mount: false, resume: self.resume, ..ClientCapabilities::ALL }
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn get_manifest(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
        self.inner.get_manifest(name, reference).await
    }

    async fn stat_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        self.inner.stat_blob(name, digest).await
    }

    async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        self.inner.get_blob(name, digest, range).await
    }

    async fn start_upload(&self, name: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        self.sessions.started.fetch_add(1, Ordering::SeqCst);
        let inner = self.inner.start_upload(name).await?;
        Ok(Box::new(FailingUpload { inner, sessions: self.sessions.clone() }))
    }

    async fn list_tags(&self, name: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.inner.list_tags(name, page).await
    }

    async fn list_referrers(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        kind: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.inner.list_referrers(name, digest, kind).await
    }
}

#[derive(Debug)]
struct FailingUpload {
    inner: Box<dyn RegistryUpload>,
    sessions: Arc<Sessions>,
}

#[async_trait]
impl RegistryUpload for FailingUpload {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.inner.append(bytes).await
    }

    async fn refresh(&mut self) -> Result<u64> {
        self.inner.refresh().await
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let failure = self.sessions.failures.lock().unwrap().pop_front();
        if let Some(kind) = failure {
            let next = CONTENT.as_bytes()[self.offset() as usize];
            self.inner.append(Bytes::from(vec![next])).await?;
            return Err(Error::new(kind, "the attempt fails"));
        }
        self.inner.finish(digest, rest).await?;
        self.sessions.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        self.sessions.cancelled.fetch_add(1, Ordering::SeqCst);
        self.inner.cancel().await
    }
}

#[tokio::test]
async fn an_upload_that_starts_again_cancels_its_session() {
    use ErrorKind::{DigestInvalid, TooLarge, Unavailable};
    for (failures, resume, started) in [
        (vec![TooLarge], true, 2),
        (vec![Unavailable], true, 1),
        (vec![Unavailable, DigestInvalid], true, 2),
        (vec![Unavailable, Unavailable], false, 3),
    ] {
        let from: Arc<MemoryStore> = Arc::default();
        let repository = RepositoryName::parse("a").unwrap();
        let blob = from.put_bytes(&repository, "text/plain", CONTENT.into()).await.unwrap();
        let sessions =
            Arc::new(Sessions { failures: Mutex::new(failures.clone().into()), ..Default::default() });
        let inner = Loopback::new(Arc::new(MemoryStore::default()));
        let target: SharedClient = Arc::new(Failing { inner, resume, sessions: sessions.clone() });
        let endpoint = |client| Endpoint { client, repository: repository.clone() };
        let plan = UploadPlan {
            source: &endpoint(Arc::new(Loopback::new(from))),
            target: &endpoint(target),
            blob: &blob,
            verb: "push",
            mount_from: &[],
            siblings: &SiblingRepositories::default(),
            chunk_length: None,
            progress: &Progress::none(),
        };
        send_blob(plan).await.unwrap();
        let count = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        let counts = (count(&sessions.started), count(&sessions.finished), count(&sessions.cancelled));
        assert_eq!(counts, (started, 1, started - 1), "{failures:?}");
    }
}
