//! A client that is wrong on purpose.

use super::Fault;
use super::upload::FaultyUpload;
use crate::client::{
    ClientCapabilities, Loopback, Mount, RegistryClient, RegistryUpload, ResumeToken, SharedClient,
};
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{BlobReader, ByteRange, Listing, MemoryStore, Page, PutManifest, RegistryStore as _};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

/// How long a page of [`Fault::PagesAreAlone`] and of [`Fault::PagesRepeat`] is.
const PAGE: usize = 2;

/// What the uploads of a client know of each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Blobs that are said to be there.
    pub(super) shown: Mutex<HashSet<Digest>>,
    /// The repositories of sessions.
    sessions: Mutex<HashMap<String, RepositoryName>>,
}

#[derive(Debug)]
pub(super) struct Faulty {
    fault: Fault,
    store: Arc<MemoryStore>,
    inner: Loopback,
    shared: Arc<Shared>,
}

impl Faulty {
    pub(super) fn with(fault: Fault) -> SharedClient {
        let store = Arc::new(MemoryStore::default());
        Arc::new(Self { fault, inner: Loopback::new(store.clone()), store, shared: Arc::default() })
    }

    fn upload(&self, name: &RepositoryName, inner: Box<dyn RegistryUpload>) -> Box<dyn RegistryUpload> {
        if let Some(token) = inner.token() {
            self.shared.sessions.lock().unwrap().insert(token.as_str().to_owned(), name.clone());
        }
        Box::new(FaultyUpload::new(self.fault, self.store.clone(), name, inner, self.shared.clone()))
    }

    /// Any session of the client.
    fn session(&self) -> Option<(ResumeToken, RepositoryName)> {
        let sessions = self.shared.sessions.lock().unwrap();
        sessions.iter().next().map(|(token, name)| (ResumeToken::new(token), name.clone()))
    }

    fn page(&self, page: Page) -> Page {
        match self.fault {
            Fault::PagesAreAlone => Page { limit: Some(PAGE), ..page },
            Fault::PagesRepeat => Page { limit: Some(PAGE), after: None },
            _ => page,
        }
    }

    fn listing<T>(&self, mut listing: Listing<T>) -> Listing<T> {
        match self.fault {
            Fault::ListsAreReversed => listing.items.reverse(),
            Fault::ListsEndEarly | Fault::PagesAreAlone => listing.more = false,
            _ => {}
        }
        listing
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("this is not done"))
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::HasNoName => f.write_str(" "),
            fault => write!(f, "a client that is wrong: {fault:?}"),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryClient for Faulty {
    fn capabilities(&self) -> ClientCapabilities {
        match self.fault {
            Fault::DeniesWhatItDoes => self.inner.capabilities().without_delete().without_resume(),
            _ => self.inner.capabilities(),
        }
    }

    fn host(&self) -> Option<&crate::reference::RegistryHost> {
        None
    }

    fn reporting(&self, _progress: &crate::progress::Progress) -> Option<SharedClient> {
        None
    }

    async fn ping(&self) -> Result<()> {
        if self.fault == Fault::PingFails {
            return Err(Error::new(ErrorKind::Unavailable, "nobody is there"));
        }
        self.inner.ping().await
    }

    async fn resolve(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<Descriptor> {
        let found = self.inner.resolve(name, reference).await?;
        Ok(match self.fault {
            Fault::ResolvesAnother => Descriptor { size: 0, ..found },
            _ => found,
        })
    }

    async fn get_manifest(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
        let found = self.inner.get_manifest(name, reference).await;
        match (self.fault, found) {
            (Fault::ManifestsAreReformatted, Ok(manifest)) => {
                let value: serde_json::Value = serde_json::from_slice(manifest.bytes()).unwrap();
                Manifest::sniff(format!(" {value}"))
            }
            (Fault::UnknownIsNotFound, Err(e)) => Err(e.with_kind(ErrorKind::NotFound)),
            (_, found) => found,
        }
    }

    async fn put_manifest(
        &self,
        name: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        match (self.fault, reference) {
            (Fault::TakesIncompleteImages, ManifestReference::Tag(tag)) => {
                let put = PutManifest::new(manifest.clone(), [tag.clone()]);
                self.store.put_manifest(name, PutManifest { sparse: true, ..put }).await
            }
            (Fault::TakesWrongDigests, ManifestReference::Digest(_)) => {
                self.store.put_manifest(name, PutManifest::new(manifest.clone(), [])).await
            }
            (Fault::TagsStay, ManifestReference::Tag(_))
                if self.inner.resolve(name, reference).await.is_ok() =>
            {
                self.store.put_manifest(name, PutManifest::new(manifest.clone(), [])).await
            }
            _ => self.inner.put_manifest(name, reference, manifest).await,
        }
    }

    async fn delete_manifest(&self, name: &RepositoryName, reference: &ManifestReference) -> Result<()> {
        match (self.fault, reference) {
            (Fault::DeletesNothing | Fault::DeletesByHalves, _) => Ok(()),
            (Fault::DeletesManifestsOfTags, ManifestReference::Tag(_)) => {
                let digest = self.inner.resolve(name, reference).await?.digest;
                self.inner.delete_manifest(name, &digest.into()).await
            }
            (Fault::ClaimsTooMuch, _) => unsupported(),
            _ => self.inner.delete_manifest(name, reference).await,
        }
    }

    async fn stat_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        let found = self.inner.stat_blob(name, digest).await?;
        Ok(match self.fault {
            Fault::StatsAreWrong => found.map(|size| size + 1),
            Fault::StatsAreNone => None,
            Fault::UnknownBlobsAreEmpty => found.or(Some(0)),
            Fault::ShowsWhatFailed if self.shared.shown.lock().unwrap().contains(digest) => Some(1),
            _ => found,
        })
    }

    async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let range = match (self.fault, range) {
            (Fault::RangesAreLong, Some(ByteRange::FromTo(first, Some(last)))) => {
                Some(ByteRange::FromTo(first, Some(last + 1)))
            }
            (Fault::SuffixesAreWhole, Some(ByteRange::Suffix(_))) => None,
            _ => range,
        };
        let found = self.inner.get_blob(name, digest, range).await;
        match (self.fault, found) {
            (Fault::UnknownIsNotFound, Err(e)) => Err(e.with_kind(ErrorKind::NotFound)),
            (Fault::RangesOutsideAreEmpty, Err(e)) if e.kind() == ErrorKind::RangeInvalid => {
                let stream = futures::stream::empty().boxed();
                Ok(BlobReader { size: 100, offset: 100, length: 0, stream })
            }
            (Fault::BytesChange, Ok(mut found)) => {
                found.stream = found.stream.map_ok(|bytes| Bytes::from(vec![0; bytes.len()])).boxed();
                Ok(found)
            }
            (Fault::StreamsEndEarly, Ok(mut found)) => {
                found.stream = found.stream.take(0).boxed();
                Ok(found)
            }
            (Fault::SizesAreWrong, Ok(found)) => Ok(BlobReader { size: found.size + 1, ..found }),
            (_, found) => found,
        }
    }

    async fn delete_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<()> {
        match self.fault {
            Fault::DeletesNothing => Ok(()),
            Fault::ClaimsTooMuch => unsupported(),
            _ => self.inner.delete_blob(name, digest).await,
        }
    }

    async fn mount_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<Mount> {
        match self.fault {
            Fault::MountsNothing => Ok(Mount::Mounted),
            Fault::MountsNever => self.start_upload(name).await.map(Mount::Upload),
            _ => match self.inner.mount_blob(name, digest, from).await? {
                Mount::Upload(upload) => Ok(Mount::Upload(self.upload(name, upload))),
                Mount::Mounted => Ok(Mount::Mounted),
            },
        }
    }

    async fn offer_blob(&self, name: &RepositoryName, _digest: &Digest) -> Result<Mount> {
        match self.fault {
            Fault::OffersNothing => Ok(Mount::Mounted),
            _ => self.start_upload(name).await.map(Mount::Upload),
        }
    }

    async fn start_upload(&self, name: &RepositoryName) -> Result<Box<dyn RegistryUpload>> {
        if self.fault == Fault::HasOneSession
            && let Some((token, name)) = self.session()
            && let Ok(upload) = self.inner.resume_upload(&name, &token).await
        {
            return Ok(self.upload(&name, upload));
        }
        Ok(self.upload(name, self.inner.start_upload(name).await?))
    }

    async fn resume_upload(
        &self,
        name: &RepositoryName,
        token: &ResumeToken,
    ) -> Result<Box<dyn RegistryUpload>> {
        let known = self.shared.sessions.lock().unwrap().get(token.as_str()).cloned();
        let found = match self.fault {
            Fault::ForgetsSessions => Err(Error::new(ErrorKind::UploadUnknown, "forgotten")),
            Fault::ResumesForAnybody => self.inner.resume_upload(known.as_ref().unwrap_or(name), token).await,
            _ => self.inner.resume_upload(name, token).await,
        };
        match (self.fault, found) {
            (Fault::ResumesAnything, Err(_)) => self.start_upload(name).await,
            (_, found) => Ok(self.upload(name, found?)),
        }
    }

    async fn list_tags(&self, name: &RepositoryName, page: Page) -> Result<Listing<Tag>> {
        match self.inner.list_tags(name, self.page(page)).await {
            Err(_) if self.fault == Fault::NobodyIsUnknown => Ok(Listing { items: Vec::new(), more: false }),
            found => Ok(self.listing(found?)),
        }
    }

    async fn list_repositories(&self, page: Page) -> Result<Listing<RepositoryName>> {
        Ok(self.listing(self.inner.list_repositories(self.page(page)).await?))
    }

    async fn list_tag_texts(&self, name: &RepositoryName, page: Page) -> Result<Listing<String>> {
        self.inner.list_tag_texts(name, page).await
    }

    async fn list_repository_texts(&self, page: Page) -> Result<Listing<String>> {
        self.inner.list_repository_texts(page).await
    }

    async fn list_referrers(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        match self.fault {
            Fault::ReferrersAreNone => Ok(Vec::new()),
            Fault::ReferrersAreAll => {
                let latest = self.inner.list_tags(name, Page::default()).await?.items.remove(0);
                Ok(vec![self.inner.resolve(name, &latest.into()).await?])
            }
            Fault::ReferrersAreNotFiltered => self.inner.list_referrers(name, digest, None).await,
            Fault::ReferrersAreBare => {
                let mut found = self.inner.list_referrers(name, digest, artifact_type).await?;
                found.iter_mut().for_each(|descriptor| descriptor.annotations.clear());
                Ok(found)
            }
            _ => self.inner.list_referrers(name, digest, artifact_type).await,
        }
    }
}
