//! The suite of the registry client on the crate `oci-client`, over HTTP to this registry.

use super::support::memory;
use hyper_sdk::client::oci_client::{ClientConfig, ClientProtocol, OciClient, RegistryAuth};
use hyper_sdk::client::{RegistryClient as _, SharedClient};
use hyper_sdk::reference::RegistryHost;
use hyper_server::{RegistryOptions, RunningServer, Server, ServerOptions};
use std::sync::Arc;

fn client(server: &RunningServer, auth: RegistryAuth, use_monolithic_push: bool) -> OciClient {
    let config =
        ClientConfig { protocol: ClientProtocol::Http, use_monolithic_push, ..ClientConfig::default() };
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    OciClient::new(config, host, auth).unwrap()
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

#[tokio::test]
async fn clients_of_one_configuration_show_their_own_credentials() {
    use hyper_sdk::client::RegistryClientExt as _;
    use hyper_sdk::{ErrorKind, RepositoryName};
    use hyper_server::auth::htpasswd_entry;
    use std::io::Write as _;

    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{}", htpasswd_entry("joe", "right", 4).unwrap()).unwrap();
    let htpasswd = Some(file.path().to_owned());
    let server = server(RegistryOptions { htpasswd, ..RegistryOptions::default() }).await;
    let name = RepositoryName::parse("a").unwrap();
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    let config = || ClientConfig {
        protocol: ClientProtocol::Http,
        use_monolithic_push: true,
        ..ClientConfig::default()
    };
    let with = |auth| OciClient::new(config(), host.clone(), auth).unwrap();
    // In turn: none takes over what another one showed.
    let basic = |password: &str| RegistryAuth::Basic("joe".to_owned(), password.to_owned());
    let (nobody, right, wrong) = (with(RegistryAuth::Anonymous), with(basic("right")), with(basic("wrong")));
    for _ in 0..2 {
        let e = nobody.put_bytes(&name, "text/plain", "hello".into()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthorized, "{e}");
        let blob = right.clone().put_bytes(&name, "text/plain", "hello".into()).await.unwrap();
        let e = wrong.read_blob(&name, &blob.digest, 5).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthorized, "{e}");
    }
    server.stop().await.unwrap();
}

#[test]
fn a_configuration_that_the_crate_does_not_take_is_an_error() {
    use hyper_sdk::client::oci_client::{Certificate, CertificateEncoding};

    let tls_certs_only =
        vec![Certificate { encoding: CertificateEncoding::Der, data: b"no certificate".to_vec() }];
    let config = ClientConfig { tls_certs_only, ..ClientConfig::default() };
    let host = RegistryHost::parse("r.example").unwrap();
    let e = OciClient::new(config, host, RegistryAuth::Anonymous).unwrap_err();
    assert_eq!(e.kind(), hyper_sdk::ErrorKind::Invalid, "{e}");
}
