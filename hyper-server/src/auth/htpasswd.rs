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

/// The users of one file.
pub(crate) struct Htpasswd {
    path: PathBuf,
    state: Mutex<State>,
    right: Arc<Remembered<Digest>>,
    wrong: Arc<Remembered<Digest>>,
    checking: Checking,
    guesses: Arc<Guesses>,
    salt: [u8; 32],
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
        let mut salt = [0u8; 32];
        super::fill_random(&mut salt)?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State { users: Arc::new(users), seen: Some(seen), looked: Instant::now() }),
            right: Arc::new(Remembered::new(REMEMBERED_TIME, REMEMBERED_PASSWORDS)),
            wrong: Arc::new(Remembered::new(REMEMBERED_TIME, REMEMBERED_PASSWORDS)),
            checking: Checking::default(),
            guesses,
            salt,
            cores: Arc::new(Semaphore::new(cores)),
            memory: Arc::new(Semaphore::new(MEMORY as usize)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX + cores)),
        })
    }

    /// Whether the password is the user's. Only passwords whose outcome is not remembered count for the limits of wrong ones.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyRequests`] when too many checks are waiting, or too many passwords were wrong.
    pub(crate) async fn verify(&self, user: &str, password: &str, client: Option<IpAddr>) -> Result<bool> {
        let users = self.users();
        let known = users.find(user);
        let hash = known.cloned().unwrap_or_else(|| users.decoy(user));
        let Some(significant) = hash.significant(password) else { return Ok(false) };
        // An outcome is remembered for a network alone, as elsewhere it would tell those what it is who are refused.
        let key = |of: &str| self.key(&[user.as_bytes(), significant, of.as_bytes()], client);
        let right = known.map(|hash| key(hash.text()));
        // With another file all are checked again: what stands in for unknown users may be another entry.
        let wrong = key(&users.generation);
        let remembered = || {
            let now = Instant::now();
            match right.as_ref().is_some_and(|right| self.right.has(right, now)) {
                true => Some(self.guesses.may_repeat(user, client, now).map(|()| true)),
                false => self.wrong.has(&wrong, now).then_some(Ok(false)),
            }
        };
        if let Some(outcome) = remembered() {
            return outcome;
        }
        // Machines that begin at once with one password are one check, and one guess.
        let place = self.checking.begin(&wrong).await;
        if let Some(outcome) = remembered() {
            return outcome;
        }
        let closed = |e| Error::internal("the queue of password checks is closed").with_source(e);
        let guess = self.guesses.begin(user, client, Instant::now())?;
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
        let users = self.users();
        let mut hasher = Hasher::sha256();
        hasher.update_field(user);
        hasher.update_field(users.find(user)?.text());
        Some(hasher.finish())
    }

    /// The users; `None` while the file cannot be read.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        let users = self.users();
        let is_read = self.state.lock().unwrap_or_else(PoisonError::into_inner).seen.is_some();
        is_read.then(|| users.entries.iter().map(|(name, _)| name.clone()).collect())
    }

    /// Whether the file has this user.
    pub(crate) fn knows(&self, user: &str) -> bool {
        self.users().find(user).is_some()
    }

    fn key(&self, fields: &[&[u8]], client: Option<IpAddr>) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(self.salt);
        hasher.update_field(client.map(network).map_or_else(String::new, |network| network.to_string()));
        fields.iter().for_each(|field| hasher.update_field(field));
        hasher.finish()
    }

    /// The users, read again when the file has changed.
    fn users(&self) -> Arc<Users> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= CHECK_INTERVAL {
            state.looked = Instant::now();
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
mod tests {
    use super::*;
    use crate::throttle::{Throttle, Throttling};

    fn open(path: &Path) -> Htpasswd {
        let throttle = Throttle::new(&Throttling::default());
        Htpasswd::open(path, throttle.guesses().clone()).unwrap()
    }

    #[test]
    fn an_htpasswd_file_has_one_user_a_line() {
        let good = entry("a", "secret", 4).unwrap();
        assert_eq!(parse(&format!("# x\n\n{good}\n")).unwrap().entries.len(), 1);
        assert!(parse(&format!("\u{feff}{good}\r\n")).unwrap().find("a").is_some());
        for (text, why) in [
            ("a:{SHA}x", "line 1: the hash is SHA-1"),
            ("\nnocolon", "line 2: expected USER:HASH"),
            (":x", "empty"),
            (&format!("{good}\n{good}"), "twice"),
        ] {
            let e = parse(text).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
        assert!(entry("a:b", "x", 4).is_err());
        assert!(entry("a", &"x".repeat(73), 4).is_err());
    }

    #[test]
    fn the_hash_for_unknown_users_is_valid() {
        assert!(!Users::default().decoy("a").verify(""));
    }

    /// An unknown user of a file with one scheme must not be told from a known one by the time of another scheme.
    #[test]
    fn an_unknown_user_is_checked_against_an_entry_of_the_file() {
        let argon2 = format!("b:{}", super::super::password_hash::tests::ARGON2ID);
        let bcrypt = entry("a", "secret", 4).unwrap();
        assert!(parse(&argon2).unwrap().decoy("x").text().starts_with("$argon2id$"));
        assert!(parse(&bcrypt).unwrap().decoy("x").text().starts_with("$2y$04$"));
        let both = parse(&format!("{argon2}\n{bcrypt}")).unwrap();
        let decoy = |name: &str| both.decoy(name).text().to_owned();
        assert_eq!(decoy("x"), decoy("x"));
        let seen: std::collections::BTreeSet<_> = (0..64).map(|n| decoy(&n.to_string())).collect();
        assert_eq!(seen.len(), 2);
    }

    #[tokio::test]
    async fn users_of_both_schemes_log_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let argon2 = format!("b:{}", super::super::password_hash::tests::ARGON2ID);
        std::fs::write(&path, format!("{argon2}\n{}\n", entry("a", "one", 4).unwrap())).unwrap();
        let users = open(&path);
        assert!(
            users.verify("a", "one", None).await.unwrap() && users.verify("b", "secret", None).await.unwrap()
        );
        for (user, password) in [("a", "secret"), ("b", "one"), ("c", "secret"), ("c", "one"), ("", "")] {
            assert!(!users.verify(user, password, None).await.unwrap(), "{user}");
        }
    }

    /// A client that disconnects leaves a check behind that costs as much as any other.
    #[tokio::test]
    async fn checks_of_clients_that_disconnected_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, entry("a", "one", 12).unwrap()).unwrap();
        let users = open(&path);
        let free = users.cores.available_permits();
        let check = users.verify("a", "two", None);
        assert!(tokio::time::timeout(Duration::from_millis(20), check).await.is_err());
        assert_eq!(users.cores.available_permits(), free - 1);
        while users.cores.available_permits() != free {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(users.memory.available_permits(), MEMORY as usize);
    }

    /// Machines that begin at once with one password, right or wrong, must not use up what others may guess.
    #[tokio::test]
    async fn equal_passwords_at_once_are_one_check() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, entry("a", "one", 4).unwrap()).unwrap();
        let (users, client) = (open(&path), Some([192, 0, 2, 1].into()));
        for (password, is_right) in [("one", true), ("two", false)] {
            let at_once = (0..500).map(|_| users.verify("a", password, client));
            for outcome in futures::future::join_all(at_once).await {
                assert_eq!(outcome.unwrap(), is_right);
            }
        }
        // One of ten wrong ones is used.
        for n in 0..9 {
            assert!(!users.verify("a", &n.to_string(), client).await.unwrap());
        }
        let e = users.verify("a", "last", client).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooManyRequests);
        assert!(users.verify("a", "one", client).await.unwrap(), "a password that is known to be right");
        assert!(!users.verify("a", "two", client).await.unwrap(), "a password that is known to be wrong");

        // Elsewhere nobody learns from a refusal which password is right.
        let elsewhere = Some([192, 0, 2, 2].into());
        for n in 0..10 {
            assert!(!users.verify("a", &n.to_string(), elsewhere).await.unwrap());
        }
        for password in ["one", "two", "three"] {
            users.verify("a", password, elsewhere).await.unwrap_err();
        }
    }

    /// A client that hangs up leaves its outcome for the next one.
    #[tokio::test]
    async fn the_outcome_of_a_client_that_disconnected_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, entry("a", "one", 12).unwrap()).unwrap();
        let users = open(&path);
        for _ in 0..20 {
            let check = users.verify("a", "two", Some([192, 0, 2, 1].into()));
            match tokio::time::timeout(Duration::from_millis(20), check).await {
                Ok(outcome) => return assert!(!outcome.unwrap()),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        panic!("each client began anew");
    }

    #[tokio::test]
    async fn a_password_has_one_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let long = "x".repeat(72);
        std::fs::write(
            &path,
            format!("{}\n{}", entry("a", "one", 4).unwrap(), entry("b", &long, 4).unwrap()),
        )
        .unwrap();
        let users = open(&path);
        assert!(!users.verify("a", "one\0one", None).await.unwrap());
        for n in 0..3 {
            assert!(users.verify("b", &format!("{long}{n}"), None).await.unwrap());
        }
        let known = (0..9).filter(|n| {
            let hash = users.users().find("b").unwrap().clone();
            let long = format!("{long}{n}");
            let key = users.key(&[b"b", hash.significant(&long).unwrap(), hash.text().as_bytes()], None);
            users.right.has(&key, Instant::now())
        });
        assert_eq!(known.count(), 9, "bcrypt takes 72 bytes");
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_malformed_one_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, entry("a", "one", 4).unwrap()).unwrap();
        let users = open(&path);
        assert!(users.verify("a", "one", None).await.unwrap());
        assert!(users.verify("a", "one", None).await.unwrap());
        assert!(!users.verify("a", "two", None).await.unwrap());
        assert!(!users.verify("b", "one", None).await.unwrap());

        let look_now = || users.state.lock().unwrap().looked -= CHECK_INTERVAL;
        std::fs::write(&path, format!("{}\n", entry("a", "two", 4).unwrap())).unwrap();
        look_now();
        assert!(users.verify("a", "two", None).await.unwrap());
        assert!(!users.verify("a", "one", None).await.unwrap());

        let line = std::fs::read_to_string(&path).unwrap();
        assert!(!users.verify("b", "two", None).await.unwrap());
        std::fs::write(&path, format!("{line}{}", line.replace("a:", "b:"))).unwrap();
        look_now();
        assert!(users.verify("b", "two", None).await.unwrap(), "the hash of another user");

        std::fs::write(&path, "nonsense").unwrap();
        look_now();
        assert!(users.verify("a", "two", None).await.unwrap());
        std::fs::remove_file(&path).unwrap();
        look_now();
        assert!(users.verify("a", "two", None).await.unwrap());
    }
}
