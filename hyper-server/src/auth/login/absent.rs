//! Logins in a build without the feature `issuers`: there are none.

use super::{Callback, Failure, LoggedIn, LoginOptions, NewLogin, Parts};
use crate::auth::issuers::Issuers;
use hyper_sdk::breaker::Breaker;
use hyper_sdk::{Error, Result};
use std::net::IpAddr;

/// No logins.
#[derive(Debug)]
pub(crate) enum Logins {}

impl Logins {
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unsupported`] always.
    pub(crate) fn new(options: &LoginOptions, _: Parts) -> Result<Self> {
        options.check()?;
        Err(unsupported())
    }

    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unsupported`] always.
    pub(crate) fn check(options: &LoginOptions, _: &str) -> Result<()> {
        options.check()?;
        Err(unsupported())
    }

    pub(crate) async fn begin(&self) -> Result<(String, String)> {
        match *self {}
    }

    pub(crate) async fn finish(
        &self,
        _: &Callback,
        _: Option<&str>,
        _: Option<IpAddr>,
    ) -> std::result::Result<NewLogin, Failure> {
        match *self {}
    }

    pub(crate) async fn keep(&self, _: NewLogin) -> Result<LoggedIn> {
        match *self {}
    }

    pub(crate) fn cookie_name(&self) -> &'static str {
        match *self {}
    }

    pub(crate) fn no_cookie(&self) -> String {
        match *self {}
    }

    pub(crate) fn issuers(&self) -> &Issuers {
        match *self {}
    }

    pub(crate) fn breakers(&self) -> std::iter::Empty<&Breaker> {
        match *self {}
    }

    pub(crate) fn start(&self) -> String {
        match *self {}
    }
}

fn unsupported() -> Error {
    Error::unsupported("this build has no logins in a browser: build it with the feature `issuers`")
}
