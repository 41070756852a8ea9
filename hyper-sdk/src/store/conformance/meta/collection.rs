//! Cases about garbage collection: leases, unreferenced links, blobs without a repository.

use super::MetaOpener;
use super::kit::*;
use crate::ErrorKind;
use crate::clock::{Clock as _, SystemClock};
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::RepositoryName;
use crate::store::blob::BlobKey;
use crate::store::errors::is_being_removed;
use crate::store::meta::{BlobLink, Change, EdgeKind, ManifestAt, MetaBackend, UnkeptManifest};

/// The links that can be collected, by repository and text.
async fn unreferenced(meta: &dyn MetaBackend, now: i64) -> Vec<BlobLink> {
    let mut links = meta.unreferenced_links(now, None, 100).await.unwrap();
    links.sort_by(|a, b| (&a.repository, &a.digest).cmp(&(&b.repository, &b.digest)));
    links
}

fn at(name: &RepositoryName, text: &str) -> BlobLink {
    BlobLink { repository: name.clone(), digest: digest(text) }
}

fn lease(name: &RepositoryName, text: &str, until: i64) -> Change {
    Change::LeaseBlob { repository: name.clone(), digest: digest(text), until }
}

async fn unlinked(meta: &dyn MetaBackend) -> Vec<crate::Digest> {
    meta.unlinked_blobs(None, 100).await.unwrap().into_iter().map(|record| record.digest).collect()
}

pub async fn a_link_without_manifest_is_unreferenced(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    assert!(unreferenced(&**meta, LATER).await.is_empty());
    for text in ["x", "y", "z"] {
        meta.write(link(&a, text, 0)).await.unwrap();
    }
    assert_eq!(unreferenced(&**meta, LATER).await.len(), 3);
    assert_eq!(meta.unreferenced_links(LATER, None, 2).await.unwrap().len(), 2);
    meta.write(unlink(&a, "y")).await.unwrap();
    let links = unreferenced(&**meta, LATER).await;
    assert!(links.len() == 2 && links.contains(&at(&a, "x")) && links.contains(&at(&a, "z")), "{links:?}");
}

pub async fn a_lease_keeps_a_link(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link(&a, "x", 0)).await.unwrap();
    meta.write(lease(&a, "x", 500)).await.unwrap();
    assert!(unreferenced(&**meta, 499).await.is_empty());
    assert_eq!(meta.write(collect(&a, "x", 499)).await.unwrap(), 0);
    assert!(meta.blob(&a, &digest("x")).await.unwrap().is_some(), "a leased link was collected");
    assert_eq!(unreferenced(&**meta, 500).await, [at(&a, "x")]);
    assert_eq!(meta.write(collect(&a, "x", 500)).await.unwrap(), 1);
    assert!(meta.blob(&a, &digest("x")).await.unwrap().is_none());
}

/// The end of the lease of a link, which is told with the same blob as without.
async fn end_of_lease(meta: &dyn MetaBackend, name: &RepositoryName, text: &str) -> Option<i64> {
    let leased = meta.leased_blob(name, &digest(text)).await.unwrap();
    let blob = meta.blob(name, &digest(text)).await.unwrap();
    assert_eq!(leased.as_ref().map(|(blob, _)| blob), blob.as_ref(), "the blob of {name} with its lease");
    leased.map(|(_, end)| end)
}

pub async fn the_end_of_a_lease_is_told(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 300)).await.unwrap();
    assert_eq!(end_of_lease(&**meta, &a, "x").await, Some(300));
    meta.write(lease(&a, "x", 500)).await.unwrap();
    assert_eq!(end_of_lease(&**meta, &a, "x").await, Some(500));
    for (name, text) in [(&a, "y"), (&b, "x")] {
        assert_eq!(end_of_lease(&**meta, name, text).await, None);
    }
    meta.write(unlink(&a, "x")).await.unwrap();
    assert_eq!(end_of_lease(&**meta, &a, "x").await, None);
}

pub async fn a_lease_is_never_shortened(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 500)).await.unwrap();
    meta.write(link(&b, "x", 0)).await.unwrap();
    meta.write(lease(&a, "x", 400)).await.unwrap();
    meta.write(link(&a, "x", 300)).await.unwrap();
    meta.write(mount(&a, "x", &b)).await.unwrap();
    assert_eq!(unreferenced(&**meta, 499).await, [at(&b, "x")]);
}

pub async fn a_new_link_has_a_lease(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 500)).await.unwrap();
    let mount =
        Change::MountBlob { repository: b.clone(), digest: digest("x"), from: a.clone(), leased_until: 600 };
    meta.write(mount).await.unwrap();
    assert!(unreferenced(&**meta, 499).await.is_empty());
    assert_eq!(unreferenced(&**meta, 599).await, [at(&a, "x")]);
    meta.write(link(&a, "x", 700)).await.unwrap();
    assert_eq!(unreferenced(&**meta, 600).await, [at(&b, "x")], "a push extends the lease");
}

pub async fn a_lease_needs_a_link(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 0)).await.unwrap();
    for (name, text) in [(&a, "y"), (&b, "x")] {
        fails(meta.write(lease(name, text, 500)).await, &[ErrorKind::BlobUnknown]);
    }
    assert!(meta.tags(&b, None, 1).await.unwrap().is_none(), "a rejected lease creates no repository");
}

pub async fn a_referenced_link_is_not_collected(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let first = put_image(&**meta, &a, ("c", "l"), &[]).await;
    put_image(&**meta, &a, ("d", "l"), &[]).await;
    meta.write(link(&a, "loose", 0)).await.unwrap();
    assert_eq!(unreferenced(&**meta, LATER).await, [at(&a, "loose")]);
    assert_eq!(meta.write(collect(&a, "l", LATER)).await.unwrap(), 0);
    assert!(meta.blob(&a, &digest("l")).await.unwrap().is_some(), "a layer in use was collected");
    let delete = Change::DeleteManifest { repository: a.clone(), digest: first.digest().clone() };
    meta.write(delete).await.unwrap();
    let links = unreferenced(&**meta, LATER).await;
    assert!(links.len() == 2 && links.contains(&at(&a, "c")), "the other image has the layer: {links:?}");
}

pub async fn a_manifest_protects_only_links_of_its_repository(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    put_image(&**meta, &a, ("c", "l"), &[]).await;
    meta.write(mount(&b, "l", &a)).await.unwrap();
    assert_eq!(unreferenced(&**meta, LATER).await, [at(&b, "l")]);
    assert_eq!(meta.write(collect(&b, "l", LATER)).await.unwrap(), 1);
    assert!(meta.blob(&a, &digest("l")).await.unwrap().is_some());
}

pub async fn an_index_protects_its_blobs(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link(&a, "x", 0)).await.unwrap();
    let entry = Descriptor::new("x/y", digest("x"), 5);
    let index = Manifest::sniff(ImageIndex::new(vec![entry]).to_bytes()).unwrap();
    let mut edge = edge("x");
    edge.kind = EdgeKind::Entry;
    meta.write(Change::PutManifest(Box::new(change(&a, &index, vec![edge], &[])))).await.unwrap();
    assert!(unreferenced(&**meta, LATER).await.is_empty());
}

pub async fn a_link_is_collected_once(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    for name in [&a, &b] {
        meta.write(link(name, "x", 0)).await.unwrap();
    }
    for expected in [1, 0] {
        assert_eq!(meta.write(collect(&a, "x", LATER)).await.unwrap(), expected);
    }
    assert_eq!(meta.write(collect(&repository("absent"), "x", LATER)).await.unwrap(), 0);
    assert!(meta.blob(&b, &digest("x")).await.unwrap().is_some());
}

pub async fn unlinked_blobs_are_listed(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    for text in ["v", "w", "x", "y"] {
        meta.write(link(&a, text, 0)).await.unwrap();
    }
    meta.write(mount(&b, "y", &a)).await.unwrap();
    assert!(unlinked(&**meta).await.is_empty());
    for text in ["v", "w", "y"] {
        meta.write(unlink(&a, text)).await.unwrap();
    }
    meta.write(collect(&a, "x", LATER)).await.unwrap();
    let mut expected = ["v", "w", "x"].map(digest);
    expected.sort();
    assert_eq!(unlinked(&**meta).await, expected);
    let rest = meta.unlinked_blobs(Some(&expected[0]), 1).await.unwrap();
    assert!(rest.len() == 1 && rest[0].digest == expected[1] && rest[0].size == 5, "{rest:?}");
}

pub async fn only_a_blob_without_links_is_condemned(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link(&a, "x", 0)).await.unwrap();
    for text in ["x", "absent"] {
        assert_eq!(meta.write(condemn(text, 1)).await.unwrap(), 0);
    }
    assert_eq!(meta.write(remove("x", 1)).await.unwrap(), 0);
    assert!(meta.blob(&a, &digest("x")).await.unwrap().is_some(), "a linked blob was removed");
    meta.write(unlink(&a, "x")).await.unwrap();
    assert_eq!(meta.write(condemn("x", 1)).await.unwrap(), 1);
    assert_eq!(meta.unlinked_blobs(None, 10).await.unwrap()[0].condemned, Some(1));
}

/// By this error, and no other, a store knows that it has to wait.
fn refused_as_removed(outcome: crate::Result<u64>) {
    let error = outcome.unwrap_err();
    assert!(is_being_removed(&error), "the error is not that of `being_removed`: {error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

pub async fn a_condemned_key_cannot_be_linked(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    for change in [link(&a, "x", 0), link_own(&a, "y", "k1")] {
        meta.write(change).await.unwrap();
    }
    for text in ["x", "y"] {
        meta.write(unlink(&a, text)).await.unwrap();
        meta.write(condemn(text, 1)).await.unwrap();
    }
    for change in [link(&a, "x", 0), link_own(&a, "y", "k1")] {
        refused_as_removed(meta.write(change).await);
    }
    for text in ["x", "y"] {
        assert!(
            meta.blob(&a, &digest(text)).await.unwrap().is_none(),
            "bytes that are being removed were reported as present"
        );
        assert_eq!(meta.write(remove(text, 1)).await.unwrap(), 1);
    }
    assert!(unlinked(&**meta).await.is_empty());
    meta.write(link(&a, "x", 0)).await.unwrap();
    assert_eq!(meta.blob(&a, &digest("x")).await.unwrap().unwrap().condemned, None);
}

pub async fn a_condemned_blob_can_be_linked_under_a_new_key(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link_own(&a, "x", "k1")).await.unwrap();
    meta.write(unlink(&a, "x")).await.unwrap();
    meta.write(condemn("x", 1)).await.unwrap();
    meta.write(link_own(&a, "x", "k2")).await.unwrap();
    assert_eq!(meta.write(remove("x", 1)).await.unwrap(), 0, "the blob is in use again");
    let record = meta.blob(&a, &digest("x")).await.unwrap().unwrap();
    assert_eq!((record.key, record.condemned), (BlobKey::Own("k2".to_owned()), None));
}

pub async fn only_the_latest_mark_removes_a_blob(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link(&a, "x", 0)).await.unwrap();
    meta.write(unlink(&a, "x")).await.unwrap();
    for mark in [1, u64::MAX] {
        assert_eq!(meta.write(condemn("x", mark)).await.unwrap(), 1);
    }
    assert_eq!(meta.write(remove("x", 1)).await.unwrap(), 0, "another collector has taken over");
    assert_eq!(meta.write(remove("x", u64::MAX)).await.unwrap(), 1);
    assert_eq!(meta.write(remove("x", u64::MAX)).await.unwrap(), 0);
    assert!(meta.blobs(&[digest("x")]).await.unwrap()[0].is_none());
}

pub async fn keys_in_use_are_found(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let own = |key: &str| BlobKey::Own(key.to_owned());
    meta.write(link(&a, "x", 0)).await.unwrap();
    meta.write(link_own(&a, "y", "k1")).await.unwrap();
    let keys = [digest("x").into(), own("k1"), digest("y").into(), own("k2"), digest("absent").into()];
    assert_eq!(meta.has_keys(&keys).await.unwrap(), [true, true, false, false, false]);
    assert_eq!(meta.has_keys(&[]).await.unwrap(), [] as [bool; 0]);
    meta.write(link_own(&a, "y", "k2")).await.unwrap();
    assert_eq!(meta.has_keys(&[own("k1"), own("k2")]).await.unwrap(), [false, true]);
    meta.write(unlink(&a, "x")).await.unwrap();
    assert_eq!(meta.has_keys(&[digest("x").into()]).await.unwrap(), [true], "its row is still there");
    // A long page, in which a key may come twice.
    let mut keys: Vec<BlobKey> = (0..350).map(|number| own(&format!("n{number}"))).collect();
    keys[7] = own("k2");
    keys[201] = digest("x").into();
    keys[349] = own("k2");
    let found: Vec<usize> =
        meta.has_keys(&keys).await.unwrap().iter().enumerate().filter(|(_, k)| **k).map(|(n, _)| n).collect();
    assert_eq!(found, [7, 201, 349]);
}

pub async fn unreferenced_links_are_paged(opener: MetaOpener) {
    let meta = opener.open().await;
    let names = ["a", "b", "c"].map(repository);
    for name in &names {
        for text in ["x", "y", "z"] {
            meta.write(link(name, text, 0)).await.unwrap();
        }
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = meta.unreferenced_links(LATER, after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last().cloned() else { break };
        // The link that a page starts after may be gone.
        meta.write(collect(&last.repository, "x", LATER)).await.unwrap();
        assert!(page.len() <= 2 && page.iter().all(|link| !found.contains(link)), "{page:?} after {found:?}");
        found.extend(page);
        after = Some(last);
    }
    for (name, text) in names.iter().flat_map(|name| [(name, "y"), (name, "z")]) {
        assert!(found.contains(&at(name, text)), "{text} of {name} was not listed");
    }
}

/// A time after every manifest of these cases was stored.
const END: i64 = i64::MAX;

async fn unkept(meta: &dyn MetaBackend, before: i64) -> Vec<ManifestAt> {
    let found = meta.unkept_manifests(before, None, 100).await.unwrap();
    let mut found: Vec<ManifestAt> = found.into_iter().map(|unkept| unkept.at).collect();
    found.sort_by(|a, b| (&a.repository, &a.digest).cmp(&(&b.repository, &b.digest)));
    found
}

fn manifest_at(name: &RepositoryName, manifest: &Manifest) -> ManifestAt {
    ManifestAt { repository: name.clone(), digest: manifest.digest().clone() }
}

fn collect_manifest(name: &RepositoryName, manifest: &Manifest, before: i64) -> Change {
    Change::CollectManifest { repository: name.clone(), digest: manifest.digest().clone(), before }
}

/// Stores an index of these manifests.
async fn put_index(
    meta: &dyn MetaBackend,
    name: &RepositoryName,
    entries: &[&Manifest],
    subject: Option<&Manifest>,
    tags: &[&str],
) -> Manifest {
    let mut index = ImageIndex::new(entries.iter().map(|entry| entry.descriptor()).collect());
    index.subject = subject.map(Manifest::descriptor);
    let index = Manifest::sniff(index.to_bytes()).unwrap();
    let edges = entries.iter().enumerate().map(|(i, entry)| crate::store::meta::Edge {
        kind: EdgeKind::Entry,
        digest: entry.digest().clone(),
        required: false,
        size: entry.bytes().len() as u64,
        stored: None,
        field: format!("manifests[{i}]"),
    });
    meta.write(Change::PutManifest(Box::new(change(name, &index, edges.collect(), tags)))).await.unwrap();
    index
}

/// Stores an artifact about a subject, which need not be there.
async fn put_referrer(meta: &dyn MetaBackend, name: &RepositoryName, subject: &Manifest) -> Manifest {
    let mut referrer = ImageManifest::new(Descriptor::new("a/config", digest("config"), 5), vec![]);
    referrer.subject = Some(subject.descriptor());
    let referrer = Manifest::sniff(referrer.to_bytes()).unwrap();
    put(meta, name, &referrer, &[]).await.unwrap();
    referrer
}

pub async fn a_tag_keeps_a_manifest(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let (one, two) = (index("one"), index("two"));
    put(&**meta, &a, &one, &["v1", "v2"]).await.unwrap();
    put(&**meta, &a, &two, &[]).await.unwrap();
    // A tag keeps nothing in another repository.
    put(&**meta, &b, &one, &[]).await.unwrap();
    assert_eq!(unkept(&**meta, END).await, [manifest_at(&a, &two), manifest_at(&b, &one)]);
    let delete = |text: &str| Change::DeleteTag { repository: a.clone(), tag: tag(text) };
    meta.write(delete("v1")).await.unwrap();
    assert_eq!(meta.write(collect_manifest(&a, &one, END)).await.unwrap(), 0);
    assert!(
        meta.manifest(&a, &by_digest(one.digest())).await.unwrap().is_some(),
        "a tagged manifest was collected"
    );
    meta.write(delete("v2")).await.unwrap();
    for manifest in [&one, &two] {
        assert_eq!(meta.write(collect_manifest(&a, manifest, END)).await.unwrap(), 1);
        assert_eq!(meta.write(collect_manifest(&a, manifest, END)).await.unwrap(), 0);
    }
    assert_eq!(unkept(&**meta, END).await, [manifest_at(&b, &one)]);
}

pub async fn an_index_keeps_its_entries(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let image = put_image(&**meta, &a, ("c", "l"), &[]).await;
    let inner = put_index(&**meta, &a, &[&image], None, &[]).await;
    let outer = put_index(&**meta, &a, &[&inner], None, &["latest"]).await;
    // An index of another repository keeps nothing here.
    put_image(&**meta, &b, ("c", "l"), &[]).await;
    assert_eq!(unkept(&**meta, END).await, [manifest_at(&b, &image)]);
    assert_eq!(meta.write(collect_manifest(&a, &image, END)).await.unwrap(), 0);
    assert!(meta.manifest(&a, &by_digest(image.digest())).await.unwrap().is_some(), "an entry was collected");
    meta.write(Change::DeleteTag { repository: a.clone(), tag: tag("latest") }).await.unwrap();
    assert_eq!(unkept(&**meta, END).await.len(), 4);
    for manifest in [&image, &inner, &outer] {
        assert_eq!(meta.write(collect_manifest(&a, manifest, END)).await.unwrap(), 1);
    }
}

pub async fn a_subject_keeps_its_referrers(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let image = put_image(&**meta, &a, ("c", "l"), &["latest"]).await;
    let signature = put_referrer(&**meta, &a, &image).await;
    let about_the_signature = put_referrer(&**meta, &a, &signature).await;
    let of_nothing = put_referrer(&**meta, &a, &index("absent")).await;
    assert_eq!(unkept(&**meta, END).await, [manifest_at(&a, &of_nothing)]);
    assert_eq!(meta.write(collect_manifest(&a, &signature, END)).await.unwrap(), 0);
    assert!(
        meta.manifest(&a, &by_digest(signature.digest())).await.unwrap().is_some(),
        "a referrer was collected"
    );
    meta.write(Change::DeleteManifest { repository: a.clone(), digest: image.digest().clone() })
        .await
        .unwrap();
    for manifest in [&signature, &about_the_signature, &of_nothing] {
        assert_eq!(meta.write(collect_manifest(&a, manifest, END)).await.unwrap(), 1);
    }
    assert!(unkept(&**meta, END).await.is_empty());
}

/// An index about one of its own entries, as a list of signatures may be.
pub async fn manifests_that_keep_each_other_alone_are_unkept(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let image = put_image(&**meta, &a, ("c", "l"), &[]).await;
    let index = put_index(&**meta, &a, &[&image], Some(&image), &[]).await;
    assert_eq!(unkept(&**meta, END).await.len(), 2);
    for manifest in [&image, &index] {
        assert_eq!(meta.write(collect_manifest(&a, manifest, END)).await.unwrap(), 1);
    }
}

pub async fn a_young_manifest_is_kept(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let image = put_image(&**meta, &a, ("c", "l"), &[]).await;
    put_index(&**meta, &a, &[&image], None, &[]).await;
    assert!(unkept(&**meta, 0).await.is_empty(), "it was stored after 1970");
    assert_eq!(meta.write(collect_manifest(&a, &image, 0)).await.unwrap(), 0);
    assert_eq!(unkept(&**meta, END).await.len(), 2);
}

/// When the only manifest that nothing keeps was stored.
async fn stored_at(meta: &dyn MetaBackend) -> i64 {
    let unkept = meta.unkept_manifests(END, None, 2).await.unwrap();
    let [UnkeptManifest { stored_at, .. }] = unkept[..] else { panic!("{unkept:?}") };
    stored_at
}

/// A name was removed, and the manifest is stored again without one before the space of what was removed is given back.
pub async fn a_manifest_that_is_stored_again_is_young(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    put(&**meta, &a, &index("1"), &[]).await.unwrap();
    let removed = SystemClock.now();
    while SystemClock.now() == removed {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(unkept(&**meta, removed).await.len(), 1);
    let first = stored_at(&**meta).await;
    assert!(
        first <= removed && removed - first < 3600,
        "it was stored at {first}, not long before {removed}"
    );
    put(&**meta, &a, &index("1"), &[]).await.unwrap();
    assert!(unkept(&**meta, removed).await.is_empty(), "it was stored after the removal");
    let again = stored_at(&**meta).await;
    assert!(again > removed && again - removed < 3600, "it was stored at {again}, not long after {removed}");
}

/// An entry that so many indexes have, and a blob that so many images have, is looked for in another way.
const VERY_MANY: usize = 66;

pub async fn an_entry_of_very_many_indexes_is_kept_by_those_of_its_repository(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b, c] = ["a", "b", "c"].map(repository);
    let image = put_image(&**meta, &a, ("c", "l"), &[]).await;
    for name in [&b, &c] {
        put_image(&**meta, name, ("c", "l"), &[]).await;
    }
    for number in 0..VERY_MANY {
        let tag = number.to_string();
        put_index(&**meta, &a, &[&image, &index(&tag)], None, &[&tag]).await;
    }
    put_index(&**meta, &b, &[&image], None, &["latest"]).await;
    assert_eq!(unkept(&**meta, END).await, [manifest_at(&c, &image)]);
    assert_eq!(meta.write(collect_manifest(&a, &image, END)).await.unwrap(), 0);
    assert_eq!(meta.write(collect_manifest(&b, &image, END)).await.unwrap(), 0);
    assert_eq!(meta.write(collect_manifest(&c, &image, END)).await.unwrap(), 1);
}

pub async fn a_blob_of_very_many_manifests_is_referenced_in_their_repositories_alone(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b, c] = ["a", "b", "c"].map(repository);
    for number in 0..VERY_MANY {
        put_image(&**meta, &a, (&format!("config {number}"), "base"), &[]).await;
    }
    put_image(&**meta, &b, ("config of b", "base"), &[]).await;
    meta.write(link(&c, "base", 0)).await.unwrap();
    assert_eq!(unreferenced(&**meta, LATER).await, [at(&c, "base")]);
    for (name, goes) in [(&a, 0), (&b, 0), (&c, 1)] {
        assert_eq!(meta.write(collect(name, "base", LATER)).await.unwrap(), goes, "{name}");
    }
}

pub async fn unkept_manifests_are_paged(opener: MetaOpener) {
    let meta = opener.open().await;
    let names = ["a", "b"].map(repository);
    for name in &names {
        for text in ["1", "2", "3", "4"] {
            put(&**meta, name, &index(text), if text == "3" { &["t"] } else { &[] }).await.unwrap();
        }
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = meta.unkept_manifests(END, after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last().cloned() else { break };
        assert!(page.len() <= 2 && page.iter().all(|of| !found.contains(of)), "{page:?} after {found:?}");
        let ManifestAt { repository, digest } = last.at.clone();
        meta.write(Change::CollectManifest { repository, digest, before: END }).await.unwrap();
        found.extend(page);
        after = Some(last.at);
    }
    assert_eq!(found.len(), 6);
}

pub async fn bytes_without_a_row_are_condemned(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let condemn_bytes = |text: &str, mark| Change::CondemnBytes { digest: digest(text), size: 5, mark };
    meta.write(link(&a, "linked", 0)).await.unwrap();
    assert_eq!(meta.write(condemn_bytes("linked", 1)).await.unwrap(), 0);
    assert!(meta.blob(&a, &digest("linked")).await.unwrap().is_some(), "a linked blob was condemned");
    assert_eq!(meta.write(condemn_bytes("x", 1)).await.unwrap(), 1);
    assert_eq!(meta.write(condemn_bytes("x", 2)).await.unwrap(), 0, "it has a row");
    refused_as_removed(meta.write(link(&a, "x", 0)).await);
    assert_eq!(unlinked(&**meta).await, [digest("x")], "a later collector must find it");
    assert_eq!(meta.write(remove("x", 1)).await.unwrap(), 1);
    assert!(!meta.has_keys(&[digest("x").into()]).await.unwrap()[0]);
    meta.write(link(&a, "x", 0)).await.unwrap();
}
