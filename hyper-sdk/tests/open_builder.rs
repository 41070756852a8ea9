//! A builder whose parts come from outside: frontend, source, exporter, executor, cache; graphs without a text; plans.

use crate::sandbox::helper;
use async_trait::async_trait;
use bytes::Bytes;
use hyper_sdk::build::{
    BuildContext, BuildRequest, Builder, DryRun, LocalBuilder, NamedContext, Output, OutputKind,
};
use hyper_sdk::cache::MemoryCache;
use hyper_sdk::client::{Loopback, SharedClient};
use hyper_sdk::exec::{ExecCapabilities, ExecSpec, Executor, ExitStatus, LogSink, NativeExecutor, RootFs};
use hyper_sdk::export::{Export, Exporter};
use hyper_sdk::frontend::{Frontend, FrontendOptions, Lowered, Resolver};
use hyper_sdk::graph::{ExecOp, FileAction, FileOp, Graph, MakeFile, Op, SourceOp};
use hyper_sdk::layer::{CompressOptions, LayerCompressor, LayerWriter};
use hyper_sdk::oci::{Descriptor, ImageConfig};
use hyper_sdk::platform::Platform;
use hyper_sdk::progress::Progress;
use hyper_sdk::source::{ClientFactory, Source, SourceContent, SourceFiles, SourceImage};
use hyper_sdk::store::{BlobReader, MemoryStore, SharedStore};
use hyper_sdk::{Digest, Error, ErrorKind, Reference, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A store, a folder and an executor that only notes its commands.
struct Fixture {
    folder: tempfile::TempDir,
    store: SharedStore,
    executor: Arc<Notes>,
}

/// Notes commands, and runs none.
#[derive(Debug)]
struct Notes {
    commands: Mutex<Vec<String>>,
    capabilities: ExecCapabilities,
}

impl std::fmt::Display for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("notes")
    }
}

#[async_trait]
impl Executor for Notes {
    fn capabilities(&self) -> ExecCapabilities {
        self.capabilities.clone()
    }

    async fn run(&self, _: &RootFs, spec: ExecSpec, _: Arc<dyn LogSink>) -> Result<ExitStatus> {
        let command = spec.args.join(" ");
        let code = i32::from(command.contains("fail"));
        self.commands.lock().unwrap().push(command);
        Ok(ExitStatus::new(code))
    }
}

impl Fixture {
    async fn new() -> Option<Self> {
        let native = match NativeExecutor::start(helper()).await {
            Ok(native) => native,
            Err(e) => {
                println!("SKIPPED: {e}");
                return None;
            }
        };
        let executor = Notes { commands: Mutex::default(), capabilities: native.capabilities() };
        let folder = tempfile::tempdir().unwrap();
        Some(Self { folder, store: Arc::new(MemoryStore::default()), executor: Arc::new(executor) })
    }

    fn builder(&self) -> hyper_sdk::build::LocalBuilderOptions {
        let store = Arc::new(MemoryStore::default());
        let clients = ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(store.clone())) as SharedClient));
        LocalBuilder::builder(self.folder.path().join("root"), self.store.clone(), clients)
            .helper(helper())
            .executor(self.executor.clone())
            .cache(Arc::new(MemoryCache::default()))
    }

    fn commands(&self) -> Vec<String> {
        std::mem::take(&mut *self.executor.commands.lock().unwrap())
    }
}

/// Runs each line of its text as a command.
#[derive(Debug)]
struct Lines;

#[async_trait]
impl Frontend for Lines {
    async fn lower(
        &self,
        _: &str,
        text: &str,
        options: &FrontendOptions,
        _: &dyn Resolver,
        warnings: &mut Vec<String>,
    ) -> Result<Lowered> {
        let mut graph = Graph::new();
        let mut root = graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        if lines.is_empty() {
            warnings.push("there is nothing to do".to_owned());
        }
        for line in &lines {
            let op = ExecOp::new(line.split(' ').map(str::to_owned).collect());
            root = graph.add(Op::Exec(Box::new(op)), vec![root], *line);
        }
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let mut lowered = Lowered::new(graph, root, ImageConfig::empty(&platform));
        lines.iter().for_each(|line| lowered.record(*line, true));
        Ok(lowered)
    }
}

#[tokio::test]
async fn a_frontend_is_asked_for_by_the_text_or_the_request() {
    let Some(fixture) = Fixture::new().await else { return };
    let builder = fixture.builder().frontend("example.com/lines:1", Arc::new(Lines)).open().unwrap();
    let named = "# syntax=example.com/lines:1\nmake all\nmake install\n";
    let mut request = BuildRequest::new(named, BuildContext::Empty);
    request.tags = vec![Reference::parse("app:1").unwrap()];
    let output = builder.build(request.clone(), &Progress::none()).await.unwrap();
    assert_eq!(fixture.commands(), ["make all", "make install"]);
    // The image is kept without anybody asking for that.
    let name = Reference::parse("app:1").unwrap();
    let (repository, reference) = (hyper_sdk::store::local_repository(&name).unwrap(), name.manifest());
    let kept = fixture.store.get_manifest(&repository, &reference).await.unwrap();
    assert_eq!(kept.digest(), &output.image.unwrap().digest);
    builder.build(request.clone(), &Progress::none()).await.unwrap();
    assert_eq!(fixture.commands(), [""; 0], "it is cached");
    let mut asked = BuildRequest::new("make other\n", BuildContext::Empty);
    asked.frontend = Some("example.com/lines:1".to_owned());
    builder.build(asked.clone(), &Progress::none()).await.unwrap();
    assert_eq!(fixture.commands(), ["make other"]);
    asked.frontend = Some("none".to_owned());
    let error = builder.build(asked, &Progress::none()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("`none`"), "{error}");
    assert!(
        error.to_string().contains("it has `example.com/lines:1` and the one for Dockerfiles"),
        "{error}"
    );
    // A text that asks for an unknown frontend learns which ones there are, also in a check and by the build argument.
    let unknown = BuildRequest::new("# syntax=example.com/other:1\nFROM scratch\n", BuildContext::Empty);
    let mut argument = BuildRequest::new("FROM scratch\n", BuildContext::Empty);
    argument.build_args.insert("BUILDKIT_SYNTAX".to_owned(), "example.com/other:1".to_owned());
    for wrong in [unknown.clone(), argument] {
        let error = builder.build(wrong, &Progress::none()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        for part in ["`example.com/other:1`", "`docker/dockerfile:1`", "`example.com/lines:1`"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    let checked = builder.check(unknown, &Progress::none()).await.unwrap();
    assert!(checked.diagnostics[0].help[0].contains("`example.com/lines:1`"), "{:?}", checked.diagnostics);
    // Only Dockerfiles can be checked.
    let error = builder.check(request.clone(), &Progress::none()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("`example.com/lines:1`"));
    // Without it the text is a Dockerfile that names a frontend which is not there.
    let error = fixture.builder().open().unwrap().build(request, &Progress::none()).await.unwrap_err();
    assert!(error.to_string().contains("example.com/lines:1"), "{error}");
}

#[tokio::test]
async fn a_dry_run_has_the_plan_and_runs_nothing() {
    let Some(fixture) = Fixture::new().await else { return };
    let builder = Arc::new(fixture.builder().frontend("lines", Arc::new(Lines)).open().unwrap());
    let dry = DryRun::new(builder.clone());
    let mut request = BuildRequest::new("one\ntwo\n", BuildContext::Empty);
    request.frontend = Some("lines".to_owned());
    let cached =
        |steps: &[hyper_sdk::solve::StepReport]| steps.iter().map(|step| step.cached).collect::<Vec<_>>();
    let output = dry.build(request.clone(), &Progress::none()).await.unwrap();
    assert_eq!((cached(&output.steps), output.image), (vec![false, false], None));
    assert_eq!(fixture.commands(), [""; 0]);
    builder.build(request.clone(), &Progress::none()).await.unwrap();
    let output = dry.build(request.clone(), &Progress::none()).await.unwrap();
    assert_eq!(cached(&output.steps), [true, true]);
    let plan = dry.plan(request, &Progress::none()).await.unwrap();
    assert_eq!(plan.graph.vertex(plan.roots[0]).name, "two");
    assert_eq!(plan.steps[2].inputs, [plan.steps[1].address.clone()]);
}

#[tokio::test]
async fn a_graph_is_built_with_contexts_and_outputs() {
    let Some(fixture) = Fixture::new().await else { return };
    let given = fixture.folder.path().join("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::write(given.join("file"), "content").unwrap();
    let mut graph = Graph::new();
    let nothing = graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch");
    let file = |destination: &str, content: &str| {
        FileAction::MakeFile(MakeFile {
            name: "file".to_owned(),
            destination: destination.to_owned(),
            content: content.to_owned(),
            chown: None,
            chmod: None,
        })
    };
    let op = Op::File(FileOp { actions: vec![file("/made", "made")], link: false });
    let made = graph.add(op, vec![nothing], "make a file");
    let context = graph.add(Op::Source(SourceOp::Folder { name: "given".to_owned() }), vec![], "context");
    let copy = hyper_sdk::graph::CopyAction {
        input: 1,
        sources: vec!["file".to_owned()],
        destination: "/copied".to_owned(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: None,
        add: false,
    };
    let op = Op::File(FileOp { actions: vec![FileAction::Copy(Box::new(copy))], link: false });
    let root = graph.add(op, vec![made, context], "copy a file");
    let mut lowered = Lowered::new(graph, root, ImageConfig::empty(&Platform::host()));
    lowered.record("make", true);
    lowered.record("copy", true);
    let mut request = BuildRequest::new("", BuildContext::Empty);
    request.named_contexts.insert("given".to_owned(), NamedContext::Folder(given));
    let out = fixture.folder.path().join("out");
    request.outputs = vec![OutputKind::Local(out.clone()).into()];
    let builder = fixture.builder().open().unwrap();
    let plan = builder.plan_graph(lowered.clone(), request.clone(), &Progress::none()).await.unwrap();
    assert_eq!(plan.steps.len(), 4);
    builder.build_graph(lowered, request, &Progress::none()).await.unwrap();
    assert_eq!(std::fs::read_to_string(out.join("made")).unwrap(), "made");
    assert_eq!(std::fs::read_to_string(out.join("copied")).unwrap(), "content");
}

/// Images and files by name, which counts how often it opens something.
#[derive(Debug)]
struct Shelf {
    folder: PathBuf,
    layer: Bytes,
    diff_id: Digest,
    opened: Mutex<Vec<String>>,
}

impl Shelf {
    fn new(folder: PathBuf) -> Self {
        let compressor = LayerCompressor::new(Vec::new(), CompressOptions::new(Default::default())).unwrap();
        let (compressor, _) = LayerWriter::new(compressor, Some(0)).finish().unwrap();
        let (bytes, made) = compressor.finish().unwrap();
        Self { folder, layer: bytes.into(), diff_id: made.diff_id, opened: Mutex::default() }
    }
}

#[async_trait]
impl Source for Shelf {
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent> {
        if name != "image" {
            return Ok(SourceContent::Files);
        }
        let mut config = ImageConfig::empty(platform);
        config.config.env = vec!["FROM=shelf".to_owned()];
        config.rootfs.diff_ids = vec![self.diff_id.clone()];
        let layer = Descriptor::of(hyper_sdk::media_type::OCI_LAYER_GZIP, &self.layer);
        let image = SourceImage::new(name, Digest::sha256("shelf"), config, &[layer])?;
        Ok(SourceContent::Image(Box::new(image)))
    }

    async fn open_layer(&self, image: &SourceImage, _: &Descriptor) -> Result<BlobReader> {
        self.opened.lock().unwrap().push(format!("layer of {}", image.name));
        let bytes = self.layer.clone();
        let size = bytes.len() as u64;
        let stream = Box::pin(futures::stream::iter([Ok(bytes)]));
        Ok(BlobReader { size, offset: 0, length: size, stream })
    }

    async fn open_files(&self, name: &str) -> Result<SourceFiles> {
        self.opened.lock().unwrap().push(format!("files of {name}"));
        Ok(SourceFiles::new(self.folder.join(name)))
    }
}

#[tokio::test]
async fn a_source_of_its_own_gives_images_and_files_when_they_are_needed() {
    let Some(fixture) = Fixture::new().await else { return };
    let folder = fixture.folder.path().join("shelf");
    std::fs::create_dir_all(folder.join("books")).unwrap();
    std::fs::write(folder.join("books/one"), "1").unwrap();
    let shelf = Arc::new(Shelf::new(folder));
    let builder = fixture.builder().source("shelf", shelf.clone()).open().unwrap();
    let text = "FROM base\nCOPY --from=books --link one /one\nRUN make $FROM\n";
    let mut request = BuildRequest::new(text, BuildContext::Empty);
    let other = |name: &str| NamedContext::parse_with(&format!("shelf://{name}"), ["shelf"]).unwrap();
    request.named_contexts =
        [("base", other("image")), ("books", other("books"))].map(|(k, v)| (k.to_owned(), v)).into();
    request.outputs = vec![OutputKind::CacheOnly.into()];
    let mut without = request.clone();
    without.dockerfile = Some("FROM base\nENV A=$FROM\n".to_owned());
    builder.build(without, &Progress::none()).await.unwrap();
    assert_eq!(*shelf.opened.lock().unwrap(), [""; 0], "the config is enough");
    builder.build(request.clone(), &Progress::none()).await.unwrap();
    assert_eq!(fixture.commands(), ["/bin/sh -c make $FROM"]);
    let mut opened = std::mem::take(&mut *shelf.opened.lock().unwrap());
    opened.sort();
    assert_eq!(opened, ["files of books", "layer of image"]);
    builder.build(request.clone(), &Progress::none()).await.unwrap();
    assert_eq!(*shelf.opened.lock().unwrap(), ["files of books"], "the layer is in the store");
    let error = fixture.builder().open().unwrap().build(request, &Progress::none()).await.unwrap_err();
    assert!(error.to_string().contains("`shelf://` are not supported"), "{error}");
}

/// Notes what it was given.
#[derive(Debug, Default)]
struct Listing(Mutex<Vec<String>>);

#[async_trait]
impl Exporter for Listing {
    fn needs_blobs(&self) -> bool {
        true
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let fail = export.attributes.get("fail").cloned();
        let mut told = self.0.lock().unwrap();
        told.extend(export.names.iter().map(|name| name.familiar()));
        told.extend(export.image.chain.layers().iter().map(|(layer, _)| layer.diff_id.to_string()));
        fail.map_or(Ok(()), |why| Err(Error::invalid(why)))
    }
}

#[tokio::test]
async fn an_exporter_of_its_own_gets_the_image_and_its_attributes() {
    let Some(fixture) = Fixture::new().await else { return };
    let listing = Arc::new(Listing::default());
    let builder = fixture.builder().exporter("listing", listing.clone()).open().unwrap();
    let mut request = BuildRequest::new("FROM scratch\nRUN [\"make\"]\n", BuildContext::Empty);
    request.tags = vec![Reference::parse("app:1").unwrap()];
    let output = |text: &str| vec![Output::parse_with(text, ["listing"]).unwrap()];
    request.outputs = output("type=listing");
    builder.build(request.clone(), &Progress::none()).await.unwrap();
    let told = std::mem::take(&mut *listing.0.lock().unwrap());
    assert!(told.len() == 2 && told[0] == "app:1" && told[1].starts_with("sha256:"), "{told:?}");
    request.outputs = output("type=listing,fail=because");
    let error = builder.build(request.clone(), &Progress::none()).await.unwrap_err();
    assert!(error.to_string().contains("because"), "{error}");
    let error = fixture.builder().open().unwrap().build(request, &Progress::none()).await.unwrap_err();
    assert!(error.to_string().contains("`listing`"), "{error}");
    assert_eq!(fixture.commands(), ["make"], "what cannot be written is refused before anything runs");
}
