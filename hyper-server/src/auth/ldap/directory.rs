//! A directory that is asked about users and their passwords.
//!
//! # Invariants
//! - A check counts as a guess before it begins, and goes on when its client disconnects: nobody guesses uncounted.
//! - Right passwords alone are remembered, for the network that they came from, and for as long as the options say.
//! - A password that was sent counts as a guess unless the directory accepts it, also when it does not answer in time.
//! - All of a check has one limit of time, all logins together have one of connections, and all look-ups of users another. A directory that cannot be reached is left
//!   alone for a moment, so that those who log in are told at once.

use super::connection::Connection;
use super::known::Known;
use super::message::{Entry, Search};
use super::settings::{Settings, Users};
use super::{Counts, LdapOptions, Person};
use crate::auth::checking::Checking;
use crate::throttle::{Guesses, network};
use hyper_sdk::digest::Hasher;
use hyper_sdk::{Digest, Error, ErrorKind, Result, ResultExt as _};
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many right passwords are remembered, and how many users are known.
const REMEMBERED: usize = 4096;
/// How many checks may wait for a connection before further ones are refused.
const WAITING: usize = 64;
/// How many users are looked up at once for their tokens, at least; with many connections it is half as many. Those who log in take none of these connections: a flood of logins must not
/// keep away those who have a token.
const LOOKING_UP: usize = 2;
/// How long it is known that a user does not exist.
const GONE: Duration = Duration::from_secs(5);
/// How long a user is known while the directory does not answer.
const OUTAGE: Duration = Duration::from_secs(10 * 60);
/// How long a directory that cannot be reached is left alone.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest name of a user and the longest password, in bytes.
const MAX_USER: usize = 255;
const MAX_PASSWORD: usize = 1024;

/// Attributes that differ between entries, or change with the password: of OpenLDAP, 389 Directory Server, FreeIPA and Active
/// Directory.
const STAMPS: [&str; 6] =
    ["entryUUID", "nsUniqueId", "objectGUID", "pwdChangedTime", "krbLastPwdChange", "pwdLastSet"];
/// How many of them are of the entry alone.
const OF_ENTRY: usize = 3;

/// A directory. Clones share it.
#[derive(Clone)]
pub(crate) struct Directory(Arc<Inner>);

struct Inner {
    settings: Settings,
    can_look_up: bool,
    time: Duration,
    cache: Duration,
    /// The connections of those who log in.
    turns: Semaphore,
    /// The connections for users who have a token.
    looking_up: Semaphore,
    waiting: Arc<Semaphore>,
    /// By keyed hashes of users, passwords and networks.
    right: Known<Digest, Arc<Person>>,
    people: Known<String, Option<Arc<Person>>>,
    checking: Checking<Digest>,
    /// When it could last not be reached.
    unreachable: Mutex<Option<Instant>>,
    guesses: Arc<Guesses>,
    salt: [u8; 32],
    counts: Counts,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("servers", &self.0.settings.servers).finish_non_exhaustive()
    }
}

impl Directory {
    /// A directory with these options. Nothing is sent.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] that says which setting is wrong, and why a file cannot be used.
    pub(crate) fn new(options: &LdapOptions, guesses: Arc<Guesses>) -> Result<Self> {
        let mut salt = [0u8; 32];
        crate::auth::fill_random(&mut salt)?;
        Ok(Self(Arc::new(Inner {
            settings: Settings::new(options)?,
            can_look_up: options.can_look_up(),
            time: options.time,
            cache: options.cache,
            turns: Semaphore::new(options.connections),
            looking_up: Semaphore::new(LOOKING_UP.max(options.connections / 2)),
            waiting: Arc::new(Semaphore::new(WAITING + options.connections)),
            right: Known::new(REMEMBERED),
            people: Known::new(REMEMBERED),
            checking: Checking::default(),
            unreachable: Mutex::default(),
            guesses,
            salt,
            counts: Counts::default(),
        })))
    }

    /// How often it was asked.
    pub(crate) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Who a user name and a password belong to; `None` when they are wrong.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyRequests`] when too many passwords were wrong, or too many checks are waiting;
    /// [`ErrorKind::Unavailable`] when the directory does not answer.
    pub(crate) async fn verify(
        &self,
        user: &str,
        password: &str,
        client: Option<IpAddr>,
    ) -> Result<Option<Arc<Person>>> {
        let is_password = !password.is_empty() && password.len() <= MAX_PASSWORD && !password.contains('\0');
        if !is_password || !is_user(user) {
            return Ok(None);
        }
        let inner = &self.0;
        // For a network alone: elsewhere it would tell those who are refused what the right one is.
        let network = client.map(network).map(|network| network.to_string()).unwrap_or_default();
        let key = inner.key(&["password", &network, user, password]);
        let remembered = || {
            let (at, person) = inner.right.get(&key)?;
            // Who has gone, or has another password, as was seen since.
            let is_other = |seen: Option<Arc<Person>>| seen.is_none_or(|seen| seen.stamp != person.stamp);
            if inner.people.get(user).is_some_and(|(seen, known)| seen > at && is_other(known)) {
                return None;
            }
            let repeated = || inner.guesses.may_repeat(user, client, Instant::now()).map(|()| Some(person));
            (at.elapsed() < inner.cache).then(repeated)
        };
        if let Some(outcome) = remembered() {
            return outcome;
        }
        // Machines that begin at once with one password are one check.
        let place = inner.checking.begin(&key).await;
        if let Some(outcome) = remembered() {
            return outcome;
        }
        let guess = inner.guesses.begin(user, client, Instant::now())?;
        let waiting = inner.wait()?;
        let (this, user, password) = (self.clone(), user.to_owned(), password.to_owned());
        let check = async move {
            let _held = (place, waiting);
            let inner = &this.0;
            let asked = Instant::now();
            let is_sent = AtomicBool::new(false);
            let outcome = inner.ask(&inner.turns, inner.log_in(&user, &password, &is_sent)).await;
            match &outcome {
                Ok(Some(person)) => {
                    guess.right(Instant::now());
                    inner.right.put(key, person.clone(), asked);
                    if inner.can_look_up {
                        inner.people.put(user, Some(person.clone()), asked);
                    }
                }
                Ok(None) => guess.wrong(),
                // A directory may take its time to refuse a password.
                Err(_) if is_sent.load(Ordering::Relaxed) => guess.wrong(),
                // What nobody has checked was no guess.
                Err(_) => drop(guess),
            }
            outcome
        };
        tokio::spawn(check)
            .await
            .map_err(|e| Error::internal("a login at the directory was interrupted").with_source(e))?
    }

    /// What the directory says of a user whose password is not known; `None` when there is no such user, and where it cannot be
    /// asked.
    ///
    /// # Errors
    /// Those of [`Directory::verify`]. A user who was there within the last ten minutes still is while the directory does not
    /// answer.
    pub(crate) async fn look_up(&self, user: &str) -> Result<Option<Arc<Person>>> {
        let inner = &self.0;
        if !inner.can_look_up || !is_user(user) {
            return Ok(None);
        }
        if let Some(known) = inner.fresh(user) {
            return Ok(known);
        }
        let _place = inner.checking.begin(&inner.key(&["user", user])).await;
        if let Some(known) = inner.fresh(user) {
            return Ok(known);
        }
        let asked = Instant::now();
        match inner.ask(&inner.looking_up, inner.find_alone(user)).await {
            Ok(found) => {
                inner.people.put(user.to_owned(), found.clone(), asked);
                Ok(found)
            }
            // It does not answer, or is so slow that there is no turn.
            Err(e) => match inner.people.get(user) {
                Some((at, Some(person))) if at.elapsed() < OUTAGE => Ok(Some(person)),
                _ => Err(e),
            },
        }
    }
}

impl Inner {
    /// What is known of a user and is not old.
    fn fresh(&self, user: &str) -> Option<Option<Arc<Person>>> {
        let (at, known) = self.people.get(user)?;
        let time = if known.is_some() { self.cache } else { self.cache.min(GONE) };
        (at.elapsed() < time).then_some(known)
    }

    fn key(&self, fields: &[&str]) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(self.salt);
        fields.iter().for_each(|field| hasher.update_field(field));
        hasher.finish()
    }

    fn wait(&self) -> Result<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().map_err(|_| too_many())
    }

    /// Runs one check, within the limits of connections and time, and counts what came of it.
    async fn ask(
        &self,
        turns: &Semaphore,
        check: impl Future<Output = Result<Option<Person>>>,
    ) -> Result<Option<Arc<Person>>> {
        let outcome = async {
            let _turn = tokio::time::timeout(self.time, turns.acquire()).await.map_err(|_| too_many())?;
            if self.unreachable().is_some_and(|at| at.elapsed() < PAUSE) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the directory could not be reached a moment ago",
                ));
            }
            match tokio::time::timeout(self.time, check).await {
                Ok(outcome) => outcome,
                // It was reached, and may be slow about this user alone.
                Err(_) => Err(Error::new(ErrorKind::Unavailable, "the directory takes too long")),
            }
        };
        // Whatever is wrong between here and there says nothing about the user, and nothing about what the client asked for.
        let outcome = outcome.await.map(|found| found.map(Arc::new)).map_err(|e| match e.kind() {
            ErrorKind::TooManyRequests => e,
            _ => e.with_kind(ErrorKind::Unavailable),
        });
        let count = match &outcome {
            Ok(Some(_)) => &self.counts.accepted,
            Ok(None) => &self.counts.refused,
            Err(error) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(%error, cause, "the directory cannot be asked");
                &self.counts.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn unreachable(&self) -> Option<Instant> {
        *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the directory could not be reached.
    fn lost(&self, error: Error) -> Error {
        *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        error
    }

    /// A connection to the first server that answers.
    async fn connect(&self) -> Result<Connection> {
        let servers = &self.settings.servers;
        let time = self.time / (servers.len() as u32 + 1);
        let mut last = None;
        for server in servers {
            let open = Connection::open(server, &self.settings.tls, self.time);
            let opened = tokio::time::timeout(time, open).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "connecting to the directory takes too long"))
            });
            match opened {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    let error = error.with_context("host", &server.host).with_context("port", server.port);
                    if servers.len() > 1 {
                        tracing::warn!(%error, "a server of the directory does not answer");
                    }
                    last = Some(error);
                }
            }
        }
        Err(self.lost(last.unwrap_or_else(|| Error::internal("the directory has no server"))))
    }

    /// Checks a password.
    async fn log_in(&self, user: &str, password: &str, is_sent: &AtomicBool) -> Result<Option<Person>> {
        let mut connection = self.connect().await?;
        let own = self.settings.binds_as(user);
        if let Some(dn) = &own {
            is_sent.store(true, Ordering::Relaxed);
            if !bind(&mut connection, dn, password).await? {
                connection.close().await;
                return Ok(None);
            }
        }
        let found = self.find(&mut connection, user).await?;
        let found = match (found, own) {
            (Some((_, person)), Some(_)) => Some(person),
            (Some((entry, person)), None) => {
                is_sent.store(true, Ordering::Relaxed);
                bind(&mut connection, &entry.dn, password).await?.then_some(person)
            }
            (None, _) => None,
        };
        connection.close().await;
        Ok(found)
    }

    /// Finds a user without a password.
    async fn find_alone(&self, user: &str) -> Result<Option<Person>> {
        let mut connection = self.connect().await?;
        let found = self.find(&mut connection, user).await?;
        connection.close().await;
        Ok(found.map(|(_, person)| person))
    }

    /// The one entry of a user.
    async fn find(&self, connection: &mut Connection, user: &str) -> Result<Option<(Entry, Person)>> {
        let settings = &self.settings;
        if let Some(account) = &settings.account
            && let Err(outcome) = connection.bind(&account.dn, account.password().await?.expose()).await?
        {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the directory refuses the account of the registry",
            )
            .with_context("result", outcome.code)
            .with_context("explanation", outcome.explanation));
        }
        let mut attributes = vec![settings.user_attribute.as_str()];
        attributes.extend(STAMPS);
        attributes.extend(settings.groups.as_ref().and_then(|groups| groups.attribute()));
        let (base, scope, filter) = settings.search(user);
        let search = Search { base: &base, scope, filter, attributes: &attributes, most: 1 };
        let found = match connection.search(&search).await {
            // The base is the entry itself.
            Err(e) if e.kind() == ErrorKind::NotFound && matches!(settings.users, Users::At(_)) => {
                return Ok(None);
            }
            found => found.map_err(|e| e.with_kind(ErrorKind::Unavailable)).context("key", "base")?,
        };
        let refused = |why: &str| tracing::info!(user = %user.escape_debug(), why, "a user of the directory is refused");
        let Ok([entry]) = <[Entry; 1]>::try_from(found.entries) else { return Ok(None) };
        if found.has_more {
            refused("several entries match");
            return Ok(None);
        }
        let names: Vec<&[u8]> = entry.values(&settings.user_attribute).collect();
        // One of several would let one person be several users.
        if entry.dn.is_empty() || names != [user.as_bytes()] {
            refused("the entry does not have this name, in this spelling and alone, or it may not be read");
            return Ok(None);
        }
        let groups = match &settings.groups {
            Some(groups) => groups.of(user, &entry, connection).await?,
            None => Some(BTreeSet::new()),
        };
        let Some(groups) = groups else {
            refused("there are too many groups: `group-base` or another filter leaves some out");
            return Ok(None);
        };
        let person = Person { groups, entry: identity(&entry), stamp: stamp(&entry) };
        Ok(Some((entry, person)))
    }
}

/// Whether a user has this password.
async fn bind(connection: &mut Connection, dn: &str, password: &str) -> Result<bool> {
    let bound = connection.bind(dn, password).await?;
    if let Err(outcome) = &bound {
        tracing::debug!(
            result = outcome.code,
            explanation = outcome.explanation,
            "the directory refuses a login"
        );
    }
    Ok(bound.is_ok())
}

/// What tells an entry, and the time of its password, from others.
fn stamp(entry: &Entry) -> Digest {
    let mut hasher = Hasher::sha256();
    hasher.update_field("ldap");
    hasher.update_field(&entry.dn);
    STAMPS.iter().for_each(|name| hash_values(&mut hasher, entry, name));
    hasher.finish()
}

/// What tells an entry from others: what the directory made for it, or its name where nothing of that may be read. It stays when the
/// entry is moved or renamed.
fn identity(entry: &Entry) -> Digest {
    let names = &STAMPS[..OF_ENTRY];
    let mut hasher = Hasher::sha256();
    hasher.update_field("entry of ldap");
    match names.iter().any(|name| entry.values(name).next().is_some()) {
        true => names.iter().for_each(|name| hash_values(&mut hasher, entry, name)),
        false => hasher.update_field(entry.dn.to_lowercase()),
    }
    hasher.finish()
}

fn hash_values(hasher: &mut Hasher, entry: &Entry, name: &str) {
    hasher.update_field(name);
    let mut values: Vec<&[u8]> = entry.values(name).collect();
    values.sort_unstable();
    hasher.update_field(values.len().to_string());
    values.into_iter().for_each(|value| hasher.update_field(value));
}

/// Whether a text can be the name of a user: of visible characters, as it stands in logs and policies.
fn is_user(user: &str) -> bool {
    (1..=MAX_USER).contains(&user.len())
        && user.trim() == user
        && !user.contains(':')
        && !user.contains(crate::auth::is_unseen)
}

fn too_many() -> Error {
    Error::new(ErrorKind::TooManyRequests, "too many logins at once: try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_visible_name() {
        for good in ["ada", "Ada Lovelace", "ada@example.com", "ä*()\\", "x"] {
            assert!(is_user(good), "{good}");
        }
        for bad in ["", "a\0b", "a\nb", " a", "a ", "a:b", "a\u{202e}b", &"x".repeat(256)] {
            assert!(!is_user(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_stamp_is_of_the_entry_and_its_password() {
        let entry = |dn: &str, changed: &str| Entry {
            dn: dn.to_owned(),
            attributes: vec![("pwdChangedTime".to_owned(), vec![changed.as_bytes().to_vec()])],
        };
        let one = stamp(&entry("cn=a", "1"));
        assert_eq!(one, stamp(&entry("cn=a", "1")));
        assert_ne!(one, stamp(&entry("cn=a", "2")));
        assert_ne!(one, stamp(&entry("cn=b", "1")));
    }

    #[test]
    fn an_entry_is_known_by_what_the_directory_made_for_it() {
        let entry = |dn: &str, attributes: &[(&str, &str)]| {
            let attribute =
                |(name, value): &(&str, &str)| ((*name).to_owned(), vec![value.as_bytes().to_vec()]);
            identity(&Entry { dn: dn.to_owned(), attributes: attributes.iter().map(attribute).collect() })
        };
        let one = entry("cn=a,ou=x", &[("entryUUID", "1"), ("pwdChangedTime", "1")]);
        assert_eq!(one, entry("cn=a,ou=y", &[("entryuuid", "1"), ("pwdChangedTime", "2")]), "it was moved");
        assert_ne!(one, entry("cn=a,ou=x", &[("entryUUID", "2")]));
        assert_ne!(one, entry("cn=a,ou=x", &[("nsUniqueId", "1")]));
        let unnamed = entry("cn=a,ou=x", &[("pwdChangedTime", "1")]);
        assert_eq!(unnamed, entry("CN=a,ou=x", &[]));
        assert!(unnamed != entry("cn=b,ou=x", &[]) && unnamed != one);
    }
}
