//! Who a caller is, and what a caller may do.
//!
//! Authentication reads the `Authorization` header ([`Authenticator`]), which holds a password or a token that the
//! server issued; authorisation is one function over who, where and what ([`Authorizer`]). A caller is challenged only when the right that it lacks could come with credentials.

mod htpasswd;
mod site;
mod token;

pub use htpasswd::{check as check_htpasswd, entry as htpasswd_entry};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};
use hyper_sdk::clock::{Clock, SystemClock};
use hyper_sdk::{RepositoryName, Result};
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::ApiError;
use htpasswd::Htpasswd;
pub(crate) use token::{Access, Issued, MAX_SCOPES};
use token::{Claims, Issuer};

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

/// Who sent a request, and by what it is known.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) who: Principal,
    /// What the token says, when it is known by one.
    token: Option<Claims>,
}

impl Caller {
    pub(crate) const NOBODY: Self = Self { who: Principal::Anonymous, token: None };

    /// Whether the request said nothing at all of its sender.
    fn is_bare(&self) -> bool {
        self.who == Principal::Anonymous && self.token.is_none()
    }
}

/// What a refusal is about: where clients reach the server, and what they need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) uri: &'a Uri,
    pub(crate) repository: Option<&'a RepositoryName>,
    pub(crate) action: Action,
}

/// Finds out who sent a request, and says what is missing.
///
/// Where nobody may do anything without credentials, clients are asked for them with the Basic scheme, which all know.
/// Where something is open to all, they are asked with the Bearer scheme: it is the one by which docker learns that it
/// can have more with a password. Basic credentials and tokens are good in both cases.
#[derive(Debug)]
pub(crate) struct Authenticator {
    users: Option<Htpasswd>,
    basic: HeaderValue,
    issuer: Issuer,
    service: String,
    public_url: Option<String>,
    /// Whether the registry is open to callers without credentials, as far as they may go.
    open: bool,
}

/// The settings of an [`Authenticator`].
#[derive(Debug)]
pub(crate) struct AuthenticatorOptions<'a> {
    pub(crate) htpasswd: Option<&'a Path>,
    pub(crate) realm: &'a str,
    pub(crate) token_key: Option<&'a Path>,
    pub(crate) public_url: Option<&'a str>,
    pub(crate) open: bool,
}

impl Authenticator {
    /// Knows the users of the file, or nobody.
    pub(crate) fn new(options: &AuthenticatorOptions<'_>) -> Result<Self> {
        let service: String = options
            .realm
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .filter(|c| !"\"\\".contains(*c))
            .collect();
        let basic = HeaderValue::from_str(&format!("Basic realm=\"{service}\", charset=\"UTF-8\""))
            .map_err(|e| hyper_sdk::Error::invalid("the realm cannot stand in a header").with_source(e))?;
        let users = options.htpasswd.map(Htpasswd::open).transpose()?;
        // Without users there are no tokens, and no file for their key.
        let key = options.token_key.filter(|_| users.is_some());
        Ok(Self {
            users,
            basic,
            issuer: Issuer::new(&service, key)?,
            service,
            public_url: options.public_url.map(str::to_owned),
            open: options.open,
        })
    }

    /// Who the headers speak of. Credentials with an empty user name are what some clients send when they have none.
    pub(crate) async fn caller(&self, asked: &Asked<'_>) -> Result<Caller, ApiError> {
        let (Some(users), Some(value)) = (&self.users, asked.headers.get(header::AUTHORIZATION)) else {
            return Ok(Caller::NOBODY);
        };
        if let Some(token) = bearer(value) {
            let claims = self.issuer.verify(token, SystemClock.now());
            // Who is not in the file any more is not let in by what was issued before.
            let claims = claims.filter(|claims| claims.sub.is_empty() || users.knows(&claims.sub));
            let claims = claims.ok_or_else(|| {
                self.unauthorized(
                    "the token is not valid, or not any more",
                    self.bearer(asked, Some("invalid_token")),
                )
            })?;
            let who = match claims.sub.as_str() {
                "" => Principal::Anonymous,
                user => Principal::User(user.into()),
            };
            return Ok(Caller { who, token: Some(claims) });
        }
        let Some((user, password)) = basic(value) else {
            let why = "the authorization header is neither of the Basic nor of the Bearer scheme";
            return Err(self.unauthorized(why, self.challenge(asked)));
        };
        let who = self.login(&user, &password).await?;
        let who = who.ok_or_else(|| self.unauthorized(WRONG, self.challenge(asked)))?;
        Ok(Caller { who, token: None })
    }

    /// The user of a name and a password, nobody for two empty ones, and `None` when they are wrong.
    async fn login(&self, user: &str, password: &str) -> Result<Option<Principal>, ApiError> {
        if user.is_empty() && password.is_empty() {
            return Ok(Some(Principal::Anonymous));
        }
        let Some(users) = &self.users else { return Ok(None) };
        Ok(users.verify(user, password).await?.then(|| Principal::User(user.into())))
    }

    /// Whether the probe of the protocol is to be refused all the same: some clients look there, and nowhere else, for
    /// the way to log in.
    pub(crate) fn wants_login(&self, caller: &Caller) -> bool {
        self.users.is_some() && self.open && caller.is_bare()
    }

    /// The refusal of an action: a challenge when credentials could help, else a plain denial.
    pub(crate) fn refuse(&self, caller: &Caller, asked: &Asked<'_>, by_token_alone: bool) -> ApiError {
        let denied = ApiError::new(StatusCode::FORBIDDEN, "DENIED", "the access is denied");
        if self.users.is_none() {
            return denied;
        }
        match (&caller.token, &caller.who) {
            (Some(_), who) if by_token_alone || *who == Principal::Anonymous => {
                let challenge = self.bearer(asked, Some("insufficient_scope"));
                self.unauthorized("the token does not grant this", challenge)
            }
            (_, Principal::Anonymous) => {
                self.unauthorized("authentication is required: log in first", self.challenge(asked))
            }
            _ => denied,
        }
    }

    /// Issues a token to whoever sent the request, for those scopes of the wanted ones that `allows` lets through.
    /// `form` holds the user and the password of a POST.
    pub(crate) async fn token(
        &self,
        headers: &HeaderMap,
        form: Option<(&str, &str)>,
        scopes: &[String],
        allows: impl Fn(&Principal, &RepositoryName, Action) -> bool,
    ) -> Result<(Issued, Vec<Access>), ApiError> {
        if self.users.is_none() {
            return Err(ApiError::not_found());
        }
        let wrong = || self.unauthorized(WRONG, self.basic.clone());
        let who = match (form, headers.get(header::AUTHORIZATION)) {
            (Some((user, password)), _) => self.login(user, password).await?.ok_or_else(wrong)?,
            (None, Some(value)) => {
                let (user, password) = basic(value).ok_or_else(wrong)?;
                self.login(&user, &password).await?.ok_or_else(wrong)?
            }
            (None, None) => Principal::Anonymous,
        };
        if who == Principal::Anonymous && !self.open {
            return Err(self.unauthorized("authentication is required: log in first", self.basic.clone()));
        }
        let mut granted = Vec::new();
        for (repository, mut actions) in scopes.iter().filter_map(|scope| Access::parse(scope)) {
            actions.retain(|action| allows(&who, &repository, *action));
            granted.push(Access::new(&repository, &actions));
        }
        let user = match &who {
            Principal::Anonymous => "",
            Principal::User(user) => user,
        };
        let issued = self.issuer.issue(user, granted.clone(), SystemClock.now())?;
        Ok((issued, granted))
    }

    fn challenge(&self, asked: &Asked<'_>) -> HeaderValue {
        if self.open { self.bearer(asked, None) } else { self.basic.clone() }
    }

    fn bearer(&self, asked: &Asked<'_>, error: Option<&str>) -> HeaderValue {
        let root = site::root(self.public_url.as_deref(), asked.headers, asked.uri);
        let mut text = format!("Bearer realm=\"{root}/v2/token\",service=\"{}\"", self.service);
        if let Some(repository) = asked.repository {
            // Who pushes reads as well.
            let actions: &[Action] = match asked.action {
                Action::Push => &[Action::Pull, Action::Push],
                Action::Delete => &[Action::Pull, Action::Delete],
                _ => &[Action::Pull],
            };
            text.push_str(&format!(",scope=\"{}\"", Access::new(repository, actions).to_scope()));
        }
        if let Some(error) = error {
            text.push_str(&format!(",error=\"{error}\""));
        }
        HeaderValue::from_str(&text).unwrap_or_else(|_| self.basic.clone())
    }

    fn unauthorized(&self, why: &str, challenge: HeaderValue) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why)
            .with_header(header::WWW_AUTHENTICATE, challenge)
    }
}

const WRONG: &str = "the user name or the password is wrong";

/// Whether a caller may do something, and if not, whether it is only its token that lacks it.
pub(crate) fn weigh(
    authorizer: &dyn Authorizer,
    caller: &Caller,
    repository: Option<&RepositoryName>,
    action: Action,
) -> Verdict {
    if !authorizer.allows(&caller.who, repository, action) {
        return Verdict::Denied;
    }
    let (Some(claims), Some(name)) = (&caller.token, repository) else { return Verdict::Allowed };
    // A token takes nothing away that is open to all.
    if claims.grants(name, action) || authorizer.allows(&Principal::Anonymous, repository, action) {
        return Verdict::Allowed;
    }
    Verdict::NotGranted
}

/// What [`weigh`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Allowed,
    /// It may, but its token was not issued for that.
    NotGranted,
    /// It may not.
    Denied,
}

/// The token of a Bearer `Authorization` value (RFC 6750).
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
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
