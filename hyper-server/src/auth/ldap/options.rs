//! The settings of a directory.

use hyper_sdk::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// The most servers of a directory.
const MAX_SERVERS: usize = 8;
/// The longest time for which a right password is remembered.
const MAX_CACHE: Duration = Duration::from_secs(60 * 60);
/// The longest time for an answer.
const MAX_TIME: Duration = Duration::from_secs(60);

/// A directory whose users may log in ([`crate::RegistryOptions::ldap`]).
///
/// ```
/// use hyper_server::auth::LdapOptions;
///
/// // The entry of a user is found by an account of the registry, which also says who has gone.
/// let directory = LdapOptions {
///     bind_dn: Some("cn=registry,ou=services,dc=example,dc=com".to_owned()),
///     bind_password_file: Some("/etc/hyperregistry/ldap-password".into()),
///     base: Some("ou=people,dc=example,dc=com".to_owned()),
///     filter: Some("(&(objectClass=inetOrgPerson)(uid={user}))".to_owned()),
///     group_attribute: Some("memberOf".to_owned()),
///     group_base: Some("ou=groups,dc=example,dc=com".to_owned()),
///     ..LdapOptions::new("ldaps://ldap.example.com")
/// };
/// assert_eq!(directory.user_attribute, "uid");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapOptions {
    /// Its servers, which have the same entries: `ldaps://HOST` or `ldap://HOST`, with a port if it is not 636 or 389. They are
    /// tried in this order.
    pub urls: Vec<String>,
    /// Whether `ldap://` begins with StartTLS; `None` does.
    pub start_tls: Option<bool>,
    /// Allows `ldap://` without StartTLS to other machines, where everybody on the way reads the passwords.
    pub allow_plain: bool,
    /// A file of certificates to trust besides those of the system, PEM.
    pub authorities: Option<PathBuf>,
    /// The account of the registry, which reads entries. Without it a search is anonymous.
    pub bind_dn: Option<String>,
    /// The file with its password, which is read at each use.
    pub bind_password_file: Option<PathBuf>,
    /// The name of the entry of a user, with `{user}` in it, instead of a search.
    pub user_dn: Option<String>,
    /// Where entries of users are searched, with all below it.
    pub base: Option<String>,
    /// What an entry must be. With `base` it has `{user}`, and without a filter it is `(ATTRIBUTE={user})` with the
    /// attribute of `user_attribute`.
    pub filter: Option<String>,
    /// The attribute that has the name of the user.
    pub user_attribute: String,
    /// The attribute of a user that has the distinguished names of groups, such as `memberOf`.
    pub group_attribute: Option<String>,
    /// What the entries of groups of a user are, directly below `group_base`, with `{dn}` or `{user}`: `(member={dn})`.
    pub group_filter: Option<String>,
    /// Where groups are. A group directly below it has the value of its first part as its name, and others do not count. Without
    /// it the name of a group is its distinguished name in lower case.
    pub group_base: Option<String>,
    /// The longest time for one login.
    pub time: Duration,
    /// The most connections at once.
    pub connections: usize,
    /// How long a right password, and that a user exists, are known without asking again.
    pub cache: Duration,
}

impl LdapOptions {
    /// A directory at this URL, with 8 connections, 5 seconds for a login, and a minute for which answers are known.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            start_tls: None,
            allow_plain: false,
            authorities: None,
            bind_dn: None,
            bind_password_file: None,
            user_dn: None,
            base: None,
            filter: None,
            user_attribute: "uid".to_owned(),
            group_attribute: None,
            group_filter: None,
            group_base: None,
            time: Duration::from_secs(5),
            connections: 8,
            cache: Duration::from_secs(60),
        }
    }

    /// Whether the directory can be asked about a user without the user's password.
    pub(crate) fn can_look_up(&self) -> bool {
        self.bind_dn.is_some() || self.base.is_some()
    }

    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the setting.
    pub(super) fn check(&self) -> Result<()> {
        let is_attribute = |name: &str| {
            (1..=128).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.;".contains(&b))
        };
        let attributes = [Some(&self.user_attribute), self.group_attribute.as_ref()];
        let has_search = self.group_filter.is_some();
        let problem = if self.urls.is_empty() || self.urls.len() > MAX_SERVERS {
            format!("`url` needs 1 to {MAX_SERVERS} URLs")
        } else if self.bind_dn.is_some() != self.bind_password_file.is_some() {
            "`bind-dn` and `bind-password-file` belong together".to_owned()
        } else if self.bind_dn.as_ref().is_some_and(|dn| dn.trim().is_empty()) {
            "`bind-dn` must not be empty: leave it out for anonymous searches".to_owned()
        } else if self.user_dn.is_some() == self.base.is_some() {
            "either `user-dn`, the name of the entry of a user, or `base`, where it is searched, is needed"
                .to_owned()
        } else if !attributes.into_iter().flatten().all(|name| is_attribute(name)) {
            "`user-attribute` and `group-attribute` must be names of attributes".to_owned()
        } else if has_search && self.group_attribute.is_some() {
            "`group-attribute` and `group-filter` exclude each other".to_owned()
        } else if has_search && self.group_base.is_none() {
            "`group-filter` needs `group-base`, where groups are searched".to_owned()
        } else if self.group_base.is_some() && !has_search && self.group_attribute.is_none() {
            "`group-base` needs `group-attribute` or `group-filter`".to_owned()
        } else if self.time.is_zero() || self.time > MAX_TIME {
            format!("`timeout` must be above 0 and at most {} s", MAX_TIME.as_secs())
        } else if !(1..=256).contains(&self.connections) {
            "`connections` must be 1 to 256".to_owned()
        } else if self.cache > MAX_CACHE {
            format!("`cache` must be at most {} s", MAX_CACHE.as_secs())
        } else {
            return Ok(());
        };
        Err(Error::invalid(problem))
    }
}
