//! The space of the builder's folder: what uses how much, clean-ups, and the limit that builds keep.

use super::LocalBuilder;
use super::local::Engine;
use crate::Result;
use crate::exec::Identity;
use crate::sandbox::Isolation;
use crate::snapshot::LocalSnapshotter;
use crate::space::{LocalKinds, PruneOptions, Pruned, Space, SpaceUsage};
use std::sync::Arc;
use std::time::Duration;

/// How often a running build looks whether the cache has come to its limit.
const LIMIT_PAUSE: Duration = Duration::from_secs(30);

impl LocalBuilder {
    /// Waits for a build, and looks at the limit of the cache now and then.
    pub(super) async fn keeping_to_limit<T>(&self, build: impl Future<Output = T>) -> T {
        let keep = async {
            loop {
                tokio::time::sleep(LIMIT_PAUSE).await;
                self.keep_to_limit().await;
            }
        };
        tokio::select! {
            output = build => output,
            () = keep => unreachable!("it has no end"),
        }
    }

    /// Keeps the cache below its limit. A failure is logged: the build is done, and the next one tries again.
    pub(super) async fn keep_to_limit(&self) {
        let engines = self.made_engines().await;
        // Without an engine nothing was built.
        let Some(engine) = engines.first() else { return };
        match self.space_of(engine, &engines).keep_to(self.options.cache_limit).await {
            Ok(pruned) => {
                for warning in &pruned.warnings {
                    tracing::warn!("{warning}");
                }
                if !pruned.removed.is_empty() {
                    tracing::info!(
                        freed = pruned.freed,
                        items = pruned.removed.len(),
                        "the cache was cleaned up"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "the cache could not be cleaned up"),
        }
    }

    /// The engines that builds have made, the one with the best isolation first.
    async fn made_engines(&self) -> Vec<Arc<Engine>> {
        let mut made = Vec::new();
        for engine in &self.engines {
            made.extend(engine.lock().await.clone().filter(|engine| !engine.has_changed()));
        }
        made
    }

    /// The space as builds with the options of this builder see it, with a helper that is what it is known to be: a clean-up
    /// that has begun cannot begin anew.
    async fn space(&self) -> Result<Space> {
        let mut engine = self.engine(Isolation::Full).await?;
        if let Some(sandbox) = &engine.sandbox
            && sandbox.start_helper().await.is_err()
            && sandbox.has_changed()
        {
            engine = self.engine(Isolation::Full).await?;
        }
        Ok(self.space_of(&engine, &self.made_engines().await))
    }

    fn space_of(&self, engine: &Engine, made: &[Arc<Engine>]) -> Space {
        let snapshotter = Arc::clone(&engine.snapshotter);
        let (root, store) = (self.options.root.clone(), Arc::clone(&self.options.store));
        let local = engine.local.clone().map(|own| {
            let asked = self.sandbox_options(Isolation::Full);
            // Without namespaces an ordinary user has one id, and with them maybe more.
            let may_have_more = own.sandbox().isolation() == Isolation::None
                && asked.isolation != Isolation::None
                && asked.identity != Some(Identity::Single);
            LocalKinds {
                folder: root.join("snapshots"),
                own,
                open: made
                    .iter()
                    .filter_map(|engine| engine.local.clone())
                    .collect::<Vec<LocalSnapshotter>>(),
                more: may_have_more.then(|| (self.options.helper.clone(), asked)),
            }
        });
        Space { root, store, cache: Arc::clone(&self.cache), snapshotter, local }
    }

    /// What in the state folder uses how much. Other processes may work with it meanwhile.
    ///
    /// # Errors
    /// Those of starting the sandbox, of the store and of the cache.
    pub async fn disk_usage(&self) -> Result<SpaceUsage> {
        self.space().await?.usage().await
    }

    /// Removes what nothing uses, least recently used first. Waits for a clean-up of another process. Dropping the future,
    /// or killing the process, leaves nothing half removed: the next clean-up goes on.
    ///
    /// The snapshots of builds with another isolation, and those that were made as another kind of user, are removed too; what
    /// this process cannot remove is named in [`Pruned::warnings`]. A builder with a snapshotter of its own
    /// ([`super::LocalBuilderOptions::snapshotter`]) knows the snapshots of that one alone.
    ///
    /// # Errors
    /// Those of [`LocalBuilder::disk_usage`]; [`crate::ErrorKind::Io`] when something cannot be removed.
    pub async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        self.space().await?.prune(options).await
    }
}
