//! The directory of a build without the feature `ldap`: there is none.

use super::{Counts, LdapOptions, Person};
use crate::throttle::Guesses;
use hyper_sdk::{Error, Result};
use std::net::IpAddr;
use std::sync::Arc;

/// No directory.
#[derive(Clone, Debug)]
pub(crate) enum Directory {}

impl Directory {
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unsupported`] always.
    pub(crate) fn new(options: &LdapOptions, _: Arc<Guesses>) -> Result<Self> {
        options.check()?;
        Err(Error::unsupported("this build cannot ask a directory (LDAP): build it with the feature `ldap`"))
    }

    pub(crate) async fn verify(&self, _: &str, _: &str, _: Option<IpAddr>) -> Result<Option<Arc<Person>>> {
        match *self {}
    }

    pub(crate) async fn look_up(&self, _: &str) -> Result<Option<Arc<Person>>> {
        match *self {}
    }

    pub(crate) fn counts(&self) -> &Counts {
        match *self {}
    }
}
