//! The hash of a password in an htpasswd file.
//!
//! ```text
//! $2y$10$KIXQ4S1C...                        bcrypt ($2a$, $2b$, $2y$)
//! $argon2id$v=19$m=65536,t=3,p=4$SALT$TAG   argon2id, argon2i and argon2d, as a PHC string
//! ```
//!
//! # Invariants
//! - What a check costs is bounded when the file is read: time by [`MAX_COST`] and [`MAX_WORK`], memory by
//!   [`PasswordHash::MAX_MEMORY`].
//! - A hash is in no message and not in the output of `Debug`.

use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, Version};
use std::fmt;
use std::sync::Arc;

/// The largest cost of bcrypt: the largest that `htpasswd` makes.
const MAX_COST: u32 = 17;
/// The most memory that argon2 may go through, in KiB times passes: about as long as the largest cost of bcrypt.
const MAX_WORK: u64 = 4 << 20;
/// The most lanes of argon2. They are computed one after the other.
const MAX_LANES: u32 = 64;
/// The shortest tag of argon2, in bytes.
const MIN_TAG: usize = 16;

/// What else an htpasswd file may have.
const OTHERS: [(&str, &str); 9] = [
    ("$apr1$", "MD5 ($apr1$)"),
    ("$1$", "MD5 ($1$)"),
    ("{SHA}", "SHA-1 ({SHA})"),
    ("{SSHA}", "SHA-1 ({SSHA})"),
    ("$5$", "SHA-256 crypt ($5$)"),
    ("$6$", "SHA-512 crypt ($6$)"),
    ("$7$", "scrypt ($7$)"),
    ("$scrypt$", "scrypt"),
    ("$y$", "yescrypt ($y$)"),
];

/// The hash of a password. Clones share it.
#[derive(Clone)]
pub(super) struct PasswordHash(Arc<Inner>);

struct Inner {
    text: String,
    scheme: Scheme,
}

enum Scheme {
    Bcrypt,
    Argon2 { hash: Box<phc::PasswordHash>, memory: u32 },
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl PasswordHash {
    /// The most memory of one check, in KiB.
    pub(super) const MAX_MEMORY: u32 = 256 << 10;

    /// Reads a hash.
    ///
    /// # Errors
    /// Why it is not accepted and what to do, without the hash.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let scheme = match text {
            _ if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) => bcrypt(text)?,
            _ if text.starts_with("$argon2") => argon2(text)?,
            _ => return Err(not_accepted(text)),
        };
        Ok(Self(Arc::new(Inner { text: text.to_owned(), scheme })))
    }

    /// The text of the file.
    pub(super) fn text(&self) -> &str {
        &self.0.text
    }

    /// The memory of a check, in KiB, if it is worth counting.
    pub(super) fn memory(&self) -> u32 {
        match &self.0.scheme {
            Scheme::Bcrypt => 0,
            Scheme::Argon2 { memory, .. } => *memory,
        }
    }

    /// The bytes of a password that a check looks at: bcrypt takes 72. `None` when none fits, as a zero byte is where bcrypt
    /// begins again, so that there were endless spellings of one password.
    pub(super) fn significant<'a>(&self, password: &'a str) -> Option<&'a [u8]> {
        let most = match &self.0.scheme {
            Scheme::Bcrypt => 72,
            Scheme::Argon2 { .. } => usize::MAX,
        };
        let bytes = password.as_bytes();
        (!bytes.contains(&0)).then(|| &bytes[..bytes.len().min(most)])
    }

    /// Whether the password is this one. Blocks for as long as the hash says.
    pub(super) fn verify(&self, password: &str) -> bool {
        match &self.0.scheme {
            Scheme::Bcrypt => ::bcrypt::verify(password, &self.0.text).unwrap_or(false),
            // The algorithm, its version and its parameters are those of the hash.
            Scheme::Argon2 { hash, .. } => {
                Argon2::default().verify_password(password.as_bytes(), &**hash).is_ok()
            }
        }
    }
}

fn bcrypt(text: &str) -> Result<Scheme, String> {
    let parts = text.is_ascii().then(|| text.parse::<::bcrypt::HashParts>().ok()).flatten();
    let parts = parts.ok_or_else(|| format!("the bcrypt hash is damaged: {ANEW}"))?;
    match parts.get_cost() {
        0..=MAX_COST => Ok(Scheme::Bcrypt),
        _ => Err(format!("the cost of the bcrypt hash is above {MAX_COST}: {ANEW}")),
    }
}

fn argon2(text: &str) -> Result<Scheme, String> {
    let damaged = || format!("the argon2 hash is damaged: {ANEW}");
    let hash = phc::PasswordHash::new(text).map_err(|_| damaged())?;
    Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| damaged())?;
    let Some(version) = hash.version else {
        return Err(format!("the argon2 hash has no version (`v=19`): {ANEW}"));
    };
    Version::try_from(version)
        .map_err(|_| format!("the version of the argon2 hash is neither 16 nor 19: {ANEW}"))?;
    let is_plain = hash.params.iter().all(|(name, _)| matches!(name.as_str(), "m" | "t" | "p"));
    if !is_plain {
        return Err(format!("the argon2 hash has other parameters than m, t and p: {ANEW}"));
    }
    let params = Params::try_from(&hash).map_err(|_| damaged())?;
    if hash.salt.is_none() || hash.hash.as_ref().is_none_or(|tag| tag.len() < MIN_TAG) {
        return Err(format!("the argon2 hash has no salt, or less than {MIN_TAG} bytes: {ANEW}"));
    }
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    if memory > PasswordHash::MAX_MEMORY {
        return Err(format!(
            "the memory of the argon2 hash (m) is above {}: {ANEW}",
            PasswordHash::MAX_MEMORY
        ));
    }
    if u64::from(memory) * u64::from(passes) > MAX_WORK || lanes > MAX_LANES {
        return Err(format!(
            "the argon2 hash takes too long: memory times passes (m × t) may be {MAX_WORK}, and p {MAX_LANES}: {ANEW}"
        ));
    }
    Ok(Scheme::Argon2 { hash: Box::new(hash), memory })
}

/// What to do about a hash that is not accepted.
const ANEW: &str = "make the entry anew with `hyperregistry htpasswd USER`";

fn not_accepted(text: &str) -> String {
    let name = OTHERS.iter().find(|(prefix, _)| text.starts_with(prefix)).map(|(_, name)| *name);
    let name = name.unwrap_or("of an unknown scheme, or the password itself");
    format!("the hash is {name}, and only bcrypt and argon2 are accepted: {ANEW}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of `secret`, made with the program `argon2` of the reference implementation.
    pub(in crate::auth) const ARGON2ID: &str =
        "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQxNmJ5dGVzLg$MTvSq5KdPICU3zofLWQhPEYeEPAqyZgYhv1JNP+qm90";
    const ARGON2I: &str =
        "$argon2i$v=19$m=1024,t=2,p=2$c29tZXNhbHQxNmJ5dGVzLg$cs27oVPQyAov4R8TcG5MJZf5RfFMXTjNO9vpZaHPDAc";
    const ARGON2D_16: &str =
        "$argon2d$v=16$m=1024,t=2,p=1$c29tZXNhbHQxNmJ5dGVzLg$0jJm4romHbZYqPg+JeNyIFpzoDK6fOgIEM9Q3LRR6Ds";

    #[test]
    fn hashes_of_the_reference_implementation_are_verified() {
        for text in [ARGON2ID, ARGON2I, ARGON2D_16] {
            let hash = PasswordHash::parse(text).unwrap();
            assert!(hash.verify("secret"), "{text}");
            assert!(!hash.verify("Secret") && !hash.verify(""), "{text}");
            assert_eq!(hash.text(), text);
        }
        assert_eq!(PasswordHash::parse(ARGON2ID).unwrap().memory(), 4096);
    }

    #[test]
    fn costs_are_bounded() {
        let of = |old: &str, new: &str| PasswordHash::parse(&ARGON2ID.replace(old, new)).unwrap_err();
        for (refused, why) in [
            (of("m=4096", "m=262145"), "memory"),
            (of("m=4096", "m=4294967295"), "memory"),
            (of("t=3", "t=1025"), "too long"),
            (of("t=3", "t=4294967295"), "too long"),
            (of("p=1", "p=65"), "too long"),
            (of("p=1", "p=0"), "damaged"),
            (of("m=4096", "m=7"), "damaged"),
            (of("p=1", "p=1,data=AAAA"), "other parameters"),
            (of("$v=19", ""), "no version"),
            (of("v=19", "v=18"), "version"),
            (of("argon2id", "argon2x"), "damaged"),
            (PasswordHash::parse("$argon2id$v=19$m=4096,t=3,p=1").unwrap_err(), "no salt"),
            (
                PasswordHash::parse("$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAA")
                    .unwrap_err(),
                "less than",
            ),
            (
                PasswordHash::parse("$2y$18$KIXQ4S1CKIXQ4S1CKIXQ4OqhmX6Q6dOvBzY1nI9cnZlLQe7vOJd9K")
                    .unwrap_err(),
                "cost",
            ),
        ] {
            assert!(refused.contains(why), "{refused}");
            assert!(refused.contains("hyperregistry htpasswd"), "{refused}");
        }
    }

    #[test]
    fn other_schemes_are_named_and_no_hash_is_shown() {
        for (text, name) in [
            ("$apr1$abcdefgh$THEHASHTHEHASH", "MD5"),
            ("{SHA}THEHASHTHEHASH", "SHA-1"),
            ("$6$abc$THEHASHTHEHASH", "SHA-512"),
            ("$y$j9T$THEHASHTHEHASH", "yescrypt"),
            ("THEHASHTHEHASH", "the password itself"),
            ("", "unknown scheme"),
            ("$2y$10$THEHASH", "damaged"),
            ("$2y$10$éééééééééééééééééééééééééééééééééééééééééééééééééé", "damaged"),
            ("$argon2id$THEHASHTHEHASH", "damaged"),
        ] {
            let refused = PasswordHash::parse(text).unwrap_err();
            assert!(refused.contains(name) && !refused.contains("THEHASH"), "{refused}");
        }
        assert!(!format!("{:?}", PasswordHash::parse(ARGON2ID).unwrap()).contains("$"));
    }
}
