//! The settings of an issuer of tokens.

use hyper_sdk::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The longest name of an issuer.
const MAX_NAME: usize = 32;
/// The most values of a setting that is a list.
const MAX_VALUES: usize = 64;
/// The longest value.
const MAX_VALUE: usize = 1024;

/// An issuer of tokens that a registry accepts ([`crate::RegistryOptions::issuers`]): of a CI system, a cluster, or a company.
///
/// ```
/// use hyper_server::auth::IssuerOptions;
///
/// // Jobs of the organisation `acme`, on its main branches.
/// let github = IssuerOptions {
///     user: "{repository}".to_owned(),
///     require: [
///         ("repository_owner".to_owned(), vec!["acme".to_owned()]),
///         ("ref".to_owned(), vec!["refs/heads/main".to_owned(), "refs/tags/*".to_owned()]),
///     ]
///     .into(),
///     ..IssuerOptions::new("github", "https://token.actions.githubusercontent.com", "registry.example.com")
/// };
/// assert_eq!(github.algorithms, ["RS256", "ES256"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerOptions {
    /// What its users are called by: the user `x` of the issuer `ci` is `ci:x`. Lower case letters, digits and `-`.
    pub name: String,
    /// Its URL, as the claim `iss` has it.
    pub url: String,
    /// Where its public keys are.
    pub keys: IssuerKeys,
    /// A file of certificates to trust besides those of the system, PEM.
    pub authorities: Option<PathBuf>,
    /// The audiences that its tokens may be for, of which the claim `aud` must have one. At least one: a token for another service
    /// must not open the registry.
    pub audience: Vec<String>,
    /// The algorithms that it may sign with: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384` or `EdDSA`.
    pub algorithms: Vec<String>,
    /// The name of a user, with claims in braces: `{sub}`.
    pub user: String,
    /// The claim that has the groups of a user: a text, or a list of texts. A policy allows something to the group `x` of the issuer
    /// `ci` with `claim:ci:groups=x`.
    pub groups: Option<String>,
    /// The claims that a policy sees, besides `iss` and `sub`.
    pub claims: Vec<String>,
    /// What claims must be: one of these patterns, in which `*` stands for any characters. A claim that is a list must have one
    /// entry that is so.
    pub require: BTreeMap<String, Vec<String>>,
}

/// Where the public keys of an issuer are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IssuerKeys {
    /// Where its document `/.well-known/openid-configuration` says (OpenID Connect Discovery).
    #[default]
    Discovery,
    /// At a URL, as a JSON Web Key Set (RFC 7517).
    Url(String),
    /// In a file, as such a set. It is read again when its keys are a minute old.
    File(PathBuf),
}

impl IssuerOptions {
    /// An issuer whose keys are discovered, with the user names of its claim `sub`.
    pub fn new(name: impl Into<String>, url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            keys: IssuerKeys::Discovery,
            authorities: None,
            audience: vec![audience.into()],
            algorithms: ["RS256", "ES256"].map(str::to_owned).to_vec(),
            user: "{sub}".to_owned(),
            groups: None,
            claims: Vec::new(),
            require: BTreeMap::new(),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says which is wrong.
    pub(super) fn check(&self) -> Result<()> {
        let is_name = |text: &str| {
            let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_good)
        };
        let is_value =
            |text: &String| !text.is_empty() && text.len() <= MAX_VALUE && !text.contains(char::is_control);
        let is_list = |list: &[String]| list.len() <= MAX_VALUES && list.iter().all(is_value);
        let required = self
            .require
            .iter()
            .all(|(claim, patterns)| is_value(claim) && !patterns.is_empty() && is_list(patterns));
        let problem = if !is_name(&self.name) {
            format!("`name` needs 1 to {MAX_NAME} lower case letters, digits and `-`")
        } else if self.url.is_empty() || !is_value(&self.url) {
            "`url` must be the URL of the issuer, as the claim `iss` of its tokens has it".to_owned()
        } else if self.audience.is_empty() || !is_list(&self.audience) {
            "`audience` must have a text: tokens for other services would open the registry".to_owned()
        } else if self.algorithms.is_empty() {
            "`algorithms` must have one".to_owned()
        } else if !is_list(&self.claims) || self.groups.as_ref().is_some_and(|claim| !is_value(claim)) {
            format!("the names of claims must have 1 to {MAX_VALUE} characters, and be at most {MAX_VALUES}")
        } else if self.require.len() > MAX_VALUES || !required {
            format!("each claim in `require` needs 1 to {MAX_VALUES} patterns, which are not empty")
        } else {
            return Ok(());
        };
        Err(Error::invalid(problem))
    }
}
