//! The suites on blobs in buckets: in memory with every pair, and on a real server of S3.

mod breaker;
mod claims;
mod faults;
mod finishers;
#[cfg(feature = "store-postgres")]
mod history;
mod memory;
mod uploads;

use super::*;
use crate::client::S3Access;
use crate::s3::{AwsEnvironment, S3BlobPlace};
use crate::store::blob::S3Blobs;
use crate::testing::S3Server;
use object_store::memory::InMemory;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

/// How a bucket is reached with a pair of keys.
fn access([id, secret]: [&'static str; 2]) -> S3Access {
    let environment = AwsEnvironment::from_variables(|name| match name {
        "AWS_ACCESS_KEY_ID" => Some(id.into()),
        "AWS_SECRET_ACCESS_KEY" => Some(secret.into()),
        _ => None,
    });
    S3Access { environment, ..S3Access::default() }
}

/// The blobs in a bucket behind an address.
fn blobs_at(host: &str, bucket: &str) -> S3Blobs {
    blobs_below(host, bucket, "r")
}

fn blobs_below(host: &str, bucket: &str, prefix: &str) -> S3Blobs {
    let place: S3BlobPlace = format!("s3://{bucket}/{prefix}?endpoint=http://{host}").parse().unwrap();
    S3Blobs::open(&place, &access(S3Server::KEYS)).unwrap()
}

/// The blobs that belong to a folder: a case opens the same ones again. All are in one bucket, as the server has a limit of
/// buckets.
pub(super) fn blobs_of(folder: &std::path::Path) -> Option<S3Blobs> {
    static PLACES: OnceLock<Mutex<(Option<String>, Vec<PathBuf>)>> = OnceLock::new();
    let server = S3Server::running()?;
    let mut places = PLACES.get_or_init(Mutex::default).lock().unwrap();
    let bucket = places.0.get_or_insert_with(|| server.bucket()).clone();
    let number = places.1.iter().position(|known| known == folder).unwrap_or_else(|| {
        places.1.push(folder.to_owned());
        places.1.len() - 1
    });
    Some(blobs_below(server.host(), &bucket, &format!("case/{number}")))
}

mod memory_blobs {
    use super::*;

    async fn fixture(folder: PathBuf) -> S3Blobs {
        static STORES: OnceLock<Mutex<HashMap<PathBuf, Arc<InMemory>>>> = OnceLock::new();
        let mut stores = STORES.get_or_init(Mutex::default).lock().unwrap();
        let store: Arc<InMemory> = Arc::clone(stores.entry(folder).or_default());
        S3Blobs::over(store, "s3://memory/r".parse().unwrap())
    }
    crate::blob_conformance!(fixture);
}

mod server_blobs {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<S3Blobs> {
        blobs_of(&folder)
    }
    crate::blob_conformance!(fixture);
}

mod with_memory {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<(SharedStore, ())> {
        Some((Arc::new(Composed::new(blobs_of(&folder)?, meta::MemoryMeta::default())), ()))
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-sql")]
mod with_sql {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<(SharedStore, ())> {
        let blobs = blobs_of(&folder)?;
        let meta = meta::SqlMeta::open(folder.with_extension("db")).await.unwrap();
        Some((Arc::new(Composed::new(blobs, meta)), ()))
    }
    crate::store_conformance!(fixture);
}

#[cfg(feature = "store-postgres")]
mod with_postgres {
    use super::*;

    async fn fixture(folder: PathBuf) -> Option<(SharedStore, ())> {
        Some((Arc::new(Composed::new(blobs_of(&folder)?, postgres::meta(&folder).await?)), ()))
    }
    crate::store_conformance!(fixture);
}
