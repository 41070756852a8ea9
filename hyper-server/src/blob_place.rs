//! The bucket that the option `blobs` names; an error in a program that was built without buckets.

use hyper_sdk::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The text of a place, as a command line has it. It may have a password by mistake, so it is never shown.
#[derive(Clone)]
pub(crate) struct BlobText(String);

impl From<&str> for BlobText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for BlobText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobText")
    }
}

impl BlobText {
    /// Where the blobs are.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] without the text.
    pub(crate) fn place(&self) -> Result<BlobPlace> {
        self.0.parse()
    }
}

/// The bucket in which the blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobPlace(#[cfg(feature = "store-s3")] pub(crate) hyper_sdk::s3::S3BlobPlace);

impl FromStr for BlobPlace {
    type Err = Error;

    #[cfg(feature = "store-s3")]
    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self)
    }

    #[cfg(not(feature = "store-s3"))]
    fn from_str(_: &str) -> Result<Self> {
        Err(Error::unsupported(
            "`blobs` is not supported by this program, which was built without the feature `store-s3` of hyper-server",
        ))
    }
}

impl fmt::Display for BlobPlace {
    #[cfg(feature = "store-s3")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }

    #[cfg(not(feature = "store-s3"))]
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
