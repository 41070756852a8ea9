//! Pushes of blobs that another repository of the registry has.

use super::*;
use crate::client::{LocalImage, PushOptions, RemoteImage, push};
use crate::progress::{Event, Outcome, Progress};
use crate::reference::Reference;
use crate::store::{MemoryStore, PutManifest, RegistryStoreExt, SharedStore, local_repository};
use bytes::Bytes;

/// A store that has one image under two names of the registry, and of another registry.
async fn store(server: &Server) -> (SharedStore, RepositoryName) {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let mut last = None;
    for name in
        ["other.example/c", &format!("{}/old/app", server.address), &format!("{}/new", server.address)]
    {
        let name = local_repository(&Reference::parse(name).unwrap()).unwrap();
        let config = store.put_bytes(&name, media_type::OCI_CONFIG, Bytes::from_static(b"{}")).await.unwrap();
        let layer = store.put_bytes(&name, media_type::OCI_LAYER, Bytes::from(vec![7; 9000])).await.unwrap();
        let image = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes()).unwrap();
        store.put_manifest(&name, PutManifest::new(image, [Tag::latest()])).await.unwrap();
        last = Some(name);
    }
    (store, last.unwrap())
}

/// Pushes to `new`; the outcomes of the blobs.
async fn push_new(server: &Server) -> crate::Result<Vec<Outcome>> {
    let (store, local) = store(server).await;
    let (progress, mut events) = Progress::channel();
    let client: SharedClient = Arc::new(client(server));
    let options = PushOptions { progress, ..PushOptions::default() };
    let new = RepositoryName::parse("new").unwrap();
    push(&LocalImage::new(&store, &local, &latest()), &RemoteImage::new(&client, &new, &latest()), &options)
        .await?;
    let all = std::iter::from_fn(|| events.try_recv().ok());
    Ok(all
        .filter_map(|e| if let Event::Finished { outcome, .. } = e { Some(outcome) } else { None })
        .collect())
}

#[tokio::test]
async fn blobs_that_another_repository_of_the_registry_has_are_mounted() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" if seen.target.contains("from=old%2Fapp") => Reply::new(201),
        "PUT" if seen.target.contains("/manifests/") => Reply::new(201),
        _ => Reply::new(400),
    })
    .await;
    assert_eq!(push_new(&server).await.unwrap(), [Outcome::Cached, Outcome::Cached]);
    assert_eq!(server.count("POST /v2/new/blobs/uploads/?mount=sha256%3A"), 2, "{:?}", server.lines());
}

#[tokio::test]
async fn a_declined_mount_opens_the_upload_session() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("Location", "/v2/new/blobs/uploads/1"),
        "PUT" => Reply::new(201),
        _ => Reply::new(400),
    })
    .await;
    assert_eq!(push_new(&server).await.unwrap(), [Outcome::Done, Outcome::Done]);
    assert_eq!((server.count("POST"), server.count("DELETE")), (2, 0));
}

#[tokio::test]
async fn a_rejected_mount_is_not_a_failure() {
    for token_refuses in [false, true] {
        let server = Server::start(move |seen| {
            if seen.target.starts_with("/token") {
                let asks = seen.target.contains("old%2Fapp");
                return match asks && token_refuses {
                    true => Reply::new(403),
                    false => Reply::new(200).body(r#"{"token":"t"}"#),
                };
            }
            if seen.header("authorization").is_none() {
                let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap());
                return Reply::new(401).header("WWW-Authenticate", realm);
            }
            match seen.method.as_str() {
                "HEAD" => Reply::new(404),
                "POST" if seen.target.contains("from=") => Reply::new(403),
                "POST" => Reply::new(202).header("Location", "/v2/new/blobs/uploads/1"),
                "PUT" => Reply::new(201),
                _ => Reply::new(400),
            }
        })
        .await;
        assert_eq!(push_new(&server).await.unwrap(), [Outcome::Done, Outcome::Done]);
        let both = |line: &&String| line.contains("old%2Fapp%3Apull") && line.contains("new%3Apull%2Cpush");
        assert!(server.lines().iter().find(both).is_some(), "{:?}", server.lines());
    }
}

#[tokio::test]
async fn a_blob_without_a_known_source_is_offered() {
    let layer = Bytes::from(vec![7; 9000]);
    let store: SharedStore = Arc::new(MemoryStore::default());
    let name = repository();
    let config = store.put_bytes(&name, media_type::OCI_CONFIG, Bytes::from_static(b"{}")).await.unwrap();
    let blob = store.put_bytes(&name, media_type::OCI_LAYER, layer).await.unwrap();
    let image = Manifest::sniff(ImageManifest::new(config, vec![blob]).to_bytes()).unwrap();
    store.put_manifest(&name, PutManifest::new(image, [Tag::latest()])).await.unwrap();
    // One that mounts by itself, one that does not, and one that takes such a question for a mistake.
    for (answer, puts) in [(201, 0), (202, 2), (400, 2)] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" if seen.target.contains("mount=") && answer != 202 => Reply::new(answer),
            "POST" => Reply::new(202).header("Location", "/v2/a/b/blobs/uploads/1"),
            "PUT" => Reply::new(201),
            _ => Reply::new(400),
        })
        .await;
        let client: SharedClient = Arc::new(client(&server));
        push(
            &LocalImage::new(&store, &name, &latest()),
            &RemoteImage::new(&client, &name, &latest()),
            &PushOptions::default(),
        )
        .await
        .unwrap();
        assert_eq!(server.count("PUT /v2/a/b/blobs"), puts, "{answer}");
    }
}
