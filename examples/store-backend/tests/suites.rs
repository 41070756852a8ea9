//! The suites that tell whether the backend keeps its promises: alone, and as a store.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use hyper_sdk::store::meta::MemoryMeta;
use hyper_sdk::store::{Composed, SharedStore};
use std::path::PathBuf;
use std::sync::Arc;
use store_backend::LogBlobs;

mod blobs {
    use super::*;

    async fn fixture(folder: PathBuf) -> LogBlobs {
        LogBlobs::open(folder.with_extension("log")).await.unwrap()
    }
    hyper_sdk::blob_conformance!(fixture);
}

mod store {
    use super::*;

    async fn fixture(folder: PathBuf) -> (SharedStore, ()) {
        let blobs = LogBlobs::open(folder.with_extension("log")).await.unwrap();
        (Arc::new(Composed::new(blobs, MemoryMeta::default())), ())
    }
    hyper_sdk::store_conformance!(fixture);
}

/// What a crash leaves of the last record is cut off; what was acknowledged before it is there.
#[tokio::test]
async fn a_record_that_was_cut_short_is_forgotten() {
    use hyper_sdk::Digest;
    use hyper_sdk::store::blob::BlobBackend as _;

    let path = std::env::temp_dir().join(format!("store-backend-{}.log", std::process::id()));
    let blobs = LogBlobs::open(&path).await.unwrap();
    blobs.put(&Digest::sha256("one"), "one".into()).await.unwrap();
    let whole = std::fs::metadata(&path).unwrap().len();
    blobs.put(&Digest::sha256("two"), "two".into()).await.unwrap();
    drop(blobs);
    for cut in whole + 1..whole + 80 {
        std::fs::File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let blobs = LogBlobs::open(&path).await.unwrap();
        let keys = ["one", "two"].map(|text| Digest::sha256(text).into());
        assert_eq!(blobs.sizes(&keys).await.unwrap(), [Some(3), None], "cut at {cut}");
        blobs.put(&Digest::sha256("two"), "two".into()).await.unwrap();
        assert_eq!(blobs.sizes(&keys).await.unwrap(), [Some(3), Some(3)]);
    }
    std::fs::remove_file(path).unwrap();
}
