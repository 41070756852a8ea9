//! Scrubbing: what a store finds when it reads its blobs again.
//!
//! ```text
//!   blob rows in the order of their digests ──▶ read, hash ──▶ whole
//!                                                  │ differs, ends early, is not there
//!                                                  ▼
//!                                         row again, read again ──▶ whole, or changed meanwhile
//!                                                  │ the same
//!                                                  ▼
//!                             quarantine: no repository has the blob until it is pushed again
//! ```
//!
//! Bytes that cannot be read, because of an error of the disk or a bucket that does not answer, are not damaged ones.

use super::meta::ManifestAt;
use crate::reference::RepositoryName;
use crate::{Digest, Error, Result};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

/// What is wrong with the bytes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// There are none.
    Missing,
    /// There are fewer or more than the database says.
    Size {
        /// How many there are.
        stored: u64,
    },
    /// They do not match the digest.
    Content,
    /// They were found damaged before, and nobody has pushed the blob since.
    Quarantined,
}

/// A damaged blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobDamage {
    /// The blob.
    pub digest: Digest,
    /// The size that the database says.
    pub size: u64,
    /// What is wrong.
    pub kind: DamageKind,
    /// The repositories that have the blob, some at most.
    pub repositories: Vec<RepositoryName>,
    /// The manifests that reference it, some at most.
    pub manifests: Vec<ManifestAt>,
}

impl fmt::Display for BlobDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blob {} ({} bytes): ", self.digest, self.size)?;
        match self.kind {
            DamageKind::Missing => f.write_str("its bytes are missing"),
            DamageKind::Size { stored } => write!(f, "its bytes are {stored}"),
            DamageKind::Content => f.write_str("its bytes do not match the digest"),
            DamageKind::Quarantined => f.write_str("its damaged bytes are in quarantine"),
        }?;
        for at in &self.manifests {
            write!(f, "; {}@{} needs it", at.repository, at.digest)?;
        }
        match self.repositories.as_slice() {
            some @ [_, ..] if self.manifests.is_empty() => {
                let names: Vec<_> = some.iter().map(RepositoryName::as_str).collect();
                write!(f, "; no manifest needs it, {} has it", names.join(", "))
            }
            _ => Ok(()),
        }
    }
}

/// What a scrub tells its observer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScrubEvent<'a> {
    /// A round of a [`ScrubTurn`] begins or goes on; when the last one ended, in seconds since 1970.
    Begins(Option<i64>),
    /// So many bytes were read.
    Read(u64),
    /// A blob was read whole.
    Whole(&'a Digest),
    /// A blob is damaged.
    Damaged(&'a BlobDamage),
    /// A blob could not be read.
    Unreadable(&'a Digest, &'a Error),
}

/// A function that is told of what a scrub finds.
pub type ScrubObserver = Arc<dyn Fn(&ScrubEvent<'_>) + Send + Sync>;

/// The regular scrub of a store, which one process does at a time. The database knows how far it is.
#[derive(Clone, Copy, Debug)]
pub struct ScrubTurn {
    pub(super) holder: u64,
    pub(super) every: Duration,
}

impl ScrubTurn {
    /// A process that scrubs the store again so long after the end of the last round. A process that dies keeps the others
    /// from it for five minutes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the system has no random numbers.
    pub fn new(every: Duration) -> Result<Self> {
        Ok(Self { holder: new_holder()?, every })
    }
}

/// A number that no other process has.
pub(super) fn new_holder() -> Result<u64> {
    let mut holder = [0; 8];
    // Small requests are answered in full.
    rustix::rand::getrandom(&mut holder, rustix::rand::GetRandomFlags::empty())
        .map_err(std::io::Error::from)?;
    Ok(u64::from_ne_bytes(holder))
}

/// How a store is scrubbed. The default reads everything and only reports.
///
/// ```
/// use hyper_sdk::RepositoryName;
/// use hyper_sdk::store::{MemoryStore, RegistryStore as _, RegistryStoreExt as _, ScrubOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, name) = (MemoryStore::default(), RepositoryName::parse("team/app")?);
/// store.put_bytes(&name, "text/plain", "hello".into()).await?;
/// let scrubbed = store.scrub(ScrubOptions::default()).await?;
/// assert_eq!((scrubbed.blobs, scrubbed.bytes, scrubbed.damaged), (1, 5, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ScrubOptions {
    /// The most bytes that are read in a second, at least 4096. A blob counts as 64 KiB at least.
    pub rate: Option<u64>,
    /// Quarantines what is damaged, besides reporting it.
    pub quarantine: bool,
    /// Takes part in the regular scrub of the store, from where it is, if it is due and nobody else is at it. Without, all
    /// blobs are read, whoever else is scrubbing.
    pub turn: Option<ScrubTurn>,
    /// Is told of what is found.
    pub observer: Option<ScrubObserver>,
}

impl Debug for ScrubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScrubOptions")
            .field("rate", &self.rate)
            .field("quarantine", &self.quarantine)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

impl ScrubOptions {
    pub(super) fn report(&self, event: &ScrubEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

/// Why a scrub ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScrubEnd {
    /// Every blob was read.
    #[default]
    Complete,
    /// The next round begins later.
    NotDue,
    /// Another process is scrubbing.
    LeftToAnother,
}

/// What a scrub has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// How many blobs were looked at.
    pub blobs: u64,
    /// How many bytes were read.
    pub bytes: u64,
    /// How many blobs are damaged.
    pub damaged: u64,
    /// How many could not be read.
    pub unreadable: u64,
    /// Why it ended.
    pub end: ScrubEnd,
    /// When the last round of the regular scrub ended, in seconds since 1970.
    pub last_round: Option<i64>,
}
