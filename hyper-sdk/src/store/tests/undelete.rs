//! Undeletion on stores of the SDK whose clock a test turns: what a collector keeps until the window ends, and what comes back.

use super::clocked::{self, stores};
use super::retention::{HOUR, name, rules, tag, tags};
use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::{ManifestReference, RepositoryName};
use crate::store::blob::BlobKey;
#[cfg(feature = "store-postgres")]
use crate::store::blob::MemoryBlobs;
use crate::store::errors::is_quota_exceeded;
use crate::store::meta::{Change, MetaBackend as _};
use crate::store::{
    CollectOptions, Collected, EventKind, EventRules, EventStart, PutManifest, QuotaCounts, QuotaLimits,
    QuotaNamespace, QuotaRule, QuotaRules, RegistryStore, RegistryStoreExt as _, TagGuard, Undelete,
};
use crate::{Digest, Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

const DAY: i64 = 24 * HOUR;
const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Pushes an image with a config and a layer of its own.
async fn push_image(store: &dyn RegistryStore, at: &RepositoryName, text: &str, tags: &[&str]) -> Manifest {
    let config = store.put_bytes(at, media_type::OCI_CONFIG, format!("config {text}").into()).await.unwrap();
    let layer = store.put_bytes(at, media_type::OCI_LAYER, format!("layer {text}").into()).await.unwrap();
    let manifest = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes()).unwrap();
    push(store, at, &manifest, tags).await;
    manifest
}

async fn push(store: &dyn RegistryStore, at: &RepositoryName, manifest: &Manifest, tags: &[&str]) {
    let put = PutManifest::new(manifest.clone(), tags.iter().map(|text| tag(text)));
    store.put_manifest(at, put).await.unwrap();
}

fn by_digest(manifest: &Manifest) -> ManifestReference {
    ManifestReference::Digest(manifest.digest().clone())
}

async fn delete(store: &dyn RegistryStore, at: &RepositoryName, reference: impl Into<ManifestReference>) {
    store.delete_manifest(at, &reference.into()).await.unwrap();
}

/// Removes all that nothing keeps, as if all leases had ended and all manifests were old.
async fn collect(store: &dyn RegistryStore) -> Collected {
    let options = CollectOptions {
        untagged_until: Some(i64::MAX - 1),
        leases_until: Some(i64::MAX),
        ..CollectOptions::default()
    };
    let foreseen = store.collect(CollectOptions { dry_run: true, ..options.clone() }).await.unwrap();
    let collected = store.collect(options).await.unwrap();
    assert_eq!((foreseen.manifests > 0), (collected.manifests > 0), "{foreseen:?}, {collected:?}");
    collected
}

async fn is_whole(store: &dyn RegistryStore, at: &RepositoryName, manifest: &Manifest) {
    assert_eq!(store.get_manifest(at, &by_digest(manifest)).await.unwrap(), *manifest);
    let image = manifest.image().unwrap();
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(store.read_blob(at, &blob.digest, 1000).await.unwrap().len() as u64, blob.size);
    }
}

#[track_caller]
fn not_kept(result: crate::Result<Descriptor>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ManifestUnknown, "{error}");
}

#[tokio::test]
async fn what_is_deleted_comes_back_until_the_window_ends_and_is_garbage_then() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a window of undeletion", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let one = push_image(&*store, &app, "one", &["v1", "latest"]).await;
        let two = push_image(&*store, &app, "two", &["v2"]).await;
        let three = push_image(&*store, &app, "three", &["moves"]).await;
        let four = push_image(&*store, &app, "four", &["moves"]).await;
        delete(&*store, &app, by_digest(&one)).await;
        delete(&*store, &app, tag("v2")).await;
        turn(6 * DAY);
        assert_eq!(collect(&*store).await, Collected::default());
        for gone in [by_digest(&one), tag("v1").into(), tag("v2").into()] {
            let error = store.get_manifest(&app, &gone).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ManifestUnknown);
        }
        assert_eq!(tags(&*store, &app).await, ["moves"]);
        store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
        store.undelete(&app, Undelete::new(tag("v2"))).await.unwrap();
        assert_eq!(tags(&*store, &app).await, ["moves", "v1", "v2"]);
        for manifest in [&one, &two, &four] {
            is_whole(&*store, &app, manifest).await;
        }
        // What is back is deleted again, and has a window of its own.
        delete(&*store, &app, by_digest(&one)).await;
        turn(2 * DAY);
        not_kept(store.undelete(&app, Undelete::new(tag("moves"))).await);
        assert_eq!(collect(&*store).await.manifests, 1, "the one that a tag has lost 8 days ago");
        let error = store.get_manifest(&app, &by_digest(&three)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ManifestUnknown);
        turn(5 * DAY - 60);
        assert_eq!(collect(&*store).await, Collected::default());
        turn(120);
        assert_eq!(store.list_deletions(None, 0, 100).await.unwrap().items, []);
        not_kept(store.undelete(&app, Undelete::new(tag("v1"))).await);
        not_kept(store.undelete(&app, Undelete::new(one.digest().clone())).await);
        let collected = collect(&*store).await;
        assert_eq!((collected.manifests, collected.links, collected.blobs), (0, 2, 2));
        assert_eq!(collect(&*store).await, Collected::default());
        for manifest in [&two, &four] {
            is_whole(&*store, &app, manifest).await;
        }
    }
}

/// Nothing is left of a repository that is emptied.
#[tokio::test]
async fn an_emptied_repository_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("an emptied repository", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        for text in ["one", "two", "three"] {
            let manifest = push_image(&*store, &app, text, &[text]).await;
            delete(&*store, &app, by_digest(&manifest)).await;
        }
        assert!(store.list_repositories(crate::store::Page::default()).await.unwrap().items.is_empty());
        assert_eq!(collect(&*store).await, Collected::default());
        assert_eq!(store.list_deletions(Some(&app), 0, 100).await.unwrap().items.len(), 6);
        turn(7 * DAY + 60);
        let collected = collect(&*store).await;
        assert_eq!((collected.links, collected.blobs), (6, 6));
        assert_eq!(store.list_deletions(None, 0, 100).await.unwrap().items, []);
        let mut digests = Vec::new();
        for text in ["config one", "layer three"] {
            digests.push(store.stat_blob(&app, &Digest::sha256(text)).await.unwrap_err().kind());
        }
        assert_eq!(digests, [ErrorKind::BlobUnknown; 2]);
    }
}

#[tokio::test]
async fn an_index_comes_with_its_entries() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("an index that is undeleted", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let one = push_image(&*store, &app, "amd64", &[]).await;
        let two = push_image(&*store, &app, "arm64", &[]).await;
        let inner = Manifest::sniff(ImageIndex::new(vec![two.descriptor()]).to_bytes()).unwrap();
        push(&*store, &app, &inner, &[]).await;
        let entries = vec![two.descriptor(), one.descriptor(), inner.descriptor()];
        let index = Manifest::sniff(ImageIndex::new(entries).to_bytes()).unwrap();
        push(&*store, &app, &index, &["v1"]).await;
        for manifest in [&index, &one, &inner, &two] {
            delete(&*store, &app, by_digest(manifest)).await;
        }
        turn(6 * DAY);
        assert_eq!(collect(&*store).await, Collected::default());
        store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
        assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), index);
        assert_eq!(store.get_manifest(&app, &by_digest(&inner)).await.unwrap(), inner);
        turn(30 * DAY);
        assert_eq!(collect(&*store).await, Collected::default());
        for manifest in [&one, &two] {
            is_whole(&*store, &app, manifest).await;
        }
        // Only an entry was deleted, and the index has lost its tag.
        delete(&*store, &app, tag("v1")).await;
        delete(&*store, &app, by_digest(&one)).await;
        store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
        is_whole(&*store, &app, &one).await;
    }
}

#[tokio::test]
async fn a_refused_undeletion_brings_no_entry_back() {
    let folder = tempfile::tempdir().unwrap();
    for (store, _) in stores("an undeletion that is refused", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let entry = push_image(&*store, &app, "entry", &[]).await;
        let index = Manifest::sniff(ImageIndex::new(vec![entry.descriptor()]).to_bytes()).unwrap();
        push(&*store, &app, &index, &["v1"]).await;
        for manifest in [&index, &entry] {
            delete(&*store, &app, by_digest(manifest)).await;
        }
        push_image(&*store, &app, "other", &["v1"]).await;
        let before = store.list_deletions(None, 0, 100).await.unwrap().items;
        let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        let guard = Some(TagGuard::new(|_, _| Err(Error::new(ErrorKind::Denied, "it is immutable"))));
        let replaces = Undelete { replaces: true, guard, ..Undelete::new(tag("v1")) };
        assert_eq!(store.undelete(&app, replaces).await.unwrap_err().kind(), ErrorKind::Denied);
        for manifest in [&index, &entry] {
            let gone = store.get_manifest(&app, &by_digest(manifest)).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::ManifestUnknown, "{gone}");
        }
        assert_eq!(store.list_deletions(None, 0, 100).await.unwrap().items, before);
    }
}

#[tokio::test]
async fn a_tag_that_exists_again_is_replaced_with_consent_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a tag that exists again", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let one = push_image(&*store, &app, "one", &["v1"]).await;
        turn(60);
        let two = push_image(&*store, &app, "two", &["v1"]).await;
        let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), two);
        let immutable = TagGuard::new(|_, _| Err(Error::new(ErrorKind::Denied, "it is immutable")));
        let asks = Undelete { replaces: true, guard: Some(immutable), ..Undelete::new(tag("v1")) };
        let refused = store.undelete(&app, asks).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), two);
        let undone = Undelete { replaces: true, ..Undelete::new(tag("v1")) };
        let back = store.undelete(&app, undone.clone()).await.unwrap();
        assert_eq!(back.digest, *one.digest());
        assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), one);
        turn(60);
        // And back again: the other one was lost meanwhile.
        store.undelete(&app, undone).await.unwrap();
        assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), two);
        not_kept(store.undelete(&app, Undelete::new(tag("absent"))).await);
        not_kept(store.undelete(&name("absent"), Undelete::new(tag("v1"))).await);
        not_kept(store.undelete(&app, Undelete::new(two.digest().clone())).await);
    }
}

#[tokio::test]
async fn retention_can_be_undone() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("retention that is undone", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let old = push_image(&*store, &app, "old", &["old"]).await;
        turn(HOUR);
        push_image(&*store, &app, "new", &["new"]).await;
        assert_eq!(store.retain(rules(Some(1), None)).await.unwrap().removed, 1);
        turn(6 * DAY);
        assert_eq!(collect(&*store).await, Collected::default());
        store.undelete(&app, Undelete::new(tag("old"))).await.unwrap();
        assert_eq!(tags(&*store, &app).await, ["new", "old"]);
        is_whole(&*store, &app, &old).await;
        // It counts as pushed now.
        assert_eq!(store.retain(rules(Some(1), None)).await.unwrap().removed, 1);
        assert_eq!(tags(&*store, &app).await, ["old"]);
    }
}

#[tokio::test]
async fn what_is_purged_is_garbage_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for (store, _) in stores("a purge", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let secret = push_image(&*store, &app, "secret", &["v1", "v2"]).await;
        let lost = push_image(&*store, &app, "lost", &["v2"]).await;
        let live = store.purge_deleted(&app, secret.digest()).await.unwrap_err();
        assert_eq!(live.kind(), ErrorKind::Conflict, "{live}");
        delete(&*store, &app, by_digest(&secret)).await;
        store.purge_deleted(&app, secret.digest()).await.unwrap();
        let again = store.purge_deleted(&app, secret.digest()).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::ManifestUnknown, "{again}");
        for reference in [tag("v1").into(), tag("v2").into(), by_digest(&secret)] {
            not_kept(store.undelete(&app, Undelete { replaces: true, ..Undelete::new(reference) }).await);
        }
        let collected = collect(&*store).await;
        assert_eq!((collected.links, collected.blobs), (2, 2));
        is_whole(&*store, &app, &lost).await;
    }
}

fn team_limits(limits: QuotaLimits) -> Arc<QuotaRules> {
    let rule = QuotaRule { namespace: QuotaNamespace::parse("team").unwrap(), limits };
    Arc::new(QuotaRules::new(vec![rule]).unwrap())
}

async fn are_right(store: &dyn RegistryStore) {
    for check in store.check_quotas(false).await.unwrap() {
        assert!(check.is_right(), "{check:?}");
    }
}

/// What is kept counts as long as it is kept: only the tags are gone at once.
#[tokio::test]
async fn quotas_count_what_is_kept_and_hold_for_what_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("quotas and undeletion", folder.path()).await {
        let app = name("team/app");
        let limits = QuotaLimits { bytes: Some(100_000), tags: Some(1), manifests: Some(2) };
        store.set_quotas(team_limits(limits)).unwrap();
        store.count_quotas().await.unwrap();
        store.set_undelete_window(WINDOW).unwrap();
        let used = async || store.quota_use().await.unwrap()[0].used.unwrap();
        let one = push_image(&*store, &app, "one", &["v1"]).await;
        let whole = used().await;
        delete(&*store, &app, by_digest(&one)).await;
        assert_eq!(used().await, QuotaCounts { tags: 0, ..whole });
        assert_eq!(collect(&*store).await, Collected::default());
        assert_eq!(used().await, QuotaCounts { tags: 0, ..whole });
        let two = push_image(&*store, &app, "two", &["v2"]).await;
        let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
        assert!(is_quota_exceeded(&refused), "the tag: {refused}");
        delete(&*store, &app, by_digest(&two)).await;
        let both = used().await;
        let third = Manifest::sniff(ImageIndex::new(vec![]).to_bytes()).unwrap();
        let refused = store.put_manifest(&app, PutManifest::new(third, [])).await.unwrap_err();
        assert!(is_quota_exceeded(&refused), "two manifests are kept: {refused}");
        // Nothing is added by what comes back, also when all is used.
        let full = QuotaLimits { bytes: Some(both.bytes), ..limits };
        store.set_quotas(team_limits(full)).unwrap();
        store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
        assert_eq!(used().await, QuotaCounts { tags: 1, ..both });
        are_right(&*store).await;
        turn(8 * DAY);
        assert_eq!(used().await, QuotaCounts { tags: 1, ..both }, "until it is collected");
        collect(&*store).await;
        assert_eq!(used().await, whole);
        are_right(&*store).await;
    }
}

/// Pushes and deletions of large manifests do not fill a disk: a purge makes room.
#[tokio::test]
async fn pushes_and_deletions_stay_within_a_quota() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a quota of pushes and deletions", folder.path()).await {
        let app = name("team/app");
        let limits = QuotaLimits { bytes: Some(100_000), tags: None, manifests: None };
        store.set_quotas(team_limits(limits)).unwrap();
        store.set_undelete_window(WINDOW).unwrap();
        let large = |number: usize| {
            let mut index = ImageIndex::new(vec![]);
            index.annotations.insert("text".to_owned(), format!("{number:010000}"));
            Manifest::sniff(index.to_bytes()).unwrap()
        };
        let mut kept = 0;
        let refused = loop {
            match store.put_manifest(&app, PutManifest::new(large(kept), [tag("v1")])).await {
                Ok(_) => delete(&*store, &app, by_digest(&large(kept))).await,
                Err(e) => break e,
            }
            kept += 1;
            assert!(kept < 20, "nothing counts");
        };
        assert!(is_quota_exceeded(&refused) && kept == 9, "{kept}: {refused}");
        // Also a push of the same again adds nothing.
        push(&*store, &app, &large(0), &["v1"]).await;
        delete(&*store, &app, by_digest(&large(0))).await;
        store.put_manifest(&app, PutManifest::new(large(9), [])).await.unwrap_err();
        store.purge_deleted(&app, large(3).digest()).await.unwrap();
        push(&*store, &app, &large(9), &["v1"]).await;
        are_right(&*store).await;
        turn(8 * DAY);
        collect(&*store).await;
        let used = store.quota_use().await.unwrap()[0].used.unwrap();
        assert_eq!((used.manifests, used.bytes), (1, large(9).bytes().len() as u64));
        are_right(&*store).await;
    }
}

/// A tag that is pushed and deleted again and again fills no database: the oldest go.
#[tokio::test]
async fn a_repository_keeps_the_last_deletions_of_its_tags() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("many deletions of tags", folder.path()).await {
        let app = name("team/app");
        let index = Manifest::sniff(ImageIndex::new(vec![]).to_bytes()).unwrap();
        for round in 0..2 {
            let tags: Vec<String> = (0..5_100).map(|number| format!("t{round}-{number}")).collect();
            store.set_undelete_window(Duration::ZERO).unwrap();
            push(&*store, &app, &index, &tags.iter().map(String::as_str).collect::<Vec<_>>()).await;
            store.set_undelete_window(WINDOW).unwrap();
            delete(&*store, &app, by_digest(&index)).await;
            turn(60);
        }
        push(&*store, &app, &index, &["last"]).await;
        delete(&*store, &app, by_digest(&index)).await;
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let page = store.list_deletions(None, after, 1000).await.unwrap();
            found.extend(page.items.iter().map(|one| one.reference.to_string()));
            match page.items.last().filter(|_| page.more) {
                Some(last) => after = last.number,
                None => break,
            }
        }
        assert!((10_001..10_066).contains(&found.len()), "{}", found.len());
        for stays in ["last", "t1-0", "t1-5099", index.digest().as_str()] {
            assert!(found.iter().any(|one| one == stays), "{stays}");
        }
        store.undelete(&app, Undelete::new(tag("last"))).await.unwrap();
    }
}

/// Each deletion has the window of its time.
#[tokio::test]
async fn a_window_that_is_turned_off_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("a window that is turned off", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let one = push_image(&*store, &app, "one", &["v1"]).await;
        delete(&*store, &app, by_digest(&one)).await;
        store.set_undelete_window(Duration::ZERO).unwrap();
        let two = push_image(&*store, &app, "two", &["v2"]).await;
        delete(&*store, &app, by_digest(&two)).await;
        turn(3 * DAY);
        assert_eq!(collect(&*store).await.blobs, 2);
        not_kept(store.undelete(&app, Undelete::new(tag("v2"))).await);
        store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
        is_whole(&*store, &app, &one).await;
    }
}

/// An entry that was deleted earlier has a window of its own, and the index does not come back without it.
#[tokio::test]
async fn an_entry_that_was_deleted_earlier_ends_earlier() {
    let folder = tempfile::tempdir().unwrap();
    for (store, turn) in stores("an entry that ends earlier", folder.path()).await {
        let app = name("team/app");
        store.set_undelete_window(WINDOW).unwrap();
        let entry = push_image(&*store, &app, "entry", &[]).await;
        let other = push_image(&*store, &app, "other", &[]).await;
        let entries = vec![other.descriptor(), entry.descriptor()];
        let index = Manifest::sniff(ImageIndex::new(entries).to_bytes()).unwrap();
        push(&*store, &app, &index, &["v1"]).await;
        delete(&*store, &app, by_digest(&entry)).await;
        turn(4 * DAY);
        delete(&*store, &app, by_digest(&index)).await;
        delete(&*store, &app, by_digest(&other)).await;
        turn(2 * DAY);
        assert_eq!(collect(&*store).await, Collected::default());
        turn(2 * DAY);
        assert_eq!(collect(&*store).await.blobs, 2);
        let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ManifestBlobUnknown, "{refused}");
        // Nothing came back, and a push of what is missing mends it.
        store.get_manifest(&app, &by_digest(&other)).await.unwrap_err();
        assert_eq!(store.list_deletions(None, 0, 100).await.unwrap().items.len(), 3);
        push_image(&*store, &app, "entry", &[]).await;
        store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
        assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), index);
        is_whole(&*store, &app, &other).await;
    }
}

/// An index that names one entry many times is as cheap as one that names it once, and one of too many is refused.
#[tokio::test]
async fn an_index_of_very_many_entries_is_refused() {
    let (store, _) = clocked::memory();
    let app = name("team/app");
    store.set_undelete_window(WINDOW).unwrap();
    let entry = push_image(&store, &app, "entry", &[]).await;
    let many = vec![entry.descriptor(); 30_000];
    let index = Manifest::sniff(ImageIndex::new(many).to_bytes()).unwrap();
    push(&store, &app, &index, &["v1"]).await;
    delete(&store, &app, by_digest(&index)).await;
    delete(&store, &app, by_digest(&entry)).await;
    store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
    is_whole(&store, &app, &entry).await;
    let absent =
        (0..30_000).map(|number| Descriptor::of(media_type::OCI_MANIFEST, number.to_string().as_bytes()));
    let index = Manifest::sniff(ImageIndex::new(absent.collect()).to_bytes()).unwrap();
    let put = PutManifest { sparse: true, ..PutManifest::new(index.clone(), []) };
    store.put_manifest(&app, put).await.unwrap();
    delete(&store, &app, by_digest(&index)).await;
    let refused = store.undelete(&app, Undelete::new(index.digest().clone())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
}

/// The entries of one undeletion are few enough for one transaction; the others come back by their digests.
#[tokio::test]
async fn the_entries_that_come_back_together_are_limited() {
    let (store, _) = clocked::memory();
    let app = name("team/app");
    store.set_undelete_window(WINDOW).unwrap();
    let mut entries = Vec::new();
    for number in 0..1_001 {
        let mut entry = ImageIndex::new(vec![]);
        entry.annotations.insert("number".to_owned(), number.to_string());
        entries.push(Manifest::sniff(entry.to_bytes()).unwrap());
        push(&store, &app, &entries[number], &[]).await;
    }
    let all = entries.iter().map(Manifest::descriptor).collect();
    let index = Manifest::sniff(ImageIndex::new(all).to_bytes()).unwrap();
    push(&store, &app, &index, &["v1"]).await;
    for manifest in entries.iter().chain([&index]) {
        delete(&store, &app, by_digest(manifest)).await;
    }
    let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    store.undelete(&app, Undelete::new(entries[0].digest().clone())).await.unwrap();
    store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
    for manifest in [&entries[1_000], &index] {
        assert_eq!(store.get_manifest(&app, &by_digest(manifest)).await.unwrap(), *manifest);
    }
}

/// A blob that is damaged is missing.
#[tokio::test]
async fn an_image_with_a_damaged_blob_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = clocked::sqlite(folder.path()).await;
    let app = name("team/app");
    store.set_undelete_window(WINDOW).unwrap();
    let one = push_image(&store, &app, "one", &["v1"]).await;
    delete(&store, &app, by_digest(&one)).await;
    let digest = Digest::sha256("layer one");
    let change = Change::QuarantineBlob { digest: digest.clone(), key: BlobKey::Digest(digest) };
    assert_eq!(store.meta().write(change).await.unwrap(), 1);
    let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ManifestBlobUnknown, "{refused}");
    assert_eq!(tags(&store, &app).await, [""; 0]);
}

/// A blob that was deleted by itself is not kept.
#[tokio::test]
async fn an_image_without_its_layer_comes_back_with_consent_alone() {
    let (store, _) = clocked::memory();
    let app = name("team/app");
    store.set_undelete_window(WINDOW).unwrap();
    let one = push_image(&store, &app, "one", &["v1"]).await;
    delete(&store, &app, by_digest(&one)).await;
    store.delete_blob(&app, &Digest::sha256("layer one")).await.unwrap();
    let refused = store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ManifestBlobUnknown, "{refused}");
    assert_eq!(tags(&store, &app).await, [""; 0]);
    store.undelete(&app, Undelete { sparse: true, ..Undelete::new(tag("v1")) }).await.unwrap();
    assert_eq!(store.get_manifest(&app, &tag("v1").into()).await.unwrap(), one);
}

#[tokio::test]
async fn an_undeletion_has_the_events_of_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = clocked::sqlite(folder.path()).await;
    let app = name("team/app");
    store.set_undelete_window(WINDOW).unwrap();
    let one = push_image(&store, &app, "one", &["v1"]).await;
    delete(&store, &app, by_digest(&one)).await;
    let log = store.event_log().unwrap();
    log.record(Some(EventRules::default()));
    store.undelete(&app, Undelete::new(tag("v1"))).await.unwrap();
    let events = log.read(&EventStart::Oldest, 100).await.unwrap().events;
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::RepositoryCreated, EventKind::ManifestPushed, EventKind::TagCreated]);
    assert!(events.iter().all(|event| event.by.origin.as_deref() == Some("undelete")), "{events:?}");
}

/// One server deletes with a window, another one without collects and undeletes.
#[cfg(feature = "store-postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_one_database_keep_what_one_of_them_has_deleted() {
    let Some(server) = super::postgres::server("undeletion by two servers") else { return };
    let url = server.url("undeletion by two servers");
    let blobs = MemoryBlobs::default();
    let [one, two] = [super::postgres::connect(&url).await, super::postgres::connect(&url).await]
        .map(|meta| crate::store::Composed::new(blobs.clone(), meta));
    let app = name("team/app");
    one.set_undelete_window(WINDOW).unwrap();
    let manifest = push_image(&one, &app, "one", &["v1"]).await;
    delete(&one, &app, by_digest(&manifest)).await;
    assert_eq!(collect(&two).await, Collected::default());
    // Undeletions at once, and a collection beside them.
    let both = tokio::join!(
        one.undelete(&app, Undelete::new(tag("v1"))),
        two.undelete(&app, Undelete::new(tag("v1"))),
        collect(&two),
    );
    assert!(both.0.is_ok() || both.1.is_ok(), "{both:?}");
    for late in [&both.0, &both.1].into_iter().filter_map(|one| one.as_ref().err()) {
        assert!(matches!(late.kind(), ErrorKind::Conflict | ErrorKind::ManifestUnknown), "{late}");
    }
    is_whole(&two, &app, &manifest).await;
    assert_eq!(tags(&two, &app).await, ["v1"]);
    // This one has no window.
    delete(&two, &app, by_digest(&manifest)).await;
    not_kept(one.undelete(&app, Undelete::new(tag("v1"))).await);
}
