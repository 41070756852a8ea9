//! Scrubbing on the two backends.
//!
//! # Invariants
//! - A blob is damaged when its bytes were read twice, and its row was the same before and after: they were read whole and
//!   differ, or ended early, or were definitely not there. Any other failure says nothing about them.
//! - Bytes under a digest are quarantined where they are: they are moved away, so the blob is missing until a push puts it
//!   there again. A mark in the database could outlive a push, whose bytes come after its link.
//! - Bytes with a key of their own stay, and their row is marked, if it still names this key. A push has another key, and its
//!   link ends the mark.
//! - Lists are read in pages: memory does not depend on the size of the store.

use super::Composed;
use crate::breaker::is_refusal;
use crate::store::blob::{BlobBackend, BlobKey};
use crate::store::meta::{BlobRecord, Change, MetaBackend, ScrubPlace};
use crate::store::scrub::{BlobDamage, DamageKind, ScrubEnd, ScrubEvent, ScrubOptions, Scrubbed};
use crate::{Digest, Error, ErrorKind, Result};
use futures::StreamExt as _;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How many rows are read together.
const PAGE: usize = 128;
/// What a blob costs at least of the rate, because each is a request.
const LEAST: u64 = 64 * 1024;
/// The least rate: the right to scrub is kept between two pieces of a blob.
const LEAST_RATE: u64 = 4096;
/// How long the right to scrub or to delete old tags lasts, in seconds, when it is not renewed.
pub(super) const HOLD: i64 = 300;
/// How often the right is renewed and the place recorded.
pub(super) const SAVE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(10) };
/// After so many blobs in a row that cannot be read, the storage is away, and not a blob.
const MOST_UNREADABLE: u32 = 8;
/// How often a blob is looked at that changes meanwhile.
const LOOKS: u32 = 3;
/// How long bytes may be missing that a push is about to put there.
const MISSING: Duration = Duration::from_millis(300);
/// How many repositories and manifests of a damaged blob are named.
const NAMED: usize = 10;
/// How long bytes that were moved away are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is known of a blob.
enum Verdict {
    Whole,
    Damaged(DamageKind),
    Unreadable(Error),
}

/// A scrub that is going on.
struct Run<'a, M> {
    meta: &'a M,
    options: &'a ScrubOptions,
    /// The time before which nothing more is read.
    next: Instant,
    saved: Option<Instant>,
    place: ScrubPlace,
    /// Whether another process has the right to scrub.
    is_lost: bool,
    bytes: u64,
}

impl<M: MetaBackend> Run<'_, M> {
    /// Renews the right to scrub when it is time, and records the place.
    async fn keep(&mut self) -> Result<()> {
        let is_fresh = self.saved.is_some_and(|at| at.elapsed() < SAVE);
        let Some(turn) = self.options.turn.filter(|_| !is_fresh) else { return Ok(()) };
        let place = Some(self.place.clone());
        let change = Change::HoldScrub { holder: turn.holder, seconds: HOLD, place };
        if self.meta.write(change).await? == 0 {
            self.is_lost = true;
            return Err(Error::new(ErrorKind::Conflict, "another process scrubs the store"));
        }
        self.saved = Some(Instant::now());
        Ok(())
    }

    /// Waits until bytes that were read fit into the rate.
    async fn spend(&mut self, bytes: u64) {
        let Some(rate) = self.options.rate else { return };
        let time = Duration::from_secs_f64(bytes as f64 / rate.max(LEAST_RATE) as f64);
        self.next = self.next.max(Instant::now()) + time;
        tokio::time::sleep_until(self.next).await;
    }

    async fn read(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        self.options.report(&ScrubEvent::Read(bytes));
        self.spend(bytes).await;
        self.keep().await
    }
}

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::scrub`].
    pub(super) async fn scrub_blobs(&self, options: &ScrubOptions) -> Result<Scrubbed> {
        if options.quarantine || options.turn.is_some() {
            self.writable()?;
        }
        let mut run = Run {
            meta: &self.0.meta,
            options,
            next: Instant::now(),
            saved: None,
            place: ScrubPlace::default(),
            is_lost: false,
            bytes: 0,
        };
        let mut scrubbed = Scrubbed::default();
        if let Some(turn) = options.turn {
            run.place = self.0.meta.scrub_place().await?;
            if self.is_due(&run.place, turn.every) {
                let hold = Change::HoldScrub { holder: turn.holder, seconds: HOLD, place: None };
                if self.0.meta.write(hold).await? == 0 {
                    return Ok(Scrubbed { end: ScrubEnd::LeftToAnother, ..scrubbed });
                }
                // Another process may have ended the round before it lost the right.
                run.place = self.0.meta.scrub_place().await?;
            }
            scrubbed.last_round = run.place.ended_at;
            if !self.is_due(&run.place, turn.every) {
                return Ok(Scrubbed { end: ScrubEnd::NotDue, ..scrubbed });
            }
            run.options.report(&ScrubEvent::Begins(scrubbed.last_round));
        }
        let outcome = self.scrub_all(&mut run, &mut scrubbed).await;
        scrubbed.bytes = run.bytes;
        match outcome {
            Err(_) if run.is_lost => return Ok(Scrubbed { end: ScrubEnd::LeftToAnother, ..scrubbed }),
            other => other?,
        }
        if let Some(turn) = options.turn {
            let ended_at = Some(self.1.now());
            let place = Some(ScrubPlace { after: None, ended_at });
            self.0.meta.write(Change::HoldScrub { holder: turn.holder, seconds: 0, place }).await?;
            scrubbed.last_round = ended_at;
        }
        if options.quarantine
            && let Some(before) = SystemTime::now().checked_sub(KEPT)
            && let Err(error) = self.0.blobs.forget_set_aside(before).await
        {
            tracing::warn!(%error, "old bytes in quarantine cannot be removed");
        }
        Ok(scrubbed)
    }

    /// Whether a round is to go on or to begin. Asking for that writes nothing.
    fn is_due(&self, place: &ScrubPlace, every: Duration) -> bool {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        place.after.is_some() || place.ended_at.is_none_or(|at| at.saturating_add(every) <= self.1.now())
    }

    async fn scrub_all(&self, run: &mut Run<'_, M>, scrubbed: &mut Scrubbed) -> Result<()> {
        let mut after = run.place.after.clone();
        let mut failures = 0;
        loop {
            let page = self.0.meta.linked_blobs(after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            for record in page {
                run.keep().await?;
                let verdict = self.scrub_one(&record, run).await?;
                scrubbed.blobs += 1;
                match verdict {
                    Verdict::Whole => run.options.report(&ScrubEvent::Whole(&record.digest)),
                    Verdict::Damaged(kind) => {
                        scrubbed.damaged += 1;
                        let damage = self.damage_of(&record.digest, record.size, kind).await?;
                        run.options.report(&ScrubEvent::Damaged(&damage));
                    }
                    Verdict::Unreadable(error) => {
                        scrubbed.unreadable += 1;
                        failures += 1;
                        tracing::warn!(digest = %record.digest, %error, "a blob cannot be read");
                        run.options.report(&ScrubEvent::Unreadable(&record.digest, &error));
                        if failures >= MOST_UNREADABLE {
                            return Err(error);
                        }
                        after = Some(record.digest);
                        continue;
                    }
                }
                failures = 0;
                // Those before that could not be read are not read again in this round.
                run.place.after = Some(record.digest.clone());
                after = Some(record.digest);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reads a blob, and again if it seems damaged.
    async fn scrub_one(&self, record: &BlobRecord, run: &mut Run<'_, M>) -> Result<Verdict> {
        if record.quarantined {
            return Ok(Verdict::Damaged(DamageKind::Quarantined));
        }
        let before = run.bytes;
        let read = self.matches(&record.key, &record.digest, record.size, Some(run)).await?;
        run.spend(LEAST.saturating_sub(run.bytes - before)).await;
        match read {
            Ok(true) => Ok(Verdict::Whole),
            // Nothing was read, and the round goes on here later.
            Err(e) if is_refusal(&e) => Err(e),
            Err(e) if e.kind() != ErrorKind::Corrupt => Ok(Verdict::Unreadable(e)),
            Ok(false) | Err(_) => self.look_again(&record.digest, run.options.quarantine).await,
        }
    }

    /// Whether so many bytes under a key match the digest. The inner error is one of reading.
    async fn matches(
        &self,
        key: &BlobKey,
        digest: &Digest,
        size: u64,
        mut run: Option<&mut Run<'_, M>>,
    ) -> Result<Result<bool>> {
        let mut bytes = match self.0.blobs.read(key, size, 0, size).await {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e)),
        };
        let (mut hasher, mut count) = (digest.algorithm().hasher(), 0);
        while let Some(piece) = bytes.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(e) => return Ok(Err(e)),
            };
            hasher.update(&piece);
            count += piece.len() as u64;
            if let Some(run) = &mut run {
                run.read(piece.len() as u64).await?;
            }
        }
        Ok(Ok(count == size && hasher.finish() == *digest))
    }

    async fn row(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        Ok(self.0.meta.blobs(std::slice::from_ref(digest)).await?.into_iter().next().flatten())
    }

    /// Looks at a blob that seems damaged, and quarantines it if it is.
    async fn look_again(&self, digest: &Digest, quarantine: bool) -> Result<Verdict> {
        for _ in 0..LOOKS {
            let Some(record) = self.row(digest).await?.filter(|record| record.condemned.is_none()) else {
                return Ok(Verdict::Whole);
            };
            if record.quarantined {
                return Ok(Verdict::Damaged(DamageKind::Quarantined));
            }
            let (verdict, is_garbled) = self.examine(&record).await?;
            let Some(verdict) = verdict else { continue };
            let Verdict::Damaged(kind) = verdict else { return Ok(verdict) };
            if self.row(digest).await?.as_ref() != Some(&record) {
                continue;
            }
            if quarantine && kind == DamageKind::Missing {
                // Whole bytes may lie aside, where a process that died has put them.
                if let Err(e) = self.0.blobs.set_aside(&record.key, digest).await {
                    return Ok(Verdict::Unreadable(e));
                }
                if !matches!(self.examine(&record).await?, (Some(Verdict::Damaged(DamageKind::Missing)), _)) {
                    continue;
                }
            }
            if !quarantine || !is_garbled {
                return Ok(Verdict::Damaged(kind));
            }
            match self.0.blobs.set_aside(&record.key, digest).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(e) => return Ok(Verdict::Unreadable(e)),
            }
            if self.0.blobs.has_own_keys() {
                let change = Change::QuarantineBlob { digest: digest.clone(), key: record.key };
                if self.0.meta.write(change).await? == 0 {
                    continue;
                }
            }
            return Ok(Verdict::Damaged(kind));
        }
        let error = Error::new(ErrorKind::Unavailable, "the blob changes while it is read");
        Ok(Verdict::Unreadable(error.with_context("digest", digest)))
    }

    /// What the bytes of a row are; nothing when they change meanwhile. Says also whether there are bytes that do not match.
    async fn examine(&self, record: &BlobRecord) -> Result<(Option<Verdict>, bool)> {
        let sizes = async || {
            let sizes = self.0.blobs.sizes(std::slice::from_ref(&record.key)).await;
            sizes.map(|sizes| sizes.into_iter().next().flatten())
        };
        let unreadable = |e| Ok((Some(Verdict::Unreadable(e)), false));
        let stored = match sizes().await {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                tokio::time::sleep(MISSING).await;
                return match sizes().await {
                    Ok(None) => Ok((Some(Verdict::Damaged(DamageKind::Missing)), false)),
                    Ok(Some(_)) => Ok((None, false)),
                    Err(e) => unreadable(e),
                };
            }
            Err(e) => return unreadable(e),
        };
        let is_as_long = stored == record.size;
        match self.matches(&record.key, &record.digest, stored, None).await? {
            Ok(true) if is_as_long => Ok((Some(Verdict::Whole), false)),
            Ok(matches) => {
                let kind = if is_as_long { DamageKind::Content } else { DamageKind::Size { stored } };
                Ok((Some(Verdict::Damaged(kind)), !matches))
            }
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok((None, false)),
            Err(e) => unreadable(e),
        }
    }

    /// What is known of a damaged blob. The log names it.
    async fn damage_of(&self, digest: &Digest, size: u64, kind: DamageKind) -> Result<BlobDamage> {
        let repositories = self.0.meta.repositories_with(digest, None, NAMED).await?.items;
        let manifests = self.0.meta.manifests_with(digest, NAMED).await?;
        let damage = BlobDamage { digest: digest.clone(), size, kind, repositories, manifests };
        tracing::error!("a blob is damaged and must be pushed again: {damage}");
        Ok(damage)
    }

    /// See [`crate::store::RegistryStore::scrub_blob`].
    pub(super) async fn scrub_suspect(&self, digest: &Digest) -> Result<bool> {
        self.writable()?;
        match self.look_again(digest, true).await? {
            Verdict::Whole => Ok(false),
            Verdict::Damaged(kind) => {
                let size = self.row(digest).await?.map_or(0, |record| record.size);
                self.damage_of(digest, size, kind).await.map(|_| true)
            }
            Verdict::Unreadable(e) => Err(e),
        }
    }
}
