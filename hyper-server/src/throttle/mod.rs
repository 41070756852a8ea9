//! Limits by client: how often, how much at once and how many bytes a second, for an address and for a user.
//!
//! ```text
//! request ── Turn::of_address ── authentication and authorization ── Turn::of_principal ── handler
//! ```
//!
//! The crate `governor` is the usual way, and keeps a map with an entry for each key that ever came: who has many addresses
//! fills the memory, and what bounds such a map removes the entries of those whom it limits. [`table`] does neither.
//!
//! # Invariants
//! - The state has a fixed size, and what limits somebody is not removed: see [`table`].
//! - A refusal costs a hash and a lock of a few clients.
//! - Time comes in with each request.
//!
//! [`volume`] slows the bodies of requests and responses. [`guesses`] limits wrong passwords, and is asked by what checks them, as
//! only they are counted.

mod accounts;
mod gates;
mod guesses;
mod options;
mod rate;
mod refusals;
mod table;
mod volume;

pub(crate) use guesses::{Guess, Guesses};
pub use options::{Allowance, Throttling, WrongPasswords};
pub use rate::Rate;
pub(crate) use refusals::{Refusals, by_names, direction_names, limit_names, paced_names};
pub use volume::ByteRate;
pub(crate) use volume::Pacer;

use accounts::{Accounts, UnderWay};
use gates::Nanos;
use hyper_sdk::{Error, ErrorKind, Result};
use refusals::{By, Of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use volume::{LONGEST_WAIT, LONGEST_WAIT_OF_CHUNK, Volume};

/// The context key of an error of a limit.
pub(crate) const LIMITED: &str = "limit of";

/// The first 96 bits of `64:ff9b::/96`.
const NAT64: u128 = 0x0064_ff9b_0000_0000_0000_0000;

/// What a request does, as far as limits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// A write that may send bytes of a blob.
    Upload,
    /// The same of an upload that has begun: what it owes may be its own.
    Chunk,
}

/// The limits of a registry, and whom they limit now.
#[derive(Debug)]
pub(crate) struct Throttle {
    address: Gates,
    anonymous: Gates,
    user: Gates,
    epoch: Instant,
    refusals: Arc<Refusals>,
    guesses: Arc<Guesses>,
}

/// The limits for one sort of keys.
#[derive(Debug)]
struct Gates {
    by: By,
    accounts: Accounts,
    sent: Option<Arc<Volume>>,
    got: Option<Arc<Volume>>,
}

impl Throttle {
    pub(crate) fn new(options: &Throttling) -> Arc<Self> {
        let gates = |by, allowance: &Allowance| Gates {
            by,
            accounts: Accounts::new(allowance),
            sent: allowance.upload.map(|rate| Arc::new(Volume::new(rate))),
            got: allowance.download.map(|rate| Arc::new(Volume::new(rate))),
        };
        let (epoch, refusals) = (Instant::now(), Arc::<Refusals>::default());
        Arc::new(Self {
            guesses: Arc::new(Guesses::new(&options.wrong_passwords, epoch, refusals.clone())),
            address: gates(By::Address, &options.address),
            anonymous: gates(By::Anonymous, &options.anonymous),
            user: gates(By::User, &options.user),
            epoch,
            refusals,
        })
    }

    /// The limits of requests.
    fn gates(&self, by: By) -> &Gates {
        match by {
            By::Address => &self.address,
            By::Anonymous => &self.anonymous,
            By::User | By::UserAtAddress => &self.user,
        }
    }

    /// What the limits have refused.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Gives each count of bytes that had to wait, with whom the rate is for and the name of the rate.
    pub(crate) fn slowed(&self, each: &mut dyn FnMut(&[&str], u64)) {
        for gates in [&self.address, &self.anonymous, &self.user] {
            for (volume, of) in [(&gates.sent, Of::Upload), (&gates.got, Of::Download)] {
                let count = volume.as_ref().map_or(0, |volume| volume.slowed());
                each(&[gates.by.name(), of.name()], count);
            }
        }
    }

    /// The limits of wrong passwords.
    pub(crate) fn guesses(&self) -> &Arc<Guesses> {
        &self.guesses
    }

    fn nanos(&self, at: Instant) -> Nanos {
        nanos(self.epoch, at)
    }
}

/// A time since `epoch`, which is not 0.
fn nanos(epoch: Instant, at: Instant) -> Nanos {
    let since = at.saturating_duration_since(epoch).as_nanos();
    Nanos::try_from(since).unwrap_or(Nanos::MAX).saturating_add(1)
}

/// One request before the limits. What it has under way ends when this and all of its [`Held`] are dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    client: Option<IpAddr>,
    /// `None` is what no limit refuses.
    kind: Option<Kind>,
    under_way: Option<Arc<UnderWay>>,
    /// The rates of what the client sends, and of what it gets.
    paced: Option<(Pacer, Pacer)>,
}

/// What a request has under way, until it and its copies are dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _under_way: Option<Arc<UnderWay>>,
}

impl Turn {
    pub(crate) fn new(client: Option<IpAddr>, kind: Option<Kind>) -> Self {
        Self { client, kind, under_way: None, paced: None }
    }

    /// The address of the client, when it is known.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Ends what the request has under way. Its bytes have no rate any more.
    pub(crate) fn end(&mut self) {
        self.under_way = None;
        self.paced = None;
    }

    /// What the request has under way, for work that goes on when its client has gone away.
    pub(crate) fn held(&self) -> Held {
        Held { _under_way: self.under_way.clone() }
    }

    /// The rates that hold for the body of the request.
    pub(crate) fn sends(&self) -> Option<Pacer> {
        self.paced.as_ref().map(|(sent, _)| sent).filter(|sent| sent.paces()).cloned()
    }

    /// The rates that hold for the body of the response.
    pub(crate) fn gets(&self) -> Option<Pacer> {
        self.paced.as_ref().map(|(_, got)| got).filter(|got| got.paces()).cloned()
    }

    /// Takes what the request needs of its address.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyRequests`] with the time to wait.
    pub(crate) fn of_address(&mut self, throttle: &Arc<Throttle>) -> Result<()> {
        match self.client {
            Some(client) => self.take(throttle, By::Address, network(client)),
            None => Ok(()),
        }
    }

    /// Takes what the request needs of its user, or of those without credentials at its address.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyRequests`] with the time to wait.
    pub(crate) fn of_principal(&mut self, throttle: &Arc<Throttle>, user: Option<&str>) -> Result<()> {
        match (user, self.client) {
            (Some(user), _) => self.take(throttle, By::User, user),
            (None, Some(client)) => self.take(throttle, By::Anonymous, network(client)),
            (None, None) => Ok(()),
        }
    }

    fn take(&mut self, throttle: &Arc<Throttle>, by: By, key: impl std::hash::Hash + Copy) -> Result<()> {
        let (Some(kind), gates) = (self.kind, throttle.gates(by)) else { return Ok(()) };
        // Authentication may have taken its time.
        let now = throttle.nanos(Instant::now());
        let refuse = |of, wait| {
            throttle.refusals().count(by, of, self.client, now);
            Err(limited(by, of, wait))
        };
        let (volume, bytes) = match kind {
            Kind::Read => (&gates.got, Of::Download),
            Kind::Write | Kind::Upload | Kind::Chunk => (&gates.sent, Of::Upload),
        };
        let longest = if kind == Kind::Chunk { LONGEST_WAIT_OF_CHUNK } else { LONGEST_WAIT };
        let refuses = |volume: &Arc<Volume>| volume.refuses(volume.key(key), longest, now);
        let of_bytes = || volume.as_ref().and_then(refuses).map(|wait| (bytes, wait));
        match gates.accounts.begin(key, kind, now, of_bytes) {
            Err((of, wait)) => return refuse(of, wait),
            Ok(Some(begun)) => {
                self.under_way
                    .get_or_insert_with(|| Arc::new(UnderWay::new(throttle.clone())))
                    .add(by, begun);
            }
            Ok(None) => {}
        }
        if gates.sent.is_some() || gates.got.is_some() {
            let none = || (Pacer::new(throttle.epoch), Pacer::new(throttle.epoch));
            let (sent, got) = self.paced.get_or_insert_with(none);
            gates.sent.iter().for_each(|volume| sent.add(volume, key));
            gates.got.iter().for_each(|volume| got.add(volume, key));
        }
        Ok(())
    }
}

/// What counts as one client: an address of IPv4, also behind NAT64 (RFC 6052), and 64 bits of IPv6. Who has a larger network is
/// several.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) if address.to_bits() >> 32 == NAT64 => {
            Ipv4Addr::from_bits(address.to_bits() as u32).into()
        }
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

fn limited(by: By, of: Of, wait: Duration) -> Error {
    let who = match by {
        By::Address => "this address",
        By::Anonymous => "clients without credentials at this address",
        By::User => "this user",
        By::UserAtAddress => "this user from this address",
    };
    let what = match of {
        Of::Reads => "too many requests that read",
        Of::Writes => "too many requests that write",
        Of::RequestsAtOnce => "too many requests at once",
        Of::UploadsAtOnce => "too many uploads at once",
        Of::WrongPasswords => "too many wrong passwords",
        Of::Upload => "too many uploads that wait for their rate",
        Of::Download => "too many downloads that wait for their rate",
    };
    let message = match (by, of) {
        (By::Address | By::Anonymous, _) => format!("{what} from {who}"),
        (By::User | By::UserAtAddress, Of::WrongPasswords) => format!("{what} for {who}"),
        (By::User | By::UserAtAddress, _) => format!("{what} of {who}"),
    };
    Error::new(ErrorKind::TooManyRequests, format!("{message}: try again later"))
        .with_context(LIMITED, of.name())
        .with_retry_after(wait.max(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(address: Allowance, anonymous: Allowance, user: Allowance) -> Throttling {
        Throttling { address, anonymous, user, ..Throttling::default() }
    }

    fn reads(rate: &str) -> Allowance {
        Allowance { reads: Some(rate.parse().unwrap()), ..Allowance::default() }
    }

    fn turn(client: &str) -> Turn {
        Turn::new(Some(client.parse().unwrap()), Some(Kind::Read))
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let throttle = Throttle::new(&options(reads("1/h"), Allowance::default(), Allowance::default()));
        turn("2001:db8::1").of_address(&throttle).unwrap();
        let e = turn("2001:db8::ffff:2").of_address(&throttle).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooManyRequests);
        assert!(e.retry_after().unwrap() > Duration::from_secs(3500));
        for other in ["2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"] {
            turn(other).of_address(&throttle).unwrap();
        }
        turn("::ffff:192.0.2.1").of_address(&throttle).unwrap_err();
        turn("64:ff9b::192.0.2.1").of_address(&throttle).unwrap_err();
        turn("64:ff9b::192.0.2.9").of_address(&throttle).unwrap();
        Turn::new(None, Some(Kind::Read)).of_address(&throttle).unwrap();
        Turn::new(Some([192, 0, 2, 1].into()), None).of_address(&throttle).unwrap();
    }

    #[test]
    fn users_and_those_without_credentials_are_counted_apart() {
        let throttle = Throttle::new(&options(Allowance::default(), reads("1/h"), reads("2/h")));
        for address in ["192.0.2.1", "192.0.2.2"] {
            turn(address).of_principal(&throttle, Some("alice")).unwrap();
            turn(address).of_principal(&throttle, None).unwrap();
        }
        let refused = |user| turn("192.0.2.1").of_principal(&throttle, user).unwrap_err();
        assert!(refused(Some("alice")).message().contains("of this user"));
        assert!(refused(None).message().contains("without credentials"));
        turn("192.0.2.1").of_principal(&throttle, Some("bob")).unwrap();
        let mut counts = Vec::new();
        throttle.refusals().each(&mut |names, count| {
            if count > 0 {
                counts.push((names.join(" "), count));
            }
        });
        assert_eq!(counts, [("anonymous reads".to_owned(), 1), ("user reads".to_owned(), 1)]);
    }

    #[test]
    fn writes_and_uploads_have_limits_of_their_own() {
        let address = Allowance {
            writes: Some("2/h".parse().unwrap()),
            uploads_at_once: std::num::NonZeroU32::new(1),
            ..Allowance::default()
        };
        let throttle = Throttle::new(&options(address, Allowance::default(), Allowance::default()));
        let begin = |kind| {
            let mut turn = Turn::new(Some([192, 0, 2, 1].into()), Some(kind));
            turn.of_address(&throttle).map(|()| turn)
        };
        let turn = begin(Kind::Upload).unwrap();
        let upload = turn.held();
        // The client goes away, and its bytes are being stored.
        drop(turn);
        let e = begin(Kind::Upload).unwrap_err();
        assert_eq!(e.retry_after(), Some(Duration::from_secs(1)));
        assert!(e.message().contains("too many uploads at once"), "{e}");
        begin(Kind::Write).unwrap();
        drop(upload);
        assert!(begin(Kind::Upload).unwrap_err().message().contains("that write"));
        for _ in 0..100 {
            begin(Kind::Read).unwrap();
        }
    }

    #[test]
    fn a_debtor_of_bytes_begins_nothing_and_goes_on_with_what_has_begun() {
        let address = Allowance { upload: Some("16KiB/s".parse().unwrap()), ..Allowance::default() };
        let throttle = Throttle::new(&options(address, Allowance::default(), Allowance::default()));
        let begin = |kind| {
            let mut turn = Turn::new(Some([192, 0, 2, 1].into()), Some(kind));
            turn.of_address(&throttle).map(|()| turn)
        };
        let mut turn = begin(Kind::Upload).unwrap();
        assert!(turn.gets().is_none());
        turn.sends().unwrap().reserve(800 << 10);
        for kind in [Kind::Upload, Kind::Write] {
            let e = begin(kind).unwrap_err();
            assert!(e.message().contains("too many uploads that wait"), "{e}");
            assert!(e.retry_after().unwrap() > Duration::from_secs(30), "{e}");
        }
        begin(Kind::Chunk).unwrap();
        begin(Kind::Read).unwrap();
        turn.sends().unwrap().reserve(800 << 10);
        begin(Kind::Chunk).unwrap_err();
        turn.end();
        assert!(turn.sends().is_none());
    }
}
