//! The table `[tls.acme]` of the configuration: a certificate by ACME, in place of files.

use crate::config_shapes::ChallengeShape;
use crate::units::{optional_text, text};
use crate::{AcmeChallenge, AcmeExternalAccount, AcmeOptions, ListenAddress, ServerOptions, Tls, serve};
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// A certificate by ACME.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AcmeConfig {
    /// The names of the certificate; empty is no ACME.
    pub(crate) domains: Vec<String>,
    /// Whether the operator agrees to the terms of service of the directory.
    accept_terms: bool,
    /// Addresses of mail at which the directory reaches the operator.
    contact: Vec<String>,
    /// The directory: its URL, `letsencrypt`, `letsencrypt-staging` or `zerossl`.
    directory: String,
    /// A file of certificates to trust besides those of the system, PEM.
    ca: Option<PathBuf>,
    /// The folder of the account, the key and the certificate.
    folder: Option<PathBuf>,
    /// How the server proves that a domain is its own.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "ChallengeShape")]
    challenge: AcmeChallenge,
    /// Where challenges are answered over plain HTTP, and other requests sent to `https://`.
    #[serde(deserialize_with = "optional_text")]
    #[schemars(with = "String")]
    http_listen: Option<ListenAddress>,
    /// The identifier of the key of the external account.
    external_account_id: Option<String>,
    /// The file with that key.
    external_account_key_file: Option<PathBuf>,
}

impl Default for AcmeConfig {
    fn default() -> Self {
        let options = AcmeOptions::new::<String>([], "");
        Self {
            domains: Vec::new(),
            accept_terms: false,
            contact: Vec::new(),
            directory: options.directory,
            ca: None,
            folder: None,
            challenge: options.challenge,
            http_listen: None,
            external_account_id: None,
            external_account_key_file: None,
        }
    }
}

impl AcmeConfig {
    /// Whether the certificate is by ACME.
    pub(crate) fn is_set(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Checks that the keys belong together. What is wrong with their values, [`AcmeOptions::check`] says.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |message: &str| Err(Error::invalid(message));
        if !self.is_set() {
            return match format!("{self:?}") == format!("{:?}", Self::default()) {
                true => Ok(()),
                false => {
                    invalid("the configuration keys of `tls.acme` need domains: set `tls.acme.domains` too")
                }
            };
        }
        if self.folder.is_none() {
            return invalid(
                "ACME needs a folder for its account, its keys and its certificate: set `tls.acme.folder`",
            );
        }
        if self.external_account_id.is_some() != self.external_account_key_file.is_some() {
            return invalid(
                "the configuration keys `tls.acme.external-account-id` and `tls.acme.external-account-key-file` need each other",
            );
        }
        if self.challenge == AcmeChallenge::Http01 && self.http_listen.is_none() {
            return invalid(
                "the challenge http-01 needs plain HTTP: set `tls.acme.http-listen`, such as \":80\"",
            );
        }
        Ok(())
    }

    /// The options; `None` when the certificate is not by ACME.
    pub(crate) fn options(&self) -> Option<AcmeOptions> {
        let external = self.external_account_id.clone().zip(self.external_account_key_file.clone());
        self.is_set().then(|| AcmeOptions {
            domains: self.domains.clone(),
            accepts_terms: self.accept_terms,
            contact: self.contact.clone(),
            directory: self.directory.clone(),
            authorities: self.ca.clone(),
            folder: self.folder.clone().unwrap_or_default(),
            challenge: self.challenge,
            external_account: external.map(|(id, key_file)| AcmeExternalAccount { id, key_file }),
        })
    }

    /// What is valid, and no client trusts.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let is_staging = self.is_set() && self.directory.contains("staging");
        let warning = "`tls.acme.directory` is for trials: no client trusts its certificates";
        is_staging.then(|| warning.to_owned()).into_iter().collect()
    }

    /// Answers plain HTTP, where the configuration says so, until the value is dropped. Returns where, too.
    ///
    /// # Errors
    /// Those of [`ListenAddress::bind`].
    pub(crate) async fn answer(&self, tls: &Tls, root: Option<String>) -> Result<Option<Answering>> {
        let Some((listen, answers)) = self.http_listen.as_ref().zip(tls.http_answers(root)) else {
            return Ok(None);
        };
        let socket = listen.bind().await?;
        let url = format!("http://{}", socket.local_addr()?);
        // Requests are small, and from few clients.
        let options = ServerOptions {
            max_connections: 256,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            ..ServerOptions::default()
        };
        let serving = tokio::spawn(async move {
            if let Err(error) = serve(socket, answers, options, std::future::pending()).await {
                tracing::error!(%error, "challenges of ACME are not answered over HTTP any more");
            }
        });
        Ok(Some(Answering { url, _serving: AbortOnDropHandle::new(serving) }))
    }
}

/// Answers plain HTTP until it is dropped.
#[derive(Debug)]
pub(crate) struct Answering {
    /// Where.
    pub(crate) url: String,
    _serving: AbortOnDropHandle<()>,
}

#[cfg(test)]
mod tests {
    use crate::AcmeChallenge;
    use crate::config::Config;

    const WHOLE: &str = r#"
        [tls.acme]
        domains = ["registry.example.com"]
        accept-terms = true
        contact = ["admin@example.com"]
        directory = "https://ca.example/acme"
        ca = "/etc/ca.crt"
        folder = "/var/lib/acme"
        challenge = "http-01"
        http-listen = ":80"
        external-account-id = "kid"
        external-account-key-file = "/etc/key"
    "#;

    #[test]
    fn a_certificate_by_acme_is_read() {
        let config = Config::parse(WHOLE).unwrap();
        let options = config.tls.acme.options().unwrap();
        assert_eq!((options.domains.len(), options.challenge), (1, AcmeChallenge::Http01));
        assert_eq!(options.external_account.unwrap().id, "kid");
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
        let staging =
            Config::parse(&WHOLE.replace("https://ca.example/acme", "letsencrypt-staging")).unwrap();
        assert_eq!(staging.warnings().len(), 1, "{:?}", staging.warnings());
        assert!(Config::parse("").unwrap().tls.acme.options().is_none());
        // Client certificates go with it.
        Config::parse(&format!("[tls]\nclient-ca = \"/etc/clients\"\n{WHOLE}")).unwrap();
    }

    #[test]
    fn keys_that_do_not_belong_together_are_named() {
        for (from, to, parts) in [
            (
                "[tls.acme]",
                "[tls]\ncertificate = \"c\"\nkey = \"k\"\n[tls.acme]",
                &["`tls.acme`", "tls.certificate"][..],
            ),
            ("[tls.acme]", "[tls]\nkey = \"k\"\n[tls.acme]", &["`tls.acme`", "tls.key"]),
            ("[tls.acme]", "listen = \"http://:1\"\n[tls.acme]", &["no listener speaks TLS"]),
            ("domains =", "# domains =", &["tls.acme.domains"]),
            ("folder =", "# folder =", &["tls.acme.folder"]),
            ("http-listen =", "# http-listen =", &["tls.acme.http-listen"]),
            ("external-account-id =", "# external-account-id =", &["external-account-id", "key-file"]),
            ("external-account-key-file =", "# x =", &["external-account-id", "key-file"]),
            ("http-01", "dns-01", &["challenge", "tls-alpn-01"]),
            ("http-01", "tls", &["challenge", "tls-alpn-01"]),
            ("\":80\"", "\"unix:x\"", &["http-listen"]),
            ("contact =", "contacts =", &["contacts"]),
        ] {
            let e = Config::parse(&WHOLE.replace(from, to)).unwrap_err().to_string();
            assert!(parts.iter().all(|part| e.contains(part)), "{to}: {e}");
        }
    }
}
