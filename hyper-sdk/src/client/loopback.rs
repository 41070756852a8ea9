//! Any store as a client: the protocol without a network.
//!
//! An upload session is the store's own, and its token is the store's name for it: two loopbacks on one store share
//! sessions. What was appended is saved at once, as at a registry that acknowledges it.

use super::verify::{verified, verified_manifest};
use super::{ClientCapabilities, Mount, RegistryClient, RegistryUpload, ResumeToken};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::errors::{upload_moved, upload_unknown};
use crate::store::{
    BlobReader, BlobUpload, ByteRange, ByteStream, Listing, Page, PutManifest, SharedStore, UploadId,
    UploadOptions,
};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::fmt;

/// How many repositories with a blob are asked for: one of them may be the one that wants it.
const MAX_OFFERED: usize = 2;

/// A client whose registry is a store of this process.
///
/// ```
/// use hyper_sdk::client::{Loopback, RegistryClient as _};
/// use hyper_sdk::store::{MemoryStore, Page};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let client = Loopback::new(Arc::new(MemoryStore::default()));
/// assert!(client.list_repositories(Page::default()).await?.items.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Loopback {
    store: SharedStore,
}

impl Loopback {
    /// A client of `store`.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    fn upload(&self, repository: &RepositoryName, upload: Box<dyn BlobUpload>) -> Box<dyn RegistryUpload> {
        Box::new(LoopbackUpload {
            store: self.store.clone(),
            repository: repository.clone(),
            id: upload.id().clone(),
            offset: upload.offset(),
            state: State::Open(upload),
        })
    }
}

impl fmt::Display for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loopback to {}", self.store)
    }
}

#[async_trait]
impl RegistryClient for Loopback {
    fn capabilities(&self) -> ClientCapabilities {
        let store = self.store.capabilities();
        ClientCapabilities {
            push: store.write,
            delete: store.delete,
            mount: store.write,
            append: store.write,
            resume: store.write && store.resume,
            catalog: true,
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        verified_manifest(self.store.get_manifest(repository, reference).await?, reference)
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let tag = match reference {
            ManifestReference::Tag(tag) => Some(tag.clone()),
            ManifestReference::Digest(_) => None,
        };
        let put = PutManifest::new(verified_manifest(manifest.clone(), reference)?, tag);
        self.store.put_manifest(repository, put).await
    }

    async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<()> {
        self.store.delete_manifest(repository, reference).await
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        match self.store.stat_blob(repository, digest).await {
            Ok(size) => Ok(Some(size)),
            Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::NameUnknown) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        Ok(verified(self.store.get_blob(repository, digest, range).await?, digest))
    }

    async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.store.delete_blob(repository, digest).await
    }

    async fn mount_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount> {
        match self.store.mount_blob(repository, digest, from).await {
            Ok(_) => Ok(Mount::Mounted),
            Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::NameUnknown) => {
                Ok(Mount::Upload(self.start_upload(repository).await?))
            }
            Err(e) => Err(e),
        }
    }

    /// Links the blob from any repository of the store that has it. Its bytes are checked before, as they would be if they
    /// were sent.
    async fn offer_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Mount> {
        let page = Page { limit: Some(MAX_OFFERED), after: None };
        let others = self.store.repositories_with(digest, page).await?.items;
        if let Some(from) = others.iter().find(|from| *from != repository)
            && self.store.capabilities().write
            && !self.store.remove_damaged(digest).await?
        {
            return self.mount_blob(repository, digest, from).await;
        }
        self.start_upload(repository).await.map(Mount::Upload)
    }

    async fn start_upload(&self, repository: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        let upload = self.store.start_upload(repository, UploadOptions::default()).await?;
        Ok(self.upload(repository, upload))
    }

    async fn resume_upload(
        &self,
        repository: &RepositoryName,
        token: &ResumeToken,
    ) -> Result<Box<dyn RegistryUpload>> {
        let upload = self.store.resume_upload(repository, &UploadId::parse(token.as_str())?).await?;
        Ok(self.upload(repository, upload))
    }

    async fn list_tags(&self, repository: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        self.store.list_tags(repository, page).await
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        self.store.list_repositories(page).await
    }

    async fn list_referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        self.store.list_referrers(repository, digest, artifact_type).await
    }
}

/// An upload of the store.
#[derive(Debug)]
struct LoopbackUpload {
    store: SharedStore,
    repository: RepositoryName,
    id: UploadId,
    offset: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The store's own handle.
    Open(Box<dyn BlobUpload>),
    /// There is no handle: the store knows how far the session is.
    Closed,
    /// The session ended.
    Over,
}

impl LoopbackUpload {
    /// Takes the store's handle at this offset out of the session. The caller puts it back on success.
    async fn take(&mut self) -> Result<Box<dyn BlobUpload>> {
        let upload = self.reopen().await?;
        if upload.offset() == self.offset {
            return Ok(upload);
        }
        // The next bytes would be in the wrong place: the caller has to refresh first.
        let e = upload_moved(self.offset, upload.offset());
        self.state = State::Closed;
        Err(e)
    }

    /// The store's handle, wherever the session is.
    async fn reopen(&mut self) -> Result<Box<dyn BlobUpload>> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Open(upload) => Ok(upload),
            State::Closed => self.store.resume_upload(&self.repository, &self.id).await,
            State::Over => {
                self.state = State::Over;
                Err(upload_unknown(&self.id))
            }
        }
    }

    fn put_back(&mut self, upload: Box<dyn BlobUpload>) {
        self.offset = upload.offset();
        self.state = State::Open(upload);
    }
}

#[async_trait]
impl RegistryUpload for LoopbackUpload {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn token(&self) -> Option<ResumeToken> {
        self.store.capabilities().resume.then(|| ResumeToken::new(self.id.as_str()))
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut upload = self.take().await?;
        upload.append(bytes).await?;
        upload.save().await?;
        self.put_back(upload);
        Ok(())
    }

    async fn refresh(&mut self) -> Result<u64> {
        // A handle knows of its own bytes alone.
        if matches!(self.state, State::Open(_)) && self.store.capabilities().resume {
            self.state = State::Closed;
        }
        let upload = self.reopen().await?;
        self.put_back(upload);
        Ok(self.offset)
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let offset = self.offset;
        let mut upload = self.take().await?;
        if let Some((length, stream)) = rest
            && let Err(e) = append_stream(upload.as_mut(), offset.saturating_add(length), stream).await
        {
            // The bytes so far stay in the session, as at a registry whose client disconnected.
            if upload.save().await.is_ok() {
                self.put_back(upload);
            }
            return Err(e);
        }
        upload.finish(digest).await?;
        self.state = State::Over;
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        self.reopen().await?.abort().await?;
        self.state = State::Over;
        Ok(())
    }
}

/// Appends a stream that must end when the upload has `end` bytes.
async fn append_stream(upload: &mut dyn BlobUpload, end: u64, mut stream: ByteStream) -> Result<()> {
    while let Some(bytes) = stream.next().await.transpose()? {
        if upload.offset() + bytes.len() as u64 > end {
            return Err(Error::new(ErrorKind::SizeInvalid, "the content is longer than announced"));
        }
        upload.append(bytes).await?;
    }
    match end.checked_sub(upload.offset()) {
        Some(0) => Ok(()),
        missing => Err(Error::new(ErrorKind::SizeInvalid, "the content is shorter than announced")
            .with_context("missing bytes", missing.unwrap_or_default())),
    }
}
