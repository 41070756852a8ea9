//! The suite of the registry client on the crate `oci-client`, over HTTP to this registry.

use super::support::memory;
use hyper_sdk::client::oci_client::{Client, ClientConfig, ClientProtocol, OciClient, RegistryAuth};
use hyper_sdk::client::{RegistryClient as _, SharedClient};
use hyper_sdk::reference::RegistryHost;
use hyper_server::{RegistryOptions, RunningServer, Server, ServerOptions};
use std::sync::Arc;

fn client(server: &RunningServer, auth: RegistryAuth, use_monolithic_push: bool) -> OciClient {
    let config =
        ClientConfig { protocol: ClientProtocol::Http, use_monolithic_push, ..ClientConfig::default() };
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    OciClient::new(Client::new(config), host, auth)
}

async fn server(options: RegistryOptions) -> RunningServer {
    let address = "127.0.0.1:0".parse().unwrap();
    Server::start(memory(), address, options, ServerOptions::default()).await.unwrap()
}

mod whole {
    use super::*;

    async fn fixture() -> (SharedClient, RunningServer) {
        let server = server(RegistryOptions::default()).await;
        (Arc::new(client(&server, RegistryAuth::Anonymous, true)), server)
    }
    hyper_sdk::client_conformance!(fixture);
}

mod in_chunks {
    use super::*;

    async fn fixture() -> (SharedClient, RunningServer) {
        let server = server(RegistryOptions::default()).await;
        (Arc::new(client(&server, RegistryAuth::Anonymous, false)), server)
    }
    hyper_sdk::client_conformance!(fixture);
}

#[tokio::test]
async fn credentials_are_shown_and_wrong_ones_are_unauthorized() {
    use hyper_sdk::client::RegistryClientExt as _;
    use hyper_sdk::{ErrorKind, RepositoryName};
    use hyper_server::auth::htpasswd_entry;
    use std::io::Write as _;

    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{}", htpasswd_entry("joe", "right", 4).unwrap()).unwrap();
    let htpasswd = Some(file.path().to_owned());
    let server = server(RegistryOptions { htpasswd, ..RegistryOptions::default() }).await;
    let name = RepositoryName::parse("a").unwrap();
    let basic = |password: &str| RegistryAuth::Basic("joe".to_owned(), password.to_owned());

    let right = client(&server, basic("right"), true);
    right.ping().await.unwrap();
    let blob = right.put_bytes(&name, "text/plain", "hello".into()).await.unwrap();
    assert_eq!(right.read_blob(&name, &blob.digest, 5).await.unwrap(), "hello");
    for auth in [basic("wrong"), RegistryAuth::Anonymous] {
        let wrong = client(&server, auth, true);
        let e = wrong.read_blob(&name, &blob.digest, 5).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthorized, "{e}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let server = server(RegistryOptions::default()).await;
    let client = client(&server, RegistryAuth::Anonymous, true);
    server.stop().await.unwrap();
    let e = client.ping().await.unwrap_err();
    assert_eq!((e.kind(), e.is_retryable()), (hyper_sdk::ErrorKind::Unavailable, true), "{e}");
}
