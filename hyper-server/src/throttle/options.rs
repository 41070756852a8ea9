//! What the limits of clients are.

use super::rate::{Rate, rate_or_off};
use super::volume::{ByteRate, byte_rate_or_off};
use serde::Deserialize;
use std::num::NonZeroU32;

/// How often clients may send requests, how many at once, and how many bytes a second. A request above a limit gets 429 with `Retry-After`, before its
/// body is read (but for up to 64 KiB of it). `/livez` and `/readyz` are never refused by them, nor is `/metrics` unless it is for users only.
///
/// The address of a client is that of its connection, or the one that a trusted proxy says; of an IPv6 address, the first 64
/// bits count. A client whose address nobody says, as at a socket of the file system, has no limit by address.
///
/// ```
/// use hyper_server::{Allowance, Rate, RegistryOptions, Throttling};
///
/// let address = Allowance { reads: Some(Rate::per_second(200)?), ..Allowance::default() };
/// let throttling = Throttling { address, ..Throttling::default() };
/// let options = RegistryOptions { throttling, ..RegistryOptions::default() };
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// What one address may do, whoever sends from there. It is checked before anybody is authenticated.
    pub address: Allowance,
    /// What one address may do without credentials. Requests that are refused for want of credentials do not count.
    pub anonymous: Allowance,
    /// What one user may do, from all addresses together.
    pub user: Allowance,
    /// How many wrong passwords are checked.
    pub wrong_passwords: WrongPasswords,
}

impl Throttling {
    /// Whether a rate of bytes slows the bodies of requests.
    pub(crate) fn slows_uploads(&self) -> bool {
        [&self.address, &self.anonymous, &self.user].iter().any(|allowance| allowance.upload.is_some())
    }

    /// Whether a rate of bytes slows the bodies of responses.
    pub(crate) fn slows_downloads(&self) -> bool {
        [&self.address, &self.anonymous, &self.user].iter().any(|allowance| allowance.download.is_some())
    }
}

/// What one client may do; `None` sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Allowance {
    /// How often it may read: `GET` and `HEAD`, and requests for tokens, which have a limit by address alone.
    #[serde(deserialize_with = "rate_or_off")]
    pub reads: Option<Rate>,
    /// How often it may write: the other methods.
    #[serde(deserialize_with = "rate_or_off")]
    pub writes: Option<Rate>,
    /// How many requests it may have under way at once, until the answer is ready, or the last byte of a blob is sent.
    pub requests_at_once: Option<NonZeroU32>,
    /// How many of them may send bytes of blobs.
    pub uploads_at_once: Option<NonZeroU32>,
    /// How many bytes of request bodies it may send in a second, over all of its connections. More of them wait, and a request whose
    /// bytes would wait for more than ten seconds is refused.
    #[serde(deserialize_with = "byte_rate_or_off")]
    pub upload: Option<ByteRate>,
    /// How many bytes of response bodies it may get in a second, as with `upload`. Errors do not wait.
    #[serde(deserialize_with = "byte_rate_or_off")]
    pub download: Option<ByteRate>,
}

/// How often passwords of a file of users may be wrong; `None` sets no limit. Above it a password that the registry did not
/// check lately gets 429 with `Retry-After`, whether it is right or not, and no time is spent on it.
///
/// Only different passwords count: a machine that sends one old password for ever counts once in ten minutes. A password that
/// was found right from the same address in the last ten minutes is accepted, until a hundred guesses for this user from there
/// were refused in ten minutes. Where a user has logged in within 30 days, as far as this server remembers since its start,
/// only `user_at_address` holds for this user. API tokens, which nobody guesses, do not count.
///
/// ```
/// use hyper_server::{RegistryOptions, Throttling, WrongPasswords};
///
/// let wrong_passwords = WrongPasswords { user: Some("1000/h".parse()?), ..WrongPasswords::default() };
/// let throttling = Throttling { wrong_passwords, ..Throttling::default() };
/// let options = RegistryOptions { throttling, ..RegistryOptions::default() };
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrongPasswords {
    /// For one user from one address, `10/10m` by default.
    #[serde(deserialize_with = "rate_or_off")]
    pub user_at_address: Option<Rate>,
    /// From one address, for all users together; `100/10m` by default.
    #[serde(deserialize_with = "rate_or_off")]
    pub address: Option<Rate>,
    /// For one user, from all addresses; none by default, because others could keep the user away from new addresses.
    #[serde(deserialize_with = "rate_or_off")]
    pub user: Option<Rate>,
}

impl Default for WrongPasswords {
    fn default() -> Self {
        Self {
            user_at_address: Some(Rate::ten_in_ten_minutes()),
            address: Some(Rate::a_hundred_in_ten_minutes()),
            user: None,
        }
    }
}
