//! What the clients of buckets of S3 need besides the bucket.

use super::Proxies;
use crate::s3::AwsEnvironment;
use std::path::PathBuf;

/// How buckets of S3 are reached: the variables of the AWS tools, proxies, and certificates to trust.
#[derive(Clone, Debug, Default)]
pub struct S3Access {
    /// The variables and the files with credentials.
    pub environment: AwsEnvironment,
    /// The proxies.
    pub proxies: Proxies,
    /// Files of certificates (PEM) to trust, besides those of the system. They are read when a client is made.
    pub authorities: Vec<PathBuf>,
}
