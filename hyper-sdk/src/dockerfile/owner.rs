//! `--chown`: the owner of copied files.

use crate::{Error, Result};

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A number.
    Id(u32),
    /// A name, which is looked up in the root file system of the destination.
    Name(String),
}

impl Principal {
    fn parse(text: &str) -> Self {
        match text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok()) {
            Some(id) => Self::Id(id),
            None => Self::Name(text.to_owned()),
        }
    }
}

/// The parsed value of `--chown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user.
    pub user: Principal,
    /// The group; without one the user's number is the group's number (a name's primary group).
    pub group: Option<Principal>,
}

impl Owner {
    /// Parses `USER[:GROUP]`; an empty user or group is number zero.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the value is empty.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("`--chown` needs a user"));
        }
        let principal = |part: &str| if part.is_empty() { Principal::Id(0) } else { Principal::parse(part) };
        Ok(match text.split_once(':') {
            Some((user, group)) => Self { user: principal(user), group: Some(principal(group)) },
            None => Self { user: principal(text), group: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        let owner = |text: &str| Owner::parse(text).unwrap();
        assert_eq!(owner("1000"), Owner { user: Principal::Id(1000), group: None });
        assert_eq!(owner("me:5").group, Some(Principal::Id(5)));
        assert_eq!(owner("me:").group, Some(Principal::Id(0)));
        assert_eq!(owner(":wheel").user, Principal::Id(0));
        assert_eq!(owner("-1").user, Principal::Name("-1".into()));
        assert!(Owner::parse("").is_err());
    }
}
