//! Decides about the tags of one repository: counts the newest first, then judges each tag.

use super::decision::{TagDecision, TagReason};
use super::options::TagProtection;
use super::rules::{RetentionRule, RetentionRules, first_about};
use crate::Digest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::is_internal;
use crate::store::meta::TagRecord;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The image that a tag belongs to by its name: `sha256-HEX` lists what refers to the image where a registry does not, and
/// `sha256-HEX.sig`, `.att` and `.sbom` are its signatures, statements and lists of parts. A tag that names the image itself
/// does not belong to it.
pub(in crate::store) fn image_of(record: &TagRecord) -> Option<Digest> {
    let rest = record.tag.as_str().strip_prefix("sha256-")?;
    let hex = match rest.split_once('.') {
        Some((hex, "sig" | "att" | "sbom")) => hex,
        Some(_) => return None,
        None => rest,
    };
    Digest::parse(&format!("sha256:{hex}")).ok().filter(|image| *image != record.digest)
}

/// The tags with the latest times, as many as a rule keeps.
#[derive(Debug, Default)]
struct Newest(BinaryHeap<Reverse<(i64, Tag)>>);

impl Newest {
    fn add(&mut self, record: &TagRecord, count: usize) {
        let is_newer =
            |oldest: &Reverse<(i64, Tag)>| (record.pushed_at, &record.tag) > (oldest.0.0, &oldest.0.1);
        if self.0.len() >= count {
            if !self.0.peek().is_some_and(is_newer) {
                return;
            }
            self.0.pop();
        }
        self.0.push(Reverse((record.pushed_at, record.tag.clone())));
    }

    /// Whether a tag is as new as the oldest of them. What was pushed after the count is newer, and of what was pushed in one
    /// second nobody knows which came last.
    fn has(&self, record: &TagRecord, count: usize) -> bool {
        self.0.len() < count || self.0.peek().is_none_or(|Reverse((at, _))| record.pushed_at >= *at)
    }
}

/// The rules of one repository, with what was counted there.
pub(in crate::store) struct Judge<'a> {
    repository: &'a RepositoryName,
    rules: Vec<(usize, &'a RetentionRule, Newest)>,
    protection: Option<&'a TagProtection>,
    now: i64,
    /// Since when pulls are noted, if they are.
    noted_since: Option<i64>,
}

impl<'a> Judge<'a> {
    pub(in crate::store) fn new(
        rules: &'a RetentionRules,
        repository: &'a RepositoryName,
        protection: Option<&'a TagProtection>,
        (now, noted_since): (i64, Option<i64>),
    ) -> Self {
        let rules = match is_internal(repository) {
            true => Vec::new(),
            false => rules.of(repository).map(|(at, rule)| (at, rule, Newest::default())).collect(),
        };
        Self { repository, rules, protection, now, noted_since }
    }

    /// Whether a rule is about tags of the repository.
    pub(in crate::store) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether all tags must be counted before the first one is judged.
    pub(in crate::store) fn counts(&self) -> bool {
        self.rules.iter().any(|(_, rule, _)| rule.keep_newest.is_some())
    }

    fn first_rule(&self, tag: &Tag) -> Option<usize> {
        first_about(self.rules.iter().map(|(_, rule, _)| *rule), tag)
    }

    /// What keeps a tag whatever the time is.
    fn by_name(&self, rule: &RetentionRule, tag: &Tag) -> Option<TagReason> {
        if let Some(why) = self.protection.and_then(|protects| protects(self.repository, tag)) {
            return Some(TagReason::Protected(why));
        }
        let pattern = rule.keep_tags.iter().find(|pattern| pattern.matches(tag.as_str()))?;
        Some(TagReason::Named(pattern.to_string()))
    }

    /// Forgets what was counted.
    pub(in crate::store) fn forget(&mut self) {
        self.rules.iter_mut().for_each(|(_, _, newest)| newest.0.clear());
    }

    /// Counts a tag, unless it is attached to an image that is there.
    pub(in crate::store) fn count(&mut self, record: &TagRecord, is_attached: bool) {
        if is_attached {
            return;
        }
        let Some(place) = self.first_rule(&record.tag).filter(|_| record.pushed_at <= self.now) else {
            return;
        };
        let rule = self.rules[place].1;
        if let Some(count) = rule.keep_newest
            && self.by_name(rule, &record.tag).is_none()
        {
            self.rules[place].2.add(record, count);
        }
    }

    /// Judges a tag, after all were counted. One that is attached to an image that is there stays.
    pub(in crate::store) fn decide(&self, record: TagRecord, is_attached: bool) -> TagDecision {
        let found = self.first_rule(&record.tag).map(|place| &self.rules[place]);
        let reason = match found {
            None if is_internal(self.repository) => TagReason::Internal,
            None => TagReason::NoRule,
            Some((_, rule, newest)) => match image_of(&record).filter(|_| is_attached) {
                Some(image) => self.by_name(rule, &record.tag).unwrap_or(TagReason::Attached(image)),
                None => {
                    self.by_name(rule, &record.tag).unwrap_or_else(|| self.by_time(rule, newest, &record))
                }
            },
        };
        let rule = found.map(|(at, ..)| *at);
        TagDecision { repository: self.repository.clone(), record, rule, reason }
    }

    /// What keeps a tag by now that was judged to go: the answers of a policy change when somebody edits it.
    pub(in crate::store) fn kept_since(&self, decision: &TagDecision) -> Option<TagReason> {
        let place = self.first_rule(&decision.record.tag).filter(|_| decision.goes())?;
        self.by_name(self.rules[place].1, &decision.record.tag)
    }

    /// The last time at which a tag that goes may have been pulled.
    pub(in crate::store) fn unpulled_since(&self, decision: &TagDecision) -> Option<i64> {
        let (_, rule, _) = self.rules.iter().find(|(at, ..)| decision.rule == Some(*at))?;
        Some(self.now.saturating_sub(rule.pulled_within()?))
    }

    /// How many tags were counted as the newest.
    pub(in crate::store) fn counted(&self) -> usize {
        self.rules.iter().map(|(_, _, newest)| newest.0.len()).sum()
    }

    /// The tags that were counted as the newest by the rules that delete some of these. As long as they are there, a rule keeps
    /// as many as it says. `None` when one of them is protected by now, and so takes no place.
    pub(in crate::store) fn places(&self, decisions: &[TagDecision]) -> Option<Vec<ManifestReference>> {
        let mut places = Vec::new();
        for (at, rule, newest) in &self.rules {
            if decisions.iter().any(|decision| decision.goes() && decision.rule == Some(*at)) {
                for Reverse((_, tag)) in &newest.0 {
                    if self.by_name(rule, tag).is_some() {
                        return None;
                    }
                    places.push(tag.clone().into());
                }
            }
        }
        Some(places)
    }

    fn by_time(&self, rule: &RetentionRule, newest: &Newest, record: &TagRecord) -> TagReason {
        if record.pushed_at > self.now {
            return TagReason::Ahead;
        }
        let young_until = rule.age().map(|age| record.pushed_at.saturating_add(age));
        let young = young_until.filter(|until| *until > self.now);
        if let Some(count) = rule.keep_newest.filter(|count| newest.has(record, *count)) {
            return TagReason::Newest { count, young_until: young };
        }
        let pulled_until = match (rule.pulled_within(), self.noted_since) {
            (Some(_), None) => return TagReason::Unnoted,
            (Some(within), Some(since)) => {
                let last = record.pulled_at.unwrap_or(i64::MIN).max(record.pushed_at).max(since);
                Some(last.saturating_add(within))
            }
            (None, _) => None,
        };
        match (young, pulled_until.filter(|until| *until > self.now)) {
            (Some(young), Some(until)) if until > young => TagReason::Pulled { until },
            (Some(until), _) => TagReason::Young { until },
            (None, Some(until)) => TagReason::Pulled { until },
            (None, None) => TagReason::Expired { newer: rule.keep_newest, young_until, pulled_until },
        }
    }
}

impl RetentionRules {
    /// Decides about all tags of a repository, in their order, at a time in seconds since 1970. The pulls in them are taken as all
    /// that there were. Tags that belong to an image by
    /// their name stay ([`TagReason::Attached`]): only a store knows whether the image is there.
    pub fn plan(
        &self,
        repository: &RepositoryName,
        tags: &[TagRecord],
        protection: Option<&TagProtection>,
        now: i64,
    ) -> Vec<TagDecision> {
        let mut judge = Judge::new(self, repository, protection, (now, Some(i64::MIN)));
        let is_attached = |record: &TagRecord| image_of(record).is_some();
        tags.iter().for_each(|record| judge.count(record, is_attached(record)));
        tags.iter().map(|record| judge.decide(record.clone(), is_attached(record))).collect()
    }
}
