//! Circuit breakers: they keep requests from a dependency that does not answer.
//!
//! ```text
//!           failures in a row              the pause is over
//!   closed ─────────────────────▶ open ───────────────────────▶ half-open: one request is let through
//!     ▲                            ▲ all requests fail at once       │  all others fail at once
//!     │                            └── no answer: twice the pause ───┤
//!     └──────────────────────────────── an answer ───────────────────┘
//! ```
//!
//! # Invariants
//! - Failures of requests that were under way together count as one: only a request that began after the last failure adds
//!   another.
//! - A closed breaker takes two atomic loads before a request and one after it. No lock is held while a request is under way.
//! - A request that is dropped says nothing. When it was the one of a half-open breaker, the next request takes its place.

use crate::{Error, ErrorDetail, ErrorKind};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest time after which a refused request is asked to come again.
const AGAIN: Duration = Duration::from_secs(1);

/// When a breaker opens, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerOptions {
    /// How many requests in a row must have failed; 0 counts as 1.
    pub failures: u32,
    /// How long ago the first of these failures must be: a short restart of a dependency opens nothing.
    pub failing_for: Duration,
    /// The first pause.
    pub first_pause: Duration,
    /// The longest pause. Each request that fails after a pause doubles it.
    pub longest_pause: Duration,
}

impl Default for BreakerOptions {
    /// Three failures over at least two seconds; pauses from one second to 30 seconds.
    fn default() -> Self {
        Self {
            failures: 3,
            failing_for: Duration::from_secs(2),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// The state of a [`Breaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// One request is under way, to see whether the dependency answers again.
    HalfOpen,
    /// Requests fail at once.
    Open,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        })
    }
}

/// A circuit breaker in front of a dependency: a database, a bucket, an issuer of tokens. Clones share its state.
///
/// Whoever sends a request asks for an [`Attempt`] first, and says with it whether the dependency has answered. Only a
/// dependency that does not answer is a failure: no connection, a time-out, a server that cannot do anything at the moment. An
/// answer that refuses a request is an answer. Its clock is the one of tokio, which tests can drive.
///
/// ```
/// use hyper_sdk::breaker::{Breaker, BreakerOptions, BreakerState};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let options = BreakerOptions { failures: 2, failing_for: Duration::ZERO, ..BreakerOptions::default() };
/// let breaker = Breaker::new("database", options);
/// breaker.enter()?.answered();
/// for _ in 0..2 {
///     breaker.enter()?.failed(&"the connection was reset");
/// }
/// assert_eq!(breaker.state(), BreakerState::Open);
/// let refused = hyper_sdk::Error::from(breaker.enter().unwrap_err());
/// assert_eq!(refused.kind(), hyper_sdk::ErrorKind::Unavailable);
/// assert!(refused.retry_after().is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dependency: &'static str,
    options: BreakerOptions,
    /// The failures in a row.
    failures: AtomicU32,
    /// Whether the gate is not [`Gate::Closed`].
    is_tripped: AtomicBool,
    gate: Mutex<Gate>,
    opened: AtomicU64,
    refused: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Gate {
    Closed {
        /// When the first of the failures in a row was.
        failing_since: Option<Instant>,
    },
    Open {
        until: Instant,
        pause: Duration,
        since: Instant,
    },
    HalfOpen {
        pause: Duration,
        since: Instant,
    },
}

impl Gate {
    /// Whether a request would be let through.
    fn is_passable(self) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until, .. } => Instant::now() >= until,
            Self::HalfOpen { .. } => false,
        }
    }
}

impl Breaker {
    /// A closed breaker in front of a dependency, which has this name in messages: `database`.
    pub fn new(dependency: &'static str, options: BreakerOptions) -> Self {
        Self(Arc::new(Shared {
            dependency,
            options,
            failures: AtomicU32::new(0),
            is_tripped: AtomicBool::new(false),
            gate: Mutex::new(Gate::Closed { failing_since: None }),
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// The name of the dependency.
    pub fn dependency(&self) -> &'static str {
        self.0.dependency
    }

    /// The right to send a request now. After a pause one caller gets it, and all others when its request was answered.
    ///
    /// # Errors
    /// [`Refused`], at once, while the dependency does not answer.
    pub fn enter(&self) -> Result<Attempt, Refused> {
        let ticket = self.0.failures.load(Ordering::Relaxed);
        let attempt =
            |is_probe| Attempt { breaker: self.clone(), ticket, is_probe: AtomicBool::new(is_probe) };
        if !self.0.is_tripped.load(Ordering::Acquire) {
            return Ok(attempt(false));
        }
        let mut gate = self.0.gate();
        match *gate {
            Gate::Closed { .. } => Ok(attempt(false)),
            Gate::Open { until, pause, since } if Instant::now() >= until => {
                *gate = Gate::HalfOpen { pause, since };
                Ok(attempt(true))
            }
            closed => Err(self.0.refuse(closed)),
        }
    }

    /// Says whether a request could be sent now, without the right to send one.
    ///
    /// # Errors
    /// Those of [`Breaker::enter`].
    pub fn check(&self) -> Result<(), Refused> {
        if !self.0.is_tripped.load(Ordering::Acquire) {
            return Ok(());
        }
        let gate = *self.0.gate();
        if gate.is_passable() { Ok(()) } else { Err(self.0.refuse(gate)) }
    }

    /// Whether [`Breaker::check`] succeeds. It counts nothing.
    pub fn is_passable(&self) -> bool {
        self.0.gate().is_passable()
    }

    /// The state of now. An open breaker stays so until somebody sends a request after its pause.
    pub fn state(&self) -> BreakerState {
        if !self.0.is_tripped.load(Ordering::Acquire) {
            return BreakerState::Closed;
        }
        match *self.0.gate() {
            Gate::Closed { .. } => BreakerState::Closed,
            Gate::Open { .. } => BreakerState::Open,
            Gate::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened after it was closed.
    pub fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// How many requests it has refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, gate: Gate) -> Refused {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let wait = match gate {
            Gate::Open { until, .. } => until.saturating_duration_since(Instant::now()),
            Gate::Closed { .. } | Gate::HalfOpen { .. } => AGAIN,
        };
        Refused { dependency: self.dependency, wait: wait.max(AGAIN) }
    }
}

/// The right to send a request, and with it the duty to say how it went: [`Attempt::answered`] or [`Attempt::failed`]. Dropping
/// it says nothing; a breaker that waits for it lets the next request through instead.
#[derive(Debug)]
pub struct Attempt {
    breaker: Breaker,
    /// The failures in a row when it began.
    ticket: u32,
    /// Whether a half-open breaker waits for it.
    is_probe: AtomicBool,
}

impl Attempt {
    /// The dependency has answered, be it with a refusal. It may be said of each of several answers.
    pub fn answered(&self) {
        let shared = &self.breaker.0;
        if shared.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut gate = shared.gate();
        let is_probe = self.is_probe.swap(false, Ordering::Relaxed);
        match *gate {
            Gate::Closed { .. } => {}
            Gate::HalfOpen { since, .. } if is_probe => {
                let seconds = since.elapsed().as_secs();
                tracing::info!(dependency = shared.dependency, seconds, "a dependency answers again");
            }
            // It began before the breaker opened.
            Gate::Open { .. } | Gate::HalfOpen { .. } => return,
        }
        *gate = Gate::Closed { failing_since: None };
        shared.failures.store(0, Ordering::Relaxed);
        shared.is_tripped.store(false, Ordering::Release);
    }

    /// The dependency has not answered. The reason is for the log.
    pub fn failed(&self, why: &dyn fmt::Display) {
        let (shared, now) = (&self.breaker.0, Instant::now());
        let mut gate = shared.gate();
        let is_probe = self.is_probe.swap(false, Ordering::Relaxed);
        let (dependency, options) = (shared.dependency, &shared.options);
        match *gate {
            Gate::Closed { failing_since } => {
                if shared.failures.load(Ordering::Relaxed) != self.ticket {
                    return;
                }
                let failures = self.ticket.saturating_add(1);
                shared.failures.store(failures, Ordering::Relaxed);
                let since = failing_since.unwrap_or(now);
                let is_enough = failures >= options.failures.max(1);
                if !is_enough || now.duration_since(since) < options.failing_for {
                    *gate = Gate::Closed { failing_since: Some(since) };
                    return;
                }
                let pause = options.first_pause;
                *gate = Gate::Open { until: now + pause, pause, since };
                shared.opened.fetch_add(1, Ordering::Relaxed);
                shared.is_tripped.store(true, Ordering::Release);
                tracing::warn!(dependency, failures, %why, "a dependency does not answer: requests that need it fail at once");
            }
            Gate::HalfOpen { pause, since } if is_probe => {
                let pause = pause.saturating_mul(2).min(options.longest_pause);
                *gate = Gate::Open { until: now + pause, pause, since };
                tracing::debug!(dependency, ?pause, %why, "a dependency still does not answer");
            }
            // It began before the breaker opened.
            Gate::Open { .. } | Gate::HalfOpen { .. } => {}
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !*self.is_probe.get_mut() {
            return;
        }
        let mut gate = self.breaker.0.gate();
        if let Gate::HalfOpen { pause, since } = *gate {
            *gate = Gate::Open { until: Instant::now(), pause, since };
        }
    }
}

/// The refusal of an open [`Breaker`]. As an [`Error`] it is [`ErrorKind::Unavailable`] with [`ErrorDetail::DependencyDown`] and
/// the time after which to come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    dependency: &'static str,
    wait: Duration,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} does not answer, so it is not asked for a while: try again later", self.dependency)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Error::new(ErrorKind::Unavailable, refused.to_string())
            .with_detail(ErrorDetail::DependencyDown)
            .with_retry_after(refused.wait)
    }
}

/// Whether an error is the refusal of a [`Breaker`]: nothing was asked, and nothing has changed.
pub fn is_refusal(error: &Error) -> bool {
    error.details().any(|detail| *detail == ErrorDetail::DependencyDown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new("database", BreakerOptions::default())
    }

    /// Lets requests fail, one after the other, a second apart.
    async fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.enter().unwrap().failed(&"no route");
            advance(SECOND).await;
        }
    }

    /// An open breaker whose first pause has just begun.
    async fn open() -> Breaker {
        let breaker = breaker();
        fail(&breaker, 2).await;
        breaker.enter().unwrap().failed(&"no route");
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_a_row_of_failures() {
        let breaker = breaker();
        for _ in 0..10 {
            fail(&breaker, 2).await;
            breaker.enter().unwrap().answered();
        }
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Closed, 0));
        fail(&breaker, 3).await;
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 1));
    }

    /// A restart breaks whatever is under way.
    #[tokio::test(start_paused = true)]
    async fn requests_that_fail_together_count_once() {
        let breaker = breaker();
        for round in 1..=3 {
            let together: Vec<_> = (0..50).map(|_| breaker.enter().unwrap()).collect();
            advance(SECOND).await;
            together.iter().for_each(|attempt| attempt.failed(&"reset"));
            assert_eq!(breaker.state() == BreakerState::Open, round == 3, "round {round}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_within_a_moment_open_nothing() {
        let breaker = breaker();
        for _ in 0..100 {
            breaker.enter().unwrap().failed(&"refused");
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        advance(2 * SECOND).await;
        breaker.enter().unwrap().failed(&"refused");
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_request_is_let_through_and_its_answer_closes() {
        let breaker = open().await;
        assert!(breaker.enter().is_err() && breaker.check().is_err());
        assert_eq!(breaker.refused(), 2);
        advance(SECOND).await;
        breaker.check().unwrap();
        let probe = breaker.enter().unwrap();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let refused = Error::from(breaker.enter().unwrap_err());
        assert!(is_refusal(&refused) && refused.retry_after() == Some(SECOND), "{refused:?}");
        assert!(refused.to_string().contains("the database does not answer"), "{refused}");
        probe.answered();
        assert_eq!(breaker.state(), BreakerState::Closed);
        // The row of failures begins anew.
        fail(&breaker, 2).await;
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_after_a_pause_doubles_it_up_to_a_limit() {
        let breaker = open().await;
        for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
            let wait = Error::from(breaker.enter().unwrap_err()).retry_after();
            assert_eq!(wait, Some(Duration::from_secs(seconds)));
            advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(breaker.enter().is_err(), "{seconds}");
            advance(Duration::from_millis(1)).await;
            breaker.enter().unwrap().failed(&"no route");
        }
        assert_eq!(breaker.opened(), 1);
        advance(30 * SECOND).await;
        breaker.enter().unwrap().answered();
        // The next time it begins with a short pause.
        fail(&breaker, 2).await;
        breaker.enter().unwrap().failed(&"no route");
        assert_eq!(Error::from(breaker.enter().unwrap_err()).retry_after(), Some(SECOND));
        assert_eq!(breaker.opened(), 2);
    }

    /// A client that goes away drops the request that all others wait for.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_leaves_its_place_to_the_next() {
        let breaker = open().await;
        advance(SECOND).await;
        for _ in 0..3 {
            let probe = breaker.enter().unwrap();
            assert!(breaker.enter().is_err());
            drop(probe);
        }
        let probe = breaker.enter().unwrap();
        probe.failed(&"no route");
        // What it says has been heard.
        drop(probe);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.enter().is_err());
        // One that was dropped while it is closed says nothing.
        let other = super::tests::breaker();
        drop(other.enter().unwrap());
        assert_eq!(other.state(), BreakerState::Closed);
    }

    /// What began before the breaker opened does not decide for the request that it waits for.
    #[tokio::test(start_paused = true)]
    async fn a_late_answer_or_failure_decides_nothing() {
        let breaker = breaker();
        let late = [breaker.enter().unwrap(), breaker.enter().unwrap()];
        fail(&breaker, 3).await;
        late[0].answered();
        assert_eq!(breaker.state(), BreakerState::Open);
        let probe = breaker.enter().unwrap();
        late[0].answered();
        late[1].failed(&"late");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        probe.answered();
        late[1].failed(&"late");
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_threads_one_gets_the_right() {
        let options = BreakerOptions {
            failures: 1,
            failing_for: Duration::ZERO,
            first_pause: Duration::ZERO,
            longest_pause: Duration::ZERO,
        };
        let breaker = Breaker::new("bucket", options);
        for _ in 0..200 {
            breaker.enter().unwrap().failed(&"no route");
            let all = (0..4).map(|_| {
                let breaker = breaker.clone();
                tokio::spawn(async move { breaker.enter().ok() })
            });
            let got: Vec<Attempt> =
                futures::future::join_all(all).await.into_iter().filter_map(|one| one.unwrap()).collect();
            assert_eq!(got.len(), 1);
            got[0].answered();
        }
    }
}
