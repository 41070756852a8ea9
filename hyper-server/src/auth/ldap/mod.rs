//! Users of a directory (LDAP, RFC 4511): a password is checked by the directory, which also says in which groups its user is.
//!
//! ```text
//! password ── remembered? ── guesses ── connection ── account: bind ── search: one entry, its name, its groups ── user: bind
//!                 │                                      or user: bind ── search (the DN is made from the name)
//!                 └── right passwords alone, for a short time
//! token of a user ── known? ── account: bind ── search: is there still an entry?
//! ```
//!
//! The protocol is written here, as far as a login needs it: the known crate for it, `ldap3`, reads nested messages of any
//! depth and length, so that whoever speaks for a directory before TLS has begun could end the whole process.
//!
//! # Invariants
//! - A user name is a value of a parsed filter ([`filter`]) or of an escaped distinguished name ([`dn`]), never a part of their text.
//! - An empty password is refused before anything is sent: a directory takes it for an anonymous bind, which succeeds.
//! - The name that a user has here is one that the entry has, byte by byte: `Ada` does not log in as `ada`, though a directory
//!   finds the same entry, so nobody gets around a rule for a name by writing it in another way.
//! - No password is stored, and what is remembered of a right one is a keyed hash.
//! - Referrals are not followed, and no password goes to a server that the options do not name.

#![cfg_attr(not(feature = "ldap"), allow(dead_code, reason = "there is no directory"))]

#[cfg(not(feature = "ldap"))]
mod absent;
#[cfg(feature = "ldap")]
mod ber;
#[cfg(feature = "ldap")]
mod connection;
#[cfg(feature = "ldap")]
mod directory;
#[cfg(feature = "ldap")]
mod dn;
#[cfg(feature = "ldap")]
mod filter;
#[cfg(feature = "ldap")]
mod groups;
#[cfg(feature = "ldap")]
mod known;
#[cfg(feature = "ldap")]
mod message;
mod options;
#[cfg(feature = "ldap")]
mod server;
#[cfg(feature = "ldap")]
mod settings;

#[cfg(not(feature = "ldap"))]
pub(crate) use absent::Directory;
#[cfg(feature = "ldap")]
pub(crate) use directory::Directory;
pub use options::LdapOptions;

use hyper_sdk::Digest;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a directory says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) groups: BTreeSet<String>,
    /// Differs between entries, also those that have one name after the other, and stays when the password changes.
    pub(crate) entry: Digest,
    /// Differs between entries, and changes with the password where the directory says when that was changed.
    pub(crate) stamp: Digest,
}

/// How often a directory was asked, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// What may come of a question to a directory.
const OUTCOMES: [&str; 3] = ["accepted", "refused", "failed"];

/// What may come of a question, for the metrics.
pub(crate) fn outcomes() -> Vec<String> {
    OUTCOMES.map(str::to_owned).to_vec()
}

/// How often a directory was asked, by what came of it; 0 without one.
pub(crate) fn each_outcome(directory: Option<&Directory>, mut each: impl FnMut(&str, u64)) {
    let counts = directory.map(Directory::counts);
    let counts = counts.map(|counts| [&counts.accepted, &counts.refused, &counts.failed]);
    for (at, outcome) in OUTCOMES.into_iter().enumerate() {
        each(outcome, counts.map_or(0, |counts| counts[at].load(Ordering::Relaxed)));
    }
}
