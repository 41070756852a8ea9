//! Buckets of S3, on the crate `object_store`.
//!
//! ```text
//!   cache        a shared cache of builds as a registry                 (feature cache-s3)
//!   blobs        opens the blobs of a registry store                    (feature store-s3)
//!     └▶ connection ▶ credentials, transport     requests, with the TLS, the proxies and the timeouts of this library
//! ```

#[cfg(feature = "store-s3")]
mod blobs;
#[cfg(feature = "cache-s3")]
mod cache;
mod connection;
mod credentials;
mod transport;

#[cfg(feature = "cache-s3")]
pub(crate) use cache::{Kept, S3Cache};
