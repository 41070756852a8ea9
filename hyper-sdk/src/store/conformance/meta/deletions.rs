//! Cases about what was deleted, and is kept until its window ends.

use super::MetaOpener;
use super::kit::*;
use crate::oci::{Descriptor, ImageIndex, Manifest};
use crate::reference::{ManifestReference, RepositoryName};
use crate::store::conformance::kit::quotas;
use crate::store::errors::is_quota_exceeded;
use crate::store::meta::{Change, Deletion, Edge, EdgeKind, ManifestChange, MetaBackend};
use crate::store::{DeleteTarget, QuotaCounts, QuotaLimits, TagGuard};
use crate::{Digest, ErrorKind};
use std::time::Duration;

const WINDOW: i64 = 3600;

async fn delete(meta: &dyn MetaBackend, name: &RepositoryName, manifest: &Manifest) {
    let digest = manifest.digest().clone();
    meta.write(Change::DeleteManifest { repository: name.clone(), digest }).await.unwrap();
}

async fn delete_tag(meta: &dyn MetaBackend, name: &RepositoryName, text: &str) {
    meta.write(Change::DeleteTag { repository: name.clone(), tag: tag(text) }).await.unwrap();
}

async fn purge(meta: &dyn MetaBackend, name: &RepositoryName, manifest: &Manifest) -> u64 {
    let digest = manifest.digest().clone();
    meta.write(Change::PurgeDeleted { repository: name.clone(), digest }).await.unwrap()
}

async fn all(meta: &dyn MetaBackend, name: Option<&RepositoryName>) -> Vec<Deletion> {
    meta.deletions(name, 0, 1000).await.unwrap().items
}

/// What is in the list, in the order of the names.
async fn names(meta: &dyn MetaBackend) -> Vec<String> {
    let mut names: Vec<String> = all(meta, None)
        .await
        .iter()
        .map(|one| match &one.reference {
            ManifestReference::Digest(digest) if *digest == one.digest => {
                format!("{} itself", one.repository)
            }
            reference => format!("{}:{reference}", one.repository),
        })
        .collect();
    names.sort();
    names
}

/// The manifests that a collector would remove.
async fn unkept(meta: &dyn MetaBackend) -> Vec<Digest> {
    let unkept = meta.unkept_manifests(i64::MAX - 1, None, 1000).await.unwrap();
    unkept.into_iter().map(|unkept| unkept.at.digest).collect()
}

fn undeletes(name: &RepositoryName, manifest: &Manifest, tags: &[&str]) -> Change {
    let change = ManifestChange { undeletes: true, ..change(name, manifest, vec![], tags) };
    Change::PutManifest(Box::new(change))
}

/// An index, and the edges to its entries.
fn index_of(manifests: &[&Manifest]) -> (Manifest, Vec<Edge>) {
    let index = ImageIndex::new(manifests.iter().map(|manifest| manifest.descriptor()).collect());
    let edge = |manifest: &&Manifest| Edge {
        kind: EdgeKind::Entry,
        digest: manifest.digest().clone(),
        required: true,
        size: manifest.bytes().len() as u64,
        stored: None,
        field: "manifests[0]".to_owned(),
    };
    (Manifest::sniff(index.to_bytes()).unwrap(), manifests.iter().map(edge).collect())
}

pub async fn what_is_deleted_is_kept_for_the_window(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let [one, two, three, four] = ["1", "2", "3", "4"].map(index);
    meta.set_undelete_window(WINDOW).unwrap();
    put(&**meta, &a, &one, &["v1", "also"]).await.unwrap();
    put(&**meta, &a, &two, &["v2", "stays"]).await.unwrap();
    put(&**meta, &b, &three, &["v3", "expires"]).await.unwrap();
    put(&**meta, &b, &four, &["guarded"]).await.unwrap();
    assert_eq!(names(&**meta).await, [""; 0]);
    delete(&**meta, &a, &one).await;
    delete_tag(&**meta, &a, "v2").await;
    put(&**meta, &b, &two, &["v3"]).await.unwrap();
    let record = meta.tag_records(&b, None, 1).await.unwrap().unwrap().items.remove(0);
    let judged_at = meta.fetch_time().await.unwrap();
    let expire = Change::ExpireTag { repository: b.clone(), record, judged_at, unpulled_since: None };
    assert_eq!(meta.write(expire).await.unwrap(), 1);
    let target = DeleteTarget::Manifest(by_digest(four.digest()));
    let guard = TagGuard::new(|_, _| Ok(()));
    meta.write(Change::DeleteGuarded { repository: b.clone(), target, guard }).await.unwrap();
    let expected = ["a itself", "a:also", "a:v1", "a:v2", "b itself", "b:expires", "b:guarded", "b:v3"];
    assert_eq!(names(&**meta).await, expected);
    for deletion in all(&**meta, Some(&a)).await {
        assert_eq!(deletion.kept_until, deletion.deleted_at + WINDOW);
        assert!((deletion.deleted_at - judged_at).abs() < 60, "{deletion:?}");
    }
    // Nothing of it can be read.
    for reference in [by_tag("v1"), by_digest(one.digest()), by_tag("v2")] {
        assert_eq!(meta.manifest(&a, &reference).await.unwrap(), None);
    }
    assert_eq!(tags(&**meta, &a).await, ["stays"]);
    assert_eq!(meta.deleted_manifest(&a, one.digest()).await.unwrap(), Some(one.clone()));
    assert_eq!(meta.deleted_manifest(&b, one.digest()).await.unwrap(), None, "not there");
    assert_eq!(meta.deleted_manifest(&a, two.digest()).await.unwrap(), None, "it is there");
    assert_eq!(meta.deletion_of(&b, &tag("v3")).await.unwrap().unwrap().digest, *three.digest());
    assert_eq!(meta.deletion_of(&a, &tag("v3")).await.unwrap(), None);
    // The last one is told, and none when it names the same again.
    put(&**meta, &a, &three, &["v2"]).await.unwrap();
    delete_tag(&**meta, &a, "v2").await;
    let last = meta.deletion_of(&a, &tag("v2")).await.unwrap().unwrap();
    assert_eq!(last.digest, *three.digest());
    put(&**meta, &a, &three, &["v2"]).await.unwrap();
    assert_eq!(meta.deletion_of(&a, &tag("v2")).await.unwrap().unwrap().digest, *two.digest());
    // A push of what is there loses nothing.
    put(&**meta, &a, &three, &["v2"]).await.unwrap();
    assert_eq!(all(&**meta, Some(&a)).await.len(), 4);
    assert_eq!(meta.write(Change::ForgetDeletions).await.unwrap(), 0, "no window has ended");
    assert_eq!(all(&**meta, Some(&a)).await.len(), 4);
}

/// A window ends by the clock of the backend, and what was kept is garbage then.
pub async fn what_was_kept_is_garbage_when_its_window_has_ended(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [stays, lost] = ["stays", "lost"].map(index);
    meta.set_undelete_window(WINDOW).unwrap();
    put(&**meta, &a, &stays, &["v1"]).await.unwrap();
    delete(&**meta, &a, &stays).await;
    let (stay, unforgotten) = (["a itself", "a:v1"], meta.write(Change::ForgetDeletions).await.unwrap());
    assert_eq!((names(&**meta).await, unforgotten), (stay.map(str::to_owned).to_vec(), 0));
    meta.set_undelete_window(1).unwrap();
    let image = put_image(&**meta, &a, ("config", "layer"), &["v2"]).await;
    put(&**meta, &a, &lost, &["v3"]).await.unwrap();
    delete(&**meta, &a, &image).await;
    delete_tag(&**meta, &a, "v3").await;
    let end = meta.fetch_time().await.unwrap() + 1;
    while meta.fetch_time().await.unwrap() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(names(&**meta).await, stay);
    assert_eq!(meta.deleted_manifest(&a, image.digest()).await.unwrap(), None);
    for text in ["v2", "v3"] {
        assert_eq!(meta.deletion_of(&a, &tag(text)).await.unwrap(), None);
    }
    let refused = meta.write(undeletes(&a, &image, &["v2"])).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ManifestUnknown, "{refused}");
    assert_eq!(unkept(&**meta).await, [lost.digest().clone()]);
    let (repository, digest) = (a.clone(), lost.digest().clone());
    let change = Change::CollectManifest { repository, digest, before: i64::MAX - 1 };
    assert_eq!(meta.write(change).await.unwrap(), 1);
    assert_eq!(meta.unreferenced_links(LATER, None, 10).await.unwrap().len(), 2);
    for text in ["config", "layer"] {
        assert_eq!(meta.write(collect(&a, text, LATER)).await.unwrap(), 1);
    }
    let mut forgotten = 0;
    loop {
        match meta.write(Change::ForgetDeletions).await.unwrap() {
            0 => break,
            some => forgotten += some,
        }
    }
    assert_eq!(forgotten, 4, "the manifest, itself in the list, and two tags");
    assert_eq!(purge(&**meta, &a, &image).await, 0, "it is forgotten");
    assert_eq!(names(&**meta).await, stay);
    assert_eq!(meta.deleted_manifest(&a, stays.digest()).await.unwrap(), Some(stays));
}

/// What the only namespace uses.
async fn used(meta: &dyn MetaBackend) -> QuotaCounts {
    meta.quota_use().await.unwrap()[0].used.unwrap()
}

/// A deletion within a window makes room for its tags alone.
pub async fn quotas_count_what_is_kept(opener: MetaOpener) {
    let meta = opener.open().await;
    if !meta.has_quotas() {
        return;
    }
    let a = repository("a");
    let limits = QuotaLimits { manifests: Some(2), ..QuotaLimits::default() };
    meta.set_quotas(quotas(&[("a", limits)])).unwrap();
    let [one, two, three] = ["1", "2", "3"].map(index);
    meta.set_undelete_window(WINDOW).unwrap();
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    put(&**meta, &a, &two, &["v2"]).await.unwrap();
    let size = |manifest: &Manifest| manifest.bytes().len() as u64;
    let whole = QuotaCounts { bytes: size(&one) + size(&two), tags: 2, manifests: 2 };
    assert_eq!(used(&**meta).await, whole);
    delete(&**meta, &a, &one).await;
    assert_eq!(used(&**meta).await, QuotaCounts { tags: 1, ..whole });
    let refused = put(&**meta, &a, &three, &[]).await.unwrap_err();
    assert!(is_quota_exceeded(&refused), "{refused}");
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    assert_eq!(used(&**meta).await, whole, "it has counted all the time");
    delete(&**meta, &a, &one).await;
    purge(&**meta, &a, &one).await;
    assert_eq!(used(&**meta).await, QuotaCounts { bytes: size(&two), tags: 1, manifests: 1 });
    put(&**meta, &a, &three, &[]).await.unwrap();
    for check in meta.check_quotas(false).await.unwrap() {
        assert!(check.is_right(), "{check:?}");
    }
}

pub async fn without_a_window_nothing_is_kept(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let image = put_image(&**meta, &a, ("config", "layer"), &["v1", "v2"]).await;
    put(&**meta, &a, &index("1"), &["v2"]).await.unwrap();
    delete(&**meta, &a, &image).await;
    meta.set_undelete_window(WINDOW).unwrap();
    meta.set_undelete_window(0).unwrap();
    delete_tag(&**meta, &a, "v2").await;
    assert_eq!(names(&**meta).await, [""; 0]);
    assert_eq!(meta.deleted_manifest(&a, image.digest()).await.unwrap(), None);
    assert_eq!(meta.unreferenced_links(LATER, None, 10).await.unwrap().len(), 2);
    assert_eq!(unkept(&**meta).await.len(), 1);
    assert_eq!(purge(&**meta, &a, &image).await, 0);
}

pub async fn deletions_are_paged(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.set_undelete_window(WINDOW).unwrap();
    for number in 0..5 {
        let tag = format!("v{number}");
        put(&**meta, &a, &index(&tag), &[&tag]).await.unwrap();
        delete_tag(&**meta, &a, &tag).await;
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = meta.deletions(None, after, 2).await.unwrap();
        seen.extend(page.items.iter().map(|one| one.reference.to_string()));
        after = page.items.last().map_or(0, |one| one.number);
        if !page.more {
            break;
        }
        assert_eq!(page.items.len(), 2);
    }
    assert_eq!(seen, ["v0", "v1", "v2", "v3", "v4"]);
    assert!(meta.deletions(None, 0, 0).await.unwrap().items.is_empty());
}

pub async fn a_deleted_manifest_keeps_its_blobs(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.set_undelete_window(WINDOW).unwrap();
    let image = put_image(&**meta, &a, ("config", "layer"), &["v1"]).await;
    // Another repository has the same blobs, and its manifest was not deleted within a window.
    for text in ["config", "layer"] {
        meta.write(link(&b, text, 0)).await.unwrap();
    }
    delete(&**meta, &a, &image).await;
    let unreferenced = meta.unreferenced_links(LATER, None, 10).await.unwrap();
    assert!(
        unreferenced.iter().all(|link| link.repository == b) && unreferenced.len() == 2,
        "{unreferenced:?}"
    );
    assert_eq!(meta.write(collect(&a, "layer", LATER)).await.unwrap(), 0);
    assert_eq!(meta.write(collect(&a, "layer", i64::MAX)).await.unwrap(), 0, "whatever leases say");
    assert_eq!(meta.write(collect(&b, "layer", LATER)).await.unwrap(), 1);
    assert!(purge(&**meta, &a, &image).await > 0);
    assert_eq!(meta.write(collect(&a, "layer", LATER)).await.unwrap(), 1);
    assert_eq!(meta.write(collect(&a, "config", LATER)).await.unwrap(), 1);
}

pub async fn what_a_tag_has_lost_is_kept(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two, three] = ["1", "2", "3"].map(index);
    put(&**meta, &a, &three, &[]).await.unwrap();
    meta.set_undelete_window(WINDOW).unwrap();
    put(&**meta, &a, &one, &["moved"]).await.unwrap();
    put(&**meta, &a, &two, &["moved", "deleted"]).await.unwrap();
    put(&**meta, &a, &three, &["moved"]).await.unwrap();
    delete_tag(&**meta, &a, "deleted").await;
    assert_eq!(unkept(&**meta).await, []);
    for (manifest, goes) in [(&one, 0), (&two, 0)] {
        let change = Change::CollectManifest {
            repository: a.clone(),
            digest: manifest.digest().clone(),
            before: i64::MAX - 1,
        };
        assert_eq!(meta.write(change).await.unwrap(), goes);
    }
    let live = Change::PurgeDeleted { repository: a.clone(), digest: one.digest().clone() };
    assert_eq!(meta.write(live).await.unwrap_err().kind(), ErrorKind::Conflict, "it is there");
    assert_eq!(unkept(&**meta).await, [], "and still lost");
    meta.set_undelete_window(0).unwrap();
    delete(&**meta, &a, &one).await;
    put(&**meta, &a, &one, &[]).await.unwrap();
    assert_eq!(unkept(&**meta).await, [one.digest().clone()]);
    let change =
        Change::CollectManifest { repository: a.clone(), digest: one.digest().clone(), before: i64::MAX - 1 };
    assert_eq!(meta.write(change).await.unwrap(), 1);
    assert_eq!(meta.deleted_manifest(&a, one.digest()).await.unwrap(), None, "a collector keeps nothing");
}

pub async fn a_deleted_index_keeps_its_entries(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.set_undelete_window(WINDOW).unwrap();
    let entry = index("entry");
    let (index, edges) = index_of(&[&entry]);
    for name in [&a, &b] {
        put(&**meta, name, &entry, &[]).await.unwrap();
    }
    meta.write(Change::PutManifest(Box::new(change(&a, &index, edges, &["v1"])))).await.unwrap();
    assert_eq!(unkept(&**meta).await.len(), 1, "that of the other repository");
    delete(&**meta, &a, &index).await;
    assert_eq!(unkept(&**meta).await.len(), 1, "that of the other repository");
    purge(&**meta, &a, &index).await;
    assert_eq!(unkept(&**meta).await.len(), 2);
}

pub async fn a_deleted_subject_keeps_its_referrers(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.set_undelete_window(WINDOW).unwrap();
    let subject = index("subject");
    let mut referrer = ImageIndex::new(vec![]);
    referrer.subject = Some(Descriptor::new(subject.media_type(), subject.digest().clone(), 1));
    let referrer = Manifest::sniff(referrer.to_bytes()).unwrap();
    put(&**meta, &a, &subject, &["v1"]).await.unwrap();
    put(&**meta, &a, &referrer, &[]).await.unwrap();
    delete(&**meta, &a, &subject).await;
    assert_eq!(unkept(&**meta).await, []);
    purge(&**meta, &a, &subject).await;
    assert_eq!(unkept(&**meta).await, [referrer.digest().clone()]);
}

pub async fn only_what_was_deleted_is_undeleted(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, absent] = ["a", "absent"].map(repository);
    let [one, two] = ["1", "2"].map(index);
    meta.set_undelete_window(WINDOW).unwrap();
    put(&**meta, &a, &two, &[]).await.unwrap();
    for name in [&a, &absent] {
        let refused = meta.write(undeletes(name, &one, &["v1"])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ManifestUnknown, "{refused}");
    }
    assert_eq!(tags(&**meta, &a).await, [""; 0]);
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    delete(&**meta, &a, &one).await;
    delete(&**meta, &a, &two).await;
    assert!(meta.repositories(None, 10).await.unwrap().items.is_empty());
    meta.write(undeletes(&a, &one, &["v1"])).await.unwrap();
    assert_eq!(meta.manifest(&a, &by_tag("v1")).await.unwrap().as_ref(), Some(&one));
    assert_eq!(meta.repositories(None, 10).await.unwrap().items, std::slice::from_ref(&a));
    assert_eq!(names(&**meta).await, ["a itself"], "the other one");
    // A tag of what is there.
    meta.write(undeletes(&a, &one, &["v2"])).await.unwrap();
    assert_eq!(tags(&**meta, &a).await, ["v1", "v2"]);
    purge(&**meta, &a, &two).await;
    let refused = meta.write(undeletes(&a, &two, &["v1"])).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ManifestUnknown, "{refused}");
    assert_eq!(meta.manifest(&a, &by_tag("v1")).await.unwrap().as_ref(), Some(&one));
}

pub async fn a_push_ends_a_deletion(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let one = index("1");
    meta.set_undelete_window(WINDOW).unwrap();
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    delete(&**meta, &a, &one).await;
    put(&**meta, &a, &one, &[]).await.unwrap();
    assert_eq!(names(&**meta).await, ["a:v1"]);
    assert_eq!(meta.deleted_manifest(&a, one.digest()).await.unwrap(), None);
    delete(&**meta, &a, &one).await;
    assert_eq!(names(&**meta).await, ["a itself", "a:v1"]);
}

pub async fn what_is_purged_is_not_kept(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let [one, two] = ["1", "2"].map(index);
    meta.set_undelete_window(WINDOW).unwrap();
    for name in [&a, &b] {
        put(&**meta, name, &one, &["v1", "v2"]).await.unwrap();
        put(&**meta, name, &two, &["v2"]).await.unwrap();
        delete(&**meta, name, &one).await;
    }
    assert_eq!(purge(&**meta, &a, &one).await, 4, "the manifest, itself in the list, and two tags");
    assert_eq!(names(&**meta).await, ["b itself", "b:v1", "b:v2"]);
    assert_eq!(purge(&**meta, &a, &one).await, 0);
    assert_eq!(purge(&**meta, &repository("absent"), &one).await, 0);
    assert_eq!(meta.deleted_manifest(&a, one.digest()).await.unwrap(), None);
    assert_eq!(meta.deleted_manifest(&b, one.digest()).await.unwrap(), Some(one));
}

/// A manifest that is deleted for good, or for a shorter time, takes what tags have lost it with it.
pub async fn the_window_of_the_last_deletion_counts(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two] = ["1", "2"].map(index);
    for window in [0, WINDOW / 2] {
        meta.set_undelete_window(WINDOW).unwrap();
        put(&**meta, &a, &one, &["v1", "stays"]).await.unwrap();
        put(&**meta, &a, &two, &["v1"]).await.unwrap();
        assert_eq!(names(&**meta).await, ["a:v1"]);
        meta.set_undelete_window(window).unwrap();
        delete(&**meta, &a, &one).await;
        let left = all(&**meta, Some(&a)).await;
        assert_eq!(left.len(), if window == 0 { 0 } else { 3 }, "{left:?}");
        let now = meta.fetch_time().await.unwrap();
        assert!(left.iter().all(|one| one.kept_until <= now + window), "{left:?}");
        assert_eq!(meta.deleted_manifest(&a, one.digest()).await.unwrap().is_some(), window > 0);
    }
}

/// What a tag had last comes first, however fast it changes.
pub async fn the_last_loss_of_a_tag_is_the_one_that_is_told(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two] = ["1", "2"].map(index);
    meta.set_undelete_window(WINDOW).unwrap();
    for last in [&one, &two, &one] {
        for manifest in [&one, &two, last] {
            put(&**meta, &a, manifest, &["v1"]).await.unwrap();
        }
        delete_tag(&**meta, &a, "v1").await;
        assert_eq!(meta.deletion_of(&a, &tag("v1")).await.unwrap().unwrap().digest, *last.digest());
        assert_eq!(names(&**meta).await, ["a:v1", "a:v1"]);
        let newest = all(&**meta, None).await.pop().unwrap();
        assert_eq!(newest.digest, *last.digest(), "a page that goes on gets it");
    }
    // The same by the deletion of the manifest.
    for manifest in [&one, &two, &one] {
        put(&**meta, &a, manifest, &["v1"]).await.unwrap();
    }
    delete(&**meta, &a, &one).await;
    assert_eq!(meta.deletion_of(&a, &tag("v1")).await.unwrap().unwrap().digest, *one.digest());
}
