//! Who has logged in, and how.

use crate::auth::Principal;
use crate::auth::htpasswd::Line;
use crate::auth::issuers::External;
use crate::auth::ldap::Person;
use hyper_sdk::Digest;
use std::sync::Arc;

/// Who has logged in.
pub(super) struct Login {
    pub(super) principal: Principal,
    /// The id of the API token or the refresh token that stood for the password.
    pub(super) api_token: Option<String>,
    /// Whether it was the password of a user.
    pub(super) by_password: bool,
    /// The line of the file, or the entry of the directory, whose password was checked.
    pub(super) proved: Option<Proved>,
    /// Whether it is a user of the directory.
    pub(super) is_of_directory: bool,
    /// Of the token of another issuer: what is known of its user, and when it expires.
    pub(super) external: Option<(External, i64)>,
}

/// What a password was checked against.
pub(super) enum Proved {
    /// A line of the file.
    Line(Line),
    /// An entry of the directory, by its stamp.
    Entry(Digest),
}

impl Proved {
    /// What changes with the password of the user.
    pub(super) fn stamp(&self, user: &str) -> Digest {
        match self {
            Self::Line(line) => line.stamp(user),
            Self::Entry(stamp) => stamp.clone(),
        }
    }
}

impl Login {
    pub(super) fn of(principal: Principal) -> Self {
        Self {
            principal,
            api_token: None,
            by_password: false,
            proved: None,
            is_of_directory: false,
            external: None,
        }
    }

    /// A user of the directory.
    pub(super) fn of_person(user: &str, person: Arc<Person>) -> Self {
        let principal = Principal::user(user).with_groups(person.groups.iter().cloned());
        Self {
            proved: Some(Proved::Entry(person.stamp.clone())),
            is_of_directory: true,
            ..Self::of(principal)
        }
    }
}
