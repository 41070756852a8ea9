//! Cases about manifests, tags, lists and referrers.

use super::kit::*;
use crate::client::{RegistryClientExt as _, SharedClient};
use crate::oci::{Descriptor, ImageIndex, ImageManifest};
use crate::platform::Platform;
use crate::store::Page;
use crate::testing::{ImageShape, RandomImage};
use crate::{Digest, ErrorKind, media_type};
use bytes::Bytes;

pub async fn a_manifest_comes_back_by_tag_and_digest(client: SharedClient) {
    needs!(client, push);
    let name = repository("a/b/c");
    let manifest = push_image(&client, &name, "x", "v1").await;
    assert_eq!(client.get_manifest(&name, &by_tag("v1")).await.unwrap(), manifest);
    assert_eq!(client.get_manifest(&name, &by_digest(manifest.digest())).await.unwrap(), manifest);
}

pub async fn a_manifest_keeps_its_bytes(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let compact = image(&client, &name, "x").await.to_bytes();
    let value: serde_json::Value = serde_json::from_slice(&compact).unwrap();
    let spaced = parse(serde_json::to_vec_pretty(&value).unwrap());
    client.put_manifest(&name, &by_tag("spaced"), &spaced).await.unwrap();
    let found = client.get_manifest(&name, &by_tag("spaced")).await.unwrap();
    assert_eq!(found.bytes(), spaced.bytes());
    assert_eq!(found.media_type(), media_type::OCI_MANIFEST);
}

pub async fn resolving_names_what_getting_gives(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let manifest = push_image(&client, &name, "x", "v1").await;
    for reference in [by_tag("v1"), by_digest(manifest.digest())] {
        let found = client.resolve(&name, &reference).await.unwrap();
        assert_eq!(
            (found.digest, found.size, found.media_type.as_str()),
            (manifest.digest().clone(), manifest.bytes().len() as u64, manifest.media_type())
        );
    }
}

pub async fn an_unknown_manifest_is_manifest_unknown(client: SharedClient) {
    let unknown = [ErrorKind::ManifestUnknown, ErrorKind::NameUnknown];
    let name = repository("a");
    fails(client.get_manifest(&name, &by_tag("none")).await, &unknown);
    fails(client.resolve(&name, &by_tag("none")).await, &unknown);
    fails(client.get_manifest(&name, &by_digest(&Digest::sha256(b"x"))).await, &unknown);
}

pub async fn a_manifest_without_its_blobs_is_refused(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let mut broken = image(&client, &name, "x").await;
    broken.layers.push(Descriptor::of(media_type::OCI_LAYER, b"never pushed"));
    let put = client.put_manifest(&name, &by_tag("v1"), &parse(broken.to_bytes())).await;
    fails(put, &[ErrorKind::ManifestBlobUnknown, ErrorKind::BlobUnknown, ErrorKind::ManifestInvalid]);
    let found = client.get_manifest(&name, &by_tag("v1")).await;
    fails(found, &[ErrorKind::ManifestUnknown, ErrorKind::NameUnknown]);
}

pub async fn a_manifest_under_a_wrong_digest_is_refused(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let manifest = parse(image(&client, &name, "x").await.to_bytes());
    let wrong = by_digest(&Digest::sha256(b"other"));
    fails(client.put_manifest(&name, &wrong, &manifest).await, &[ErrorKind::DigestInvalid]);
}

pub async fn a_tag_moves(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let old = push_image(&client, &name, "old", "v1").await;
    let new = push_image(&client, &name, "new", "v1").await;
    assert_eq!(client.get_manifest(&name, &by_tag("v1")).await.unwrap(), new);
    assert_eq!(client.get_manifest(&name, &by_digest(old.digest())).await.unwrap(), old);
}

pub async fn tags_are_paged_in_order(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let manifest = push_image(&client, &name, "x", "c").await;
    for tag in ["e", "a", "d", "b"] {
        client.put_manifest(&name, &by_tag(tag), &manifest).await.unwrap();
    }
    let mut found = Vec::new();
    let mut page = Page { limit: Some(2), after: None };
    loop {
        let listing = client.list_tags(&name, page).await.unwrap();
        assert!(listing.items.len() <= 2);
        found.extend(listing.items.iter().map(ToString::to_string));
        assert!(found.len() <= 5, "the list does not end: {found:?}");
        if !listing.more {
            break;
        }
        page = Page { limit: Some(2), after: found.last().cloned() };
    }
    assert_eq!(found, ["a", "b", "c", "d", "e"]);
    let all = client.list_tags(&name, Page::default()).await.unwrap();
    assert_eq!((all.items.len(), all.more), (5, false));
    let unknown = client.list_tags(&repository("none"), Page::default()).await;
    fails(unknown, &[ErrorKind::NameUnknown]);
}

pub async fn repositories_are_paged_in_order(client: SharedClient) {
    needs!(client, push, catalog);
    for name in ["c", "a", "b/x"] {
        push_image(&client, &repository(name), "x", "v1").await;
    }
    let first = client.list_repositories(Page { limit: Some(2), after: None }).await.unwrap();
    assert_eq!((first.items, first.more), (vec![repository("a"), repository("b/x")], true));
    let second = Page { limit: Some(2), after: Some("b/x".to_owned()) };
    let second = client.list_repositories(second).await.unwrap();
    assert_eq!((second.items, second.more), (vec![repository("c")], false));
}

pub async fn every_page_of_a_list_is_read(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let manifest = push_image(&client, &name, "x", "t0").await;
    let mut expected = vec!["t0".to_owned()];
    for n in 1..9 {
        let tag = format!("t{n}");
        client.put_manifest(&name, &by_tag(&tag), &manifest).await.unwrap();
        expected.push(tag);
    }
    let tags = client.all_tags(&name).await.unwrap();
    assert_eq!(tags.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    assert!(client.exists(&name, &by_tag("t8")).await.unwrap());
    assert!(!client.exists(&name, &by_tag("t9")).await.unwrap());
    if client.capabilities().catalog {
        push_image(&client, &repository("b/c"), "x", "v1").await;
        assert_eq!(client.all_repositories().await.unwrap(), [name, repository("b/c")]);
    }
}

pub async fn deleting_a_tag_keeps_the_manifest(client: SharedClient) {
    needs!(client, push, delete);
    let name = repository("a");
    let manifest = push_image(&client, &name, "x", "v1").await;
    client.put_manifest(&name, &by_tag("v2"), &manifest).await.unwrap();
    client.delete_manifest(&name, &by_tag("v1")).await.unwrap();
    fails(client.resolve(&name, &by_tag("v1")).await, &[ErrorKind::ManifestUnknown]);
    assert_eq!(client.get_manifest(&name, &by_tag("v2")).await.unwrap(), manifest);
    assert_eq!(client.get_manifest(&name, &by_digest(manifest.digest())).await.unwrap(), manifest);
}

pub async fn deleting_a_manifest_takes_its_tags(client: SharedClient) {
    needs!(client, push, delete);
    let name = repository("a");
    let manifest = push_image(&client, &name, "x", "v1").await;
    client.delete_manifest(&name, &by_digest(manifest.digest())).await.unwrap();
    let unknown = [ErrorKind::ManifestUnknown, ErrorKind::NameUnknown];
    fails(client.resolve(&name, &by_tag("v1")).await, &unknown);
    fails(client.get_manifest(&name, &by_digest(manifest.digest())).await, &unknown);
}

pub async fn referrers_are_listed_and_filtered(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let subject = push_image(&client, &name, "x", "v1").await;
    let empty = Bytes::from_static(b"{}");
    push(&client, &name, &empty).await;
    let mut expected = Vec::new();
    for kind in ["t/one", "t/two"] {
        let mut referrer = ImageManifest::new(Descriptor::of(media_type::OCI_EMPTY, &empty), vec![]);
        referrer.artifact_type = Some(kind.to_owned());
        referrer.subject = Some(subject.descriptor());
        referrer.annotations.insert("k".to_owned(), kind.to_owned());
        let referrer = parse(referrer.to_bytes());
        client.put_manifest(&name, &by_digest(referrer.digest()), &referrer).await.unwrap();
        expected.push((referrer.digest().clone(), kind.to_owned()));
    }
    let mut found = Vec::new();
    for descriptor in client.list_referrers(&name, subject.digest(), None).await.unwrap() {
        let kind = descriptor.artifact_type.clone().unwrap();
        assert_eq!(descriptor.annotations["k"], kind);
        found.push((descriptor.digest, kind));
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(found, expected);
    assert_eq!(client.referrers(&name, &by_tag("v1")).await.unwrap().len(), 2);
    let one = client.list_referrers(&name, subject.digest(), Some("t/two")).await.unwrap();
    assert_eq!(one.iter().map(|d| d.digest.clone()).collect::<Vec<_>>(), [expected[1].0.clone()]);
}

pub async fn referrers_of_nothing_are_none(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    push_image(&client, &name, "x", "v1").await;
    let found = client.list_referrers(&name, &Digest::sha256(b"nothing"), None).await.unwrap();
    assert_eq!(found, []);
}

pub async fn an_image_is_found_by_platform(client: SharedClient) {
    needs!(client, push);
    let name = repository("a");
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let platform = Platform::new("linux", architecture, None);
        let image = RandomImage::with_shape(7, &ImageShape { platform: platform.clone(), ..small() });
        push_random(&client, &name, &image).await;
        entries.push(Descriptor { platform: Some(platform), ..image.manifest.descriptor() });
    }
    let index = parse(ImageIndex::new(entries.clone()).to_bytes());
    client.put_manifest(&name, &by_tag("v1"), &index).await.unwrap();
    for entry in &entries {
        let image = client.image(&name, &by_tag("v1"), entry.platform.as_ref()).await.unwrap();
        assert_eq!(image.manifest.digest(), &entry.digest);
        assert_eq!(Some(image.config.platform()), entry.platform);
    }
    let first = client.image(&name, &by_tag("v1"), None).await.unwrap();
    assert_eq!(first.manifest.digest(), &entries[0].digest);
    let nowhere = Platform::new("linux", "riscv64", None);
    fails(client.image(&name, &by_tag("v1"), Some(&nowhere)).await, &[ErrorKind::ManifestUnknown]);
}

pub async fn capabilities_what_is_denied_is_unsupported(client: SharedClient) {
    let capabilities = client.capabilities();
    let (name, digest) = (repository("a"), Digest::sha256(b"x"));
    let denied = [ErrorKind::Unsupported];
    if !capabilities.push {
        fails(client.start_upload(&name).await, &denied);
        let index = parse(ImageIndex::new(vec![]).to_bytes());
        fails(client.put_manifest(&name, &by_tag("v1"), &index).await, &denied);
    }
    if !capabilities.delete {
        fails(client.delete_blob(&name, &digest).await, &denied);
        fails(client.delete_manifest(&name, &by_tag("v1")).await, &denied);
    }
    if !capabilities.mount {
        fails(client.mount_blob(&name, &digest, &repository("b")).await, &denied);
    }
    if !capabilities.resume {
        let token = crate::client::ResumeToken::new("x");
        fails(client.resume_upload(&name, &token).await, &denied);
    }
    if capabilities.push {
        let mut upload = client.start_upload(&name).await.unwrap();
        if !capabilities.append {
            fails(upload.append(Bytes::from_static(b"x")).await, &denied);
        }
        if !capabilities.resume {
            assert_eq!(upload.token(), None);
        }
    }
    if !capabilities.catalog {
        fails(client.list_repositories(Page::default()).await, &denied);
    }
}

/// A claimed operation may fail, but not as unsupported.
pub async fn capabilities_what_is_claimed_is_there(client: SharedClient) {
    let capabilities = client.capabilities();
    let (name, other, digest) = (repository("a"), repository("b"), Digest::sha256(b"x"));
    let mut results = vec![("ping", client.ping().await)];
    if capabilities.push {
        results.push(("push", client.start_upload(&name).await.map(drop)));
    }
    if capabilities.delete {
        results.push(("delete", client.delete_blob(&name, &digest).await));
        results.push(("delete", client.delete_manifest(&name, &by_tag("v1")).await));
    }
    if capabilities.mount {
        results.push(("mount", client.mount_blob(&name, &digest, &other).await.map(drop)));
    }
    if capabilities.catalog {
        results.push(("catalog", client.list_repositories(Page::default()).await.map(drop)));
    }
    if capabilities.resume {
        let token = client.start_upload(&name).await.unwrap().token();
        let token = token.expect("an upload that can be resumed has a token");
        results.push(("resume", client.resume_upload(&name, &token).await.map(drop)));
    }
    if capabilities.append {
        let mut upload = client.start_upload(&name).await.unwrap();
        results.push(("append", upload.append(Bytes::from_static(b"x")).await));
    }
    for (what, result) in results {
        let kind = result.err().map(|e| e.kind());
        assert_ne!(kind, Some(ErrorKind::Unsupported), "the client claims `{what}`");
    }
}

pub async fn capabilities_a_client_has_a_name(client: SharedClient) {
    assert!(!client.to_string().trim().is_empty());
}
