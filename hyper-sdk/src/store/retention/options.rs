//! What a run of retention does, and what it has done.

use super::decision::TagDecision;
use super::rules::RetentionRules;
use super::turn::{RetentionEnd, RetentionTurn};
use crate::reference::{RepositoryName, Tag};
use std::fmt::{self, Debug};
use std::sync::Arc;

/// Says why a tag stays whatever the rules say; `None` leaves it to them. It must not block. It is asked several times about
/// a tag, the last time right before the tag is deleted; its answers may change meanwhile.
pub type TagProtection = Arc<dyn Fn(&RepositoryName, &Tag) -> Option<String> + Send + Sync>;

/// A function that is told of each decision.
pub type RetentionObserver = Arc<dyn Fn(&TagDecision) + Send + Sync>;

/// What a run of retention does.
///
/// ```
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::store::{
///     MemoryStore, PutManifest, RegistryStore as _, RetainOptions, RetentionRule, RetentionRules,
/// };
/// use hyper_sdk::{RepositoryName, RepositoryPattern, Tag, TextPattern};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// let manifest = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes())?;
/// let tags = [Tag::parse("1")?, Tag::parse("2")?, Tag::parse("3")?];
/// // Times are whole seconds: these have the same.
/// store.put_manifest(&name, PutManifest::new(manifest, tags)).await?;
/// let rules = RetentionRules::new(vec![RetentionRule {
///     repositories: vec![RepositoryPattern::parse("**")?],
///     tags: vec![TextPattern::of_tags("*")?],
///     keep_newest: Some(2),
///     keep_younger_than: None,
///     keep_pulled_within: None,
///     keep_tags: Vec::new(),
/// }])?;
/// let retained = store.retain(RetainOptions::new(rules)).await?;
/// assert_eq!((retained.tags, retained.removed), (3, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RetainOptions {
    /// The rules.
    pub rules: Arc<RetentionRules>,
    /// Deletes nothing, and says what would go now.
    pub dry_run: bool,
    /// Only this repository, with all of its tags. Without, all repositories that a rule is about.
    pub repository: Option<RepositoryName>,
    /// Takes part in the regular retention of the store: nothing happens unless a run is due and nobody else is at it. Without, the
    /// run begins now, whoever else deletes tags. A dry run and one of a single repository have no turn.
    pub turn: Option<RetentionTurn>,
    /// What stays besides, such as immutable tags.
    pub protection: Option<TagProtection>,
    /// Is told of each decision, in the order of repositories and, in each, of tags: of a tag that goes after it is deleted,
    /// in a dry run instead. It is told also of a deletion that ends after the run was dropped, and of one whose end
    /// nobody knows ([`super::TagReason::Unconfirmed`]).
    pub observer: Option<RetentionObserver>,
}

impl RetainOptions {
    /// A run by these rules in all repositories.
    pub fn new(rules: impl Into<Arc<RetentionRules>>) -> Self {
        let rules = rules.into();
        Self { rules, dry_run: false, repository: None, turn: None, protection: None, observer: None }
    }

    pub(in crate::store) fn report(&self, decision: &TagDecision) {
        if let Some(observer) = &self.observer {
            observer(decision);
        }
    }
}

impl Debug for RetainOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetainOptions")
            .field("rules", &self.rules)
            .field("dry_run", &self.dry_run)
            .field("repository", &self.repository)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

/// What a run of retention has done, or in a dry run what it would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Why it ended.
    pub end: RetentionEnd,
    /// When the last run of a [`RetentionTurn`] ended, in seconds since 1970: this one, if it was one.
    pub last_run: Option<i64>,
    /// How many repositories a rule is about.
    pub repositories: u64,
    /// How many tags they have.
    pub tags: u64,
    /// How many tags were deleted.
    pub removed: u64,
    /// How many would have gone, but were pushed again, pulled, moved or deleted during the run.
    pub changed: u64,
}
