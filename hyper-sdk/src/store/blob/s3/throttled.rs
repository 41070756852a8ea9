//! A bucket that asks to be asked less often has answered: it must not be closed for all. One that says nothing else for a minute is of
//! no use, and is left alone for a while: that is also what it asks for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// For how long a bucket may answer nothing else.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long such an answer counts when no other one follows.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// Since when a bucket asks to slow down. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttled(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there are times, for those who have no answer to forget.
    is_throttled: AtomicBool,
    /// The first and the last such answer since the last one of another kind.
    times: Mutex<Option<(Instant, Instant)>>,
}

impl Throttled {
    /// The bucket asks to slow down. Returns whether it has said nothing else for too long.
    pub(super) fn slow_down(&self) -> bool {
        let now = Instant::now();
        let mut times = self.0.times.lock().unwrap_or_else(PoisonError::into_inner);
        let first = times.filter(|(_, last)| now - *last < FORGOTTEN).map_or(now, |(first, _)| first);
        *times = Some((first, now));
        self.0.is_throttled.store(true, Ordering::Release);
        now - first >= PATIENCE
    }

    /// The bucket does what it is asked, or refuses it for another reason.
    pub(super) fn answered(&self) {
        if self.0.is_throttled.load(Ordering::Acquire) {
            let mut times = self.0.times.lock().unwrap_or_else(PoisonError::into_inner);
            *times = None;
            self.0.is_throttled.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_says_nothing_else_for_a_minute_does_not_answer() {
        let (throttled, pass) =
            (Throttled::default(), |seconds| tokio::time::advance(Duration::from_secs(seconds)));
        assert!(!throttled.slow_down());
        pass(59).await;
        assert!(!throttled.clone().slow_down());
        pass(1).await;
        assert!(throttled.slow_down());
        throttled.answered();
        assert!(!throttled.slow_down());
        pass(59).await;
        assert!(!throttled.slow_down());
        // Nobody has asked it for long.
        pass(300).await;
        assert!(!throttled.slow_down());
        pass(60).await;
        assert!(throttled.slow_down());
    }
}
