//! Whom a rule is about.

use hyper_sdk::TextPattern;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The claim that also has the groups of the credentials.
const GROUPS: &str = "groups";

/// The sender of a request: an anonymous caller, or a user with groups and claims.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    user: Option<&'a str>,
    groups: &'a BTreeSet<String>,
    claims: &'a BTreeMap<String, Value>,
}

static NO_GROUPS: BTreeSet<String> = BTreeSet::new();
static NO_CLAIMS: BTreeMap<String, Value> = BTreeMap::new();

impl<'a> Subject<'a> {
    /// A caller without credentials.
    pub const ANONYMOUS: Subject<'static> = Subject { user: None, groups: &NO_GROUPS, claims: &NO_CLAIMS };

    /// A user with this name, without groups and claims.
    pub fn user(name: &'a str) -> Self {
        Self { user: Some(name), ..Self::ANONYMOUS }
    }

    /// The same sender with these groups, which a policy sees as the claim `groups`, and claims. With the claim `iss`, the part of
    /// the user's name before a colon is the issuer in front of claims: `claim:company:groups=NAME`. A rule that allows something
    /// sees the groups of such a sender in that form alone.
    #[must_use]
    pub fn with(self, groups: &'a BTreeSet<String>, claims: &'a BTreeMap<String, Value>) -> Self {
        Self { user: self.user, groups, claims }
    }

    /// The name of the other issuer of tokens whose user it is; `None` for a user of this registry. The name of the user begins
    /// with it.
    fn issuer(&self) -> Option<&'a str> {
        let (issuer, _) = self.user?.split_once(':')?;
        self.claims.contains_key("iss").then_some(issuer)
    }

    /// Whether a rule that names a claim as `NAME` or `ISSUER:NAME` is about it. Whoever makes groups at an issuer must not get
    /// into those of the directory, so a rule that allows something `is_strict`: the groups of an issuer have its name there.
    fn has_claim(&self, name: &str, pattern: &TextPattern, is_strict: bool) -> bool {
        let has = |name: &str| {
            let in_groups = name == GROUPS && self.groups.iter().any(|group| pattern.matches(group));
            in_groups || self.claims.get(name).is_some_and(|value| has_value(value, pattern))
        };
        let issuer = self.issuer();
        let is_allowed = name != GROUPS || issuer.is_none() || !is_strict;
        let own = issuer.and_then(|issuer| name.strip_prefix(issuer)?.strip_prefix(':'));
        (is_allowed && has(name)) || own.is_some_and(has)
    }
}

/// Whether a user has a name of a pattern. The name of a user of another issuer is `ISSUER:TEXT`, and people there may choose the
/// text: a `*` stands for no part of `ISSUER:`, so that `*-bot` or `ci-*` means users of this registry alone.
fn is_user(pattern: &TextPattern, name: &str, is_of_issuer: bool) -> bool {
    let names_issuer = || {
        let issuer = name.split_once(':').map_or(0, |(issuer, _)| issuer.len() + 1);
        pattern.as_str().get(..issuer) == name.get(..issuer)
    };
    pattern.matches(name) && (!is_of_issuer || names_issuer())
}

/// Whether a claim has a value: a list has each of its texts, numbers and truth values.
pub(crate) fn has_value(value: &Value, pattern: &TextPattern) -> bool {
    match value {
        Value::String(text) => pattern.matches(text),
        Value::Number(number) => pattern.matches(&number.to_string()),
        Value::Bool(truth) => pattern.matches(if *truth { "true" } else { "false" }),
        Value::Array(values) => values.iter().any(|value| !value.is_array() && has_value(value, pattern)),
        Value::Null | Value::Object(_) => false,
    }
}

/// A group of a policy: its name and its members, which are no groups.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) members: Who,
}

/// One member of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    Anyone,
    Anonymous,
    Authenticated,
    User(TextPattern),
    Group(String),
    Claim(String, TextPattern),
}

impl Member {
    /// Reads `anyone`, `anonymous`, `authenticated`, `user:NAME`, `group:NAME` or `claim:NAME=VALUE`, where the name of a claim may
    /// have that of an issuer before it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let forms =
            "use `user:NAME`, `group:NAME`, `claim:NAME=VALUE`, `authenticated`, `anonymous` or `anyone`";
        // A rule that denies nothing because of a space looks like one that does.
        let is_padded = |part: &str| part.trim() != part;
        if text.split_once(':').is_some_and(|(kind, rest)| is_padded(kind) || rest.split('=').any(is_padded))
        {
            return Err(format!("`{}` has white space at the end of a name", text.escape_debug()));
        }
        if let Some(word @ ("anonymous" | "authenticated" | "anyone")) = text.strip_prefix("user:") {
            return Err(format!("`{text}` would be a user of that name: write `{word}`"));
        }
        match (text, text.split_once(':')) {
            ("anyone", _) => Ok(Self::Anyone),
            ("anonymous", _) => Ok(Self::Anonymous),
            ("authenticated", _) => Ok(Self::Authenticated),
            (_, Some(("user", name))) if !name.is_empty() => Ok(Self::User(TextPattern::new(name))),
            (_, Some(("group", name))) if !name.is_empty() => Ok(Self::Group(name.to_owned())),
            (_, Some(("claim", claim))) => match claim.split_once('=') {
                Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                    Ok(Self::Claim(name.to_owned(), TextPattern::new(value)))
                }
                _ => Err(format!("`{}` is no claim: use `claim:NAME=VALUE`", text.escape_debug())),
            },
            _ => Err(format!("`{}` names nobody: {forms}", text.escape_debug())),
        }
    }
}

/// Whom a rule is about: anybody who is in one of these.
#[derive(Debug, Default)]
pub(super) struct Who {
    pub(super) anonymous: bool,
    pub(super) authenticated: bool,
    pub(super) users: HashSet<String>,
    pub(super) patterns: Vec<TextPattern>,
    /// Indices of groups.
    pub(super) groups: Vec<usize>,
    pub(super) claims: Vec<(String, TextPattern)>,
}

impl Who {
    /// Adds a member. A group is looked up by its name.
    ///
    /// # Errors
    /// The group is unknown.
    pub(super) fn add(
        &mut self,
        member: Member,
        find: impl FnOnce(&str) -> Option<usize>,
    ) -> Result<(), String> {
        match member {
            Member::Anyone => (self.anonymous, self.authenticated) = (true, true),
            Member::Anonymous => self.anonymous = true,
            Member::Authenticated => self.authenticated = true,
            Member::User(pattern) => match pattern.literal() {
                Some(name) => drop(self.users.insert(name.to_owned())),
                None => self.patterns.push(pattern),
            },
            Member::Group(name) => self.groups.push(find(&name).ok_or_else(|| {
                format!("there is no group `{}`: define it in [groups]", name.escape_debug())
            })?),
            Member::Claim(name, value) => self.claims.push((name, value)),
        }
        Ok(())
    }

    /// Whether a rule that allows something is about a subject. What people at another issuer may choose counts there only where
    /// the rule names the issuer.
    pub(super) fn has(&self, subject: &Subject<'_>, groups: &[Group]) -> bool {
        self.has_if(subject, groups, true)
    }

    /// Whether a rule that denies is about a subject: a `*` stands for the name of an issuer, too, and the groups of all are
    /// meant, as in such a rule more is safer than less.
    pub(super) fn denies(&self, subject: &Subject<'_>, groups: &[Group]) -> bool {
        self.has_if(subject, groups, false)
    }

    fn has_if(&self, subject: &Subject<'_>, groups: &[Group], is_strict: bool) -> bool {
        let is_of_issuer = is_strict && subject.issuer().is_some();
        let by_name = match subject.user {
            None => self.anonymous,
            Some(name) => {
                self.authenticated
                    || self.users.contains(name)
                    || self.patterns.iter().any(|pattern| is_user(pattern, name, is_of_issuer))
            }
        };
        by_name
            || self.claims.iter().any(|(name, value)| subject.has_claim(name, value, is_strict))
            || self.any_group(groups, |group| group.has_if(subject, &[], is_strict))
    }

    /// The number of members.
    pub(super) fn len(&self) -> usize {
        self.users.len() + self.patterns.len() + self.groups.len() + self.claims.len()
    }

    /// Whether a claim decides who is in it.
    pub(super) fn reads_claims(&self, groups: &[Group]) -> bool {
        !self.claims.is_empty() || self.any_group(groups, |group| group.reads_claims(&[]))
    }

    /// Whether the groups of this registry, which are not those of other issuers, decide who is in it.
    pub(super) fn reads_own_groups(&self, groups: &[Group]) -> bool {
        self.claims.iter().any(|(name, _)| name == GROUPS)
            || self.any_group(groups, |group| group.reads_own_groups(&[]))
    }

    /// Whether everybody who logs in is in it.
    pub(super) fn is_everybody(&self, groups: &[Group]) -> bool {
        self.authenticated || self.any_group(groups, |group| group.is_everybody(&[]))
    }

    /// Whether it names users, other than with everybody.
    pub(super) fn needs_users(&self, groups: &[Group]) -> bool {
        let alone = !self.users.is_empty() || !self.patterns.is_empty() || !self.claims.is_empty();
        (self.authenticated && !self.anonymous)
            || alone
            || self.any_group(groups, |group| group.needs_users(&[]))
    }

    fn any_group(&self, groups: &[Group], is_so: impl Fn(&Self) -> bool) -> bool {
        self.groups.iter().filter_map(|at| groups.get(*at)).any(|group| is_so(&group.members))
    }

    /// Whether nobody can be in it.
    pub(super) fn is_nobody(&self, groups: &[Group]) -> bool {
        let alone = !self.anonymous
            && !self.authenticated
            && self.users.is_empty()
            && self.patterns.is_empty()
            && self.claims.is_empty();
        alone && !self.any_group(groups, |group| !group.is_nobody(&[]))
    }

    /// Whether everybody who is in another one is surely in it.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let anonymous = self.anonymous || !other.anonymous;
        let authenticated = self.authenticated || !other.authenticated;
        // Who has claims may be anonymous.
        let everybody = self.anonymous && self.authenticated;
        let users = self.authenticated
            || other.users.iter().all(|name| {
                // It may be of another issuer.
                let is_of_issuer = name.contains(':');
                self.users.contains(name)
                    || self.patterns.iter().any(|pattern| is_user(pattern, name, is_of_issuer))
            });
        let patterns = self.authenticated
            || other.patterns.iter().all(|pattern| {
                let is_of_issuer = pattern.as_str().contains(':');
                self.patterns.iter().any(|own| own == pattern || (!is_of_issuer && own.covers(pattern)))
            });
        let groups = everybody || other.groups.iter().all(|group| self.groups.contains(group));
        let claims = everybody || other.claims.iter().all(|claim| self.claims.contains(claim));
        anonymous && authenticated && users && patterns && groups && claims
    }
}
