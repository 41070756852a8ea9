//! Every rule of the check of registries, seen broken: a registry that does one thing wrong fails the cases about it.

use super::support::memory;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use hyper_sdk::Digest;
use hyper_sdk::client::HttpClient;
use hyper_sdk::client::registry_conformance::{Level, Options, Status, cases, check};
use hyper_sdk::reference::RegistryHost;
use hyper_server::{Registry, RegistryOptions};
use std::collections::BTreeSet;

/// A request and the answer of a right registry.
struct Exchange {
    method: Method,
    path: String,
    query: String,
    answer: Response<Bytes>,
}

impl Exchange {
    fn is(&self, method: &str, part: &str) -> bool {
        self.method.as_str() == method && self.path.contains(part)
    }

    fn status(&mut self, status: u16) {
        *self.answer.status_mut() = StatusCode::from_u16(status).unwrap();
    }

    fn says(&self, status: u16) -> bool {
        self.answer.status().as_u16() == status
    }

    fn set(&mut self, header: &'static str, value: &str) {
        self.answer.headers_mut().insert(header, value.parse().unwrap());
    }

    fn forget(&mut self, header: &str) {
        self.answer.headers_mut().remove(header);
    }

    fn body(&mut self, bytes: impl Into<Bytes>) {
        *self.answer.body_mut() = bytes.into();
        self.forget("content-length");
    }

    fn json(&mut self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut json = serde_json::from_slice(self.answer.body()).unwrap();
        change(&mut json);
        self.body(json.to_string());
    }
}

/// Something that a registry does wrong: before it sees the request, or to its answer.
struct Mutant {
    name: &'static str,
    request: fn(&mut Request),
    answer: fn(&mut Exchange),
    /// The cases that must not pass.
    breaks: &'static [&'static str],
}

const fn answers(name: &'static str, answer: fn(&mut Exchange), breaks: &'static [&'static str]) -> Mutant {
    Mutant { name, request: |_| (), answer, breaks }
}

const fn reads(name: &'static str, request: fn(&mut Request), breaks: &'static [&'static str]) -> Mutant {
    Mutant { name, request, answer: |_| (), breaks }
}

fn rewrite(request: &mut Request, change: impl FnOnce(String) -> String) {
    let text = change(request.uri().to_string());
    *request.uri_mut() = text.parse().unwrap();
}

fn is_blob(e: &Exchange) -> bool {
    e.path.contains("/blobs/sha") && e.answer.status().is_success()
}

fn is_manifest(e: &Exchange) -> bool {
    e.path.contains("/manifests/") && e.answer.status().is_success() && e.method != Method::DELETE
}

const MUTANTS: &[Mutant] = &[
    answers(
        "bytes of blobs are wrong",
        |e| {
            if is_blob(e) && e.method == Method::GET && !e.answer.body().is_empty() {
                let mut bytes = e.answer.body().to_vec();
                bytes[0] ^= 1;
                e.body(bytes);
            }
        },
        &[
            "blob-get",
            "blob-sha512",
            "blob-sha512-unannounced",
            "blob-range",
            "blob-range-suffix",
            "upload-whole",
            "upload-again",
            "upload-single-post",
            "chunks-in-order",
            "chunks-last-in-put",
            "chunks-status",
            "chunks-stream",
            "chunks-unannounced",
            "mount",
            "mount-without-source",
        ],
    ),
    answers(
        "HEAD of blobs says another length",
        |e| {
            if is_blob(e) && e.method == Method::HEAD {
                e.set("content-length", "7");
            }
        },
        &["blob-head", "blob-empty"],
    ),
    answers(
        "HEAD of manifests says another length",
        |e| {
            if is_manifest(e) && e.method == Method::HEAD {
                e.set("content-length", "7");
            }
        },
        &["manifest-head"],
    ),
    answers(
        "no digest in headers",
        |e| e.forget("docker-content-digest"),
        &["blob-digest-header", "manifest-digest-header", "blob-sha512-header"],
    ),
    answers(
        "what is not there is 200",
        |e| {
            if e.says(404) {
                e.status(200);
            }
        },
        &[
            "blob-unknown",
            "manifest-unknown",
            "upload-finished",
            "upload-cancel",
            "tags-unknown-repository",
            "delete-tag",
            "delete-manifest",
            "delete-manifest-unknown",
            "delete-blob",
            "delete-blob-unknown",
            "error-json",
            "blob-private",
        ],
    ),
    answers(
        "what is wrong is 201",
        |e| {
            if e.says(400) {
                e.status(201);
            }
        },
        &[
            "upload-digest-wrong",
            "upload-digest-invalid",
            "upload-digest-missing",
            "upload-single-post-wrong",
            "upload-algorithm-unknown",
            "chunks-digest-wrong",
            "manifest-digest-wrong",
            "manifest-no-json",
            "manifest-tag-invalid",
            "tags-n-invalid",
            "referrers-digest-invalid",
            "blob-digest-invalid",
            "chunks-length-wrong",
            "chunks-range-invalid",
            "mount-digest-invalid",
            "name-invalid",
        ],
    ),
    answers(
        "ranges outside are accepted",
        |e| {
            if e.says(416) {
                e.status(if e.method == Method::PUT { 201 } else { 202 });
            }
        },
        &["chunks-gap", "chunks-overlap", "chunks-first", "chunks-gap-in-put", "blob-range-outside"],
    ),
    answers(
        "uploads say one byte too many",
        |e| {
            let range = e.answer.headers().get("range").map(|v| v.to_str().unwrap().to_owned());
            if let Some(end) = range.as_deref().and_then(|text| text.split_once('-')) {
                let more = end.1.parse::<u64>().unwrap() + 1;
                e.set("range", &format!("0-{more}"));
            }
        },
        &["chunks-in-order", "chunks-status", "chunks-gap"],
    ),
    answers(
        "uploads have no place",
        |e| {
            if e.is("POST", "/blobs/uploads/") {
                e.forget("location");
            }
        },
        &["upload-open", "upload-digest-algorithm"],
    ),
    answers(
        "a mount is 500",
        |e| {
            if e.is("POST", "/blobs/uploads/") && e.query.contains("mount=") {
                e.status(500);
            }
        },
        &["mount", "mount-unknown", "mount-without-source"],
    ),
    answers(
        "manifests are written anew",
        |e| {
            if is_manifest(e) && e.method == Method::GET {
                e.json(|_| ());
            }
        },
        &["manifest-bytes"],
    ),
    answers(
        "manifests are wrong",
        |e| {
            if is_manifest(e) && e.method == Method::GET {
                e.body("{}");
            }
        },
        &[
            "manifest-by-tag",
            "manifest-sha512",
            "manifest-by-digest",
            "manifest-tag-long",
            "manifest-4mb",
            "manifest-moves-tag",
            "manifest-tags",
            "content-index",
            "content-nested-index",
            "content-empty-index",
            "content-artifact",
            "content-artifact-index",
            "content-no-layers",
            "content-unknown-fields",
            "content-data",
            "content-non-distributable",
            "content-other-layers",
            "content-docker",
        ],
    ),
    answers(
        "media types have parameters",
        |e| {
            if is_manifest(e) && e.answer.headers().contains_key("content-type") {
                let kind = e.answer.headers()["content-type"].to_str().unwrap().to_owned();
                e.set("content-type", &format!("{kind}; charset=utf-8"));
            }
        },
        &["manifest-media-type"],
    ),
    answers(
        "a manifest is pushed once",
        |e| {
            if e.is("PUT", "/manifests/sha256:") && e.says(201) && !e.query.contains("tag=") {
                e.status(409);
            }
        },
        &["manifest-again", "delete-manifest-again"],
    ),
    answers(
        "missing blobs have another code",
        |e| {
            if e.is("PUT", "/manifests/") && !e.answer.status().is_success() {
                e.json(|json| json["errors"][0]["code"] = "UNKNOWN".into());
            }
        },
        &["manifest-blob-missing"],
    ),
    answers(
        "errors have codes in lower case",
        |e| {
            if e.answer.status().is_client_error() && !e.answer.body().is_empty() {
                e.json(|json| json["errors"][0]["code"] = "unknown".into());
            }
        },
        &["error-json", "error-codes"],
    ),
    answers(
        "tags are named twice and in disorder",
        |e| {
            if e.path.ends_with("/tags/list") && e.says(200) {
                e.json(|json| {
                    let tags = json["tags"].as_array_mut().unwrap();
                    tags.reverse();
                    if let Some(tag) = tags.first().cloned() {
                        tags.push(tag);
                    }
                });
            }
        },
        &["tags-order", "tags-pages", "tags-page-size", "tags-last", "tags-last-unknown"],
    ),
    answers(
        "lists have another name and nothing in them",
        |e| {
            if e.path.ends_with("/tags/list") && e.says(200) {
                e.body("{\"name\":\"x\",\"tags\":[]}");
            }
            if e.path.ends_with("/_catalog") {
                e.body("{\"repositories\":[]}");
            }
        },
        &["tags-list", "tags-last", "tags-last-unknown", "catalog"],
    ),
    reads("n=0 is no limit", |request| rewrite(request, |uri| uri.replace("n=0", "")), &["tags-none"]),
    reads(
        "last is not read",
        |request| rewrite(request, |uri| uri.replace("last=", "first=")),
        &["tags-last", "tags-last-unknown", "tags-pages"],
    ),
    reads(
        "all repositories are one",
        |request| rewrite(request, |uri| uri.replace("/conformance/two/", "/conformance/one/")),
        &["blob-private"],
    ),
    answers(
        "referrers are bare",
        |e| {
            if e.path.contains("/referrers/") && e.says(200) {
                e.json(|json| {
                    for one in json["manifests"].as_array_mut().unwrap() {
                        one.as_object_mut().unwrap().remove("annotations");
                        one["artifactType"] = "x".into();
                    }
                });
                e.forget("oci-filters-applied");
            }
            e.forget("oci-subject");
        },
        &[
            "referrers-list",
            "referrers-config-type",
            "referrers-index",
            "referrers-filter",
            "referrers-subject-header",
        ],
    ),
    answers(
        "there is always a referrer",
        |e| {
            if e.path.contains("/referrers/") && e.says(200) {
                e.json(|json| {
                    let digest = Digest::sha256(b"x");
                    json["manifests"] = serde_json::json!([{"digest": digest, "size": 1, "mediaType": "x"}]);
                });
            }
        },
        &["referrers-empty", "referrers-deleted", "referrers-subject-missing", "referrers-list"],
    ),
    answers(
        "a subject without referrers is 404",
        |e| {
            let empty = |body: &[u8]| {
                let json: serde_json::Value = serde_json::from_slice(body).unwrap();
                json["manifests"].as_array().unwrap().is_empty()
            };
            if e.path.contains("/referrers/") && e.says(200) && empty(e.answer.body()) {
                e.status(404);
            }
        },
        &["referrers-empty", "referrers-deleted"],
    ),
    answers(
        "tags of parameters are not named",
        |e| e.forget("oci-tag"),
        &["manifest-tags", "manifest-tags-ten"],
    ),
    answers(
        "a push names another digest",
        |e| {
            if e.method == Method::PUT {
                e.set("docker-content-digest", Digest::sha256(b"x").as_str());
            }
        },
        &["manifest-by-digest"],
    ),
    answers(
        "content has a digest of SHA-256, whatever was asked for",
        |e| {
            if e.path.contains("/blobs/sha512:") && e.method == Method::GET {
                let digest = Digest::sha256(e.answer.body());
                e.set("docker-content-digest", digest.as_str());
            }
        },
        &["blob-sha512-header"],
    ),
    answers(
        "a failed last chunk ends the upload",
        |e| {
            if e.is("GET", "/blobs/uploads/") {
                e.status(404);
            }
        },
        &["chunks-gap-in-put-goes-on", "upload-status-new"],
    ),
    answers(
        "parameters of media types stay",
        |e| {
            if is_manifest(e) && e.method == Method::GET {
                e.set("content-type", "application/vnd.oci.image.manifest.v1+json+x");
            }
        },
        &["manifest-media-type-parameters", "manifest-media-type"],
    ),
    answers(
        "a wrong digest is 422",
        |e| {
            if e.is("PUT", "/blobs/uploads/") && e.says(400) {
                e.status(422);
            }
        },
        &["upload-digest-wrong-400"],
    ),
    answers(
        "credentials are wanted without a challenge",
        |e| {
            if e.is("POST", "/blobs/uploads/") {
                e.status(401);
            }
        },
        &["registry-challenge", "upload-open"],
    ),
];

type Server = (Registry, &'static Mutant);

async fn serve(State((registry, mutant)): State<Server>, mut request: Request) -> Response<Body> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    (mutant.request)(&mut request);
    let (head, body) = registry.handle(request).await.into_parts();
    let bytes = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    let mut exchange = Exchange {
        method,
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        answer: Response::from_parts(head, bytes),
    };
    (mutant.answer)(&mut exchange);
    exchange.answer.map(Body::from)
}

/// Which of the cases about a fault do not pass at a registry that has it.
async fn broken(mutant: &'static Mutant) -> BTreeSet<&'static str> {
    let registry = Registry::new(memory(), RegistryOptions::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = RegistryHost::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let app = axum::Router::new().fallback(serve).with_state((registry, mutant));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = HttpClient::builder(host).plain_http(true).build().unwrap();
    let mut options = Options::default();
    options.only = mutant.breaks.iter().map(|name| (*name).to_owned()).collect();
    let report = check(&client, &options, |_| ()).await.unwrap();
    server.abort();
    for case in &report.cases {
        let expected = if case.level == Level::Must { Status::Warned } else { Status::Failed };
        assert_ne!(case.status, expected, "{}: {}", mutant.name, case.name);
        assert_eq!(case.reason.is_empty(), case.status == Status::Passed, "{}: {}", mutant.name, case.name);
    }
    let is_broken = |status| matches!(status, Status::Failed | Status::Warned);
    report.cases.iter().filter(|case| is_broken(case.status)).map(|case| case.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_does_one_thing_wrong_fails_the_cases_about_it() {
    let mut seen = BTreeSet::new();
    for mutant in MUTANTS {
        let broken = broken(mutant).await;
        let missed: Vec<_> = mutant.breaks.iter().filter(|name| !broken.contains(*name)).collect();
        assert!(missed.is_empty(), "{}: {missed:?} passed", mutant.name);
        seen.extend(broken);
    }
    // Its own request is the one that tells a registry from anything else, before the first case.
    seen.insert("registry-ping");
    let unseen: Vec<_> = cases().map(|case| case.name).filter(|name| !seen.contains(name)).collect();
    assert!(unseen.is_empty(), "no registry breaks {unseen:?}");
}

/// What answers everything with the same is no registry, or fails nearly everything.
#[tokio::test]
async fn a_server_that_is_no_registry_is_told_apart() {
    static NOT_FOUND: Mutant = answers("nothing is there", |e| e.status(404), &[]);
    let registry = Registry::new(memory(), RegistryOptions::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = RegistryHost::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let app = axum::Router::new().fallback(serve).with_state((registry, &NOT_FOUND));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = HttpClient::builder(host).plain_http(true).build().unwrap();
    let e = check(&client, &Options::default(), |_| ()).await.unwrap_err();
    assert!(e.to_string().contains("no registry"), "{e}");
}
