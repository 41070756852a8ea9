//! Retention of tags on the metadata backend.
//!
//! # Invariants
//! - A run judges by the time of its beginning. It ends with an error when the clock goes back meanwhile, because what is
//!   pushed then would look old.
//! - The tags of a repository are read twice, in pages: to count the newest, and to judge each one. What changes in between
//!   is newer than what was counted, or is left alone. A tag that somebody deletes in between has kept its place.
//! - Several runs at once, also of several processes, delete each tag once.

use super::Composed;
use crate::reference::RepositoryName;
use crate::store::blob::BlobBackend;
use crate::store::errors::repository_unknown;
use crate::store::meta::{Change, MetaBackend, TagRecord};
use crate::store::retention::{Judge, RetainOptions, Retained, TagDecision, TagReason};
use crate::{Error, ErrorKind, Result};
use futures::future::join_all;

/// How many repositories or tags are read together.
const PAGE: usize = 1000;
/// How many tags are deleted together: they share a commit.
const DELETIONS: usize = 128;
/// How far the clock may go back, in seconds: that of a database is read with such an error.
const SLACK: i64 = 2;

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::retain`].
    pub(super) async fn retain_tags(&self, options: &RetainOptions) -> Result<Retained> {
        if !options.dry_run {
            self.writable()?;
        }
        let (now, mut retained) = (self.1.now(), Retained::default());
        if let Some(repository) = &options.repository {
            let is_there = self.retain_in(repository, options, now, &mut retained).await?;
            return if is_there { Ok(retained) } else { Err(repository_unknown(repository)) };
        }
        let mut after: Option<String> = None;
        loop {
            let page = self.0.meta.repositories(after.as_deref(), PAGE).await?;
            for repository in &page.items {
                self.retain_in(repository, options, now, &mut retained).await?;
            }
            after = page.items.last().map(ToString::to_string);
            if !page.more || after.is_none() {
                return Ok(retained);
            }
        }
    }

    /// Returns whether the repository exists, as far as it was looked for.
    async fn retain_in(
        &self,
        repository: &RepositoryName,
        options: &RetainOptions,
        now: i64,
        retained: &mut Retained,
    ) -> Result<bool> {
        let mut judge = Judge::new(&options.rules, repository, options.protection.as_ref(), now);
        if judge.has_rules() {
            retained.repositories += 1;
        } else if options.repository.is_none() {
            return Ok(true);
        }
        let mut after: Option<String> = None;
        while judge.counts() {
            let Some((page, last)) = self.tag_page(repository, after, now).await? else { return Ok(false) };
            page.iter().for_each(|record| judge.count(record));
            after = last;
            if after.is_none() {
                break;
            }
        }
        let mut after: Option<String> = None;
        loop {
            let Some((page, last)) = self.tag_page(repository, after, now).await? else { return Ok(false) };
            retained.tags += page.len() as u64;
            let decisions: Vec<TagDecision> = page.into_iter().map(|record| judge.decide(record)).collect();
            for decisions in decisions.chunks(DELETIONS) {
                self.apply(options, decisions.to_vec(), retained).await?;
            }
            after = last;
            if after.is_none() {
                return Ok(true);
            }
        }
    }

    /// Some tags, and after which one there are more; `None` when there is no such repository.
    async fn tag_page(
        &self,
        repository: &RepositoryName,
        after: Option<String>,
        began: i64,
    ) -> Result<Option<(Vec<TagRecord>, Option<String>)>> {
        // A backend in memory never waits.
        tokio::task::yield_now().await;
        if self.1.now() < began.saturating_sub(SLACK) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the clock went back while tags were judged by their age: a later run does the rest",
            ));
        }
        let Some(page) = self.0.meta.tag_records(repository, after.as_deref(), PAGE).await? else {
            return Ok(None);
        };
        let last = page.items.last().filter(|_| page.more).map(|record| record.tag.to_string());
        Ok(Some((page.items, last)))
    }

    /// Deletes the tags that go, and reports all.
    async fn apply(
        &self,
        options: &RetainOptions,
        mut decisions: Vec<TagDecision>,
        retained: &mut Retained,
    ) -> Result<()> {
        let mut failed = Ok(());
        if !options.dry_run {
            let going = decisions.iter().filter(|decision| decision.goes()).map(|decision| {
                let (repository, record) = (decision.repository.clone(), decision.record.clone());
                self.0.meta.write(Change::ExpireTag { repository, record })
            });
            let mut written = join_all(going.collect::<Vec<_>>()).await.into_iter();
            decisions.retain_mut(|decision| {
                if !decision.goes() {
                    return true;
                }
                match written.next() {
                    Some(Ok(1)) => true,
                    Some(Ok(_)) => {
                        decision.reason = TagReason::Changed;
                        true
                    }
                    Some(Err(e)) => {
                        failed = Err(e);
                        false
                    }
                    None => false,
                }
            });
        }
        for decision in &decisions {
            retained.removed += u64::from(decision.goes());
            retained.changed += u64::from(decision.reason == TagReason::Changed);
            options.report(decision);
        }
        failed
    }
}
