//! Cases about quotas.

use super::kit::*;
use crate::store::errors::is_quota_exceeded;
use crate::store::{PutManifest, QuotaCounts, QuotaLimits, QuotaUse, SharedStore, UploadOptions};
use crate::{Digest, ErrorDetail, Result};
use bytes::Bytes;
use std::fmt::Debug;

fn tags_and_manifests(tags: Option<u64>, manifests: Option<u64>) -> QuotaLimits {
    QuotaLimits { bytes: None, tags, manifests }
}

async fn use_of(store: &SharedStore, namespace: &str) -> QuotaUse {
    let uses = store.quota_use().await.unwrap();
    uses.into_iter().find(|one| one.namespace.to_string() == namespace).unwrap()
}

async fn used(store: &SharedStore, namespace: &str) -> QuotaCounts {
    use_of(store, namespace).await.used.unwrap()
}

/// Compares what is recorded with what is there.
async fn are_right(store: &SharedStore) {
    for check in store.check_quotas(false).await.unwrap() {
        assert!(check.is_right(), "{check:?}");
    }
}

/// Expects a refusal, and returns what is used, added and allowed.
#[track_caller]
fn refused<T: Debug>(result: Result<T>, namespace: &str) -> (u64, u64, u64) {
    let error = result.unwrap_err();
    assert!(is_quota_exceeded(&error), "{error}");
    let Some(ErrorDetail::Quota(excess)) = error.detail() else { panic!("{error:?}") };
    assert_eq!(excess.namespace, namespace, "{error}");
    (excess.used, excess.added, excess.limit)
}

async fn put(store: &SharedStore, name: &str, bytes: &str) -> Result<Digest> {
    let digest = Digest::sha256(bytes);
    store
        .put_blob(&repository(name), &digest, Bytes::copy_from_slice(bytes.as_bytes()))
        .await
        .map(|d| d.digest)
}

/// Stores an index without entries that has these tags. Returns its size.
async fn put_index(store: &SharedStore, name: &str, text: &str, tags: &[&str]) -> Result<u64> {
    let json = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"a":"{text}"}}}}"#);
    let put = PutManifest::new(parse(json), tags.iter().map(|text| tag(text)));
    store.put_manifest(&repository(name), put).await.map(|d| d.size)
}

pub async fn a_blob_of_a_namespace_counts_once(store: SharedStore) {
    needs!(store, write, delete, quotas);
    store.set_quotas(quota("team", 1000)).unwrap();
    let digest = put(&store, "team/a", "hello").await.unwrap();
    put(&store, "team/b", "hello").await.unwrap();
    put(&store, "team", "other bytes").await.unwrap();
    put(&store, "team-b", "elsewhere").await.unwrap();
    let [a, b, c] = ["team/a", "team/b", "team/c/d"].map(repository);
    store.mount_blob(&c, &digest, &a).await.unwrap();
    assert_eq!(used(&store, "team").await.bytes, 5 + 11);
    for (name, left) in [(&a, 16), (&c, 16), (&b, 11)] {
        store.delete_blob(name, &digest).await.unwrap();
        assert_eq!(used(&store, "team").await.bytes, left);
    }
    let one = put_index(&store, "team/a", "x", &["1"]).await.unwrap();
    put_index(&store, "team/b", "x", &["1", "2"]).await.unwrap();
    assert_eq!(used(&store, "team").await, QuotaCounts { bytes: 11 + one, tags: 3, manifests: 2 });
    are_right(&store).await;
}

pub async fn a_quota_is_not_passed_by_one_byte(store: SharedStore) {
    needs!(store, write, quotas);
    store.set_quotas(quota("team", 10)).unwrap();
    put(&store, "team/a", "1234").await.unwrap();
    assert_eq!(refused(put(&store, "team/b", "7654321").await, "team"), (4, 7, 10));
    let mut upload = store.start_upload(&repository("team/b"), UploadOptions::default()).await.unwrap();
    upload.append("7654321".into()).await.unwrap();
    assert_eq!(refused(upload.finish(&Digest::sha256("7654321")).await, "team"), (4, 7, 10));
    assert!(store.stat_blob(&repository("team/b"), &Digest::sha256("7654321")).await.is_err());
    put(&store, "elsewhere", "7654321").await.unwrap();
    let [to, from] = ["team/b", "elsewhere"].map(repository);
    let mounted = store.mount_blob(&to, &Digest::sha256("7654321"), &from).await;
    assert_eq!(refused(mounted, "team"), (4, 7, 10));
    put(&store, "team/b", "654321").await.unwrap();
    assert_eq!(used(&store, "team").await.bytes, 10);
    are_right(&store).await;
}

pub async fn a_full_namespace_takes_what_adds_nothing(store: SharedStore) {
    needs!(store, write, quotas);
    let size = put_index(&store, "team/a", "x", &["1"]).await.unwrap();
    let digest = put(&store, "team/a", "hello").await.unwrap();
    let limits = QuotaLimits { bytes: Some(size + 5), tags: Some(2), manifests: Some(2) };
    store.set_quotas(quotas(&[("team", limits)])).unwrap();
    put(&store, "team/a", "hello").await.unwrap();
    put(&store, "team/b", "hello").await.unwrap();
    store.mount_blob(&repository("team/c"), &digest, &repository("team/a")).await.unwrap();
    put_index(&store, "team/a", "x", &["1"]).await.unwrap();
    put_index(&store, "team/b", "x", &["1"]).await.unwrap();
    // All is full, and a tag can still move.
    assert_eq!(used(&store, "team").await, QuotaCounts { bytes: size + 5, tags: 2, manifests: 2 });
    assert_eq!(refused(put_index(&store, "team/c", "x", &[]).await, "team"), (2, 1, 2));
    assert_eq!(refused(put_index(&store, "team/a", "x", &["2"]).await, "team"), (2, 1, 2));
    store.set_quotas(quotas(&[("team", tags_and_manifests(Some(2), None))])).unwrap();
    put_index(&store, "team/a", "y", &["1"]).await.unwrap();
    assert_eq!(used(&store, "team").await.tags, 2);
    are_right(&store).await;
}

pub async fn a_quota_counts_tags_and_manifests(store: SharedStore) {
    needs!(store, write, delete, quotas);
    store.set_quotas(quotas(&[("team", tags_and_manifests(Some(2), Some(2)))])).unwrap();
    put_index(&store, "team/a", "1", &["1", "1"]).await.unwrap();
    assert_eq!(refused(put_index(&store, "team/b", "2", &["1", "2"]).await, "team"), (1, 2, 2));
    assert!(
        store.get_manifest(&repository("team/b"), &by_tag("1")).await.is_err(),
        "a refusal changes nothing"
    );
    put_index(&store, "team/b", "2", &["1"]).await.unwrap();
    assert_eq!(refused(put_index(&store, "team/c", "3", &[]).await, "team"), (2, 1, 2));
    store.delete_manifest(&repository("team/a"), &by_tag("1")).await.unwrap();
    let counts = used(&store, "team").await;
    assert_eq!((counts.tags, counts.manifests), (1, 2));
    let manifest = store.get_manifest(&repository("team/b"), &by_tag("1")).await.unwrap();
    store.delete_manifest(&repository("team/b"), &by_digest(manifest.digest())).await.unwrap();
    let counts = used(&store, "team").await;
    assert_eq!((counts.tags, counts.manifests), (0, 1));
    put_index(&store, "team/c", "3", &["1", "2"]).await.unwrap();
    store.set_quotas(quotas(&[("team", tags_and_manifests(Some(0), None))])).unwrap();
    assert_eq!(refused(put_index(&store, "team/c", "4", &["3"]).await, "team"), (2, 1, 0));
    put_index(&store, "team/c", "4", &[]).await.unwrap();
    are_right(&store).await;
}

pub async fn every_quota_of_a_repository_holds(store: SharedStore) {
    needs!(store, write, quotas);
    let bytes = |bytes| QuotaLimits { bytes: Some(bytes), ..QuotaLimits::default() };
    store.set_quotas(quotas(&[("**", bytes(20)), ("a", bytes(15)), ("a/b", bytes(10))])).unwrap();
    put(&store, "a/b/c", "12345678").await.unwrap();
    assert_eq!(refused(put(&store, "a/b", "123").await, "a/b"), (8, 3, 10));
    put(&store, "a", "12345").await.unwrap();
    assert_eq!(refused(put(&store, "a/c", "123").await, "a"), (13, 3, 15));
    put(&store, "b", "123456").await.unwrap();
    assert_eq!(refused(put(&store, "c", "12").await, "**"), (19, 2, 20));
    put(&store, "c", "1").await.unwrap();
    are_right(&store).await;
}

pub async fn a_lower_quota_deletes_nothing(store: SharedStore) {
    needs!(store, write, quotas);
    let digest = put(&store, "a", "hello").await.unwrap();
    store.set_quotas(quota("a", 3)).unwrap();
    store.count_quotas().await.unwrap();
    assert_eq!(used(&store, "a").await.bytes, 5, "what was there before counts");
    assert_eq!(refused(put(&store, "a", "x").await, "a"), (5, 1, 3));
    assert_eq!(store.stat_blob(&repository("a"), &digest).await.unwrap(), 5);
    store.set_quotas(quota("a", 6)).unwrap();
    put(&store, "a", "x").await.unwrap();
    store.set_quotas(Default::default()).unwrap();
    put(&store, "a", "whatever").await.unwrap();
    assert_eq!(used(&store, "a").await.bytes, 14, "it is counted without a rule too");
    are_right(&store).await;
}

pub async fn deleted_content_makes_room(store: SharedStore) {
    needs!(store, write, delete, quotas);
    store.set_quotas(quota("team", 2000)).unwrap();
    let name = repository("team/a");
    let manifest = push_image(&store, &name, "x", &["t"]).await;
    let before = used(&store, "team").await;
    assert!(before.bytes > manifest.bytes().len() as u64);
    store.set_quotas(quota("team", before.bytes)).unwrap();
    refused(put(&store, "team/b", "y").await, "team");
    store.delete_manifest(&name, &by_digest(manifest.digest())).await.unwrap();
    refused(
        put(
            &store,
            "team/b",
            "a text that is longer than the manifest was, whose bytes alone are free".repeat(20).as_str(),
        )
        .await,
        "team",
    );
    let image = manifest.image().unwrap();
    for blob in image.layers.iter().chain([&image.config]) {
        store.delete_blob(&name, &blob.digest).await.unwrap();
    }
    assert_eq!(used(&store, "team").await, QuotaCounts::default());
    put(&store, "team/b", "y").await.unwrap();
    are_right(&store).await;
}

pub async fn each_first_component_has_its_own_quota(store: SharedStore) {
    needs!(store, write, quotas);
    put(&store, "old/app", "123").await.unwrap();
    let bytes = |bytes| QuotaLimits { bytes: Some(bytes), ..QuotaLimits::default() };
    store.set_quotas(quotas(&[("*", bytes(5)), ("big", bytes(10))])).unwrap();
    assert_eq!(refused(put(&store, "old", "4567").await, "old"), (3, 4, 5));
    put(&store, "new/app", "12345").await.unwrap();
    assert_eq!(refused(put(&store, "new", "6").await, "new"), (5, 1, 5));
    put(&store, "big/app", "1234567890").await.unwrap();
    assert_eq!(refused(put(&store, "big", "6").await, "big"), (10, 1, 10));
    are_right(&store).await;
}

pub async fn an_upload_without_room_is_refused_early(store: SharedStore) {
    needs!(store, write, quotas);
    store.set_quotas(quota("team", 5)).unwrap();
    let name = repository("team/a");
    let mut upload = store.start_upload(&name, UploadOptions::default()).await.unwrap();
    upload.append("12".into()).await.unwrap();
    assert_eq!(refused(upload.append("3456".into()).await, "team"), (0, 6, 5));
    put(&store, "team/b", "54321").await.unwrap();
    assert_eq!(
        refused(store.start_upload(&name, UploadOptions::default()).await.map(drop), "team"),
        (5, 0, 5)
    );
    // One of a blob that the repository has adds nothing.
    let digest = Digest::sha256("54321");
    let again = || UploadOptions { digest: Some(digest.clone()), ..UploadOptions::default() };
    let mut upload = store.start_upload(&repository("team/b"), again()).await.unwrap();
    upload.append("54321".into()).await.unwrap();
    upload.finish(&digest).await.unwrap();
    assert_eq!(refused(store.start_upload(&name, again()).await.map(drop), "team"), (5, 0, 5));
    store
        .start_upload(&repository("elsewhere"), UploadOptions::default())
        .await
        .unwrap()
        .abort()
        .await
        .unwrap();
}

pub async fn many_tasks_do_not_pass_a_quota(store: SharedStore) {
    needs!(store, write, quotas);
    store.set_quotas(quota("team", 100)).unwrap();
    let pushes = (0..40).map(|number| {
        let store = store.clone();
        // Ten bytes each, and every second one is the same blob.
        let bytes = format!("{:010}", if number % 2 == 0 { 0 } else { number });
        tokio::spawn(async move { put(&store, &format!("team/{number}"), &bytes).await })
    });
    let mut stored = 0;
    for (number, push) in pushes.collect::<Vec<_>>().into_iter().enumerate() {
        match push.await.unwrap() {
            Ok(_) => stored += u64::from(number % 2 == 1),
            Err(error) => assert!(is_quota_exceeded(&error), "{error}"),
        }
        assert!(used(&store, "team").await.bytes <= 100);
    }
    assert!((9..=10).contains(&stored), "{stored} different blobs beside the shared one fit");
    assert_eq!(used(&store, "team").await.bytes, 100);
    are_right(&store).await;
}

pub async fn the_counts_of_a_namespace_are_right(store: SharedStore) {
    needs!(store, write, delete, quotas);
    push_image(&store, &repository("team/a"), "x", &["1", "2"]).await;
    store.set_quotas(quota("team", 1 << 20)).unwrap();
    let manifest = push_image(&store, &repository("team/b"), "x", &["1"]).await;
    push_image(&store, &repository("team/b"), "y", &["1", "3"]).await;
    let missing = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
           {{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":3}}]}}"#,
        Digest::sha256("missing")
    );
    let before = used(&store, "team").await;
    let put = PutManifest::new(parse(missing), [tag("4")]);
    store.put_manifest(&repository("team/a"), put).await.unwrap_err();
    assert_eq!(used(&store, "team").await, before, "a rejected manifest is not counted");
    store.delete_manifest(&repository("team/b"), &by_digest(manifest.digest())).await.unwrap();
    store.delete_manifest(&repository("team/a"), &by_tag("9")).await.unwrap_err();
    let after = used(&store, "team").await;
    assert_eq!((before.manifests - after.manifests, before.tags - after.tags), (1, 0));
    assert_eq!(before.bytes, after.bytes, "the other repository still has the manifest");
    are_right(&store).await;
    for check in store.check_quotas(true).await.unwrap() {
        assert!(check.is_right(), "{check:?}");
    }
}
