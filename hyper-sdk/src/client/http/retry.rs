//! When to send a request again: exponential backoff with jitter, `Retry-After`, and a budget.

use crate::Error;
use crate::client::timeouts;
use crate::progress::Progress;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often and how long a client repeats requests that failed for a transient reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many times a request is sent at most, the first included. 1 means no retries.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each attempt after that.
    pub first_delay: Duration,
    /// The longest wait that the client chooses by itself.
    pub max_delay: Duration,
    /// The longest sum of waits within one call, `Retry-After` included. A registry that asks for more than is left
    /// gets no further attempt.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(10),
            budget: Duration::from_secs(90),
        }
    }
}

impl RetryPolicy {
    /// Never tries again.
    pub const NEVER: Self =
        Self { attempts: 1, first_delay: Duration::ZERO, max_delay: Duration::ZERO, budget: Duration::ZERO };
}

/// Reports requests that are sent again, with the name of the peer.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryReporter {
    pub(super) progress: Progress,
    pub(super) peer: String,
    /// Whether the peer has answered a request yet.
    pub(super) reached: Arc<AtomicBool>,
}

impl RetryReporter {
    /// Records that the peer has answered.
    pub(super) fn reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: RetryPolicy,
    reporter: RetryReporter,
    made: u32,
    left: Duration,
}

impl Attempts {
    pub(super) fn new(policy: RetryPolicy, reporter: &RetryReporter) -> Self {
        Self { policy, reporter: reporter.clone(), made: 1, left: policy.budget }
    }

    /// Forgets earlier failures, because there was progress.
    pub(super) fn progressed(&mut self) {
        self.made = 1;
    }

    /// Reports that `what` failed and waits before the next attempt; returns `false` at once when there is none.
    pub(super) async fn again(
        &mut self,
        retry_after: Option<Duration>,
        what: impl Display,
        error: &Error,
    ) -> bool {
        // A peer that never answered more likely has a wrong name than a short outage.
        let all = match timeouts::attempts_to_connect(error) {
            Some(few) if !self.reporter.reached.load(Ordering::Relaxed) => few.min(self.policy.attempts),
            _ => self.policy.attempts,
        };
        if self.made >= all {
            return false;
        }
        let Some(delay) = self.next_delay(retry_after) else { return false };
        let (peer, made) = (&self.reporter.peer, self.made);
        self.reporter
            .progress
            .warn(format!("{peer}: {what}: {error}: trying again, attempt {made} of {all}"));
        tokio::time::sleep(delay).await;
        true
    }

    fn next_delay(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        if self.made >= self.policy.attempts {
            return None;
        }
        let doubled = self.policy.first_delay.saturating_mul(1 << (self.made - 1).min(20));
        let ceiling = doubled.min(self.policy.max_delay);
        // Half is fixed and half is random, so that clients that failed together do not return together.
        let delay = (ceiling / 2 + (ceiling / 2).mul_f64(random_unit())).max(retry_after.unwrap_or_default());
        if delay > self.left {
            return None;
        }
        self.left -= delay;
        self.made += 1;
        Some(delay)
    }
}

/// A number from 0 to 1 that differs between clients. Nothing secret depends on it.
fn random_unit() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// How long the registry asks to wait: `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = parse_http_date(value)?;
    Some(Duration::from_secs(at.saturating_sub(now).max(0) as u64))
}

/// Seconds since 1970 of an IMF-fixdate, `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u8 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? + 1;
    let year: u16 = parts.next()?.parse().ok()?;
    let time = parts.next()?;
    if parts.next()? != "GMT" || parts.next().is_some() {
        return None;
    }
    crate::clock::parse_rfc3339(&format!("{year:04}-{month:02}-{day:02}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())])
    }

    #[test]
    fn retry_after_in_both_forms() {
        assert_eq!(retry_after(&header("7"), 0), Some(Duration::from_secs(7)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(&header(date), 784_111_770), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&header(date), 784_111_999), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994"] {
            assert_eq!(retry_after(&header(bad), 0), None, "{bad}");
        }
        assert!(retry_after(&header("99999999999999999999999"), 0).unwrap() > Duration::from_secs(1 << 60));
    }

    #[test]
    fn waits_grow_up_to_the_cap_and_end_with_the_attempts() {
        let policy = RetryPolicy { attempts: 4, ..RetryPolicy::default() };
        let mut attempts = Attempts::new(policy, &RetryReporter::default());
        for ceiling in [200, 400, 800] {
            let delay = attempts.next_delay(None).unwrap().as_millis();
            assert!(delay >= ceiling / 2 && delay <= ceiling, "{delay} of {ceiling}");
        }
        assert_eq!(attempts.next_delay(None), None);
    }

    #[test]
    fn a_wait_above_the_budget_is_refused() {
        let mut attempts = Attempts::new(
            RetryPolicy { budget: Duration::from_secs(10), ..RetryPolicy::default() },
            &RetryReporter::default(),
        );
        assert_eq!(attempts.next_delay(Some(Duration::from_secs(8))), Some(Duration::from_secs(8)));
        assert_eq!(attempts.next_delay(Some(Duration::from_secs(8))), None);
    }
}
