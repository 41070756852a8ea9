//! Uploads: files that grow until they are moved to their place.

use crate::{read, there};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use hyper_sdk::client::{RegistryUpload, ResumeToken, verified};
use hyper_sdk::store::ByteStream;
use hyper_sdk::{Digest, Error, ErrorKind, Result};
use std::future::ready;
use std::path::PathBuf;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

/// An upload: a file that grows.
#[derive(Debug)]
pub(super) struct FileUpload {
    path: PathBuf,
    offset: u64,
}

impl FileUpload {
    /// A handle on a file that is empty, or that [`RegistryUpload::refresh`] looks at next.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }
}

fn over() -> Error {
    Error::new(ErrorKind::UploadUnknown, "the upload is over")
}

#[async_trait]
impl RegistryUpload for FileUpload {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn token(&self) -> Option<ResumeToken> {
        Some(ResumeToken::new(self.path.file_name()?.to_str()?))
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        if fs::metadata(&self.path).await.map_err(|_| over())?.len() != self.offset {
            return Err(Error::new(ErrorKind::RangeInvalid, "the upload continues at another offset"));
        }
        let mut file = fs::File::options().append(true).open(&self.path).await?;
        file.write_all(&bytes).await?;
        file.flush().await?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    async fn refresh(&mut self) -> Result<u64> {
        self.offset = there(fs::metadata(&self.path).await)?.ok_or_else(over)?.len();
        Ok(self.offset)
    }

    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()> {
        let end = self.offset + rest.as_ref().map_or(0, |(length, _)| *length);
        if let Some((_, mut stream)) = rest {
            while let Some(bytes) = stream.try_next().await? {
                self.append(bytes).await?;
            }
        }
        if self.refresh().await? != end {
            return Err(Error::new(ErrorKind::SizeInvalid, "the content has another length than announced"));
        }
        let reader = read(&self.path, None).await?.ok_or_else(over)?;
        verified(reader, digest).stream.try_for_each(|_| ready(Ok(()))).await?;
        let blob = self.path.with_file_name("../_blobs").join(digest.to_string());
        fs::create_dir_all(blob.with_file_name("")).await?;
        Ok(fs::rename(&self.path, blob).await?)
    }

    async fn cancel(&mut self) -> Result<()> {
        there(fs::remove_file(&self.path).await)?.ok_or_else(over)
    }
}
