//! Quotas. What a namespace uses is counted when it is asked for: there are no counts that could be wrong.

use super::{MemoryMeta, State};
use crate::reference::RepositoryName;
use crate::store::meta::ManifestChange;
use crate::store::{QuotaCheck, QuotaCounts, QuotaLimits, QuotaNamespace, QuotaRules, QuotaUse};
use crate::{Digest, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The rules, and the namespaces that were counted once.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    rules: Arc<QuotaRules>,
    counted: BTreeSet<QuotaNamespace>,
}

/// What a namespace has.
#[derive(Default)]
struct Content<'a> {
    blobs: HashSet<&'a Digest>,
    manifests: HashMap<&'a Digest, u64>,
    counts: QuotaCounts,
}

impl State {
    fn content(&self, namespace: &QuotaNamespace) -> Content<'_> {
        let mut content = Content::default();
        let is_in = |name: &str| match namespace {
            QuotaNamespace::All | QuotaNamespace::Each => true,
            QuotaNamespace::Of(of) => {
                name.strip_prefix(of.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        for (_, repository) in self.repositories.iter().filter(|(name, _)| is_in(name)) {
            content.blobs.extend(repository.blobs.keys());
            let manifests = repository.manifests.iter();
            content.manifests.extend(manifests.map(|(digest, one)| (digest, one.bytes().len() as u64)));
            content.counts.tags += repository.tags.len() as u64;
            let kept = repository.deleted.manifests();
            content.counts.manifests += (repository.manifests.len() + kept.len()) as u64;
            content.manifests.extend(kept);
        }
        let blobs = content.blobs.iter().filter_map(|digest| self.blobs.get(*digest));
        content.counts.bytes = blobs.map(|blob| blob.size).chain(content.manifests.values().copied()).sum();
        content
    }

    fn covering(&self, repository: &RepositoryName) -> Vec<(QuotaNamespace, QuotaLimits)> {
        self.quotas.rules.covering(repository).collect()
    }

    /// Checks that a repository may have a blob of this size.
    pub(super) fn check_link(&self, repository: &RepositoryName, digest: &Digest, size: u64) -> Result<()> {
        for (namespace, limits) in self.covering(repository) {
            let content = self.content(&namespace);
            let before =
                self.blobs.get(digest).filter(|_| content.blobs.contains(digest)).map(|blob| blob.size);
            let bytes = size.saturating_sub(before.unwrap_or_default());
            limits.check(&namespace, content.counts, QuotaCounts { bytes, ..QuotaCounts::default() })?;
        }
        Ok(())
    }

    /// Checks that a repository may have a manifest and its tags.
    pub(super) fn check_put(&self, change: &ManifestChange) -> Result<()> {
        let there = self.find(&change.repository);
        let digest = change.manifest.digest();
        let is_new = there.is_none_or(|r| !r.manifests.contains_key(digest) && !r.deleted.has(digest));
        let tags: BTreeSet<&str> = change.tags.iter().map(|tag| tag.as_str()).collect();
        let tags = tags.into_iter().filter(|tag| there.is_none_or(|r| !r.tags.contains_key(*tag))).count();
        for (namespace, limits) in self.covering(&change.repository) {
            let content = self.content(&namespace);
            let has = !is_new || content.manifests.contains_key(digest);
            let bytes = if has { 0 } else { change.manifest.bytes().len() as u64 };
            let added = QuotaCounts { bytes, tags: tags as u64, manifests: u64::from(is_new) };
            limits.check(&namespace, content.counts, added)?;
        }
        Ok(())
    }

    /// Refuses an upload to a namespace that has no byte left, unless it is one of a blob that the repository has.
    pub(super) fn check_start(&self, repository: &RepositoryName, resends: Option<&Digest>) -> Result<()> {
        if resends.is_some_and(|digest| self.find(repository).is_some_and(|r| r.blobs.contains_key(digest))) {
            return Ok(());
        }
        let covering = self.covering(repository).into_iter();
        covering.filter(|(_, limits)| limits.bytes.is_some()).try_for_each(|(namespace, limits)| {
            limits.check_room(&namespace, self.content(&namespace).counts)
        })
    }

    /// Returns that nothing is left to count.
    pub(super) fn count_namespace(&mut self, namespace: QuotaNamespace) -> u64 {
        if namespace != QuotaNamespace::Each {
            self.quotas.counted.insert(namespace);
        }
        0
    }

    /// Returns that it has looked at all.
    pub(super) fn forget_namespaces(&mut self) -> u64 {
        let is_empty = |namespace: &&QuotaNamespace| {
            let content = self.content(namespace);
            content.counts == QuotaCounts::default() && content.blobs.is_empty()
        };
        let unnamed = self.quotas.counted.iter().filter(|namespace| !self.quotas.rules.names(namespace));
        let empty: Vec<QuotaNamespace> = unnamed.filter(is_empty).cloned().collect();
        self.quotas.counted.retain(|namespace| !empty.contains(namespace));
        0
    }
}

impl MemoryMeta {
    pub(super) fn replace_quotas(&self, rules: Arc<QuotaRules>) {
        let mut state = self.state();
        let of_rules = rules.as_slice().iter().map(|rule| rule.namespace.clone());
        state.quotas.counted.extend(of_rules.filter(|namespace| *namespace != QuotaNamespace::Each));
        state.quotas.rules = rules;
    }

    pub(super) fn largest(&self, repository: &RepositoryName) -> Option<u64> {
        let state = self.state();
        let covering = state.covering(repository).into_iter();
        covering
            .filter_map(|(namespace, limits)| Some(limits.bytes?.max(state.content(&namespace).counts.bytes)))
            .min()
    }

    pub(super) fn uses(&self) -> Vec<QuotaUse> {
        let state = self.state();
        let rules = &state.quotas.rules;
        let mut uses = BTreeMap::new();
        for rule in rules.as_slice().iter().filter(|rule| rule.namespace == QuotaNamespace::Each) {
            let (namespace, limits) = (rule.namespace.clone(), rule.limits);
            let one = QuotaUse { namespace, used: None, counting: None, limits, has_rule: true };
            uses.insert(one.namespace.to_string(), one);
        }
        for namespace in &state.quotas.counted {
            let used = Some(state.content(namespace).counts);
            let limits = rules.limits(namespace).unwrap_or_default();
            let has_rule = rules.names(namespace);
            let one = QuotaUse { namespace: namespace.clone(), used, counting: None, limits, has_rule };
            uses.insert(namespace.to_string(), one);
        }
        uses.into_values().collect()
    }

    pub(super) fn checks(&self) -> Vec<QuotaCheck> {
        let state = self.state();
        let check = |namespace: &QuotaNamespace| {
            let found = state.content(namespace).counts;
            QuotaCheck { namespace: namespace.clone(), recorded: found, found, wrong_rows: 0 }
        };
        state.quotas.counted.iter().map(check).collect()
    }
}
