//! Solves graphs without a sandbox: a fake executor plays the commands, and snapshots are folders.

use super::*;
use crate::cache::MemoryCache;
use crate::exec::{Executor as _, SecretBytes};
use crate::graph::{CopyAction, ExecOp, FileAction, FileOp, MakeDirectory, Security, SourceOp};
use crate::layer::LayerReader;
use crate::media_type::Compression;
use crate::oci::{Descriptor, ImageConfig};
use crate::platform::Platform;
use crate::source::{
    RemoteOptions, RemoteSources, Source, SourceContent, SourceFiles, SourceImage, Sources, SourcesOptions,
};
use crate::store::{BlobReader, MemoryStore, SharedStore};
use crate::testing::{FakeExecutor, FakeRun, PlainSnapshotter, RandomImage};
use crate::{Digest, ErrorKind};
use async_trait::async_trait;
use futures::TryStreamExt as _;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;

/// A source with one random image under every name. It counts the opened layers.
#[derive(Debug)]
struct Images {
    image: RandomImage,
    opened: AtomicUsize,
}

#[async_trait]
impl Source for Images {
    async fn resolve(&self, name: &str, _: &Platform) -> Result<SourceContent> {
        let config = ImageConfig::parse(&self.image.config)?;
        let layers: Vec<Descriptor> = self.image.layers.iter().map(|l| l.descriptor.clone()).collect();
        let manifest = self.image.manifest.digest().clone();
        Ok(SourceContent::Image(Box::new(SourceImage::new(name, manifest, config, &layers)?)))
    }

    async fn open_layer(&self, _: &SourceImage, layer: &Descriptor) -> Result<BlobReader> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let found = self.image.layers.iter().find(|own| own.descriptor.digest == layer.digest).unwrap();
        let (bytes, size) = (found.tar.clone(), found.tar.len() as u64);
        let stream = futures::stream::iter([Ok(bytes)]).boxed();
        Ok(BlobReader { size, offset: 0, length: size, stream })
    }

    async fn open_files(&self, _: &str) -> Result<SourceFiles> {
        Err(Error::unsupported("there are images alone"))
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    images: Arc<Images>,
    snapshots: PlainSnapshotter,
    store: SharedStore,
    cache: Arc<MemoryCache>,
    executor: Arc<FakeExecutor>,
    options: SolverOptions,
}

impl Fixture {
    fn new(executor: FakeExecutor) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["indexes", "mounts", "scratch"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            images: Arc::new(Images { image: RandomImage::new(1), opened: AtomicUsize::new(0) }),
            snapshots: PlainSnapshotter::new().unwrap(),
            store: Arc::new(MemoryStore::default()),
            cache: Arc::new(MemoryCache::default()),
            executor: Arc::new(executor),
            options: SolverOptions { compression: Compression::None, ..SolverOptions::default() },
        }
    }

    async fn solve(&self, graph: &Graph, root: VertexId) -> Result<Solved> {
        let options = RemoteOptions {
            secrets: BTreeMap::new(),
            proxy: None,
            idle_timeout: None,
            ssh_agent: None,
            progress: crate::progress::Progress::default(),
        };
        let sources = Sources::new(SourcesOptions {
            images: self.images.clone(),
            remotes: RemoteSources::new(self.folder.path().join("sources"), options),
            scratch: self.folder.path().join("scratch"),
            main: None,
            contexts: BTreeMap::new(),
            others: BTreeMap::new(),
        });
        // A graph begins with images that were resolved when it was made.
        sources.image("base", &Platform::host()).await?;
        let backends = SolverBackends {
            store: self.store.clone(),
            snapshotter: Arc::new(self.snapshots.clone()),
            executor: self.executor.clone(),
            cache: self.cache.clone(),
            sources,
            folder: self.folder.path().to_owned(),
        };
        Solver::new(Arc::new(graph.clone()), vec![root], backends, self.options.clone()).solve().await
    }

    /// The blobs of layers that steps made.
    fn blobs(&self) -> BTreeSet<Digest> {
        let layers = self.cache.records().into_iter().filter_map(|record| record.layer);
        layers.map(|layer| layer.digest).collect()
    }

    fn base(&self) -> Op {
        let manifest = self.images.image.manifest.digest().clone();
        Op::Source(SourceOp::Image { reference: "base".into(), manifest })
    }

    /// The files of the topmost layer of a result.
    async fn files(&self, solved: &Solved) -> BTreeMap<String, String> {
        let StepResult::Chain(chain) = &solved.values[0] else { panic!("{:?}", solved.values) };
        let StepLayer::Made(made) = &*chain.top().unwrap().layer else { panic!("{chain:?}") };
        let record = made.record();
        let digest = record.layer.expect("an output needs its blob").digest;
        let blob = self.store.get_blob(&record.repository, &digest, None).await.unwrap();
        let tar = blob.stream.try_collect::<Vec<_>>().await.unwrap().concat();
        let (mut reader, mut files) = (LayerReader::new(&tar[..]), BTreeMap::new());
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut text = String::new();
            if matches!(entry.kind, crate::layer::EntryKind::File { .. }) {
                reader.read_to_string(&mut text).unwrap();
                files.insert(entry.path.to_string(), text);
            }
        }
        files
    }
}

fn exec(command: &str) -> ExecOp {
    ExecOp::new(vec!["/bin/sh".into(), "-c".into(), command.into()])
}

fn run(graph: &mut Graph, on: VertexId, command: &str) -> VertexId {
    graph.add(Op::Exec(Box::new(exec(command))), vec![on], format!("RUN {command}"))
}

/// Copies a file of another root file system.
fn copy(graph: &mut Graph, on: VertexId, from: VertexId, path: &str) -> VertexId {
    let copy = CopyAction {
        input: 1,
        sources: vec![path.into()],
        destination: path.into(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: None,
        add: false,
    };
    let op = FileOp { actions: vec![FileAction::Copy(Box::new(copy))], link: false };
    graph.add(Op::File(op), vec![on, from], format!("COPY {path}"))
}

fn scratch(graph: &mut Graph) -> VertexId {
    graph.add(Op::Source(SourceOp::Scratch), Vec::new(), "scratch")
}

/// Makes a folder.
fn folder(graph: &mut Graph, on: VertexId, path: &str) -> VertexId {
    let make = MakeDirectory { path: path.into(), mode: 0o755, owner: None };
    let op = FileOp { actions: vec![FileAction::MakeDirectory(make)], link: false };
    graph.add(Op::File(op), vec![on], format!("WORKDIR {path}"))
}

/// Waits for a condition. Fails after a minute.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it never holds");
}

#[tokio::test]
async fn a_layer_of_an_unknown_form_is_refused_where_it_is_read() {
    let media_type = "application/vnd.oci.image.layer.v1.tar+lz4";
    let mut fixture = Fixture::new(FakeExecutor::new().on("make", FakeRun::new().writes("/made", "")));
    Arc::get_mut(&mut fixture.images).unwrap().image.layers[0].descriptor.media_type = media_type.to_owned();
    let mut graph = Graph::new();
    let base = graph.add(fixture.base(), Vec::new(), "base");
    fixture.solve(&graph, base).await.expect("nothing reads it");
    let from = scratch(&mut graph);
    for root in [run(&mut graph, base, "make"), copy(&mut graph, from, base, "/")] {
        let error = fixture.solve(&graph, root).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(format!("{error:?}").contains(media_type), "{error:?}");
    }
}

#[tokio::test]
async fn a_command_makes_a_layer_that_is_cached() {
    let fixture = Fixture::new(FakeExecutor::new().on("make", FakeRun::new().writes("/bin/app", "compiled")));
    let mut graph = Graph::new();
    let base = graph.add(fixture.base(), Vec::new(), "base");
    let root = run(&mut graph, base, "make");
    let solved = fixture.solve(&graph, root).await.unwrap();
    assert_eq!(fixture.files(&solved).await, [("bin/app".to_owned(), "compiled".to_owned())].into());
    assert!(!solved.steps[0].cached);
    assert_eq!(fixture.images.opened.load(Ordering::SeqCst), 3, "each layer of the base is opened once");

    let again = fixture.solve(&graph, root).await.unwrap();
    assert!(again.steps[0].cached);
    assert_eq!(fixture.executor.commands(), ["make"]);
    graph.set_no_cache(root);
    assert!(!fixture.solve(&graph, root).await.unwrap().steps[0].cached);
    assert_eq!(fixture.executor.commands(), ["make", "make"]);
}

#[tokio::test]
async fn a_command_runs_with_the_options_of_its_vertex() {
    let mut fixture = Fixture::new(FakeExecutor::new());
    fixture.options.secrets.insert("key".into(), SecretBytes::new("hunter2"));
    fixture.options.extra_hosts.push(("seven".into(), "192.0.2.7".into()));
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let mut op = exec("env");
    op.env.push(("A".into(), "1".into()));
    op.uncached_env.push(("http_proxy".into(), "http://proxy.example".into()));
    op.secret_env.push(("TOKEN".into(), "key".into(), true));
    (op.cwd, op.user, op.hostname) = ("/app".into(), "me".into(), Some("builder".into()));
    let root = graph.add(Op::Exec(Box::new(op)), vec![base], "RUN env");
    fixture.solve(&graph, root).await.unwrap();
    let spec = fixture.executor.specs().remove(0);
    let env: Vec<(&str, &str)> =
        spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "1"), ("http_proxy", "http://proxy.example"), ("TOKEN", "hunter2")]);
    assert_eq!((spec.cwd.as_str(), spec.user.as_str()), ("/app", "me"));
    assert_eq!(spec.hostname.as_deref(), Some("builder"));
    assert_eq!(spec.extra_hosts, fixture.options.extra_hosts);
}

#[tokio::test]
async fn independent_commands_run_concurrently_and_equal_ones_once() {
    // Each ends after both have started.
    let both = Arc::new(Barrier::new(2));
    let part = |path: &str| FakeRun::new().writes(path, "x").meets(&both);
    let fixture = Fixture::new(FakeExecutor::new().on("a", part("/a")).on("b", part("/b")));
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let (a, b) = (run(&mut graph, base, "a"), run(&mut graph, base, "b"));
    assert_eq!(run(&mut graph, base, "a"), a);
    let joined = copy(&mut graph, a, b, "/b");
    let solving = fixture.solve(&graph, joined);
    let solved =
        tokio::time::timeout(Duration::from_secs(60), solving).await.expect("they wait for each other");
    assert_eq!(fixture.files(&solved.unwrap()).await.into_keys().collect::<Vec<_>>(), ["b"]);
    let mut commands = fixture.executor.commands();
    commands.sort();
    assert_eq!(commands, ["a", "b"]);
}

#[tokio::test]
async fn a_failed_command_reports_its_output_and_stops_the_others() {
    let fixture = Fixture::new(
        FakeExecutor::new()
            .on("fail", FakeRun::new().complains("no such target\n").exits(3))
            .on("hang", FakeRun::new().hangs()),
    );
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let (hang, fail) = (run(&mut graph, base, "hang"), run(&mut graph, base, "fail"));
    let root = copy(&mut graph, hang, fail, "/x");
    let solving = fixture.solve(&graph, root);
    let error = tokio::time::timeout(Duration::from_secs(60), solving).await.expect("it waits").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandFailed);
    let text = format!("{error:?}");
    assert!(text.contains("exit code 3") && text.contains("no such target"), "{text}");
    until(|| fixture.executor.running() == 0).await;
    // A failed command is not cached.
    assert!(fixture.solve(&graph, fail).await.is_err());
}

#[tokio::test]
async fn dropping_the_future_stops_commands() {
    let fixture = Fixture::new(FakeExecutor::new().on("hang", FakeRun::new().writes("/x", "half").hangs()));
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let root = run(&mut graph, base, "hang");
    tokio::select! {
        solved = fixture.solve(&graph, root) => panic!("{solved:?}"),
        () = until(|| fixture.executor.running() == 1) => {}
    }
    until(|| fixture.executor.running() == 0).await;
}

#[tokio::test]
async fn a_step_with_equal_inputs_is_cached() {
    let same = || FakeRun::new().writes("/app", "the same");
    let fixture = Fixture::new(FakeExecutor::new().on("make", same()).on("make -j4", same()));
    let mut steps = Vec::new();
    for command in ["make", "make -j4"] {
        let mut graph = Graph::new();
        let base = scratch(&mut graph);
        let made = run(&mut graph, base, command);
        let copied = copy(&mut graph, base, made, "/app");
        let root = run(&mut graph, copied, "use");
        steps.push(fixture.solve(&graph, root).await.unwrap().steps);
    }
    let cached: Vec<bool> = steps[1].iter().map(|step| step.cached).collect();
    assert_eq!(cached, [false, true, true], "{steps:?}");
    assert_eq!(fixture.executor.commands(), ["make", "use", "make -j4"]);
}

#[tokio::test]
async fn a_command_without_permission_does_not_run() {
    let mut fixture = Fixture::new(FakeExecutor::new());
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let mut op = exec("mount");
    op.security = Security::Insecure;
    let root = graph.add(Op::Exec(Box::new(op)), vec![base], "RUN mount");
    assert_eq!(fixture.solve(&graph, root).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(fixture.executor.commands().is_empty());
    fixture.options.allow_insecure = true;
    fixture.solve(&graph, root).await.unwrap();
    assert_eq!(fixture.executor.specs()[0].security, crate::exec::Security::Insecure);
    // Without permission the cached result is rejected, too.
    fixture.options.allow_insecure = false;
    assert_eq!(fixture.solve(&graph, root).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn limits_are_checked_before_the_first_command_and_not_for_cached_ones() {
    let mut fixture = Fixture::new(FakeExecutor::new());
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let made = graph.add(Op::Exec(Box::new(exec("make"))), vec![base], "RUN make");
    fixture.solve(&graph, made).await.unwrap();
    let incapable = fixture.executor.capabilities().without_limits();
    fixture.executor = Arc::new(FakeExecutor::new().with_capabilities(incapable));
    fixture.options.limits.shm_size = Some(5);
    let again = fixture.solve(&graph, made).await.unwrap();
    assert!(again.steps.iter().all(|step| step.cached || !step.name.starts_with("RUN")), "{:?}", again.steps);
    let tested = graph.add(Op::Exec(Box::new(exec("test"))), vec![made], "RUN test");
    let error = fixture.solve(&graph, tested).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("`shm-size=5`"), "{error}");
    assert!(fixture.executor.commands().is_empty());
}

#[tokio::test]
async fn the_layers_of_a_stage_have_no_blobs_and_those_of_an_output_have_them() {
    let make = FakeRun::new().writes("/app", "compiled").writes("/other", "object");
    let runs = FakeExecutor::new().on("make", make);
    let fixture = Fixture::new(runs.on("more", FakeRun::new().writes("/more", "x")));
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let stage = folder(&mut graph, base, "/src");
    let stage = run(&mut graph, stage, "make");
    let stage = run(&mut graph, stage, "more");
    let root = copy(&mut graph, base, stage, "/app");
    let solved = fixture.solve(&graph, root).await.unwrap();
    assert_eq!(fixture.blobs().len(), 1, "the copy");
    assert_eq!(fixture.files(&solved).await.len(), 1);
    // The stage as an output: nothing runs, and every layer is there at the end.
    let solved = fixture.solve(&graph, stage).await.unwrap();
    assert!(solved.steps.iter().all(|step| step.cached), "{:?}", solved.steps);
    assert_eq!(fixture.blobs().len(), 3, "the root is made by the output itself");
    // Nothing of it is needed.
    let mut fixture = Fixture::new(FakeExecutor::new());
    fixture.options.needs = Needs::Files;
    fixture.solve(&graph, stage).await.unwrap();
    assert_eq!(fixture.blobs().len(), 0);
}

#[tokio::test]
async fn many_layers_that_nothing_unpacks_hold_few_files() {
    let mut fixture = Fixture::new(FakeExecutor::new());
    fixture.options.needs = Needs::Files;
    let mut graph = Graph::new();
    let mut at = scratch(&mut graph);
    for number in 0..100 {
        at = folder(&mut graph, at, &format!("/{number}"));
    }
    fixture.solve(&graph, at).await.unwrap();
    assert_eq!(fixture.blobs().len(), 100 - 64);
}

/// Each step reads and merges one layer, not all below. The graph is solved without recursion.
#[test]
fn steps_cost_the_same_at_any_depth() {
    let mut fixture = Fixture::new(FakeExecutor::new());
    fixture.options.needs = Needs::Files;
    let mut graph = Graph::new();
    let mut at = scratch(&mut graph);
    for number in 0..3000 {
        at = folder(&mut graph, at, &format!("/{number}"));
    }
    // The stack of a thread of tokio.
    let solve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let solving =
            async { tokio::time::timeout(Duration::from_secs(300), fixture.solve(&graph, at)).await };
        let solved = runtime.block_on(solving).expect("steps cost more the deeper they stand").unwrap();
        let StepResult::Chain(chain) = &solved.values[0] else { panic!("{:?}", solved.values) };
        assert_eq!(chain.depth(), 3000);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(solve).unwrap().join().unwrap();
}

/// Two builds at once with one folder, which end within a minute.
async fn both<T>(one: impl Future<Output = T>, two: impl Future<Output = T>) -> (T, T) {
    let both = futures::future::join(one, two);
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("they wait for each other")
}

#[tokio::test]
async fn a_command_that_waits_for_an_equal_one_lets_others_run() {
    let barrier = Arc::new(Barrier::new(2));
    let part = |path: &str| FakeRun::new().writes(path, "x").meets(&barrier);
    let mut fixture = Fixture::new(FakeExecutor::new().on("same", part("/same")).on("own", part("/own")));
    fixture.options.parallel = Some(1);
    let (mut first, mut second) = (Graph::new(), Graph::new());
    let base = scratch(&mut first);
    let root = run(&mut first, base, "same");
    let base = scratch(&mut second);
    // Its permit is for the own one.
    let (same, own) = (run(&mut second, base, "same"), run(&mut second, base, "own"));
    let joined = copy(&mut second, same, own, "/own");
    let later = async {
        until(|| fixture.executor.running() == 1).await;
        fixture.solve(&second, joined).await
    };
    let (first, second) = both(fixture.solve(&first, root), later).await;
    assert!(!first.unwrap().steps[0].cached);
    let cached = second.unwrap().steps.into_iter().filter(|step| step.cached);
    assert_eq!(cached.map(|step| step.name).collect::<Vec<_>>(), ["RUN same"]);
    assert_eq!(fixture.executor.commands(), ["same", "own"]);
}

#[tokio::test]
async fn a_command_that_waits_for_a_permit_is_not_waited_for() {
    let barrier = Arc::new(Barrier::new(2));
    let part = |path: &str| FakeRun::new().writes(path, "x").meets(&barrier);
    let runs = FakeExecutor::new().on("long", part("/long")).on("after", part("/after"));
    let mut fixture = Fixture::new(runs.on("same", FakeRun::new().writes("/same", "x")));
    fixture.options.parallel = Some(1);
    let (mut first, mut second) = (Graph::new(), Graph::new());
    let base = scratch(&mut first);
    let (long, same) = (run(&mut first, base, "long"), run(&mut first, base, "same"));
    let joined = copy(&mut first, long, same, "/same");
    // The long one ends when this build has come further than the equal one.
    let base = scratch(&mut second);
    let same = run(&mut second, base, "same");
    let root = run(&mut second, same, "after");
    let later = async {
        until(|| fixture.executor.running() == 1).await;
        fixture.solve(&second, root).await
    };
    let (first, second) = both(fixture.solve(&first, joined), later).await;
    assert!(second.unwrap().steps.iter().all(|step| !step.cached));
    assert_eq!(first.unwrap().steps.into_iter().filter(|step| step.cached).count(), 1);
    assert_eq!(fixture.executor.commands(), ["long", "same", "after"]);
}

#[tokio::test]
async fn a_lock_that_cannot_be_made_is_a_warning() {
    let (progress, mut events) = crate::progress::Progress::channel();
    let mut fixture = Fixture::new(FakeExecutor::new());
    fixture.options.progress = progress;
    std::fs::write(fixture.folder.path().join("uses"), "in the way").unwrap();
    let mut graph = Graph::new();
    let base = scratch(&mut graph);
    let root = run(&mut graph, base, "make");
    fixture.solve(&graph, root).await.unwrap();
    let mut warnings = 0;
    while let Ok(event) = events.try_recv() {
        if let crate::progress::Event::Warning { message, .. } = event {
            assert!(message.contains("are not waited for: cannot"), "{message}");
            warnings += 1;
        }
    }
    assert_eq!(warnings, 1);
}
