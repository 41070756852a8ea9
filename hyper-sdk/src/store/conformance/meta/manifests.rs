//! Manifests, tags, lists, and the version.

use super::MetaOpener;
use super::kit::*;
use crate::oci::{Descriptor, Manifest};
use crate::store::meta::{Change, ManifestChange, MetaBackend};
use crate::{ErrorKind, Result, media_type};
use std::sync::Arc;

async fn write(meta: &dyn MetaBackend, change: ManifestChange) -> Result<u64> {
    meta.write(Change::PutManifest(Box::new(change))).await
}

pub async fn a_manifest_is_found_by_tag_and_digest(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    let manifest = put_image(&**meta, &a, ("c", "l"), &["t"]).await;
    for reference in [by_tag("t"), by_digest(manifest.digest())] {
        assert_eq!(meta.manifest(&a, &reference).await.unwrap().as_ref(), Some(&manifest));
        assert!(meta.manifest(&b, &reference).await.unwrap().is_none());
    }
    assert!(meta.manifest(&a, &by_tag("u")).await.unwrap().is_none());
}

pub async fn a_required_edge_must_exist(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "c", 0)).await.unwrap();
    meta.write(link(&b, "l", 0)).await.unwrap();
    let manifest = image("c", "l");
    let edges = || vec![edge("c"), edge("l")];
    fails(write(&**meta, change(&a, &manifest, edges(), &["t"])).await, &[ErrorKind::ManifestBlobUnknown]);
    let mut exempt = edges();
    exempt[1].required = false;
    write(&**meta, change(&a, &manifest, exempt, &["t"])).await.unwrap();
    meta.write(link(&a, "l", 0)).await.unwrap();
    write(&**meta, change(&a, &manifest, edges(), &["t"])).await.unwrap();
}

pub async fn an_edge_must_have_the_size_of_its_target(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let child = put_image(&**meta, &a, ("c", "l"), &[]).await;
    for required in [true, false] {
        let mut edge = edge("l");
        (edge.size, edge.required) = (6, required);
        fails(write(&**meta, change(&a, &index("x"), vec![edge], &[])).await, &[ErrorKind::SizeInvalid]);
    }
    let mut entry = edge("x");
    entry.kind = crate::store::meta::EdgeKind::Entry;
    entry.digest = child.digest().clone();
    fails(write(&**meta, change(&a, &index("x"), vec![entry.clone()], &[])).await, &[ErrorKind::SizeInvalid]);
    entry.size = child.bytes().len() as u64;
    write(&**meta, change(&a, &index("x"), vec![entry], &[])).await.unwrap();
}

pub async fn an_edge_requires_stored_bytes(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    meta.write(link(&a, "l", 0)).await.unwrap();
    for stored in [None, Some(4)] {
        let mut edge = edge("l");
        edge.stored = stored;
        fails(
            write(&**meta, change(&a, &index("x"), vec![edge], &[])).await,
            &[ErrorKind::ManifestBlobUnknown],
        );
    }
}

pub async fn a_rejected_manifest_changes_nothing(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, fresh] = ["a", "fresh"].map(repository);
    let old = put_image(&**meta, &a, ("c", "l"), &["t"]).await;
    for name in [&a, &fresh] {
        let refused = change(name, &index("new"), vec![edge("absent")], &["t", "u"]);
        fails(write(&**meta, refused).await, &[ErrorKind::ManifestBlobUnknown]);
        assert!(meta.manifest(name, &by_digest(index("new").digest())).await.unwrap().is_none());
    }
    assert_eq!(tags(&**meta, &a).await, ["t"]);
    assert_eq!(meta.manifest(&a, &by_tag("t")).await.unwrap(), Some(old));
    assert!(meta.tags(&fresh, None, 1).await.unwrap().is_none(), "a rejected push creates no repository");
}

pub async fn another_media_type_is_rejected(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let bytes = r#"{"schemaVersion":2,"manifests":[]}"#;
    let [one, two] = [media_type::OCI_INDEX, media_type::DOCKER_MANIFEST_LIST]
        .map(|kind| Manifest::parse(bytes, kind).unwrap());
    put(&**meta, &a, &one, &[]).await.unwrap();
    fails(put(&**meta, &a, &two, &[]).await, &[ErrorKind::ManifestInvalid]);
    put(&**meta, &a, &one, &[]).await.unwrap();
    put(&**meta, &repository("b"), &two, &[]).await.unwrap();
}

pub async fn a_condition_is_checked_for_every_tag(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two, three] = ["1", "2", "3"].map(index);
    put(&**meta, &a, &one, &["t", "u"]).await.unwrap();
    put(&**meta, &a, &two, &["u"]).await.unwrap();
    let conditional = |expected: Option<&Manifest>, tags: &[&str]| ManifestChange {
        if_match: Some(expected.map(|m| m.digest().clone())),
        ..change(&a, &three, vec![], tags)
    };
    for (expected, tags) in [
        (Some(&one), &["t", "u"][..]),
        (Some(&one), &["u"][..]),
        (Some(&one), &["absent"][..]),
        (None, &["t"][..]),
        (None, &["absent", "t"][..]),
    ] {
        fails(write(&**meta, conditional(expected, tags)).await, &[ErrorKind::Conflict]);
    }
    assert_eq!(tags(&**meta, &a).await, ["t", "u"]);
    write(&**meta, conditional(None, &["v"])).await.unwrap();
    write(&**meta, conditional(Some(&one), &["t"])).await.unwrap();
    assert_eq!(meta.manifest(&a, &by_tag("t")).await.unwrap(), Some(three));
    assert_eq!(meta.manifest(&a, &by_tag("u")).await.unwrap(), Some(two));
}

pub async fn tags_move_together(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two] = ["1", "2"].map(index);
    put(&**meta, &a, &one, &["t", "u", "v"]).await.unwrap();
    put(&**meta, &a, &two, &["t", "v"]).await.unwrap();
    for (text, expected) in [("t", &two), ("u", &one), ("v", &two)] {
        assert_eq!(meta.manifest(&a, &by_tag(text)).await.unwrap().as_ref(), Some(expected));
    }
}

pub async fn tags_are_paged_in_byte_order(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    assert!(meta.tags(&a, None, 10).await.unwrap().is_none(), "there is no such repository");
    put(&**meta, &a, &index("x"), &["b", "B", "a-1", "a", "10", "9"]).await.unwrap();
    let all = ["10", "9", "B", "a", "a-1", "b"];
    assert_eq!(tags(&**meta, &a).await, all);
    for (after, limit, expected, more) in [
        (None, 2, &all[..2], true),
        (Some("9"), 2, &all[2..4], true),
        (Some("a-0"), 2, &all[4..], false),
        (Some("a"), 2, &all[4..], false),
        (Some("zz"), 2, &[][..], false),
        (None, 0, &[][..], false),
        (None, 6, &all[..], false),
    ] {
        let page = meta.tags(&a, after, limit).await.unwrap().unwrap();
        assert_eq!(page.items.iter().map(|t| t.as_str()).collect::<Vec<_>>(), expected, "{after:?}");
        assert_eq!(page.more, more, "{after:?}");
    }
}

pub async fn repositories_are_paged_in_byte_order(opener: MetaOpener) {
    let meta = opener.open().await;
    assert!(meta.repositories(None, 10).await.unwrap().items.is_empty());
    for name in ["b", "a-1", "a/b", "a"] {
        put(&**meta, &repository(name), &index("x"), &[]).await.unwrap();
    }
    for (after, limit, expected, more) in [
        (None, 10, &["a", "a-1", "a/b", "b"][..], false),
        (None, 3, &["a", "a-1", "a/b"][..], true),
        (Some("a-"), 2, &["a-1", "a/b"][..], true),
        (Some("a/b"), 2, &["b"][..], false),
    ] {
        let page = meta.repositories(after, limit).await.unwrap();
        assert_eq!(page.items.iter().map(|r| r.as_str()).collect::<Vec<_>>(), expected, "{after:?}");
        assert_eq!(page.more, more, "{after:?}");
    }
}

pub async fn an_emptied_repository_is_not_listed(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let manifest = put_image(&**meta, &a, ("c", "l"), &["t"]).await;
    let delete = Change::DeleteManifest { repository: a.clone(), digest: manifest.digest().clone() };
    meta.write(delete).await.unwrap();
    assert!(meta.repositories(None, 10).await.unwrap().items.is_empty());
    assert!(meta.blob(&a, &digest("l")).await.unwrap().is_some());
    assert!(meta.tags(&a, None, 10).await.unwrap().unwrap().items.is_empty());
    meta.write(link(&a, "m", 0)).await.unwrap();
    assert_eq!(meta.repositories(None, 10).await.unwrap().items, [a]);
}

pub async fn deleting_a_manifest_deletes_its_tags(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let [one, two] = ["1", "2"].map(index);
    put(&**meta, &a, &one, &["t", "u"]).await.unwrap();
    put(&**meta, &a, &two, &["v"]).await.unwrap();
    let delete = || Change::DeleteManifest { repository: a.clone(), digest: one.digest().clone() };
    meta.write(delete()).await.unwrap();
    assert_eq!(tags(&**meta, &a).await, ["v"]);
    for reference in [by_tag("t"), by_digest(one.digest())] {
        assert!(meta.manifest(&a, &reference).await.unwrap().is_none());
    }
    fails(meta.write(delete()).await, &[ErrorKind::ManifestUnknown]);
}

pub async fn deleting_a_tag_keeps_the_manifest(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let manifest = index("1");
    put(&**meta, &a, &manifest, &["t", "u"]).await.unwrap();
    let delete = || Change::DeleteTag { repository: a.clone(), tag: tag("t") };
    meta.write(delete()).await.unwrap();
    assert_eq!(tags(&**meta, &a).await, ["u"]);
    assert!(meta.manifest(&a, &by_digest(manifest.digest())).await.unwrap().is_some());
    fails(meta.write(delete()).await, &[ErrorKind::ManifestUnknown]);
}

pub async fn referrers_are_listed(opener: MetaOpener) {
    let meta = opener.open().await;
    let a = repository("a");
    let subject = index("subject");
    let referrer = |artifact_type: &str| {
        let mut image =
            crate::oci::ImageManifest::new(Descriptor::new(media_type::OCI_CONFIG, digest("c"), 5), vec![]);
        image.subject = Some(subject.descriptor());
        image.artifact_type = Some(artifact_type.to_owned());
        image.annotations.insert("key".to_owned(), artifact_type.to_owned());
        Manifest::sniff(image.to_bytes()).unwrap()
    };
    let all = ["a/1", "a/2", "a/3"].map(referrer);
    for manifest in &all {
        put(&**meta, &a, manifest, &[]).await.unwrap();
    }
    let found = meta.referrers(&a, subject.digest(), None).await.unwrap();
    let mut sorted = found.clone();
    sorted.sort_by(|x, y| x.digest.cmp(&y.digest));
    assert_eq!((found.len(), &found), (3, &sorted), "by digest");
    let found = meta.referrers(&a, subject.digest(), Some("a/2")).await.unwrap();
    assert_eq!(found, [crate::store::meta::referrer(&all[1])]);
    assert!(meta.referrers(&repository("b"), subject.digest(), None).await.unwrap().is_empty());
    let delete = Change::DeleteManifest { repository: a.clone(), digest: all[1].digest().clone() };
    meta.write(delete).await.unwrap();
    assert_eq!(meta.referrers(&a, subject.digest(), None).await.unwrap().len(), 2);
}

pub async fn the_version_changes_with_every_change(opener: MetaOpener) {
    let meta = opener.open().await;
    let [a, b] = ["a", "b"].map(repository);
    meta.write(link(&a, "x", 0)).await.unwrap();
    let Some(mut last) = version(&**meta).await else { return };
    let changes = [
        link(&a, "y", 0),
        mount(&b, "x", &a),
        Change::PutManifest(Box::new(change(&a, &index("1"), vec![], &["t"]))),
        Change::PutManifest(Box::new(change(&a, &index("2"), vec![], &["t"]))),
        Change::DeleteTag { repository: a.clone(), tag: tag("t") },
        Change::DeleteManifest { repository: a.clone(), digest: index("2").digest().clone() },
        unlink(&a, "x"),
        collect(&b, "x", LATER),
    ];
    for change in changes {
        let what = format!("{change:?}");
        meta.write(change).await.unwrap();
        let now = version(&**meta).await.unwrap();
        assert_ne!(now, last, "the version did not change with {what}");
        last = now;
        meta.blob(&a, &digest("y")).await.unwrap();
        meta.manifest(&a, &by_tag("t")).await.unwrap();
        meta.tags(&a, None, 10).await.unwrap();
        assert_eq!(version(&**meta).await, Some(last), "reading must not change the version");
    }
}

pub async fn changes_of_many_tasks_are_all_applied(opener: MetaOpener) {
    let meta = opener.open().await;
    let tasks = (0..40).map(|n| {
        let meta: Arc<dyn MetaBackend> = (*meta).clone();
        tokio::spawn(async move {
            let name = repository(&format!("r{}", n % 3));
            meta.write(link(&name, &n.to_string(), 0)).await.unwrap();
            put(&*meta, &name, &index(&n.to_string()), &[&format!("t{n}"), "latest"]).await.unwrap();
            // A rejected change must not affect others.
            let refused = change(&name, &index("refused"), vec![edge("absent")], &["refused"]);
            fails(write(&*meta, refused).await, &[ErrorKind::ManifestBlobUnknown]);
        })
    });
    futures::future::join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    let mut count = 0;
    for name in ["r0", "r1", "r2"] {
        let tags = tags(&**meta, &repository(name)).await;
        assert!(!tags.contains(&"refused".to_owned()));
        count += tags.len();
    }
    assert_eq!(count, 43);
}

pub async fn a_backend_displays_a_name(opener: MetaOpener) {
    assert!(!opener.open().await.to_string().is_empty());
}
