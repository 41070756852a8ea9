//! The commands `hyperregistry policy`, and what the program says of the policy that it serves by.

use crate::auth::PolicyFile;
use crate::policy::{Decision, Operation, Policy, Subject};
use clap::{Args, Subcommand};
use hyper_sdk::{Error, RepositoryName, Result, Tag};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Checks a policy
    Check(CheckPolicyArgs),
    /// Says whether a policy allows something, and which rules decide; ends with status 1 if it does not
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckPolicyArgs {
    /// The policy, TOML
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Name of the user, or `anonymous`; `user:anonymous` is a user of this name
    user: String,
    /// What the user does: pull, push, create-tag, move-tag, delete or admin
    #[arg(value_parser = |text: &str| text.parse::<Operation>())]
    action: Operation,
    /// The repository, with the tag that is created, moved or deleted
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: String,
    /// The policy, TOML
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// A claim of the user, such as a group: `groups=developers`. Repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
}

/// What a command prints, and whether it succeeds.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) is_yes: bool,
}

impl PolicyCommand {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<Answer> {
        match self {
            Self::Check(args) => {
                let known = Known { users: true, claims: true, groups: true, strangers: false };
                for warning in warnings(&PolicyFile::open(&args.file)?, known) {
                    let _ = writeln!(std::io::stderr(), "warning: {warning}");
                }
                Ok(Answer { text: "the policy is valid\n".to_owned(), is_yes: true })
            }
            Self::Explain(args) => args.run(),
        }
    }
}

/// What a registry knows of those who log in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Whether anybody can log in.
    pub(crate) users: bool,
    /// Whether anybody has claims.
    pub(crate) claims: bool,
    /// Whether users of the registry itself, who are not those of an issuer, may have groups.
    pub(crate) groups: bool,
    /// Whether an issuer has no `require`, and so lets in everybody whom it gives a token.
    pub(crate) strangers: bool,
}

/// What is valid in a policy and probably a mistake in this program.
pub(crate) fn warnings(file: &PolicyFile, known: Known) -> Vec<String> {
    let (policy, path) = (file.policy(), file.path().display());
    let mut warnings = file.warnings();
    if !known.users && policy.needs_users() {
        warnings.push(format!(
            "{path}: rules for users never match, because there are no users: set `auth.htpasswd`, `auth.ldap`, `auth.login`, `auth.issuer` or `tls.client-ca`"
        ));
    }
    if !known.claims && policy.reads_claims() {
        warnings.push(format!(
            "{path}: `claim:` never matches, because the users of files and certificates have no claims: only those \
             of other issuers (`auth.issuer`, `auth.login`) have some, and groups those of a directory (`auth.ldap`)"
        ));
    }
    if known.claims && !known.groups && policy.reads_own_groups() {
        warnings.push(format!(
            "{path}: `claim:groups=NAME` allows nothing, because there is no directory (`auth.ldap`): write \
             `claim:ISSUER:groups=NAME` for groups of an issuer, with its `name`"
        ));
    }
    if known.strangers && policy.trusts_everybody() {
        warnings.push(format!(
            "{path}: a rule lets `authenticated` or `anyone` do more than pull, and an issuer in `auth.issuer` has no `require`: \
             everybody whom it gives a token for this audience may do that"
        ));
    }
    warnings
}

/// Reads the policy again, and logs what came of it.
pub(crate) fn reload(policy: &PolicyFile, known: Known) -> bool {
    match policy.reload() {
        Ok(()) => {
            tracing::info!(path = %policy.path().display(), "the policy was read again");
            for warning in warnings(policy, known) {
                tracing::warn!("{warning}");
            }
            true
        }
        Err(error) => {
            tracing::error!(%error, "the policy cannot be used: the former one stays");
            false
        }
    }
}

impl ExplainArgs {
    fn run(&self) -> Result<Answer> {
        let (name, tag) = match self.repository.split_once(':') {
            Some((name, tag)) => (RepositoryName::parse(name)?, Some(Tag::parse(tag)?)),
            None => (RepositoryName::parse(&self.repository)?, None),
        };
        let needs_tag = matches!(self.action, Operation::CreateTag | Operation::MoveTag);
        let takes_tag = needs_tag || self.action == Operation::Delete;
        if needs_tag && tag.is_none() {
            return Err(Error::invalid(format!("{} is about a tag: write {name}:TAG", self.action)));
        }
        if !takes_tag && tag.is_some() {
            return Err(Error::invalid(format!("{} is not about a tag: write {name}", self.action)));
        }
        let policy = PolicyFile::open(&self.policy)?.policy();
        let (none, mut claims) = (BTreeSet::new(), self.claims()?);
        if self.user.strip_prefix("user:").unwrap_or(&self.user).contains(':') {
            // No user of a file has a colon in the name: this one is of an issuer, and always has the claim.
            claims.entry("iss".to_owned()).or_insert_with(|| Value::Array(Vec::new()));
        }
        let subject = match self.user.strip_prefix("user:") {
            Some(user) => Subject::user(user),
            None if self.user == "anonymous" => Subject::ANONYMOUS,
            None => Subject::user(&self.user),
        };
        Ok(self.explain(&policy, &subject.with(&none, &claims), name.as_str(), tag.as_ref()))
    }

    /// A push of a tag is a push first: the request needs both rights.
    fn explain(&self, policy: &Policy, subject: &Subject<'_>, name: &str, tag: Option<&Tag>) -> Answer {
        let file = self.policy.display();
        let push =
            matches!(self.action, Operation::CreateTag | Operation::MoveTag).then_some(Operation::Push);
        let mut rules = Vec::new();
        for operation in push.into_iter().chain([self.action]) {
            let tag = tag.filter(|_| operation == self.action).map(Tag::as_str);
            match policy.decide(subject, operation, name, tag) {
                Decision::Allowed(line) => rules.push(format!("{operation} by the rule {file}:{line}")),
                refusal => {
                    let text = format!("denied: {}\n", why_not(refusal, operation, &file));
                    return Answer { text, is_yes: false };
                }
            }
        }
        let mut text = format!("allowed: {}\n", rules.join(", "));
        if self.action == Operation::Delete
            && tag.is_none()
            && let Some(line) = policy.immutable_for(subject, name)
        {
            text +=
                &format!("but {file}:{line} makes tags immutable: what such a tag needs cannot be deleted\n");
        }
        if self.action == Operation::Delete
            && tag.is_none()
            && let Some(line) = policy.undeletable_for(subject, name)
        {
            text += &format!(
                "but {file}:{line} denies it for some tags: what such a tag needs cannot be deleted\n"
            );
        }
        Answer { text, is_yes: true }
    }

    /// The claims, each with the list of its values.
    fn claims(&self) -> Result<BTreeMap<String, Value>> {
        let mut claims = BTreeMap::<String, Vec<Value>>::new();
        for claim in &self.claim {
            let (name, value) = claim.split_once('=').ok_or_else(|| {
                Error::invalid(format!("`{}` is no claim: write NAME=VALUE", claim.escape_debug()))
            })?;
            claims.entry(name.to_owned()).or_default().push(value.into());
        }
        Ok(claims.into_iter().map(|(name, values)| (name, Value::Array(values))).collect())
    }
}

fn why_not(decision: Decision, operation: Operation, file: &dyn Display) -> String {
    match decision {
        Decision::Allowed(line) | Decision::Denied(line) => {
            format!("the rule {file}:{line} denies {operation}")
        }
        Decision::NotAllowed => format!("no rule of {file} allows {operation}"),
        Decision::Immutable(line) => {
            format!("{file}:{line} makes the tag immutable, and no rule gives the right admin")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_nobody_has_are_a_warning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let known = Known { users: true, claims: true, groups: false, strangers: false };
        for (kind, who, known, is_warned) in [
            ("allow", "claim:groups=a", known, true),
            ("allow", "group:g", known, true),
            ("allow", "claim:company:groups=a", known, false),
            ("allow", "claim:groups=a", Known { groups: true, ..known }, false),
            ("deny", "claim:groups=a", known, false),
        ] {
            let text = format!(
                "[groups]\ng = [\"claim:groups=b\"]\n[[allow]]\nwho = [\"user:a\"]\nrepositories = [\"a\"]\nactions = [\"pull\"]\n\
                 [[{kind}]]\nwho = [\"{who}\"]\nrepositories = [\"b\"]\nactions = [\"pull\"]\n"
            );
            std::fs::write(file.path(), text).unwrap();
            let shown = warnings(&PolicyFile::open(file.path()).unwrap(), known);
            let is_about = |text: &String| text.contains("claim:ISSUER:groups=NAME");
            assert_eq!(shown.iter().any(is_about), is_warned, "{kind} {who} {shown:?}");
        }
    }
}
