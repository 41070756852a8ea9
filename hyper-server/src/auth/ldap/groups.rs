//! The groups of a user: those that an attribute names, or that a search finds.

use super::connection::Connection;
use super::dn::Dn;
use super::filter::{Filter, Place, Values};
use super::message::{Entry, Scope, Search};
use super::options::LdapOptions;
use hyper_sdk::{Error, Result};
use std::collections::BTreeSet;

/// The most groups of a user, and the bytes of their names together: a token has them all.
const MAX_GROUPS: (usize, usize) = (200, 4 << 10);
/// The most entries of groups that are read.
const MAX_FOUND: u32 = 1000;

/// Where groups are from, and what they are called.
#[derive(Debug)]
pub(super) struct Groups {
    source: Source,
    base: Option<Dn>,
}

#[derive(Debug)]
enum Source {
    Attribute(String),
    Search { base: String, filter: Filter },
}

impl Groups {
    /// What the options say; `None` when users have no groups.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the setting.
    pub(super) fn new(options: &LdapOptions) -> Result<Option<Self>> {
        let base = match &options.group_base {
            Some(text) => Some(Dn::parse(text).ok_or_else(|| {
                Error::invalid(format!("`group-base` is no distinguished name: `{}`", text.escape_debug()))
            })?),
            None => None,
        };
        let source = match (&options.group_attribute, &options.group_filter, &options.group_base) {
            (Some(attribute), _, _) => Source::Attribute(attribute.clone()),
            (None, Some(filter), Some(base)) => {
                let filter = Filter::parse(filter).map_err(|e| e.with_context("key", "group-filter"))?;
                if !filter.has(Place::Dn) && !filter.has(Place::User) {
                    return Err(Error::invalid(
                        "`group-filter` must have `{dn}` or `{user}`: else everybody is in all groups",
                    ));
                }
                Source::Search { base: base.clone(), filter }
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { source, base }))
    }

    /// The attribute of a user that is needed.
    pub(super) fn attribute(&self) -> Option<&str> {
        match &self.source {
            Source::Attribute(name) => Some(name),
            Source::Search { .. } => None,
        }
    }

    /// The groups of a user; `None` when they are too many.
    ///
    /// # Errors
    /// Those of a search.
    pub(super) async fn of(
        &self,
        user: &str,
        entry: &Entry,
        connection: &mut Connection,
    ) -> Result<Option<BTreeSet<String>>> {
        let names: BTreeSet<String> = match &self.source {
            Source::Attribute(name) => {
                // Active Directory gives the first of many alone (`memberOf;range=0-1499`).
                let is_part = |found: &str| {
                    let range =
                        found.to_ascii_lowercase().split_once(";range=").map(|(_, range)| range.to_owned());
                    range.is_some_and(|range| !range.ends_with('*'))
                };
                if entry.attributes.iter().any(|(found, _)| is_part(found)) {
                    return Ok(None);
                }
                let texts = entry.values(name).filter_map(|value| std::str::from_utf8(value).ok());
                texts.filter_map(|dn| self.name(dn)).collect()
            }
            Source::Search { base, filter } => {
                let search = Search {
                    base,
                    scope: Scope::Children,
                    filter: filter.encode(&Values { user, dn: &entry.dn }),
                    // No attribute (RFC 4511, section 4.5.1.8).
                    attributes: &["1.1"],
                    most: MAX_FOUND,
                };
                let found = connection.search(&search).await?;
                if found.has_more {
                    return Ok(None);
                }
                found.entries.iter().filter_map(|entry| self.name(&entry.dn)).collect()
            }
        };
        let bytes: usize = names.iter().map(String::len).sum();
        Ok(Some(names).filter(|names| names.len() <= MAX_GROUPS.0 && bytes <= MAX_GROUPS.1))
    }

    /// What a group is called here; `None` for one elsewhere.
    fn name(&self, dn: &str) -> Option<String> {
        let dn = Dn::parse(dn)?;
        match &self.base {
            None => Some(dn.normal()),
            Some(base) => dn.is_child_of(base).then(|| dn.name().map(str::to_owned))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_elsewhere_is_no_group_of_that_name() {
        let options = |base: Option<&str>| LdapOptions {
            group_attribute: Some("memberOf".to_owned()),
            group_base: base.map(str::to_owned),
            ..LdapOptions::new("ldaps://a")
        };
        let below = Groups::new(&options(Some("ou=Groups,dc=x"))).unwrap().unwrap();
        assert_eq!(below.name("cn=Admins,OU=groups,DC=x").as_deref(), Some("Admins"));
        for other in ["cn=Admins,ou=mine,ou=groups,dc=x", "cn=Admins,dc=x", "cn=a+ou=b,ou=groups,dc=x", "x"] {
            assert_eq!(below.name(other), None, "{other}");
        }
        let all = Groups::new(&options(None)).unwrap().unwrap();
        assert_eq!(all.name("CN=Admins, ou=Mine,DC=x").as_deref(), Some("cn=admins,ou=mine,dc=x"));
    }
}
