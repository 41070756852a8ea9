//! Login and logout: credentials that are checked, stored and removed.

use super::{Session, clients};
use crate::client::CredentialCheck;
use crate::client::keychain::{Credentials, DockerConfig, StaticKeychain};
use crate::reference::RegistryHost;
use crate::{Error, ErrorKind, MissingInput, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// The result of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Whether the registry accepted the credentials, or asked for none.
    pub check: CredentialCheck,
    /// The file that has the credentials, or names the helper that has them.
    pub file: PathBuf,
}

/// Credentials of a user name and a password.
///
/// # Errors
/// [`ErrorKind::Invalid`] when one of them is empty or the name has a colon, which cannot be sent.
pub fn login_credentials(username: &str, password: &str) -> Result<Credentials> {
    if username.is_empty() || password.is_empty() {
        return Err(Error::invalid("the user name and the password must not be empty"));
    }
    if username.contains(':') {
        return Err(Error::invalid("a user name cannot contain `:`"));
    }
    Ok(Credentials::basic(username, password))
}

impl Session {
    /// Checks credentials with a registry, and stores them in the `config.json` or with the helper that it names. A registry
    /// that everybody may pull from checks them for a push, of which nothing is sent. When it never asks for credentials,
    /// they are stored unchecked: [`CredentialCheck::NotAsked`]. The check uses HTTP, also when
    /// [`super::SessionOptions::clients`] makes other clients.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a `config.json`; [`ErrorKind::Unauthorized`] when the registry rejects them;
    /// those of the client and of [`DockerConfig::store`].
    pub async fn login(&self, host: &RegistryHost, credentials: &Credentials) -> Result<Login> {
        let file = self.credentials_file()?;
        let keychain = Arc::new(StaticKeychain::anonymous().with(host.clone(), credentials.clone()));
        let client = clients::http_client(self.options(), host, keychain)?;
        let check = client.check_credentials().await?;
        file.store(host, None, credentials).await?;
        Ok(Login { check, file: file.path().to_owned() })
    }

    /// Removes the credentials of a registry. Returns whether there were any, or a helper was asked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a `config.json`; those of [`DockerConfig::erase`].
    pub async fn logout(&self, host: &RegistryHost) -> Result<bool> {
        self.credentials_file()?.erase(host, None).await
    }

    /// The `config.json` that credentials are kept in.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the session has no folder for it.
    pub fn credentials_file(&self) -> Result<DockerConfig> {
        self.credentials().ok_or_else(|| {
            let why = "there is no home folder to keep credentials in: name a folder for them";
            Error::new(ErrorKind::NotFound, why).with_missing(MissingInput::CredentialsFolder)
        })
    }
}
