//! Lists: pages, links, referrers and their fallback tag.

use super::*;
use crate::oci::ImageIndex;
use crate::store::Page;
use std::sync::Mutex;

#[tokio::test]
async fn a_link_is_followed_by_the_last_entry() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/v2/a/b/tags/list?n=2" => Reply::new(200)
            .header("Link", r#"</v2/a/b/tags/list?cursor=opaque>; rel="next""#)
            .body(r#"{"name":"a/b","tags":["z","b"]}"#),
        "/v2/a/b/tags/list?cursor=opaque" => Reply::new(200).body(r#"{"name":"a/b","tags":["a"]}"#),
        _ => Reply::new(400),
    })
    .await;
    let client = client(&server);
    let first = client.list_tags(&repository(), Page { limit: Some(2), after: None }).await.unwrap();
    assert!(first.more);
    let after = first.items.last().map(ToString::to_string);
    let second = client.list_tags(&repository(), Page { limit: Some(2), after }).await.unwrap();
    assert_eq!((second.items.len(), second.more), (1, false));
}

#[tokio::test]
async fn empty_pages_are_followed_up_to_a_limit() {
    let calls = Counter::default();
    let server = Server::start(move |_| match calls.next() {
        3 => Reply::new(200).body(r#"{"repositories":["a"]}"#),
        _ => Reply::new(200).header("Link", "</v2/_catalog?x=1>; rel=next").body(r#"{"repositories":[]}"#),
    })
    .await;
    let found = client(&server).list_repositories(Page::default()).await.unwrap();
    assert_eq!(found.items.len(), 1);
    let endless = Server::start(|_| {
        Reply::new(200).header("Link", "</v2/_catalog?x=1>; rel=next").body(r#"{"repositories":null}"#)
    })
    .await;
    let e = client(&endless).list_repositories(Page::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(endless.seen().len() <= 101, "{} pages were asked for", endless.seen().len());
}

#[tokio::test]
async fn a_registry_without_catalog_is_unsupported() {
    let server = Server::start(|_| Reply::new(404)).await;
    let e = client(&server).list_repositories(Page::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
}

fn descriptor(text: &str, artifact_type: &str) -> Descriptor {
    Descriptor {
        artifact_type: Some(artifact_type.to_owned()),
        ..Descriptor::of(media_type::OCI_MANIFEST, text.as_bytes())
    }
}

#[tokio::test]
async fn referrers_are_paged_and_filtered_by_the_client() {
    let server = Server::start(|seen| {
        let page = |d| ImageIndex::new(vec![d]).to_bytes();
        if seen.target.contains("page=2") {
            return Reply::new(200).body(page(descriptor("2", "t/other")));
        }
        let next = format!("<{}&page=2>; rel=\"next\"", seen.target);
        Reply::new(200).header("Link", next).body(page(descriptor("1", "t/sbom")))
    })
    .await;
    let found = client(&server).list_referrers(&repository(), &Digest::sha256("x"), Some("t/sbom")).await;
    assert_eq!(found.unwrap(), [descriptor("1", "t/sbom")]);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn the_fallback_tag_is_read_and_updated() {
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let state = kept.clone();
    let subject = manifest("subject");
    let tag = format!("sha256-{}", subject.digest().hex());
    let fallback = tag.clone();
    let server = Server::start(move |seen| {
        let is_fallback = seen.target.ends_with(&fallback);
        match seen.method.as_str() {
            "PUT" if is_fallback => {
                state.lock().unwrap().clear();
                Reply::new(201).into_buffer(&state)
            }
            "PUT" => Reply::new(201),
            "GET" if is_fallback && !state.lock().unwrap().is_empty() => {
                let body = state.lock().unwrap().clone();
                Reply::new(200).header("Content-Type", media_type::OCI_INDEX).body(body)
            }
            _ => Reply::new(404),
        }
    })
    .await;
    let client = client(&server);
    assert_eq!(client.list_referrers(&repository(), subject.digest(), None).await.unwrap(), []);
    for text in ["one", "two", "one"] {
        let config = Descriptor::of(media_type::OCI_EMPTY, b"{}");
        let mut image = ImageManifest::new(config, vec![]);
        image.artifact_type = Some(format!("t/{text}"));
        image.subject = Some(subject.descriptor());
        image.annotations.insert("k".to_owned(), text.to_owned());
        let referrer = Manifest::sniff(image.to_bytes()).unwrap();
        client.put_manifest(&repository(), &referrer.digest().clone().into(), &referrer).await.unwrap();
    }
    let found = client.list_referrers(&repository(), subject.digest(), None).await.unwrap();
    let types: Vec<_> = found.iter().map(|d| d.artifact_type.as_deref().unwrap()).collect();
    assert_eq!(types, ["t/one", "t/two"]);
    assert_eq!(found[1].annotations["k"], "two");
    assert_eq!(server.count(&format!("PUT /v2/a/b/manifests/{tag}")), 2);
    let filtered = client.list_referrers(&repository(), subject.digest(), Some("t/two")).await.unwrap();
    assert_eq!(filtered.len(), 1);
}

#[tokio::test]
async fn a_registry_with_a_referrers_api_gets_no_fallback_tag() {
    let subject = manifest("subject");
    let digest = subject.digest().clone();
    let server = Server::start(move |_| Reply::new(201).header("OCI-Subject", &digest)).await;
    let mut image = ImageManifest::new(Descriptor::of(media_type::OCI_EMPTY, b"{}"), vec![]);
    image.subject = Some(subject.descriptor());
    let referrer = Manifest::sniff(image.to_bytes()).unwrap();
    client(&server).put_manifest(&repository(), &latest(), &referrer).await.unwrap();
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_link_to_another_host_is_not_followed() {
    let other = Server::start(|_| Reply::new(200).body(r#"{"tags":["a"]}"#)).await;
    let to = format!("http://localhost:{}/v2/x", other.address.rsplit(':').next().unwrap());
    for to in [to, "file:///etc/passwd".to_owned(), "http://[".to_owned()] {
        let link = format!("<{to}>; rel=next");
        let server = Server::start(move |seen| {
            let body = match seen.target.contains("referrers") {
                true => ImageIndex::new(vec![descriptor("1", "t")]).to_bytes(),
                false => br#"{"tags":["a"],"repositories":["a"]}"#.to_vec(),
            };
            Reply::new(200).header("Link", &link).body(body)
        })
        .await;
        let client = client(&server);
        let name = repository();
        for e in [
            client.list_tags(&name, Page::default()).await.unwrap_err(),
            client.list_repositories(Page::default()).await.unwrap_err(),
            client.list_referrers(&name, &Digest::sha256("x"), None).await.unwrap_err(),
        ] {
            assert!(matches!(e.kind(), ErrorKind::Denied | ErrorKind::Invalid), "{e}");
            assert!(e.to_string().contains("registry"), "{e}");
        }
    }
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn a_link_to_the_same_page_is_an_error() {
    let server = Server::start(|_| {
        Reply::new(200).header("Link", "</v2/a/b/tags/list?again=1>; rel=next").body(r#"{"tags":["a"]}"#)
    })
    .await;
    let client = client(&server);
    assert!(client.list_tags(&repository(), Page::default()).await.unwrap().more);
    let after = Some("a".to_owned());
    let e = client.list_tags(&repository(), Page { limit: None, after }).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("to the same page"), "{e}");
}

#[tokio::test]
async fn a_list_that_always_has_another_page_ends() {
    use crate::client::http::listings::{MAX_PAGES, Next};
    let calls = Counter::default();
    let server = Server::start(move |_| {
        let n = calls.next();
        let next = format!("</v2/a/b/tags/list?page={n}>; rel=next");
        Reply::new(200).header("Link", next).body(format!(r#"{{"tags":["t{n}"]}}"#))
    })
    .await;
    let client = client(&server);
    // As if all pages but two were behind.
    let url = format!("http://{}/v2/a/b/tags/list?page=first", server.address).parse().unwrap();
    client.inner.listings.remember("a/b/tags/list", "before", Next { url, pages: MAX_PAGES - 2 });
    let mut after = Some("before".to_owned());
    for _ in 0..2 {
        let page = client.list_tags(&repository(), Page { limit: None, after }).await.unwrap();
        assert!(page.more);
        after = page.items.last().map(ToString::to_string);
    }
    let e = client.list_tags(&repository(), Page { limit: None, after }).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn referrers_without_end_are_an_error() {
    // Empty pages count too; full ones end at 10 000 referrers.
    for (length, most) in [(0, 1001), (1000, 11)] {
        let calls = Counter::default();
        let server = Server::start(move |_| {
            let n = calls.next();
            let entries = (0..length).map(|m| descriptor(&format!("{n} {m}"), "t")).collect();
            Reply::new(200)
                .header("Link", format!("</v2/a/b/referrers/x?page={n}>; rel=next"))
                .body(ImageIndex::new(entries).to_bytes())
        })
        .await;
        let e = client(&server).list_referrers(&repository(), &Digest::sha256("x"), None).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
        assert!(server.seen().len() <= most, "{} pages were asked for", server.seen().len());
    }
}
