//! An upload that is wrong on purpose.

use super::Fault;
use super::client::Shared;
use crate::client::{RegistryUpload, ResumeToken};
use crate::reference::RepositoryName;
use crate::store::{ByteStream, MemoryStore, RegistryStore as _};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct FaultyUpload {
    fault: Fault,
    store: Arc<MemoryStore>,
    repository: RepositoryName,
    inner: Box<dyn RegistryUpload>,
    shared: Arc<Shared>,
    /// What was appended by this handle.
    appended: BytesMut,
    is_finished: bool,
}

impl FaultyUpload {
    pub(super) fn new(
        fault: Fault,
        store: Arc<MemoryStore>,
        repository: &RepositoryName,
        inner: Box<dyn RegistryUpload>,
        shared: Arc<Shared>,
    ) -> Self {
        let (repository, appended) = (repository.clone(), BytesMut::new());
        Self { fault, store, repository, inner, shared, appended, is_finished: false }
    }

    /// Finishes with the digest that the content has, whatever was asked for.
    async fn finish_anyway(&mut self, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let mut content = self.appended.clone();
        let mut all = BytesMut::new();
        if let Some((_, mut stream)) = rest {
            while let Some(bytes) = stream.try_next().await? {
                all.extend_from_slice(&bytes);
            }
        }
        content.extend_from_slice(&all);
        let stream = futures::stream::iter([Ok(all.clone().freeze())]).boxed();
        self.inner.finish(&Digest::sha256(content), Some((all.len() as u64, stream))).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryUpload for FaultyUpload {
    fn offset(&self) -> u64 {
        match self.fault {
            Fault::OffsetsStand => 0,
            _ => self.inner.offset(),
        }
    }

    fn token(&self) -> Option<ResumeToken> {
        self.inner.token().filter(|_| self.fault != Fault::HasNoTokens)
    }

    fn min_chunk(&self) -> u64 {
        self.inner.min_chunk()
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<()> {
        match self.fault {
            Fault::AppendsFail => return Err(Error::unsupported("bytes are not taken")),
            Fault::EmptyAppendsFail if bytes.is_empty() => return Err(Error::invalid("no bytes")),
            Fault::AppendsLoseBytes => bytes.truncate(bytes.len().saturating_sub(1)),
            Fault::AppendsAnywhere => {
                self.inner.refresh().await?;
            }
            _ => {}
        }
        self.appended.extend_from_slice(&bytes);
        self.inner.append(bytes).await?;
        if self.fault == Fault::StoresUnfinished {
            let content = self.appended.clone().freeze();
            self.store.put_blob(&self.repository, &Digest::sha256(&content), content).await?;
        }
        Ok(())
    }

    async fn refresh(&mut self) -> Result<u64> {
        match self.fault {
            Fault::RefreshesGuess => self.inner.refresh().await.map(|offset| offset + 1),
            Fault::GoesOnAfterFinish if self.is_finished => Ok(0),
            _ => self.inner.refresh().await,
        }
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let is_empty = self.inner.offset() == 0 && rest.is_none();
        match self.fault {
            Fault::StoresNothing => return Ok(()),
            Fault::KnowsSha256Only if digest.algorithm() != crate::digest::Algorithm::Sha256 => {
                return Err(Error::new(ErrorKind::DigestInvalid, "the algorithm is not known"));
            }
            Fault::RefusesEmptyBlobs if is_empty => return Err(Error::invalid("no bytes")),
            Fault::RefusesWhatIsThere if self.store.stat_blob(&self.repository, digest).await.is_ok() => {
                return Err(Error::new(ErrorKind::Conflict, "the blob is there"));
            }
            Fault::ChecksNoDigest => return self.finish_anyway(rest).await,
            Fault::FinishLosesTheRest => return self.finish_anyway(None).await,
            Fault::ShowsWhatFailed => {
                self.shared.shown.lock().unwrap().insert(digest.clone());
            }
            _ => {}
        }
        match self.inner.finish(digest, rest).await {
            Ok(()) => self.is_finished = true,
            Err(_) if self.fault == Fault::SwallowsErrors => {}
            Err(e) => {
                if self.fault == Fault::EndsWhatBroke {
                    self.inner.cancel().await?;
                }
                return Err(e);
            }
        }
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        match self.fault {
            Fault::CancelsNothing => Ok(()),
            _ => self.inner.cancel().await,
        }
    }
}
