//! Sessions over a store in memory and in a folder.

use super::*;
use crate::build::OutputKind;
use crate::client::keychain::{Credentials, StaticKeychain};
use crate::client::{Loopback, PullOptions, PushOptions, SharedClient};
use crate::export::{Export, Exporter};
use crate::oci::{Descriptor, ImageConfig, ImageIndex, ImageManifest, Manifest};
use crate::platform::Platform;
use crate::progress::Event;
use crate::reference::{Reference, RegistryHost, Tag};
use crate::source::{SharedSource, Source, SourceContent, SourceFiles, SourceImage};
use crate::store::{BlobReader, MemoryStore, PutManifest, RegistryStoreExt as _, local_repository};
use crate::{ErrorKind, media_type};
use async_trait::async_trait;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// A session with a store in memory, whose registries are another one.
fn session(folder: &Path, store: &SharedStore, registries: &SharedStore) -> Session {
    let registries = registries.clone();
    let clients =
        ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(registries.clone())) as SharedClient));
    Session::builder(folder.join("state")).store(store.clone()).clients(clients).open().unwrap()
}

fn memory() -> SharedStore {
    Arc::new(MemoryStore::default())
}

async fn put_image(store: &SharedStore, at: &Reference, architecture: &str) -> Manifest {
    let repository = local_repository(at).unwrap();
    let config = ImageConfig::empty(&Platform::new("linux", architecture, None)).to_bytes();
    let config = store.put_bytes(&repository, media_type::OCI_CONFIG, config.into()).await.unwrap();
    let layer = store.put_bytes(&repository, media_type::OCI_LAYER, "a layer".into()).await.unwrap();
    let manifest = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes()).unwrap();
    let tags = at.tag().cloned();
    store.put_manifest(&repository, PutManifest::new(manifest.clone(), tags)).await.unwrap();
    manifest
}

#[tokio::test]
async fn images_are_listed_named_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    let session = session(folder.path(), &store, &memory());
    let app = name("localhost:5000/app:1");
    let manifest = put_image(&store, &app, "arm64").await;
    session.tag(&app, &name("localhost:5000/app:2")).await.unwrap();
    session.tag(&app, &name("other:3")).await.unwrap();

    let images = session.images(None).await.unwrap();
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["other:3", "localhost:5000/app:1", "localhost:5000/app:2"]);
    for image in &images {
        assert_eq!(&image.digest, manifest.digest());
        assert_eq!(image.platforms, ["linux/arm64"]);
    }
    let size = manifest.image().unwrap().config.size + 7;
    assert_eq!(images[0].size, size);
    assert_eq!(session.images(Some("other")).await.unwrap().len(), 1);

    let (other, gone) = (name("other:3"), name("other:4"));
    assert!(session.exists(&other, Location::Local).await.unwrap());
    assert!(!session.exists(&gone, Location::Local).await.unwrap());
    assert!(!session.exists(&name("nobody/nothing"), Location::Local).await.unwrap());
    session.remove(&other).await.unwrap();
    assert!(!session.exists(&other, Location::Local).await.unwrap());
    assert_eq!(session.remove(&other).await.unwrap_err().kind(), ErrorKind::ManifestUnknown);
    let digest = app.at_digest(manifest.digest().clone());
    assert_eq!(session.tag(&app, &digest).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_image_is_inspected_for_a_platform() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    let session = session(folder.path(), &store, &memory());
    let index = name("r.example/many:1");
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = put_image(&store, &name("r.example/many:x"), architecture).await;
        let platform = Some(Platform::new("linux", architecture, None));
        entries.push(Descriptor { platform, ..image.descriptor() });
    }
    let manifest = Manifest::sniff(ImageIndex::new(entries.clone()).to_bytes()).unwrap();
    let repository = local_repository(&index).unwrap();
    store.put_manifest(&repository, PutManifest::new(manifest, [Tag::parse("1").unwrap()])).await.unwrap();

    let whole = session.inspect(&index, None, Location::Local).await.unwrap();
    assert!(whole.manifest.index().is_some() && whole.config.is_none());
    let arm = Platform::new("linux", "arm64", None);
    let one = session.inspect(&index, Some(&arm), Location::Local).await.unwrap();
    assert_eq!(one.manifest.digest(), &entries[1].digest);
    assert_eq!(one.config.unwrap()["architecture"], "arm64");
    let none = Platform::new("linux", "riscv64", None);
    let e = session.inspect(&index, Some(&none), Location::Local).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ManifestUnknown);
    let summary = session.images(Some("many:1")).await.unwrap().remove(0);
    assert_eq!(summary.platforms, ["linux/amd64", "linux/arm64"]);
}

#[tokio::test]
async fn images_are_pushed_copied_and_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let (store, registry) = (memory(), memory());
    let session = session(folder.path(), &store, &registry);
    let (app, there) = (name("app:1"), name("r.example/team/app:2"));
    let manifest = put_image(&store, &app, "amd64").await;
    let pushed = session.push(&app, &there, &PushOptions::default()).await.unwrap();
    assert_eq!(&pushed.digest, manifest.digest());
    assert!(session.exists(&there, Location::Remote).await.unwrap());
    assert!(!session.exists(&there, Location::Local).await.unwrap());

    let copied = name("other.example/app:3");
    session.copy(&there, &copied, &PushOptions::default()).await.unwrap();
    session.pull(&copied, &name("back:4"), &PullOptions::default()).await.unwrap();
    let back = session.inspect(&name("back:4"), None, Location::Local).await.unwrap();
    assert_eq!(back.manifest, manifest);
    let remote = session.inspect(&copied, None, Location::Remote).await.unwrap();
    assert_eq!(remote.config, back.config);
}

#[tokio::test]
async fn the_state_folder_is_made_when_it_is_needed_with_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let received = warnings.clone();
    let progress = Progress::new(move |event| {
        if let Event::Warning { message, .. } = event {
            received.lock().unwrap().push(message);
        }
    });
    let session = Session::builder(&state).progress(progress).open().unwrap();
    assert_eq!(session.path(), state);
    assert!(!state.exists());
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    session.store().await.unwrap();
    session.scratch().unwrap();
    assert!(state.join("store").is_dir() && state.join("scratch").is_dir());
    assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
}

#[tokio::test]
async fn credentials_come_from_the_keychain_and_then_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let host = |text: &str| RegistryHost::parse(text).unwrap();
    let given = StaticKeychain::anonymous().with(host("a.example"), Credentials::basic("given", "x"));
    let session = Session::builder(folder.path().join("state")).config(folder.path()).open().unwrap();
    let file = session.credentials().unwrap();
    for at in ["a.example", "b.example"] {
        file.store(&host(at), None, &Credentials::basic("kept", "y")).await.unwrap();
    }
    let both = session.options().clone().keychain(Arc::new(given)).open().unwrap();
    for (session, of_a) in [(&session, "kept"), (&both, "given")] {
        for (at, user) in [("a.example", of_a), ("b.example", "kept")] {
            let found = session.keychain().get(&host(at), None).await.unwrap();
            assert!(matches!(found, Credentials::Basic { username, .. } if username == user), "{at}");
        }
    }
    assert!(both.logout(&host("b.example")).await.unwrap());
    assert!(!both.logout(&host("b.example")).await.unwrap());
    let none = Session::builder(folder.path().join("state")).open().unwrap();
    assert_eq!(none.logout(&host("b.example")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(none.keychain().get(&host("a.example"), None).await.unwrap(), Credentials::Anonymous);
}

#[test]
fn a_login_needs_a_name_and_a_password() {
    assert!(login_credentials("me", "secret").is_ok());
    for (user, password) in [("", "x"), ("me", ""), ("me:you", "x")] {
        let e = login_credentials(user, password).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{user}");
    }
}

/// An exporter and a source that do nothing.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Exporter for Nothing {
    fn needs_blobs(&self) -> bool {
        false
    }

    async fn export(&self, _: Export<'_>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for Nothing {
    async fn resolve(&self, _: &str, _: &Platform) -> Result<SourceContent> {
        Ok(SourceContent::Files)
    }

    async fn open_layer(&self, _: &SourceImage, _: &Descriptor) -> Result<BlobReader> {
        Err(crate::Error::unsupported("no layers"))
    }

    async fn open_files(&self, _: &str) -> Result<SourceFiles> {
        Err(crate::Error::unsupported("no files"))
    }
}

#[test]
fn texts_may_name_parts_of_the_builder() {
    let session = Session::builder("/nowhere").open().unwrap();
    assert!(session.parse_output("type=list,name=x").is_err());
    assert!(session.schemes().is_empty());
    let shelf: SharedSource = Arc::new(Nothing);
    let session = Session::builder("/nowhere")
        .builder(|builder| builder.exporter("list", Arc::new(Nothing)))
        .builder(move |builder| builder.source("shelf", shelf.clone()))
        .open()
        .unwrap();
    let output = session.parse_output("type=list,name=x").unwrap();
    assert!(matches!(output.kind, OutputKind::Other { kind, .. } if kind == "list"));
    assert_eq!(session.schemes(), ["shelf"]);
    assert!(Session::from_variables(|_| None).is_ok() == rustix::process::geteuid().is_root());
}

async fn put_index(store: &SharedStore, at: &Reference, entries: Vec<Descriptor>) -> Descriptor {
    let index = Manifest::sniff(ImageIndex::new(entries).to_bytes()).unwrap();
    let repository = local_repository(at).unwrap();
    let put = PutManifest::new(index.clone(), at.tag().cloned());
    store.put_manifest(&repository, put).await.unwrap();
    index.descriptor()
}

/// One image of a strange shape does not prevent the listing of the others, and its cost is bounded by its size.
#[tokio::test]
async fn images_of_any_shape_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    let session = session(folder.path(), &store, &memory());
    let image = put_image(&store, &name("odd:image"), "arm64").await;
    let size = image.image().unwrap().config.size + 7;
    // Equal entries multiply with each level, and the levels go on.
    let mut entry = image.descriptor();
    for level in 0..9 {
        let entries = vec![entry.clone(); if level < 4 { 100 } else { 1 }];
        entry = put_index(&store, &name(&format!("odd:level-{level}")), entries).await;
    }
    // A layer that is elsewhere has the size that somebody says.
    let layer = Descriptor {
        size: u64::MAX,
        urls: vec!["https://example.org/layer".into()],
        ..Descriptor::of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"x")
    };
    let config = image.image().unwrap().config.clone();
    let huge = Manifest::sniff(ImageManifest::new(config, vec![layer.clone(), layer]).to_bytes()).unwrap();
    let put = PutManifest::new(huge, [Tag::parse("huge").unwrap()]);
    store.put_manifest(&local_repository(&name("odd:huge")).unwrap(), put).await.unwrap();

    let images = session.images(None).await.unwrap();
    assert_eq!(images.len(), 11);
    for image in images {
        let expected = match image.name.strip_prefix("odd:").unwrap() {
            "huge" => u64::MAX,
            // Four levels below the top are looked at.
            "level-4" | "level-5" | "level-6" | "level-7" | "level-8" => 0,
            _ => size,
        };
        assert_eq!(image.size, expected, "{}", image.name);
    }
    let platform = Platform::new("linux", "arm64", None);
    let e = session.manifest(&name("odd:level-8"), Some(&platform), Location::Local).await.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::Invalid), "{e}");
}

#[tokio::test]
async fn the_image_of_a_platform_is_found_below_four_indexes_and_not_below_five() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    let session = session(folder.path(), &store, &memory());
    let image = put_image(&store, &name("deep:image"), "arm64").await;
    let platform = Platform::new("linux", "arm64", None);
    let mut entry = image.descriptor();
    for level in 1..=5 {
        entry.platform = Some(platform.clone());
        entry = put_index(&store, &name(&format!("deep:level-{level}")), vec![entry]).await;
    }
    let found = session.manifest(&name("deep:level-4"), Some(&platform), Location::Local).await.unwrap();
    assert_eq!(found.digest(), image.digest());
    let e = session.manifest(&name("deep:level-5"), Some(&platform), Location::Local).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
}

/// A list reads at most 64 MiB of the manifests of one image.
#[tokio::test]
async fn an_image_of_many_large_manifests_costs_a_list_little() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    let session = session(folder.path(), &store, &memory());
    let image = put_image(&store, &name("large:image"), "arm64").await;
    let repository = local_repository(&name("large:image")).unwrap();
    let mut entries = Vec::new();
    for n in 0..40 {
        let mut body = ImageManifest::new(image.image().unwrap().config.clone(), Vec::new());
        body.annotations.insert("padding".into(), format!("{n}{}", "x".repeat(3 << 20)));
        let manifest = Manifest::sniff(body.to_bytes()).unwrap();
        entries.push(manifest.descriptor());
        store.put_manifest(&repository, PutManifest::new(manifest, Vec::<Tag>::new())).await.unwrap();
    }
    put_index(&store, &name("large:index"), entries).await;
    let images = session.images(Some("large:index")).await.unwrap();
    let read = images[0].size / image.image().unwrap().config.size;
    assert!((20..=22).contains(&read), "{read} manifests of 3 MiB were read");
}

#[tokio::test]
async fn images_are_saved_and_loaded_under_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (memory(), memory());
    let session = session(folder.path(), &store, &memory());
    let to = Session::builder(folder.path().join("other")).store(other.clone()).open().unwrap();
    let (app, tool) = (name("localhost:5000/app:1"), name("tool:2"));
    let (first, second) = (put_image(&store, &app, "arm64").await, put_image(&store, &tool, "amd64").await);
    let file = folder.path().join("images.tar");
    let (progress, mut events) = Progress::channel();
    let options = SaveOptions { progress, ..SaveOptions::default() };
    session.save(&[app.clone(), tool.clone()], &file, &options).await.unwrap();
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event);
    }
    let Event::Started { name: task, total: Some(total), .. } = &told[0] else { panic!("{told:?}") };
    assert_eq!(task, "save localhost:5000/app:1 tool:2");
    assert!(told.iter().any(|e| matches!(e, Event::Advanced { done, .. } if done == total)), "{told:?}");
    let results = told.iter().filter_map(|event| match event {
        Event::Result { digest, .. } => Some(digest),
        _ => None,
    });
    assert_eq!(results.collect::<Vec<_>>(), [first.digest(), second.digest()]);
    let layout = crate::layout::ImageLayout::open_archive(&file, folder.path()).await.unwrap();
    let (progress, mut events) = Progress::channel();
    let options = PullOptions { progress, ..PullOptions::default() };
    let loaded = to.load(&layout, None, &options).await.unwrap();
    let (mut tasks, mut results) = (Vec::new(), Vec::new());
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Started { task, name, .. } if name.starts_with("load ") => tasks.push(task),
            Event::Started { name, .. } => panic!("{name}"),
            Event::Result { name, .. } => results.push(name),
            _ => {}
        }
    }
    assert_eq!(results, [app.to_string(), tool.to_string()]);
    let unique: std::collections::BTreeSet<_> = tasks.iter().collect();
    assert!(!tasks.is_empty() && unique.len() == tasks.len(), "{tasks:?}");
    let digests: Vec<(&Reference, &crate::Digest)> =
        loaded.iter().map(|(name, image)| (name, &image.digest)).collect();
    assert_eq!(digests, [(&app, first.digest()), (&tool, second.digest())]);
    assert_eq!(to.images(None).await.unwrap(), session.images(None).await.unwrap());
    // One name for one image.
    let error = to.load(&layout, Some(&app), &PullOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("several images"), "{error}");

    let digest = tool.at_digest(second.digest().clone());
    let nameless = folder.path().join("nameless.tar");
    session.save(&[digest], &nameless, &SaveOptions::default()).await.unwrap();
    let layout = crate::layout::ImageLayout::open_archive(&nameless, folder.path()).await.unwrap();
    let error = to.load(&layout, None, &PullOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("no name for its image"), "{error}");
    let given = name("given:1");
    to.load(&layout, Some(&given), &PullOptions::default()).await.unwrap();
    assert!(to.exists(&given, Location::Local).await.unwrap());

    for (names, kind) in [(vec![], ErrorKind::Invalid), (vec![app, name("gone")], ErrorKind::ManifestUnknown)]
    {
        let never = folder.path().join("never.tar");
        let error = session.save(&names, &never, &SaveOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(!never.exists());
    }
}

/// A session whose home folder is `folder/home`, and a request for the Dockerfile in `folder/context`.
fn to_build(folder: &Path, dockerfile: &str) -> (Session, BuildRequest) {
    let context = folder.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let mut options = Session::builder(folder.join("state")).store(memory());
    options.home = Some(folder.join("home"));
    (options.open().unwrap(), BuildRequest::from_folder(context, None).unwrap())
}

#[tokio::test]
async fn destinations_are_checked_before_the_build() {
    let folder = tempfile::tempdir().unwrap();
    // The build itself would fail, too.
    let (session, request) = to_build(folder.path(), "FROM scratch\nCOPY missing /\n");
    for (outputs, part) in [
        (&["type=oci,dest=AT/nowhere/a.tar"][..], "there is no folder"),
        (&["type=tar,dest=AT/context"], "is a folder: name a file"),
        (&["AT/context/Dockerfile"], "is not a folder"),
        (&["type=local,mode=delete,dest=AT/home"], "your home folder"),
        (&["AT/out", "type=oci,dest=AT/nowhere/a.tar"], "there is no folder"),
        (&["-", "type=oci"], "only one output can go to standard output"),
    ] {
        let at = folder.path().to_str().unwrap();
        let parse = |text: &&str| session.parse_output(&text.replace("AT", at)).unwrap();
        let request = BuildRequest { outputs: outputs.iter().map(parse).collect(), ..request.clone() };
        let error = session.build(request, &Progress::none()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{outputs:?}: {error}");
        assert!(error.message().contains(part), "{outputs:?}: {error}");
    }
    assert!(!folder.path().join("out").exists());
}

#[tokio::test]
async fn a_dockerfile_is_fixed_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    // The second edit is possible only after the first.
    let (session, request) = to_build(folder.path(), "from scratch as A\nCOPY Dockerfile /\n");
    let builder = session.local_builder().await.unwrap();
    let fixed = builder.fix(request.clone(), &Progress::none()).await.unwrap();
    assert!(fixed.is_changed() && fixed.edits >= 2 && !fixed.before().is_clean());
    assert!(fixed.after().is_clean(), "{:?}", fixed.after().all());
    fixed.save().await.unwrap();
    let path = folder.path().join("context/Dockerfile");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), fixed.text);
    assert_eq!(fixed.save().await.unwrap_err().kind(), ErrorKind::Conflict, "it has another text by now");
    // A text that is not from a file can be fixed, and not saved.
    let text = BuildRequest { dockerfile_path: None, ..request };
    let fixed = builder.fix(text, &Progress::none()).await.unwrap();
    assert!(fixed.is_changed() && fixed.file().is_none());
    assert_eq!(fixed.save().await.unwrap_err().kind(), ErrorKind::NotFound);
    let errors = to_build(folder.path(), "from scratch as A\nRUNN x\n").1;
    let fixed = builder.fix(errors, &Progress::none()).await.unwrap();
    assert!(!fixed.is_changed() && !fixed.after().is_valid());
}
