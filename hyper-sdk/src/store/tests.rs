//! The suites on every store and backend of the SDK, and tests of guarantees that only these stores give.

use super::wrap::{CacheOptions, Cached, ReadOnly};
use super::*;
use std::path::PathBuf;

#[cfg(feature = "store-sql")]
mod quotas;

mod memory {
    use super::*;

    async fn fixture(_: PathBuf) -> (SharedStore, ()) {
        (Arc::new(MemoryStore::default()), ())
    }
    crate::store_conformance!(fixture);
}

mod read_only {
    use super::*;

    async fn fixture(_: PathBuf) -> Option<(SharedStore, ())> {
        Some((Arc::new(ReadOnly::new(Arc::new(MemoryStore::default()))), ()))
    }
    crate::store_conformance!(fixture);
}

mod cached {
    use super::*;

    async fn fixture(_: PathBuf) -> (SharedStore, ()) {
        (Arc::new(Cached::new(Arc::new(MemoryStore::default()), CacheOptions::default())), ())
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "build")]
mod in_use {
    use super::*;

    async fn fixture(_: PathBuf) -> (SharedStore, ()) {
        (Arc::new(super::wrap::InUse::new(Arc::new(MemoryStore::default()))), ())
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod disk {
    use super::*;

    async fn fixture(folder: PathBuf) -> (SharedStore, ()) {
        (Arc::new(DiskStore::open(folder).await.unwrap()), ())
    }
    crate::store_conformance!(fixture);
}

/// A pair of backends that no constructor makes.
#[cfg(feature = "store-sql")]
mod memory_with_sql {
    use super::*;

    async fn fixture(folder: PathBuf) -> (SharedStore, ()) {
        let meta = meta::SqlMeta::open(folder.with_extension("db")).await.unwrap();
        (Arc::new(Composed::new(blob::MemoryBlobs::default(), meta)), ())
    }
    crate::store_conformance!(fixture);
}

mod memory_tokens {
    use super::*;

    async fn fixture(_: PathBuf) -> Option<meta::MemoryTokens> {
        Some(meta::MemoryTokens::default())
    }
    crate::token_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod sql_tokens {
    use super::meta::{SqlMeta, TokenRecord, TokenStore as _};
    use super::*;

    async fn fixture(path: PathBuf) -> Option<SqlMeta> {
        Some(SqlMeta::open(path).await.unwrap())
    }
    crate::token_conformance!(fixture);

    /// As the program does that adds a token beside a running server.
    #[tokio::test]
    async fn tokens_of_another_process_are_known_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let open = async || SqlMeta::open(folder.path().join("hyper.db")).await.unwrap();
        let server = open().await;
        let token = TokenRecord {
            id: "a".to_owned(),
            hash: crate::Digest::sha256("a"),
            user: "u".to_owned(),
            name: String::new(),
            scopes: vec!["**:pull".to_owned()],
            created: 1,
            expires: None,
            used: None,
            bound_to: None,
        };
        open().await.add_token(&token).await.unwrap();
        assert_eq!(server.token("a").await.unwrap(), Some(token));
        server.touch_token("a", 3600).await.unwrap();
        drop(server);
        let other = open().await;
        assert_eq!(other.token("a").await.unwrap().unwrap().used, Some(3600));
        assert!(other.remove_token("a").await.unwrap());
        assert_eq!(open().await.token("a").await.unwrap(), None);
    }
}

#[cfg(feature = "store-postgres")]
mod postgres_tokens {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<meta::SqlMeta> {
        postgres::meta(&folder).await
    }
    crate::token_conformance!(fixture);
}

mod memory_blobs {
    use super::*;

    async fn fixture(_: PathBuf) -> Option<blob::MemoryBlobs> {
        Some(blob::MemoryBlobs::default())
    }
    crate::blob_conformance!(fixture);
}

mod disk_blobs {
    use super::*;

    async fn fixture(folder: PathBuf) -> blob::DiskBlobs {
        blob::DiskBlobs::open(folder).await.unwrap()
    }
    crate::blob_conformance!(fixture);
}

mod memory_meta {
    use super::*;

    async fn fixture(_: PathBuf) -> Option<meta::MemoryMeta> {
        Some(meta::MemoryMeta::default())
    }
    crate::meta_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod sql_meta {
    use super::*;

    async fn fixture(path: PathBuf) -> meta::SqlMeta {
        meta::SqlMeta::open(path).await.unwrap()
    }
    crate::meta_conformance!(fixture);
}

#[cfg(feature = "store-postgres")]
mod postgres_meta {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<meta::SqlMeta> {
        postgres::meta(&folder).await
    }
    crate::meta_conformance!(fixture);
}

#[cfg(feature = "store-postgres")]
mod disk_with_postgres {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<(SharedStore, ())> {
        let blobs = blob::DiskBlobs::open(&folder).await.unwrap();
        Some((Arc::new(Composed::new(blobs, postgres::meta(&folder).await?)), ()))
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-postgres")]
mod memory_with_postgres_cached {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<(SharedStore, ())> {
        let store = Composed::new(blob::MemoryBlobs::default(), postgres::meta(&folder).await?);
        Some((Arc::new(Cached::new(Arc::new(store), CacheOptions::default())), ()))
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod clocked;
mod collection;
#[cfg(feature = "store-sql")]
mod collectors;
#[cfg(feature = "store-sql")]
mod durability;
#[cfg(feature = "store-sql")]
mod events;
mod faults;
#[cfg(feature = "store-sql")]
mod full;
#[cfg(feature = "store-sql")]
mod guards;
#[cfg(feature = "store-sql")]
mod leftovers;
#[cfg(feature = "store-sql")]
mod migration;
#[cfg(feature = "store-sql")]
mod mutants;
#[cfg(feature = "store-sql")]
mod own_keys;
#[cfg(feature = "store-postgres")]
pub(super) mod postgres;
#[cfg(feature = "store-sql")]
mod pulls;
#[cfg(feature = "store-sql")]
mod retention;
#[cfg(feature = "store-sql")]
mod retention_races;
#[cfg(feature = "store-s3")]
mod s3;
mod scrub;
#[cfg(feature = "store-sql")]
mod undelete;
