//! Pages of tags and repositories.
//!
//! A page is requested with the last entry that the caller has. A registry may give its next page an address (`Link`).
//! Such addresses are kept by last entry, so that a caller who pages in order uses them.

use super::auth::Access;
use super::errors::Subject;
use super::transport::Request;
use super::{HttpClient, link};
use crate::reference::{RepositoryName, Tag};
use crate::store::{Listing, Page};
use crate::{Error, ErrorKind, Result};
use reqwest::Method;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use url::Url;

/// The largest page that is read.
const MAX_PAGE: usize = 32 * 1024 * 1024;
/// The most addresses that are kept.
const MAX_CONTINUATIONS: usize = 256;
/// The most empty pages in a row that are followed.
const MAX_EMPTY_PAGES: usize = 100;
/// The most pages of one list that are followed.
pub(super) const MAX_PAGES: usize = 100_000;

#[derive(Default)]
pub(super) struct Continuations(Mutex<HashMap<(String, String), Next>>);

/// The next page of a list.
#[derive(Clone)]
pub(super) struct Next {
    pub(super) url: Url,
    /// How many pages came before.
    pub(super) pages: usize,
}

impl Continuations {
    pub(super) fn remember(&self, path: &str, last: &str, next: Next) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CONTINUATIONS {
            known.clear();
        }
        known.insert((path.to_owned(), last.to_owned()), next);
    }

    fn find(&self, path: &str, last: &str) -> Option<Next> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(path.to_owned(), last.to_owned())).cloned()
    }
}

/// The next page's address, within the registry.
pub(super) fn resolve_next(from: &Url, next: &str) -> Result<Url> {
    let next = from.join(next).map_err(|e| {
        Error::invalid("the registry links to a page whose address is not a URL").with_source(e)
    })?;
    super::transport::check_downgrade(from, &next)?;
    if next.host_str() != from.host_str() {
        let message = "the registry links to a list at another host, and such links are not followed";
        return Err(
            Error::new(ErrorKind::Denied, message).with_context("to", next.host_str().unwrap_or_default())
        );
    }
    Ok(next)
}

impl HttpClient {
    pub(super) async fn tags(&self, repository: &RepositoryName, page: &Page) -> Result<Listing<Tag>> {
        let listing = self.tag_texts(repository, page).await?;
        // A text that is not a valid tag cannot be requested.
        let items = listing.items.iter().filter_map(|t| Tag::parse(t).ok()).collect();
        Ok(Listing { items, more: listing.more })
    }

    pub(super) async fn tag_texts(
        &self,
        repository: &RepositoryName,
        page: &Page,
    ) -> Result<Listing<String>> {
        #[derive(Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        self.listing(
            &format!("{repository}/tags/list"),
            Access::repository(repository, "pull"),
            Subject::Repository,
            page,
            |bytes| serde_json::from_slice::<Tags>(bytes).map(|t| t.tags.unwrap_or_default()),
        )
        .await
    }

    pub(super) async fn catalog(&self, page: &Page) -> Result<Listing<RepositoryName>> {
        let listing = self.catalog_texts(page).await?;
        let items = listing.items.iter().filter_map(|r| RepositoryName::parse(r).ok()).collect();
        Ok(Listing { items, more: listing.more })
    }

    pub(super) async fn catalog_texts(&self, page: &Page) -> Result<Listing<String>> {
        #[derive(Deserialize)]
        struct Repositories {
            #[serde(default)]
            repositories: Option<Vec<String>>,
        }
        self.listing("_catalog", Access::catalog(), Subject::Registry, page, |bytes| {
            serde_json::from_slice::<Repositories>(bytes).map(|r| r.repositories.unwrap_or_default())
        })
        .await
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::unsupported("the registry does not list its repositories").with_source(e)
            }
            _ => e,
        })
    }

    async fn listing(
        &self,
        path: &str,
        access: Access,
        subject: Subject,
        page: &Page,
        parse: impl Fn(&[u8]) -> serde_json::Result<Vec<String>>,
    ) -> Result<Listing<String>> {
        let known = page.after.as_deref().and_then(|after| self.inner.listings.find(path, after));
        let followed = known.is_some();
        let (mut url, pages) = known.map_or_else(|| (self.url(path), 0), |next| (next.url, next.pages));
        if pages >= MAX_PAGES {
            return Err(Error::new(ErrorKind::TooLarge, "the registry's list does not end")
                .with_context("pages", pages));
        }
        if !followed {
            if let Some(limit) = page.limit {
                url.query_pairs_mut().append_pair("n", &limit.to_string());
            }
            if let Some(after) = &page.after {
                url.query_pairs_mut().append_pair("last", after);
            }
        }
        for _ in 0..MAX_EMPTY_PAGES {
            let asked = url.clone();
            let request = Request::new(Method::GET, url, access.clone(), subject, &[200]).whole(MAX_PAGE);
            let answer = self.send(request).await?;
            let next = match link::next_link(answer.response.headers()) {
                Some(next) => Some(resolve_next(&answer.url, &next)?),
                None => None,
            };
            let mut items = parse(&answer.content).map_err(|e| {
                Error::invalid("the registry's list is not the JSON of a list").with_source(e)
            })?;
            match (next, items.last()) {
                (Some(next), None) => url = next,
                (Some(next), Some(last)) => {
                    if next == asked || page.after.as_ref() == Some(last) {
                        return Err(Error::new(
                            ErrorKind::Unavailable,
                            "the registry links from a page of its list to the same page",
                        )
                        .with_retryable(false));
                    }
                    self.inner.listings.remember(path, last, Next { url: next, pages: pages + 1 });
                    return Ok(Listing { items, more: true });
                }
                (None, _) => {
                    let more = !followed && cut(&mut items, page);
                    return Ok(Listing { items, more });
                }
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the registry links from one empty page to the next")
            .with_retryable(false))
    }
}

/// Cuts the wanted page out of the list of a registry without pages. Returns whether there is more.
fn cut(items: &mut Vec<String>, page: &Page) -> bool {
    if let Some(after) = &page.after {
        items.retain(|i| i > after);
    }
    let Some(limit) = page.limit.filter(|limit| items.len() > *limit) else { return false };
    items.sort_unstable();
    items.truncate(limit);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_addresses_of_next_pages_are_kept() {
        let known = Continuations::default();
        let next = Next { url: Url::parse("https://r.example/v2/a/tags/list?last=x").unwrap(), pages: 1 };
        for n in 0..10 * MAX_CONTINUATIONS {
            known.remember("a/tags/list", &n.to_string(), next.clone());
            assert!(known.find("a/tags/list", &n.to_string()).is_some(), "the newest one is lost");
        }
        assert!(known.0.lock().unwrap().len() <= MAX_CONTINUATIONS);
    }

    #[test]
    fn a_page_is_cut_out_of_a_whole_list() {
        let mut items: Vec<String> = ["a", "c", "b", "d"].map(String::from).into();
        assert!(cut(&mut items, &Page { limit: Some(2), after: Some("a".into()) }));
        assert_eq!(items, ["b", "c"]);
        assert!(!cut(&mut items, &Page { limit: Some(2), after: None }));
    }
}
