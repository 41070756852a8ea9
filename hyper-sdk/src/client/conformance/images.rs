//! Cases about whole images.

use super::kit::*;
use crate::client::{
    LocalImage, LocalTarget, Platforms, PullOptions, PushOptions, RemoteImage, SharedClient, copy, pull,
    push as push_image_of,
};
use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::platform::Platform;
use crate::progress::{Event, Outcome, Progress};
use crate::reference::Tag;
use crate::store::{MemoryStore, PutManifest, RegistryStoreExt as _, SharedStore};
use crate::testing::{RandomImage, RandomIndex};
use bytes::Bytes;
use std::sync::Arc;

async fn stored_image(store: &SharedStore, name: &str, text: &str, platform: &Platform) -> Manifest {
    let name = repository(name);
    let config = format!(
        r#"{{"architecture":"{}","os":"{}","author":"{text}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
        platform.architecture, platform.os
    );
    let config = store.put_bytes(&name, media_type::OCI_CONFIG, config.into()).await.unwrap();
    let mut layers = Vec::new();
    for n in 0..3u64 {
        let bytes = noise(200_000, n + text.len() as u64 * 10);
        layers.push(store.put_bytes(&name, media_type::OCI_LAYER, bytes).await.unwrap());
    }
    let manifest = parse(ImageManifest::new(config, layers).to_bytes());
    store.put_manifest(&name, PutManifest::new(manifest.clone(), [Tag::latest()])).await.unwrap();
    manifest
}

/// Pushes `here:latest` of a store as `there:v1`, which is returned.
async fn push_there(store: &SharedStore, client: &SharedClient, options: &PushOptions) -> RemoteImage {
    let there = RemoteImage::new(client, &repository("there"), &by_tag("v1"));
    let here = LocalImage::new(store, &repository("here"), &by_tag("latest"));
    push_image_of(&here, &there, options).await.unwrap();
    there
}

/// Copies `from:v1` to `to:v2`, both of one registry.
async fn copy_within(client: &SharedClient, options: &PushOptions) {
    let from = RemoteImage::new(client, &repository("from"), &by_tag("v1"));
    let to = RemoteImage::new(client, &repository("to"), &by_tag("v2"));
    copy(&from, &to, options).await.unwrap();
}

/// A repository of a store that an image is pulled into, under the tag `latest`.
fn back(store: &SharedStore) -> LocalTarget {
    LocalTarget::new(store, &repository("back"), Some(&Tag::latest()))
}

fn memory() -> SharedStore {
    Arc::new(MemoryStore::default())
}

fn linux(architecture: &str) -> Platform {
    Platform::new("linux", architecture, None)
}

/// An index of two images, tagged `latest`.
async fn stored_index(store: &SharedStore, name: &str) -> (Manifest, Vec<Manifest>) {
    let mut images = Vec::new();
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = stored_image(store, name, &format!("for {architecture}"), &linux(architecture)).await;
        entries.push(Descriptor { platform: Some(linux(architecture)), ..image.descriptor() });
        images.push(image);
    }
    let index = parse(ImageIndex::new(entries).to_bytes());
    store.put_manifest(&repository(name), PutManifest::new(index.clone(), [Tag::latest()])).await.unwrap();
    (index, images)
}

pub async fn an_image_is_pushed_and_pulled(client: SharedClient) {
    needs!(client, push);
    let (store, to) = (memory(), memory());
    let manifest = stored_image(&store, "here", "x", &linux("amd64")).await;
    let there = push_there(&store, &client, &PushOptions::default()).await;
    let pulled = pull(&there, &back(&to), &PullOptions::default()).await.unwrap();
    assert_eq!(&pulled.digest, manifest.digest());
    let name = repository("back");
    assert_eq!(to.get_manifest(&name, &by_tag("latest")).await.unwrap(), manifest);
    for layer in &manifest.image().unwrap().layers {
        assert_eq!(to.stat_blob(&name, &layer.digest).await.unwrap(), layer.size);
    }
}

pub async fn an_index_is_pushed_with_all_its_images(client: SharedClient) {
    needs!(client, push);
    let store = memory();
    let (index, images) = stored_index(&store, "here").await;
    let there = push_there(&store, &client, &PushOptions::default()).await.repository;
    assert_eq!(client.get_manifest(&there, &by_tag("v1")).await.unwrap(), index);
    for image in &images {
        assert_eq!(&client.get_manifest(&there, &by_digest(image.digest())).await.unwrap(), image);
    }
}

pub async fn random_images_come_back_whole(client: SharedClient) {
    needs!(client, push);
    for seed in 1..=3 {
        let image = RandomImage::with_shape(seed, &small());
        let name = repository(&format!("random/{seed}"));
        push_random(&client, &name, &image).await;
        let digest = by_digest(image.manifest.digest());
        assert_eq!(client.get_manifest(&name, &digest).await.unwrap(), image.manifest, "seed {seed}");
        for (descriptor, bytes) in image.blobs() {
            let found = read(&client, &name, &descriptor.digest, None).await.unwrap();
            assert!(found == bytes, "seed {seed}: {}", descriptor.digest);
        }
    }
}

pub async fn a_random_index_is_pushed_and_pulled(client: SharedClient) {
    needs!(client, push);
    let index = RandomIndex::new(4, &[linux("amd64"), linux("arm64")]);
    let (store, here, to) = (memory(), repository("here"), memory());
    for image in &index.images {
        for (descriptor, bytes) in image.blobs() {
            store.put_bytes(&here, &descriptor.media_type, bytes).await.unwrap();
        }
        store.put_manifest(&here, PutManifest::new(image.manifest.clone(), [])).await.unwrap();
    }
    store.put_manifest(&here, PutManifest::new(index.manifest.clone(), [Tag::latest()])).await.unwrap();
    let there = push_there(&store, &client, &PushOptions::default()).await;
    pull(&there, &back(&to), &PullOptions::default()).await.unwrap();
    let name = repository("back");
    assert_eq!(to.get_manifest(&name, &by_tag("latest")).await.unwrap(), index.manifest);
    for image in &index.images {
        for (descriptor, bytes) in image.blobs() {
            let found = to.read_blob(&name, &descriptor.digest, descriptor.size).await.unwrap();
            assert!(found == bytes, "{}", descriptor.digest);
        }
    }
}

pub async fn one_platform_is_pulled_alone(client: SharedClient) {
    needs!(client, push);
    let (store, to) = (memory(), memory());
    let (_, images) = stored_index(&store, "here").await;
    let there = push_there(&store, &client, &PushOptions::default()).await;
    let options = |architecture: &str| PullOptions {
        platforms: Platforms::One(linux(architecture)),
        ..PullOptions::default()
    };
    let found = pull(&there, &back(&to), &options("arm64")).await.unwrap();
    assert_eq!(&found.digest, images[1].digest());
    assert_eq!(found.platform, Some(linux("arm64")));
    assert!(to.get_manifest(&repository("back"), &by_digest(images[0].digest())).await.is_err());
    assert!(pull(&there, &back(&to), &options("riscv64")).await.is_err());
}

pub async fn a_copy_within_a_registry(client: SharedClient) {
    needs!(client, push);
    let to = repository("to");
    let manifest = push_image(&client, &repository("from"), "x", "v1").await;
    copy_within(&client, &PushOptions::default()).await;
    assert_eq!(client.get_manifest(&to, &by_tag("v2")).await.unwrap(), manifest);
    let layer = &manifest.image().unwrap().layers[0];
    assert_eq!(read(&client, &to, &layer.digest, None).await.unwrap(), b"layer x");
}

pub async fn a_copy_brings_the_referrers(client: SharedClient) {
    needs!(client, push);
    let (from, to) = (repository("from"), repository("to"));
    let subject = push_image(&client, &from, "x", "v1").await;
    let empty = Bytes::from_static(b"{}");
    push(&client, &from, &empty).await;
    let mut referrer = ImageManifest::new(Descriptor::of(media_type::OCI_EMPTY, &empty), vec![]);
    referrer.artifact_type = Some("t/sbom".to_owned());
    referrer.subject = Some(subject.descriptor());
    let referrer = parse(referrer.to_bytes());
    client.put_manifest(&from, &by_digest(referrer.digest()), &referrer).await.unwrap();
    copy_within(&client, &PushOptions { referrers: true, ..PushOptions::default() }).await;
    let found = client.list_referrers(&to, subject.digest(), None).await.unwrap();
    assert_eq!(found.iter().map(|d| &d.digest).collect::<Vec<_>>(), [referrer.digest()]);
}

pub async fn pushing_twice_sends_nothing(client: SharedClient) {
    needs!(client, push);
    let store = memory();
    stored_image(&store, "here", "x", &linux("amd64")).await;
    for expected in [Outcome::Done, Outcome::Cached] {
        let (progress, mut events) = Progress::channel();
        let options = PushOptions { progress, ..PushOptions::default() };
        push_there(&store, &client, &options).await;
        drop(options);
        let mut ends = 0;
        while let Some(event) = events.recv().await {
            if let Event::Finished { outcome, .. } = event {
                assert_eq!(outcome, expected);
                ends += 1;
            }
        }
        assert_eq!(ends, 4);
    }
}

pub async fn dropping_a_push_leaves_no_tag_on_half_an_image(client: SharedClient) {
    needs!(client, push);
    let (store, there) = (memory(), repository("there"));
    stored_image(&store, "here", "x", &linux("amd64")).await;
    let (progress, mut events) = Progress::channel();
    let options = PushOptions { progress, ..PushOptions::default() };
    let name = repository("here");
    let (latest, v1) = (by_tag("latest"), by_tag("v1"));
    {
        let (from, to) = (LocalImage::new(&store, &name, &latest), RemoteImage::new(&client, &there, &v1));
        let mut pushing = std::pin::pin!(push_image_of(&from, &to, &options));
        // Gives up as soon as the first blob is on its way.
        loop {
            tokio::select! {
                biased;
                event = events.recv() => if matches!(event, Some(Event::Started { .. })) { break },
                // A registry at hand may be done before there is anything to give up.
                done = &mut pushing => return drop(done.unwrap()),
            }
        }
    }
    if client.resolve(&there, &v1).await.is_ok() {
        // The registry was faster than the drop. What the tag names then has to be whole.
        pull(&RemoteImage::new(&client, &there, &v1), &back(&memory()), &PullOptions::default())
            .await
            .unwrap();
    }
    push_there(&store, &client, &PushOptions::default()).await;
    client.resolve(&there, &v1).await.unwrap();
}

pub async fn many_requests_at_once(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let work = (0..16u64).map(|n| {
        let (client, name) = (client.clone(), name.clone());
        async move {
            let bytes = noise(20_000, n);
            let digest = push(&client, &name, &bytes).await;
            assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
        }
    });
    futures::future::join_all(work).await;
}
