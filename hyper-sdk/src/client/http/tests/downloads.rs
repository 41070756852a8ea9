//! Downloads of manifests and blobs.

use super::*;
use crate::Result;
use crate::store::ByteRange;
use futures::TryStreamExt;

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

async fn read(client: &HttpClient, digest: &Digest, range: Option<ByteRange>) -> Result<Vec<u8>> {
    let reader = client.get_blob(&repository(), digest, range).await?;
    let length = reader.length;
    let bytes: Vec<bytes::Bytes> = reader.stream.try_collect().await?;
    assert_eq!(bytes.iter().map(|b| b.len() as u64).sum::<u64>(), length);
    Ok(bytes.concat())
}

/// Serves ranges of the content as a good registry does.
fn ranged(seen: &Seen) -> Reply {
    let all = content();
    let Some(range) = seen.header("range") else { return Reply::new(200).body(all) };
    let range = range.strip_prefix("bytes=").unwrap();
    let (first, last) = match range.split_once('-').unwrap() {
        ("", n) => (all.len() - n.parse::<usize>().unwrap(), all.len() - 1),
        (first, "") => (first.parse().unwrap(), all.len() - 1),
        (first, last) => (first.parse().unwrap(), last.parse::<usize>().unwrap().min(all.len() - 1)),
    };
    if first > last {
        return Reply::new(416);
    }
    Reply::new(206)
        .header("Content-Range", format!("bytes {first}-{last}/{}", all.len()))
        .body(&all[first..=last])
}

#[tokio::test]
async fn a_broken_download_continues() {
    let server = Server::start(|seen| ranged(seen).cut(500_000)).await;
    let digest = Digest::sha256(content());
    assert_eq!(read(&client(&server), &digest, None).await.unwrap(), content());
    let ranges: Vec<_> = server.seen().iter().map(|s| s.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    // How much of a broken response arrives is up to the system.
    assert!(ranges[1].as_deref().unwrap().ends_with("-1199999"));
}

#[tokio::test]
async fn a_broken_download_continues_at_a_server_without_ranges() {
    let calls = Counter::default();
    let server = Server::start(move |_| match calls.next() {
        0 => Reply::new(200).body(content()).cut(700_000),
        _ => Reply::new(200).body(content()),
    })
    .await;
    assert_eq!(read(&client(&server), &Digest::sha256(content()), None).await.unwrap(), content());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_download_without_progress_is_an_error() {
    let server = Server::start(|seen| ranged(seen).cut(0)).await;
    let e = read(&client(&server), &Digest::sha256(content()), None).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(server.seen().len() <= 5);
}

#[tokio::test]
async fn wrong_content_is_an_error() {
    let server = Server::start(|_| Reply::new(200).body("jello")).await;
    let e = read(&client(&server), &Digest::sha256("hello"), None).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestInvalid);

    let server = Server::start(|_| manifest_reply(&manifest("other"))).await;
    let wanted = manifest("x").digest().clone();
    let e = client(&server).get_manifest(&repository(), &wanted.into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestInvalid);

    let lying = |_: &Seen| {
        Reply::new(200)
            .header("Content-Type", media_type::OCI_MANIFEST)
            .header("Docker-Content-Digest", Digest::sha256("lie"))
            .body(manifest("x").bytes().to_vec())
    };
    let server = Server::start(lying).await;
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestInvalid);
}

#[tokio::test]
async fn ranges_are_exact_at_servers_with_and_without_ranges() {
    let (all, digest) = (content(), Digest::sha256(content()));
    let good = Server::start(ranged).await;
    let ignorant = Server::start(|_| Reply::new(200).body(content())).await;
    for server in [&good, &ignorant] {
        let client = client(server);
        let part = read(&client, &digest, Some(ByteRange::FromTo(10, Some(19)))).await.unwrap();
        assert_eq!(part, all[10..20]);
        let part = read(&client, &digest, Some(ByteRange::FromTo(1_000_000, None))).await.unwrap();
        assert_eq!(part, all[1_000_000..]);
        let part = read(&client, &digest, Some(ByteRange::Suffix(7))).await.unwrap();
        assert_eq!(part, all[all.len() - 7..]);
        let e = read(&client, &digest, Some(ByteRange::FromTo(9_000_000, None))).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::RangeInvalid);
    }
}

#[tokio::test]
async fn an_oversized_manifest_is_an_error() {
    let server = Server::start(|_| {
        Reply::new(200).header("Content-Type", media_type::OCI_MANIFEST).body(vec![b' '; 17 << 20])
    })
    .await;
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn missing_headers_of_a_head_request_are_fetched() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(200),
        _ => manifest_reply(&manifest("x")),
    })
    .await;
    let found = client(&server).resolve(&repository(), &latest()).await.unwrap();
    assert_eq!(found, manifest("x").descriptor());
    let server = Server::start(|_| manifest_reply(&manifest("x"))).await;
    assert_eq!(client(&server).resolve(&repository(), &latest()).await.unwrap(), found);
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/latest"]);
}

#[tokio::test]
async fn a_blob_exists_or_not() {
    let server = Server::start(|seen| match seen.target.contains(Digest::sha256("x").hex()) {
        true => Reply::new(200).header("Content-Length", 1),
        false => Reply::new(404),
    })
    .await;
    let client = client(&server);
    assert_eq!(client.stat_blob(&repository(), &Digest::sha256("x")).await.unwrap(), Some(1));
    assert_eq!(client.stat_blob(&repository(), &Digest::sha256("y")).await.unwrap(), None);
}

#[tokio::test]
async fn ranges_of_impossible_numbers_are_errors() {
    for range in
        ["bytes 5-18446744073709551615/*", "bytes 0-18446744073709551615/*", "bytes 0-4/18446744073709551615"]
    {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            _ => Reply::new(206).header("Content-Range", range).body("hello"),
        })
        .await;
        for wanted in [None, Some(ByteRange::FromTo(u64::MAX - 1, None)), Some(ByteRange::Suffix(u64::MAX))] {
            let read = read(&client(&server), &Digest::sha256("hello"), wanted).await;
            assert!(read.is_err(), "{range}");
        }
    }
}

#[tokio::test]
async fn the_error_of_a_wrong_digest_names_the_content_encoding() {
    let server = Server::start(|_| {
        Reply::new(200)
            .header("Content-Encoding", "gzip")
            .header("Content-Type", media_type::OCI_MANIFEST)
            .body("compressed")
    })
    .await;
    let client = client(&server);
    let e = read(&client, &Digest::sha256("x"), None).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("content-encoding")), (ErrorKind::DigestInvalid, Some("gzip")));
    let e = client.get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!(e.context_value("content-encoding"), Some("gzip"));
    // Storages keep what is compressed with such a header: the bytes count.
    assert_eq!(read(&client, &Digest::sha256("compressed"), None).await.unwrap(), b"compressed");
}
