//! Retention of tags on the metadata backend.
//!
//! ```text
//!   all tags, in pages ──▶ count the newest            ◀── again, when one of them is gone ──┐
//!   all tags, in pages ──▶ judge some ──▶ are those that were counted still there? ──▶ delete ┘
//! ```
//!
//! # Invariants
//! - A run judges by the time of the backend at its beginning. It ends with an error when the clock goes back meanwhile, because
//!   what is pushed then would look old. The transaction that deletes a tag checks that, too.
//! - The tags of a repository are read twice, in pages: to count the newest, and to judge each one. What changes in between
//!   is newer than what was counted, or is left alone. Before some tags are deleted, those that were counted as the newest are
//!   looked for: when somebody has deleted one of them, all are counted again.
//! - Tags are deleted in a task of its own, which tells the observer: when the run is dropped, it is still told of each one. When
//!   the program ends meanwhile, it is told that they may be gone.
//! - A repository that fails does not keep the run from the others.
//! - Several runs at once, also of several processes, delete each tag once. The regular ones take turns: the database knows who
//!   is at it, and when the last run ended.

use super::Composed;
use super::scrub::{HOLD, SAVE};
use crate::reference::{ManifestReference, RepositoryName};
use crate::store::ChangeContext;
use crate::store::blob::BlobBackend;
use crate::store::errors::{check_judged_at, is_clock_back, repository_unknown};
use crate::store::meta::{Change, MetaBackend, TagRecord};
use crate::store::retention::{
    Judge, RetainOptions, Retained, RetentionEnd, RetentionObserver, RetentionTurn, TagDecision, TagReason,
    image_of,
};
use crate::{Error, ErrorKind, Result};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

/// How many repositories or tags are read together, and how many tags are looked for.
const PAGE: usize = 1000;
/// How many tags are judged before others may use the thread, and are deleted together: they share a commit, which leaves room
/// for those that push.
const CHUNK: usize = 32;
/// How often the newest of a repository are counted, while people delete them, before its tags are left to a later run.
const COUNTS: usize = 8;
/// After more than a page of counted tags were looked for, deletions go on for so many times as long, before they are looked for
/// again.
const LOOKING: u32 = 4;

/// A run that is going on.
struct Run<'a, B, M> {
    store: &'a Composed<B, M>,
    options: &'a RetainOptions,
    /// The time by which all tags are judged.
    now: i64,
    /// Since when pulls are noted, if a rule asks about them.
    noted_since: Option<i64>,
    retained: Retained,
    /// Who has the right to delete tags, in a regular run.
    turn: Option<RetentionTurn>,
    /// When the right to delete tags was renewed, and whether another process has it since.
    renewed: Instant,
    is_lost: bool,
    /// Whether all repositories were looked at, also if some of them have failed.
    is_whole: bool,
    /// When many tags that were counted were last looked for, and how long that took.
    looked: Option<(Instant, Duration)>,
}

/// Some tags, each with whether it is attached to an image that is there, and after which one there are more.
struct TagPage {
    tags: Vec<(TagRecord, bool)>,
    after: Option<String>,
}

/// Decisions of which the observer has not been told. When the program ends before they are known, it is told that the tags may
/// be gone.
struct Untold {
    decisions: Vec<TagDecision>,
    observer: Option<RetentionObserver>,
}

impl Untold {
    fn tell(mut self) -> Vec<TagDecision> {
        let decisions = std::mem::take(&mut self.decisions);
        if let Some(observer) = &self.observer {
            decisions.iter().for_each(|decision| observer(decision));
        }
        decisions
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        let Some(observer) = &self.observer else { return };
        for decision in self.decisions.iter_mut().filter(|decision| decision.goes()) {
            decision.reason = TagReason::Unconfirmed;
            observer(decision);
        }
    }
}

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::retain`].
    pub(super) async fn retain_tags(&self, options: &RetainOptions) -> Result<Retained> {
        if !options.dry_run {
            self.writable()?;
        }
        let now = self.0.meta.fetch_time().await?;
        let noted_since = match options.rules.asks_about_pulls() {
            true => self.0.meta.pulls_noted_since().await?,
            false => None,
        };
        let (retained, renewed) = (Retained::default(), Instant::now());
        let turn = options.turn.filter(|_| !options.dry_run && options.repository.is_none());
        let mut run = Run {
            store: self,
            options,
            now,
            noted_since,
            retained,
            turn,
            renewed,
            is_lost: false,
            is_whole: false,
            looked: None,
        };
        let Some(turn) = turn else { return run.go().await.map(|()| run.retained) };
        if let Some(end) = run.begin(turn).await? {
            return Ok(Retained { end, ..run.retained });
        }
        let outcome = run.go().await;
        if run.is_lost {
            let error = outcome.err();
            tracing::warn!(?error, "another process has taken over the retention of tags");
            return Ok(Retained { end: RetentionEnd::LeftToAnother, ..run.retained });
        }
        // A run that has ended early leaves the next attempt to all.
        let ended_at = match run.is_whole {
            true => self.0.meta.fetch_time().await.ok(),
            false => None,
        };
        let hold = Change::HoldRetention { holder: turn.holder, seconds: 0, ended_at };
        let held = self.0.meta.write(hold).await;
        outcome?;
        match held? {
            0 => Ok(Retained { end: RetentionEnd::LeftToAnother, ..run.retained }),
            _ => Ok(Retained { last_run: ended_at, ..run.retained }),
        }
    }

    /// Deletes the tags that go, and tells of all. Returns what it did, and the first error.
    async fn delete_tags(
        self,
        decisions: Vec<TagDecision>,
        unpulled: Vec<Option<i64>>,
        judged_at: i64,
        observer: Option<RetentionObserver>,
    ) -> (Vec<TagDecision>, Result<()>) {
        let mut untold = Untold { decisions, observer };
        let all = untold.decisions.iter().zip(unpulled);
        let going = all.filter(|(decision, _)| decision.goes()).map(|(decision, unpulled_since)| {
            let (repository, record) = (decision.repository.clone(), decision.record.clone());
            self.0.meta.write(Change::ExpireTag { repository, record, judged_at, unpulled_since })
        });
        let mut written = join_all(going.collect::<Vec<_>>()).await.into_iter();
        let mut failed = Ok(());
        untold.decisions.retain_mut(|decision| {
            if !decision.goes() {
                return true;
            }
            match written.next() {
                Some(Ok(1)) => {}
                Some(Ok(_)) => decision.reason = TagReason::Changed,
                Some(Err(e)) => {
                    let is_refused = is_clock_back(&e) || e.kind() == ErrorKind::Unsupported;
                    failed = std::mem::replace(&mut failed, Ok(())).and(Err(e));
                    decision.reason = TagReason::Unconfirmed;
                    return !is_refused;
                }
                None => return false,
            }
            true
        });
        (untold.tell(), failed)
    }
}

impl<B: BlobBackend, M: MetaBackend> Run<'_, B, M> {
    /// Takes the right to delete tags, if a run is due. Returns why it is not begun.
    async fn begin(&mut self, turn: RetentionTurn) -> Result<Option<RetentionEnd>> {
        let meta = &self.store.0.meta;
        self.retained.last_run = meta.last_retention().await?;
        if !turn.is_due(self.retained.last_run, self.now) {
            return Ok(Some(RetentionEnd::NotDue));
        }
        let hold = |seconds| Change::HoldRetention { holder: turn.holder, seconds, ended_at: None };
        if meta.write(hold(HOLD)).await? == 0 {
            return Ok(Some(RetentionEnd::LeftToAnother));
        }
        // Another process may have ended a run before.
        self.retained.last_run = meta.last_retention().await?;
        if turn.is_due(self.retained.last_run, self.now) {
            return Ok(None);
        }
        meta.write(hold(0)).await?;
        Ok(Some(RetentionEnd::NotDue))
    }

    /// Renews the right to delete tags when it is time.
    async fn keep(&mut self) -> Result<()> {
        let is_fresh = self.renewed.elapsed() < SAVE;
        let Some(turn) = self.turn.filter(|_| !is_fresh) else { return Ok(()) };
        let hold = Change::HoldRetention { holder: turn.holder, seconds: HOLD, ended_at: None };
        if self.store.0.meta.write(hold).await? == 0 {
            self.is_lost = true;
            return Err(Error::new(ErrorKind::Unavailable, "another process deletes old tags"));
        }
        self.renewed = Instant::now();
        Ok(())
    }

    async fn go(&mut self) -> Result<()> {
        let Some(repository) = &self.options.repository else { return self.all().await };
        match self.repository(repository).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(repository_unknown(repository)),
            Err(e) => Err(self.counted(e)),
        }
    }

    async fn all(&mut self) -> Result<()> {
        let (mut after, mut first, mut failures) = (None::<String>, None, 0u64);
        loop {
            let page = self.store.0.meta.repositories(after.as_deref(), PAGE).await?;
            for repository in &page.items {
                let Err(error) = self.repository(repository).await else { continue };
                let error = error.with_context("repository", repository);
                // The others would fail in the same way.
                if matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Unsupported | ErrorKind::StorageFull
                ) {
                    return Err(self.counted(error));
                }
                tracing::warn!(%repository, %error, "the tags of a repository cannot be judged or deleted");
                failures += 1;
                first.get_or_insert(error);
            }
            after = page.items.last().map(ToString::to_string);
            if !page.more || after.is_none() {
                break;
            }
        }
        self.is_whole = true;
        match first {
            Some(error) => Err(self.counted(error).with_context("failed repositories", failures)),
            None => Ok(()),
        }
    }

    /// An error that ends the run, with what was done before.
    fn counted(&self, error: Error) -> Error {
        error.with_context("deleted tags", self.retained.removed)
    }

    /// Returns whether the repository exists, as far as it was looked for.
    async fn repository(&mut self, repository: &RepositoryName) -> Result<bool> {
        let options = self.options;
        let times = (self.now, self.noted_since);
        let mut judge = Judge::new(&options.rules, repository, options.protection.as_ref(), times);
        if judge.has_rules() {
            self.retained.repositories += 1;
        } else if options.repository.is_none() {
            return Ok(true);
        }
        if judge.counts() && !self.count(repository, &mut judge).await? {
            return Ok(false);
        }
        let mut after: Option<String> = None;
        loop {
            let Some(page) = self.page(repository, after, judge.has_rules()).await? else { return Ok(false) };
            self.retained.tags += page.tags.len() as u64;
            for tags in page.tags.chunks(CHUNK) {
                let Some(decisions) = self.decide(repository, &mut judge, tags).await? else {
                    return Ok(false);
                };
                self.apply(&judge, decisions).await?;
            }
            after = page.after;
            if after.is_none() {
                return Ok(true);
            }
        }
    }

    /// Counts the newest tags. Returns whether the repository exists.
    async fn count(&mut self, repository: &RepositoryName, judge: &mut Judge<'_>) -> Result<bool> {
        judge.forget();
        self.looked = None;
        let mut after: Option<String> = None;
        loop {
            let Some(page) = self.page(repository, after, true).await? else { return Ok(false) };
            for tags in page.tags.chunks(CHUNK) {
                tags.iter().for_each(|(record, is_attached)| judge.count(record, *is_attached));
                tokio::task::yield_now().await;
            }
            after = page.after;
            if after.is_none() {
                return Ok(true);
            }
        }
    }

    /// `None` when there is no such repository.
    async fn page(
        &mut self,
        repository: &RepositoryName,
        after: Option<String>,
        finds_images: bool,
    ) -> Result<Option<TagPage>> {
        self.keep().await?;
        let meta = &self.store.0.meta;
        check_judged_at(self.now, meta.fetch_time().await?)?;
        let Some(page) = meta.tag_records(repository, after.as_deref(), PAGE).await? else { return Ok(None) };
        let after = page.items.last().filter(|_| page.more).map(|record| record.tag.to_string());
        let mut tags: Vec<(TagRecord, bool)> = page.items.into_iter().map(|record| (record, false)).collect();
        if finds_images {
            let belongs = |(_, (record, _)): &(usize, &(TagRecord, bool))| image_of(record).is_some();
            let places: Vec<usize> =
                tags.iter().enumerate().filter(belongs).map(|(place, _)| place).collect();
            let images =
                places.iter().filter_map(|place| image_of(&tags[*place].0)).map(ManifestReference::Digest);
            let are_there = self.are_there(repository, &images.collect::<Vec<_>>()).await?;
            places.iter().zip(are_there).for_each(|(place, is_there)| tags[*place].1 = is_there);
        }
        Ok(Some(TagPage { tags, after }))
    }

    async fn are_there(
        &mut self,
        repository: &RepositoryName,
        references: &[ManifestReference],
    ) -> Result<Vec<bool>> {
        let mut are_there = Vec::with_capacity(references.len());
        for references in references.chunks(PAGE) {
            self.keep().await?;
            are_there.extend(self.store.0.meta.has_manifests(repository, references).await?);
        }
        Ok(are_there)
    }

    /// Judges some tags, by a count that holds now; `None` when there is no such repository.
    async fn decide(
        &mut self,
        repository: &RepositoryName,
        judge: &mut Judge<'_>,
        tags: &[(TagRecord, bool)],
    ) -> Result<Option<Vec<TagDecision>>> {
        self.keep().await?;
        for _ in 0..COUNTS {
            // A backend in memory never waits.
            tokio::task::yield_now().await;
            let decisions: Vec<TagDecision> =
                tags.iter().map(|(record, is_attached)| judge.decide(record.clone(), *is_attached)).collect();
            if self.options.dry_run {
                return Ok(Some(decisions));
            }
            let (is_many, began) = (judge.counted() > PAGE, Instant::now());
            if is_many && self.looked.is_some_and(|(at, took)| at.elapsed() < took * LOOKING) {
                return Ok(Some(decisions));
            }
            if let Some(places) = judge.places(&decisions)
                && self.are_there(repository, &places).await?.into_iter().all(|is_there| is_there)
            {
                self.looked = Some((Instant::now(), began.elapsed()));
                return Ok(Some(decisions));
            }
            if !self.count(repository, judge).await? {
                return Ok(None);
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the newest tags are deleted faster than they can be counted: a later run does the rest",
        ))
    }

    /// Deletes the tags that go, unless it is a dry run, and tells of all.
    async fn apply(&mut self, judge: &Judge<'_>, mut decisions: Vec<TagDecision>) -> Result<()> {
        let mut outcome = Ok(());
        if self.options.dry_run {
            decisions.iter().for_each(|decision| self.options.report(decision));
        } else {
            for decision in &mut decisions {
                if let Some(reason) = judge.kept_since(decision) {
                    decision.reason = reason;
                }
            }
            let (store, observer) = (self.store.clone(), self.options.observer.clone());
            let by = ChangeContext::current().map(|by| ChangeContext::clone(&by)).unwrap_or_default();
            let unpulled = decisions.iter().map(|decision| judge.unpulled_since(decision)).collect();
            let deleting = tokio::spawn(by.scope(store.delete_tags(decisions, unpulled, self.now, observer)));
            (decisions, outcome) = deleting
                .await
                .map_err(|e| Error::internal("a deletion of tags was interrupted").with_source(e))?;
        }
        for decision in &decisions {
            self.retained.removed += u64::from(decision.goes());
            self.retained.changed += u64::from(decision.reason == TagReason::Changed);
        }
        outcome
    }
}
