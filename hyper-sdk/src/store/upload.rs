//! Upload sessions: their ids, and the handle of a session.

use crate::digest::Algorithm;
use crate::oci::Descriptor;
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::{self, Debug, Display};

/// The id of an upload session: 32 random lower-case hexadecimal characters, which cannot be guessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(String);

impl UploadId {
    /// A new random id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the system has no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0u8; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(std::io::Error::from)?;
        }
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// Parses an id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::UploadUnknown`] when no session can have this id.
    pub fn parse(s: &str) -> Result<Self> {
        if s.len() == 32 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(s.to_owned()));
        }
        Err(crate::Error::new(crate::ErrorKind::UploadUnknown, "no such upload"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The options of a new upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadOptions {
    /// The algorithm of the digest, if the client announced it. Otherwise the digest of [`BlobUpload::finish`] has it.
    pub algorithm: Option<Algorithm>,
    /// The digest, if it is known already. An upload of a blob that the repository has adds nothing, so no quota refuses it.
    pub digest: Option<Digest>,
}

/// An upload in progress.
///
/// Dropping the handle keeps the session: [`super::RegistryStore::resume_upload`] opens it again with every byte that
/// [`BlobUpload::save`] acknowledged; bytes that were appended after that may be lost. Two handles on one session do
/// not corrupt it: the second writer gets [`crate::ErrorKind::Conflict`] or [`crate::ErrorKind::RangeInvalid`].
///
/// ```
/// use hyper_sdk::store::{MemoryStore, RegistryStore as _, UploadOptions};
/// use hyper_sdk::{Digest, RepositoryName};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// let mut upload = store.start_upload(&name, UploadOptions::default()).await?;
/// upload.append("hello ".into()).await?;
/// upload.save().await?;
/// // Another handle, in another process if the store is durable, resumes at the saved offset.
/// let id = upload.id().clone();
/// drop(upload);
/// let mut upload = store.resume_upload(&name, &id).await?;
/// assert_eq!(upload.offset(), 6);
/// upload.append("world".into()).await?;
/// let blob = upload.finish(&Digest::sha256("hello world")).await?;
/// assert_eq!(blob.size, 11);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait BlobUpload: Debug + Send + 'static {
    /// The id of the session.
    fn id(&self) -> &UploadId;

    /// The number of appended bytes.
    fn offset(&self) -> u64;

    /// Appends bytes. Returns when they are accepted.
    async fn append(&mut self, bytes: Bytes) -> Result<()>;

    /// Saves the appended bytes and the offset in the session, so that another handle can resume there.
    async fn save(&mut self) -> Result<()>;

    /// Ends the session: checks the digest of everything appended and links the blob into the repository.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the content does not match. The session has ended in this case too.
    async fn finish(self: Box<Self>, digest: &Digest) -> Result<Descriptor>;

    /// Ends the session and discards its bytes.
    async fn abort(self: Box<Self>) -> Result<()>;
}
