//! Who sends requests and what they may do: an [`Authenticator`] finds out the first, an [`Authorizer`] decides the
//! second.
//!
//! ```text
//! request ── Authenticator::authenticate ── Principal ── Authorizer::allows ── handler
//!                   │ refused                                  │ refused
//!                   └── Challenge (401)      Authenticator::challenge ── Challenge (401) or a denial (403)
//! ```
//!
//! The first authenticator is the registry's own: an htpasswd file and tokens ([`crate::RegistryOptions::htpasswd`]). A
//! program brings its own with [`crate::RegistryOptions::authenticator`]: OpenID Connect, client certificates, a directory.
//!
//! # Invariants
//! - A caller that the authenticator does not accept learns nothing of a repository, not even whether a request is
//!   malformed.
//! - A password and a token are never logged and never stand in an error.
//! - The limits of credentials ([`Principal::scopes`]) and the decision of the [`Authorizer`] both hold: neither widens the
//!   other.

mod challenge;
mod htpasswd;
mod passwords;
mod principal;
mod request;
mod scope;
mod site;
mod token;

pub use challenge::Challenge;
pub use htpasswd::{check as check_htpasswd, entry as htpasswd_entry};
pub(crate) use passwords::{PasswordOptions, Passwords};
pub use principal::Principal;
pub use request::{AuthRequest, Resource};
pub use scope::Scope;
pub(crate) use token::MAX_SCOPES;

use async_trait::async_trait;
use hyper_sdk::{Error, RepositoryName, Result};
use std::fmt::Debug;
use std::str::FromStr;

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

/// Finds out who sent a request.
///
/// The registry asks once for each request, but for `/livez`, `/readyz` and, unless they are for users only, the metrics.
///
/// ```
/// use async_trait::async_trait;
/// use hyper_server::auth::{AuthError, AuthRequest, Authenticator, Challenge, Principal};
///
/// /// Knows one token.
/// #[derive(Debug)]
/// struct OneToken(String);
///
/// #[async_trait]
/// impl Authenticator for OneToken {
///     async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
///         match request.bearer() {
///             Some(token) if token == self.0 => Ok(Principal::user("robot")),
///             _ => Err(Challenge::new("Bearer").with("realm", "robots").into()),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Authenticator: Debug + Send + Sync + 'static {
    /// Who sent a request. Without credentials, that is [`Principal::anonymous`] where something is open to anonymous
    /// callers, else a challenge.
    ///
    /// Dropping the future must leave nothing behind: the client may have gone away.
    ///
    /// # Errors
    /// [`AuthError::Challenge`] when credentials are missing or wrong, [`AuthError::Failed`] when it cannot be found out:
    /// the kind of the error decides on the status, and the client learns nothing else of it unless it sent something
    /// wrong.
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError>;

    /// What a principal is asked for that may not do what it wants, when other credentials could help. Without a
    /// challenge, which is the default, the answer is a denial.
    fn challenge(
        &self,
        request: &AuthRequest<'_>,
        principal: &Principal,
        denial: Denial,
    ) -> Option<Challenge> {
        let _ = (request, principal, denial);
        None
    }
}

/// Why a principal is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// Nothing is forbidden, but the caller is anonymous and probes `/v2/`, where clients look for the way to log in, and
    /// nowhere else.
    Login,
    /// The [`Authorizer`] does not allow the action, or the resource is for users only.
    Forbidden,
    /// The [`Authorizer`] allows the action, but the scopes of the credentials do not have it.
    OutOfScope,
}

/// Why a sender could not be found out.
#[derive(Debug)]
pub enum AuthError {
    /// Credentials are missing or wrong: the response has the status 401.
    Challenge(Challenge),
    /// The credentials could not be checked, such as when a directory does not answer.
    Failed(Error),
}

impl From<Challenge> for AuthError {
    fn from(challenge: Challenge) -> Self {
        Self::Challenge(challenge)
    }
}

impl From<Error> for AuthError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The authenticator of a registry without users: everybody is anonymous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nobody;

#[async_trait]
impl Authenticator for Nobody {
    async fn authenticate(&self, _: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        Ok(Principal::anonymous())
    }
}

/// Decides who may do what, where.
///
/// Called for every request, so it must not block. A mount is asked about twice: [`Action::Push`] on the target and
/// [`Action::Pull`] on the source.
///
/// ```
/// use hyper_sdk::RepositoryName;
/// use hyper_server::auth::{Action, Authorizer, Principal};
///
/// /// Everybody reads, and a group writes.
/// #[derive(Debug)]
/// struct WritersOnly;
///
/// impl Authorizer for WritersOnly {
///     fn allows(&self, who: &Principal, _: Option<&RepositoryName>, action: Action) -> bool {
///         matches!(action, Action::Probe | Action::Pull) || who.is_in("writers")
///     }
/// }
/// ```
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
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "none" => Ok(Self::None),
            "pull" => Ok(Self::Pull),
            "full" => Ok(Self::Full),
            _ => Err(Error::invalid(format!(
                "invalid anonymous access `{}`: use none, pull or full",
                s.escape_debug()
            ))),
        }
    }
}

/// The authorizer of a registry without rules of its own: users may do everything, others what [`AnonymousAccess`] says.
impl Authorizer for AnonymousAccess {
    fn allows(&self, who: &Principal, _repository: Option<&RepositoryName>, action: Action) -> bool {
        match self {
            _ if !who.is_anonymous() => true,
            Self::Full => true,
            Self::Pull => matches!(action, Action::Probe | Action::Pull),
            Self::None => false,
        }
    }
}

/// Decides on an action of a principal, by the authorizer and by the scopes of its credentials.
pub(crate) fn decide(
    authorizer: &dyn Authorizer,
    principal: &Principal,
    resource: Resource<'_>,
    action: Action,
) -> Result<(), Denial> {
    let repository = resource.repository();
    let allowed = authorizer.allows(principal, repository, action);
    if !allowed || (resource == Resource::Metrics && principal.is_anonymous()) {
        return Err(Denial::Forbidden);
    }
    // Scopes take nothing away that everybody may do.
    let is_open = || authorizer.allows(&Principal::anonymous(), repository, action);
    let in_scope = match resource {
        Resource::Registry => true,
        Resource::Metrics => principal.scopes().is_none(),
        Resource::Catalog => principal.may_list() || is_open(),
        Resource::Repository(name) => principal.is_in_scope(name, action) || is_open(),
    };
    if in_scope { Ok(()) } else { Err(Denial::OutOfScope) }
}

/// Whether a principal finds a repository in the list of them: it may pull it, and its credentials are for the list, or
/// for pulling this one, or everybody may pull it.
pub(crate) fn lists(authorizer: &dyn Authorizer, principal: &Principal, repository: &RepositoryName) -> bool {
    match principal.may_list() {
        true => authorizer.allows(principal, Some(repository), Action::Pull),
        false => decide(authorizer, principal, Resource::Repository(repository), Action::Pull).is_ok(),
    }
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(std::io::Error::from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_access_limits_anonymous_principals_alone() {
        let user = Principal::user("u");
        for (access, pull, push) in [
            (AnonymousAccess::None, false, false),
            (AnonymousAccess::Pull, true, false),
            (AnonymousAccess::Full, true, true),
        ] {
            let nobody = Principal::anonymous();
            assert_eq!(access.allows(&nobody, None, Action::Pull), pull);
            assert_eq!(access.allows(&nobody, None, Action::Push), push);
            assert_eq!(access.allows(&nobody, None, Action::Delete), push);
            assert!(access.allows(&user, None, Action::Delete));
        }
    }

    #[test]
    fn scopes_and_the_authorizer_must_both_allow_an_action() {
        let name = RepositoryName::parse("a").unwrap();
        let scope: Scope = "repository:a:push".parse().unwrap();
        let limited = Principal::user("u").with_scopes([scope]);
        let decide = |access: AnonymousAccess, who: &Principal, action| {
            decide(&access, who, Resource::Repository(&name), action)
        };
        assert_eq!(decide(AnonymousAccess::None, &limited, Action::Push), Ok(()));
        assert_eq!(decide(AnonymousAccess::None, &limited, Action::Pull), Err(Denial::OutOfScope));
        assert_eq!(decide(AnonymousAccess::Pull, &limited, Action::Pull), Ok(()), "everybody may pull");
        let nobody = Principal::anonymous().with_scopes(limited.scopes().unwrap().to_vec());
        assert_eq!(decide(AnonymousAccess::None, &nobody, Action::Push), Err(Denial::Forbidden));
    }
}
