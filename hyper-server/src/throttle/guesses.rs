//! Limits of wrong passwords: whoever guesses has to wait.
//!
//! ```text
//! password ── begin: takes one of each limit ── check ┬ right: gives them back, and the address is known to the user
//!                 │ a limit is used up                └ wrong: they are used
//!                 └── refused, and nothing is checked
//! ```
//!
//! # Invariants
//! - What a check may use is taken before it begins, so that many at once are no way around a limit.
//! - An unknown user is limited like a known one.
//! - Where a user has logged in lately, only the limit of this user at this address holds: who guesses elsewhere, or other
//!   users from there, keeps him not away.

use super::gates::{Nanos, Pace};
use super::options::WrongPasswords;
use super::rate::Rate;
use super::refusals::{By, Of, Refusals};
use super::table::Place;
use super::{limited, network};
use crate::remembered::Remembered;
use hyper_sdk::Result;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after a login its address is known to its user.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often a user from an address may be refused, while passwords that are known to be right are accepted.
const REFUSED: Rate = Rate::a_hundred_in_ten_minutes();
/// What stands for the user of a token: no user has this name.
const TOKENS: &str = ":tokens";
/// What stands for the user of a login in a browser.
const LOGINS: &str = ":logins";
/// How many addresses of users are known.
const KNOWN_MOST: usize = 32_768;

/// The limits of wrong passwords, and whom they limit now.
#[derive(Debug)]
pub(crate) struct Guesses {
    user_at_address: Option<Pace>,
    address: Option<Pace>,
    user: Option<Pace>,
    /// How often the limits may refuse, for one user from one address, until passwords that are known to be right are refused as
    /// well: a refusal beside a success tells which password is right.
    refused: Pace,
    /// By keyed hashes of users with addresses.
    known: Remembered<u64>,
    hasher: RandomState,
    epoch: Instant,
    refusals: Arc<Refusals>,
}

/// A password that is being checked. What it has taken is given back when this is dropped, unless it is [wrong](Self::wrong).
#[derive(Debug)]
pub(crate) struct Guess {
    guesses: Arc<Guesses>,
    user: String,
    client: Option<IpAddr>,
    taken: Vec<(By, Place)>,
    begun: Instant,
}

impl Guesses {
    pub(super) fn new(options: &WrongPasswords, epoch: Instant, refusals: Arc<Refusals>) -> Self {
        Self {
            user_at_address: options.user_at_address.map(Pace::new),
            address: options.address.map(Pace::new),
            user: options.user.map(Pace::new),
            refused: Pace::new(REFUSED),
            known: Remembered::new(KNOWN, KNOWN_MOST),
            hasher: RandomState::new(),
            epoch,
            refusals,
        }
    }

    /// Begins the check of a password that nothing is known about.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::TooManyRequests`] with the time to wait.
    pub(crate) fn begin(self: &Arc<Self>, user: &str, client: Option<IpAddr>, now: Instant) -> Result<Guess> {
        self.begin_with(&[By::UserAtAddress, By::Address, By::User], user, client, now)
    }

    /// Begins the check of a token that stands for a password, before its user is known. Nobody guesses one, and many machines
    /// may share an address: the limit of the address counts alone, and only where no token was right lately.
    ///
    /// # Errors
    /// Those of [`Guesses::begin`].
    pub(crate) fn begin_token(self: &Arc<Self>, client: Option<IpAddr>, now: Instant) -> Result<Guess> {
        self.begin_with(&[By::Address], TOKENS, client, now)
    }

    /// Begins a login in a browser, before its user is known. Each one asks the issuer, so the limit of the address counts also where
    /// another login was right.
    ///
    /// # Errors
    /// Those of [`Guesses::begin`].
    pub(crate) fn begin_login(self: &Arc<Self>, client: Option<IpAddr>, now: Instant) -> Result<Guess> {
        self.begin_with(&[By::Address], LOGINS, client, now)
    }

    fn begin_with(
        self: &Arc<Self>,
        limits: &[By],
        user: &str,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<Guess> {
        let client = client.map(network);
        let mut guess =
            Guess { guesses: self.clone(), user: user.to_owned(), client, taken: Vec::new(), begun: now };
        let nanos = super::nanos(self.epoch, now);
        let is_known = user != LOGINS && self.known.has(&self.place(user, client), now);
        for by in limits.iter().copied() {
            if is_known && !matches!(by, By::UserAtAddress) {
                continue;
            }
            match self.take(by, &guess, nanos) {
                None => {}
                Some(Ok(place)) => guess.taken.push((by, place)),
                Some(Err(wait)) => {
                    let _ = self.refused.take((user, client), nanos);
                    self.refusals.count(by, Of::WrongPasswords, client, nanos);
                    return Err(limited(by, Of::WrongPasswords, wait));
                }
            }
        }
        Ok(guess)
    }

    /// Whether a password that is known to be right is accepted without a check.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::TooManyRequests`] when somebody goes on guessing after refusals.
    pub(crate) fn may_repeat(&self, user: &str, client: Option<IpAddr>, now: Instant) -> Result<()> {
        let (client, nanos) = (client.map(network), super::nanos(self.epoch, now));
        self.refused.look((user, client), nanos).map_err(|wait| {
            self.refusals.count(By::UserAtAddress, Of::WrongPasswords, client, nanos);
            limited(By::UserAtAddress, Of::WrongPasswords, wait)
        })
    }

    /// Takes one of a limit; `None` when there is none.
    fn take(&self, by: By, guess: &Guess, now: Nanos) -> Option<std::result::Result<Place, Duration>> {
        match by {
            By::UserAtAddress => Some(self.user_at_address.as_ref()?.take((&guess.user, guess.client?), now)),
            By::Address => Some(self.address.as_ref()?.take(guess.client?, now)),
            By::User => Some(self.user.as_ref()?.take(&guess.user, now)),
            By::Anonymous => None,
        }
    }

    /// Gives back what was taken, unless it has come back by itself since: it would be that of another.
    fn give_back(&self, by: By, place: Place, guess: &Guess, now: Instant) {
        let since = now.saturating_duration_since(guess.begun);
        match (by, guess.client) {
            (By::UserAtAddress, Some(client)) => {
                self.user_at_address
                    .iter()
                    .for_each(|pace| pace.give_back((&guess.user, client), place, since));
            }
            (By::Address, Some(client)) => {
                self.address.iter().for_each(|pace| pace.give_back(client, place, since))
            }
            (By::User, _) => self.user.iter().for_each(|pace| pace.give_back(&guess.user, place, since)),
            _ => {}
        }
    }

    fn place(&self, user: &str, client: Option<IpAddr>) -> u64 {
        self.hasher.hash_one((user, client))
    }
}

impl Guess {
    /// The password is that of the user.
    pub(crate) fn right(self, now: Instant) {
        self.guesses.known.add(self.guesses.place(&self.user, self.client), now);
    }

    /// The password is wrong.
    pub(crate) fn wrong(mut self) {
        self.taken.clear();
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        for (by, place) in &self.taken {
            self.guesses.give_back(*by, *place, self, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::ErrorKind;

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    fn guesses([user_at_address, address, user]: [&str; 3]) -> Arc<Guesses> {
        let rate = |text: &str| text.parse().ok();
        let (user_at_address, address, user) = (rate(user_at_address), rate(address), rate(user));
        let options = WrongPasswords { user_at_address, address, user };
        Arc::new(Guesses::new(&options, Instant::now(), Arc::default()))
    }

    fn begin(guesses: &Arc<Guesses>, user: &str, client: &str) -> Result<Guess> {
        guesses.begin(user, client.parse().ok(), guesses.epoch)
    }

    fn wrong(guesses: &Arc<Guesses>, user: &str, client: &str) -> bool {
        begin(guesses, user, client).map(Guess::wrong).is_ok()
    }

    #[test]
    fn whoever_guesses_has_to_wait() {
        let guesses = guesses(["2/m", "", ""]);
        assert!(wrong(&guesses, "alice", A) && wrong(&guesses, "alice", A));
        let e = begin(&guesses, "alice", A).unwrap_err();
        assert_eq!((e.kind(), e.retry_after()), (ErrorKind::TooManyRequests, Some(Duration::from_secs(30))));
        assert!(e.message().contains("wrong passwords for this user from this address"), "{e}");
        assert!(wrong(&guesses, "bob", A) && wrong(&guesses, "alice", B));
        let later = guesses.epoch + Duration::from_secs(30);
        guesses.begin("alice", A.parse().ok(), later).unwrap();
    }

    #[test]
    fn right_passwords_and_unfinished_checks_use_nothing() {
        let guesses = guesses(["2/m", "2/m", "2/m"]);
        for _ in 0..10 {
            begin(&guesses, "alice", A).unwrap().right(guesses.epoch);
            drop(begin(&guesses, "bob", B).unwrap());
        }
        assert!(wrong(&guesses, "bob", B) && wrong(&guesses, "bob", B) && !wrong(&guesses, "bob", B));
    }

    #[test]
    fn wrong_tokens_count_for_their_address_until_one_is_right() {
        let guesses = guesses(["1/m", "3/m", "1/m"]);
        let begin = |client: &str| guesses.begin_token(client.parse().ok(), guesses.epoch);
        for _ in 0..3 {
            begin(A).unwrap().wrong();
        }
        assert_eq!(begin(A).unwrap_err().kind(), ErrorKind::TooManyRequests);
        assert!(!wrong(&guesses, "alice", A), "passwords and tokens have one limit");
        begin(B).unwrap().right(guesses.epoch);
        for _ in 0..10 {
            begin(B).unwrap().wrong();
        }
        assert!(begin("").is_ok());
    }

    #[test]
    fn many_checks_at_once_are_no_way_around_a_limit() {
        let guesses = guesses(["3/m", "", ""]);
        let running: Vec<Guess> = (0..3).map(|_| begin(&guesses, "alice", A).unwrap()).collect();
        begin(&guesses, "alice", A).unwrap_err();
        running.into_iter().for_each(Guess::wrong);
        begin(&guesses, "alice", A).unwrap_err();
    }

    /// A refusal of one limit takes nothing of the others.
    #[test]
    fn a_refused_guess_uses_nothing() {
        let guesses = guesses(["1/m", "3/m", "2/m"]);
        assert!(wrong(&guesses, "alice", A));
        for _ in 0..5 {
            assert!(!wrong(&guesses, "alice", A));
        }
        assert!(wrong(&guesses, "bob", A) && wrong(&guesses, "carol", A));
        let e = begin(&guesses, "dora", A).unwrap_err();
        assert!(e.message().contains("wrong passwords from this address"), "{e}");
        assert!(wrong(&guesses, "alice", B));
        let e = begin(&guesses, "alice", "192.0.2.3").unwrap_err();
        assert!(e.message().contains("wrong passwords for this user: "), "{e}");
        assert!(wrong(&guesses, "dora", "192.0.2.3"), "the refusals used nothing of dora and this address");
    }

    #[test]
    fn others_keep_nobody_away_from_where_he_usually_is() {
        let guesses = guesses(["3/m", "3/m", "3/m"]);
        begin(&guesses, "alice", A).unwrap().right(guesses.epoch);
        for n in 0..3 {
            assert!(wrong(&guesses, &format!("user{n}"), A));
            assert!(wrong(&guesses, "alice", &format!("198.51.100.{n}")));
        }
        assert!(!wrong(&guesses, "bob", A) && !wrong(&guesses, "alice", B));
        begin(&guesses, "alice", A).unwrap().right(guesses.epoch);
        for _ in 0..3 {
            assert!(wrong(&guesses, "alice", A));
        }
        assert!(!wrong(&guesses, "alice", A), "where he usually is he may guess as much as others");

        let later = guesses.epoch + KNOWN;
        let log_in = |user| guesses.begin(user, A.parse().ok(), later).map(Guess::wrong).is_ok();
        assert!(log_in("bob") && log_in("bob") && log_in("bob"));
        assert!(!log_in("alice"), "after a month he is one of many");
    }

    /// A refusal beside a success would tell which password is right, as fast as requests go.
    #[test]
    fn who_goes_on_guessing_learns_no_password_that_is_known_to_be_right() {
        let guesses = guesses(["1/m", "", ""]);
        let may_repeat =
            |user, client: &str| guesses.may_repeat(user, client.parse().ok(), guesses.epoch).is_ok();
        assert!(wrong(&guesses, "alice", A));
        for n in 0..100 {
            assert!(!wrong(&guesses, "alice", A) && (n == 99 || may_repeat("alice", A)));
        }
        assert!(!may_repeat("alice", A) && may_repeat("alice", B) && may_repeat("bob", A));
        let later = guesses.epoch + Duration::from_secs(6);
        assert!(guesses.may_repeat("alice", A.parse().ok(), later).is_ok());
    }

    /// What a slow check has taken may have come back before it ends.
    #[test]
    fn a_slow_check_gives_nothing_back_that_is_anothers() {
        let guesses = guesses(["2/m", "", ""]);
        let at = |seconds| guesses.epoch + Duration::from_secs(seconds);
        let begin = |seconds| guesses.begin("alice", A.parse().ok(), at(seconds));
        let slow = begin(0).unwrap();
        begin(40).unwrap().wrong();
        begin(40).unwrap().wrong();
        let (by, place) = slow.taken[0];
        guesses.give_back(by, place, &slow, at(41));
        assert!(begin(41).is_err());
        std::mem::forget(slow);
    }

    #[test]
    fn without_an_address_the_user_alone_counts() {
        let guesses = guesses(["1/m", "1/m", "2/m"]);
        assert!(
            wrong(&guesses, "alice", "") && wrong(&guesses, "alice", "") && !wrong(&guesses, "alice", "")
        );
        assert!(wrong(&guesses, "bob", ""));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let guesses = guesses(["1/m", "", ""]);
        assert!(wrong(&guesses, "alice", "2001:db8::1") && !wrong(&guesses, "alice", "2001:db8::2"));
    }
}
