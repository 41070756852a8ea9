//! The spans of what the database does in statements that no caller sees.

use super::{Database, SqlMeta};
use crate::Result;
use crate::store::work;

/// The databases, as spans name them.
pub(super) const SQLITE: &str = "sqlite";
#[cfg(feature = "store-postgres")]
pub(super) const POSTGRESQL: &str = "postgresql";

impl SqlMeta {
    /// Waits for a change in a span.
    pub(super) async fn written(&self, write: impl Future<Output = Result<u64>>) -> Result<u64> {
        let system = match &*self.0 {
            Database::Sqlite(_) => SQLITE,
            #[cfg(feature = "store-postgres")]
            Database::Postgres(_) => POSTGRESQL,
        };
        work::within(work::operation(system, "write"), write).await
    }

    /// Waits for the version of a database elsewhere in a span.
    #[cfg(feature = "store-postgres")]
    pub(super) async fn versioned(&self, version: impl Future<Output = Option<u64>>) -> Option<u64> {
        let version = async { version.await.ok_or(()) };
        work::within(work::operation(POSTGRESQL, "version"), version).await.ok()
    }
}
