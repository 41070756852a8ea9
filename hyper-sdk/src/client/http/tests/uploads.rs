//! Upload sessions, broken and resumed.

use super::*;
use crate::client::{LocalImage, Mount, PushOptions, RegistryUpload as _, RemoteImage, push};
use crate::progress::{Event, Outcome, Progress};
use crate::store::{MemoryStore, PutManifest, RegistryStoreExt, SharedStore};
use bytes::Bytes;
use std::sync::Mutex;

const SESSION: &str = "/v2/a/b/blobs/uploads/00112233445566778899aabbccddeeff?state=s";

/// A store with one image of one layer.
async fn store(layer: &[u8]) -> (SharedStore, Manifest) {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let name = repository();
    let config = store.put_bytes(&name, media_type::OCI_CONFIG, Bytes::from_static(b"{}")).await.unwrap();
    let layer = store.put_bytes(&name, media_type::OCI_LAYER, Bytes::copy_from_slice(layer)).await.unwrap();
    let manifest = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes()).unwrap();
    store.put_manifest(&name, PutManifest::new(manifest.clone(), [Tag::latest()])).await.unwrap();
    (store, manifest)
}

/// A registry that has everything but one blob, whose upload a script decides on.
fn registry(
    missing: Digest,
    arrived: Arc<Mutex<Vec<u8>>>,
    put: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let puts = Counter::default();
    move |seen| {
        let is_missing = seen.target.contains(missing.hex());
        match seen.method.as_str() {
            "HEAD" if is_missing => Reply::new(404),
            "HEAD" => Reply::new(200).header("Content-Length", 2),
            "POST" => Reply::new(202).header("Location", SESSION).header("Range", "0-0"),
            "GET" => {
                let last = arrived.lock().unwrap().len().saturating_sub(1);
                Reply::new(204).header("Location", SESSION).header("Range", format!("0-{last}"))
            }
            "PUT" if seen.target.contains("/blobs/") => put(puts.next(), seen).into_buffer(&arrived),
            "PATCH" => {
                let end = seen.header("content-range").unwrap().split_once('-').unwrap().1.to_owned();
                Reply::new(202)
                    .header("Location", SESSION)
                    .header("Range", format!("0-{end}"))
                    .into_buffer(&arrived)
            }
            "PUT" => Reply::new(201),
            _ => Reply::new(400),
        }
    }
}

async fn push_to(server: &Server, store: &SharedStore, options: &PushOptions) -> crate::Result<Descriptor> {
    let client: SharedClient = Arc::new(client(server));
    push(
        &LocalImage::new(store, &repository(), &latest()),
        &RemoteImage::new(&client, &repository(), &latest()),
        options,
    )
    .await
}

#[tokio::test]
async fn a_broken_upload_is_resumed_at_the_offset_of_the_registry() {
    let layer = vec![7u8; 3_000_000];
    let (store, manifest) = store(&layer).await;
    let arrived: Arc<Mutex<Vec<u8>>> = Arc::default();
    let script = registry(Digest::sha256(&layer), arrived.clone(), |n, seen| match n {
        0 => Reply::new(201).hang_up(1_000_000),
        1 => {
            assert_eq!(seen.header("content-range"), Some("1000000-2999999"));
            Reply::new(201).hang_up(500_000)
        }
        _ => {
            assert_eq!(seen.header("content-range"), Some("1500000-2999999"));
            Reply::new(201)
        }
    });
    let server = Server::start(script).await;
    let (progress, mut events) = Progress::channel();
    let options = PushOptions { progress, ..PushOptions::default() };
    let pushed = push_to(&server, &store, &options).await.unwrap();
    assert_eq!(&pushed.digest, manifest.digest());
    assert_eq!(*arrived.lock().unwrap(), layer);
    drop(options);
    let mut outcomes = Vec::new();
    let mut result = None;
    while let Some(event) = events.recv().await {
        match event {
            Event::Finished { outcome, .. } => outcomes.push(outcome),
            Event::Result { digest, .. } => result = Some(digest),
            Event::Advanced { done, total, .. } => assert!(Some(done) <= total, "{done} of {total:?}"),
            _ => {}
        }
    }
    assert_eq!(outcomes, [Outcome::Cached, Outcome::Done]);
    assert_eq!(result.as_ref(), Some(manifest.digest()));
    assert_eq!(server.lines().last().unwrap(), "PUT /v2/a/b/manifests/latest");
}

/// A registry that keeps one byte of the first upload and says `0-0`, as for none; what it does when the upload goes on
/// is up to the caller. Every session has bytes of its own.
async fn one_byte(
    go_on: impl Fn(Option<&str>) -> Option<Reply> + Send + Sync + 'static,
) -> (crate::Result<Descriptor>, Vec<Seen>) {
    let layer: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let (store, _) = store(&layer).await;
    let (puts, posts, digest) = (Counter::default(), Counter::default(), Digest::sha256(&layer));
    let server = Server::start(move |seen| match seen.method.as_str() {
        "HEAD" if seen.target.contains(digest.hex()) => Reply::new(404),
        "HEAD" => Reply::new(200).header("Content-Length", 2),
        "POST" => Reply::new(202).header("Location", format!("/v2/a/b/blobs/uploads/{}", posts.next())),
        "GET" => Reply::new(204).header("Range", "0-0"),
        "PUT" if seen.target.contains("uploads/0") => match puts.next() {
            0 => Reply::new(201).hang_up(1),
            _ => go_on(seen.header("content-range")).unwrap_or_else(|| Reply::new(201)),
        },
        "PUT" => Reply::new(201),
        _ => Reply::new(204),
    })
    .await;
    let pushed = push_to(&server, &store, &PushOptions::default()).await;
    (pushed, server.seen())
}

#[tokio::test]
async fn one_kept_byte_is_distinguished_from_none() {
    let refuses = |range: Option<&str>| {
        assert_eq!(range, Some("0-99999"), "what goes on says where");
        Some(Reply::new(416).body(r#"{"errors":[{"code":"RANGE_INVALID","message":"at 1"}]}"#))
    };
    let takes = |_: Option<&str>| {
        Some(Reply::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"another"}]}"#))
    };
    let had_none = |_: Option<&str>| None;
    for (sessions, (pushed, seen)) in
        [(2, one_byte(refuses).await), (2, one_byte(takes).await), (1, one_byte(had_none).await)]
    {
        pushed.unwrap();
        assert_eq!(seen.iter().filter(|s| s.method == "POST").count(), sessions);
        let last = seen.iter().rfind(|s| s.method == "PUT" && s.target.contains("/uploads/")).unwrap();
        assert_eq!(last.body.len(), 100_000);
    }
}

#[tokio::test]
async fn an_upload_without_progress_fails_without_a_tag() {
    let layer = vec![7u8; 100_000];
    let (store, _) = store(&layer).await;
    let script = registry(Digest::sha256(&layer), Arc::default(), |_, _| Reply::new(201).hang_up(0));
    let server = Server::start(script).await;
    let e = push_to(&server, &store, &PushOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert_eq!(server.count("PUT /v2/a/b/manifests/"), 0);
    assert_eq!(server.count("DELETE "), 1, "the session is given back");
}

#[tokio::test]
async fn a_rejected_digest_is_not_retried() {
    let layer = vec![7u8; 1000];
    let (store, _) = store(&layer).await;
    let body = r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#;
    let script = registry(Digest::sha256(&layer), Arc::default(), move |_, _| Reply::new(400).body(body));
    let server = Server::start(script).await;
    let e = push_to(&server, &store, &PushOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestInvalid);
    assert_eq!(server.count("PUT "), 1);
}

#[tokio::test]
async fn chunks_are_sent_when_asked_for_or_when_one_request_is_too_large() {
    let layer: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
    let (store, _) = store(&layer).await;
    let arrived: Arc<Mutex<Vec<u8>>> = Arc::default();
    let server =
        Server::start(registry(Digest::sha256(&layer), arrived.clone(), |_, _| Reply::new(201))).await;
    let options = PushOptions { chunk_length: Some(1000), ..PushOptions::default() };
    push_to(&server, &store, &options).await.unwrap();
    let ranges: Vec<String> =
        server.seen().iter().filter_map(|s| s.header("content-range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["0-999", "1000-1999", "2000-2499"]);
    assert_eq!(*arrived.lock().unwrap(), layer);
}

#[tokio::test]
async fn a_chunk_is_not_sent_twice_unless_it_was_refused() {
    let calls = Counter::default();
    let server = Server::start(move |_| match calls.next() {
        0 => Reply::new(202).header("Location", SESSION),
        1 => Reply::new(500),
        2 => Reply::new(429),
        _ => Reply::new(202).header("Location", SESSION).header("Range", "0-4"),
    })
    .await;
    let mut upload = client(&server).start_upload(&repository()).await.unwrap();
    let chunk = Bytes::from_static(b"hello");
    upload.append(chunk.clone()).await.unwrap_err();
    assert_eq!((upload.offset(), server.seen().len()), (0, 2));
    upload.append(chunk).await.unwrap();
    assert_eq!((upload.offset(), server.seen().len()), (5, 4));
    assert_eq!(server.seen()[3].body, b"hello");
}

#[tokio::test]
async fn a_mount_that_is_declined_is_a_session() {
    let server =
        Server::start(|_| Reply::new(202).header("Location", SESSION).header("OCI-Chunk-Min-Length", 1024))
            .await;
    let from = RepositoryName::parse("other").unwrap();
    let mount = client(&server).mount_blob(&repository(), &Digest::sha256("x"), &from).await.unwrap();
    let Mount::Upload(upload) = mount else { panic!("nothing was mounted") };
    assert_eq!((upload.offset(), upload.min_chunk()), (0, 1024));
    assert!(upload.token().unwrap().as_str().ends_with("/uploads/00112233445566778899aabbccddeeff?state=s"));
    // What a registry signs is not for logs.
    assert!(!format!("{upload:?} {:?}", upload.token()).contains("state"));
}

#[tokio::test]
async fn a_session_is_found_again_by_its_token() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => Reply::new(202).header("Location", SESSION),
        "GET" => Reply::new(204).header("Location", SESSION).header("Range", "0-99"),
        _ => Reply::new(201),
    })
    .await;
    let (client, other) = (client(&server), RepositoryName::parse("other").unwrap());
    let token = client.start_upload(&repository()).await.unwrap().token().unwrap();
    let mut upload = client.resume_upload(&repository(), &token).await.unwrap();
    assert_eq!(upload.offset(), 100);
    let rest = futures::StreamExt::boxed(futures::stream::iter([Ok(Bytes::from_static(b"hello"))]));
    upload.finish(&Digest::sha256("any"), Some((5, rest))).await.unwrap();
    assert_eq!(server.seen()[2].header("content-range"), Some("100-104"));
    // A token says whose it is: nobody is asked.
    let e = client.resume_upload(&other, &token).await.unwrap_err();
    assert_eq!((e.kind(), server.seen().len()), (ErrorKind::UploadUnknown, 3));
}

#[tokio::test]
async fn a_stream_waits_for_the_challenge() {
    let server = Server::start(|seen| match (seen.method.as_str(), seen.header("authorization")) {
        (_, None) => Reply::new(401).header("WWW-Authenticate", "Basic realm=r"),
        ("PUT", _) => Reply::new(201),
        _ => Reply::new(200),
    })
    .await;
    let client = client_as(&server, Credentials::basic("joe", "pass"));
    let mut upload = client.session_at(&repository(), SESSION);
    let stream = futures::StreamExt::boxed(futures::stream::iter([Ok(Bytes::from_static(b"hello"))]));
    upload.finish(&Digest::sha256("hello"), Some((5, stream))).await.unwrap();
    let put = server.seen().pop().unwrap();
    assert_eq!((put.method.as_str(), put.body.as_slice()), ("PUT", &b"hello"[..]));
    assert!(put.target.contains("state=s&digest=sha256%3A"));
}

#[tokio::test]
async fn a_location_on_another_host_gets_no_credentials() {
    let other = Server::start(|seen| {
        assert_eq!(seen.header("authorization"), None);
        Reply::new(201)
    })
    .await;
    let location = format!("http://{}/upload/x", other.address);
    let server = Server::start(move |seen| match seen.header("authorization") {
        None => Reply::new(401).header("WWW-Authenticate", "Basic realm=r"),
        Some(_) => Reply::new(202).header("Location", &location),
    })
    .await;
    let client = client_as(&server, Credentials::basic("joe", "pass"));
    let mut upload = client.start_upload(&repository()).await.unwrap();
    upload.finish(&Digest::sha256(""), None).await.unwrap();
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn a_push_that_is_dropped_publishes_nothing() {
    let layer = vec![7u8; 1000];
    let (store, _) = store(&layer).await;
    let script = registry(Digest::sha256(&layer), Arc::default(), |_, _| {
        Reply::new(201).delay(Duration::from_secs(60))
    });
    let server = Server::start(script).await;
    let options = PushOptions::default();
    {
        let mut pushing = std::pin::pin!(push_to(&server, &store, &options));
        while server.count("PUT /v2/a/b/blobs/") == 0 {
            tokio::select! {
                done = &mut pushing => panic!("the push ended: {done:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.count("PUT /v2/a/b/manifests/"), 0);
}

#[tokio::test]
async fn a_registry_that_says_it_has_more_than_was_sent_ends_the_push() {
    let layer = vec![7; 300_000];
    let (store, _) = store(&layer).await;
    let (layer, beyond) = (Digest::sha256(&layer), Counter::default());
    let server = Server::start(move |seen| match seen.method.as_str() {
        "HEAD" if !seen.target.contains(layer.hex()) => Reply::new(200).header("Content-Length", 2),
        "HEAD" if beyond.0.load(Ordering::SeqCst) > 0 => Reply::new(503),
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("Location", "/v2/u"),
        "PATCH" => {
            beyond.next();
            Reply::new(202).header("Location", "/v2/u").header("Range", "0-18446744073709551615")
        }
        _ => Reply::new(200),
    })
    .await;
    let options = PushOptions { chunk_length: Some(100_000), ..PushOptions::default() };
    let e = push_to(&server, &store, &options).await.unwrap_err();
    assert!(e.kind() == ErrorKind::RangeInvalid && e.to_string().contains("registry"), "{e}");
}
