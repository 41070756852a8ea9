//! Credentials, and where they come from.
//!
//! A [`Keychain`] has credentials for hosts and, where it distinguishes them, for repositories. The SDK never looks for
//! configuration by itself: callers pass paths.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod docker_config;
mod helper;

pub use crate::secret::Secret;
pub use docker_config::DockerConfig;
pub use helper::CredentialHelper;

use crate::Result;
use crate::reference::{RegistryHost, RepositoryName};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// What a client sends to a registry to authenticate.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// A name and a password, sent to the registry or to its token server.
    Basic {
        /// The name.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// A refresh token for the registry's token server (OAuth2).
    IdentityToken(Secret),
    /// A token that is sent to the registry as it is.
    Bearer(Secret),
}

impl Credentials {
    /// A name and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::Basic { username: username.into(), password: password.into() }
    }
}

/// Finds credentials.
///
/// # Guarantees
/// Object-safe; many tasks may ask at once. A client asks once for each repository, and again when the registry rejects the
/// credentials. The `Debug` output has no secret. The suite in `client::keychain::conformance` tests a keychain.
///
/// # Example
/// A keychain that asks a vault for the token of each registry:
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::client::keychain::{Credentials, Keychain};
/// use hyper_sdk::reference::{RegistryHost, RepositoryName};
/// use hyper_sdk::Result;
///
/// # #[derive(Debug)]
/// # struct Vault;
/// # impl Vault {
/// #     async fn token_of(&self, _: &str) -> Result<Option<String>> { Ok(None) }
/// # }
/// #[derive(Debug)]
/// struct VaultKeychain {
///     vault: Vault,
/// }
///
/// #[async_trait]
/// impl Keychain for VaultKeychain {
///     async fn get(&self, host: &RegistryHost, _: Option<&RepositoryName>) -> Result<Credentials> {
///         // An unknown registry is `Anonymous`; a vault that does not answer is an error.
///         let token = self.vault.token_of(host.as_str()).await?;
///         Ok(token.map_or(Credentials::Anonymous, |token| Credentials::Bearer(token.into())))
///     }
/// }
/// ```
#[async_trait]
pub trait Keychain: Debug + Send + Sync + 'static {
    /// The credentials for a repository of a registry, or for the registry itself; [`Credentials::Anonymous`] when
    /// this keychain has none.
    ///
    /// # Errors
    /// When there may be credentials that cannot be read: a damaged file, a helper that fails.
    async fn get(&self, host: &RegistryHost, repository: Option<&RepositoryName>) -> Result<Credentials>;
}

/// A shared keychain of any kind.
pub type SharedKeychain = Arc<dyn Keychain>;

/// Fixed credentials, by host.
///
/// ```
/// use hyper_sdk::client::keychain::{Credentials, StaticKeychain};
/// use hyper_sdk::reference::RegistryHost;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let host = RegistryHost::parse("registry.example.com")?;
/// let keychain = StaticKeychain::default().with(host, Credentials::basic("robot", "secret"));
/// assert!(!format!("{keychain:?}").contains("secret"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct StaticKeychain {
    hosts: BTreeMap<RegistryHost, Credentials>,
}

impl StaticKeychain {
    /// A keychain without credentials: requests are anonymous.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Adds the credentials for a host.
    #[must_use]
    pub fn with(mut self, host: RegistryHost, credentials: Credentials) -> Self {
        self.hosts.insert(host, credentials);
        self
    }
}

#[async_trait]
impl Keychain for StaticKeychain {
    async fn get(&self, host: &RegistryHost, _repository: Option<&RepositoryName>) -> Result<Credentials> {
        Ok(self.hosts.get(host).cloned().unwrap_or_default())
    }
}

/// Several keychains: the first with credentials answers.
#[derive(Clone, Debug, Default)]
pub struct KeychainChain {
    links: Vec<SharedKeychain>,
}

impl KeychainChain {
    /// A chain, asked in order.
    pub fn new(links: impl IntoIterator<Item = SharedKeychain>) -> Self {
        Self { links: links.into_iter().collect() }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Keychain for KeychainChain {
    async fn get(&self, host: &RegistryHost, repository: Option<&RepositoryName>) -> Result<Credentials> {
        for link in &self.links {
            let found = link.get(host, repository).await?;
            if found != Credentials::Anonymous {
                return Ok(found);
            }
        }
        Ok(Credentials::Anonymous)
    }
}

#[cfg(test)]
mod tests;
