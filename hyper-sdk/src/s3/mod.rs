//! Buckets of S3, and of servers that speak its protocol: where they are, and with which credentials they are asked.
//!
//! ```text
//!   S3Bucket        what a request says of a bucket
//!   AwsEnvironment  what the variables and the files of the AWS tools say
//!   S3Address       both together: the address of the bucket, its region, the kind of credentials
//!   S3Place         a bucket, and where a shared cache lies in it
//!   S3BlobPlace     a bucket, and where the blobs of a registry lie in it
//! ```
//!
//! Nothing here sends a request.
//!
//! # Invariants
//! - Variables and the home folder come in through a function of the caller.
//! - No secret is in a `Debug` output, a text or an error.
//! - What an address has can be put into a URL and into a header as it is.

mod blob_place;
mod bucket;
mod environment;
#[cfg(any(feature = "cache-s3", feature = "store-s3"))]
mod errors;
mod place;
mod profile;

pub use blob_place::S3BlobPlace;
#[cfg(feature = "build")]
pub(crate) use bucket::endpoint_url;
pub use bucket::{S3Address, S3Bucket, S3Credentials, S3Keys};
pub use environment::AwsEnvironment;
#[cfg(any(feature = "cache-s3", feature = "store-s3"))]
pub(crate) use errors::{NoCredentials, Object, Refusal, of_request};
#[cfg(feature = "store-s3")]
pub(crate) use errors::{asks_to_slow_down, code, is_no_answer, is_unclear};
pub use place::S3Place;

pub use crate::secret::Secret;
