//! The arguments of `hyperbuild build` about caches that machines share.

use clap::Args;

/// The caches that a build reads and writes.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Cache of another machine: the NAME of one, or type=registry|local with ref= or src=; may be repeated
    ///
    /// NAME is a cache at a registry, or an image with one in it. A registry takes `registry.insecure=`, a folder `tag=`, `digest=`.
    /// `cache-mounts=true` fills cache mounts that this machine does not have.
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,
    /// Writes the results of steps for other machines: type=registry|local|inline with ref= or dest=; may be repeated
    ///
    /// `type=inline` writes into the image. The others take `mode=min|max` (the steps of the image, or all), `ignore-error=`,
    /// `compression=gzip|zstd|uncompressed`, `compression-level=`; a registry takes `registry.insecure=`, a folder `tag=`.
    /// `cache-mounts=true` also writes the files in the cache mounts of the steps.
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
}
