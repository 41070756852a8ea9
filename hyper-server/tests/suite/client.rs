//! The suite of the registry client, over HTTP to this registry: both ends at once.

use super::support::memory;
use hyper_sdk::client::{HttpClient, SharedClient};
use hyper_sdk::reference::RegistryHost;
use hyper_server::{RegistryOptions, RunningServer, Server, ServerOptions};
use std::sync::Arc;

async fn fixture() -> (SharedClient, RunningServer) {
    let address = "127.0.0.1:0".parse().unwrap();
    let options = RegistryOptions::default();
    let server = Server::start(memory(), address, options, ServerOptions::default()).await.unwrap();
    let host = RegistryHost::parse(&server.address().to_string()).unwrap();
    (Arc::new(HttpClient::builder(host).build().unwrap()), server)
}

hyper_sdk::client_conformance!(fixture);

#[tokio::test]
async fn a_client_checks_credentials_where_everybody_may_pull() {
    use hyper_sdk::ErrorKind;
    use hyper_sdk::client::CredentialCheck;
    use hyper_sdk::client::keychain::{Credentials, StaticKeychain};
    use hyper_server::auth::{AnonymousAccess, htpasswd_entry};
    use std::io::Write as _;

    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{}", htpasswd_entry("joe", "right", 4).unwrap()).unwrap();
    for anonymous in [None, Some(AnonymousAccess::None), Some(AnonymousAccess::Pull)] {
        let htpasswd = Some(file.path().to_owned());
        let options = RegistryOptions { htpasswd, anonymous, ..RegistryOptions::default() };
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::start(memory(), address, options, ServerOptions::default()).await.unwrap();
        let host = RegistryHost::parse(&server.address().to_string()).unwrap();
        let check = async |user: &str, password: &str| {
            let keychain = StaticKeychain::default().with(host.clone(), Credentials::basic(user, password));
            let client = HttpClient::builder(host.clone()).keychain(Arc::new(keychain)).build().unwrap();
            client.check_credentials().await
        };
        assert_eq!(check("joe", "right").await.unwrap(), CredentialCheck::Accepted, "{anonymous:?}");
        for (user, password) in [("joe", "wrong"), ("ann", "right")] {
            let e = check(user, password).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unauthorized, "{anonymous:?}: {e}");
        }
        server.stop().await.unwrap();
    }
}
