//! The claim of a writer on a session whose staging area other processes can open.
//!
//! # Invariants
//! - What another writer may have written, and what a client was told of, is replaced by the holder of the claim alone. It
//!   began at the saved offset, and nobody saves on the ground of a claim that another one has had since.
//! - A claim ends by the clock of the database. While its holder works it is prolonged; when that fails for two thirds of
//!   its time, the holder stops. What the holder had sent is expected to arrive within the last third. A process that is
//!   stopped for longer than a claim, and a database whose clock jumps, are not covered: two may then write.
//! - After a failure that leaves open whether a part was written, the claim is left to end by itself.

use crate::store::UploadId;
use crate::store::errors::claimed;
use crate::store::meta::{Change, MetaBackend};
use crate::{Error, Result};
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
        Change::ClaimUpload { id, from: self.from, writer, seconds: self.seconds }
    }

    /// Gets the claim, or prolongs it when some of its time has passed.
    pub(super) async fn get(&mut self, meta: &impl MetaBackend) -> Result<()> {
        if self.since.is_some_and(|since| since.elapsed() < self.time() / 6) {
            return Ok(());
        }
        let asked = Instant::now();
        self.is_asked = true;
        meta.write(self.change()).await?;
        self.since = Some(asked);
        Ok(())
    }

    /// Works while the claim holds.
    pub(super) async fn hold<T>(
        &mut self,
        meta: &impl MetaBackend,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            lost = self.prolong(meta) => Err(lost),
        }
    }

    /// Prolongs the claim until that fails.
    async fn prolong(&mut self, meta: &impl MetaBackend) -> Error {
        // Tests let claims end at once, and go on as a writer does that does not know it yet.
        if self.seconds <= 0 {
            return std::future::pending().await;
        }
        let mut holds_since = self.since.unwrap_or_else(Instant::now);
        loop {
            tokio::time::sleep(self.time() / 6).await;
            let asked = Instant::now();
            let left = (holds_since + self.time() * 2 / 3).saturating_duration_since(asked);
            match tokio::time::timeout(left, meta.write(self.change())).await {
                Ok(Ok(_)) => {
                    holds_since = asked;
                    self.since = Some(asked);
                }
                Ok(Err(error)) if !error.is_retryable() => return error,
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
