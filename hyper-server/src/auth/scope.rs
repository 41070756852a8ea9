//! Scopes of tokens: actions in one repository, or the right to list the repositories, in the text form of clients and
//! token servers; actions in the repositories of a pattern, in those of API tokens.

use super::Action;
use hyper_sdk::{Error, RepositoryName, RepositoryPattern, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Actions in one repository, or the list of repositories. As text: `repository:team/app:pull,push` or
/// `registry:catalog:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    target: Target,
    actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Catalog,
    Repository(RepositoryName),
    Pattern(RepositoryPattern),
}

impl Scope {
    /// A scope of actions in a repository. [`Action::Probe`] does not belong to a repository and is left out.
    pub fn new(repository: RepositoryName, actions: impl IntoIterator<Item = Action>) -> Self {
        let actions = actions.into_iter().filter(|action| word(*action).is_some()).collect();
        Self { target: Target::Repository(repository), actions }
    }

    /// The scope of the list of repositories (`/v2/_catalog`).
    pub fn catalog() -> Self {
        Self { target: Target::Catalog, actions: Vec::new() }
    }

    /// A scope of an API token: `PATTERN:ACTION,ACTION`, where `*` is all actions. Clients and token servers cannot ask for
    /// one: [`FromStr`] reads none.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says what is wrong; also for an action that there is not.
    pub(crate) fn of_pattern(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::invalid(format!("invalid scope `{}`: {why}", text.escape_debug()));
        let form =
            "use `PATTERN:ACTIONS` with the actions pull, push and delete, such as `team/**:pull,push`";
        let (pattern, words) = text.rsplit_once(':').ok_or_else(|| invalid(form))?;
        let pattern = RepositoryPattern::parse(pattern).map_err(|e| invalid(e.message()))?;
        let mut actions: Vec<Action> = Vec::new();
        for word in words.split(',') {
            let found = actions_of(word.trim());
            if found.is_empty() {
                return Err(invalid(form));
            }
            for action in found {
                if !actions.contains(action) {
                    actions.push(*action);
                }
            }
        }
        Ok(Self { target: Target::Pattern(pattern), actions })
    }

    /// The repository; `None` for the list of repositories, and for the repositories of an API token.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match &self.target {
            Target::Repository(name) => Some(name),
            Target::Catalog | Target::Pattern(_) => None,
        }
    }

    /// The actions.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Whether the scope includes an action in a repository.
    pub fn has(&self, repository: &RepositoryName, action: Action) -> bool {
        let is_of_it = match &self.target {
            Target::Catalog => false,
            Target::Repository(name) => name == repository,
            Target::Pattern(pattern) => pattern.matches(repository.as_str()),
        };
        is_of_it && self.actions.contains(&action)
    }

    /// Whether the scope is the list of repositories.
    pub fn is_catalog(&self) -> bool {
        self.target == Target::Catalog
    }

    /// Whether it is a scope of an API token.
    pub(crate) fn is_pattern(&self) -> bool {
        matches!(self.target, Target::Pattern(_))
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
        let actions: Vec<&str> = self.actions.iter().filter_map(|action| word(*action)).collect();
        let actions = actions.join(",");
        match &self.target {
            Target::Catalog => f.write_str(CATALOG),
            Target::Repository(repository) => write!(f, "{REPOSITORY}:{repository}:{actions}"),
            Target::Pattern(pattern) => write!(f, "{}:{actions}", pattern.as_str()),
        }
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

impl Access {
    /// The entry of a scope; `None` for one of an API token, which is for many repositories.
    pub(crate) fn of(scope: &Scope) -> Option<Self> {
        let name = match &scope.target {
            Target::Catalog => {
                let [kind, name, action] = ["registry", "catalog", "*"].map(str::to_owned);
                return Some(Self { kind, name, actions: vec![action] });
            }
            Target::Repository(name) => name.to_string(),
            Target::Pattern(_) => return None,
        };
        let actions = scope.actions.iter().filter_map(|action| word(*action)).map(str::to_owned).collect();
        Some(Self { kind: REPOSITORY.to_owned(), name, actions })
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
    fn a_scope_of_a_pattern_has_its_repositories_alone() {
        let scope = Scope::of_pattern("team/**:pull, push,pull").unwrap();
        assert_eq!(scope.to_string(), "team/**:pull,push");
        let has = |name: &str, action| scope.has(&RepositoryName::parse(name).unwrap(), action);
        assert!(has("team/a", Action::Pull) && has("team/a/b", Action::Push));
        assert!(
            !has("team/a", Action::Delete) && !has("team", Action::Pull) && !has("teams/a", Action::Pull)
        );
        assert!(scope.is_pattern() && !scope.is_catalog() && scope.repository().is_none());
        assert!(Access::of(&scope).is_none(), "no token of the registry is for a pattern");
        for text in ["repository:team/**:pull", "repository:**:*", "team/**:pull"] {
            assert!(text.parse::<Scope>().is_err(), "a client asks for {text}");
        }
        for bad in ["", "a", "a:", ":pull", "a:pull,", "a:fly", "a:pull,fly", "A:pull", "a//b:pull"] {
            assert!(Scope::of_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_of_tokens_and_scopes_are_the_same() {
        let scope: Scope = "repository:a/b:pull,delete".parse().unwrap();
        assert_eq!(Access::of(&scope).unwrap().scope(), Some(scope.clone()));
        let json = serde_json::to_value(Access::of(&scope).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "repository", "name": "a/b", "actions": ["pull", "delete"]})
        );
        let catalog = serde_json::json!({"type": "registry", "name": "catalog", "actions": ["*"]});
        assert_eq!(serde_json::to_value(Access::of(&Scope::catalog()).unwrap()).unwrap(), catalog);
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
