//! Backends that live elsewhere say what they can do, whole executors and snapshotters among them.

use async_trait::async_trait;
use hyper_sdk::build::BuilderCapabilities;
use hyper_sdk::client::ClientCapabilities;
use hyper_sdk::exec::{ExecCapabilities, ExecSpec, Executor, ExitStatus, Identity, LogSink, RootFs};
use hyper_sdk::platform::Platform;
use hyper_sdk::progress::LogStream;
use hyper_sdk::snapshot::{Active, SnapshotCapabilities};
use hyper_sdk::store::StoreCapabilities;
use hyper_sdk::{Digest, Result};
use std::any::Any;
use std::sync::{Arc, Mutex};

const STEPS: ExecCapabilities = ExecCapabilities::new(Identity::Full).with_private_network();
const SNAPSHOTS: SnapshotCapabilities = SnapshotCapabilities::new(12).with_shared_layers();
const STORE: StoreCapabilities = StoreCapabilities::ALL.without_delete();
const CLIENT: ClientCapabilities = ClientCapabilities::PULL.with_push().with_resume();
const BUILDER: BuilderCapabilities = BuilderCapabilities::new().with_all_owners();

#[test]
fn capabilities_are_made_outside_of_the_crate() {
    assert!(STEPS.private_network && !STEPS.insecure && STEPS.identity == Identity::Full);
    assert!(STEPS.without_private_network().with_insecure().insecure);
    assert_eq!((SNAPSHOTS.shares_layers, SNAPSHOTS.max_depth), (true, 12));
    assert_eq!((STORE.write, STORE.delete), (true, false));
    assert_eq!((CLIENT.push, CLIENT.resume, CLIENT.delete), (true, true, false));
    let builder = BUILDER.with_run(vec![Platform::new("linux", "amd64", None)]);
    assert!(builder.run && builder.all_owners && builder.platforms.len() == 1);
}

/// An executor that prints what it should run, and needs no sandbox.
#[derive(Debug, Default)]
struct Printer(Mutex<Vec<Vec<String>>>);

impl std::fmt::Display for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("printer")
    }
}

#[async_trait]
impl Executor for Printer {
    fn capabilities(&self) -> ExecCapabilities {
        ExecCapabilities::new(Identity::Single)
    }

    async fn run(&self, _rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        log.log(LogStream::Stdout, spec.args.join(" ").as_bytes());
        self.0.lock().unwrap().push(spec.args);
        Ok(ExitStatus::new(0))
    }
}

#[tokio::test]
async fn an_executor_from_elsewhere_runs_steps() {
    let (executor, output) = (Printer::default(), Arc::new(Mutex::new(Vec::new())));
    let sink = Arc::clone(&output);
    let log = move |_: LogStream, bytes: &[u8]| sink.lock().unwrap().extend_from_slice(bytes);
    let rootfs = RootFs::Folder { path: "/".into(), writable: false };
    let status = executor.run(&rootfs, ExecSpec::new(["echo", "hi"]), Arc::new(log)).await.unwrap();
    assert!(status.success() && *output.lock().unwrap() == b"echo hi");
    assert_eq!(executor.0.lock().unwrap().len(), 1);
}

/// A snapshot of a snapshotter that keeps no folders.
#[derive(Debug)]
struct Elsewhere(RootFs);

impl Active for Elsewhere {
    fn rootfs(&self) -> &RootFs {
        &self.0
    }

    fn parent(&self) -> Option<&Digest> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// A snapshotter takes the snapshots that it has made, and no others.
#[tokio::test]
async fn a_snapshot_from_elsewhere_is_refused() {
    use hyper_sdk::sandbox::Sandbox;
    use hyper_sdk::snapshot::{LocalSnapshotter, Snapshotter};
    let Some(fixture) = crate::sandbox::Fixture::new().await else { return };
    // No executor is needed.
    let sandbox: Sandbox = Sandbox::start(crate::sandbox::helper()).await.unwrap();
    let open = async |name: &str| LocalSnapshotter::open(fixture.path(name), sandbox.clone()).await.unwrap();
    let (one, two) = (open("one").await, open("two").await);
    let foreign = || Box::new(Elsewhere(RootFs::Folder { path: fixture.path("base"), writable: true }));
    let chain = Digest::sha256("chain");
    assert!(one.diff(&*foreign()).await.is_err());
    assert!(one.commit(foreign(), &chain).await.is_err());
    assert!(one.abandon(foreign()).await.is_err());
    let active = two.prepare(None).await.unwrap();
    assert!(one.diff(&*active).await.is_err());
    assert!(one.commit(active, &chain).await.is_err());
    let active = one.prepare(None).await.unwrap();
    one.commit(active, &chain).await.unwrap();
    assert!(one.has(&chain).await.unwrap() && !two.has(&chain).await.unwrap());
}
