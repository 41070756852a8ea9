//! Buckets of S3, and of servers that speak its protocol: where they are, and with which credentials they are asked.
//!
//! ```text
//!   S3Bucket        what a request says of a bucket
//!   AwsEnvironment  what the variables and the files of the AWS tools say
//!   S3Address       both together: the address of the bucket, its region, the kind of credentials
//!   S3Place         a bucket, and where a shared cache lies in it
//! ```
//!
//! Nothing here sends a request.
//!
//! # Invariants
//! - Variables and the home folder come in through a function of the caller.
//! - No secret is in a `Debug` output, a text or an error.
//! - What an address has can be put into a URL and into a header as it is.

mod bucket;
mod environment;
mod place;
mod profile;

#[cfg(feature = "build")]
pub(crate) use bucket::endpoint_url;
pub use bucket::{S3Address, S3Bucket, S3Credentials, S3Keys};
pub use environment::AwsEnvironment;
pub use place::S3Place;

pub use crate::secret::Secret;
