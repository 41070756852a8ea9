//! Any store as a client: the protocol without a wire.
//!
//! An upload session is the store's own; its location is its id. Every request finds it again by
//! [`RegistryStore::resume_upload`](crate::store::RegistryStore::resume_upload), as a server's handlers do, so two
//! loopbacks on one store share sessions.

use super::verify::verified;
use super::{ClientCapabilities, Mount, RegistryClient, UploadSession};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{
    BlobReader, BlobUpload, ByteRange, ByteStream, Listing, Page, PutManifest, SharedStore, UploadId,
    UploadOptions,
};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::fmt;

/// A store, spoken to as a registry.
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

    async fn upload(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
    ) -> Result<Box<dyn BlobUpload>> {
        let id = match &session.id {
            Some(id) => id.clone(),
            None => UploadId::parse(&session.location)?,
        };
        self.store.resume_upload(repository, &id).await
    }

    async fn upload_at(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
    ) -> Result<Box<dyn BlobUpload>> {
        let upload = self.upload(repository, session).await?;
        if upload.offset() != session.offset {
            return Err(Error::new(ErrorKind::RangeInvalid, "the upload continues at another offset")
                .with_context("expected", upload.offset())
                .with_context("got", session.offset));
        }
        Ok(upload)
    }
}

fn session_of(upload: &dyn BlobUpload) -> UploadSession {
    UploadSession {
        id: Some(upload.id().clone()),
        location: upload.id().to_string(),
        offset: upload.offset(),
        chunk_min_length: 0,
        resumed: false,
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
            resume: store.write && store.resume,
            catalog: true,
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn resolve(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Descriptor> {
        Ok(self.store.get_manifest(repository, reference).await?.descriptor())
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let manifest = self.store.get_manifest(repository, reference).await?;
        match reference {
            ManifestReference::Digest(digest) => manifest.with_digest(digest),
            ManifestReference::Tag(_) => Ok(manifest),
        }
    }

    async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let put = match reference {
            ManifestReference::Tag(tag) => PutManifest::new(manifest.clone(), [tag.clone()]),
            ManifestReference::Digest(digest) => PutManifest::new(manifest.clone().with_digest(digest)?, []),
        };
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

    async fn start_upload(&self, repository: &RepositoryName) -> Result<UploadSession> {
        let mut upload = self.store.start_upload(repository, UploadOptions::default()).await?;
        upload.save().await?;
        Ok(session_of(upload.as_ref()))
    }

    async fn upload_status(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
    ) -> Result<UploadSession> {
        Ok(session_of(self.upload(repository, session).await?.as_ref()))
    }

    async fn upload_chunk(
        &self,
        repository: &RepositoryName,
        session: &UploadSession,
        chunk: Bytes,
    ) -> Result<UploadSession> {
        let mut upload = self.upload_at(repository, session).await?;
        upload.append(chunk).await?;
        upload.save().await?;
        Ok(session_of(upload.as_ref()))
    }

    async fn finish_upload(
        &self,
        repository: &RepositoryName,
        session: UploadSession,
        digest: &Digest,
        rest: Option<(u64, ByteStream)>,
    ) -> Result<()> {
        let mut upload = self.upload_at(repository, &session).await?;
        if let Some((length, mut stream)) = rest {
            let end = session.offset.saturating_add(length);
            let mut failure = None;
            while let Some(item) = stream.next().await {
                match item {
                    Ok(bytes) if upload.offset() + bytes.len() as u64 > end => {
                        failure =
                            Some(Error::new(ErrorKind::SizeInvalid, "the content is longer than announced"));
                        break;
                    }
                    Ok(bytes) => upload.append(bytes).await?,
                    Err(e) => {
                        failure = Some(e);
                        break;
                    }
                }
            }
            if failure.is_none() && upload.offset() != end {
                failure = Some(
                    Error::new(ErrorKind::SizeInvalid, "the content is shorter than announced")
                        .with_context("missing bytes", end - upload.offset()),
                );
            }
            if let Some(e) = failure {
                // What arrived stays in the session, as it does at a registry whose client went away.
                upload.save().await?;
                return Err(e);
            }
        }
        upload.finish(digest).await.map(|_| ())
    }

    async fn cancel_upload(&self, repository: &RepositoryName, session: UploadSession) -> Result<()> {
        self.upload(repository, &session).await?.abort().await
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
