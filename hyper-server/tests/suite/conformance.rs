//! The suite of all stores, through the registry and over sockets: what the API can say, it says right.

use super::http_store::HttpStore;
use super::support::memory;
use hyper_sdk::store::{DiskStore, SharedStore};
use hyper_server::{RegistryOptions, RunningServer, Server, ServerOptions};
use std::path::PathBuf;
use std::sync::Arc;

async fn over_http(store: SharedStore) -> (SharedStore, RunningServer) {
    let options = RegistryOptions::default();
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(store.clone(), address, options, ServerOptions::default()).await.unwrap();
    (Arc::new(HttpStore::new(server.url(), store.capabilities())), server)
}

mod memory_store {
    use super::*;

    async fn fixture(_: PathBuf) -> (SharedStore, RunningServer) {
        over_http(memory()).await
    }

    hyper_sdk::store_conformance!(fixture);
}

mod folder {
    use super::*;

    async fn fixture(folder: PathBuf) -> (SharedStore, RunningServer) {
        over_http(Arc::new(DiskStore::open(folder).await.unwrap())).await
    }

    hyper_sdk::store_conformance!(fixture);
}
