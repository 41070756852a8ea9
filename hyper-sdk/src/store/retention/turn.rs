//! Who deletes old tags when, among all processes that use a store.

use crate::Result;
use crate::store::scrub::new_holder;
use std::time::Duration;

/// The regular retention of a store, which one process does at a time. The database knows when the last run ended.
///
/// ```
/// use hyper_sdk::store::{
///     MemoryStore, RegistryStore as _, RetainOptions, RetentionEnd, RetentionRules, RetentionTurn,
/// };
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, day) = (MemoryStore::default(), Duration::from_secs(24 * 60 * 60));
/// let run = async || {
///     let options = RetainOptions::new(RetentionRules::new(Vec::new())?);
///     store.retain(RetainOptions { turn: Some(RetentionTurn::new(day)?), ..options }).await
/// };
/// assert_eq!(run().await?.end, RetentionEnd::Complete);
/// assert_eq!(run().await?.end, RetentionEnd::NotDue);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RetentionTurn {
    pub(in crate::store) holder: u64,
    every: Duration,
}

impl RetentionTurn {
    /// A process that runs retention again so long after the end of the last run, whoever made that. A process that dies keeps
    /// the others from it for five minutes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the system has no random numbers.
    pub fn new(every: Duration) -> Result<Self> {
        Ok(Self { holder: new_holder()?, every })
    }

    /// Whether a run is to begin, by the end of the last one. One that ended at a time to come says that the clock was set back.
    pub(in crate::store) fn is_due(&self, ended_at: Option<i64>, now: i64) -> bool {
        let every = i64::try_from(self.every.as_secs()).unwrap_or(i64::MAX);
        ended_at.is_none_or(|at| at.saturating_add(every) <= now || at > now)
    }
}

/// Why a run of retention ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetentionEnd {
    /// All repositories were looked at.
    #[default]
    Complete,
    /// The next run begins later.
    NotDue,
    /// Another process is deleting old tags.
    LeftToAnother,
}
