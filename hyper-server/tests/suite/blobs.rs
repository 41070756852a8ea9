//! Reading and deleting blobs (end-2, end-10).

use super::support::{Api, noise};
use hyper_sdk::Digest;
use hyper_sdk::digest::Algorithm;

/// Sizes on both sides of what the cache in memory takes.
const SIZES: [usize; 3] = [1, 10_000, 1_500_000];

#[tokio::test]
async fn get_and_head_agree_for_small_and_large_blobs() {
    let api = Api::new();
    for size in SIZES {
        let content = noise(size as u64, size);
        let path = format!("/v2/a/blobs/{}", api.blob("a", &content).await);
        for _ in 0..2 {
            let head = api.head(&path).await.expect(200);
            let get = api.get(&path).await.expect(200);
            assert!(head.body.is_empty());
            assert_eq!(get.body, content);
            for reply in [head, get] {
                assert_eq!(reply.header("content-length"), size.to_string());
                assert_eq!(reply.header("content-type"), "application/octet-stream");
                assert_eq!(reply.header("docker-content-digest"), Digest::sha256(&content).as_str());
                assert_eq!(reply.header("etag"), format!("\"{}\"", Digest::sha256(&content)));
                assert_eq!(reply.header("accept-ranges"), "bytes");
            }
        }
    }
}

#[tokio::test]
async fn a_range_request_returns_the_bytes_of_the_range() {
    let api = Api::new();
    for size in [10_000usize, 1_500_000] {
        let content = noise(7, size);
        let path = format!("/v2/a/blobs/{}", api.blob("a", &content).await);
        for cached in [false, true] {
            for (range, from, to) in [
                ("bytes=500-1499", 500, 1500),
                ("bytes=500-", 500, size),
                ("bytes=-500", size - 500, size),
                ("bytes=-99999999", 0, size),
                ("bytes=9000-99999999", 9000, size),
                ("bytes=0-0", 0, 1),
            ] {
                let reply = api.request("GET", &path, &[("range", range)], "").await.expect(206);
                assert_eq!(reply.body, content[from..to], "{range}");
                assert_eq!(reply.header("content-range"), format!("bytes {from}-{}/{size}", to - 1));
                assert_eq!(reply.header("content-length"), (to - from).to_string());
                assert!(!reply.header("docker-content-digest").is_empty());
            }
            for range in ["bytes=500-0", "bytes=99999999-", "bytes=-0", "bytes=2000000-3000000"] {
                let reply = api.request("GET", &path, &[("range", range)], "").await;
                let reply = reply.refused(416, "RANGE_INVALID");
                assert_eq!(reply.header("content-range"), format!("bytes */{size}"), "{range} {cached}");
            }
            for range in ["bytes=0-1,x", "items=0-1", "nonsense"] {
                let reply = api.request("GET", &path, &[("range", range)], "").await.expect(200);
                assert_eq!(reply.body.len(), size);
            }
            let reply = api.request("GET", &path, &[("range", "bytes=0-1"), ("if-range", "\"x\"")], "").await;
            reply.expect(200);
            api.request("HEAD", &path, &[("range", "bytes=0-1")], "").await.expect(200);
            api.get(&path).await.expect(200);
        }
    }
}

/// The parts of a `multipart/byteranges` body: the ranges and their bytes.
fn parts(reply: &super::support::Reply) -> Vec<(String, Vec<u8>)> {
    let kind = reply.header("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect(kind);
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    let body = &reply.body[..];
    let tail = format!("\r\n--{boundary}--\r\n");
    let mut at = 0;
    let skip = |at: &mut usize, text: &str| {
        assert!(body[*at..].starts_with(text.as_bytes()), "{text:?} is not at {at}");
        *at += text.len();
    };
    let mut parts = Vec::new();
    while &body[at..] != tail.as_bytes() {
        let lead = if parts.is_empty() { "" } else { "\r\n" };
        skip(&mut at, &format!("{lead}--{boundary}\r\n"));
        skip(&mut at, "Content-Type: application/octet-stream\r\nContent-Range: bytes ");
        let end = at + body[at..].windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let range = String::from_utf8(body[at..end].to_vec()).unwrap();
        at = end + 4;
        let (first, last) = range.split_once('/').unwrap().0.split_once('-').unwrap();
        let length = last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap();
        parts.push((range, body[at..at + length].to_vec()));
        at += length;
    }
    parts
}

#[tokio::test]
async fn several_ranges_return_one_multipart_response() {
    let api = Api::new();
    for size in [10_000usize, 1_500_000] {
        let content = noise(17, size);
        let path = format!("/v2/a/blobs/{}", api.blob("a", &content).await);
        for _ in 0..2 {
            for (range, expected) in [
                ("bytes=0-99,1000-1099", vec![0..100, 1000..1100]),
                ("bytes=1000-1099,0-99", vec![1000..1100, 0..100]),
                ("bytes=0-0,-1", vec![0..1, size - 1..size]),
                ("bytes=0-99,50-199,500-", vec![0..200, 500..size]),
                ("bytes=5-6,99999999-,8-9", vec![5..7, 8..10]),
            ] {
                let reply = api.request("GET", &path, &[("range", range)], "").await.expect(206);
                assert_eq!(reply.header("content-range"), "");
                let expected: Vec<_> = expected
                    .into_iter()
                    .map(|r| (format!("{}-{}/{size}", r.start, r.end - 1), content[r].to_vec()))
                    .collect();
                assert!(parts(&reply) == expected, "{range}");
            }
            // What overlaps is one range, and more than the blob never comes.
            let overlapping = format!("bytes={}", vec!["0-"; 500].join(","));
            let reply = api.request("GET", &path, &[("range", &overlapping)], "").await.expect(206);
            assert_eq!(reply.header("content-range"), format!("bytes 0-{}/{size}", size - 1));
            assert!(reply.body == content);
            let too_many = format!(
                "bytes={}",
                (0..2000).map(|i| format!("{0}-{0}", 2 * i)).collect::<Vec<_>>().join(",")
            );
            let reply = api.request("GET", &path, &[("range", &too_many)], "").await.expect(200);
            assert_eq!(reply.body.len(), size);
            let reply = api.request("GET", &path, &[("range", "bytes=99999999-,-0")], "").await;
            reply.refused(416, "RANGE_INVALID");
            let stale = [("range", "bytes=0-1,5-6"), ("if-range", "\"x\"")];
            api.request("GET", &path, &stale, "").await.expect(200);
            api.get(&path).await.expect(200);
        }
    }
}

#[tokio::test]
async fn if_none_match_returns_304() {
    let api = Api::new();
    for size in SIZES {
        let digest = api.blob("a", &noise(1, size)).await;
        let path = format!("/v2/a/blobs/{digest}");
        for _ in 0..2 {
            let etag = format!("\"x\", W/\"{digest}\"");
            let reply = api.request("GET", &path, &[("if-none-match", &etag)], "").await.expect(304);
            assert_eq!(reply.header("etag"), format!("\"{digest}\""));
            api.request("GET", &path, &[("if-none-match", "\"x\"")], "").await.expect(200);
        }
    }
}

#[tokio::test]
async fn a_repository_does_not_serve_the_blobs_of_another() {
    let api = Api::new();
    let digest = api.blob("a", b"secret").await;
    api.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
    api.get(&format!("/v2/b/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    api.head(&format!("/v2/b/blobs/{digest}")).await.expect(404);
}

#[tokio::test]
async fn a_deleted_blob_is_unknown_immediately_cached_or_not() {
    let api = Api::new();
    for size in SIZES {
        let digest = api.blob("a", &noise(2, size)).await;
        api.blob("b", &noise(2, size)).await;
        let path = format!("/v2/a/blobs/{digest}");
        api.get(&path).await.expect(200);
        api.delete(&path).await.expect(202);
        api.get(&path).await.refused(404, "BLOB_UNKNOWN");
        api.head(&path).await.expect(404);
        api.delete(&path).await.refused(404, "BLOB_UNKNOWN");
        api.get(&format!("/v2/b/blobs/{digest}")).await.expect(200);
    }
}

#[tokio::test]
async fn a_sha512_blob_is_served_under_its_own_digest() {
    let api = Api::new();
    let digest = Algorithm::Sha512.digest(b"content");
    let location = api.post("/v2/a/blobs/uploads/").await.expect(202).header("location").to_owned();
    api.request("PUT", &format!("{location}?digest={digest}"), &[], "content").await.expect(201);
    let reply = api.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
    assert_eq!(reply.header("docker-content-digest"), digest.as_str());
    assert_eq!(reply.text(), "content");
}

#[tokio::test]
async fn an_empty_blob_can_be_pushed_and_pulled() {
    let api = Api::new();
    let digest = api.blob("a", b"").await;
    for _ in 0..2 {
        let reply = api.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
        assert_eq!((reply.header("content-length"), reply.body.len()), ("0", 0));
    }
    let path = format!("/v2/a/blobs/{digest}");
    api.request("GET", &path, &[("range", "bytes=0-")], "").await.refused(416, "RANGE_INVALID");
}

/// A registry whose store is another one, which counts what it is asked.
#[tokio::test]
async fn a_get_asks_the_store_once_if_possible() {
    use super::http_store::HttpStore;
    use super::support::memory;
    use hyper_server::{Registry, RegistryOptions, Server, ServerOptions};
    use std::sync::Arc;

    let store = memory();
    let address = "127.0.0.1:0".parse().unwrap();
    let (options, server) = (RegistryOptions::default(), ServerOptions::default());
    let inner = Server::start(store.clone(), address, options, server).await.unwrap();
    let counts = Api { registry: inner.registry().clone() };
    let outer = Arc::new(HttpStore::new(inner.url(), store.capabilities()));
    let api = Api { registry: Registry::new(outer, RegistryOptions::default()).unwrap() };
    let content = noise(3, 300_000);
    let digest = counts.blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let asked = async || {
        let metrics = counts.get("/metrics").await.expect(200).text().to_owned();
        let count = |method: &str| {
            let series = format!("hyperregistry_requests_total{{route=\"blob\",method=\"{method}\",");
            let lines = metrics.lines().filter(|line| line.starts_with(&series));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum::<u64>()
        };
        (count("HEAD"), count("GET"))
    };
    let (mine, other) = (format!("\"{digest}\""), "\"sha256:0\"");
    let mut before = asked().await;
    for (method, headers, status, heads, gets) in [
        ("HEAD", vec![], 200, 1, 0),
        ("GET", vec![], 200, 0, 1),
        ("GET", vec![("if-none-match", mine.as_str())], 304, 1, 0),
        ("GET", vec![("if-none-match", other)], 200, 0, 1),
        ("GET", vec![("range", "bytes=100-199")], 206, 0, 1),
        ("GET", vec![("range", "bytes=-10")], 206, 0, 1),
        ("GET", vec![("range", "bytes=299999-400000"), ("if-none-match", other)], 206, 0, 1),
        // The answer names the size, which a failure does not tell.
        ("GET", vec![("range", "bytes=300000-")], 416, 1, 1),
        // How ranges are joined depends on the size.
        ("GET", vec![("range", "bytes=0-9,20-29")], 206, 1, 2),
        ("GET", vec![("range", "bytes=0-9,5-19")], 206, 1, 1),
    ] {
        let reply = api.request(method, &path, &headers, "").await.expect(status);
        if status == 416 {
            assert_eq!(reply.header("content-range"), "bytes */300000");
        }
        let after = asked().await;
        assert_eq!((after.0 - before.0, after.1 - before.1), (heads, gets), "{method} {headers:?}");
        before = after;
    }
    inner.stop().await.unwrap();
}
