//! Writes the caches that a request asks for, after its outputs.

use super::cache_options::{CacheMode, CacheTarget, CacheTo};
use super::{BuildRequest, LocalBuilder, Output, OutputKind};
use crate::cache::{CacheBundle, Imports, PackedMount};
use crate::dockerfile::parse_bool;
use crate::exec::ExecCapabilities;
use crate::layer::CompressOptions;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::solve::{Chain, SolveContext};
use crate::source::ClientFactory;
use crate::store::SharedStore;
use crate::{Error, Result};

/// How often a cache is written anew because an imported one has lost something.
const LOSSES: usize = 8;

/// The build argument that asks for records in the image.
const INLINE: &str = "BUILDKIT_INLINE_CACHE";

impl BuildRequest {
    /// Whether images get the records of their steps.
    pub(super) fn caches_inline(&self) -> bool {
        let argument = self.build_args.get(INLINE);
        argument.is_some_and(|value| parse_bool(value).unwrap_or(!value.is_empty())) || self.asks_for_inline()
    }

    fn asks_for_inline(&self) -> bool {
        self.cache_to.iter().any(|cache| cache.target == CacheTarget::Inline)
    }

    /// Checks what the caches ask for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for records in an image when no output is one, [`crate::ErrorKind::Unsupported`] when
    /// its layers are others than those of the steps.
    pub(super) fn check_caches(&self) -> Result<()> {
        if self.asks_for_inline() && !self.outputs.iter().any(Output::has_image) {
            return Err(Error::invalid(
                "type=inline writes the cache into the image, and no output is an image: add one, or use \
                 type=registry or type=local",
            ));
        }
        let changes =
            |output: &&Output| output.has_image() && (output.image.estargz || output.image.keep_times);
        if self.caches_inline() && self.outputs.iter().any(|output| changes(&output)) {
            return Err(Error::unsupported(
                "a cache in an image whose layers are written anew is not supported: leave out `compression=estargz` \
                 and `rewrite-timestamp=false`, or use type=registry or type=local",
            ));
        }
        Ok(())
    }

    /// Whether another cache than the image gets results.
    pub(super) fn shares_results(&self) -> bool {
        self.cache_to.iter().any(|cache| cache.target != CacheTarget::Inline)
    }
}

impl BuildRequest {
    /// Whether a cache gets the contents of cache mounts.
    pub(super) fn shares_mounts(&self) -> bool {
        self.cache_to.iter().any(|cache| cache.mounts)
    }

    /// Checks that the contents of cache mounts can be read and made, when a cache has them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the executor cannot do it.
    pub(super) fn check_mounts(&self, executor: &ExecCapabilities) -> Result<()> {
        let wants = self.shares_mounts() || self.cache_from.iter().any(|cache| cache.mounts);
        if wants && !executor.cache_contents {
            return Err(Error::unsupported(
                "`cache-mounts=true` is not supported: the executor of this builder cannot read or make the content of \
                 cache mounts",
            ));
        }
        Ok(())
    }
}

impl LocalBuilder {
    /// The caches of other machines that a request names. They are read when the cache of this one lacks a step.
    pub(super) fn imports(&self, request: &BuildRequest, progress: &Progress) -> Imports {
        Imports::new(request.cache_from.clone(), self.options.clients.clone(), request.built_for(), progress)
    }
}

/// What is needed to write caches.
#[derive(Debug)]
pub(super) struct CacheExport<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) context: &'a SolveContext,
    pub(super) store: &'a SharedStore,
    pub(super) clients: &'a ClientFactory,
    pub(super) imports: &'a Imports,
    pub(super) progress: &'a Progress,
}

impl CacheExport<'_> {
    /// Writes every cache of the request, one after the other. What an imported cache has lost is left out, with a warning:
    /// the outputs are written, so nothing is built anew.
    ///
    /// # Errors
    /// Those of the destinations, unless the request ignores them.
    pub(super) async fn run(&self, chains: &[Chain]) -> Result<()> {
        self.imports.writing_cache(true);
        let written = self.write_all(chains).await;
        self.imports.writing_cache(false);
        self.imports.take_losses();
        written
    }

    async fn write_all(&self, chains: &[Chain]) -> Result<()> {
        let mut mounts = None;
        for cache in &self.request.cache_to {
            let CacheTarget::Place(_) = &cache.target else { continue };
            let task = self.progress.start(format!("export cache to {cache}"), None);
            let written = async {
                // Once for all caches.
                if cache.mounts && mounts.is_none() {
                    mounts = Some(self.context.pack_mounts().await?);
                }
                let mounts = mounts.as_deref().filter(|_| cache.mounts).unwrap_or_default();
                self.export(cache, chains, mounts).await
            };
            match written.await {
                Err(e) if cache.ignore_error => {
                    task.warn(format!("the cache {cache} was not written: {e}"));
                    task.done();
                }
                done => task.end_with(done.map_err(|e| e.with_op("export cache")))?,
            }
        }
        Ok(())
    }

    async fn export(&self, cache: &CacheTo, chains: &[Chain], mounts: &[PackedMount]) -> Result<()> {
        let CacheTarget::Place(place) = &cache.target else { return Ok(()) };
        let chains = (cache.mode == CacheMode::Min).then_some(chains);
        let compress = cache
            .compression
            .map(|(compression, level)| CompressOptions { level, ..CompressOptions::new(compression) });
        let pushes = |output: &&Output| matches!(&output.kind, OutputKind::Image(store) if store.push);
        let pushed = self.request.outputs.iter().filter(pushes);
        let siblings: Vec<Reference> =
            pushed.flat_map(|output| output.names(self.request)).cloned().collect();
        let write = async |bundle: &CacheBundle| {
            let of = (self.store, self.imports);
            bundle.export(place, &siblings, of, self.clients, self.progress).await
        };
        let bundle = async || {
            let mut bundle = self.context.shared(chains, compress).await?;
            for mount in mounts.iter().filter(|mount| !mount.is_lost(self.imports)) {
                bundle.add_mount(mount);
            }
            Ok::<_, Error>(bundle)
        };
        for _ in 0..LOSSES {
            let bundle = bundle().await?;
            self.imports.take_losses();
            match write(&bundle).await {
                Err(_) if self.imports.take_losses() => bundle.find_losses(self.imports).await,
                done => return done,
            }
        }
        // Its caches lose things all the time.
        self.imports.leave();
        write(&bundle().await?).await
    }
}
