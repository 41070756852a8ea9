//! The suite of all stores, through the registry and over sockets: what the API can say, it says right.

use super::http_store::HttpStore;
use super::support::memory;
use hyper_sdk::store::SharedStore;
use hyper_server::{
    CacheOptions, Freshness, RegistryOptions, RunningServer, Server, ServerOptions, open_folder,
};
use std::sync::Arc;

async fn over_http(store: SharedStore, freshness: Freshness) -> (SharedStore, RunningServer) {
    let cache = CacheOptions { freshness, ..CacheOptions::default() };
    let options = RegistryOptions { cache, ..RegistryOptions::default() };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(store.clone(), address, options, ServerOptions::default()).await.unwrap();
    (Arc::new(HttpStore::new(server.url(), store.capabilities())), server)
}

mod memory_store {
    use super::*;

    async fn fixture() -> (SharedStore, RunningServer) {
        over_http(memory(), Freshness::Exclusive).await
    }

    hyper_sdk::store_conformance!(fixture);
}

mod folder {
    use super::*;

    async fn fixture() -> (SharedStore, (RunningServer, tempfile::TempDir)) {
        let dir = tempfile::tempdir().unwrap();
        let (store, freshness) = open_folder(dir.path()).await.unwrap();
        let (store, server) = over_http(store, freshness).await;
        (store, (server, dir))
    }

    hyper_sdk::store_conformance!(fixture);
}
