//! The table `[tls]` of the configuration: the files of TLS, and what clients must show.

use crate::config_shapes::{ClientAuthShape, NameShape};
use crate::listen_on::ListenOn;
use crate::units::text;
use crate::{ClientAuth, NameRule, TlsOptions};
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// TLS.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TlsConfig {
    /// The certificate of the server.
    pub(crate) certificate: Option<PathBuf>,
    /// Its key.
    pub(crate) key: Option<PathBuf>,
    /// The authorities of client certificates.
    pub(crate) client_ca: Option<PathBuf>,
    /// The revoked client certificates.
    pub(crate) client_crl: Option<PathBuf>,
    /// Whether a client must have a certificate.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "ClientAuthShape")]
    pub(crate) client_auth: ClientAuth,
    /// The part of a client certificate that is the name of the user.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "NameShape")]
    pub(crate) client_name: NameRule,
}

impl TlsConfig {
    /// Checks the values against each other and against the listeners.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self, listen: &[ListenOn]) -> Result<()> {
        let invalid = |message: &str| Err(Error::invalid(message));
        match (&self.certificate, &self.key) {
            (Some(_), None) => return invalid("a certificate needs its key: --tls-key, or `tls.key`"),
            (None, Some(_)) => {
                return invalid("a key needs its certificate: --tls-cert, or `tls.certificate`");
            }
            (None, None) if self.client_ca.is_some() || self.client_crl.is_some() => {
                return invalid(
                    "client certificates need TLS: --tls-cert and --tls-key, or `tls.certificate` and `tls.key`",
                );
            }
            (None, None) => {
                if let Some(listen) = listen.iter().find(|listen| listen.needs_tls()) {
                    return Err(Error::invalid(format!(
                        "`{listen}` needs TLS: --tls-cert and --tls-key, or `tls.certificate` and `tls.key`"
                    )));
                }
            }
            (Some(_), Some(_)) if !listen.iter().any(ListenOn::may_speak_tls) => {
                return invalid(
                    "there is a certificate, and no listener speaks TLS: every one is `http://` or `unix:`",
                );
            }
            (Some(_), Some(_)) => {}
        }
        match self.client_crl.is_some() && self.client_ca.is_none() {
            true => invalid("the configuration key `tls.client-crl` needs `tls.client-ca` too"),
            false => Ok(()),
        }
    }

    /// The files of TLS.
    pub(crate) fn options(&self) -> Option<TlsOptions> {
        Some(TlsOptions {
            certificate: self.certificate.clone()?,
            key: self.key.clone()?,
            client_ca: self.client_ca.clone(),
            client_crl: self.client_crl.clone(),
            client_auth: self.client_auth,
            client_name: self.client_name,
        })
    }
}
