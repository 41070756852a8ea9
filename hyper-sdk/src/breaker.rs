//! Circuit breakers: they keep requests from a dependency that does not answer.
//!
//! ```text
//!           failures in a row              the pause is over
//!   closed ─────────────────────▶ open ───────────────────────▶ half-open: one request in five seconds is let through
//!     ▲                            ▲ all requests fail at once       │  all others fail at once
//!     │                            └── no answer: twice the pause ───┤
//!     └──────────────────────────────── an answer ───────────────────┘
//! ```
//!
//! # Invariants
//! - Failures of requests that were under way together count as one: only a request that began after the last failure adds
//!   another.
//! - A closed breaker takes two atomic loads before a request and one after it. No lock is held while a request is under way.
//! - A request that is dropped says nothing, unless it had no answer for ten seconds: then its caller has given up. When it was the one of a half-open breaker, the next request takes its place.
//! - Nobody waits for a request that takes long: after five seconds the next one is let through beside it, and whichever is
//!   answered first closes the breaker.

use crate::{Error, ErrorDetail, ErrorKind};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest time after which a refused request is asked to come again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a half-open breaker waits for a request before it lets the next one through.
const PROBE: Duration = Duration::from_secs(5);

/// After what time without an answer a request that is dropped has failed.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// How long a failure counts when no other one follows.
const FORGOTTEN: Duration = Duration::from_secs(300);

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
    /// The pause is over: a request finds out, or the next one will, whether the dependency answers again.
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
    /// The number of the last request that was let through while it was not closed.
    probes: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Gate {
    Closed {
        /// When the first and the last of the failures in a row were.
        failing: Option<(Instant, Instant)>,
    },
    Open {
        until: Instant,
        pause: Duration,
        since: Instant,
    },
    HalfOpen {
        pause: Duration,
        since: Instant,
        /// The number of the request that was let through last, and when that was.
        probe: u64,
        asked: Instant,
    },
}

impl Gate {
    /// Whether a request would be let through.
    fn is_passable(self) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until, .. } => Instant::now() >= until,
            Self::HalfOpen { asked, .. } => asked.elapsed() >= PROBE,
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
            gate: Mutex::new(Gate::Closed { failing: None }),
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            probes: AtomicU64::new(0),
        }))
    }

    /// The name of the dependency.
    pub fn dependency(&self) -> &'static str {
        self.0.dependency
    }

    /// The right to send a request now. After a pause one caller gets it, and all others when its request was answered; while it
    /// is not, one more every five seconds.
    ///
    /// # Errors
    /// [`Refused`], at once, while the dependency does not answer.
    pub fn enter(&self) -> Result<Attempt, Refused> {
        let ticket = self.0.failures.load(Ordering::Relaxed);
        let attempt = |probe| Attempt {
            breaker: self.clone(),
            ticket,
            probe: AtomicU64::new(probe),
            began: Instant::now(),
            is_over: AtomicBool::new(false),
        };
        if !self.0.is_tripped.load(Ordering::Acquire) {
            return Ok(attempt(0));
        }
        let mut gate = self.0.gate();
        let (pause, since) = match *gate {
            Gate::Closed { .. } => return Ok(attempt(0)),
            closed if !closed.is_passable() => return Err(self.0.refuse(closed)),
            Gate::Open { pause, since, .. } | Gate::HalfOpen { pause, since, .. } => (pause, since),
        };
        let probe = self.0.probes.fetch_add(1, Ordering::Relaxed) + 1;
        *gate = Gate::HalfOpen { pause, since, probe, asked: Instant::now() };
        Ok(attempt(probe))
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

    /// The refusal of a request for which another one finds out whether the dependency answers again.
    #[cfg(feature = "store-postgres")]
    pub(crate) fn refuse(&self) -> Refused {
        let gate = *self.0.gate();
        self.0.refuse(gate)
    }

    /// Whether [`Breaker::check`] succeeds. It counts nothing.
    pub fn is_passable(&self) -> bool {
        self.0.gate().is_passable()
    }

    /// The state of now. After its pause an open breaker is half-open, although nobody may have sent a request yet.
    pub fn state(&self) -> BreakerState {
        if !self.0.is_tripped.load(Ordering::Acquire) {
            return BreakerState::Closed;
        }
        match *self.0.gate() {
            Gate::Closed { .. } => BreakerState::Closed,
            Gate::Open { until, .. } if Instant::now() < until => BreakerState::Open,
            Gate::Open { .. } | Gate::HalfOpen { .. } => BreakerState::HalfOpen,
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
    /// Its number, when it was let through to see whether the dependency answers again, and has not said so; else 0.
    probe: AtomicU64,
    began: Instant,
    /// Whether it has said how it went.
    is_over: AtomicBool,
}

impl Attempt {
    /// The dependency has answered, be it with a refusal. It may be said of each of several answers.
    pub fn answered(&self) {
        let shared = &self.breaker.0;
        self.is_over.store(true, Ordering::Relaxed);
        if shared.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut gate = shared.gate();
        let probe = self.probe.swap(0, Ordering::Relaxed);
        match *gate {
            Gate::Closed { .. } => {}
            Gate::HalfOpen { since, .. } if probe != 0 => {
                let seconds = since.elapsed().as_secs();
                tracing::info!(dependency = shared.dependency, seconds, "a dependency answers again");
            }
            // It began before the breaker opened.
            Gate::Open { .. } | Gate::HalfOpen { .. } => return,
        }
        *gate = Gate::Closed { failing: None };
        shared.failures.store(0, Ordering::Relaxed);
        shared.is_tripped.store(false, Ordering::Release);
    }

    /// The dependency has not answered. The reason is for the log.
    pub fn failed(&self, why: &dyn fmt::Display) {
        let (shared, now) = (&self.breaker.0, Instant::now());
        self.is_over.store(true, Ordering::Relaxed);
        let mut gate = shared.gate();
        let own = self.probe.swap(0, Ordering::Relaxed);
        let (dependency, options) = (shared.dependency, &shared.options);
        match *gate {
            Gate::Closed { failing } => {
                if shared.failures.load(Ordering::Relaxed) != self.ticket {
                    return;
                }
                let row = failing.filter(|(_, last)| now.duration_since(*last) < FORGOTTEN);
                let since = row.map_or(now, |(first, _)| first);
                let failures = row.map_or(1, |_| self.ticket.saturating_add(1));
                shared.failures.store(failures, Ordering::Relaxed);
                let is_enough = failures >= options.failures.max(1);
                if !is_enough || now.duration_since(since) < options.failing_for {
                    *gate = Gate::Closed { failing: Some((since, now)) };
                    return;
                }
                let pause = options.first_pause;
                *gate = Gate::Open { until: now + pause, pause, since };
                shared.opened.fetch_add(1, Ordering::Relaxed);
                shared.is_tripped.store(true, Ordering::Release);
                tracing::warn!(dependency, failures, %why, "a dependency does not answer: requests that need it fail at once");
            }
            Gate::HalfOpen { pause, since, probe, .. } if probe == own => {
                let pause = pause.saturating_mul(2).min(options.longest_pause);
                *gate = Gate::Open { until: now + pause, pause, since };
                tracing::debug!(dependency, ?pause, %why, "a dependency still does not answer");
            }
            // It began before the breaker opened, or a later one decides.
            Gate::Open { .. } | Gate::HalfOpen { .. } => {}
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !*self.is_over.get_mut() && self.began.elapsed() >= GIVEN_UP {
            self.failed(&"a request had no answer, and its caller has given up");
        }
        let own = *self.probe.get_mut();
        if own == 0 {
            return;
        }
        let mut gate = self.breaker.0.gate();
        if let Gate::HalfOpen { pause, since, probe, .. } = *gate
            && probe == own
        {
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
mod tests;
