//! Pages of lists. The crate gives no link to the next page.

use crate::store::{Listing, Page};
use crate::{Error, ErrorKind, Result};

/// The most pages in a row without a valid name that are followed.
const MAX_EMPTY_PAGES: usize = 100;

/// A page in the registry's order, and whether there is more after it: the crate hides the link to the next page.
pub(super) async fn listing<T, F>(
    page: Page,
    parse: impl Fn(&str) -> Result<T>,
    list: impl Fn(Option<usize>, Option<String>) -> F,
) -> Result<Listing<T>>
where
    F: Future<Output = Result<Vec<String>>>,
{
    let mut after = page.after;
    for _ in 0..MAX_EMPTY_PAGES {
        let mut found = match page.limit {
            Some(0) => Vec::new(),
            limit => following(&list, limit, after.as_ref(), &[]).await?,
        };
        found.truncate(page.limit.unwrap_or(usize::MAX));
        let last = found.last().cloned().or(after);
        let more = !following(&list, Some(1), last.as_ref(), &found).await?.is_empty();
        let items: Vec<T> = found.iter().filter_map(|text| parse(text).ok()).collect();
        // The next page is asked for by an item of this one.
        if !items.is_empty() || !more || page.limit == Some(0) {
            return Ok(Listing { items, more });
        }
        after = last;
    }
    Err(Error::new(ErrorKind::TooLarge, "the registry's list has too many pages without a valid name")
        .with_context("pages", MAX_EMPTY_PAGES))
}

/// What the registry lists after an entry. `given` is the page that the entry ends.
async fn following<F>(
    list: &impl Fn(Option<usize>, Option<String>) -> F,
    limit: Option<usize>,
    after: Option<&String>,
    given: &[String],
) -> Result<Vec<String>>
where
    F: Future<Output = Result<Vec<String>>>,
{
    let mut found = list(limit, after.cloned()).await?;
    let Some(after) = after else { return Ok(found) };
    let is_known = found.contains(after) || found.first().is_some_and(|first| given.contains(first));
    if limit.is_some() && is_known {
        // The registry starts from the beginning: its whole list shows what follows the entry.
        found = list(None, Some(after.clone())).await?;
    }
    if let Some(at) = found.iter().rposition(|text| text == after) {
        found.drain(..=at);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Tag;

    #[tokio::test]
    async fn there_is_more_when_the_next_request_finds_it() {
        // Registries cap pages, ignore `last`, or ignore `n`.
        let all = ["a", "b", "c", "d"];
        for (cap, heeds_last) in [(usize::MAX, true), (2, true), (usize::MAX, false)] {
            let list = |limit: Option<usize>, after: Option<String>| async move {
                let after = after.filter(|_| heeds_last).unwrap_or_default();
                let found = all.iter().filter(|t| **t > after.as_str()).map(|t| (*t).to_owned());
                Ok(found.take(limit.unwrap_or(usize::MAX).min(cap)).collect())
            };
            let page = |limit, after: Option<&str>| Page { limit, after: after.map(str::to_owned) };
            if heeds_last {
                let two = listing(page(Some(2), Some("a")), Tag::parse, list).await.unwrap();
                assert_eq!((two.items.len(), two.more), (2, true), "cap {cap}");
                let rest = listing(page(None, Some("c")), Tag::parse, list).await.unwrap();
                assert_eq!((rest.items.len(), rest.more), (1, false), "cap {cap}");
            } else {
                let whole = listing(page(None, None), Tag::parse, list).await.unwrap();
                assert_eq!((whole.items.len(), whole.more), (4, false));
            }
        }
    }

    #[tokio::test]
    async fn a_list_in_another_order_loses_nothing() {
        // Not the order of bytes; one text is no tag. Registries cap pages, or ignore `last`.
        let all = ["v10", "v9", "-", "a", "V1", "v2"];
        let valid = ["v10", "v9", "a", "V1", "v2"];
        for (cap, heeds_last) in [(usize::MAX, true), (2, true), (1, true), (usize::MAX, false)] {
            let list = |limit: Option<usize>, after: Option<String>| async move {
                let after = after.filter(|_| heeds_last);
                let start = after.map_or(0, |after| all.iter().position(|t| *t == after).unwrap() + 1);
                let found = all[start..].iter().map(|t| (*t).to_owned());
                Ok(found.take(limit.unwrap_or(usize::MAX).min(cap)).collect())
            };
            let limits = if heeds_last { vec![None, Some(1), Some(2), Some(3)] } else { vec![None] };
            for limit in limits {
                let (mut tags, mut after) = (Vec::<String>::new(), None);
                loop {
                    let found = listing(Page { limit, after }, Tag::parse, list).await.unwrap();
                    tags.extend(found.items.iter().map(ToString::to_string));
                    assert!(tags.len() <= valid.len(), "{tags:?}");
                    if !found.more {
                        break;
                    }
                    after = tags.last().cloned();
                }
                assert_eq!(tags, valid, "cap {cap}, limit {limit:?}, heeds last {heeds_last}");
            }
        }
    }

    #[tokio::test]
    async fn a_list_without_valid_names_ends() {
        let list = |_: Option<usize>, after: Option<String>| async move {
            Ok(vec![format!("{}-", after.unwrap_or_default())])
        };
        let e = listing(Page { limit: None, after: None }, Tag::parse, list).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
    }
}
