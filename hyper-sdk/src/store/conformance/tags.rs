//! Cases about tags and lists: moves, pages, conditions.

use super::kit::*;
use crate::store::{Page, PutManifest, SharedStore};
use crate::{Digest, ErrorKind};

const UNKNOWN: &[ErrorKind] = &[ErrorKind::ManifestUnknown];

fn page(limit: usize, after: Option<&str>) -> Page {
    Page { limit: Some(limit), after: after.map(str::to_owned) }
}

pub async fn deleting_a_tag_keeps_the_manifest(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let manifest = push_image(&store, &name, "x", &["t", "u"]).await;
    store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    fails(store.get_manifest(&name, &by_tag("t")).await, UNKNOWN);
    fails(store.delete_manifest(&name, &by_tag("t")).await, UNKNOWN);
    for reference in [by_tag("u"), by_digest(manifest.digest())] {
        assert_eq!(store.get_manifest(&name, &reference).await.unwrap(), manifest);
    }
}

pub async fn a_tag_can_be_moved(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let old = push_image(&store, &name, "old", &["t"]).await;
    let new = push_image(&store, &name, "new", &["t"]).await;
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), new);
    assert_eq!(store.get_manifest(&name, &by_digest(old.digest())).await.unwrap(), old);
    assert_eq!(tags(&*store, &name).await, ["t"]);
}

pub async fn one_push_can_set_several_tags(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let manifest = push_image(&store, &name, "x", &["1", "1.2", "latest"]).await;
    for tag in ["1", "1.2", "latest"] {
        assert_eq!(store.get_manifest(&name, &by_tag(tag)).await.unwrap(), manifest);
    }
}

pub async fn tags_are_listed_in_byte_order(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    push_image(&store, &name, "x", &["b", "B", "a", "_", "10", "9", "a.1", "a-1", "a_1"]).await;
    assert_eq!(tags(&*store, &name).await, ["10", "9", "B", "_", "a", "a-1", "a.1", "a_1", "b"]);
}

pub async fn tags_are_paged(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    push_image(&store, &name, "x", &["a", "b", "c", "d", "e"]).await;
    let mut got = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let after = got.last().map(String::as_str);
        let listing = store.list_tags(&name, page(2, after)).await.unwrap();
        sizes.push((listing.items.len(), listing.more));
        got.extend(listing.items.iter().map(ToString::to_string));
        if !listing.more {
            break;
        }
    }
    assert_eq!(got, ["a", "b", "c", "d", "e"]);
    assert_eq!(sizes, [(2, true), (2, true), (1, false)]);
    let exact = store.list_tags(&name, page(5, None)).await.unwrap();
    assert_eq!((exact.items.len(), exact.more), (5, false));
}

pub async fn a_page_may_start_after_a_missing_entry(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    push_image(&store, &name, "x", &["a", "c", "e"]).await;
    for (after, expected) in [("b", "c,e"), ("c", "e"), ("0", "a,c,e"), ("e", ""), ("zzz", "")] {
        let listing = store.list_tags(&name, page(10, Some(after))).await.unwrap();
        let got: Vec<&str> = listing.items.iter().map(|t| t.as_str()).collect();
        assert_eq!(got.join(","), expected, "after {after}");
        assert!(!listing.more);
    }
}

pub async fn a_page_without_entries_is_empty(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    push_image(&store, &name, "x", &["a", "c"]).await;
    assert!(store.list_tags(&name, page(0, None)).await.unwrap().items.is_empty());
    assert!(store.list_repositories(page(0, None)).await.unwrap().items.is_empty());
}

pub async fn the_tags_of_an_unknown_repository_are_name_unknown(store: SharedStore) {
    let listing = store.list_tags(&repository("no/such"), Page::default()).await;
    fails(listing, &[ErrorKind::NameUnknown]);
}

pub async fn a_repository_without_tags_has_an_empty_list(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    push(&store, &name, "blob").await;
    assert!(tags(&*store, &name).await.is_empty());
}

pub async fn repositories_are_listed_in_byte_order(store: SharedStore) {
    needs!(store, write);
    assert!(store.list_repositories(Page::default()).await.unwrap().items.is_empty());
    for name in ["b", "a/b", "a", "a-b", "a0"] {
        push(&store, &repository(name), "x").await;
    }
    let listing = store.list_repositories(Page::default()).await.unwrap();
    let got: Vec<&str> = listing.items.iter().map(|n| n.as_str()).collect();
    assert_eq!(got, ["a", "a-b", "a/b", "a0", "b"]);
    assert!(!listing.more);
}

pub async fn an_emptied_repository_is_not_listed(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let one = push_image(&store, &name, "one", &["t"]).await;
    let two = push_image(&store, &name, "two", &[]).await;
    push_image(&store, &repository("b"), "x", &["t"]).await;
    let listed = async || {
        let listing = store.list_repositories(Page::default()).await.unwrap();
        listing.items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    store.delete_manifest(&name, &by_digest(one.digest())).await.unwrap();
    assert_eq!(listed().await, "a,b");
    store.delete_manifest(&name, &by_digest(two.digest())).await.unwrap();
    assert_eq!(listed().await, "b");
    assert!(tags(&*store, &name).await.is_empty());
    put(&store, &name, &one, &["t"]).await.unwrap();
    assert_eq!(listed().await, "a,b");
}

pub async fn repositories_are_paged(store: SharedStore) {
    needs!(store, write);
    for name in ["a", "b", "c"] {
        push(&store, &repository(name), "x").await;
    }
    for (limit, after, expected, more) in [
        (2, None, "a,b", true),
        (2, Some("b"), "c", false),
        (1, Some("aa"), "b", true),
        (9, Some("c"), "", false),
    ] {
        let listing = store.list_repositories(page(limit, after)).await.unwrap();
        let got: Vec<&str> = listing.items.iter().map(|n| n.as_str()).collect();
        assert_eq!((got.join(",").as_str(), listing.more), (expected, more));
    }
}

pub async fn a_tag_moves_if_its_condition_holds(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let old = push_image(&store, &name, "old", &["t"]).await;
    let new = parse(image(&store, &name, "new").await.to_bytes());
    let if_match = Some(Some(old.digest().clone()));
    let put = PutManifest { if_match, ..PutManifest::new(new.clone(), [tag("t")]) };
    store.put_manifest(&name, put).await.unwrap();
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), new);
}

pub async fn a_condition_that_fails_is_a_conflict(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let old = push_image(&store, &name, "old", &["t"]).await;
    let new = parse(image(&store, &name, "new").await.to_bytes());
    for (text, expected) in
        [("t", Some(Digest::sha256("else"))), ("t", None), ("u", Some(old.digest().clone()))]
    {
        let put = PutManifest { if_match: Some(expected), ..PutManifest::new(new.clone(), [tag(text)]) };
        fails(store.put_manifest(&name, put).await, &[ErrorKind::Conflict]);
    }
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), old);
    assert_eq!(tags(&*store, &name).await, ["t"]);
}

pub async fn a_condition_can_require_that_a_tag_is_missing(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let new = parse(image(&store, &name, "new").await.to_bytes());
    let put = PutManifest { if_match: Some(None), ..PutManifest::new(new.clone(), [tag("t")]) };
    store.put_manifest(&name, put.clone()).await.unwrap();
    fails(store.put_manifest(&name, put).await, &[ErrorKind::Conflict]);
}

pub async fn a_conflict_moves_no_tag(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let old = push_image(&store, &name, "old", &["t"]).await;
    let new = parse(image(&store, &name, "new").await.to_bytes());
    let both = [tag("s"), tag("t")];
    let put = PutManifest { if_match: Some(None), ..PutManifest::new(new.clone(), both) };
    fails(store.put_manifest(&name, put).await, &[ErrorKind::Conflict]);
    fails(store.get_manifest(&name, &by_tag("s")).await, UNKNOWN);
    fails(store.get_manifest(&name, &by_digest(new.digest())).await, UNKNOWN);
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), old);
}
