//! Request lines: which endpoint each one is, and why it is none.

use super::*;
use proptest::prelude::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const U: &str = "0123456789abcdef0123456789abcdef";

fn get(path: &str) -> Result<Endpoint, Rejection> {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    resource(path, query.unwrap_or_default())
}

fn kind(path: &str) -> Option<ErrorKind> {
    match get(path) {
        Err(Rejection::Malformed(e)) => Some(e.kind()),
        Err(Rejection::NotFound) => Some(ErrorKind::NotFound),
        _ => None,
    }
}

#[test]
fn a_repository_name_may_contain_words_of_the_grammar() {
    for name in
        ["a", "a/blobs/b", "blobs", "manifests", "a/blobs/uploads", "tags/list", "a/tags", "referrers/x"]
    {
        let repository = RepositoryName::parse(name).unwrap();
        let digest = Digest::parse(D).unwrap();
        assert_eq!(
            get(&format!("/v2/{name}/blobs/{D}")).unwrap(),
            Endpoint::Blob { repository: repository.clone(), digest: digest.clone() }
        );
        assert_eq!(
            get(&format!("/v2/{name}/manifests/list")).unwrap(),
            Endpoint::Manifest {
                repository: repository.clone(),
                reference: Tag::parse("list").unwrap().into(),
                tags: vec![]
            }
        );
        assert_eq!(
            get(&format!("/v2/{name}/tags/list")).unwrap(),
            Endpoint::Tags { repository: repository.clone(), page: Page::default() }
        );
        for end in ["", "/"] {
            assert_eq!(
                get(&format!("/v2/{name}/blobs/uploads{end}")).unwrap(),
                Endpoint::StartUpload { repository: repository.clone(), start: StartUpload::default() }
            );
        }
        assert_eq!(
            get(&format!("/v2/{name}/blobs/uploads/{U}?digest={D}")).unwrap(),
            Endpoint::Upload {
                repository: repository.clone(),
                id: UploadId::parse(U).unwrap(),
                digest: Some(digest)
            }
        );
        assert_eq!(
            get(&format!("/v2/{name}/_oci/ext/discover")).unwrap(),
            Endpoint::Extensions(Some(repository))
        );
    }
}

#[test]
fn malformed_paths_are_rejected_with_a_reason() {
    for (path, expected) in [
        ("/v2/..%2fetc/blobs/x", ErrorKind::NameInvalid),
        ("/v2/a/../b/tags/list", ErrorKind::NameInvalid),
        ("/v2/a%00b/tags/list", ErrorKind::NameInvalid),
        ("/v2/%c0%ae%c0%ae/tags/list", ErrorKind::NameInvalid),
        ("/v2/%252e%252e/tags/list", ErrorKind::NameInvalid),
        ("/v2/A/tags/list", ErrorKind::NameInvalid),
        ("/v2//tags/list", ErrorKind::NameInvalid),
        ("/v2/a//tags/list", ErrorKind::NameInvalid),
        ("/v2/a/b%0d%0aSet-Cookie:x/tags/list", ErrorKind::NameInvalid),
        ("/v2/a/blobs/sha256:xyz", ErrorKind::DigestInvalid),
        ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", ErrorKind::DigestInvalid),
        ("/v2/a/manifests/sha256:baddigest", ErrorKind::DigestInvalid),
        ("/v2/a/manifests/.x", ErrorKind::Invalid),
        ("/v2/a/blobs/uploads/../x", ErrorKind::NotFound),
        ("/v2/a/blobs/uploads/nothex", ErrorKind::UploadUnknown),
        ("/v2/a/referrers/x", ErrorKind::DigestInvalid),
        ("/v2/tags/list", ErrorKind::NotFound),
        ("/v2/a/tags/list?n=x", ErrorKind::Invalid),
        ("/v2/a/tags/list?n=-1", ErrorKind::Invalid),
        ("/v2/a/tags/list?last=%ff", ErrorKind::Invalid),
        ("/v2/a/manifests/x?tag=a%0d%0ab", ErrorKind::Invalid),
        ("/v2/a/blobs/uploads/?digest-algorithm=md5", ErrorKind::DigestInvalid),
        ("/v2/a/blobs/uploads/?mount=x", ErrorKind::DigestInvalid),
        ("/v2/a/blobs/uploads/?from=../x", ErrorKind::NameInvalid),
        ("/v2/a", ErrorKind::NotFound),
        ("/v1/", ErrorKind::NotFound),
        ("", ErrorKind::NotFound),
    ] {
        assert_eq!(kind(path), Some(expected), "{path}");
    }
}

#[test]
fn queries_are_decoded() {
    let Ok(Endpoint::Manifest { tags, .. }) = get("/v2/a/manifests/x?tag=1.2&tag=%61&ns=docker.io") else {
        panic!()
    };
    assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["1.2", "a"]);
    let Ok(Endpoint::Referrers { artifact_type, .. }) =
        get(&format!("/v2/a/referrers/{D}?artifactType=application%2Fx%2Bjson"))
    else {
        panic!()
    };
    assert_eq!(artifact_type.as_deref(), Some("application/x+json"));
    let Ok(Endpoint::Tags { page, .. }) = get("/v2/a/tags/list?n=0&last=z") else { panic!() };
    assert_eq!(page, Page { limit: Some(0), after: Some("z".into()) });
    assert!(get(&format!("/v2/a/blobs/{}", D.replace(':', "%3A"))).is_ok());
}

#[test]
fn deletions_are_lists_and_single_ones() {
    let repository = RepositoryName::parse("a/b").unwrap();
    let list = |limit, after| Endpoint::Deletions { repository: repository.clone(), limit, after };
    assert_eq!(get("/v2/a/b/_hyper/deleted").unwrap(), list(None, 0));
    assert_eq!(get("/v2/a/b/_hyper/deleted?n=2&last=7").unwrap(), list(Some(2), 7));
    for (reference, query, replaces) in
        [("v1", "", false), ("v1", "?replace=false", false), ("v1", "?replace=true", true), (D, "", false)]
    {
        let reference = reference.parse::<ManifestReference>().unwrap();
        let path = format!("/v2/a/b/_hyper/deleted/{reference}{query}");
        let one = Endpoint::Deletion { repository: repository.clone(), reference, replaces };
        assert_eq!(get(&path).unwrap(), one, "{path}");
    }
    for path in ["/v2/a/_hyper/deleted?last=x", "/v2/a/_hyper/deleted/v1?replace=1", "/v2/a/_hyper/deleted/-"]
    {
        assert!(matches!(get(path), Err(Rejection::Malformed(_))), "{path}");
    }
    assert_eq!(kind("/v2/_hyper/deleted"), Some(ErrorKind::NotFound));
}

#[test]
fn a_wrong_method_returns_the_allowed_ones() {
    let reject = |method: Method, path: &str| match parse(&method, path, None) {
        Err(Rejection::Method(allow)) => allow,
        other => panic!("{other:?}"),
    };
    assert_eq!(reject(Method::POST, "/v2/a/manifests/x"), "GET, HEAD, PUT, DELETE");
    assert_eq!(reject(Method::GET, "/v2/a/blobs/uploads/"), "POST");
    assert_eq!(reject(Method::PUT, "/v2/"), "GET, HEAD");
    assert_eq!(reject(Method::POST, "/v2/a/_hyper/deleted"), "GET, HEAD");
    assert_eq!(reject(Method::GET, "/v2/a/_hyper/deleted/v1"), "POST, DELETE");
    assert!(parse(&Method::HEAD, "/v2/a/manifests/x", None).is_ok());
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_a_panic(path: String, query: Option<String>) {
        let _ = parse(&Method::GET, &path, query.as_deref());
    }

    #[test]
    fn any_path_of_the_grammar_is_parsed_without_a_panic(
        words in prop::collection::vec("blobs|uploads|manifests|tags|list|referrers|_oci|ext|discover|_hyper|deleted|[a-z.%0-9]{0,5}", 0..8),
        query in "((n|last|tag|digest|mount|from)=[a-z%0-9:+]{0,6}&){0,3}",
    ) {
        let path = format!("/v2/{}", words.join("/"));
        if let Ok(endpoint) = resource(&path, &query)
            && let Some(repository) = crate::admission::resource(&endpoint).repository()
        {
            prop_assert!(RepositoryName::parse(repository.as_str()).is_ok());
            prop_assert!(!repository.as_str().contains(".."));
        }
    }

    #[test]
    fn a_repository_name_is_parsed_from_its_path(name in "[a-z0-9]{1,4}(/(blobs|tags|manifests|uploads|[a-z]{1,3})){0,3}") {
        let endpoint = get(&format!("/v2/{name}/blobs/{D}")).unwrap();
        prop_assert_eq!(crate::admission::resource(&endpoint).repository().unwrap().as_str(), name);
    }
}
