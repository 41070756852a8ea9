//! Uploads that are one request: the crate has no sessions that go on.

use super::OciClient;
use super::errors::error;
use crate::client::RegistryUpload;
use crate::client::http::errors::Subject;
use crate::client::upload::SourceError;
use crate::client::verify::verified;
use crate::reference::RepositoryName;
use crate::store::{BlobReader, ByteStream};
use crate::{Digest, Error, ErrorKind, Result};
use ::oci_client::errors::OciDistributionError;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

/// An upload that the registry sees only while it is finished.
#[derive(Debug)]
pub(super) struct OciUpload {
    client: OciClient,
    repository: RepositoryName,
    is_over: bool,
}

impl OciUpload {
    pub(super) fn new(client: OciClient, repository: RepositoryName) -> Self {
        Self { client, repository, is_over: false }
    }

    fn open(&self) -> Result<()> {
        if self.is_over {
            return Err(Error::new(ErrorKind::UploadUnknown, "the upload has ended"));
        }
        Ok(())
    }
}

#[async_trait]
impl RegistryUpload for OciUpload {
    fn offset(&self) -> u64 {
        0
    }

    async fn append(&mut self, _bytes: Bytes) -> Result<()> {
        Err(Error::unsupported(
            "the crate `oci-client` sends a blob as one stream: finish the upload with it",
        )
        .with_context("client", &self.client))
    }

    async fn refresh(&mut self) -> Result<u64> {
        self.open().map(|()| 0)
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        self.open()?;
        let (length, stream) = rest.unwrap_or_else(|| (0, futures::stream::empty().boxed()));
        let reader = BlobReader { size: length, offset: 0, length, stream };
        let source = SourceError::default();
        let stream = source.guard(verified(reader, digest).stream);
        let stream = stream.map_err(|e| OciDistributionError::IoError(std::io::Error::other(e)));
        let name = self.client.repository(&self.repository).await;
        let pushed = self.client.client.push_blob_stream(&name, stream, digest.as_str(), Some(length)).await;
        match (pushed, source.take()) {
            (Ok(_), None) => self.is_over = true,
            (_, Some(e)) => return Err(e),
            (Err(e), None) => return Err(error(e, Subject::Repository).with_context("digest", digest)),
        }
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        self.open()?;
        self.is_over = true;
        Ok(())
    }
}
