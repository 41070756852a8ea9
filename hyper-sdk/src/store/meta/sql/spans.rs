//! The spans of what the database does in statements that no caller sees.

use super::{Database, SqlMeta};
use crate::store::work;
use crate::{Error, ErrorKind, Result};

/// The databases, as spans name them.
pub(super) const SQLITE: &str = "sqlite";
#[cfg(feature = "store-postgres")]
pub(super) const POSTGRESQL: &str = "postgresql";

/// Whether a change failed by a fault.
fn is_fault(error: &Error) -> bool {
    use ErrorKind::{Corrupt, Internal, Io, StorageFull, Timeout, Unavailable};
    matches!(error.kind(), Corrupt | Internal | Io | StorageFull | Timeout | Unavailable)
}

impl SqlMeta {
    /// Waits for a change in a span.
    pub(super) async fn written(&self, write: impl Future<Output = Result<u64>>) -> Result<u64> {
        let system = match &*self.0 {
            Database::Sqlite(_) => SQLITE,
            #[cfg(feature = "store-postgres")]
            Database::Postgres(_) => POSTGRESQL,
        };
        // A change that is refused is no fault of the database.
        work::within_where(work::operation(system, "write"), is_fault, write).await
    }

    /// Waits for the version of a database elsewhere in a span.
    #[cfg(feature = "store-postgres")]
    pub(super) async fn versioned(&self, version: impl Future<Output = Option<u64>>) -> Option<u64> {
        let version = async { version.await.ok_or(()) };
        work::within(work::operation(POSTGRESQL, "version"), version).await.ok()
    }
}
