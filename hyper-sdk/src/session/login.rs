//! Credentials that are checked, kept and forgotten.

use super::{Session, clients};
use crate::client::CredentialCheck;
use crate::client::keychain::{Credentials, DockerConfig, StaticKeychain};
use crate::reference::RegistryHost;
use crate::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// What became of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Whether the registry took the credentials, or asked for none.
    pub check: CredentialCheck,
    /// The file that has the credentials, or names the helper that has them.
    pub file: PathBuf,
}

/// The name and the password of somebody who logs in.
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
    /// Lets a registry check credentials, and keeps them in the file of credentials or with the helper that it names. A
    /// registry that everybody may pull from is asked for a push, which is given up at once. When it asks for credentials
    /// nowhere, they are kept unchecked: [`CredentialCheck::NotAsked`]. The registry is asked over HTTP, also when
    /// [`super::SessionOptions::clients`] makes other clients.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a file of credentials; [`ErrorKind::Unauthorized`] when the registry refuses them;
    /// those of the client and of [`DockerConfig::store`].
    pub async fn login(&self, host: &RegistryHost, credentials: &Credentials) -> Result<Login> {
        let file = self.kept()?;
        let keychain = Arc::new(StaticKeychain::anonymous().with(host.clone(), credentials.clone()));
        let client = clients::http_client(self.options(), host, keychain)?;
        let check = client.check_credentials().await?;
        file.store(host, None, credentials).await?;
        Ok(Login { check, file: file.path().to_owned() })
    }

    /// Forgets the credentials of a registry. Returns whether there were any, or a helper was asked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a file of credentials; those of [`DockerConfig::erase`].
    pub async fn logout(&self, host: &RegistryHost) -> Result<bool> {
        self.kept()?.erase(host, None).await
    }

    fn kept(&self) -> Result<DockerConfig> {
        self.credentials()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no folder to keep credentials in"))
    }
}
