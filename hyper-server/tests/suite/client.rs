//! The suite of the registry client, over HTTP to this registry: both ends at once.

use super::support::memory;
use hyper_sdk::client::{HttpClient, SharedClient};
use hyper_sdk::reference::RegistryHost;
use hyper_server::{CacheOptions, Freshness, RegistryOptions, RunningServer, Server, ServerOptions};
use std::sync::Arc;

async fn fixture() -> (SharedClient, RunningServer) {
    let options = RegistryOptions {
        cache: CacheOptions { freshness: Freshness::Exclusive, ..CacheOptions::default() },
        ..RegistryOptions::default()
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(memory(), address, options, ServerOptions::default()).await.unwrap();
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    (Arc::new(HttpClient::builder(host).build().unwrap()), server)
}

hyper_sdk::client_conformance!(fixture);
