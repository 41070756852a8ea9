//! The rules, and the checks that keep a mistake from deleting anything.

use crate::reference::{RepositoryName, RepositoryPattern, Tag, TextPattern};
use crate::store::PULL_LAG;
use crate::{Error, Result};
use std::time::Duration;

/// A rule: which tags it is about, and what keeps one of them. A tag that nothing keeps is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    /// The repositories.
    pub repositories: Vec<RepositoryPattern>,
    /// The tags in them.
    pub tags: Vec<TextPattern>,
    /// Keeps the tags that were pushed last, so many in each repository.
    pub keep_newest: Option<usize>,
    /// Keeps tags that were pushed less than this ago.
    pub keep_younger_than: Option<Duration>,
    /// Keeps tags that were pulled less than this ago, or whose manifest was, also by its digest. One that was not pulled counts
    /// from its push, and from when the store began to note pulls.
    pub keep_pulled_within: Option<Duration>,
    /// Keeps tags by their names. They do not count as the newest.
    pub keep_tags: Vec<TextPattern>,
}

impl RetentionRule {
    fn is_about(&self, tag: &Tag) -> bool {
        self.tags.iter().any(|pattern| pattern.matches(tag.as_str()))
    }

    /// Whether it keeps every tag that it is about, and so exempts them from later rules.
    pub fn keeps_all(&self) -> bool {
        self.tags.iter().all(|tag| self.keep_tags.iter().any(|keep| keep.covers(tag)))
    }

    /// The age up to which a tag stays, in seconds, rounded up.
    pub(super) fn age(&self) -> Option<i64> {
        self.keep_younger_than.map(seconds)
    }

    /// For how many seconds a tag stays after the noted time of its last pull, which may be earlier than that.
    pub(in crate::store) fn pulled_within(&self) -> Option<i64> {
        self.keep_pulled_within.map(|within| seconds(within).saturating_add(PULL_LAG))
    }

    /// Whether another rule, which comes first, surely decides about everything that this one is about.
    fn is_hidden_by(&self, other: &Self) -> bool {
        self.repositories.iter().all(|name| other.repositories.iter().any(|wide| wide.covers(name)))
            && self.tags.iter().all(|tag| other.tags.iter().any(|wide| wide.covers(tag)))
    }

    fn check(&self) -> Result<()> {
        if self.repositories.is_empty() || self.tags.is_empty() {
            return Err(Error::invalid(
                "the rule is about no tag: it needs a pattern for repositories and one for tags",
            ));
        }
        if self.keep_newest == Some(0) {
            return Err(Error::invalid("the rule keeps the newest 0 tags: use a number from 1 on"));
        }
        if self.keep_newest.is_some_and(|count| count > RetentionRules::MAX_NEWEST) {
            let most = RetentionRules::MAX_NEWEST;
            return Err(Error::invalid(format!(
                "the rule keeps too many of the newest tags: {most} are the most"
            )));
        }
        if self.keep_younger_than == Some(Duration::ZERO) {
            return Err(Error::invalid("the rule keeps tags of an age of 0: use a longer time"));
        }
        if self.keep_pulled_within == Some(Duration::ZERO) {
            return Err(Error::invalid(
                "the rule keeps tags that were pulled within a time of 0: use a longer one",
            ));
        }
        let keeps_by_time = self.keep_younger_than.is_some() || self.keep_pulled_within.is_some();
        if self.keep_newest.is_none() && !keeps_by_time && !self.keeps_all() {
            // Names alone look like a protection, and would delete everything else at once.
            return Err(Error::invalid(
                "the rule must keep the newest tags, tags up to an age or tags that are pulled; names alone are enough only if \
                 they keep all tags of the rule",
            ));
        }
        Ok(())
    }
}

/// A time in seconds, rounded up.
fn seconds(time: Duration) -> i64 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Rules in their order: the first one that is about a tag decides about it.
///
/// ```
/// use hyper_sdk::store::meta::TagRecord;
/// use hyper_sdk::store::{RetentionRule, RetentionRules};
/// use hyper_sdk::{Digest, RepositoryName, RepositoryPattern, Tag, TextPattern};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let rules = RetentionRules::new(vec![RetentionRule {
///     repositories: vec![RepositoryPattern::parse("team/**")?],
///     tags: vec![TextPattern::of_tags("*")?],
///     keep_newest: Some(1),
///     keep_younger_than: None,
///     keep_pulled_within: None,
///     keep_tags: vec![TextPattern::of_tags("latest")?],
/// }])?;
/// let tag = |name: &str, pushed_at| {
///     Ok::<_, hyper_sdk::Error>(TagRecord { tag: Tag::parse(name)?, digest: Digest::sha256(name), pushed_at, pulled_at: None })
/// };
/// let tags = [tag("1", 10)?, tag("2", 20)?, tag("latest", 5)?];
/// let plan = rules.plan(&RepositoryName::parse("team/app")?, &tags, None, 100);
/// assert_eq!(plan.iter().map(|decision| decision.goes()).collect::<Vec<_>>(), [true, false, false]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRules(Vec<RetentionRule>);

impl RetentionRules {
    /// The most rules.
    pub const MAX_RULES: usize = 1000;
    /// The most tags that the rules for a repository can keep as the newest ones: a run has those of one repository in memory, at
    /// about 200 bytes each. Rules count together when a pattern of one is that of the other or wider.
    pub const MAX_NEWEST: usize = 100_000;

    /// These rules.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that says which rule, counted from 1, is wrong: one that is about no tag, or that keeps
    /// nothing; and when there are more than [`RetentionRules::MAX_RULES`], or they keep more than
    /// [`RetentionRules::MAX_NEWEST`].
    pub fn new(rules: Vec<RetentionRule>) -> Result<Self> {
        if rules.len() > Self::MAX_RULES {
            let most = Self::MAX_RULES;
            return Err(Error::invalid(format!("there are more than {most} rules")));
        }
        for (at, rule) in rules.iter().enumerate() {
            rule.check().map_err(|e| Error::invalid(format!("rule {}: {}", at + 1, e.message())))?;
        }
        Self::check_newest(&rules)?;
        Ok(Self(rules))
    }

    /// Refuses rules that keep too many of the newest tags of one repository together.
    fn check_newest(rules: &[RetentionRule]) -> Result<()> {
        let total = |rules: &mut dyn Iterator<Item = &RetentionRule>| {
            rules.filter_map(|rule| rule.keep_newest).fold(0, usize::saturating_add)
        };
        if total(&mut rules.iter()) <= Self::MAX_NEWEST {
            return Ok(());
        }
        for (at, rule) in rules.iter().enumerate() {
            let is_too_much = |name: &RepositoryPattern| {
                let is_beside =
                    |other: &&RetentionRule| other.repositories.iter().any(|wide| wide.covers(name));
                total(&mut rules.iter().filter(is_beside)) > Self::MAX_NEWEST
            };
            if rule.repositories.iter().any(is_too_much) {
                let most = Self::MAX_NEWEST;
                return Err(Error::invalid(format!(
                    "rule {}: with the other rules for its repositories it keeps too many of the newest tags: {most} are the \
                     most for a repository",
                    at + 1
                )));
            }
        }
        Ok(())
    }

    /// Whether a rule keeps tags that are pulled.
    pub fn asks_about_pulls(&self) -> bool {
        self.0.iter().any(|rule| rule.keep_pulled_within.is_some())
    }

    /// The rules.
    pub fn as_slice(&self) -> &[RetentionRule] {
        &self.0
    }

    /// Rules that decide about no tag because an earlier one does, each with that one; both are indices.
    pub fn hidden(&self) -> Vec<(usize, usize)> {
        let first = |at: usize| (0..at).find(|before| self.0[at].is_hidden_by(&self.0[*before]));
        (0..self.0.len()).filter_map(|at| Some((at, first(at)?))).collect()
    }

    /// The rules that are about tags of a repository, with their indices.
    pub(super) fn of<'a>(
        &'a self,
        repository: &RepositoryName,
    ) -> impl Iterator<Item = (usize, &'a RetentionRule)> {
        let is_about =
            |rule: &RetentionRule| rule.repositories.iter().any(|p| p.matches(repository.as_str()));
        self.0.iter().enumerate().filter(move |(_, rule)| is_about(rule))
    }
}

/// The first of some rules that is about a tag: its place among them.
pub(super) fn first_about<'a>(
    mut rules: impl Iterator<Item = &'a RetentionRule>,
    tag: &Tag,
) -> Option<usize> {
    rules.position(|rule| rule.is_about(tag))
}
