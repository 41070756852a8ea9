//! Authentication and authorization: an [`Authenticator`] identifies the sender of a request, an [`Authorizer`] decides
//! what the sender may do.
//!
//! ```text
//! request ── Authenticator::authenticate ── Principal ── Authorizer::allows ── handler
//!                   │ refused                                  │ refused
//!                   └── Challenge (401)      Authenticator::challenge ── Challenge (401) or a denial (403)
//! ```
//!
//! The first authenticator is the registry's own: an htpasswd file and tokens ([`crate::RegistryOptions::htpasswd`]), a directory
//! ([`crate::RegistryOptions::ldap`]), and the tokens of other issuers ([`crate::RegistryOptions::issuers`]), at which people also log in with
//! a browser ([`crate::RegistryOptions::login`]). A program brings its own with [`crate::RegistryOptions::authenticator`].
//! The authorizers are [`AnonymousAccess`] and [`PolicyFile`].
//!
//! # Invariants
//! - A caller that the authenticator rejects gets no information about a repository, not even whether a request is
//!   malformed.
//! - Passwords and tokens are never logged, and no error contains them.
//! - An action needs both the scopes of the credentials ([`Principal::scopes`]) and the permission of the
//!   [`Authorizer`].

mod api_token;
mod api_tokens;
mod certificates;
mod challenge;
mod checking;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod htpasswd;
mod issuers;
mod jose;
mod ldap;
mod login;
mod password_hash;
mod passwords;
mod policy_file;
mod principal;
mod public_url;
mod request;
mod scope;
mod token;
mod token_keys;
mod token_owner;
mod unseen;
mod user_watch;

pub use api_token::api_token;
pub(crate) use api_token::is_login_entry;
pub(crate) use certificates::ClientCertificates;
pub use challenge::Challenge;
pub(crate) use htpasswd::has_user;
pub use htpasswd::{check as check_htpasswd, entry as htpasswd_entry};
pub use issuers::{IssuerKeys, IssuerOptions};
pub(crate) use issuers::{IssuerState, Issuers};
pub use ldap::LdapOptions;
pub(crate) use ldap::{Directory, each_outcome, outcomes};
pub use login::LoginOptions;
pub(crate) use login::{Callback, Failure, LoggedIn, Logins, Parts as LoginParts};
pub(crate) use passwords::{PasswordOptions, Passwords, Proof, TokenRequest};
pub use policy_file::PolicyFile;
pub use principal::Principal;
pub use request::{AuthRequest, Resource};
pub use scope::Scope;
pub(crate) use token::MAX_SCOPES;
pub(crate) use token_keys::mode_warning;
pub use token_keys::{TokenAlgorithm, TokenKeys, new_token_key};
pub use token_owner::directory_token;
pub(crate) use token_owner::{TokenOwner, is_owner_entry};
pub(crate) use unseen::is_unseen;
pub(crate) use user_watch::UserWatch;

use async_trait::async_trait;
use hyper_sdk::store::TagGuard;
use hyper_sdk::{Error, RepositoryName, Result, Tag};
use std::fmt::Debug;
use std::str::FromStr;

/// The action of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Probes the API.
    Probe,
    /// Reads the content of a repository, or lists the repository in the catalog.
    Pull,
    /// Adds content to a repository or moves its tags.
    Push,
    /// Deletes content or tags of a repository.
    Delete,
}

/// Identifies the sender of a request.
///
/// The registry calls it once for each request, except for `/livez`, `/readyz` and, unless they are for users only, the
/// metrics.
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
    /// Identifies the sender of a request. For a request without credentials, the result is [`Principal::anonymous`] if
    /// anonymous callers may do anything at all, else a challenge.
    ///
    /// The future may be dropped at any time, because the client may disconnect. It must clean up after itself.
    ///
    /// # Errors
    /// [`AuthError::Challenge`] when credentials are missing or wrong, [`AuthError::Failed`] when the credentials
    /// cannot be checked. The kind of the error decides the status of the response. The message is sent to the client
    /// only for errors that the client caused.
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError>;

    /// The challenge for a principal that lacks a permission, when other credentials may have it. `None`, the default,
    /// denies the request with the status 403.
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

/// Why a principal is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// The caller is anonymous and probes `/v2/`, which is allowed. Clients look for the way to log in there and
    /// nowhere else.
    Login,
    /// The [`Authorizer`] does not allow the action, or the resource is for users only.
    Forbidden,
    /// The [`Authorizer`] allows the action, but the scopes of the credentials do not include it.
    OutOfScope,
}

/// Why a sender could not be authenticated.
#[derive(Debug)]
pub enum AuthError {
    /// Credentials are missing or wrong: the response has the status 401.
    Challenge(Challenge),
    /// The credentials could not be checked, for example because a directory server does not respond.
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

/// The authenticator of a registry without users: every caller is anonymous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnonymousOnly;

#[async_trait]
impl Authenticator for AnonymousOnly {
    async fn authenticate(&self, _: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        Ok(Principal::anonymous())
    }
}

/// Decides which principal may perform which action in which repository.
///
/// It is called for every request, so it must not block. A mount needs [`Action::Push`] on the target and
/// [`Action::Pull`] on the source.
///
/// ```
/// use hyper_sdk::{RepositoryName, Tag};
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
///
///     fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
///         None
///     }
/// }
/// ```
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// Whether `who` may do `action` in `repository`; `None` stands for the registry as a whole.
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool;

    /// The rule for the tags that `who` changes in `repository`, beside [`Authorizer::allows`]. The store asks it in the
    /// transaction of the change, so that two clients cannot both create a tag. `None`, the default, allows all changes.
    ///
    /// An error of the kind [`hyper_sdk::ErrorKind::Denied`] is sent to a client that may pull with its message; others
    /// read only that the change is denied. A store whose capabilities lack `tag_guards` refuses the change.
    ///
    /// An authorizer that wraps another one must forward this method too: with the default, the rules of the other one
    /// have no effect on tags.
    fn tag_guard(&self, who: &Principal, repository: &RepositoryName) -> Option<TagGuard> {
        let _ = (who, repository);
        None
    }

    /// Why the registry itself must not delete a tag by the rules of retention ([`crate::Retention`]), such as that it is
    /// immutable; `None` leaves it to those rules. There is no default, because one that keeps nothing would delete: an
    /// authorizer that wraps another one forwards this method, and one whose [`Authorizer::tag_guard`] forbids a deletion to
    /// everybody keeps the tag.
    fn keeps_tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<String>;
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

/// The default authorizer: users may do everything, anonymous callers what [`AnonymousAccess`] allows.
impl Authorizer for AnonymousAccess {
    fn allows(&self, who: &Principal, _repository: Option<&RepositoryName>, action: Action) -> bool {
        match self {
            _ if !who.is_anonymous() => true,
            Self::Full => true,
            Self::Pull => matches!(action, Action::Probe | Action::Pull),
            Self::None => false,
        }
    }

    fn keeps_tag(&self, _repository: &RepositoryName, _tag: &Tag) -> Option<String> {
        None
    }
}

/// Decides whether a principal may perform an action: the authorizer and the scopes of the credentials must both allow
/// it.
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
    // Scopes do not limit actions that anonymous callers may perform.
    let is_open = || authorizer.allows(&Principal::anonymous(), repository, action);
    let in_scope = match resource {
        Resource::Registry => true,
        Resource::Metrics => principal.scopes().is_none(),
        // An API token lists the repositories of its patterns.
        Resource::Catalog => principal.may_list() || principal.has_patterns() || is_open(),
        Resource::Repository(name) => principal.is_in_scope(name, action) || is_open(),
    };
    if in_scope { Ok(()) } else { Err(Denial::OutOfScope) }
}

/// Whether the catalog shows a repository to a principal. The principal must have the right to pull it, and its scopes
/// must include the catalog or the pull, unless everybody may pull it.
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
