//! The language of authorization policies: who may do what in which repository. It reads a text and decides; it knows
//! neither HTTP nor files.
//!
//! ```text
//! text ── parse ── Policy ── decide(Subject, Operation, repository, tag) ── Decision, with the line of its rule
//! ```
//!
//! # Invariants
//! - What no rule allows is denied, and a deny rule takes precedence over every allow rule, whatever their order.
//! - A text that allows less, by more denials or fewer members of a group, is no less valid than before: what has no
//!   effect is a warning.
//! - A decision looks only at rules whose patterns may match the first segment of the repository, and takes a time that
//!   is at most the product of the lengths of a pattern and a name for each.
//! - A text of any content is read without a panic, in bounded memory.

mod dead;
mod parse;
mod who;

pub use parse::Problem;
pub use who::Subject;
pub(crate) use who::has_value;

use hyper_sdk::{RepositoryPattern, TextPattern};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use who::{Group, Who};

/// What somebody does in a repository, as a policy names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads manifests, blobs and lists.
    Pull,
    /// Stores blobs and manifests, without a tag.
    Push,
    /// Gives a manifest a tag that does not exist.
    CreateTag,
    /// Gives a tag that exists to another manifest.
    MoveTag,
    /// Deletes tags, manifests and blobs.
    Delete,
    /// Everything: in an allow rule also the right to change immutable tags, in a deny rule all other actions.
    Admin,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pull, Self::Push, Self::CreateTag, Self::MoveTag, Self::Delete, Self::Admin];

    /// The name in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::CreateTag => "create-tag",
            Self::MoveTag => "move-tag",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|operation| operation.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown action `{}`: use {names}", text.escape_debug())
        })
    }
}

/// Actions, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Operations(u8);

impl Operations {
    fn insert(&mut self, operation: Operation) {
        self.0 |= operation.bit();
    }

    fn has(self, operation: Operation) -> bool {
        self.0 & operation.bit() != 0
    }
}

#[derive(Debug)]
struct Rule {
    line: u32,
    allow: bool,
    who: Who,
    repositories: Vec<RepositoryPattern>,
    operations: Operations,
    /// Empty for all.
    tags: Vec<TextPattern>,
}

#[derive(Debug)]
struct Immutable {
    line: u32,
    repositories: Vec<RepositoryPattern>,
    tags: Vec<TextPattern>,
}

/// Why something is allowed or denied, with the line of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An allow rule allows it, and no deny rule denies it. For an immutable tag, it is the rule that gives the right to
    /// `admin`.
    Allowed(u32),
    /// A deny rule denies it.
    Denied(u32),
    /// No rule allows it.
    NotAllowed,
    /// The tag is immutable, and no rule gives the right to change it all the same.
    Immutable(u32),
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// A policy. As text, it is TOML: see the manual of the registry.
///
/// ```
/// use hyper_server::policy::{Decision, Operation, Policy, Subject};
///
/// let policy = Policy::parse(
///     r#"
///     [groups]
///     developers = ["user:alice", "claim:team=web"]
///
///     [[allow]]
///     who = ["group:developers"]
///     repositories = ["team/**"]
///     actions = ["pull", "push", "create-tag", "move-tag"]
///
///     [[immutable]]
///     repositories = ["**"]
///     tags = ["v*"]
///     "#,
/// )
/// .unwrap();
/// let alice = Subject::user("alice");
/// assert!(policy.decide(&alice, Operation::Push, "team/app", None).is_allowed());
/// assert!(policy.decide(&alice, Operation::CreateTag, "team/app", Some("v1")).is_allowed());
/// assert_eq!(policy.decide(&alice, Operation::MoveTag, "team/app", Some("v1")), Decision::Immutable(10));
/// assert_eq!(policy.decide(&Subject::ANONYMOUS, Operation::Pull, "team/app", None), Decision::NotAllowed);
/// ```
#[derive(Debug)]
pub struct Policy {
    groups: Vec<Group>,
    /// In the order of their lines.
    rules: Vec<Rule>,
    immutable: Vec<Immutable>,
    /// The rules whose patterns all begin with a literal segment, by these segments.
    by_segment: HashMap<Box<str>, Vec<u32>>,
    /// The other rules.
    anywhere: Vec<u32>,
    is_open: bool,
    warnings: Vec<Problem>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// What is wrong, with lines and keys, in the order of the lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        parse::parse(text)
    }

    fn new(groups: Vec<Group>, mut rules: Vec<Rule>, immutable: Vec<Immutable>) -> Self {
        rules.sort_by_key(|rule| rule.line);
        let (mut by_segment, mut anywhere) = (HashMap::<Box<str>, Vec<u32>>::new(), Vec::new());
        for (at, rule) in rules.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            let segments: Option<Vec<&str>> =
                rule.repositories.iter().map(RepositoryPattern::first_segment).collect();
            let Some(mut segments) = segments else {
                anywhere.push(at);
                continue;
            };
            segments.sort_unstable();
            segments.dedup();
            for segment in segments {
                by_segment.entry(segment.into()).or_default().push(at);
            }
        }
        let warnings = dead::warnings(&rules, &immutable, &groups);
        let is_open = dead::is_open(&rules, &groups);
        Self { groups, rules, immutable, by_segment, anywhere, is_open, warnings }
    }

    /// Rules that can never match. The policy is valid all the same: a deny rule may take away all that another rule
    /// allows, and a group may have no members.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Whether a rule reads claims of credentials.
    pub fn reads_claims(&self) -> bool {
        self.rules.iter().any(|rule| rule.who.reads_claims(&self.groups))
    }

    /// Whether a rule that allows something reads `claim:groups` without the name of an issuer: groups of the users of this
    /// registry, such as those of a directory.
    pub fn reads_own_groups(&self) -> bool {
        self.rules.iter().any(|rule| rule.allow && rule.who.reads_own_groups(&self.groups))
    }

    /// Whether a rule is about users, other than about everybody.
    pub fn needs_users(&self) -> bool {
        self.rules.iter().any(|rule| rule.who.needs_users(&self.groups))
    }

    /// Whether a rule lets everybody who logs in do more than pull.
    pub fn trusts_everybody(&self) -> bool {
        let changes = |rule: &Rule| {
            Operation::ALL.into_iter().any(|one| one != Operation::Pull && rule.operations.has(one))
        };
        self.rules.iter().any(|rule| rule.allow && changes(rule) && rule.who.is_everybody(&self.groups))
    }

    /// Whether callers without credentials may do anything at all.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Decides whether somebody may do something in a repository. `tag` is the tag that is created, moved or deleted.
    pub fn decide(
        &self,
        subject: &Subject<'_>,
        operation: Operation,
        repository: &str,
        tag: Option<&str>,
    ) -> Decision {
        let decision = self.by_rules(subject, operation, repository, tag);
        let Some(tag) = tag.filter(|_| matches!(operation, Operation::MoveTag | Operation::Delete)) else {
            return decision;
        };
        if !decision.is_allowed() {
            return decision;
        }
        let fixed = self.immutable_tag(repository, tag);
        match fixed.map(|line| (line, self.by_rules(subject, Operation::Admin, repository, None))) {
            None => decision,
            Some((_, admin @ Decision::Allowed(_))) => admin,
            Some((line, _)) => Decision::Immutable(line),
        }
    }

    /// The line of the rule that makes a tag immutable, whoever may change it all the same.
    pub fn immutable_tag(&self, repository: &str, tag: &str) -> Option<u32> {
        let fixes = |rule: &&Immutable| {
            rule.tags.iter().any(|p| p.matches(tag))
                && rule.repositories.iter().any(|p| p.matches(repository))
        };
        self.immutable.iter().find(fixes).map(|rule| rule.line)
    }

    /// The line of a rule that makes tags of a repository immutable for somebody.
    pub fn immutable_for(&self, subject: &Subject<'_>, repository: &str) -> Option<u32> {
        let rule =
            self.immutable.iter().find(|rule| rule.repositories.iter().any(|p| p.matches(repository)))?;
        let is_admin = self.by_rules(subject, Operation::Admin, repository, None).is_allowed();
        (!is_admin).then_some(rule.line)
    }

    /// The line of a rule that denies somebody the deletion of some tags of a repository.
    pub fn undeletable_for(&self, subject: &Subject<'_>, repository: &str) -> Option<u32> {
        let denies = |rule: &&Rule| {
            !rule.allow
                && !rule.tags.is_empty()
                && rule.operations.has(Operation::Delete)
                && rule.repositories.iter().any(|p| p.matches(repository))
                && rule.who.denies(subject, &self.groups)
        };
        self.rules.iter().find(denies).map(|rule| rule.line)
    }

    fn by_rules(
        &self,
        subject: &Subject<'_>,
        operation: Operation,
        repository: &str,
        tag: Option<&str>,
    ) -> Decision {
        let first = repository.split('/').next().unwrap_or_default();
        let of_segment = self.by_segment.get(first).map(Vec::as_slice).unwrap_or_default();
        let (mut denied, mut allowed) = (None::<u32>, None::<u32>);
        for at in of_segment.iter().chain(&self.anywhere) {
            let Some(rule) = self.rules.get(*at as usize) else { continue };
            let found = if rule.allow { &mut allowed } else { &mut denied };
            let is_first = found.is_none_or(|line| rule.line < line);
            if is_first && rule.applies(&self.groups, subject, operation, repository, tag) {
                *found = Some(rule.line);
            }
        }
        match (denied, allowed) {
            (Some(line), _) => Decision::Denied(line),
            (None, Some(line)) => Decision::Allowed(line),
            (None, None) => Decision::NotAllowed,
        }
    }
}

impl Rule {
    fn has_operation(&self, operation: Operation) -> bool {
        self.operations.has(operation) || self.operations.has(Operation::Admin)
    }

    fn applies(
        &self,
        groups: &[Group],
        subject: &Subject<'_>,
        operation: Operation,
        repository: &str,
        tag: Option<&str>,
    ) -> bool {
        self.has_operation(operation)
            && (self.tags.is_empty() || tag.is_some_and(|tag| self.tags.iter().any(|p| p.matches(tag))))
            && self.repositories.iter().any(|p| p.matches(repository))
            && match self.allow {
                true => self.who.has(subject, groups),
                false => self.who.denies(subject, groups),
            }
    }
}

#[cfg(test)]
mod tests;
