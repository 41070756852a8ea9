//! Manifests: bytes, references, indexes, referrers.

use super::kit::*;
use crate::digest::Algorithm;
use crate::media_type;
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::platform::Platform;
use crate::store::{Page, PutManifest, RegistryStoreExt as _, SharedStore, UploadOptions};
use crate::testing::{ImageShape, RandomImage};
use crate::{Digest, ErrorKind};

const MISSING: &[ErrorKind] = &[ErrorKind::ManifestBlobUnknown];
const UNKNOWN: &[ErrorKind] = &[ErrorKind::ManifestUnknown];

pub async fn a_manifest_keeps_its_bytes(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let value = serde_json::to_value(image(&store, &name, "x").await).unwrap();
    let pretty = format!("{}\n \n", serde_json::to_string_pretty(&value).unwrap());
    let manifest = parse(pretty.clone());
    let descriptor = put(&store, &name, &manifest, &["t"]).await.unwrap();
    assert_eq!(descriptor.digest, Digest::sha256(&pretty));
    let got = store.get_manifest(&name, &by_tag("t")).await.unwrap();
    assert_eq!(got.bytes(), pretty.as_bytes());
    assert_eq!(got, manifest);
}

pub async fn a_manifest_is_found_by_tag_and_digest(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let manifest = push_image(&store, &name, "x", &["t"]).await;
    for reference in [by_tag("t"), by_digest(manifest.digest())] {
        let got = store.get_manifest(&name, &reference).await.unwrap();
        assert_eq!((got.digest(), got.media_type()), (manifest.digest(), media_type::OCI_MANIFEST));
    }
    assert_eq!(&store.resolve(&name, &by_tag("t")).await.unwrap(), manifest.digest());
    let image = store.get_image(&name, &by_tag("t"), None).await.unwrap();
    assert_eq!(image.config.author.as_deref(), Some("x"));
}

pub async fn random_images_can_be_read(store: SharedStore) {
    needs!(store, write);
    let shape = ImageShape { layers: 3, entries: 15, largest: 60_000, ..ImageShape::default() };
    for seed in 1..=3 {
        let (image, name) = (RandomImage::with_shape(seed, &shape), repository(&format!("random/{seed}")));
        for (n, (descriptor, bytes)) in image.blobs().enumerate() {
            // Every way to store a blob: from memory, as a stream, and in chunks of odd lengths.
            match n % 3 {
                0 => drop(store.put_blob(&name, &descriptor.digest, bytes.clone()).await.unwrap()),
                1 => drop(store.put_blob_stream(&name, None, &bytes[..]).await.unwrap()),
                _ => {
                    let mut upload = store.start_upload(&name, UploadOptions::default()).await.unwrap();
                    for piece in bytes.chunks(7919) {
                        upload.append(bytes.slice_ref(piece)).await.unwrap();
                    }
                    upload.finish(&descriptor.digest).await.unwrap();
                }
            }
        }
        put(&store, &name, &image.manifest, &["v1"]).await.unwrap();
        assert_eq!(store.get_manifest(&name, &by_tag("v1")).await.unwrap(), image.manifest, "seed {seed}");
        for (descriptor, bytes) in image.blobs() {
            let found = store.read_blob(&name, &descriptor.digest, descriptor.size).await.unwrap();
            assert!(found == bytes, "seed {seed}: {}", descriptor.digest);
        }
        let found = store.get_image(&name, &by_tag("v1"), None).await.unwrap();
        assert_eq!(found.config.rootfs.diff_ids.len(), image.layers.len());
    }
}

pub async fn a_manifest_may_have_no_tag(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let manifest = push_image(&store, &name, "x", &[]).await;
    assert!(tags(&*store, &name).await.is_empty());
    assert_eq!(store.get_manifest(&name, &by_digest(manifest.digest())).await.unwrap(), manifest);
}

pub async fn a_sha512_manifest_keeps_its_digest(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = image(&store, &name, "x").await.to_bytes();
    let digest = Algorithm::Sha512.digest(&bytes);
    let manifest = parse(bytes).with_digest(&digest).unwrap();
    assert_eq!(put(&store, &name, &manifest, &["t"]).await.unwrap().digest, digest);
    for reference in [by_tag("t"), by_digest(&digest)] {
        assert_eq!(store.get_manifest(&name, &reference).await.unwrap().digest(), &digest);
    }
}

pub async fn an_unknown_manifest_is_manifest_unknown(store: SharedStore) {
    let references = || [by_tag("t"), by_digest(&Digest::sha256("x"))];
    for reference in references() {
        fails(store.get_manifest(&repository("no/such"), &reference).await, UNKNOWN);
        assert_eq!(store.find_manifest(&repository("no/such"), &reference).await.unwrap(), None);
    }
    needs!(store, write);
    push(&store, &repository("a"), "x").await;
    for reference in references() {
        fails(store.get_manifest(&repository("a"), &reference).await, UNKNOWN);
    }
}

pub async fn docker_manifests_keep_their_media_type(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut image = image(&store, &name, "x").await;
    image.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
    image.config.media_type = media_type::DOCKER_CONFIG.to_owned();
    let manifest = parse(image.to_bytes());
    put(&store, &name, &manifest, &["t"]).await.unwrap();
    let mut list = ImageIndex::new(vec![manifest.descriptor()]);
    list.media_type = Some(media_type::DOCKER_MANIFEST_LIST.to_owned());
    put(&store, &name, &parse(list.to_bytes()), &["list"]).await.unwrap();
    let got = store.get_manifest(&name, &by_tag("t")).await.unwrap();
    assert_eq!(got.media_type(), media_type::DOCKER_MANIFEST);
    let got = store.get_manifest(&name, &by_tag("list")).await.unwrap();
    assert_eq!(got.media_type(), media_type::DOCKER_MANIFEST_LIST);
}

pub async fn a_missing_config_is_rejected(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut image = image(&store, &name, "x").await;
    image.config = Descriptor::of(media_type::OCI_CONFIG, b"not pushed");
    fails(put(&store, &name, &parse(image.to_bytes()), &["t"]).await, MISSING);
}

pub async fn a_missing_layer_is_rejected(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut image = image(&store, &name, "x").await;
    image.layers.push(Descriptor::of(media_type::OCI_LAYER_GZIP, b"not pushed"));
    let manifest = parse(image.to_bytes());
    fails(put(&store, &name, &manifest, &["t"]).await, MISSING);
    push(&store, &name, "not pushed").await;
    put(&store, &name, &manifest, &["t"]).await.unwrap();
}

pub async fn a_rejected_manifest_changes_nothing(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let old = push_image(&store, &name, "old", &["t"]).await;
    let mut image = image(&store, &name, "new").await;
    image.subject = Some(old.descriptor());
    image.layers.push(Descriptor::of(media_type::OCI_LAYER, b"not pushed"));
    let manifest = parse(image.to_bytes());
    fails(put(&store, &name, &manifest, &["t", "u"]).await, MISSING);
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), old);
    fails(store.get_manifest(&name, &by_tag("u")).await, UNKNOWN);
    fails(store.get_manifest(&name, &by_digest(manifest.digest())).await, UNKNOWN);
    assert!(store.list_referrers(&name, old.digest(), None).await.unwrap().is_empty());
    fails(put(&store, &repository("b"), &manifest, &["t"]).await, MISSING);
    let all = store.list_repositories(Page::default()).await.unwrap().items;
    assert_eq!(all, [name], "a rejected manifest creates no repository");
}

pub async fn a_blob_of_another_repository_does_not_count(store: SharedStore) {
    needs!(store, write);
    let manifest = push_image(&store, &repository("a"), "x", &["t"]).await;
    fails(put(&store, &repository("b"), &manifest, &["t"]).await, MISSING);
    let index = parse(ImageIndex::new(vec![manifest.descriptor()]).to_bytes());
    fails(put(&store, &repository("b"), &index, &["t"]).await, MISSING);
}

pub async fn non_distributable_layers_may_be_missing(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut image = image(&store, &name, "x").await;
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    image.layers.push(Descriptor::of(foreign, b"elsewhere"));
    let mut with_url = Descriptor::of(media_type::OCI_LAYER_GZIP, b"at a URL");
    with_url.urls.push("https://example.org/layer".to_owned());
    image.layers.push(with_url);
    put(&store, &name, &parse(image.to_bytes()), &["t"]).await.unwrap();
}

pub async fn an_index_needs_its_manifests(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let manifest = parse(image(&store, &name, "x").await.to_bytes());
    let index = parse(ImageIndex::new(vec![manifest.descriptor()]).to_bytes());
    fails(put(&store, &name, &index, &["t"]).await, MISSING);
    put(&store, &name, &manifest, &[]).await.unwrap();
    put(&store, &name, &index, &["t"]).await.unwrap();
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), index);
}

pub async fn an_index_may_contain_indexes(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let manifest = push_image(&store, &name, "x", &[]).await;
    let inner = parse(ImageIndex::new(vec![manifest.descriptor()]).to_bytes());
    put(&store, &name, &inner, &[]).await.unwrap();
    let outer = parse(ImageIndex::new(vec![inner.descriptor()]).to_bytes());
    put(&store, &name, &outer, &["t"]).await.unwrap();
    let image = store.get_image(&name, &by_tag("t"), None).await.unwrap();
    assert_eq!(image.manifest, manifest);
}

pub async fn a_sparse_index_is_accepted(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let manifest = push_image(&store, &name, "x", &[]).await;
    let entry = |d: Descriptor, architecture: &str| Descriptor {
        platform: Some(Platform::new("linux", architecture, None)),
        ..d
    };
    let absent = Descriptor::of(media_type::OCI_MANIFEST, b"left out");
    let index = ImageIndex::new(vec![entry(manifest.descriptor(), "amd64"), entry(absent, "riscv64")]);
    put(&store, &name, &parse(index.to_bytes()), &["t"]).await.unwrap();
    let amd64 = Platform::new("linux", "amd64", None);
    let image = store.get_image(&name, &by_tag("t"), Some(&amd64)).await.unwrap();
    assert_eq!(image.manifest, manifest);
    let arm64 = Platform::new("linux", "arm64", None);
    fails(store.get_image(&name, &by_tag("t"), Some(&arm64)).await, UNKNOWN);
}

pub async fn an_index_may_contain_blobs(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let layer = push(&store, &name, "a cached layer").await;
    let config = push(&store, &name, "{}").await;
    let config = Descriptor { media_type: "application/vnd.example.cache.config.v0".to_owned(), ..config };
    let index = parse(ImageIndex::new(vec![layer.clone(), config]).to_bytes());
    put(&store, &name, &index, &["cache"]).await.unwrap();
    assert_eq!(store.get_manifest(&name, &by_tag("cache")).await.unwrap(), index);
    let missing = Descriptor::of(media_type::OCI_LAYER_GZIP, b"not pushed");
    let index = parse(ImageIndex::new(vec![layer, missing]).to_bytes());
    fails(put(&store, &name, &index, &["cache"]).await, MISSING);
    fails(put(&store, &repository("b"), &index, &["cache"]).await, MISSING);
}

pub async fn a_descriptor_with_a_wrong_size_is_rejected(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let good = image(&store, &name, "x").await;
    let child = parse(good.to_bytes());
    put(&store, &name, &child, &["t"]).await.unwrap();
    let refused = |bytes: Vec<u8>| {
        let store = store.clone();
        async move {
            let outcome = put(&store, &repository("a"), &parse(bytes), &["t"]).await;
            fails(outcome, &[ErrorKind::SizeInvalid, ErrorKind::ManifestInvalid]);
        }
    };
    for size in [0, 1 << 40] {
        let mut image = good.clone();
        image.config.size = size;
        refused(image.to_bytes()).await;
        let mut image = good.clone();
        image.layers[0].size = size;
        refused(image.to_bytes()).await;
        let mut twice = good.clone();
        twice.layers.push(Descriptor { size, ..good.layers[0].clone() });
        refused(twice.to_bytes()).await;
        let mut foreign = good.clone();
        foreign.layers[0].urls.push("https://example.org/layer".to_owned());
        foreign.layers[0].size = size;
        refused(foreign.to_bytes()).await;
        refused(ImageIndex::new(vec![Descriptor { size, ..child.descriptor() }]).to_bytes()).await;
        let optional = Some(Platform::new("linux", "amd64", None));
        let entry = Descriptor { size, platform: optional, ..child.descriptor() };
        refused(ImageIndex::new(vec![entry]).to_bytes()).await;
        refused(ImageIndex::new(vec![Descriptor { size, ..good.layers[0].clone() }]).to_bytes()).await;
        let inner = parse(ImageIndex::new(vec![child.descriptor()]).to_bytes());
        put(&store, &name, &inner, &[]).await.unwrap();
        refused(ImageIndex::new(vec![Descriptor { size, ..inner.descriptor() }]).to_bytes()).await;
    }
    assert_eq!(store.get_manifest(&name, &by_tag("t")).await.unwrap(), child);
}

pub async fn the_same_bytes_keep_their_media_type(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let mut image = image(&store, &name, "x").await;
    image.media_type = None;
    let oci = Manifest::parse(image.to_bytes(), media_type::OCI_MANIFEST).unwrap();
    let docker = Manifest::parse(image.to_bytes(), media_type::DOCKER_MANIFEST).unwrap();
    put(&store, &name, &oci, &["first"]).await.unwrap();
    let second = put(&store, &name, &docker, &["second"]).await;
    fails(second, &[ErrorKind::ManifestInvalid, ErrorKind::Conflict]);
    for reference in [by_tag("first"), by_digest(oci.digest())] {
        assert_eq!(store.get_manifest(&name, &reference).await.unwrap(), oci);
    }
    put(&store, &name, &oci, &["second"]).await.unwrap();
    assert_eq!(store.get_manifest(&name, &by_tag("second")).await.unwrap(), oci);
    // Each repository decides for itself, and a deleted manifest does not count.
    let (from, to) = (&name, &repository("b"));
    for digest in [&image.config.digest, &image.layers[0].digest] {
        store.mount_blob(to, digest, from).await.unwrap();
    }
    put(&store, to, &docker, &["first"]).await.unwrap();
    store.delete_manifest(&name, &by_digest(oci.digest())).await.unwrap();
    put(&store, &name, &docker, &["second"]).await.unwrap();
    assert_eq!(store.get_manifest(&name, &by_tag("second")).await.unwrap(), docker);
}

pub async fn a_missing_subject_is_accepted(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let mut image = image(&store, &name, "x").await;
    let subject = Descriptor::of(media_type::OCI_MANIFEST, b"comes later");
    image.subject = Some(subject.clone());
    let manifest = parse(image.to_bytes());
    put(&store, &name, &manifest, &[]).await.unwrap();
    let referrers = store.list_referrers(&name, &subject.digest, None).await.unwrap();
    assert_eq!(referrers.len(), 1);
    assert_eq!(&referrers[0].digest, manifest.digest());
}

pub async fn a_manifest_pushed_twice_is_stored_once(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let subject = push_image(&store, &name, "subject", &[]).await;
    let mut image = image(&store, &name, "x").await;
    image.subject = Some(subject.descriptor());
    let manifest = parse(image.to_bytes());
    for tag in ["one", "two"] {
        put(&store, &name, &manifest, &[tag]).await.unwrap();
    }
    assert_eq!(store.list_referrers(&name, subject.digest(), None).await.unwrap().len(), 1);
    assert_eq!(tags(&*store, &name).await, ["one", "two"]);
}

pub async fn repositories_do_not_leak_manifests(store: SharedStore) {
    needs!(store, write);
    let manifest = push_image(&store, &repository("mine"), "x", &["t"]).await;
    push_image(&store, &repository("yours"), "y", &["u"]).await;
    for reference in [by_tag("t"), by_digest(manifest.digest())] {
        fails(store.get_manifest(&repository("yours"), &reference).await, UNKNOWN);
    }
}

pub async fn deleting_a_digest_deletes_its_tags(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let gone = push_image(&store, &name, "gone", &["a", "b", "c"]).await;
    let kept = push_image(&store, &name, "kept", &["d"]).await;
    store.delete_manifest(&name, &by_digest(gone.digest())).await.unwrap();
    assert_eq!(tags(&*store, &name).await, ["d"]);
    fails(store.get_manifest(&name, &by_tag("a")).await, UNKNOWN);
    fails(store.get_manifest(&name, &by_digest(gone.digest())).await, UNKNOWN);
    assert_eq!(store.get_manifest(&name, &by_tag("d")).await.unwrap(), kept);
    put(&store, &name, &gone, &["a"]).await.unwrap();
}

pub async fn deleting_an_unknown_manifest_is_manifest_unknown(store: SharedStore) {
    needs!(store, delete);
    for reference in [by_tag("t"), by_digest(&Digest::sha256("x"))] {
        fails(store.delete_manifest(&repository("a"), &reference).await, UNKNOWN);
    }
}

async fn referrer(store: &SharedStore, subject: &Descriptor, text: &str, kind: Option<&str>) -> Digest {
    let name = repository("a");
    let mut artifact: ImageManifest = image(store, &name, text).await;
    artifact.subject = Some(subject.clone());
    artifact.artifact_type = kind.map(str::to_owned);
    artifact.annotations.insert("org.example.name".to_owned(), text.to_owned());
    let manifest = parse(artifact.to_bytes());
    put(store, &name, &manifest, &[]).await.unwrap();
    manifest.digest().clone()
}

pub async fn referrers_are_listed_with_type_and_annotations(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let subject = push_image(&store, &name, "subject", &[]).await.descriptor();
    let mut expected = vec![
        (referrer(&store, &subject, "sbom", Some("application/sbom")).await, "application/sbom", "sbom"),
        (referrer(&store, &subject, "image", None).await, media_type::OCI_CONFIG, "image"),
    ];
    expected.sort();
    let mut got = store.list_referrers(&name, &subject.digest, None).await.unwrap();
    assert_eq!(got, store.list_referrers(&name, &subject.digest, None).await.unwrap(), "the order is stable");
    got.sort_by(|a, b| a.digest.cmp(&b.digest));
    assert_eq!(got.len(), 2);
    for (got, (digest, kind, text)) in got.iter().zip(&expected) {
        assert_eq!(&got.digest, digest);
        assert_eq!(got.media_type, media_type::OCI_MANIFEST);
        assert_eq!(got.artifact_type.as_deref(), Some(*kind));
        assert_eq!(got.annotations["org.example.name"], *text);
        let manifest = store.get_manifest(&name, &by_digest(digest)).await.unwrap();
        assert_eq!(got.size, manifest.bytes().len() as u64);
    }
}

pub async fn referrers_are_filtered(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let subject = push_image(&store, &name, "subject", &[]).await.descriptor();
    let sbom = referrer(&store, &subject, "sbom", Some("application/sbom")).await;
    referrer(&store, &subject, "sig", Some("application/signature")).await;
    let got = store.list_referrers(&name, &subject.digest, Some("application/sbom")).await.unwrap();
    assert_eq!(got.iter().map(|d| &d.digest).collect::<Vec<_>>(), [&sbom]);
    assert!(store.list_referrers(&name, &subject.digest, Some("no/such")).await.unwrap().is_empty());
}

pub async fn an_unknown_subject_has_no_referrers(store: SharedStore) {
    let digest = Digest::sha256("unknown");
    assert!(store.list_referrers(&repository("no/such"), &digest, None).await.unwrap().is_empty());
    needs!(store, write);
    let manifest = push_image(&store, &repository("a"), "x", &[]).await;
    assert!(store.list_referrers(&repository("a"), manifest.digest(), None).await.unwrap().is_empty());
}

pub async fn a_deleted_referrer_is_not_listed(store: SharedStore) {
    needs!(store, write, delete);
    let name = repository("a");
    let subject = push_image(&store, &name, "subject", &[]).await.descriptor();
    let first = referrer(&store, &subject, "one", None).await;
    let second = referrer(&store, &subject, "two", None).await;
    store.delete_manifest(&name, &by_digest(&first)).await.unwrap();
    let got = store.list_referrers(&name, &subject.digest, None).await.unwrap();
    assert_eq!(got.iter().map(|d| &d.digest).collect::<Vec<_>>(), [&second]);
    store.delete_manifest(&name, &by_digest(&subject.digest)).await.unwrap();
    assert_eq!(store.list_referrers(&name, &subject.digest, None).await.unwrap().len(), 1);
}

pub async fn an_index_may_be_a_referrer(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let subject = push_image(&store, &name, "subject", &[]).await.descriptor();
    let mut index = ImageIndex::new(vec![subject.clone()]);
    index.subject = Some(subject.clone());
    index.artifact_type = Some("application/example".to_owned());
    let manifest = parse(index.to_bytes());
    store.put_manifest(&name, PutManifest::new(manifest.clone(), [])).await.unwrap();
    let got = store.list_referrers(&name, &subject.digest, Some("application/example")).await.unwrap();
    assert_eq!((got.len(), &got[0].digest), (1, manifest.digest()));
    assert_eq!(got[0].media_type, media_type::OCI_INDEX);
}
