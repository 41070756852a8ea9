//! The space of the state folder: what uses how much, and what nothing uses.

use super::Session;
use crate::Result;
use crate::space::{PruneOptions, Pruned, SpaceUsage};
use crate::uses::{Use, UseKind};

impl Session {
    /// What in the state folder uses how much.
    ///
    /// ```no_run
    /// # async fn example(session: hyper_sdk::session::Session) -> hyper_sdk::Result<()> {
    /// for kind in session.disk_usage().await?.kinds {
    ///     println!("{}: {} bytes, {} of them unused", kind.kind, kind.size, kind.reclaimable);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Session::local_builder`] and of [`crate::build::LocalBuilder::disk_usage`].
    pub async fn disk_usage(&self) -> Result<SpaceUsage> {
        self.local_builder().await?.disk_usage().await
    }

    /// Removes what nothing uses, least recently used first: never what a name, running work or a client of a server uses.
    /// Dropping the future leaves nothing half removed.
    ///
    /// # Errors
    /// Those of [`Session::local_builder`] and of [`crate::build::LocalBuilder::prune`].
    pub async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        self.local_builder().await?.prune(options).await
    }

    /// Says that the state folder is in use while the value lives, so that no clean-up removes what this program uses
    /// since. The methods of a session and of its builder do it themselves; who works with [`Session::store`] does it here.
    ///
    /// # Errors
    /// Those of [`Session::root`]; [`crate::ErrorKind::Io`] when the state folder cannot be written.
    pub async fn hold(&self, kind: UseKind) -> Result<Use> {
        Use::begin(self.root()?, kind).await
    }
}
