//! Whose API token it is: a name may be that of a user of the file today, and of another person in the directory tomorrow.
//!
//! It is an entry among the scopes of a token, and no scope, as a pattern of repositories has no `=`:
//!
//! ```text
//! owner=directory                     the user of the directory with this name
//! owner=directory:sha256:…            this one entry of the directory
//! (none)                              the user of the file with this name
//! ```

use hyper_sdk::Digest;
use hyper_sdk::store::meta::TokenRecord;

const OWNER: &str = "owner=";
const DIRECTORY: &str = "directory";

/// Whose API token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenOwner {
    /// The user of the file.
    File,
    /// The user of the directory, with what tells the entry from others of that name.
    Directory(Option<Digest>),
}

impl TokenOwner {
    /// The owner that a token has by its scopes; `None` when it is one of another version, and nobody knows who it is.
    pub(crate) fn of(scopes: &[String]) -> Option<Self> {
        let Some(text) = scopes.iter().find_map(|text| text.strip_prefix(OWNER)) else {
            return Some(Self::File);
        };
        match text.split_once(':') {
            None if text == DIRECTORY => Some(Self::Directory(None)),
            Some((DIRECTORY, entry)) => Digest::parse(entry).ok().map(|entry| Self::Directory(Some(entry))),
            _ => None,
        }
    }

    /// Writes the owner of a new token.
    pub(crate) fn write(&self, record: &mut TokenRecord) {
        match self {
            Self::File => {}
            Self::Directory(None) => record.scopes.push(format!("{OWNER}{DIRECTORY}")),
            Self::Directory(Some(entry)) => record.scopes.push(format!("{OWNER}{DIRECTORY}:{entry}")),
        }
    }
}

/// Whether an entry among the scopes of a token says whose it is.
pub(crate) fn is_owner_entry(text: &str) -> bool {
    text.starts_with(OWNER)
}

/// Makes an API token that of the user of the directory ([`crate::RegistryOptions::ldap`]) with its name. Without this it is that of
/// the user of the file ([`crate::RegistryOptions::htpasswd`]), and is refused while the name is in the directory alone. A token stays
/// with its owner: when the name passes from the file to the directory or back, the token does not.
///
/// ```
/// use hyper_server::auth::{api_token, directory_token};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let (token, record) = api_token("ada", "laptop", &["team/**:pull"], 1_700_000_000, None)?;
/// let record = directory_token(record);
/// # drop((token, record));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn directory_token(mut record: TokenRecord) -> TokenRecord {
    if !record.scopes.iter().any(|text| is_owner_entry(text)) {
        TokenOwner::Directory(None).write(&mut record);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::super::{Scope, api_token};
    use super::*;

    #[test]
    fn a_token_says_whose_it_is() {
        let entry = Digest::sha256("entry");
        for owner in [TokenOwner::File, TokenOwner::Directory(None), TokenOwner::Directory(Some(entry))] {
            let (_, mut record) = api_token("ada", "", &["a:pull"], 0, None).unwrap();
            owner.write(&mut record);
            assert_eq!(TokenOwner::of(&record.scopes), Some(owner));
            let others = record.scopes.iter().filter(|text| Scope::of_pattern(text).is_err());
            assert!(others.clone().all(|text| is_owner_entry(text)), "older versions take it for a scope");
            let changed = directory_token(record.clone());
            assert!(matches!(TokenOwner::of(&changed.scopes), Some(TokenOwner::Directory(_))));
            assert_eq!(directory_token(changed.clone()), changed);
        }
        for other in ["owner=", "owner=file", "owner=directory:", "owner=directory:x", "owner=other:sha256:a"]
        {
            assert_eq!(TokenOwner::of(&[other.to_owned()]), None, "{other}");
        }
    }
}
