//! Users of an htpasswd file with bcrypt and argon2 hashes. The file is read again when it changes.
//!
//! ```text
//! # comments and empty lines are skipped
//! alice:$2y$10$KIXQ4S1C...      USER:HASH, where HASH is one of `password_hash`
//! ```
//!
//! # Invariants
//! - A check costs tens of milliseconds on purpose, so it runs on a blocking thread, at most one per core at a time and
//!   with a bounded memory of all together, also when the clients disconnect. Its outcome is remembered under a keyed
//!   hash of the user, the password, the network of the client and the entry, or the whole file of a wrong one, so that what
//!   has changed is checked again. The password itself is
//!   never stored. Equal checks at once are one.
//! - The key of that hash is random, stays in the memory of the process and is of one file, so nobody can look for two passwords
//!   with one hash.
//! - The check of an unknown user is that of a wrong password: against an entry of the file that the name chooses, so
//!   that it has a scheme and a cost which users of this file have.
//! - When the file becomes unreadable or malformed, the users that were read last stay valid, and the error is logged.

use super::checking::Checking;
use super::password_hash::PasswordHash;
use crate::remembered::Remembered;
use crate::throttle::{Guesses, network};
use hyper_sdk::digest::Hasher;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Digest, Error, ErrorKind, Result, ResultExt};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;

/// How long the outcome of a check is remembered.
const REMEMBERED_TIME: Duration = Duration::from_secs(600);
/// How many right passwords are remembered, and how many wrong ones.
const REMEMBERED_PASSWORDS: usize = 4096;
/// The shortest time between two checks whether the file has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How many checks may wait for a core before further checks are rejected.
const WAITING_MAX: usize = 64;
/// The memory of all checks of argon2 at once, in MiB. It is that of the largest hash that is accepted.
const MEMORY: u32 = PasswordHash::MAX_MEMORY / 1024;
/// A hash of an unknown password, for the unknown users of a file without users.
const UNKNOWN_USER_HASH: &str = "$2b$10$7EqJtq98hPqEX7fNZaFWoOe3Nc6nCpb8n6vVTqSJZ9jZpqFZcZ0hC";

/// The entries of a file in the order of their users.
#[derive(Debug, Default)]
struct Users {
    entries: Vec<(String, PasswordHash)>,
    /// Differs between files with other entries.
    generation: String,
}

impl Users {
    fn find(&self, user: &str) -> Option<&PasswordHash> {
        let at = self.entries.binary_search_by(|(name, _)| name.as_str().cmp(user)).ok()?;
        Some(&self.entries[at].1)
    }

    /// The hash that the password of an unknown user is checked against. It is the same for a name as long as the file is.
    fn decoy(&self, user: &str) -> PasswordHash {
        let mut hasher = Hasher::sha256();
        hasher.update_field(user);
        let hex = hasher.finish().hex().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let at = hex.unwrap_or(0) % (self.entries.len().max(1) as u64);
        match self.entries.get(at as usize) {
            Some((_, hash)) => hash.clone(),
            None => PasswordHash::parse(UNKNOWN_USER_HASH).expect("the hash of unknown users is valid"),
        }
    }
}

/// A line of a file, whose password was checked.
#[derive(Clone)]
pub(crate) struct Line(PasswordHash);

impl Line {
    /// What changes with the password of the user of the line.
    pub(crate) fn stamp(&self, user: &str) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update_field(user);
        hasher.update_field(self.0.text());
        hasher.finish()
    }
}

/// What an outcome is remembered under.
type Key = [u8; 32];

/// The users of one file.
pub(crate) struct Htpasswd {
    path: PathBuf,
    state: Mutex<State>,
    right: Arc<Remembered<Key>>,
    wrong: Arc<Remembered<Key>>,
    checking: Checking<Key>,
    guesses: Arc<Guesses>,
    /// Has read the key of the keyed hash, which is one block.
    keyed: Sha256,
    cores: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

struct State {
    users: Arc<Users>,
    seen: Option<FileStamp>,
    looked: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl FileStamp {
    fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path).at("cannot read the htpasswd file", path)?;
        Ok(Self { modified: meta.modified().ok(), size: meta.len(), inode: meta.ino() })
    }
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Htpasswd").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Htpasswd {
    /// Reads the file.
    pub(crate) fn open(path: &Path, guesses: Arc<Guesses>) -> Result<Self> {
        let seen = FileStamp::of(path)?;
        let users = read(path)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut key = [0u8; 64];
        super::fill_random(&mut key)?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State { users: Arc::new(users), seen: Some(seen), looked: Instant::now() }),
            right: Arc::new(Remembered::new(REMEMBERED_TIME, REMEMBERED_PASSWORDS)),
            wrong: Arc::new(Remembered::new(REMEMBERED_TIME, REMEMBERED_PASSWORDS)),
            checking: Checking::default(),
            guesses,
            keyed: Sha256::new_with_prefix(key),
            cores: Arc::new(Semaphore::new(cores)),
            memory: Arc::new(Semaphore::new(MEMORY as usize)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX + cores)),
        })
    }

    /// The line of the user, if the password is that of the line. Only passwords whose outcome is not remembered count for the limits of
    /// wrong ones.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyRequests`] when too many checks are waiting, or too many passwords were wrong.
    pub(crate) async fn verify(
        &self,
        user: &str,
        password: &str,
        client: Option<IpAddr>,
    ) -> Result<Option<Line>> {
        let now = Instant::now();
        let users = self.users(now);
        let (known, decoy);
        let hash = match users.find(user) {
            Some(hash) => {
                known = Some(hash);
                hash
            }
            None => {
                (known, decoy) = (None, users.decoy(user));
                &decoy
            }
        };
        let Some(significant) = hash.significant(password) else { return Ok(None) };
        // An outcome is remembered for a network alone, as elsewhere it would tell those what it is who are refused.
        let key = |of: &str| self.key(&[user.as_bytes(), significant, of.as_bytes()], client);
        let right = known.map(|hash| key(hash.text()));
        if right.as_ref().is_some_and(|right| self.right.has(right, now)) {
            self.guesses.may_repeat(user, client, now)?;
            return Ok(known.cloned().map(Line));
        }
        // With another file all are checked again: what stands in for unknown users may be another entry.
        let wrong = key(&users.generation);
        if self.wrong.has(&wrong, now) {
            return Ok(None);
        }
        let check = Check { user, password, client, hash: hash.clone(), right, wrong };
        // Boxed, as few requests have one.
        let is_right = Box::pin(self.check(check)).await?;
        Ok(is_right.then(|| known.cloned().map(Line)).flatten())
    }

    /// Checks a password whose outcome is not remembered.
    async fn check(&self, check: Check<'_>) -> Result<bool> {
        let Check { user, password, client, hash, right, wrong } = check;
        // Machines that begin at once with one password are one check, and one guess.
        let place = self.checking.begin(&wrong).await;
        let now = Instant::now();
        if right.as_ref().is_some_and(|right| self.right.has(right, now)) {
            return self.guesses.may_repeat(user, client, now).map(|()| true);
        }
        if self.wrong.has(&wrong, now) {
            return Ok(false);
        }
        let closed = |e| Error::internal("the queue of password checks is closed").with_source(e);
        let guess = self.guesses.begin(user, client, now)?;
        let waiting = self.waiting.clone().try_acquire_owned().map_err(|_| {
            Error::new(ErrorKind::TooManyRequests, "too many logins at once: try again later")
        })?;
        // Who waits for memory keeps no processor from those who need none.
        let memory = hash.memory().div_ceil(1024).min(MEMORY);
        let memory = self.memory.clone().acquire_many_owned(memory).await.map_err(closed)?;
        let core = self.cores.clone().acquire_owned().await.map_err(closed)?;
        let (password, outcomes) = (password.to_owned(), (self.right.clone(), self.wrong.clone()));
        tokio::task::spawn_blocking(move || {
            // The check goes on when the client disconnects, and counts as long as it does.
            let _counted = (place, waiting, core, memory);
            let fits = hash.verify(&password);
            let now = Instant::now();
            match right.filter(|_| fits) {
                Some(right) => {
                    guess.right(now);
                    outcomes.0.add(right, now);
                    true
                }
                None => {
                    guess.wrong();
                    outcomes.1.add(wrong, now);
                    false
                }
            }
        })
        .await
        .map_err(|e| Error::internal("the password check was interrupted").with_source(e))
    }

    /// What changes with the password of a user; `None` without one.
    pub(crate) fn stamp(&self, user: &str) -> Option<Digest> {
        let hash = self.users(Instant::now()).find(user)?.clone();
        Some(Line(hash).stamp(user))
    }

    /// The users; `None` while the file cannot be read.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        let users = self.users(Instant::now());
        let is_read = self.state.lock().unwrap_or_else(PoisonError::into_inner).seen.is_some();
        is_read.then(|| users.entries.iter().map(|(name, _)| name.clone()).collect())
    }

    /// Whether the file has this user.
    pub(crate) fn knows(&self, user: &str) -> bool {
        self.users(Instant::now()).find(user).is_some()
    }

    /// The keyed hash of some fields and the network of the client. No two lists of fields have the same bytes.
    fn key(&self, fields: &[&[u8]], client: Option<IpAddr>) -> Key {
        let mut hasher = self.keyed.clone();
        match client.map(network) {
            None => hasher.update([0]),
            Some(IpAddr::V4(address)) => {
                hasher.update([4]);
                hasher.update(address.octets());
            }
            Some(IpAddr::V6(address)) => {
                hasher.update([6]);
                hasher.update(address.octets());
            }
        }
        for field in fields {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        hasher.finalize().into()
    }

    /// The users, read again when the file has changed.
    fn users(&self, now: Instant) -> Arc<Users> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= CHECK_INTERVAL {
            state.looked = now;
            match FileStamp::of(&self.path) {
                Ok(stamp) if state.seen == Some(stamp) => {}
                Ok(stamp) => match read(&self.path) {
                    Ok(users) => {
                        tracing::info!(path = %self.path.display(), users = users.entries.len(), "htpasswd file read again");
                        state.users = Arc::new(users);
                        state.seen = Some(stamp);
                    }
                    Err(error) => {
                        if state.seen.is_some() {
                            let error = crate::standard_io::chain(&error);
                            tracing::error!(
                                error,
                                "htpasswd file cannot be read or is malformed: the former users stay"
                            );
                        }
                        state.seen = None;
                    }
                },
                Err(error) => {
                    if state.seen.is_some() {
                        tracing::error!(%error, "htpasswd file cannot be read: the former users stay");
                    }
                    state.seen = None;
                }
            }
        }
        state.users.clone()
    }
}

/// A password that has to be checked.
struct Check<'a> {
    user: &'a str,
    password: &'a str,
    client: Option<IpAddr>,
    hash: PasswordHash,
    /// Of a user of the file: what is remembered when it is right.
    right: Option<Key>,
    /// What is remembered when it is wrong.
    wrong: Key,
}

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

fn read(path: &Path) -> Result<Users> {
    let text = small_file::read_text(path, "the htpasswd file", MAX_FILE, Kinds::Files)?;
    parse(&text).context("path", path.display())
}

/// Checks an htpasswd file.
///
/// # Errors
/// [`ErrorKind::Invalid`] with the line that is invalid, or an error that says why the file cannot be read.
pub fn check(path: &Path) -> Result<()> {
    read(path).map(|_| ())
}

/// Whether an htpasswd file has a user.
///
/// # Errors
/// Those of [`check`].
pub(crate) fn has_user(path: &Path, user: &str) -> Result<bool> {
    Ok(read(path)?.find(user).is_some())
}

fn parse(text: &str) -> Result<Users> {
    let mut users: HashMap<String, PasswordHash> = HashMap::new();
    // Some editors write a byte order mark, which would become part of the first user name.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why: &str| Error::invalid(format!("htpasswd line {}: {why}", i + 1));
        let (user, hash) = line.split_once(':').ok_or_else(|| bad("expected USER:HASH"))?;
        if user.is_empty() {
            return Err(bad("the user name is empty"));
        }
        let hash = PasswordHash::parse(hash).map_err(|why| bad(&why))?;
        if users.insert(user.to_owned(), hash).is_some() {
            return Err(bad("the file has this user twice"));
        }
    }
    let mut users: Vec<_> = users.into_iter().collect();
    users.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut hasher = Hasher::sha256();
    for (user, hash) in &users {
        hasher.update_field(user);
        hasher.update_field(hash.text());
    }
    Ok(Users { entries: users, generation: hasher.finish().to_string() })
}

/// Makes a line for an htpasswd file.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the user name holds a colon or a control character, or the password is empty or longer
/// than the 72 bytes that bcrypt uses.
pub fn entry(user: &str, password: &str, cost: u32) -> Result<String> {
    if user.is_empty() || user.starts_with('#') || user.contains(|c: char| c == ':' || c.is_control()) {
        return Err(Error::invalid("a user name must not be empty, start with `#` or contain `:`"));
    }
    if password.is_empty() || password.len() > 72 {
        return Err(Error::invalid("a password must have 1 to 72 bytes, the limit of bcrypt"));
    }
    let parts = bcrypt::hash_with_result(password, cost)
        .map_err(|e| Error::internal("bcrypt failed").with_source(e))?;
    Ok(format!("{user}:{}", parts.format_for_version(bcrypt::Version::TwoY)))
}

#[cfg(test)]
mod tests;
