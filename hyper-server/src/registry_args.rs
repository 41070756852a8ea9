//! The flags with which a command reaches a running registry.

use crate::standard_io::read_password;
use clap::Args;
use hyper_sdk::Result;
use hyper_sdk::client::keychain::{Credentials, SharedKeychain, StaticKeychain};
use hyper_sdk::client::{HttpClient, read_authorities};
use hyper_sdk::reference::RegistryHost;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// How a registry is reached, and who asks.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// User of the registry, who may do there what the command does
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password of the user from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Certificates to trust besides those of the system, PEM; repeatable
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// Accept any certificate
    #[arg(long)]
    insecure: bool,
}

impl RegistryArgs {
    /// A client of the registry at an address: `HOST[:PORT]` or its URL. `keychain` has the credentials when no user is named.
    pub(crate) fn client(&self, address: &str, keychain: Option<SharedKeychain>) -> Result<HttpClient> {
        let host = RegistryHost::from_address(address)?;
        let scheme = address.trim().split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let is_plain = scheme.as_deref() == Some("http");
        if is_plain && self.username.is_some() && !host.is_loopback() {
            let _ = writeln!(std::io::stderr(), "warning: the password goes over the network in plain HTTP");
        }
        let mut builder = HttpClient::builder(host.clone())
            .plain_http(is_plain)
            .tls_only(scheme.as_deref() == Some("https"))
            .insecure_tls(self.insecure);
        for file in &self.ca_file {
            builder = builder.extra_roots(read_authorities(file)?);
        }
        match (&self.username, keychain) {
            (Some(user), _) => {
                let credentials = Credentials::basic(user, read_password()?);
                builder = builder.keychain(Arc::new(StaticKeychain::default().with(host, credentials)));
            }
            (None, Some(keychain)) => builder = builder.keychain(keychain),
            (None, None) => {}
        }
        builder.build()
    }
}
