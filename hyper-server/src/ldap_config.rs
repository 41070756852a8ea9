//! The table `[auth.ldap]` of the configuration: a directory whose users may log in.

use crate::auth::LdapOptions;
use crate::config_shapes::OneOrMore;
use crate::issuer_config::texts;
use crate::units::TimeSpan;
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// A directory whose users may log in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LdapConfig {
    /// The URLs of its servers; empty is no directory.
    #[serde(deserialize_with = "texts")]
    #[schemars(with = "OneOrMore")]
    url: Vec<String>,
    /// Whether `ldap://` begins with StartTLS.
    start_tls: Option<bool>,
    /// Allows passwords in the clear.
    allow_plain: bool,
    /// A file of certificates to trust besides those of the system, PEM.
    ca: Option<PathBuf>,
    /// The account of the registry.
    bind_dn: Option<String>,
    /// The file with its password.
    bind_password_file: Option<PathBuf>,
    /// The name of the entry of a user, with `{user}`.
    user_dn: Option<String>,
    /// Where entries of users are searched.
    base: Option<String>,
    /// What an entry of a user must be.
    filter: Option<String>,
    /// The attribute with the name of a user.
    user_attribute: String,
    /// The attribute of a user with the names of groups.
    group_attribute: Option<String>,
    /// What the entry of a group of a user is, with `{dn}` or `{user}`.
    group_filter: Option<String>,
    /// Where groups are.
    group_base: Option<String>,
    /// The longest time for a login.
    timeout: TimeSpan,
    /// The most connections.
    #[schemars(range(min = 1))]
    connections: usize,
    /// How long a right password, and that a user exists, are known.
    cache: TimeSpan,
}

impl Default for LdapConfig {
    fn default() -> Self {
        let options = LdapOptions::new("");
        Self {
            url: Vec::new(),
            start_tls: None,
            allow_plain: false,
            ca: None,
            bind_dn: None,
            bind_password_file: None,
            user_dn: None,
            base: None,
            filter: None,
            user_attribute: options.user_attribute,
            group_attribute: None,
            group_filter: None,
            group_base: None,
            timeout: TimeSpan(options.time),
            connections: options.connections,
            cache: TimeSpan(options.cache),
        }
    }
}

impl LdapConfig {
    /// Whether there is a directory.
    pub(crate) fn is_set(&self) -> bool {
        !self.url.is_empty()
    }

    /// Whether its users have groups.
    pub(crate) fn has_groups(&self) -> bool {
        self.is_set() && (self.group_attribute.is_some() || self.group_filter.is_some())
    }

    /// Checks that the keys belong to a directory. What is wrong with their values, [`crate::Registry::new`] says.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        let unset = Self { url: self.url.clone(), ..Self::default() };
        match self.is_set() || format!("{self:?}") == format!("{unset:?}") {
            true => Ok(()),
            false => Err(Error::invalid(
                "the configuration keys of `auth.ldap` need a directory: set `auth.ldap.url` too",
            )),
        }
    }

    /// The directory; `None` without one.
    pub(crate) fn options(&self) -> Option<LdapOptions> {
        self.is_set().then(|| LdapOptions {
            urls: self.url.clone(),
            start_tls: self.start_tls,
            allow_plain: self.allow_plain,
            authorities: self.ca.clone(),
            bind_dn: self.bind_dn.clone(),
            bind_password_file: self.bind_password_file.clone(),
            user_dn: self.user_dn.clone(),
            base: self.base.clone(),
            filter: self.filter.clone(),
            user_attribute: self.user_attribute.clone(),
            group_attribute: self.group_attribute.clone(),
            group_filter: self.group_filter.clone(),
            group_base: self.group_base.clone(),
            time: self.timeout.0,
            connections: self.connections,
            cache: self.cache.0,
        })
    }

    /// What is valid, and probably less than is meant.
    pub(crate) fn warnings(&self, has_policy: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(options) = self.options() else { return warnings };
        if !options.can_look_up() {
            warnings.push(
                "`auth.ldap` has no `bind-dn`, so nobody can be asked whether a user is still there: users of the directory have no API tokens, and `docker login` keeps their passwords"
                    .to_owned(),
            );
        }
        if !has_policy {
            warnings.push(
                "there is no policy: everybody who has an entry in the directory that fits may do everything"
                    .to_owned(),
            );
        }
        if options.allow_plain && options.start_tls == Some(false) {
            warnings.push(
                "`auth.ldap.allow-plain` is set: everybody on the way to the directory reads the passwords"
                    .to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use std::time::Duration;

    #[test]
    fn a_directory_is_read() {
        let text = r#"
            [auth.ldap]
            url = ["ldaps://one.example.com", "ldap://two.example.com"]
            ca = "/etc/ca.crt"
            bind-dn = "cn=registry"
            bind-password-file = "/etc/password"
            base = "dc=example"
            filter = "(mail={user})"
            user-attribute = "mail"
            group-attribute = "memberOf"
            group-base = "ou=groups"
            timeout = "3s"
            cache = "0s"
        "#;
        let config = Config::parse(text).unwrap();
        assert!(config.has_users() && config.knows().claims && config.knows().users);
        let options = config.registry().ldap.unwrap();
        assert_eq!((options.urls.len(), options.time), (2, Duration::from_secs(3)));
        assert_eq!((options.connections, options.cache), (8, Duration::ZERO));
        assert_eq!(config.warnings().len(), 1, "{:?}", config.warnings());

        let one = Config::parse("[auth.ldap]\nurl = \"ldaps://a\"\nuser-dn = \"uid={user}\"").unwrap();
        assert!(one.has_users() && !one.knows().claims);
        assert!(one.warnings().iter().any(|warning| warning.contains("bind-dn")), "{:?}", one.warnings());
        assert!(Config::parse("").unwrap().registry().ldap.is_none());
        let e = Config::parse("[auth.ldap]\nbase = \"dc=a\"").unwrap_err();
        assert!(e.to_string().contains("auth.ldap.url"), "{e}");
        assert!(Config::parse("[auth.ldap]\nbind-password = \"x\"").is_err());
    }
}
