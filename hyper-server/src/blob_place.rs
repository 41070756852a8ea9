//! The bucket that the option `blobs` names; an error in a program that was built without buckets.

use hyper_sdk::{Error, Result};
use std::fmt;
use std::str::FromStr;

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
