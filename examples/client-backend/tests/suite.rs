//! The client passes the suite as far as its capabilities go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use client_backend::FolderClient;
use hyper_sdk::client::SharedClient;
use std::sync::Arc;

async fn fixture() -> (SharedClient, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Arc::new(FolderClient::new(folder.path())), folder)
}

hyper_sdk::client_conformance!(fixture);
