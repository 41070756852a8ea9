//! Where the blobs of a registry lie in a bucket.
//!
//! ```text
//!   s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path_style=true&allow_http=true]
//! ```

use super::{AwsEnvironment, S3Address, S3Bucket};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;
use url::{Host, Url};

/// The longest prefix, in bytes: a key has 1024, and what follows has fewer than 256.
const MAX_PREFIX: usize = 768;

/// A bucket, and the prefix of the blobs of a registry in it.
///
/// ```
/// use hyper_sdk::s3::S3BlobPlace;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let place: S3BlobPlace = "s3://images/team?region=eu-west-1".parse()?;
/// assert_eq!((place.bucket.name.as_deref(), place.prefix.as_str()), (Some("images"), "team"));
/// assert_eq!(place.to_string(), "s3://images/team");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3BlobPlace {
    /// The bucket.
    pub bucket: S3Bucket,
    /// What the keys of all objects begin with, without a slash at its ends. It may be empty.
    pub prefix: String,
    /// Whether the endpoint may be reached without TLS. One on this machine always may.
    pub allow_http: bool,
}

impl S3BlobPlace {
    /// The address of the bucket in an environment: see [`S3Bucket::resolve`].
    ///
    /// # Errors
    /// Those of [`S3Bucket::resolve`]; [`crate::ErrorKind::Invalid`] for a prefix that cannot be a part of a key, and for an
    /// endpoint of http that is not on this machine.
    pub fn resolve(&self, environment: &AwsEnvironment) -> Result<S3Address> {
        check_prefix(&self.prefix)?;
        let address = self.bucket.resolve(environment)?;
        if !self.allow_http && Url::parse(&address.url).is_ok_and(|url| is_open(&url)) {
            return Err(Error::invalid(
                "the endpoint of the bucket has no TLS, so that others could read and change blobs: use https, or add \
                 allow_http=true",
            ));
        }
        Ok(address)
    }
}

/// Whether a URL leads to another machine without TLS.
fn is_open(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    url.scheme() != "https" && !is_here
}

fn check_prefix(prefix: &str) -> Result<()> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'/');
    let has_parts = || prefix.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match prefix.is_empty() || prefix.len() <= MAX_PREFIX && prefix.bytes().all(is_plain) && has_parts() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "`{}` cannot be the prefix of blobs in a bucket: letters, digits, `-`, `.` and `_`, with single slashes \
             between them",
            prefix.escape_debug()
        ))),
    }
}

impl FromStr for S3BlobPlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text is not shown: it may have a password.
        let malformed =
            || Error::invalid("the place of blobs is not a text such as s3://BUCKET/PREFIX?region=NAME");
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "s3").ok_or_else(malformed)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid(
                "the place of blobs has credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile \
                 with AWS_PROFILE",
            ));
        }
        if url.port().is_some() || url.fragment().is_some() {
            return Err(malformed());
        }
        let name = url.host_str().filter(|name| !name.is_empty()).ok_or_else(malformed)?;
        let mut place = Self { prefix: url.path().trim_matches('/').to_owned(), ..Self::default() };
        place.bucket.name = Some(name.to_owned());
        check_prefix(&place.prefix)?;
        for (key, value) in url.query_pairs() {
            let is_set = || match &*value {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(Error::invalid(format!("`{}` is true or false", key.escape_debug()))),
            };
            match &*key {
                "endpoint" => place.bucket.endpoint = Some(value.into_owned()),
                "region" => place.bucket.region = Some(value.into_owned()),
                "path_style" => place.bucket.path_style = is_set()?,
                "allow_http" => place.allow_http = is_set()?,
                _ => {
                    return Err(Error::invalid(format!(
                        "`{}` is not a key of the place of blobs: endpoint, region, path_style, allow_http",
                        key.escape_debug()
                    )));
                }
            }
        }
        Ok(place)
    }
}

impl fmt::Display for S3BlobPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket.name.as_deref().unwrap_or("$AWS_BUCKET");
        match self.prefix.is_empty() {
            true => write!(f, "s3://{bucket}"),
            false => write!(f, "s3://{bucket}/{}", self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_places() {
        let place: S3BlobPlace =
            "s3://b/a/c/?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=r&path_style=true".parse().unwrap();
        assert_eq!((place.prefix.as_str(), place.bucket.region.as_deref()), ("a/c", Some("r")));
        assert_eq!(place.bucket.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(place.bucket.path_style && !place.allow_http);
        assert_eq!("s3://b".parse::<S3BlobPlace>().unwrap().to_string(), "s3://b");
        for (text, why) in [
            ("b", "is not a text such as"),
            ("https://b/x", "is not a text such as"),
            ("s3://", "is not a text such as"),
            ("s3://b:80/", "is not a text such as"),
            ("s3://me:hunter2@b/x", "has credentials"),
            ("s3://b/a//c", "cannot be the prefix"),
            ("s3://b/a%20c", "cannot be the prefix"),
            ("s3://b?secret_access_key=hunter2", "is not a key of the place"),
            ("s3://b?path_style=yes", "is true or false"),
        ] {
            let error = text.parse::<S3BlobPlace>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        let environment = AwsEnvironment::from_variables(|name| match name {
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("x".into()),
            _ => None,
        });
        for (endpoint, more, is_allowed) in [
            ("http://127.0.0.1:1", "", true),
            ("http://[::1]:1", "", true),
            ("http://localhost", "", true),
            ("https://example.com", "", true),
            ("http://example.com", "", false),
            ("http://10.0.0.1", "", false),
            ("http://127.0.0.1.example.com", "", false),
            ("http://example.com", "&allow_http=true", true),
        ] {
            let place: S3BlobPlace = format!("s3://b?endpoint={endpoint}{more}").parse().unwrap();
            let resolved = place.resolve(&environment);
            assert_eq!(resolved.is_ok(), is_allowed, "{endpoint}{more}: {resolved:?}");
        }
    }
}
