//! The suite of all stores, through the registry and over sockets: what the API can say, it says right.

use super::http_store::HttpStore;
use super::support::memory;
use hyper_sdk::store::{DiskStore, SharedStore};
use hyper_server::{RegistryOptions, RunningServer, Server, ServerOptions};
use std::sync::Arc;

async fn over_http(store: SharedStore) -> (SharedStore, RunningServer) {
    let options = RegistryOptions::default();
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(store.clone(), address, options, ServerOptions::default()).await.unwrap();
    (Arc::new(HttpStore::new(server.url(), store.capabilities())), server)
}

mod memory_store {
    use super::*;

    async fn fixture() -> (SharedStore, RunningServer) {
        over_http(memory()).await
    }

    hyper_sdk::store_conformance!(fixture);
}

mod folder {
    use super::*;

    async fn fixture() -> (SharedStore, (RunningServer, tempfile::TempDir)) {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        let (store, server) = over_http(Arc::new(store)).await;
        (store, (server, dir))
    }

    hyper_sdk::store_conformance!(fixture);
}
