//! The table `[auth]` of the configuration: users and rights.

use crate::RegistryOptions;
use crate::auth::AnonymousAccess;
use crate::config_shapes::AccessShape;
use crate::issuer_config::{self, IssuerConfig};
use crate::ldap_config::LdapConfig;
use crate::login_config::LoginConfig;
use crate::token_config::TokenConfig;
use crate::units::optional_text;
use hyper_sdk::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// Users and rights.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AuthConfig {
    /// The file of users.
    pub(crate) htpasswd: Option<PathBuf>,
    /// The file of the policy.
    pub(crate) policy: Option<PathBuf>,
    /// What callers without credentials may do.
    #[serde(deserialize_with = "optional_text")]
    #[schemars(with = "AccessShape")]
    pub(crate) anonymous: Option<AnonymousAccess>,
    /// The realm that clients show when they ask for a password.
    pub(crate) realm: String,
    /// Tokens that the registry issues.
    pub(crate) token: TokenConfig,
    /// A directory whose users may log in.
    pub(crate) ldap: LdapConfig,
    /// An issuer at which people log in with a browser.
    pub(crate) login: LoginConfig,
    /// Other issuers whose tokens are accepted.
    pub(crate) issuer: Vec<IssuerConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let realm = RegistryOptions::default().realm;
        Self {
            htpasswd: None,
            policy: None,
            anonymous: None,
            realm,
            token: TokenConfig::default(),
            ldap: LdapConfig::default(),
            login: LoginConfig::default(),
            issuer: Vec::new(),
        }
    }
}

impl AuthConfig {
    /// Checks the tables.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        issuer_config::issuers(&self.issuer)?;
        self.login.check()?;
        self.ldap.check()
    }

    /// Whether anybody can log in with what is in this table.
    pub(crate) fn has_users(&self) -> bool {
        self.htpasswd.is_some() || self.ldap.is_set() || self.login.is_set() || !self.issuer.is_empty()
    }

    /// Whether anybody has groups or claims.
    pub(crate) fn has_claims(&self) -> bool {
        self.ldap.has_groups() || self.login.is_set() || !self.issuer.is_empty()
    }

    /// What is valid and probably a mistake.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = issuer_config::warnings(&self.issuer, self.policy.is_some());
        if !self.token.keys.is_empty() && !self.has_users() {
            warnings.push("`auth.token.keys` has no effect: without users there are no tokens".to_owned());
        }
        warnings.extend(self.ldap.warnings(self.policy.is_some()));
        warnings.extend(self.login.warnings(self.policy.is_some()));
        warnings
    }
}
