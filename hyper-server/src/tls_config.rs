//! The table `[tls]` of the configuration: the files of TLS, and what clients must show.

use crate::acme_config::AcmeConfig;
use crate::config_shapes::{ClientAuthShape, NameShape};
use crate::listen_on::ListenOn;
use crate::units::text;
use crate::{ClientAuth, NameRule, Tls, TlsOptions};
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
    /// A certificate by ACME, in place of files.
    pub(crate) acme: AcmeConfig,
}

impl TlsConfig {
    /// Checks the values against each other and against the listeners.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self, listen: &[ListenOn]) -> Result<()> {
        let invalid = |message: &str| Err(Error::invalid(message));
        self.acme.check()?;
        let speaks_tls = listen.iter().any(ListenOn::may_speak_tls);
        match (&self.certificate, &self.key) {
            (None, None) if self.acme.is_set() && speaks_tls => {}
            (None, None) if self.acme.is_set() => {
                return invalid(
                    "there is `tls.acme`, and no listener speaks TLS: every one is `http://` or `unix:`",
                );
            }
            _ if self.acme.is_set() => {
                return invalid(
                    "`tls.acme` excludes the files of a certificate: leave out `tls.certificate` and `tls.key` (--tls-cert and --tls-key), or the table `tls.acme`",
                );
            }
            (Some(_), None) => return invalid("a certificate needs its key: --tls-key, or `tls.key`"),
            (None, Some(_)) => {
                return invalid("a key needs its certificate: --tls-cert, or `tls.certificate`");
            }
            (None, None) if self.client_ca.is_some() || self.client_crl.is_some() => {
                return invalid(
                    "client certificates need TLS: --tls-cert and --tls-key, `tls.certificate` and `tls.key`, or `tls.acme`",
                );
            }
            (None, None) => {
                if let Some(listen) = listen.iter().find(|listen| listen.needs_tls()) {
                    return Err(Error::invalid(format!(
                        "`{listen}` needs TLS: --tls-cert and --tls-key, `tls.certificate` and `tls.key`, or `tls.acme`"
                    )));
                }
            }
            (Some(_), Some(_)) if !speaks_tls => {
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

    /// TLS; `None` without.
    ///
    /// # Errors
    /// Those of [`Tls::open`] and [`Tls::acme`].
    pub(crate) fn open(&self) -> Result<Option<Tls>> {
        let tls = match self.acme.options() {
            Some(acme) => Tls::acme(self.clients(), acme).map_err(|e| e.with_context("table", "tls.acme"))?,
            None => match self.files() {
                Some(files) => Tls::open(files)?,
                None => return Ok(None),
            },
        };
        Ok(Some(tls))
    }

    /// Reads the files, without making any. Returns warnings.
    ///
    /// # Errors
    /// Those of [`TlsConfig::open`].
    pub(crate) fn check_files(&self) -> Result<Vec<String>> {
        if let Some(acme) = self.acme.options() {
            acme.check().map_err(|e| e.with_context("table", "tls.acme"))?;
            Tls::check_clients(&self.clients())?;
        }
        let tls = self.files().map(Tls::open).transpose()?;
        Ok(tls.map(|tls| tls.warnings()).unwrap_or_default())
    }

    /// The files of the certificates of which the server shows one; none without TLS.
    ///
    /// # Errors
    /// Those of [`crate::AcmeOptions::certificate_file`].
    pub(crate) fn certificate_files(&self) -> Result<Vec<PathBuf>> {
        match self.acme.options() {
            Some(acme) => acme.certificate_files(),
            None => Ok(self.certificate.iter().cloned().collect()),
        }
    }

    fn files(&self) -> Option<TlsOptions> {
        Some(TlsOptions { certificate: self.certificate.clone()?, key: self.key.clone()?, ..self.clients() })
    }

    /// What clients must show.
    fn clients(&self) -> TlsOptions {
        TlsOptions {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: self.client_ca.clone(),
            client_crl: self.client_crl.clone(),
            client_auth: self.client_auth,
            client_name: self.client_name,
        }
    }
}
