//! The claim of a writer on a session whose staging area other processes can open.
//!
//! # Invariants
//! - What another writer may have written, and what a client was told of, is replaced by the holder of the claim alone. It
//!   began at the saved offset, and nobody saves on the ground of a claim that another one has had since.
//! - A claim ends by the clock of the database. While its holder works it is prolonged; when that fails for two thirds of
//!   its time, or is refused, the holder stops: it takes no further step. What it had sent is expected to arrive within the
//!   last third. A process that is stopped for that long in the middle of a request to the bucket is not covered, nor is a
//!   machine that is suspended or paused, whose clock stands still meanwhile.
//! - A claim that is not fresh is prolonged before its holder goes on.
//! - After a failure that leaves open whether a part was written, the claim is left to end by itself.

use crate::store::UploadId;
use crate::store::errors::{claimed, is_claimed};
use crate::store::meta::{Change, MetaBackend};
use crate::{Error, Result};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

/// For how many seconds a session is claimed.
pub(super) const SECONDS: i64 = 60;

/// The claim that a handle has, or may get.
#[derive(Debug)]
pub(super) struct Claim {
    id: UploadId,
    /// The saved offset that the writer began at.
    from: u64,
    writer: String,
    seconds: i64,
    /// When it was asked for, the time that it was had.
    since: Option<Instant>,
    /// Whether it was asked for: the answer may have been lost.
    is_asked: bool,
}

impl Claim {
    pub(super) fn new(id: &UploadId, from: u64, seconds: i64) -> Result<Self> {
        let writer = UploadId::random()?.to_string();
        Ok(Self { id: id.clone(), from, writer, seconds, since: None, is_asked: false })
    }

    pub(super) fn writer(&self) -> String {
        self.writer.clone()
    }

    /// Whether there is something that depends on the claim.
    pub(super) fn was_had(&self) -> bool {
        self.since.is_some()
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.max(1).unsigned_abs())
    }

    fn change(&self) -> Change {
        let (id, writer) = (self.id.clone(), self.writer());
        let renews = self.was_had();
        Change::ClaimUpload { id, from: self.from, writer, seconds: self.seconds, renews }
    }

    /// Gets the claim, or prolongs it when some of its time has passed.
    pub(super) async fn get(&mut self, meta: &impl MetaBackend) -> Result<()> {
        // Tests let claims end at once, and go on as a writer does that does not know it yet.
        let is_fresh = |since: Instant| self.seconds <= 0 || since.elapsed() < self.time() / 6;
        if self.since.is_some_and(is_fresh) {
            return Ok(());
        }
        let asked = Instant::now();
        self.is_asked = true;
        meta.write(self.change()).await?;
        // The answer may have come so late that another writer has it.
        if self.seconds > 0 && asked.elapsed() >= self.time() * 2 / 3 {
            return Err(claimed(&self.id, Duration::ZERO));
        }
        self.since = Some(asked);
        Ok(())
    }

    /// Works while the claim holds. One that was not had holds nothing.
    pub(super) async fn hold<T>(
        &mut self,
        meta: &impl MetaBackend,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let since = self.since;
        if since.is_some()
            && let Err(error) = self.get(meta).await
        {
            // Another try comes, and the claim holds meanwhile.
            let holds = since.is_some_and(|since| since.elapsed() < self.time() / 2);
            if is_claimed(&error) || !error.is_retryable() || !holds {
                return Err(error);
            }
        }
        if self.seconds <= 0 {
            return work.await;
        }
        let holds_since = Mutex::new(self.since.unwrap_or_else(Instant::now));
        let (id, most) = (self.id.clone(), self.time() * 2 / 3);
        let mut work = std::pin::pin!(work);
        // A process that was stopped for long takes no further step.
        let held = std::future::poll_fn(|context| {
            let holds = holds_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < most;
            if holds { work.as_mut().poll(context) } else { Poll::Ready(Err(claimed(&id, Duration::ZERO))) }
        });
        tokio::select! {
            biased;
            lost = self.prolong(meta, &holds_since) => Err(lost),
            outcome = held => outcome,
        }
    }

    /// Prolongs the claim until that fails.
    async fn prolong(&mut self, meta: &impl MetaBackend, holds_since: &Mutex<Instant>) -> Error {
        loop {
            tokio::time::sleep(self.time() / 6).await;
            let asked = Instant::now();
            let until = *holds_since.lock().unwrap_or_else(PoisonError::into_inner) + self.time() * 2 / 3;
            let left = until.saturating_duration_since(asked);
            if left.is_zero() {
                return claimed(&self.id, Duration::ZERO);
            }
            match tokio::time::timeout(left, meta.write(self.change())).await {
                Ok(Ok(_)) => {
                    *holds_since.lock().unwrap_or_else(PoisonError::into_inner) = asked;
                    self.since = Some(asked);
                }
                Ok(Err(error)) if !error.is_retryable() || is_claimed(&error) => return error,
                Ok(Err(_)) => {}
                Err(_) => return claimed(&self.id, Duration::ZERO),
            }
        }
    }

    /// Ends the claim. One that cannot be ended now ends later.
    pub(super) async fn release(self, meta: &impl MetaBackend) {
        if self.is_asked
            && let Err(error) =
                meta.write(Change::ReleaseUpload { id: self.id.clone(), writer: self.writer }).await
        {
            tracing::debug!(%error, upload = %self.id, "the claim on an upload ends later");
        }
    }
}

/// Works on a staging area, while the claim holds if there is one.
pub(super) async fn held<T>(
    claim: &mut Option<Claim>,
    meta: &impl MetaBackend,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match claim {
        Some(claim) => claim.hold(meta, work).await,
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::reference::RepositoryName;
    use crate::store::blob::StagedState;
    use crate::store::meta::{MemoryMeta, UploadRecord};

    /// A claim that another writer has got, by a database that did not know it any more.
    async fn taken_over(seconds: i64) -> (MemoryMeta, Claim) {
        let (meta, id) = (MemoryMeta::default(), UploadId::random().unwrap());
        let (repository, state) = (RepositoryName::parse("a").unwrap(), StagedState::default());
        let record = UploadRecord { id: id.clone(), repository, algorithm: Algorithm::Sha256, state };
        meta.write(Change::StartUpload { record, resends: None }).await.unwrap();
        let mut claim = Claim::new(&id, 0, seconds).unwrap();
        claim.get(&meta).await.unwrap();
        meta.write(Change::ReleaseUpload { id: id.clone(), writer: claim.writer() }).await.unwrap();
        let writer = "another".to_owned();
        meta.write(Change::ClaimUpload { id, from: 0, writer, seconds: 600, renews: false }).await.unwrap();
        (meta, claim)
    }

    /// Whether it is the refusal of the backend, which knows how long the other claim lasts.
    fn is_refusal(error: &Error) -> bool {
        is_claimed(error) && error.retry_after().is_some_and(|left| left.as_secs() > 100)
    }

    #[tokio::test]
    async fn a_holder_whose_renewal_is_refused_stops() {
        let (meta, mut claim) = taken_over(2).await;
        let error = claim.hold(&meta, std::future::pending::<Result<()>>()).await.unwrap_err();
        assert!(is_refusal(&error), "{error}");
    }

    /// The process is stopped, here its only thread, while the work waits for something.
    #[tokio::test]
    async fn a_holder_that_was_stopped_for_long_takes_no_further_step() {
        let (meta, id) = (MemoryMeta::default(), UploadId::random().unwrap());
        let (repository, state) = (RepositoryName::parse("a").unwrap(), StagedState::default());
        let record = UploadRecord { id: id.clone(), repository, algorithm: Algorithm::Sha256, state };
        meta.write(Change::StartUpload { record, resends: None }).await.unwrap();
        let mut claim = Claim::new(&id, 0, 1).unwrap();
        claim.get(&meta).await.unwrap();
        let (mut waits, mut goes_on) = (true, false);
        let work = std::future::poll_fn(|context| {
            if waits {
                waits = false;
                std::thread::sleep(Duration::from_millis(800));
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            goes_on = true;
            Poll::Ready(Ok(()))
        });
        let error = claim.hold(&meta, work).await.unwrap_err();
        assert!(is_claimed(&error) && !goes_on, "{error}");
    }

    #[tokio::test]
    async fn a_claim_that_is_not_fresh_is_prolonged_before_the_work() {
        let (meta, mut claim) = taken_over(2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut worked = false;
        let work = async {
            worked = true;
            Ok(())
        };
        let error = claim.hold(&meta, work).await.unwrap_err();
        assert!(is_refusal(&error) && !worked, "{error}");
    }
}
