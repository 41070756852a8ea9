//! Registries that stall or send slowly, in both directions.

use super::*;
use crate::client::{LocalImage, LocalTarget, PullOptions, PushOptions, RemoteImage, pull, push};
use crate::progress::{Event, Events, Progress};
use crate::store::{MemoryStore, PutManifest, RegistryStoreExt, SharedStore};
use bytes::Bytes;
use futures::TryStreamExt;

const IDLE: Duration = Duration::from_millis(300);

fn hasty(server: &Server) -> (HttpClient, Events) {
    let (progress, events) = Progress::channel();
    let host = RegistryHost::parse(&server.address).unwrap();
    let client =
        HttpClient::builder(host).retry(QUICK).idle_timeout(IDLE).progress(progress).build().unwrap();
    (client, events)
}

pub(super) fn warnings(events: &mut Events) -> Vec<String> {
    let all = std::iter::from_fn(|| events.try_recv().ok());
    all.filter_map(|e| match e {
        Event::Warning { message, .. } => Some(message),
        _ => None,
    })
    .collect()
}

#[tokio::test]
async fn a_stalled_download_continues_with_a_warning() {
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let all = content.clone();
    let server = Server::start(move |seen| match seen.header("range") {
        None => Reply::new(200).body(all.clone()).stall(500_000),
        Some(range) => {
            let first: usize =
                range.strip_prefix("bytes=").unwrap().split_once('-').unwrap().0.parse().unwrap();
            let part = format!("bytes {first}-{}/{}", all.len() - 1, all.len());
            Reply::new(206).header("Content-Range", part).body(&all[first..])
        }
    })
    .await;
    let (client, mut events) = hasty(&server);
    let digest = Digest::sha256(&content);
    let reader = client.get_blob(&repository(), &digest, None).await.unwrap();
    let got: Vec<Bytes> = reader.stream.try_collect().await.unwrap();
    assert!(got.concat() == content);
    assert_eq!(server.seen()[1].header("range"), Some("bytes=500000-1199999"));
    let told = warnings(&mut events);
    assert_eq!(told.len(), 1, "{told:?}");
    for part in [&server.address, digest.short(), "500000", "fell silent", "attempt 2 of 4"] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
}

#[tokio::test]
async fn stalled_requests_for_manifests_and_tokens_are_retried() {
    let (heads, tokens, manifests) = (Counter::default(), Counter::default(), Counter::default());
    let server = Server::start(move |seen| {
        if seen.target.starts_with("/token") {
            let reply = Reply::new(200).body(r#"{"token":"t"}"#);
            return if tokens.next() == 0 { reply.stall(5) } else { reply };
        }
        if seen.header("authorization").is_none() {
            let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
            return Reply::new(401).header("WWW-Authenticate", realm);
        }
        match (seen.target.as_str(), heads.next()) {
            (_, 0) => Reply::new(200).delay(Duration::from_secs(60)),
            _ if manifests.next() == 0 => manifest_reply(&manifest("x")).stall(10),
            _ => manifest_reply(&manifest("x")),
        }
    })
    .await;
    let (client, mut events) = hasty(&server);
    assert_eq!(client.get_manifest(&repository(), &latest()).await.unwrap(), manifest("x"));
    let told = warnings(&mut events);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("token server") && told[0].contains("fell silent"), "{told:?}");
    assert!(told[1].contains("does not answer") && told[1].contains("/v2/a/b/manifests/latest"), "{told:?}");
    assert!(told[2].contains("fell silent") && told[2].contains("attempt 3 of 4"), "{told:?}");
}

#[tokio::test]
async fn a_stalled_list_is_retried() {
    let calls = Counter::default();
    let server = Server::start(move |_| {
        let reply = Reply::new(200).body(r#"{"tags":["a"]}"#);
        if calls.next() == 0 { reply.stall(3) } else { reply }
    })
    .await;
    let (client, _events) = hasty(&server);
    let tags = client.list_tags(&repository(), crate::store::Page::default()).await.unwrap();
    assert_eq!(tags.items.len(), 1);
}

#[tokio::test]
async fn a_pull_from_a_registry_that_always_stalls_is_an_error() {
    // Whatever part is asked for, three bytes of it come; or all of it does, slower than anybody waits for.
    let layer = vec![7u8; 5_000];
    let config = Bytes::from_static(b"{}");
    let image = ImageManifest::new(
        Descriptor::of(media_type::OCI_CONFIG, &config),
        vec![Descriptor::of(media_type::OCI_LAYER, &layer)],
    );
    let image = Manifest::sniff(image.to_bytes()).unwrap();
    for drips in [false, true] {
        let (image, layer) = (image.clone(), layer.clone());
        let server = Server::start(move |seen| {
            if seen.target.contains("/manifests/") {
                return manifest_reply(&image);
            }
            if !seen.target.contains(Digest::sha256(&layer).hex()) {
                return Reply::new(200).body("{}");
            }
            let first: usize = seen.header("range").map_or(0, |range| {
                range.strip_prefix("bytes=").unwrap().split_once('-').unwrap().0.parse().unwrap()
            });
            let reply = Reply::new(if first == 0 { 200 } else { 206 })
                .header("Content-Range", format!("bytes {first}-4999/5000"))
                .body(&layer[first..]);
            if drips { reply.drip(Duration::from_millis(20)) } else { reply.stall(3) }
        })
        .await;
        let (progress, mut events) = Progress::channel();
        let client: SharedClient = Arc::new(hasty(&server).0);
        let store: SharedStore = Arc::new(MemoryStore::default());
        let options = PullOptions { progress, ..PullOptions::default() };
        let e = pull(
            &RemoteImage::new(&client, &repository(), &latest()),
            &LocalTarget::new(&store, &repository(), None),
            &options,
        )
        .await
        .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
        let told = warnings(&mut events);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[2].contains("attempt 4 of 4"), "{told:?}");
        assert_eq!(drips, told[0].contains("too slowly"), "{told:?}");
        let blob = format!("GET /v2/a/b/blobs/{}", Digest::sha256(vec![7u8; 5_000]));
        assert_eq!(server.count(&blob), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_never_read_times_out_and_one_that_is_read_late_does_not() {
    let layer = vec![7u8; 32 << 20];
    let store: SharedStore = Arc::new(MemoryStore::default());
    let name = repository();
    let config = store.put_bytes(&name, media_type::OCI_CONFIG, Bytes::from_static(b"{}")).await.unwrap();
    let blob = store.put_bytes(&name, media_type::OCI_LAYER, Bytes::from(layer)).await.unwrap();
    let image = Manifest::sniff(ImageManifest::new(config, vec![blob.clone()]).to_bytes()).unwrap();
    store.put_manifest(&name, PutManifest::new(image, [Tag::latest()])).await.unwrap();
    for deaf_for in [1, usize::MAX] {
        let (puts, digest) = (Counter::default(), blob.digest.clone());
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" if seen.target.contains(digest.hex()) => Reply::new(404),
            "HEAD" => Reply::new(200).header("Content-Length", 2),
            "POST" => Reply::new(202).header("Location", "/v2/a/b/blobs/uploads/1"),
            "GET" => Reply::new(204).header("Range", "0-0"),
            "PUT" if seen.target.contains("/blobs/") && puts.next() < deaf_for => Reply::new(201).deaf(),
            _ => Reply::new(201),
        })
        .await;
        let (progress, mut events) = Progress::channel();
        let client: SharedClient = Arc::new(hasty(&server).0);
        let options = PushOptions { progress, ..PushOptions::default() };
        let pushed = push(
            &LocalImage::new(&store, &name, &latest()),
            &RemoteImage::new(&client, &name, &latest()),
            &options,
        )
        .await;
        let told = warnings(&mut events);
        assert!(told[0].contains("does not take") && told[0].contains("attempt 2 of 5"), "{told:?}");
        match deaf_for {
            1 => assert!(pushed.is_ok(), "{pushed:?}"),
            _ => assert_eq!(pushed.unwrap_err().kind(), ErrorKind::Timeout),
        }
    }
}
