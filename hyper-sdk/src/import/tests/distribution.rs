//! The storage folder of Distribution.

use super::*;
use crate::ErrorKind;
use crate::import::DistributionTree;

/// A storage folder.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join("docker/registry/v2").join(name)
    }

    fn data(&self, digest: &Digest, bytes: &[u8]) {
        let hex = digest.hex();
        write(&self.path(&format!("blobs/{}/{}/{hex}/data", digest.algorithm(), &hex[..2])), bytes);
    }

    fn link(&self, folder: &str, digest: &Digest) {
        let path = format!("repositories/{folder}/{}/{}/link", digest.algorithm(), digest.hex());
        write(&self.path(&path), digest.as_str().as_bytes());
    }

    fn tag(&self, repository: &str, tag: &str, link: &str) {
        let path = format!("repositories/{repository}/_manifests/tags/{tag}/current/link");
        write(&self.path(&path), link.as_bytes());
    }

    fn blob(&self, repository: &str, bytes: &[u8]) {
        let digest = Digest::sha256(bytes);
        self.data(&digest, bytes);
        self.link(&format!("{repository}/_layers"), &digest);
    }

    fn manifest(&self, repository: &str, digest: &Digest, bytes: &[u8]) {
        self.data(digest, bytes);
        self.link(&format!("{repository}/_manifests/revisions"), digest);
    }

    fn image(&self, repository: &str, image: &Image, tags: &[&str]) {
        image.blobs.iter().for_each(|bytes| self.blob(repository, bytes));
        self.manifest(repository, &image.digest(), &image.manifest);
        tags.iter().for_each(|tag| self.tag(repository, tag, image.digest().as_str()));
    }
}

#[tokio::test]
async fn tags_and_manifests_without_a_tag_come() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree(folder.path());
    let (one, two, untagged) =
        (Image::new("{}", &["shared"]), Image::new("{ }", &["shared"]), Image::new("[]", &["x"]));
    let signature = Image::of("sig", &[], |manifest| manifest.subject = Some(one.descriptor()));
    tree.image("team/app", &one, &["1.0", "latest"]);
    tree.image("team/app/nested", &two, &["2.0"]);
    tree.image("team/app", &untagged, &[]);
    tree.image("team/app", &signature, &[]);
    let long = Algorithm::Sha512.digest(&one.manifest);
    tree.manifest("team/app", &long, &one.manifest);
    tree.tag("team/app", "long", long.as_str());
    let index = ImageIndex::new(vec![one.descriptor()]).to_bytes();
    tree.manifest("team/app", &Digest::sha256(&index), &index);
    tree.tag("team/app", "index", Digest::sha256(&index).as_str());
    // A deleted manifest leaves its folder; an unfinished push its own.
    let gone = Image::new("gone", &[]);
    tree.image("team/app", &gone, &[]);
    let revision = format!("repositories/team/app/_manifests/revisions/sha256/{}/link", gone.digest().hex());
    std::fs::remove_file(tree.path(&revision)).unwrap();
    write(&tree.path("repositories/begun/_uploads/x/data"), b"half");

    for root in [folder.path().to_owned(), folder.path().join("docker/registry/v2")] {
        let store = MemoryStore::default();
        let said = into(&store, DistributionTree::open(root).await.unwrap()).await;
        assert_eq!((said.failed, said.left_out), (vec![], vec![]));
        assert_eq!((said.imported.repositories, said.imported.tags_created), (2, 5));
        assert_eq!(said.imported.manifests, 6);
        assert_whole(&store, "team/app", &one).await;
        assert_whole(&store, "team/app", &untagged).await;
        assert_whole(&store, "team/app/nested", &two).await;
        assert_eq!(tagged(&store, "team/app", "long").await, Some(long.clone()));
        assert_eq!(tagged(&store, "team/app", "index").await, Some(Digest::sha256(&index)));
        let found = store.find_manifest(&name("team/app"), &gone.digest().into()).await.unwrap();
        assert!(found.is_none(), "a deleted manifest came back");
        let referrers = store.list_referrers(&name("team/app"), &one.digest(), None).await.unwrap();
        assert_eq!(referrers.len(), 1);
    }
}

#[tokio::test]
async fn what_cannot_be_imported_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree(folder.path());
    let whole = Image::new("{}", &["a"]);
    tree.image("app", &whole, &["good", ".bad"]);
    let old = br#"{"schemaVersion":1,"name":"app","tag":"old","fsLayers":[],"history":[],"signatures":[]}"#;
    tree.manifest("app", &Digest::sha256(old), old);
    tree.tag("app", "old", Digest::sha256(old).as_str());
    tree.tag("app", "empty", "");
    tree.tag("app", "text", "no digest");
    tree.tag("app", "none", Digest::sha256("none").as_str());
    std::fs::create_dir_all(tree.path("repositories/app/_manifests/tags/lost/current")).unwrap();
    tree.image("UPPER", &whole, &["1"]);
    // Bytes that are gone, although the repository has the manifest.
    let lost = Image::new("lost", &[]);
    tree.image("app", &lost, &["bytes"]);
    let hex = lost.digest().hex().to_owned();
    std::fs::remove_dir_all(tree.path(&format!("blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    let swapped = Image::new("swapped", &[]);
    tree.image("app", &swapped, &["swapped"]);
    tree.data(&swapped.digest(), &whole.manifest);
    // A link that names other content than its folder.
    let liar = Image::new("liar", &[]);
    tree.image("app", &liar, &["liar"]);
    let path = format!("repositories/app/_manifests/revisions/sha256/{}/link", liar.digest().hex());
    std::fs::write(tree.path(&path), whole.digest().as_str()).unwrap();

    let store = MemoryStore::default();
    let said = into(&store, DistributionTree::open(folder.path()).await.unwrap()).await;
    let tags: Vec<&str> = said.failed.iter().filter(|line| !line.starts_with("app@")).map(|l| &**l).collect();
    for (line, why) in tags.iter().zip([
        "UPPER: ",
        "app:.bad: ",
        "app:bytes: the bytes of a manifest are missing in the source",
        "app:empty: a link is empty",
        "app:liar: the bytes of the manifest do not match its digest",
        "app:lost: the tag has no link to a manifest",
        "app:none: the source does not have the manifest",
        "app:old: a Docker image manifest of schema 1 is not supported",
        "app:swapped: the bytes of the manifest do not match its digest",
        "app:text: ",
    ]) {
        assert!(line.starts_with(why), "{line}");
    }
    assert_eq!(tags.len(), 10, "{tags:#?}");
    // The manifests of four of them, beside their tags.
    assert_eq!(said.failed.len(), 14, "{:#?}", said.failed);
    assert_eq!(store.all_tags(&name("app")).await.unwrap(), [Tag::parse("good").unwrap()]);
    assert_whole(&store, "app", &whole).await;
}

/// The server lets a manifest name layers with `urls` that its repository does not have.
#[tokio::test]
async fn a_repository_gets_no_blob_without_its_link() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree(folder.path());
    tree.image("private", &Image::new("{}", &["secret"]), &["1"]);
    let thief = Image::of("{}", &["secret"], |manifest| {
        manifest.layers[0].urls = vec!["https://example.org/x".into()];
    });
    tree.manifest("thief", &thief.digest(), &thief.manifest);
    tree.blob("thief", b"{}");
    tree.tag("thief", "1", thief.digest().as_str());
    let store = MemoryStore::default();
    for _ in 0..2 {
        let said = into(&store, DistributionTree::open(folder.path()).await.unwrap()).await;
        assert_eq!(said.failed, [""; 0]);
        assert!(!store.has_blob(&name("thief"), &Digest::sha256("secret")).await.unwrap());
    }
    assert_eq!(tagged(&store, "thief", "1").await, Some(thief.digest()));
}

#[tokio::test]
async fn a_folder_without_a_registry_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let e = DistributionTree::open(folder.path()).await.unwrap_err();
    assert!(
        e.kind() == ErrorKind::NotFound && e.to_string().contains("docker/registry/v2/repositories"),
        "{e}"
    );
    let tree = Tree(folder.path());
    std::fs::create_dir_all(tree.path("repositories")).unwrap();
    assert_eq!(DistributionTree::open(folder.path()).await.unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::create_dir_all(tree.path("blobs")).unwrap();
    let source = Arc::new(DistributionTree::open(folder.path()).await.unwrap());
    let target = ImportTarget::Store(Arc::new(MemoryStore::default()));
    let e = import(source.clone(), target.clone(), ImportOptions::default()).await.unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("has no repository"), "{e}");
    // A link is not walked through, and is named.
    std::os::unix::fs::symlink("..", tree.path("repositories/loop")).unwrap();
    let said =
        run(DistributionTree::open(folder.path()).await.unwrap(), target, ImportOptions::default()).await;
    assert!(said.failed.len() == 1 && said.failed[0].contains("repositories/loop"), "{:?}", said.failed);
}

/// Distribution keeps content with another digest under its sha256, and says so in the link.
#[tokio::test]
async fn a_link_may_lead_to_the_same_content_under_another_digest() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree(folder.path());
    let layer = b"a layer";
    let long = Algorithm::Sha512.digest(layer);
    let mut image = Image::of("{}", &[], |manifest| {
        let mut descriptor = Descriptor::of(media_type::OCI_LAYER, layer);
        descriptor.digest = long.clone();
        manifest.layers = vec![descriptor];
    });
    tree.image("app", &image, &["1.0"]);
    let link = |target: &Digest| {
        let path = format!("repositories/app/_layers/sha512/{}/link", long.hex());
        write(&tree.path(&path), target.as_str().as_bytes());
    };
    tree.data(&Digest::sha256(layer), layer);
    tree.data(&Digest::sha256("other!!"), b"other!!");
    // What the link leads to is checked against the digest that is wanted.
    link(&Digest::sha256("other!!"));
    let store = MemoryStore::default();
    let said = into(&store, DistributionTree::open(folder.path()).await.unwrap()).await;
    assert!(said.failed[0].contains("do not match its digest"), "{:?}", said.failed);
    assert_eq!(tagged(&store, "app", "1.0").await, None);
    link(&Digest::sha256(layer));
    let said = into(&store, DistributionTree::open(folder.path()).await.unwrap()).await;
    assert_eq!(said.failed, [""; 0]);
    image.blobs.truncate(1);
    assert_whole(&store, "app", &image).await;
    assert_eq!(store.read_blob(&name("app"), &long, 100).await.unwrap(), &layer[..]);
}

#[tokio::test]
async fn a_repository_with_a_name_that_is_not_utf_8_does_not_vanish() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree(folder.path());
    let image = Image::new("{}", &["a"]);
    tree.image("app", &image, &["1.0"]);
    let strange = tree.path("repositories").join(std::ffi::OsStr::from_bytes(b"caf\xe9/_manifests"));
    std::fs::create_dir_all(strange).unwrap();
    let store = MemoryStore::default();
    let said = into(&store, DistributionTree::open(folder.path()).await.unwrap()).await;
    assert_eq!((said.imported.failed, said.imported.tags_created), (1, 1));
    assert!(said.failed[0].contains("not UTF-8") && said.failed[0].contains("caf"), "{:?}", said.failed);
}

#[tokio::test]
async fn a_source_without_images_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree(folder.path());
    tree.image("app", &Image::new("{}", &["a"]), &[]);
    std::fs::remove_dir_all(tree.path("repositories/app/_manifests")).unwrap();
    std::fs::create_dir_all(tree.path("repositories/app/_manifests/tags")).unwrap();
    let source = Arc::new(DistributionTree::open(folder.path()).await.unwrap());
    let target = ImportTarget::Store(Arc::new(MemoryStore::default()));
    let error = import(source, target, ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no image"), "{error}");
}
