//! The native executor: steps as processes of the sandbox's helper.

use super::step::{self, Order};
use super::{
    BuildNetwork, ExecCapabilities, ExecSpec, Executor, ExitStatus, LogSink, Network, Security, StepLimits,
    control_group, device_guard, no_build_network,
};
use super::{describe, network};
use crate::progress::LogStream;
use crate::sandbox::{
    self, Context, Errand, HelperCommand, Identity, Isolation, Reply, Request, RootFs, Rung, Sandbox, StepIo,
    Steps,
};
use crate::{Error, Result, ResultExt};
use async_trait::async_trait;
use std::convert::Infallible;
use std::fmt;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Becomes the helper if the program was started as one, and then never returns. Otherwise returns at once.
///
/// A program that is linked statically with the GNU C library looks up names with what it contains from then on, files
/// and DNS, whatever `/etc/nsswitch.conf` says: the modules named there belong to another C library.
///
/// Must be the first line of `main`, before any thread starts.
///
/// ```no_run
/// hyper_sdk::exec::init(); // the first line of `main`
/// // … the program …
/// ```
pub fn init() {
    crate::runtime::use_own_name_services();
    if sandbox::is_marked() {
        helper_main();
    }
}

/// Runs the helper, for programs that learn in another way that they were started as one. The standard input must be
/// the socket that [`Sandbox::start`] made, and no other thread may run.
pub fn helper_main() -> ! {
    sandbox::helper_main::<Commands>()
}

/// Steps that run a command.
struct Commands;

/// Whether steps run in a control group that restricts devices, where one can be made.
fn guards_devices(context: Context) -> bool {
    !context.user_namespace && context.isolation != Isolation::None
}

impl Steps for Commands {
    type Step = Order;

    fn start(context: Context) {
        if guards_devices(context) {
            control_group::sweep();
        }
    }

    fn prepare(context: Context) {
        if guards_devices(context) {
            device_guard::share();
        }
    }

    fn end() {
        device_guard::end_share();
        control_group::leave();
    }

    fn describe(context: Context) -> Vec<Rung> {
        describe::rungs(context)
    }

    fn check(step: Order, context: Context) -> Result<()> {
        step::check_limits(&step.spec.limits, context)?;
        control_group::check(&step.spec.limits.group)
    }

    fn network(control: &mut UnixStream, context: Context) -> Result<Infallible> {
        network::serve(control, context, |place| {
            serde_json::to_vec(&Reply::Network(place)).expect("plain data")
        })
    }

    fn run(rootfs: &RootFs, step: Order, io: StepIo<'_>, context: Context) -> Result<ExitStatus> {
        step::run(rootfs, step, io, context)
    }
}

/// Runs commands in a sandbox of namespaces, an overlay, Docker's default capabilities and a system call filter.
///
/// The commands run in the helper of a [`Sandbox`]. Clones share it.
#[derive(Clone)]
pub struct NativeExecutor(Sandbox);

impl NativeExecutor {
    /// Makes an executor that uses this sandbox.
    pub fn new(sandbox: Sandbox) -> Self {
        Self(sandbox)
    }

    /// Starts a sandbox for it.
    ///
    /// # Errors
    /// Those of [`Sandbox::start_with`].
    pub async fn start(command: HelperCommand) -> Result<Self> {
        Sandbox::start(command).await.map(Self)
    }

    /// The sandbox that commands run in, for a [`crate::snapshot::LocalSnapshotter`] of the same owners.
    pub fn sandbox(&self) -> &Sandbox {
        &self.0
    }

    /// The owners that steps can have.
    pub fn identity(&self) -> Identity {
        self.0.identity()
    }

    /// Messages about limits of this machine and their reasons.
    pub fn notes(&self) -> &[String] {
        self.0.notes()
    }

    /// Runs a step in the helper.
    pub(super) async fn order(&self, rootfs: &RootFs, order: Order, log: &dyn LogSink) -> Result<ExitStatus> {
        let request = Request::Run { rootfs: rootfs.clone(), step: Box::new(order) };
        let (mut control, output, errors) = self.0.begin(&request)?.split()?;
        let (reply, output, errors) = tokio::join!(
            control.reply(),
            pass_on(output, LogStream::Stdout, log),
            pass_on(errors, LogStream::Stderr, log),
        );
        match reply.op("run command")? {
            Reply::Exited(status) => {
                output?;
                errors?;
                control.close().await;
                Ok(status)
            }
            _ => Err(wrong_reply()),
        }
    }
}

async fn pass_on(from: OwnedFd, stream: LogStream, log: &dyn LogSink) -> Result<()> {
    let mut from = pipe::Receiver::from_owned_fd(from)?;
    let mut buffer = vec![0; 32 << 10];
    loop {
        log.ready().await;
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => log.log(stream, &buffer[..n]),
        }
    }
}

#[async_trait]
impl Executor for NativeExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        let mut all =
            ExecCapabilities::new(self.0.identity()).with_sandbox().with_limits().with_cache_contents();
        let has_namespaces = self.0.isolation() != Isolation::None;
        all.private_network = has_namespaces;
        all.insecure = has_namespaces && !self.0.has_user_namespace();
        all.overlays = self.0.can_overlay();
        all.build_network = self.0.isolation() == Isolation::Full;
        all
    }

    async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        if spec.security == Security::Insecure && !self.capabilities().insecure {
            return Err(Error::unsupported(
                "`security=insecure` needs the builder to run as the host's root, with namespaces",
            ));
        }
        if spec.network == Network::Private && !self.capabilities().build_network {
            return Err(no_build_network(self));
        }
        let _turn = self.0.turn().await?;
        self.order(rootfs, Order { spec, runtime: None }, &*log).await
    }

    async fn check_limits(&self, limits: &StepLimits) -> Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let mut spec = ExecSpec::new(["true"]);
        spec.limits = limits.clone();
        let order = Order { spec, runtime: None };
        let (mut control, ..) = self.0.begin(&Request::Check { step: Box::new(order) })?.split()?;
        match control.reply().await? {
            Reply::Done => {
                control.close().await;
                Ok(())
            }
            _ => Err(wrong_reply()),
        }
    }

    async fn pack_cache(&self, folder: &Path) -> Result<Box<dyn Read + Send>> {
        self.0.stream(&Request::PackCache { folder: folder.to_owned() })
    }

    async fn fill_cache(&self, folder: &Path, files: Box<dyn Read + Send>) -> Result<()> {
        // Made here, so that an operation that is ended in its middle does not make it after it was removed.
        let staging = staging_of(folder);
        std::fs::create_dir(&staging).at("cannot make a cache folder", &staging)?;
        let request = Request::FillCache { folder: folder.to_owned(), staging: staging.clone() };
        let filled = self.0.feed(request, files, std::future::ready(Ok(Vec::new()))).await;
        if filled.is_err() {
            // When the archive could not be read to its end, its operation was ended.
            let _ = self.0.errand(&Errand::Remove { paths: vec![staging] }).await;
        }
        filled
    }

    async fn build_network(&self) -> Result<BuildNetwork> {
        let (mut control, ..) = self.0.begin(&Request::<Order>::Network)?.split()?;
        match control.reply().await.op("make the network of the build")? {
            Reply::Network(place) => Ok(BuildNetwork::new(place, control)),
            _ => Err(wrong_reply()),
        }
    }
}

/// A new folder beside that of a cache, which no other process takes.
fn staging_of(folder: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let mut name = folder.as_os_str().to_owned();
    name.push(format!(".new-{}-{number}-{time}", std::process::id()));
    name.into()
}

fn wrong_reply() -> Error {
    Error::internal("the sandbox helper sent a reply of the wrong kind")
}

impl fmt::Display for NativeExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("native sandbox")
    }
}

impl fmt::Debug for NativeExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NativeExecutor").field(&self.0).finish()
    }
}
