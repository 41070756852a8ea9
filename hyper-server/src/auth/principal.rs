//! The sender of a request: an anonymous caller, or a user with a name, groups and claims.

use super::{Action, Scope};
use hyper_sdk::RepositoryName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// The sender of a request, as an [`Authenticator`](super::Authenticator) identified it. Clones share their data.
///
/// A principal has a name, unless it is anonymous, and may have groups and claims. Claims are what the credentials
/// contain in addition to the name, such as the claims of a JSON Web Token or the attributes of a directory entry; an
/// [`Authorizer`](super::Authorizer) reads them.
///
/// ```
/// use hyper_server::auth::Principal;
///
/// let principal = Principal::user("alice").with_groups(["developers"]).with_claim("team", "web");
/// assert!(principal.is_in("developers"));
/// assert_eq!(principal.claim("team").and_then(|team| team.as_str()), Some("web"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Principal(Arc<Parts>);

#[derive(Clone, Default, PartialEq, Eq)]
struct Parts {
    name: Option<String>,
    groups: BTreeSet<String>,
    claims: BTreeMap<String, Value>,
    scopes: Option<Vec<Scope>>,
}

impl Principal {
    /// A caller without credentials.
    pub fn anonymous() -> Self {
        static NOBODY: LazyLock<Arc<Parts>> = LazyLock::new(Arc::default);
        Self(NOBODY.clone())
    }

    /// A user with this name.
    pub fn user(name: impl Into<String>) -> Self {
        Self(Arc::new(Parts { name: Some(name.into()), ..Parts::default() }))
    }

    /// Adds groups.
    #[must_use]
    pub fn with_groups<G: Into<String>>(mut self, groups: impl IntoIterator<Item = G>) -> Self {
        Arc::make_mut(&mut self.0).groups.extend(groups.into_iter().map(Into::into));
        self
    }

    /// Adds a claim, in place of one with the same name.
    #[must_use]
    pub fn with_claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        Arc::make_mut(&mut self.0).claims.insert(name.into(), value.into());
        self
    }

    /// Limits the principal to the scopes of its credentials, such as those of a token.
    ///
    /// The registry then allows an action in a repository only if a scope includes it, or anonymous callers may perform
    /// it, and the [`Authorizer`](super::Authorizer) allows it.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        Arc::make_mut(&mut self.0).scopes = Some(scopes.into_iter().collect());
        self
    }

    /// Whether the sender is anonymous.
    pub fn is_anonymous(&self) -> bool {
        self.0.name.is_none()
    }

    /// The name; `None` for an anonymous principal.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// The groups in byte order. Those of a user of another issuer, who has the claim `iss`, are what that issuer says: a group of
    /// the same name elsewhere is another one.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.0.groups.iter().map(String::as_str)
    }

    pub(super) fn group_set(&self) -> &BTreeSet<String> {
        &self.0.groups
    }

    /// Whether the principal is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.0.groups.contains(group)
    }

    /// The value of a claim.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.0.claims.get(name)
    }

    /// The claims.
    pub fn claims(&self) -> &BTreeMap<String, Value> {
        &self.0.claims
    }

    /// The scopes of the credentials; `None` when the credentials have no scopes.
    pub fn scopes(&self) -> Option<&[Scope]> {
        self.0.scopes.as_deref()
    }

    /// Whether the scopes include an action in a repository.
    pub(crate) fn is_in_scope(&self, repository: &RepositoryName, action: Action) -> bool {
        self.scopes().is_none_or(|scopes| scopes.iter().any(|scope| scope.has(repository, action)))
    }

    /// Whether the credentials are an API token.
    pub(crate) fn has_patterns(&self) -> bool {
        self.scopes().is_some_and(|scopes| scopes.iter().any(Scope::is_pattern))
    }

    /// Whether the scopes include the catalog.
    pub(crate) fn may_list(&self) -> bool {
        self.scopes().is_none_or(|scopes| scopes.iter().any(Scope::is_catalog))
    }
}

/// The values of claims may be private, so only their names are shown.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("name", &self.0.name)
            .field("groups", &self.0.groups)
            .field("claims", &self.0.claims.keys())
            .field("scopes", &self.0.scopes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_a_name_groups_and_claims() {
        let principal = Principal::user("alice")
            .with_groups(["b", "a"])
            .with_claim("level", 3)
            .with_claim("level", 4)
            .with_groups(["a"]);
        assert_eq!(principal.name(), Some("alice"));
        assert_eq!(principal.groups().collect::<Vec<_>>(), ["a", "b"]);
        assert!(principal.is_in("a") && !principal.is_in("c"));
        assert_eq!(principal.claim("level"), Some(&Value::from(4)));
        assert!(!principal.is_anonymous() && principal.scopes().is_none());
        assert!(Principal::anonymous().is_anonymous() && Principal::anonymous().name().is_none());
    }

    #[test]
    fn debug_output_hides_the_values_of_claims() {
        let shown = format!("{:?}", Principal::user("alice").with_claim("email", "alice@example.com"));
        assert!(shown.contains("email") && !shown.contains("example.com"), "{shown}");
    }

    #[test]
    fn scopes_limit_a_principal() {
        let name = |text| RepositoryName::parse(text).unwrap();
        let scope: Scope = "repository:a/b:pull".parse().unwrap();
        let limited = Principal::user("alice").with_scopes([scope]);
        assert!(!limited.may_list() && Principal::user("alice").may_list());
        assert!(Principal::user("alice").with_scopes([Scope::catalog()]).may_list());
        assert!(limited.is_in_scope(&name("a/b"), Action::Pull));
        assert!(!limited.is_in_scope(&name("a/b"), Action::Push));
        assert!(!limited.is_in_scope(&name("a"), Action::Pull));
        assert!(!Principal::user("alice").with_scopes([]).is_in_scope(&name("a/b"), Action::Pull));
        assert!(Principal::user("alice").is_in_scope(&name("a/b"), Action::Push));
    }
}
