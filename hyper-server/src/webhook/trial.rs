//! When an event that a receiver does not take is given up.

use hyper_sdk::store::ConsumerFailure;
use std::time::{Duration, Instant};

/// An event that is refused is given up after this part of the time, and after this many attempts.
const REFUSED_PART: u32 = 100;
const REFUSED_LEAST: u64 = 3;
/// So many parts of an event are tried after its time is over: the others keep back the next events no longer.
const LATE_MOST: u64 = 10;

/// Whether a receiver with this answer refuses the content that was sent, so that it is of little use to send it again. Other answers
/// may be about the receiver: what stands before it says 403, 404 or 410 while it is away.
pub(super) fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 413 | 415 | 422 | 431)
}

/// How long and how often an event was tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Trial {
    tried: Duration,
    refused: u64,
    last: Option<Instant>,
    /// How often what is left of the event is tried in any case, after a part of it was given up.
    due: u64,
    /// How many parts were given up after the time of the event was over.
    late: u64,
}

impl Trial {
    /// What this process and the store know together: another process may have tried it since.
    pub(super) fn with(mut self, stored: Option<&ConsumerFailure>) -> Self {
        let Some(stored) = stored else { return Self::default() };
        self.tried = self.tried.max(Duration::from_secs(stored.tried));
        self.refused = self.refused.max(stored.refused);
        self
    }

    /// Counts an attempt that failed, and the time since the last one of this process, at most the time that an attempt and the pause
    /// before it take: only time in which it is tried counts.
    pub(super) fn fail(&mut self, is_refusal: bool, most: Duration) {
        let now = Instant::now();
        self.add(self.last.map_or(Duration::ZERO, |last| now - last), most);
        self.last = Some(now);
        self.refused += u64::from(is_refusal);
        self.due = self.due.saturating_sub(1);
    }

    /// Goes on with what is left of the event after a part that was given up. The time counts for the whole event, and may be over by
    /// now: that says nothing about the next few parts. Returns whether they are to be tried.
    pub(super) fn next_part(&mut self, give_up: Duration) -> bool {
        (self.refused, self.due) = (0, REFUSED_LEAST);
        self.late += u64::from(self.tried >= give_up);
        self.late <= LATE_MOST
    }

    fn add(&mut self, since: Duration, most: Duration) {
        self.tried += since.min(most);
    }

    /// Whether it was tried long enough, after an attempt that was refused or failed in another way.
    pub(super) fn is_over(&self, give_up: Duration, is_refusal: bool) -> bool {
        let is_refused = is_refusal && self.refused >= REFUSED_LEAST && self.tried >= give_up / REFUSED_PART;
        self.due == 0 && (self.tried >= give_up || is_refused)
    }

    /// What the store keeps of it.
    pub(super) fn failure(&self, why: String) -> ConsumerFailure {
        ConsumerFailure { why, tried: self.tried.as_secs(), refused: self.refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(tried: u64, refused: u64) -> Trial {
        Trial { tried: Duration::from_secs(tried), refused, ..Trial::default() }
    }

    #[test]
    fn what_is_refused_is_given_up_sooner() {
        let give_up = Duration::from_secs(1000);
        for (trial, is_refusal, is_over) in [
            (trial(999, 0), false, false),
            (trial(1000, 0), false, true),
            (trial(10, 3), true, true),
            (trial(9, 3), true, false),
            (trial(900, 2), true, false),
            // It was refused, and now it does not answer: that may be about the receiver.
            (trial(900, 50), false, false),
        ] {
            assert_eq!(trial.is_over(give_up, is_refusal), is_over, "{trial:?} {is_refusal}");
        }
        for status in [400, 413, 415, 422, 431] {
            assert!(is_refusal(status), "{status}");
        }
        for status in [200, 302, 401, 403, 404, 407, 408, 410, 425, 429, 499, 500, 503] {
            assert!(!is_refusal(status), "{status}");
        }
    }

    #[test]
    fn each_part_of_an_event_has_some_attempts() {
        let give_up = Duration::from_secs(1000);
        for (mut trial, is_refusal) in [(trial(1000, 3), true), (trial(1000, 3), false), (trial(20, 3), true)]
        {
            assert!(trial.is_over(give_up, is_refusal));
            assert!(trial.next_part(give_up));
            for _ in 0..2 {
                trial.fail(is_refusal, Duration::ZERO);
                assert!(!trial.is_over(give_up, is_refusal), "{trial:?}");
            }
            trial.fail(is_refusal, Duration::ZERO);
            assert!(trial.is_over(give_up, is_refusal), "{trial:?}");
        }
    }

    #[test]
    fn parts_end_after_the_time_of_their_event() {
        let give_up = Duration::from_secs(1000);
        let (mut early, mut late) = (trial(999, 3), trial(1000, 3));
        for _ in 0..LATE_MOST {
            assert!(early.next_part(give_up) && late.next_part(give_up));
        }
        assert!(early.next_part(give_up) && !late.next_part(give_up));
    }

    #[test]
    fn the_time_of_other_processes_counts_and_time_without_attempts_does_not() {
        let stored = ConsumerFailure { why: String::new(), tried: 50, refused: 2 };
        let mut trial = Trial::default().with(Some(&stored));
        trial.fail(true, Duration::from_secs(10));
        assert_eq!(trial.failure(String::new()), ConsumerFailure { refused: 3, ..stored });
        // Another server had it for half a day, or the database was away.
        trial.add(Duration::from_secs(12 * 3600), Duration::from_secs(10));
        assert_eq!(trial.tried, Duration::from_secs(60));
        assert_eq!(trial.with(None).failure(String::new()), ConsumerFailure::default(), "it begins anew");
    }
}
