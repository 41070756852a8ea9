//! A policy in a file, as an authorizer. The file is read again when the program says so.

use super::{Action, Authorizer, Principal};
use crate::policy::{Decision, Operation, Policy, Problem, Subject};
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::store::{TagChange, TagGuard};
use hyper_sdk::{Error, ErrorKind, RepositoryName, Result, ResultExt, Tag};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 2 << 20;

/// Authorizes by the policy in a file. Clones share it. Rules that can never match are no error: see
/// [`PolicyFile::warnings`].
///
/// Tokens that were issued before are bound by the policy of the moment too, because it is asked for each request.
///
/// ```
/// use hyper_server::RegistryOptions;
/// use hyper_server::auth::PolicyFile;
/// use std::sync::Arc;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("policy.toml");
/// # std::fs::write(&path, "[[allow]]\nwho = [\"anyone\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]")?;
/// let policy = PolicyFile::open(&path)?;
/// let options = RegistryOptions { authorizer: Some(Arc::new(policy.clone())), ..RegistryOptions::default() };
/// // Later, when the file has changed:
/// policy.reload()?;
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PolicyFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    policy: RwLock<Arc<Policy>>,
}

impl PolicyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the lines that are wrong, or an error that says why the file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let policy = RwLock::new(Arc::new(read_policy(path)?));
        Ok(Self(Arc::new(Inner { path: path.to_owned(), policy })))
    }

    /// Reads the file again. Requests that come after this are decided by it.
    ///
    /// # Errors
    /// Those of [`PolicyFile::open`]. The former policy then stays.
    pub fn reload(&self) -> Result<()> {
        let policy = Arc::new(read_policy(&self.0.path)?);
        // The former policy is dropped after the lock, by the last request that reads it.
        let former = {
            let mut now = self.0.policy.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, policy)
        };
        drop(former);
        Ok(())
    }

    /// Rules that can never match, each with the file and the line.
    pub fn warnings(&self) -> Vec<String> {
        let path = self.0.path.display();
        self.policy().warnings().iter().map(|w| format!("{path}:{}: {}", w.line, w.message)).collect()
    }

    /// The policy of the moment.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.0.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    fn decide(
        &self,
        who: &Principal,
        operation: Operation,
        name: &RepositoryName,
        tag: Option<&Tag>,
    ) -> Decision {
        // Under the lock, as each request decides: a clone would be one more thing that all of them write.
        let policy = self.0.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.decide(&who.subject(), operation, name.as_str(), tag.map(Tag::as_str))
    }
}

/// Reads the policy of a file.
///
/// # Errors
/// Those of [`PolicyFile::open`].
fn read_policy(path: &Path) -> Result<Policy> {
    let text = small_file::read_text(path, "the policy", MAX_FILE, Kinds::Files)?;
    Policy::parse(&text).map_err(|problems| invalid(&problems)).context("path", path.display())
}

fn invalid(problems: &[Problem]) -> Error {
    let mut message = "the policy is invalid".to_owned();
    for (i, problem) in problems.iter().enumerate() {
        let separator = if i == 0 { ": " } else { "; " };
        let _ = write!(message, "{separator}{problem}");
    }
    Error::invalid(message)
}

impl Authorizer for PolicyFile {
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool {
        let Some(repository) = repository else {
            return !who.is_anonymous() || self.policy().is_open();
        };
        let operation = match action {
            Action::Probe | Action::Pull => Operation::Pull,
            Action::Push => Operation::Push,
            Action::Delete => Operation::Delete,
        };
        self.decide(who, operation, repository, None).is_allowed()
    }

    fn tag_guard(&self, who: &Principal, repository: &RepositoryName) -> Option<TagGuard> {
        // What `allows` has allowed is refused only for an immutable tag, or one whose deletion is denied.
        let (now, subject) = (self.policy(), who.subject());
        let keeps_tags = now.immutable_for(&subject, repository.as_str()).is_some()
            || now.undeletable_for(&subject, repository.as_str()).is_some();
        let (policy, who, repository) = (self.clone(), who.clone(), repository.clone());
        let guard = TagGuard::new(move |tag, change| {
            let operation = match change {
                TagChange::Create => Operation::CreateTag,
                TagChange::Move => Operation::MoveTag,
                TagChange::Delete => Operation::Delete,
            };
            let message = match policy.decide(&who, operation, &repository, Some(tag)) {
                Decision::Allowed(_) => return Ok(()),
                Decision::Immutable(_) => {
                    format!(
                        "the tag `{tag}` in `{repository}` is immutable: {operation} needs the right admin"
                    )
                }
                Decision::Denied(_) | Decision::NotAllowed => {
                    format!("no permission to {operation} `{tag}` in `{repository}`")
                }
            };
            Err(Error::new(ErrorKind::Denied, message))
        });
        Some(if keeps_tags { guard } else { guard.without_deletions() })
    }

    fn keeps_tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<String> {
        let line = self.policy().immutable_tag(repository.as_str(), tag.as_str())?;
        Some(format!("line {line} of the policy makes it immutable"))
    }
}

impl Principal {
    /// The principal as a policy sees it.
    fn subject(&self) -> Subject<'_> {
        let subject = self.name().map_or(Subject::ANONYMOUS, Subject::user);
        subject.with(self.group_set(), self.claims())
    }
}
