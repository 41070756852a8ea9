//! The settings of logins in a browser.

use super::super::issuers::IssuerOptions;
use hyper_sdk::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// The longest time for which a login lasts.
const MAX_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The most scopes of a request to the issuer.
const MAX_SCOPES: usize = 32;

/// An issuer at which people log in with a browser ([`crate::RegistryOptions::login`]). They then have an API token for their other
/// clients.
///
/// ```
/// use hyper_server::auth::LoginOptions;
///
/// let mut login = LoginOptions::new("company", "https://login.example.com", "registry");
/// login.client_secret_file = Some("/etc/hyperregistry/client-secret".into());
/// login.issuer.groups = Some("groups".to_owned());
/// login.issuer.require = [("email_verified".to_owned(), vec!["true".to_owned()])].into();
/// assert_eq!(login.scopes, ["openid"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginOptions {
    /// The issuer, and what its tokens say of a user. Its tokens must be for the client of the registry: the audience is the id of
    /// the client, whatever is set here.
    pub issuer: IssuerOptions,
    /// The id that the issuer has given the registry.
    pub client_id: String,
    /// The file with the secret of the client, read at each use; `None` for a client that has none.
    pub client_secret_file: Option<PathBuf>,
    /// The scopes that the issuer is asked for; `openid` is always among them.
    pub scopes: Vec<String>,
    /// How long a login lasts.
    pub lifetime: Duration,
}

impl LoginOptions {
    /// Logins of twelve hours at an issuer, whose users are called by their claim `sub`.
    pub fn new(name: impl Into<String>, url: impl Into<String>, client_id: impl Into<String>) -> Self {
        let client_id = client_id.into();
        Self {
            issuer: IssuerOptions::new(name, url, client_id.clone()),
            client_id,
            client_secret_file: None,
            scopes: vec!["openid".to_owned()],
            lifetime: Duration::from_secs(12 * 60 * 60),
        }
    }

    /// The issuer, whose tokens must be for the client.
    pub(crate) fn issuer(&self) -> IssuerOptions {
        IssuerOptions { audience: vec![self.client_id.clone()], ..self.issuer.clone() }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says which is wrong.
    pub(crate) fn check(&self) -> Result<()> {
        // RFC 6749, appendix A.4.
        let is_scope = |text: &String| {
            (1..=128).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        let problem = if self.client_id.is_empty()
            || self.client_id.len() > 512
            || self.client_id.contains(char::is_control)
        {
            "`client-id` must be the id that the issuer has given the registry".to_owned()
        } else if self.scopes.len() > MAX_SCOPES || !self.scopes.iter().all(is_scope) {
            format!("`scopes` may be at most {MAX_SCOPES} words")
        } else if self.lifetime < Duration::from_secs(60) || self.lifetime > MAX_LIFETIME {
            format!("`lifetime` must be one minute to {} hours", MAX_LIFETIME.as_secs() / 3600)
        } else {
            return Ok(());
        };
        Err(Error::invalid(problem))
    }
}
