//! When a directory may be asked again after it gave no certificate.
//!
//! | what went wrong | pauses |
//! |---|---|
//! | the directory did not answer, or has said nothing about the request | 30 s, twice as long each time, at most an hour |
//! | it refused the request, or could not validate a domain | 15 min, twice as long each time, at most 6 hours |
//!
//! Let's Encrypt allows five validations an hour that fail, for each domain. The count is on the disk, so that starts of servers, and
//! several servers, stay within it. A try is noted as a refusal before it begins, so that one that is cut counts.

use hyper_sdk::Error;
use serde::{Deserialize, Serialize};

/// How many tries that reached an order may fail in an hour.
pub(super) const PER_HOUR: usize = 4;
const HOUR: i64 = 60 * 60;
/// The first pause, and the longest one, of a directory that does not answer.
const UNANSWERED: (i64, i64) = (30, HOUR);
/// Those of one that refuses.
const REFUSED: (i64, i64) = (15 * 60, 6 * HOUR);
/// The longest time that a directory may ask for.
const LONGEST: i64 = 14 * 24 * HOUR;

/// What went wrong.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether it counts against the limits of the directory.
    pub(super) is_refusal: bool,
    /// Before when the directory wants no other request, in seconds since 1970.
    pub(super) not_before: Option<i64>,
}

/// What is known of tries that failed since the last one that did not. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Tries {
    failures: u32,
    /// When the last one failed or began, in milliseconds.
    pub(super) at_ms: i64,
    /// When the next one may be, by our own pauses.
    next: i64,
    /// Before when the directory wants none.
    not_before: i64,
    /// The refusals of the last hour.
    refusals: Vec<i64>,
}

impl Tries {
    /// Those that were written down.
    pub(super) fn read(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// How they are written down.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Before when no request is made. Our own pauses do not count after the last time that an operator wanted one, in milliseconds.
    pub(super) fn earliest(&self, now: i64, asked_ms: i64) -> i64 {
        let recent: Vec<i64> = self.refusals.iter().copied().filter(|at| is_recent(*at, now)).collect();
        let limit = recent.len().checked_sub(PER_HOUR).map_or(0, |first| recent[first] + HOUR);
        // A clock that was wrong, or a file that was changed, holds nothing up for ever.
        let bounded = |at: i64| at.min(now + LONGEST);
        bounded(self.not_before).max(limit).max(if self.at_ms < asked_ms { 0 } else { bounded(self.next) })
    }

    /// Notes a failure. `spread`, of 0 to 1, makes the pause up to a quarter longer.
    pub(super) fn fail(&mut self, failure: &Failure, now: i64, spread: f64) {
        let (first, longest) = if failure.is_refusal { REFUSED } else { UNANSWERED };
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.next = now + pause + (pause as f64 / 4.0 * spread.clamp(0.0, 1.0)) as i64;
        self.not_before = failure.not_before.unwrap_or(0).min(now + LONGEST);
        self.refusals.retain(|at| is_recent(*at, now));
        if failure.is_refusal {
            self.refusals.push(now);
            // A file that was changed could have any number.
            self.refusals.drain(..self.refusals.len().saturating_sub(PER_HOUR));
        }
    }
}

fn is_recent(at: i64, now: i64) -> bool {
    (now - HOUR + 1..=now).contains(&at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn failure(is_refusal: bool, not_before: Option<i64>) -> Failure {
        Failure { error: Error::invalid("x"), is_refusal, not_before }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_spread() {
        for (is_refusal, first, longest) in [(false, 30, 3600), (true, 900, 21_600)] {
            let mut tries = Tries::default();
            assert!(tries.earliest(NOW, 0) <= NOW);
            let mut pauses = Vec::new();
            for _ in 0..40 {
                tries.fail(&failure(is_refusal, None), NOW, 0.0);
                pauses.push(tries.next - NOW);
            }
            assert_eq!((pauses[0], pauses[1], pauses[39]), (first, 2 * first, longest));
            tries.fail(&failure(is_refusal, None), NOW, 1.0);
            assert_eq!(tries.next - NOW, longest * 5 / 4);
        }
    }

    /// Whoever starts a server again and again, or sends it signals, stays within five an hour.
    #[test]
    fn four_refusals_an_hour_are_the_most_however_often_somebody_asks() {
        let mut tries = Tries::default();
        let mut refused = Vec::new();
        for now in (NOW..NOW + 3 * HOUR).step_by(7) {
            if tries.earliest(now, i64::MAX) <= now {
                tries = Tries::read(Some(&tries.text()));
                tries.fail(&failure(true, None), now, 0.5);
                refused.push(now);
            }
        }
        assert_eq!(refused.len(), 12, "{refused:?}");
        assert!(refused.windows(PER_HOUR + 1).all(|five| five[PER_HOUR] - five[0] >= HOUR), "{refused:?}");
        // No answer at all costs the directory nothing.
        let mut tries = Tries::default();
        (0..9).for_each(|_| tries.fail(&failure(false, None), NOW, 0.0));
        assert_eq!(tries.earliest(NOW, i64::MAX), 0);
    }

    #[test]
    fn what_the_directory_asks_for_is_kept_also_when_somebody_asks() {
        let mut tries = Tries::default();
        tries.fail(&failure(true, Some(NOW + 100_000)), NOW, 0.0);
        assert_eq!(tries.earliest(NOW, i64::MAX), NOW + 100_000);
        assert_eq!(Tries::read(Some(&tries.text())), tries);
        // For ever is a fortnight.
        tries.fail(&failure(true, Some(i64::MAX)), NOW, 0.0);
        assert_eq!(tries.earliest(NOW, i64::MAX), NOW + LONGEST);
    }

    #[test]
    fn a_file_that_is_damaged_or_absurd_holds_nothing_up_for_ever() {
        for text in ["", "nonsense", "[]", "{\"failures\": -1}"] {
            assert_eq!(Tries::read(Some(text)), Tries::default(), "{text}");
        }
        let absurd = format!(
            "{{\"failures\":4294967295,\"next\":{},\"not_before\":{},\"refusals\":[{},1,2,3,4,5]}}",
            i64::MAX,
            i64::MAX,
            i64::MAX
        );
        let mut tries = Tries::read(Some(&absurd));
        assert_eq!(tries.earliest(NOW, 0), NOW + LONGEST);
        tries.fail(&failure(true, None), NOW, 2.0);
        assert!(tries.earliest(NOW, 0) <= NOW + 8 * HOUR);
    }
}
