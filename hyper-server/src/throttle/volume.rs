//! How many bytes a second clients may send and get.
//!
//! ```text
//! bytes of a body ── reserve: debt += bytes / rate ── wait for the debt of before, less one second ── bytes pass
//! ```
//!
//! Bytes take their turn one piece after the other, whatever connection they belong to, so all transfers of a client get the same
//! share. A body is slowed and never cut.
//!
//! # Invariants
//! - In any time, a client gets no more bytes than those of that time and one second, and a piece of one body.
//! - A transfer that has begun comes to its turn, as its place does not depend on what comes later.
//! - A new request is refused while its first byte would wait for more than [`LONGEST_WAIT`]. Requests that come at the same moment do
//!   not know of each other; how many there are is for the limit of requests at once.
//! - The state has a fixed size: see [`super::table`].

use super::gates::Nanos;
use super::table::{SETS, Table};
use crate::connection::Stopping;
use crate::units::Size;
use futures::future::BoxFuture;
use hyper_sdk::{Error, Result};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The smallest and the largest piece of a response that takes a turn.
const SMALLEST_PIECE: usize = 16 << 10;
const LARGEST_PIECE: usize = 256 << 10;
/// The smallest rate: the smallest piece takes a second at it.
const SLOWEST: u64 = SMALLEST_PIECE as u64;
/// The bytes that may pass without a wait after a rest, as the time in which they come back.
const BURST: Nanos = 1_000_000_000;
/// How long the first byte of a new request may wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The same for a request that goes on with an upload.
pub(super) const LONGEST_WAIT_OF_CHUNK: Duration = Duration::from_secs(60);

/// How many bytes may pass in a second: `50MiB/s`. After a rest, those of one second pass at once.
///
/// ```
/// use hyper_server::ByteRate;
///
/// let rate: ByteRate = "50MiB/s".parse()?;
/// assert_eq!(rate.bytes(), 50 << 20);
/// assert!("50MiB".parse::<ByteRate>().is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(NonZeroU64);

impl ByteRate {
    /// So many bytes in a second.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] for less than 16 KiB.
    pub fn per_second(bytes: u64) -> Result<Self> {
        NonZeroU64::new(bytes)
            .filter(|bytes| bytes.get() >= SLOWEST)
            .map(Self)
            .ok_or_else(|| invalid(&format_args!("{bytes}B/s")))
    }

    /// How many bytes pass in a second.
    pub fn bytes(&self) -> u64 {
        self.0.get()
    }
}

fn invalid(text: &dyn fmt::Display) -> Error {
    Error::invalid(format!("invalid rate of bytes `{text}`: write 50MiB/s or 800KB/s, and at least 16KiB/s"))
}

impl FromStr for ByteRate {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || invalid(&s.escape_debug());
        let size = s.trim().strip_suffix("/s").ok_or_else(bad)?;
        let Size(bytes) = size.parse().map_err(|_| bad())?;
        Self::per_second(bytes).map_err(|_| bad())
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B/s", self.0)
    }
}

/// Reads a rate of bytes, or `off`.
pub(super) fn byte_rate_or_off<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ByteRate>, D::Error> {
    match String::deserialize(d)?.as_str() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|e: Error| serde::de::Error::custom(e.message())),
    }
}

/// The bytes of all clients, in one direction. The value of a key is the time at which all that it has reserved fits into its rate.
#[derive(Debug)]
pub(super) struct Volume {
    rate: u64,
    table: Table<Nanos>,
    hasher: RandomState,
    /// How many bytes had to wait for this rate.
    slowed: AtomicU64,
}

impl Volume {
    pub(super) fn new(rate: ByteRate) -> Self {
        Self {
            rate: rate.bytes(),
            table: Table::new(SETS),
            hasher: RandomState::new(),
            slowed: AtomicU64::new(0),
        }
    }

    /// The key of a client, for the other functions.
    pub(super) fn key(&self, client: impl Hash) -> u64 {
        self.hasher.hash_one(client)
    }

    /// How many bytes had to wait.
    pub(super) fn slowed(&self) -> u64 {
        self.slowed.load(Ordering::Relaxed)
    }

    /// How long a new request has to wait until it may be tried again, if its bytes would wait for longer than this.
    pub(super) fn refuses(&self, key: u64, longest: Duration, now: Nanos) -> Option<Duration> {
        self.wait(key, now).checked_sub(longest).filter(|over| !over.is_zero())
    }

    /// How long the next bytes would wait.
    fn wait(&self, key: u64, now: Nanos) -> Duration {
        self.table.read(key, |full| *full <= now, |full| wait(*full, now)).unwrap_or_default()
    }

    /// Takes the turn of these bytes, and returns how long they wait for it.
    fn reserve(&self, key: u64, bytes: u64, now: Nanos) -> Duration {
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let cost = Nanos::try_from(cost).unwrap_or(Nanos::MAX);
        let reserve = |full: &mut Nanos| {
            let wait = wait(*full, now);
            *full = (*full).max(now).saturating_add(cost);
            wait
        };
        self.table.change(key, |full| *full <= now, reserve).1
    }

    /// The size of a piece, so that it takes about a twentieth of a second.
    fn piece(&self) -> usize {
        usize::try_from(self.rate / 20).unwrap_or(usize::MAX).clamp(SMALLEST_PIECE, LARGEST_PIECE)
    }
}

fn wait(full: Nanos, now: Nanos) -> Duration {
    Duration::from_nanos(full.saturating_sub(now).saturating_sub(BURST))
}

/// The rates that hold for one body.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    volumes: Vec<(Arc<Volume>, u64)>,
    epoch: Instant,
    /// Ends all waits: the server ends.
    stopping: Option<CancellationToken>,
}

impl Pacer {
    /// What paces nothing.
    pub(super) fn new(epoch: Instant) -> Self {
        Self { volumes: Vec::new(), epoch, stopping: None }
    }

    /// The same until the server ends: what is under way then has its last chance.
    pub(crate) fn until(self, stopping: Option<&Stopping>) -> Self {
        Self { stopping: stopping.map(|Stopping(token)| token.clone()), ..self }
    }

    /// Takes the turn of these bytes. Returns what to wait for, if they have to wait.
    pub(crate) fn turn(&self, bytes: usize) -> Option<BoxFuture<'static, ()>> {
        if self.stopping.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return None;
        }
        let sleep = tokio::time::sleep_until(self.reserve(bytes)?);
        let stopping = self.stopping.clone();
        Some(Box::pin(async move {
            match stopping {
                Some(stopping) => {
                    stopping.run_until_cancelled(sleep).await;
                }
                None => sleep.await,
            }
        }))
    }

    pub(super) fn add(&mut self, volume: &Arc<Volume>, client: impl Hash) {
        self.volumes.push((volume.clone(), volume.key(client)));
    }

    /// Whether any rate holds.
    pub(crate) fn paces(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// The most bytes that should take a turn together.
    pub(crate) fn piece(&self) -> usize {
        self.volumes.iter().map(|(volume, _)| volume.piece()).min().unwrap_or(LARGEST_PIECE)
    }

    /// Takes the turn of these bytes. Returns when they may pass, if they have to wait.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<tokio::time::Instant> {
        let (bytes, now) = (bytes as u64, tokio::time::Instant::now());
        let at = super::nanos(self.epoch, now.into_std());
        let waits =
            self.volumes.iter().map(|(volume, key)| (volume.reserve(*key, bytes, at), &volume.slowed));
        let (wait, slowed) = waits.max_by_key(|(wait, _)| *wait).filter(|(wait, _)| !wait.is_zero())?;
        slowed.fetch_add(bytes, Ordering::Relaxed);
        // A wait that no clock can show ends in a day, and bytes of the client cannot have come so far.
        Some(now + wait.min(Duration::from_secs(86_400)))
    }

    /// Whether the next bytes would wait.
    pub(crate) fn is_behind(&self) -> bool {
        let now = super::nanos(self.epoch, tokio::time::Instant::now().into_std());
        self.volumes.iter().any(|(volume, key)| !volume.wait(*key, now).is_zero())
    }

    /// One rate, for tests of bodies.
    #[cfg(test)]
    pub(crate) fn of(rate: &str) -> Self {
        let mut pacer = Self::new(tokio::time::Instant::now().into_std());
        pacer.add(&Arc::new(Volume::new(rate.parse().unwrap())), "a");
        pacer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn a_rate_of_bytes_is_a_size_in_a_second() {
        for (text, bytes) in [("50MiB/s", 50 << 20), (" 800KB/s", 800_000), ("16384/s", 16_384)] {
            let rate: ByteRate = text.parse().unwrap();
            assert_eq!(rate.bytes(), bytes);
            assert_eq!(rate.to_string().parse::<ByteRate>().unwrap(), rate);
        }
        for text in
            ["", "50", "50MiB", "0/s", "16383/s", "50MiB/m", "-1/s", "x/s", "/s", "99999999999999TiB/s"]
        {
            let e = text.parse::<ByteRate>().unwrap_err();
            assert!(e.message().contains(&format!("`{text}`")), "{e}");
        }
        assert!(ByteRate::per_second(1).unwrap_err().message().contains("`1B/s`"));
    }

    #[test]
    fn bytes_beyond_the_rate_wait_and_those_of_others_do_not() {
        let volume = Volume::new("100KB/s".parse().unwrap());
        let (a, b, now) = (volume.key("a"), volume.key("b"), SECOND);
        // After a rest a second passes at once, and what comes in it too.
        assert_eq!(volume.reserve(a, 100_000, now), Duration::ZERO);
        assert_eq!(volume.reserve(a, 50_000, now), Duration::ZERO);
        assert_eq!(volume.reserve(a, 50_000, now), Duration::from_millis(500));
        assert_eq!(volume.reserve(a, 50_000, now), Duration::from_secs(1));
        assert_eq!(volume.reserve(b, 100_000, now), Duration::ZERO);
        assert_eq!(volume.reserve(a, 1, 2 * SECOND), Duration::from_millis(500));
        assert_eq!(volume.reserve(a, 1, 60 * SECOND), Duration::ZERO);
        let fast = Volume::new(ByteRate::per_second(u64::MAX).unwrap());
        assert_eq!(fast.reserve(fast.key("a"), u64::MAX, now), Duration::ZERO);
        assert_eq!(fast.reserve(fast.key("a"), u64::MAX, now), Duration::ZERO);
        let slow = Volume::new("16KiB/s".parse().unwrap());
        slow.reserve(slow.key("a"), u64::MAX, now);
        assert!(slow.reserve(slow.key("a"), u64::MAX, now) > Duration::from_secs(1 << 33));
    }

    #[test]
    fn a_new_request_is_refused_while_its_bytes_would_wait_for_long() {
        let volume = Volume::new("100KB/s".parse().unwrap());
        let (a, now) = (volume.key("a"), SECOND);
        assert_eq!(volume.refuses(a, LONGEST_WAIT, now), None);
        volume.reserve(a, 1_100_000, now);
        assert_eq!(volume.refuses(a, LONGEST_WAIT, now), None);
        volume.reserve(a, 200_000, now);
        assert_eq!(volume.refuses(a, LONGEST_WAIT, now), Some(Duration::from_secs(2)));
        assert_eq!(volume.refuses(volume.key("b"), LONGEST_WAIT, now), None);
        assert_eq!(volume.refuses(a, LONGEST_WAIT, now + 2 * SECOND), None);
    }

    /// The slower of two rates counts, and has the count of what was slowed.
    #[tokio::test(start_paused = true)]
    async fn both_rates_of_a_client_hold() {
        let of = |rate: &str| Arc::new(Volume::new(rate.parse().unwrap()));
        let (address, user) = (of("10MB/s"), of("100KB/s"));
        let mut pacer = Pacer::new(tokio::time::Instant::now().into_std());
        assert!(!pacer.paces() && !pacer.is_behind() && pacer.reserve(1 << 40).is_none());
        pacer.add(&address, "192.0.2.1");
        pacer.add(&user, "alice");
        assert!(pacer.paces());
        assert_eq!(pacer.piece(), 16 << 10);
        assert_eq!(pacer.reserve(300_000), None);
        let start = tokio::time::Instant::now();
        assert!(pacer.is_behind());
        assert_eq!(pacer.reserve(5).unwrap() - start, Duration::from_secs(2));
        assert_eq!((address.slowed(), user.slowed()), (0, 5));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(!pacer.is_behind());
    }
}
