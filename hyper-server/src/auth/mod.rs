//! Who a caller is, and what a caller may do.
//!
//! Authentication reads the `Authorization` header ([`Authenticator`]); authorisation is one function over who, where
//! and what ([`Authorizer`]). A caller is challenged only when the right that it lacks could come with credentials.

mod htpasswd;

pub use htpasswd::{check as check_htpasswd, entry as htpasswd_entry};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use hyper_sdk::{RepositoryName, Result};
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::ApiError;
use htpasswd::Htpasswd;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Somebody without credentials.
    Anonymous,
    /// A user whose password was right.
    User(Arc<str>),
}

impl Principal {
    /// The name for logs: `-` for nobody.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "-",
            Self::User(name) => name,
        }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Probes the API.
    Probe,
    /// Reads the content of a repository, or its place in the catalog.
    Pull,
    /// Adds content to a repository or moves its tags.
    Push,
    /// Deletes content or tags of a repository.
    Delete,
}

/// Decides who may do what, where.
///
/// Called for every request, so it must not block. A mount is asked about twice: [`Action::Push`] on the target and
/// [`Action::Pull`] on the source.
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// Whether `who` may do `action` in `repository`; `None` stands for the registry as a whole.
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool;
}

/// What callers without credentials may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnonymousAccess {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Everything.
    #[default]
    Full,
}

impl FromStr for AnonymousAccess {
    type Err = hyper_sdk::Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "none" => Ok(Self::None),
            "pull" => Ok(Self::Pull),
            "full" => Ok(Self::Full),
            _ => Err(hyper_sdk::Error::invalid(format!(
                "`{}` is no anonymous access: use none, pull or full",
                s.escape_debug()
            ))),
        }
    }
}

/// The authoriser of a registry without policies: users may do everything, others what [`AnonymousAccess`] says.
impl Authorizer for AnonymousAccess {
    fn allows(&self, who: &Principal, _repository: Option<&RepositoryName>, action: Action) -> bool {
        match (who, self) {
            (Principal::User(_), _) | (Principal::Anonymous, Self::Full) => true,
            (Principal::Anonymous, Self::Pull) => matches!(action, Action::Probe | Action::Pull),
            (Principal::Anonymous, Self::None) => false,
        }
    }
}

/// Finds out who sent a request.
#[derive(Debug)]
pub(crate) struct Authenticator {
    users: Option<Htpasswd>,
    challenge: HeaderValue,
}

impl Authenticator {
    /// Knows the users of the file, or nobody.
    pub(crate) fn new(htpasswd: Option<&Path>, realm: &str) -> Result<Self> {
        let quoted: String = realm
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .filter(|c| !"\"\\".contains(*c))
            .collect();
        let challenge = HeaderValue::from_str(&format!("Basic realm=\"{quoted}\", charset=\"UTF-8\""))
            .map_err(|e| hyper_sdk::Error::invalid("the realm cannot stand in a header").with_source(e))?;
        Ok(Self { users: htpasswd.map(Htpasswd::open).transpose()?, challenge })
    }

    /// Who the headers speak of. Credentials with an empty user name are what some clients send when they have none.
    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        let (Some(users), Some(value)) = (&self.users, headers.get(header::AUTHORIZATION)) else {
            return Ok(Principal::Anonymous);
        };
        let Some((user, password)) = basic(value) else {
            return Err(self.unauthorized("the authorization header is not of the Basic scheme"));
        };
        if user.is_empty() && password.is_empty() {
            return Ok(Principal::Anonymous);
        }
        if users.verify(&user, &password).await? {
            Ok(Principal::User(user.into()))
        } else {
            Err(self.unauthorized("the user name or the password is wrong"))
        }
    }

    /// The refusal of an action: a challenge when credentials could help, else a plain denial.
    pub(crate) fn refuse(&self, who: &Principal) -> ApiError {
        match who {
            Principal::Anonymous if self.users.is_some() => {
                self.unauthorized("authentication is required: log in first")
            }
            _ => ApiError::new(StatusCode::FORBIDDEN, "DENIED", "the access is denied"),
        }
    }

    /// The `WWW-Authenticate` value, when there are users at all.
    pub(crate) fn challenge(&self) -> Option<&HeaderValue> {
        self.users.as_ref().map(|_| &self.challenge)
    }

    fn unauthorized(&self, why: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why)
            .with_header(header::WWW_AUTHENTICATE, self.challenge.clone())
    }
}

/// User and password of a Basic `Authorization` value (RFC 7617).
fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_read_strictly() {
        let read = |s: &str| basic(&HeaderValue::from_str(s).unwrap());
        assert_eq!(read("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        assert_eq!(read("bAsIc YTo="), Some(("a".into(), String::new())));
        for bad in ["Bearer x", "Basic", "Basic !!", "Basic YQ==", "Basic /w=="] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_matrix_of_anonymous_access() {
        let user = Principal::User("u".into());
        for (access, pull, push) in [
            (AnonymousAccess::None, false, false),
            (AnonymousAccess::Pull, true, false),
            (AnonymousAccess::Full, true, true),
        ] {
            assert_eq!(access.allows(&Principal::Anonymous, None, Action::Pull), pull);
            assert_eq!(access.allows(&Principal::Anonymous, None, Action::Push), push);
            assert_eq!(access.allows(&Principal::Anonymous, None, Action::Delete), push);
            assert!(access.allows(&user, None, Action::Delete));
        }
    }
}
