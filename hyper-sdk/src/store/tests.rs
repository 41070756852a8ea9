//! The suite on every store of the SDK, and what only the stores of the SDK promise.

use super::wrap::ReadOnly;
use super::*;

mod memory {
    use super::*;

    async fn fixture() -> (SharedStore, ()) {
        (Arc::new(MemoryStore::default()), ())
    }
    crate::store_conformance!(fixture);
}

mod read_only {
    use super::*;

    async fn fixture() -> (SharedStore, ()) {
        (Arc::new(ReadOnly::new(Arc::new(MemoryStore::default()))), ())
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod disk {
    use super::*;

    async fn fixture() -> (SharedStore, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Arc::new(DiskStore::open(folder.path()).await.unwrap()), folder)
    }
    crate::store_conformance!(fixture);
}

/// The two backends in the pairing that no constructor makes.
#[cfg(feature = "store-sql")]
mod memory_with_sql {
    use super::*;

    async fn fixture() -> (SharedStore, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let meta = meta::SqlMeta::open(folder.path().join("m.db")).await.unwrap();
        (Arc::new(Composed::new(blob::MemoryBlobs::default(), meta)), folder)
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod durability;
mod faults;
#[cfg(feature = "store-sql")]
mod full;
#[cfg(feature = "store-sql")]
mod leftovers;
#[cfg(feature = "store-sql")]
mod migration;
