//! The table `[auth.login]` of the configuration: an issuer at which people log in with a browser.

use crate::auth::LoginOptions;
use crate::config_shapes::OneOrMore;
use crate::issuer_config::{Required, required};
use crate::units::TimeSpan;
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An issuer at which people log in with a browser.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LoginConfig {
    /// The URL of the issuer; without it there are no logins.
    url: Option<String>,
    /// The name that its users have before theirs.
    name: String,
    /// The id that it has given the registry.
    client_id: Option<String>,
    /// The file with the secret of the client.
    client_secret_file: Option<PathBuf>,
    /// A file of certificates to trust besides those of the system, PEM.
    ca: Option<PathBuf>,
    /// What it is asked for, besides `openid`.
    scopes: Vec<String>,
    /// The algorithms that it may sign with.
    algorithms: Vec<String>,
    /// The name of a user, with claims in braces.
    user: String,
    /// The claim with the groups of a user.
    groups_claim: Option<String>,
    /// The claims that a policy sees, besides `iss` and `sub`.
    claims: Vec<String>,
    /// What claims must be: a pattern, or a list of patterns.
    #[schemars(with = "BTreeMap<String, OneOrMore>")]
    require: BTreeMap<String, Required>,
    /// How long a login lasts.
    lifetime: TimeSpan,
}

impl Default for LoginConfig {
    fn default() -> Self {
        let options = LoginOptions::new("login", "", "");
        Self {
            url: None,
            name: options.issuer.name,
            client_id: None,
            client_secret_file: None,
            ca: None,
            scopes: Vec::new(),
            algorithms: options.issuer.algorithms,
            user: options.issuer.user,
            groups_claim: None,
            claims: Vec::new(),
            require: BTreeMap::new(),
            lifetime: TimeSpan(options.lifetime),
        }
    }
}

impl LoginConfig {
    /// Whether there are logins.
    pub(crate) fn is_set(&self) -> bool {
        self.url.is_some()
    }

    /// Checks that the keys belong together. What is wrong with their values, [`crate::Registry::new`] says.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        let is_default = format!("{self:?}") == format!("{:?}", Self::default());
        if !self.is_set() && !is_default {
            return Err(Error::invalid(
                "the configuration keys of `auth.login` need an issuer: set `auth.login.url` too",
            ));
        }
        if self.is_set() && self.client_id.is_none() {
            return Err(Error::invalid(
                "the configuration key `auth.login.client-id` is missing: the issuer gives it when the registry is entered there",
            ));
        }
        Ok(())
    }

    /// The issuer; `None` without one.
    pub(crate) fn options(&self) -> Option<LoginOptions> {
        let client_id = self.client_id.clone().unwrap_or_default();
        let mut login = LoginOptions::new(&self.name, self.url.as_ref()?, client_id);
        login.client_secret_file.clone_from(&self.client_secret_file);
        login.scopes.extend(self.scopes.iter().filter(|scope| *scope != "openid").cloned());
        login.lifetime = self.lifetime.0;
        login.issuer.authorities.clone_from(&self.ca);
        login.issuer.algorithms.clone_from(&self.algorithms);
        login.issuer.user.clone_from(&self.user);
        login.issuer.groups.clone_from(&self.groups_claim);
        login.issuer.claims.clone_from(&self.claims);
        login.issuer.require = required(&self.require);
        Some(login)
    }

    /// What is valid, and lets in more than many mean.
    pub(crate) fn warnings(&self, has_policy: bool) -> Vec<String> {
        let is_open = self.is_set() && self.require.is_empty() && !has_policy;
        let warning = "`auth.login` has no `require`, and there is no policy: everybody who can log in at the issuer may do everything";
        is_open.then(|| warning.to_owned()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use std::time::Duration;

    #[test]
    fn logins_are_read() {
        let text = r#"
            public-url = "https://registry.example.com"
            [auth.login]
            url = "https://login.example.com"
            name = "company"
            client-id = "registry"
            scopes = ["openid", "email"]
            user = "{email}"
            groups-claim = "groups"
            require = { email_verified = "true", hd = ["a.example", "b.example"] }
            lifetime = "8h"
        "#;
        let config = Config::parse(text).unwrap();
        assert!(config.has_users() && config.knows().claims && config.warnings().is_empty());
        let login = config.registry().login.unwrap();
        assert_eq!(
            (login.scopes, login.lifetime),
            (vec!["openid".to_owned(), "email".to_owned()], Duration::from_secs(8 * 3600))
        );
        assert_eq!(login.issuer.require["hd"], ["a.example", "b.example"]);
        assert_eq!(
            (login.issuer.audience, login.issuer.name.as_str()),
            (vec!["registry".to_owned()], "company")
        );
        assert!(Config::parse("").unwrap().registry().login.is_none());
        for (bad, part) in [
            ("client-id = \"a\"", "auth.login.url"),
            ("url = \"https://a\"", "auth.login.client-id"),
            ("require = { hd = 7 }", "require"),
            ("client-secret = \"x\"", "client-secret"),
        ] {
            let e = Config::parse(&format!("[auth.login]\n{bad}")).unwrap_err();
            assert!(e.to_string().contains(part), "{e}");
        }
        let open = Config::parse("[auth.login]\nurl = \"https://a\"\nclient-id = \"a\"").unwrap();
        assert!(open.warnings().iter().any(|warning| warning.contains("require")));
    }
}
