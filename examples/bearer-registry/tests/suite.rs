//! A client with a token passes the suite of registry clients against this registry.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bearer_registry::{Tokens, options};
use hyper_sdk::client::keychain::{Credentials, Secret, StaticKeychain};
use hyper_sdk::client::{HttpClient, SharedClient};
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::store::MemoryStore;
use hyper_server::{RunningServer, Server, ServerOptions};
use std::sync::Arc;

async fn fixture() -> (SharedClient, RunningServer) {
    let options = options(Tokens::parse("t0p alice admins\n").unwrap());
    let (store, address) = (Arc::new(MemoryStore::default()), "127.0.0.1:0".parse().unwrap());
    let server = Server::start(store, address, options, ServerOptions::default()).await.unwrap();
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    let keychain = StaticKeychain::default().with(host.clone(), Credentials::Bearer(Secret::new("t0p")));
    (Arc::new(HttpClient::builder(host).keychain(Arc::new(keychain)).build().unwrap()), server)
}

hyper_sdk::client_conformance!(fixture);

#[test]
fn a_line_without_a_user_is_named() {
    let error = Tokens::parse("t0p alice web\nr3ad\n").unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}
