//! The arguments of `hyperbuild build` about caches that machines share.

use clap::Args;

/// The caches that a build reads and writes.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Cache of another machine: the NAME of one, or type=registry|local|s3 with ref=, src= or bucket=; may be repeated
    ///
    /// NAME is a cache at a registry, or an image with one in it. A registry takes `registry.insecure=`, a folder `tag=`, `digest=`.
    /// A bucket of S3 takes `region=`, `name=`, `prefix=`, `endpoint_url=` and the keys of an account.
    /// `cache-mounts=true` fills cache mounts that this machine does not have.
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,
    /// Writes the results of steps for other machines: type=registry|local|s3|inline with ref=, dest= or bucket=; may be repeated
    ///
    /// `type=inline` writes into the image. The others take `mode=min|max` (the steps of the image, or all), `ignore-error=`,
    /// `compression=gzip|zstd|uncompressed`, `compression-level=`; a registry takes `registry.insecure=`, a folder `tag=`,
    /// a bucket of S3 what `--cache-from` takes, `touch_refresh=` and `upload_parallelism=`.
    /// `cache-mounts=true` also writes the files in the cache mounts of the steps.
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
}
