//! The attributes of a shared cache in a bucket of S3 (`type=s3`), with the names that they have in buildx.

use super::cache_fields::Fields;
use crate::cache::CachePlace;
use crate::dockerfile::parse_duration;
use crate::s3::{S3Bucket, S3Keys, S3Place, Secret, endpoint_url};
use crate::{Error, Result};

/// The attributes of a cache that is read or written.
pub(super) const OF_BOTH: [&str; 14] = [
    "bucket",
    "region",
    "name",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "endpoint_url",
    "use_path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "disable_accept_encoding",
    "retry_mode",
    "retry_max_attempts",
];
/// Those of a cache that is written.
pub(super) const OF_WRITTEN: [&str; 2] = ["touch_refresh", "upload_parallelism"];
/// Those that only other tools have.
const OF_OTHERS: [&str; 3] = ["disable_accept_encoding", "retry_mode", "retry_max_attempts"];

/// The most parts that are sent at once.
const MAX_PARALLEL: usize = 64;
/// The most names of a cache.
const MAX_NAMES: usize = 16;

/// The attributes that have no meaning for a cache that is read.
pub(super) fn of_written<'a>(others: &[&'a str]) -> Vec<&'a str> {
    [others, &OF_WRITTEN[..]].concat()
}

/// A place for each name of the place.
pub(super) fn each_name(place: CachePlace) -> Vec<CachePlace> {
    let CachePlace::S3(place) = place else { return vec![place] };
    let of_name =
        |name: &String| CachePlace::S3(Box::new(S3Place { names: vec![name.clone()], ..(*place).clone() }));
    place.names.iter().map(of_name).collect()
}

impl Fields {
    /// The bucket and the cache in it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a value that is malformed, [`crate::ErrorKind::Unsupported`] for attributes that
    /// only other tools have, and for the type when the library was built without it.
    pub(super) fn bucket(&self) -> Result<CachePlace> {
        if cfg!(not(feature = "cache-s3")) {
            return Err(Error::unsupported(
                "type=s3 is not supported by this program, which was built without the feature `cache-s3` of hyper-sdk: \
                 use type=registry or type=local",
            ));
        }
        if let Some(key) = OF_OTHERS.iter().find(|key| self.values.contains_key(**key)) {
            return Err(Error::unsupported(format!(
                "`{key}` is not supported: requests are sent up to five times, and files as they are"
            )));
        }
        // Early: the place is shown by errors and records, and this URL may have a password.
        self.text("endpoint_url").map(endpoint_url).transpose()?;
        let own = |key: &str| self.text(key).map(str::to_owned);
        let bucket = S3Bucket {
            name: own("bucket"),
            region: own("region"),
            endpoint: own("endpoint_url"),
            path_style: self.switch("use_path_style")? == Some(true),
            keys: self.keys()?,
        };
        let usual = S3Place::new(bucket);
        let mut place = S3Place {
            prefix: own("prefix").unwrap_or_default(),
            // An empty one is no prefix, and not the usual one.
            blobs_prefix: self.values.get("blobs_prefix").cloned().unwrap_or(usual.blobs_prefix),
            manifests_prefix: self.values.get("manifests_prefix").cloned().unwrap_or(usual.manifests_prefix),
            ..usual
        };
        if let Some(names) = self.text("name") {
            place.names = names.split(';').map(str::to_owned).collect();
            if place.names.len() > MAX_NAMES {
                return Err(Error::invalid(format!("`name` has more than {MAX_NAMES} names")));
            }
        }
        if let Some(text) = self.text("touch_refresh") {
            place.touch_refresh = parse_duration(text)
                .map_err(|why| Error::invalid(format!("`touch_refresh` is a time such as 24h: {why}")))?;
        }
        if let Some(text) = self.text("upload_parallelism") {
            let number = text.parse().ok().filter(|number| (1..=MAX_PARALLEL).contains(number));
            place.upload_parallelism = number.ok_or_else(|| {
                Error::invalid(format!(
                    "`upload_parallelism` is a number from 1 to {MAX_PARALLEL}, not `{text}`"
                ))
            })?;
        }
        place.check()?;
        Ok(CachePlace::S3(Box::new(place)))
    }

    fn keys(&self) -> Result<Option<S3Keys>> {
        let secret = |key: &str| self.text(key).map(Secret::from);
        let session_token = secret("session_token");
        match (self.text("access_key_id"), secret("secret_access_key")) {
            (Some(id), Some(secret)) => Ok(Some(S3Keys { id: id.to_owned(), secret, session_token })),
            (None, None) if session_token.is_none() => Ok(None),
            _ => Err(Error::invalid(
                "`access_key_id` and `secret_access_key` belong together, and `session_token` to both",
            )),
        }
    }
}

#[cfg(all(test, feature = "cache-s3"))]
mod tests {
    use super::super::{CacheTarget, cache_options};
    use super::*;
    use crate::ErrorKind;
    use std::time::Duration;

    fn place(text: &str) -> Result<S3Place> {
        match cache_options::cache_to([text])?.remove(0).target {
            CacheTarget::Place(CachePlace::S3(place)) => Ok(*place),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn attributes_are_those_of_buildx() {
        let all = place(
            "type=s3,bucket=b,region=r,name=main;sha,prefix=team/,blobs_prefix=b/,manifests_prefix=,endpoint_url=https://h,\
             use_path_style=true,access_key_id=me,secret_access_key=hunter2=,session_token=t0ken,mode=max,\
             ignore-error=true,touch_refresh=1h30m,upload_parallelism=8",
        )
        .unwrap();
        assert_eq!(all.to_string(), "s3://b/team/main;sha");
        assert_eq!((all.names.len(), all.upload_parallelism, all.bucket.path_style), (2, 8, true));
        assert_eq!((all.blobs_prefix.as_str(), all.touch_refresh), ("b/", Duration::from_secs(5400)));
        assert_eq!(all.bucket.keys.as_ref().unwrap().secret.expose(), "hunter2=");
        assert!(!format!("{all:?}").contains("hunter2") && !format!("{all:?}").contains("t0ken"));
        let usual = place("type=s3").unwrap();
        assert_eq!(usual.to_string(), "s3://$AWS_BUCKET/manifests/hyper");
        assert_eq!((usual.blobs_prefix.as_str(), usual.upload_parallelism), ("blobs/", 4));
        assert_eq!(usual.touch_refresh, Duration::from_secs(86_400));
    }

    #[test]
    fn each_name_is_read() {
        let from = cache_options::cache_from(["type=s3,bucket=b,name=sha;main,cache-mounts=true"]).unwrap();
        let shown: Vec<String> = from.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["s3://b/manifests/sha", "s3://b/manifests/main"]);
        assert!(from.iter().all(|from| from.mounts));
    }

    #[test]
    fn wrong_attributes_are_named_without_secrets() {
        for (text, why) in [
            ("bucket=b,access_key_id=me", "belong together"),
            ("bucket=b,session_token=hunter2", "belong together"),
            ("bucket=b,secret_key=hunter2", "`secret_key` is not an attribute of type=s3"),
            (
                "bucket=b,secret_access_key=hun\"ter2",
                "in field 3 (`secret_access_key`): put the whole field in quotes",
            ),
            ("bucket=b,secret_access_key=a,ter2", "field 4 is not KEY=VALUE: a field with a comma"),
            (
                "bucket=b,secret_access_key=a,ter2=,x=y",
                "field 4 is not an attribute of type=s3: known are bucket",
            ),
            ("bucket=b,session_token=a,ter2=,ter2=", "the key of field 5 is given twice"),
            (
                "bucket=b,endpoint_url=https://me:hunter2@h",
                "`endpoint_url` has credentials: use access_key_id",
            ),
            ("bucket=b,endpoint_url=me:hunter2@h", "`endpoint_url` is not a URL"),
            ("bucket=b,upload_parallelism=0", "a number from 1 to 64, not `0`"),
            ("bucket=b,touch_refresh=soon", "`touch_refresh` is a time such as 24h"),
            ("bucket=b,use_path_style=maybe", "`use_path_style` is true or false"),
            ("bucket=b,name=a;", "is empty, `.` or `..`"),
            ("bucket=b,prefix=/x", "is empty, `.` or `..`"),
            ("bucket=b,src=x", "`src` is for a cache that is read"),
            ("bucket=b,ref=x", "`ref=x` is not an attribute of type=s3: known are bucket, region"),
            ("bucket=b,image-manifest=false", "`image-manifest=false` is not supported"),
        ] {
            let error = place(&format!("type=s3,{text}")).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(!format!("{error:?}").contains("ter2"), "{error:?}");
        }
        let other = place("type=s3,bucket=b,retry_mode=standard").unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Unsupported);
        let read = cache_options::cache_from(["type=s3,bucket=b,touch_refresh=1h"]).unwrap_err();
        assert!(read.to_string().contains("`touch_refresh` is for a cache that is written"), "{read}");
    }
}
