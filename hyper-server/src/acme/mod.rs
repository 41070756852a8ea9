//! ACME (RFC 8555): the server gets its certificate from a directory, such as that of Let's Encrypt, and renews it.
//!
//! ```text
//!            ┌── what is on disk fits: wait until a third of its life is left
//!   run ─────┤
//!            └── else: lock ── account ── order ── challenges ── key, request ── certificate file ──▶ TLS reads it
//!                       │ another server has it: look at the disk again           │ a failure: pause, longer each time
//! ```
//!
//! The folder, which servers that share it all read:
//!
//! | file | content |
//! |---|---|
//! | `certificate-PURPOSE.pem` | lines that say for what it was requested, the key, and the chain; PURPOSE stands for the directory and the domains |
//! | `account-HASH.json` | an account of one directory: its URL, its key, its contacts |
//! | `challenge-tls-DOMAIN` | the certificate that answers tls-alpn-01 (RFC 8737), with its key |
//! | `challenge-http-TOKEN` | the answer of http-01 (RFC 8555, section 8.3) |
//! | `tries-PURPOSE.json` | when the last tries failed, and when the next one may be |
//! | `lock` | held by the server that asks (flock(2)) |
//!
//! # Invariants
//! - A certificate on disk that fits is used, and nobody is asked.
//! - One server asks at a time. Every server that shares the folder answers challenges, and takes the new certificate.
//! - A file has its name when it is whole and on the disk. It belongs to the user of the server, and is for that user alone.
//! - In an hour at most [`tries::PER_HOUR`] tries reach an order and fail, however often servers start.
//! - No error and no line of the log has a byte of a key.

#[cfg(feature = "acme")]
mod account;
#[cfg(feature = "acme")]
mod ask;
mod certificate;
mod challenge;
mod folder;
mod handle;
mod http_answers;
mod options;
#[cfg(feature = "acme")]
mod problem;
mod renewal;
mod run;
mod tries;
#[cfg(feature = "acme")]
mod wire;

pub(crate) use handle::Acme;
pub use http_answers::HttpAnswers;
pub use options::{AcmeChallenge, AcmeExternalAccount, AcmeOptions, directory_url};
pub(crate) use run::run;
