//! Opens the blobs of a registry store in a bucket.

use super::connection::store;
use super::transport::Transport;
use crate::Result;
use crate::client::S3Access;
use crate::s3::S3BlobPlace;
use crate::store::blob::S3Blobs;
use object_store::{BackoffConfig, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

impl S3Blobs {
    /// The blobs at a place. Reads the files with credentials and certificates, and blocks while it does; nothing is sent yet
    /// ([`S3Blobs::check`] sends something).
    ///
    /// # Errors
    /// Those of [`S3BlobPlace::resolve`] and of reading the certificates.
    ///
    /// ```
    /// use hyper_sdk::client::S3Access;
    /// use hyper_sdk::s3::AwsEnvironment;
    /// use hyper_sdk::store::Composed;
    /// use hyper_sdk::store::blob::S3Blobs;
    /// use hyper_sdk::store::meta::MemoryMeta;
    ///
    /// # fn main() -> hyper_sdk::Result<()> {
    /// let environment = AwsEnvironment::from_variables(|name| match name {
    ///     "AWS_ACCESS_KEY_ID" => Some("me".into()),
    ///     "AWS_SECRET_ACCESS_KEY" => Some("s3cr3t".into()),
    ///     _ => None,
    /// });
    /// let access = S3Access { environment, ..S3Access::default() };
    /// let blobs = S3Blobs::open(&"s3://images/team?region=eu-west-1".parse()?, &access)?;
    /// assert_eq!(blobs.to_string(), "s3://images/team");
    /// let store = Composed::new(blobs, MemoryMeta::default());
    /// # let _ = store;
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(place: &S3BlobPlace, access: &S3Access) -> Result<Self> {
        let address = place.resolve(&access.environment)?;
        let transport = Transport::new(&address.url, access)?;
        let mut place = place.clone();
        place.bucket.name = Some(address.bucket.clone());
        let largest = transport.largest();
        let store = Arc::new(store(&address, &transport, retries())?);
        Ok(Self::over(store, place).announcing(move |size| largest.announce(size)))
    }
}

/// How often requests are sent again: a client of the registry waits meanwhile.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(30) }
}
