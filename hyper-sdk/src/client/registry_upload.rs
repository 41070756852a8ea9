//! Upload sessions of registries, and the tokens to resume them.

use crate::store::ByteStream;
use crate::{Digest, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::{self, Debug};

/// Names an upload session, so that [`RegistryClient::resume_upload`](super::RegistryClient::resume_upload) finds it
/// again, in another process too.
///
/// Only the kind of client that made it can read its text. Registries put signatures into it: the `Debug` output does not
/// show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ResumeToken(String);

impl ResumeToken {
    /// A token with this text, which a client gave before.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(…)")
    }
}

/// An upload session at a registry.
///
/// # Guarantees
/// A blob is there only after [`RegistryUpload::finish`] succeeded. A method that fails leaves the session usable, unless
/// the registry ended it: [`RegistryUpload::refresh`] says where it continues. Dropping the handle sends nothing: the
/// session stays at the registry until it expires there, and its [token](RegistryUpload::token) finds it until then.
/// Dropping a future of a method is like a failure of that method.
///
/// ```
/// use hyper_sdk::client::{Loopback, RegistryClient as _};
/// use hyper_sdk::store::MemoryStore;
/// use hyper_sdk::{Digest, RepositoryName};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let client = Loopback::new(Arc::new(MemoryStore::default()));
/// let name = RepositoryName::parse("team/app")?;
/// let mut upload = client.start_upload(&name).await?;
/// upload.append("hello ".into()).await?;
/// let token = upload.token().expect("this client can resume");
/// drop(upload);
/// // Later, maybe in another process.
/// let mut upload = client.resume_upload(&name, &token).await?;
/// assert_eq!(upload.offset(), 6);
/// upload.append("world".into()).await?;
/// upload.finish(&Digest::sha256("hello world"), None).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method: [`crate::ErrorKind::UploadUnknown`] or [`crate::ErrorKind::UploadInvalid`] when the session is over, and
/// what [`RegistryClient`](super::RegistryClient) names.
#[async_trait]
pub trait RegistryUpload: Debug + Send + 'static {
    /// How many bytes the registry has, as far as this handle knows.
    fn offset(&self) -> u64;

    /// The token to find the session again; `None` where the client's capabilities deny `resume`. Some registries move a
    /// session with each request: take the token after the last one.
    fn token(&self) -> Option<ResumeToken> {
        None
    }

    /// The smallest chunk that the registry takes, in bytes; the last one may be smaller.
    fn min_chunk(&self) -> u64 {
        0
    }

    /// Sends bytes to the end of what the registry has. Without bytes it does nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::RangeInvalid`] when the registry has more or less than [`RegistryUpload::offset`] says;
    /// [`crate::ErrorKind::Unsupported`] where the client's capabilities deny `append`.
    async fn append(&mut self, bytes: Bytes) -> Result<()>;

    /// Asks the registry how many bytes it has, which is the offset from then on.
    async fn refresh(&mut self) -> Result<u64>;

    /// Streams the rest of the content, of a length that is known, and ends the session: the blob is in the repository.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] when the content is another; [`crate::ErrorKind::SizeInvalid`] when the stream
    /// has another length; the error of the stream, or one that it caused.
    async fn finish(&mut self, digest: &Digest, rest: Option<(u64, ByteStream)>) -> Result<()>;

    /// Ends the session; the registry forgets its bytes.
    async fn cancel(&mut self) -> Result<()>;
}
