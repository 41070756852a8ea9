//! The clients of a session: credentials, proxies, certificates.

use super::{Session, SessionOptions};
use crate::Result;
use crate::client::keychain::{DockerConfig, KeychainChain, SharedKeychain, StaticKeychain};
use crate::client::{HostCertificates, HttpClient, S3Access, SharedClient, read_authorities};
use crate::reference::RegistryHost;
use crate::source::ClientFactory;
use std::sync::Arc;

impl Session {
    /// The clients of registries.
    pub fn clients(&self) -> &ClientFactory {
        &self.0.clients
    }

    /// A client of a registry. Blocks while it reads files of certificates.
    ///
    /// # Errors
    /// Those of [`HostCertificates::find`], of [`read_authorities`] and of [`crate::client::HttpClientBuilder::build`].
    pub fn client(&self, host: &RegistryHost) -> Result<SharedClient> {
        self.0.clients.client(host)
    }

    /// The keychain of the options, then the `config.json`.
    pub fn keychain(&self) -> SharedKeychain {
        keychain(self.options())
    }

    /// The `config.json` with credentials, when the session has one.
    pub fn credentials(&self) -> Option<DockerConfig> {
        credentials(self.options())
    }
}

fn credentials(options: &SessionOptions) -> Option<DockerConfig> {
    let file = DockerConfig::new(options.config.as_ref()?.join("config.json"));
    Some(file.helper_folders(options.helper_folders.clone()))
}

fn keychain(options: &SessionOptions) -> SharedKeychain {
    let file = credentials(options).map(|file| Arc::new(file) as SharedKeychain);
    let links: Vec<SharedKeychain> = options.keychain.iter().cloned().chain(file).collect();
    match <[SharedKeychain; 1]>::try_from(links) {
        Ok([only]) => only,
        Err(links) if links.is_empty() => Arc::new(StaticKeychain::anonymous()),
        Err(links) => Arc::new(KeychainChain::new(links)),
    }
}

/// The clients of these options.
pub(super) fn factory(options: &SessionOptions) -> ClientFactory {
    let (usual, other, keychain) = (options.clone(), options.clone(), keychain(options));
    let same = keychain.clone();
    let access = S3Access {
        environment: options.aws.clone(),
        proxies: options.proxies.clone(),
        authorities: options.authorities.clone(),
    };
    ClientFactory::new(move |host| Ok(Arc::new(http_client(&usual, host, keychain.clone())?) as SharedClient))
        .insecure(move |host, plain_http| {
            let options = SessionOptions { plain_http, insecure_tls: !plain_http, ..other.clone() };
            Ok(Arc::new(http_client(&options, host, same.clone())?) as SharedClient)
        })
        .s3(access)
}

/// A client of a registry with credentials from a keychain.
pub(super) fn http_client(
    options: &SessionOptions,
    host: &RegistryHost,
    keychain: SharedKeychain,
) -> Result<HttpClient> {
    let mut builder = HttpClient::builder(host.clone())
        .keychain(keychain)
        .plain_http(options.plain_http)
        .insecure_tls(options.insecure_tls)
        .proxies(options.proxies.clone())
        .progress(options.progress.clone());
    let certificates = HostCertificates::find(options.certificate_folders.iter().cloned(), host)?;
    for file in &options.authorities {
        builder = builder.extra_roots(read_authorities(file)?);
    }
    for pem in certificates.roots {
        builder = builder.extra_roots(pem);
    }
    if let Some(identity) = certificates.identity {
        builder = builder.client_certificate(identity);
    }
    builder.build()
}
