//! Where a shared cache lies in a bucket.
//!
//! ```text
//!   PREFIX + MANIFESTS_PREFIX + NAME      the manifest of the cache
//!   PREFIX + BLOBS_PREFIX + sha256:HEX    a blob; all caches below one prefix share them
//! ```

use super::S3Bucket;
use crate::{Digest, Error, Result};
use std::fmt;
use std::time::Duration;

/// The longest key of an object, in bytes.
const MAX_KEY: usize = 1024;

/// A shared cache in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    /// The bucket.
    pub bucket: S3Bucket,
    /// What the keys of all objects begin with.
    pub prefix: String,
    /// What follows in the keys of blobs.
    pub blobs_prefix: String,
    /// What follows in the keys of manifests.
    pub manifests_prefix: String,
    /// The names of the cache: it is read under the first one, and written under each.
    pub names: Vec<String>,
    /// How old a blob becomes before its time is renewed when it is found to be there already.
    pub touch_refresh: Duration,
    /// How many parts of blobs are sent at once; each is in memory until then.
    pub upload_parallelism: usize,
}

impl S3Place {
    /// A cache with the name `hyper` in a bucket.
    pub fn new(bucket: S3Bucket) -> Self {
        Self {
            bucket,
            prefix: String::new(),
            blobs_prefix: "blobs/".to_owned(),
            manifests_prefix: "manifests/".to_owned(),
            names: vec!["hyper".to_owned()],
            touch_refresh: Duration::from_secs(24 * 60 * 60),
            upload_parallelism: 4,
        }
    }

    /// The key of the manifest with this name.
    pub fn manifest_key(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, self.manifests_prefix)
    }

    /// The key of a blob.
    pub fn blob_key(&self, digest: &Digest) -> String {
        format!("{}{}{digest}", self.prefix, self.blobs_prefix)
    }

    /// Checks that all keys can be used, and that no manifest has the place of a blob.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that names what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.names.is_empty() {
            return Err(Error::invalid("a cache in a bucket needs a name"));
        }
        let blob = self.blob_key(&Digest::sha256(""));
        let blobs = blob.rsplit_once(':').map_or(blob.as_str(), |(start, _)| start);
        let bad = |key: &str, why: &str| {
            Err(Error::invalid(format!("`{}` cannot be the key of an object: {why}", key.escape_debug())))
        };
        let manifests: Vec<String> = self.names.iter().map(|name| self.manifest_key(name)).collect();
        for key in manifests.iter().chain([&blob]) {
            if key.len() > MAX_KEY {
                return Err(Error::invalid(format!("the key of an object is longer than {MAX_KEY} bytes")));
            }
            if key.chars().any(char::is_control) {
                return bad(key, "it has a control character");
            }
            if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return bad(key, "a part between slashes is empty, `.` or `..`");
            }
        }
        match manifests.iter().find(|key| key.starts_with(blobs)) {
            Some(key) => bad(key, "blobs have such keys"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for S3Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket.name.as_deref().unwrap_or("$AWS_BUCKET");
        write!(f, "s3://{bucket}/{}", self.manifest_key(&self.names.join(";")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        let place = |prefix: &str, blobs: &str, manifests: &str, names: &[&str]| S3Place {
            prefix: prefix.to_owned(),
            blobs_prefix: blobs.to_owned(),
            manifests_prefix: manifests.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..S3Place::new(S3Bucket::default())
        };
        for (good, key) in [
            (place("", "blobs/", "manifests/", &["a/b"]), "manifests/a/b"),
            (place("team/", "", "", &["Main", "x y"]), "team/Main"),
            (place("team-", "b-", "m-", &["ü"]), "team-m-ü"),
        ] {
            good.check().unwrap();
            assert_eq!(good.manifest_key(&good.names[0]), key);
        }
        let long = "x".repeat(1024);
        for (bad, why) in [
            (place("", "blobs/", "manifests/", &[]), "needs a name"),
            (place("", "blobs/", "manifests/", &["a", ""]), "is empty, `.` or `..`"),
            (place("/", "blobs/", "manifests/", &["a"]), "is empty, `.` or `..`"),
            (place("../", "blobs/", "manifests/", &["a"]), "is empty, `.` or `..`"),
            (place("", "b//", "manifests/", &["a"]), "is empty, `.` or `..`"),
            (place("", "blobs/", "manifests/", &["a\n"]), "a control character"),
            (place(&long, "blobs/", "manifests/", &["a"]), "longer than 1024"),
            (place("", "", "", &["sha256:1"]), "blobs have such keys"),
        ] {
            assert!(bad.check().unwrap_err().to_string().contains(why), "{bad:?}");
        }
    }
}
