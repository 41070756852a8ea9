//! Scopes of tokens: actions in one repository, or the right to list the repositories, in the text form of clients and
//! token servers.

use super::Action;
use hyper_sdk::{Error, RepositoryName, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Actions in one repository, or the list of repositories. As text: `repository:team/app:pull,push` or
/// `registry:catalog:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// None for the list of repositories.
    repository: Option<RepositoryName>,
    actions: Vec<Action>,
}

impl Scope {
    /// A scope of actions in a repository. [`Action::Probe`] does not belong to a repository and is left out.
    pub fn new(repository: RepositoryName, actions: impl IntoIterator<Item = Action>) -> Self {
        let actions = actions.into_iter().filter(|action| word(*action).is_some()).collect();
        Self { repository: Some(repository), actions }
    }

    /// The scope of the list of repositories (`/v2/_catalog`).
    pub fn catalog() -> Self {
        Self { repository: None, actions: Vec::new() }
    }

    /// The repository; `None` for the list of repositories.
    pub fn repository(&self) -> Option<&RepositoryName> {
        self.repository.as_ref()
    }

    /// The actions.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Whether the scope includes an action in a repository.
    pub fn has(&self, repository: &RepositoryName, action: Action) -> bool {
        self.repository() == Some(repository) && self.actions.contains(&action)
    }

    /// Whether the scope is the list of repositories.
    pub fn is_catalog(&self) -> bool {
        self.repository.is_none()
    }
}

impl FromStr for Scope {
    type Err = Error;

    /// Reads `repository:NAME:ACTION,ACTION` or `registry:catalog:*`. Unknown actions are left out; `*` means all.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid("a scope has the form `repository:NAME:ACTION,ACTION` or is `registry:catalog:*`")
        };
        if text == CATALOG {
            return Ok(Self::catalog());
        }
        let (kind, rest) = text.split_once(':').ok_or_else(invalid)?;
        let (name, actions) = rest.rsplit_once(':').ok_or_else(invalid)?;
        // A kind may have a class: `repository(plugin)`.
        if kind.split('(').next() != Some(REPOSITORY) {
            return Err(invalid());
        }
        let actions = actions.split(',').flat_map(|word| actions_of(word.trim()));
        Ok(Self::new(RepositoryName::parse(name)?, actions.copied()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(repository) = &self.repository else { return f.write_str(CATALOG) };
        let actions: Vec<&str> = self.actions.iter().filter_map(|action| word(*action)).collect();
        write!(f, "{REPOSITORY}:{repository}:{}", actions.join(","))
    }
}

const REPOSITORY: &str = "repository";
const CATALOG: &str = "registry:catalog:*";

fn word(action: Action) -> Option<&'static str> {
    match action {
        Action::Pull => Some("pull"),
        Action::Push => Some("push"),
        Action::Delete => Some("delete"),
        Action::Probe => None,
    }
}

fn actions_of(word: &str) -> &'static [Action] {
    match word {
        "pull" => &[Action::Pull],
        "push" => &[Action::Push],
        "delete" => &[Action::Delete],
        "*" => &[Action::Pull, Action::Push, Action::Delete],
        _ => &[],
    }
}

/// An entry of the claim `access` of a token (docker's token specification).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl From<&Scope> for Access {
    fn from(scope: &Scope) -> Self {
        let Some(repository) = &scope.repository else {
            let [kind, name, action] = ["registry", "catalog", "*"].map(str::to_owned);
            return Self { kind, name, actions: vec![action] };
        };
        let actions = scope.actions.iter().filter_map(|action| word(*action)).map(str::to_owned).collect();
        Self { kind: REPOSITORY.to_owned(), name: repository.to_string(), actions }
    }
}

impl Access {
    /// The scope; `None` for an entry of another kind.
    pub(crate) fn scope(&self) -> Option<Scope> {
        if self.kind != REPOSITORY {
            return format!("{}:{}:{}", self.kind, self.name, self.actions.join(",")).parse().ok();
        }
        let actions = self.actions.iter().flat_map(|word| actions_of(word)).copied();
        Some(Scope::new(RepositoryName::parse(&self.name).ok()?, actions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        use Action::{Delete, Pull, Push};
        let name_of = |s: &Scope| s.repository().map_or("(the catalog)".to_owned(), ToString::to_string);
        let parse = |text: &str| text.parse().ok().map(|s: Scope| (name_of(&s), s.actions));
        for (text, expected) in [
            ("repository:a/b:pull,push", Some(("a/b", vec![Pull, Push]))),
            ("repository:a:*", Some(("a", vec![Pull, Push, Delete]))),
            ("repository(plugin):a:pull", Some(("a", vec![Pull]))),
            ("repository:a:fly", Some(("a", vec![]))),
            ("repository:a:", Some(("a", vec![]))),
            ("repository:catalog:*", Some(("catalog", vec![Pull, Push, Delete]))),
            ("registry:catalog:*", Some(("(the catalog)", vec![]))),
            ("registry:catalog:pull", None),
            ("registry:other:*", None),
            ("repository:NOT VALID:pull", None),
            ("repository", None),
            ("", None),
        ] {
            let expected = expected.map(|(name, actions)| (name.to_owned(), actions));
            assert_eq!(parse(text), expected, "{text}");
        }
        let name = RepositoryName::parse("a").unwrap();
        assert_eq!(Scope::new(name, [Pull, Push, Action::Probe]).to_string(), "repository:a:pull,push");
        assert_eq!(Scope::catalog().to_string(), "registry:catalog:*");
    }

    #[test]
    fn entries_of_tokens_and_scopes_are_the_same() {
        let scope: Scope = "repository:a/b:pull,delete".parse().unwrap();
        assert_eq!(Access::from(&scope).scope(), Some(scope.clone()));
        let json = serde_json::to_value(Access::from(&scope)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "repository", "name": "a/b", "actions": ["pull", "delete"]})
        );
        let catalog = serde_json::json!({"type": "registry", "name": "catalog", "actions": ["*"]});
        assert_eq!(serde_json::to_value(Access::from(&Scope::catalog())).unwrap(), catalog);
        let read = |json| serde_json::from_value::<Access>(json).unwrap().scope();
        assert_eq!(read(catalog), Some(Scope::catalog()));
        for other in [
            serde_json::json!({"type": "registry", "name": "catalog", "actions": []}),
            serde_json::json!({"type": "registry", "name": "other", "actions": ["*"]}),
            serde_json::json!({"type": "plugin", "name": "a", "actions": ["pull"]}),
        ] {
            assert_eq!(read(other.clone()), None, "{other}");
        }
    }
}
