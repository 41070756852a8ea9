//! OCI layouts, alone and as the repositories of zot.

use super::*;
use crate::import::{ExistingTags, ImportRoot, OciFolder, ZotTree};
use crate::platform::Platform;
use crate::store::{PutManifest, TagGuard};
use crate::{Error, ErrorKind};
use futures::StreamExt as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

fn blob_path(root: &Path, bytes: &[u8]) -> PathBuf {
    root.join("blobs/sha256").join(Digest::sha256(bytes).hex())
}

fn put(root: &Path, image: &Image) {
    for bytes in image.all() {
        write(&blob_path(root, bytes), bytes);
    }
}

/// Writes a layout with these entries: a manifest with its media type, and the name.
fn layout(root: &Path, entries: &[(&[u8], Option<&str>)]) {
    write(&root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    let entries = entries.iter().map(|(bytes, name)| {
        let manifest = Manifest::sniff(bytes.to_vec()).unwrap();
        let mut entry = manifest.descriptor();
        if let Some(name) = name {
            entry.annotations.insert("org.opencontainers.image.ref.name".into(), (*name).into());
        }
        entry
    });
    write(&root.join("index.json"), &ImageIndex::new(entries.collect()).to_bytes());
}

async fn open(root: &Path, repository: &str) -> OciFolder {
    OciFolder::open(root, Some(name(repository))).await.unwrap()
}

#[tokio::test]
async fn a_layout_is_imported_once_and_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let big = "x".repeat(3 << 20);
    let (one, two) = (Image::new("{}", &["a", &big]), Image::new("{ }", &["a", "b"]));
    let index = ImageIndex::new(vec![one.descriptor(), two.descriptor()]).to_bytes();
    let signature = Image::of("sig", &[], |manifest| manifest.subject = Some(one.descriptor()));
    for image in [&one, &two, &signature] {
        put(root, image);
    }
    write(&blob_path(root, &index), &index);
    layout(root, &[(&one.manifest, Some("1.0")), (&index, Some("all")), (&signature.manifest, None)]);
    let store = MemoryStore::default();
    let said = into(&store, open(root, "team/app").await).await;
    assert_eq!(said.failed, [""; 0]);
    assert_eq!((said.imported.tags_created, said.imported.manifests, said.imported.blobs), (2, 4, 6));
    for image in [&one, &two, &signature] {
        assert_whole(&store, "team/app", image).await;
    }
    assert_eq!(tagged(&store, "team/app", "all").await, Some(Digest::sha256(&index)));
    let referrers = store.list_referrers(&name("team/app"), &one.digest(), None).await.unwrap();
    assert_eq!(referrers[0].digest, signature.digest());

    let again = into(&store, open(root, "team/app").await).await.imported;
    assert_eq!((again.blobs, again.manifests, again.tags_created, again.tags_unchanged), (0, 0, 0, 2));
    assert_eq!(again.manifests_present, 4);
    // Another repository gets links and no bytes.
    let other = into(&store, open(root, "other").await).await.imported;
    assert_eq!((other.blobs, other.bytes, other.blobs_linked), (0, 0, 6));

    layout(root, &[(&two.manifest, Some("1.0")), (&index, Some("all"))]);
    let moved = into(&store, open(root, "team/app").await).await;
    assert_eq!((moved.imported.tags_moved, moved.imported.tags_unchanged), (1, 1));
    assert_eq!(tagged(&store, "team/app", "1.0").await, Some(two.digest()));
    // What the source does not have any more stays.
    assert_whole(&store, "team/app", &signature).await;
}

/// A blob that the store has lost is copied again, although its manifest is there.
#[tokio::test]
async fn an_import_brings_back_a_blob_that_the_store_lost() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::new("{}", &["layer"]);
    put(folder.path(), &image);
    layout(folder.path(), &[(&image.manifest, Some("1.0"))]);
    let store = MemoryStore::default();
    into(&store, open(folder.path(), "a").await).await;
    store.delete_blob(&name("a"), &Digest::sha256("layer")).await.unwrap();
    let said = into(&store, open(folder.path(), "a").await).await.imported;
    assert_eq!(said.blobs + said.blobs_linked, 1);
    assert_whole(&store, "a", &image).await;
}

#[tokio::test]
async fn damage_fails_only_what_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let large = "y".repeat(2 << 20);
    let layers = ["missing", "other bytes", "other size", "link", "pipe", &large, "whole"];
    let images: Vec<Image> = layers.iter().map(|layer| Image::new("{}", &["shared", layer])).collect();
    images.iter().for_each(|image| put(root, image));
    let at = |layer: &str| blob_path(root, layer.as_bytes());
    std::fs::remove_file(at("missing")).unwrap();
    std::fs::write(at("other bytes"), "other BYTES").unwrap();
    std::fs::write(at("other size"), "other").unwrap();
    std::fs::write(at(&large), "z".repeat(2 << 20)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "link").unwrap();
    std::fs::remove_file(at("link")).unwrap();
    symlink(outside.path().join("secret"), at("link")).unwrap();
    std::fs::remove_file(at("pipe")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let tags: Vec<String> = (0..images.len()).map(|n| format!("v{n}")).collect();
    let index = ImageIndex::new(vec![images[0].descriptor(), images[6].descriptor()]).to_bytes();
    write(&blob_path(root, &index), &index);
    let mut entries: Vec<(&[u8], Option<&str>)> = vec![(&index, Some("index"))];
    entries.extend(images.iter().zip(&tags).map(|(image, tag)| (&*image.manifest, Some(&**tag))));
    layout(root, &entries);

    let store = MemoryStore::default();
    let said = into(&store, open(root, "a").await).await;
    assert_eq!((said.imported.failed, said.imported.tags_created), (7, 1), "{:?}", said.failed);
    for (line, why) in said.failed.iter().zip([
        "a:index: the source does not have the blob",
        "a:v0: the source does not have the blob",
        "a:v1: the bytes of a blob do not match its digest",
        "a:v2: a blob has another size than its manifest says",
        "a:v3: a link leads out of the folder of the source",
        "a:v4: a folder, a pipe or a device is in the place of a file",
        "a:v5: the bytes of a blob do not match its digest",
    ]) {
        assert!(line.starts_with(why), "{line}");
    }
    assert!(said.failed[1].contains(Digest::sha256("missing").as_str()), "{}", said.failed[1]);
    assert_eq!(store.all_tags(&name("a")).await.unwrap(), [Tag::parse("v6").unwrap()]);
    assert_whole(&store, "a", &images[6]).await;
    for image in &images[..6] {
        let found = store.find_manifest(&name("a"), &image.digest().into()).await.unwrap();
        assert!(found.is_none(), "a manifest of an incomplete image is stored");
    }

    // When the source is mended, the rest comes.
    for layer in layers {
        std::fs::remove_file(at(layer)).unwrap_or_default();
        std::fs::write(at(layer), layer).unwrap();
    }
    let said = into(&store, open(root, "a").await).await;
    assert_eq!((said.imported.failed, said.imported.tags_created, said.imported.tags_unchanged), (0, 7, 1));
}

#[tokio::test]
async fn a_sparse_index_may_lack_images_of_platforms_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (Image::new("{}", &["a"]), Image::new("{ }", &["b"]));
    let with = |image: &Image, architecture: Option<&str>| {
        let platform = architecture.map(|name| Platform::new("linux", name, None));
        Descriptor { platform, ..image.descriptor() }
    };
    let sparse = ImageIndex::new(vec![with(&here, Some("amd64")), with(&away, Some("arm64"))]).to_bytes();
    let broken = ImageIndex::new(vec![with(&here, None), with(&away, None)]).to_bytes();
    let above = ImageIndex::new(vec![Descriptor {
        platform: Some(Platform::new("linux", "amd64", None)),
        ..Descriptor::of(media_type::OCI_INDEX, &broken)
    }]);
    let above = above.to_bytes();
    put(folder.path(), &here);
    for bytes in [&sparse, &broken, &above] {
        write(&blob_path(folder.path(), bytes), bytes);
    }
    layout(folder.path(), &[(&sparse, Some("sparse")), (&broken, Some("broken")), (&above, Some("above"))]);
    let store = MemoryStore::default();
    let options = ImportOptions { sparse: true, ..ImportOptions::default() };
    let target = ImportTarget::Store(Arc::new(store.clone()));
    let said = run(open(folder.path(), "a").await, target, options).await;
    assert_eq!(said.left_out.len(), 1, "{:?}", said.left_out);
    assert!(said.left_out[0].starts_with(&format!("a@{}: ", away.digest())), "{:?}", said.left_out);
    assert_eq!(tagged(&store, "a", "sparse").await, Some(Digest::sha256(&sparse)));
    assert_eq!(said.failed.len(), 2, "{:?}", said.failed);
    assert!(
        said.failed[0].starts_with("a:above: the source does not have the manifest"),
        "{:?}",
        said.failed
    );
    assert_eq!((tagged(&store, "a", "broken").await, tagged(&store, "a", "above").await), (None, None));
}

#[tokio::test]
async fn names_of_a_layout_say_where_images_go() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Image::new("{}", &["a"]), Image::new("{ }", &["a"]));
    put(folder.path(), &one);
    put(folder.path(), &two);
    let names = [(&*one.manifest, Some("example.org/team/app:1.0")), (&*two.manifest, Some("busybox:2"))];
    layout(folder.path(), &names);
    let store = MemoryStore::default();
    let source = OciFolder::open(folder.path(), None).await.unwrap();
    assert_eq!(into(&store, source).await.imported.tags_created, 2);
    assert_eq!(tagged(&store, "team/app", "1.0").await, Some(one.digest()));
    assert_eq!(tagged(&store, "library/busybox", "2").await, Some(two.digest()));

    // One without a repository, names that are not accepted, and a tag of two manifests.
    layout(folder.path(), &[names[0], (&two.manifest, Some("2"))]);
    let e = OciFolder::open(folder.path(), None).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Invalid && e.to_string().contains("does not name its repository"), "{e}");
    layout(folder.path(), &[names[0], (&two.manifest, Some("no tag!"))]);
    let said = into(&store, open(folder.path(), "b").await).await;
    assert!(said.failed.len() == 1 && said.failed[0].starts_with("b:no tag!: "), "{:?}", said.failed);
    assert_eq!(said.imported.tags_created, 1);
    layout(folder.path(), &[(&one.manifest, Some("1")), (&two.manifest, Some("1"))]);
    let said = into(&store, open(folder.path(), "c").await).await;
    assert_eq!((said.imported.failed, said.imported.manifests), (1, 2));
    assert!(said.failed[0].contains(one.digest().as_str()), "{:?}", said.failed);
    assert_eq!(tagged(&store, "c", "1").await, None);
}

#[tokio::test]
async fn tags_of_the_store_may_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Image::new("{}", &["a"]), Image::new("{ }", &["a"]));
    put(folder.path(), &old);
    put(folder.path(), &new);
    layout(folder.path(), &[(&old.manifest, Some("1"))]);
    let store = MemoryStore::default();
    into(&store, open(folder.path(), "a").await).await;
    layout(folder.path(), &[(&new.manifest, Some("1")), (&new.manifest, Some("2"))]);
    let target = || ImportTarget::Store(Arc::new(store.clone()));
    let keep = ImportOptions { existing_tags: ExistingTags::Keep, ..ImportOptions::default() };
    let said = run(open(folder.path(), "a").await, target(), keep).await;
    assert_eq!((said.imported.tags_kept, said.imported.tags_created, said.imported.failed), (1, 1, 0));
    assert_eq!(tagged(&store, "a", "1").await, Some(old.digest()));
    assert_whole(&store, "a", &new).await;
    // A rule that refuses to move is a failure, in a dry run as well.
    let guard = TagGuard::new(|_, change| match change {
        crate::store::TagChange::Move => Err(Error::new(ErrorKind::Denied, "the tag is immutable")),
        _ => Ok(()),
    });
    for target in [target(), ImportTarget::DryRun(Some(Arc::new(store.meta().clone())))] {
        let guard = guard.clone();
        let guard: crate::import::TagRules = Arc::new(move |_| Some(guard.clone()));
        let options = ImportOptions { guard: Some(guard), ..ImportOptions::default() };
        let said = run(open(folder.path(), "a").await, target, options).await;
        assert_eq!(said.failed, ["a:1: the tag is immutable"]);
        assert_eq!(tagged(&store, "a", "1").await, Some(old.digest()));
    }
}

#[tokio::test]
async fn a_dry_run_says_what_an_import_does() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Image::new("{}", &["a", "b"]), Image::new("{ }", &["a"]));
    put(folder.path(), &one);
    put(folder.path(), &two);
    layout(folder.path(), &[(&one.manifest, Some("1"))]);
    let store = MemoryStore::default();
    into(&store, open(folder.path(), "a").await).await;
    layout(
        folder.path(),
        &[(&one.manifest, Some("1")), (&two.manifest, Some("2")), (&two.manifest, Some("3"))],
    );
    std::fs::remove_file(blob_path(folder.path(), b"b")).unwrap();
    let dry = ImportTarget::DryRun(Some(Arc::new(store.meta().clone())));
    let before = store.version();
    let dry = run(open(folder.path(), "a").await, dry, ImportOptions::default()).await;
    assert_eq!(store.version(), before, "a dry run changed the store");
    let done = into(&store, open(folder.path(), "a").await).await;
    assert_eq!((dry.imported, dry.lines), (done.imported, done.lines));
    let nothing = run(open(folder.path(), "a").await, ImportTarget::DryRun(None), ImportOptions::default());
    let nothing = nothing.await;
    // Of the image that fails, a blob may have been counted before.
    assert!((2..=3).contains(&nothing.imported.blobs), "{:?}", nothing.imported);
    assert_eq!(nothing.imported.tags_created, 2);
    assert!(nothing.failed.len() == 1 && nothing.failed[0].starts_with("a:1: "), "{:?}", nothing.failed);
}

#[tokio::test]
async fn a_folder_that_is_no_layout_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let oci = async || OciFolder::open(root, Some(name("a"))).await.unwrap_err();
    let e = oci().await;
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("`oci-layout`"), "{e}");
    let e = ZotTree::open(root).await.unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("`index.json`"), "{e}");
    write(&root.join("oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#);
    assert_eq!(oci().await.kind(), ErrorKind::Unsupported);
    write(&root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(oci().await.kind(), ErrorKind::NotFound);
    write(&root.join("index.json"), b"{");
    assert_eq!(oci().await.kind(), ErrorKind::ManifestInvalid);
    let missing = OciFolder::open(root.join("none"), None).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_tree_of_zot_has_nested_names_and_shared_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (one, two) = (Image::new("{}", &["shared", ""]), Image::new("{ }", &["shared"]));
    for (repository, image) in [("team/app", &one), ("team/app/deep", &two), ("other", &two)] {
        put(&root.join(repository), image);
        layout(&root.join(repository), &[(&image.manifest, Some("1.0"))]);
    }
    // As after a copy from a bucket: another repository has the bytes.
    for bytes in two.all() {
        std::fs::write(blob_path(&root.join("other"), bytes), "").unwrap();
    }
    // Unfinished work, and names that are not accepted here.
    layout(&root.join("team/.sync/x"), &[(&one.manifest, Some("1"))]);
    write(&root.join("team/app/.uploads/x"), b"half");
    layout(&root.join("Team"), &[(&one.manifest, Some("1"))]);
    write(&root.join("lost/index.json"), b"{}");
    let store = MemoryStore::default();
    let said = into(&store, ZotTree::open(root).await.unwrap()).await;
    assert_eq!(said.failed.len(), 2, "{:?}", said.failed);
    assert!(
        said.failed[0].starts_with("Team: ") && said.failed[1].starts_with("lost: "),
        "{:?}",
        said.failed
    );
    assert_whole(&store, "team/app", &one).await;
    assert_whole(&store, "team/app/deep", &two).await;
    assert_whole(&store, "other", &two).await;
    assert_eq!(said.imported.tags_created, 3);

    let only: crate::import::RepositoryFilter = Arc::new(|name| name.starts_with("team/"));
    let options = ImportOptions { only: Some(only), ..ImportOptions::default() };
    let target = ImportTarget::Store(Arc::new(MemoryStore::default()));
    let chosen = run(ZotTree::open(root).await.unwrap(), target.clone(), options).await.imported;
    assert_eq!((chosen.repositories, chosen.skipped, chosen.failed), (2, 3, 0));
    let options = ImportOptions { only: Some(Arc::new(|_| false)), ..ImportOptions::default() };
    let e = import(Arc::new(ZotTree::open(root).await.unwrap()), target, options).await.unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("is chosen"), "{e}");
}

/// A blob is the source's to give in a repository only when that repository has it.
#[tokio::test]
async fn a_manifest_gets_no_blob_of_another_repository() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (private, thief) = (Image::new("{}", &["private"]), Image::new("{ }", &["private"]));
    for (repository, image) in [("a/private", &private), ("b/thief", &thief)] {
        put(&root.join(repository), image);
        layout(&root.join(repository), &[(&image.manifest, Some("1"))]);
    }
    std::fs::remove_file(blob_path(&root.join("b/thief"), b"private")).unwrap();
    let store = MemoryStore::default();
    for _ in 0..2 {
        let said = into(&store, ZotTree::open(root).await.unwrap()).await;
        assert!(said.failed.len() == 1 && said.failed[0].starts_with("b/thief:1: "), "{:?}", said.failed);
        assert!(!store.has_blob(&name("b/thief"), &Digest::sha256("private")).await.unwrap());
    }
}

/// zot replaces the index with every push.
#[tokio::test]
async fn an_index_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a");
    let images: Vec<Image> = (0..600).map(|n| Image::new(&n.to_string(), &[])).collect();
    let tags: Vec<String> = (0..600).map(|n| format!("v{n}")).collect();
    let all: Vec<(&[u8], Option<&str>)> =
        images.iter().zip(&tags).map(|(image, tag)| (&*image.manifest, Some(&**tag))).collect();
    layout(&root, &all);
    let source = ZotTree::open(folder.path()).await.unwrap();
    let mut roots = source.roots(&name("a"));
    let mut seen = vec![roots.next().await.unwrap().unwrap()];
    layout(&root, &all[..1]);
    while let Some(root) = roots.next().await {
        seen.push(root.unwrap());
    }
    assert_eq!(seen.len(), 600);
    assert!(seen.iter().all(|root| matches!(root, ImportRoot::Tag(_, Some(_)))));
    let first = |root: &ImportRoot| matches!(root, ImportRoot::Tag(tag, Some(at)) if tag == "v0" && at.digest == images[0].digest());
    assert!(seen.iter().any(first));
    let store = MemoryStore::default();
    put(&folder.path().join("a"), &images[1]);
    layout(&folder.path().join("a"), &[all[0], all[1]]);
    let said = into(&store, ZotTree::open(folder.path()).await.unwrap()).await;
    assert_eq!((said.imported.tags_created, said.failed.len(), said.left_out.len()), (1, 1, 0));
}

#[tokio::test]
async fn images_of_any_depth_and_number_end() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut bytes = ImageIndex::new(Vec::new()).to_bytes();
    let mut entries = Vec::new();
    for _ in 0..12 {
        write(&blob_path(root, &bytes), &bytes);
        entries.push(bytes.clone());
        bytes = ImageIndex::new(vec![Descriptor::of(media_type::OCI_INDEX, &bytes)]).to_bytes();
    }
    let store = MemoryStore::default();
    layout(root, &[(&entries[11], Some("deep"))]);
    let said = into(&store, open(root, "a").await).await;
    assert!(said.failed.len() == 1 && said.failed[0].starts_with("a:deep: "), "{:?}", said.failed);
    assert!(said.failed[0].contains("nests too many"), "{:?}", said.failed);
    layout(root, &[(&entries[5], Some("flat"))]);
    assert_eq!(into(&store, open(root, "a").await).await.failed, [""; 0]);
    assert!(tagged(&store, "a", "flat").await.is_some());
}

/// A full store ends the import: nothing else could be stored.
#[tokio::test]
async fn a_store_that_refuses_everything_ends_the_import() {
    let folder = tempfile::tempdir().unwrap();
    let images: Vec<Image> = (0..20).map(|n| Image::new(&n.to_string(), &["a"])).collect();
    images.iter().for_each(|image| put(folder.path(), image));
    let all: Vec<(&[u8], Option<&str>)> = images.iter().map(|image| (&*image.manifest, None)).collect();
    layout(folder.path(), &all);
    let store = crate::store::wrap::ReadOnly::new(Arc::new(MemoryStore::default()));
    let source = Arc::new(open(folder.path(), "a").await);
    let outcome = import(source, ImportTarget::Store(Arc::new(store)), ImportOptions::default()).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// A tag that was pushed between the look and the change is not replaced where tags are kept.
#[tokio::test]
async fn a_push_beside_an_import_is_not_lost_where_tags_are_kept() {
    let store = MemoryStore::default();
    let manifest = Manifest::sniff(ImageIndex::new(vec![]).to_bytes()).unwrap();
    store.put_manifest(&name("a"), PutManifest::new(manifest.clone(), [Tag::latest()])).await.unwrap();
    let late = Manifest::sniff(
        ImageIndex { artifact_type: Some("a/b".into()), ..ImageIndex::new(vec![]) }.to_bytes(),
    );
    let put = PutManifest { if_match: Some(None), ..PutManifest::new(late.unwrap(), [Tag::latest()]) };
    let refused = ImportTarget::Store(Arc::new(store.clone())).put(&name("a"), put).await;
    assert!(matches!(refused, Err(crate::import::target::Stop::Image(e)) if e.kind() == ErrorKind::Conflict));
    assert_eq!(tagged(&store, "a", "latest").await, Some(manifest.digest().clone()));
}

#[tokio::test]
async fn a_name_that_is_no_tag_moves_no_tag() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::new("{}", &["a"]);
    put(folder.path(), &image);
    layout(folder.path(), &[(&image.manifest, Some("feature/branch"))]);
    let store = MemoryStore::default();
    let said = into(&store, open(folder.path(), "app").await).await;
    assert_eq!((said.imported.failed, said.imported.tags_created), (1, 0), "{:?}", said.lines);
    assert!(said.failed[0].starts_with("app:feature/branch"), "{:?}", said.failed);
    assert_eq!(tagged(&store, "app", "latest").await, None);
}

#[tokio::test]
async fn an_index_that_lacks_an_image_fails_unless_sparse_ones_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (Image::new("{}", &["a"]), Image::new("{ }", &["b"]));
    put(folder.path(), &here);
    let mut entries = [here.descriptor(), away.descriptor()];
    for entry in &mut entries {
        entry.platform = Some(Platform::new("linux", "amd64", None));
    }
    let mut strange = Descriptor::of("application/x-unknown", b"not here");
    strange.platform = entries[0].platform.clone();
    let index = ImageIndex::new(entries.to_vec()).to_bytes();
    let with_strange = ImageIndex::new(vec![here.descriptor(), strange.clone()]).to_bytes();
    for bytes in [&index, &with_strange] {
        write(&blob_path(folder.path(), bytes), bytes);
    }
    layout(folder.path(), &[(&index, Some("all")), (&with_strange, Some("strange"))]);
    let store = MemoryStore::default();
    let said = into(&store, open(folder.path(), "app").await).await;
    assert_eq!((said.imported.failed, said.imported.left_out), (2, 0), "{:?}", said.failed);
    assert!(said.failed[0].contains(away.digest().as_str()), "{:?}", said.failed);
    assert!(said.failed[1].contains(strange.digest.as_str()), "{:?}", said.failed);
    assert_eq!(tagged(&store, "app", "all").await, None);
    let options = ImportOptions { sparse: true, ..ImportOptions::default() };
    let target = ImportTarget::Store(Arc::new(store.clone()));
    let said = run(open(folder.path(), "app").await, target, options).await;
    assert_eq!((said.imported.failed, said.imported.left_out), (0, 2), "{:?}", said.failed);
    assert!(said.left_out.iter().any(|line| line.contains(away.digest().as_str())), "{:?}", said.left_out);
    assert!(said.left_out.iter().any(|line| line.contains(strange.digest.as_str())), "{:?}", said.left_out);
    assert_eq!(tagged(&store, "app", "all").await, Some(Digest::sha256(&index)));
}

/// A layer that others may not distribute lies elsewhere; that it is left out is said.
#[tokio::test]
async fn a_layer_that_lies_elsewhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = Image::of("{}", &["foreign"], |manifest| {
        manifest.layers[0].urls = vec!["https://example.com/layer".to_owned()];
    });
    put(folder.path(), &image);
    layout(folder.path(), &[(&image.manifest, Some("1.0"))]);
    std::fs::remove_file(blob_path(folder.path(), b"foreign")).unwrap();
    let store = MemoryStore::default();
    let said = into(&store, open(folder.path(), "app").await).await;
    assert_eq!((said.imported.failed, said.imported.left_out), (0, 1), "{:?}", said.failed);
    assert!(said.left_out[0].contains(Digest::sha256("foreign").as_str()), "{:?}", said.left_out);
    image.blobs.truncate(1);
    assert_whole(&store, "app", &image).await;
}

#[tokio::test]
async fn links_and_strange_names_in_the_storage_of_zot_are_reported() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let image = Image::new("{}", &["a"]);
    for repository in ["team", "team/app"] {
        put(&root.join(repository), &image);
        layout(&root.join(repository), &[(&image.manifest, Some("1.0"))]);
    }
    symlink(root.join("team/app"), root.join("team/linked")).unwrap();
    let strange = root.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    put(&strange, &image);
    layout(&strange, &[(&image.manifest, Some("1.0"))]);
    let store = MemoryStore::default();
    let said = into(&store, ZotTree::open(root).await.unwrap()).await;
    assert_eq!((said.imported.failed, said.imported.tags_created), (2, 2), "{:?}", said.failed);
    assert!(said.failed.iter().any(|line| line.contains("team/linked")), "{:?}", said.failed);
    assert!(said.failed.iter().any(|line| line.contains("not UTF-8")), "{:?}", said.failed);
}
