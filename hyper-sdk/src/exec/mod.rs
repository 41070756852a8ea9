//! Runs the commands of a build in a sandbox, without a daemon.
//!
//! [`Executor`] is the trait. [`NativeExecutor`] implements it with the helper of a [`crate::sandbox::Sandbox`].
//!
//! ```text
//! caller (tokio)      helper (one thread)          operation               the step
//!   NativeExecutor ──▶ user namespace, once ─fork─▶ request JSON ──fork─▶ pid 1 ──fork─▶ execve
//!        ▲                                          ▶ reply JSON           mounts, reaps
//!        └── logs and tar streams over pipes of their own; a closed socket or a dead caller ends everything
//! ```
//!
//! # Invariants
//! - No process outlives its operation: the pid namespace of a step dies with the helper, or the operation ends what is
//!   below it.
//! - A sandboxed step can open the usual devices and the granted ones only, whoever made their nodes.
//! - A file that was checked is used by its descriptor; no path that a step can change is looked up twice.
//! - Secrets travel over pipes into memory-backed files. They are never written to a disk and never printed.

mod above;
mod allowed;
mod bpf;
mod cache_mount;
mod command;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod control_group;
mod describe;
mod device_guard;
mod devices;
mod foreign;
mod group_folder;
mod group_limits;
mod insecure_devices;
mod limits;
mod mask;
mod mount_api;
mod mountpoint;
mod mounts;
mod native;
mod network;
mod notify;
mod oci_runtime;
mod own_loopback;
mod places;
mod prepare;
mod program;
mod rlimits;
mod runtime;
mod seccomp;
mod single_id;
mod socket;
mod spec;
mod step;
mod syscalls;
mod unisolated;

pub use crate::sandbox::{
    ExitStatus, HelperCommand, Identity, Isolation, NetworkPlace, ReachedLimit, RootFs, SandboxOptions,
};
pub use devices::DevicePermissions;
pub(crate) use devices::Devices;
pub(crate) use foreign::{Runs, runs};
pub use group_limits::{GroupLimits, SwapLimit};
pub use limits::{StepLimits, Ulimit, UlimitKind};
pub use native::{NativeExecutor, helper_main, init};
pub use oci_runtime::OciRuntime;
pub use spec::{
    CacheMount, CacheOwner, ExecMount, ExecSpec, HostOption, MountSource, Network, SecretBytes, Security,
};

use crate::Result;
use crate::progress::LogStream;
use crate::store::capabilities::switches;
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::any::Any;
use std::fmt::{Debug, Display};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// What an executor supports here. A request for anything else fails with [`crate::ErrorKind::Unsupported`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecCapabilities {
    /// Whether files and processes can have any owner or only one.
    pub identity: Identity,
    /// Whether steps can have a network namespace of their own ([`Network::None`]).
    pub private_network: bool,
    /// Whether [`Security::Insecure`] gives the capabilities of the host's root.
    pub insecure: bool,
    /// Whether a command runs in a sandbox: it has few privileges by default, and can have its own mounts, host name,
    /// host entries and resolver. Without a sandbox it has the privileges of the executor, and the rest is refused.
    pub sandbox: bool,
    /// Whether the root file system may be a [`RootFs::Overlay`]. A [`RootFs::Folder`] is always possible.
    pub overlays: bool,
    /// Whether commands can be held to [`StepLimits`], or to some of them: see [`Executor::check_limits`].
    pub limits: bool,
    /// Whether the content of cache mounts can be read and made: see [`Executor::pack_cache`] and [`Executor::fill_cache`].
    pub cache_contents: bool,
    /// Whether the commands of a build can share a network of their own ([`Network::Private`]), where this machine has what it
    /// needs: see [`Executor::build_network`].
    pub build_network: bool,
}

impl ExecCapabilities {
    /// The minimum: a command runs in a folder with the privileges of the executor. The methods below add to it.
    ///
    /// ```
    /// use hyper_sdk::exec::{ExecCapabilities, Identity};
    ///
    /// const MINE: ExecCapabilities = ExecCapabilities::new(Identity::Full).with_private_network();
    /// assert!(MINE.private_network && !MINE.sandbox);
    /// ```
    pub const fn new(identity: Identity) -> Self {
        Self {
            identity,
            private_network: false,
            insecure: false,
            sandbox: false,
            overlays: false,
            limits: false,
            cache_contents: false,
            build_network: false,
        }
    }

    switches! {
        private_network: with_private_network, without_private_network;
        insecure: with_insecure, without_insecure;
        sandbox: with_sandbox, without_sandbox;
        overlays: with_overlays, without_overlays;
        limits: with_limits, without_limits;
        cache_contents: with_cache_contents, without_cache_contents;
        build_network: with_build_network, without_build_network;
    }
}

/// Receives the output of a command as it is written. It must not block.
///
/// ```
/// use hyper_sdk::exec::LogSink;
/// use hyper_sdk::progress::LogStream;
/// use std::sync::{Arc, Mutex};
///
/// /// Keeps what a command writes to standard error.
/// #[derive(Default)]
/// struct Errors(Mutex<Vec<u8>>);
///
/// impl LogSink for Errors {
///     fn log(&self, stream: LogStream, bytes: &[u8]) {
///         if stream == LogStream::Stderr {
///             self.0.lock().unwrap().extend_from_slice(bytes);
///         }
///     }
/// }
///
/// // A closure is a sink, too.
/// let silent: Arc<dyn LogSink> = Arc::new(|_: LogStream, _: &[u8]| {});
/// silent.log(LogStream::Stdout, b"make: nothing to be done");
/// ```
pub trait LogSink: Send + Sync + 'static {
    /// Receives some bytes, which need not end at a line or character boundary.
    fn log(&self, stream: LogStream, bytes: &[u8]);

    /// Waits until there is room for more output; the command waits in the meantime. A sink without a buffer is always
    /// ready.
    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl<F: Fn(LogStream, &[u8]) + Send + Sync + 'static> LogSink for F {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        self(stream, bytes);
    }
}

/// The network of a build. It ends when this is dropped; commands that are still in it then reach nothing.
pub struct BuildNetwork {
    place: NetworkPlace,
    _until_dropped: Box<dyn Any + Send + Sync>,
}

impl BuildNetwork {
    /// A network that is there as long as `kept`.
    pub fn new(place: NetworkPlace, kept: impl Any + Send + Sync) -> Self {
        Self { place, _until_dropped: Box::new(kept) }
    }

    /// Where commands find it: see [`ExecSpec::network_place`].
    pub fn place(&self) -> &NetworkPlace {
        &self.place
    }
}

impl Debug for BuildNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildNetwork").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Runs one command on a root file system.
///
/// # Guarantees
/// Object-safe; several commands may run at once. No process that a command started outlives it. Dropping the future of
/// [`Executor::run`] kills the command and everything that it started, but does not wait for their end: the upper
/// folder of that command must not be used again. The suite in `exec::conformance` tests an executor.
///
/// # Example
/// An executor that records the commands:
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::Result;
/// use hyper_sdk::exec::{ExecCapabilities, ExecSpec, Executor, ExitStatus, LogSink, RootFs};
/// use std::fmt;
/// use std::sync::{Arc, Mutex};
///
/// #[derive(Debug)]
/// struct Recording {
///     inner: Arc<dyn Executor>,
///     commands: Mutex<Vec<Vec<String>>>,
/// }
///
/// impl fmt::Display for Recording {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "{}, recorded", self.inner)
///     }
/// }
///
/// #[async_trait]
/// impl Executor for Recording {
///     fn capabilities(&self) -> ExecCapabilities {
///         self.inner.capabilities()
///     }
///
///     async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
///         // The arguments alone: the environment can hold secrets.
///         self.commands.lock().unwrap().push(spec.args.clone());
///         self.inner.run(rootfs, spec, log).await
///     }
/// }
/// ```
#[async_trait]
pub trait Executor: Display + Debug + Send + Sync + 'static {
    /// What this executor can do.
    fn capabilities(&self) -> ExecCapabilities;

    /// Runs a command to its end. When this returns, `log` has received all output. The output is not read faster than
    /// [`LogSink::ready`] allows.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the command cannot be started (no such program or folder).
    /// [`crate::ErrorKind::NotFound`] when its user, its group or the source of a mount does not exist: the error names
    /// what was looked for and where. [`crate::ErrorKind::Unsupported`] for what [`Executor::capabilities`] lacks. A
    /// command that ran and failed is not an error: see [`ExitStatus`].
    async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus>;

    /// Checks that [`Executor::run`] can hold a command to these limits. A build with limits asks once, before the first
    /// command that it runs; one whose commands are all cached does not ask.
    ///
    /// The default asks [`Executor::capabilities`] alone.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`], with a message that names the limit and what is missing;
    /// [`crate::ErrorKind::Invalid`] for limits that contradict themselves: see [`StepLimits::validate`].
    async fn check_limits(&self, limits: &StepLimits) -> Result<()> {
        limits.validate()?;
        match limits.first() {
            Some(first) if !self.capabilities().limits => Err(crate::Error::unsupported(format!(
                "this executor cannot limit what steps use, so `{first}` cannot be set"
            ))),
            _ => Ok(()),
        }
    }

    /// Reads the folder of a cache mount ([`CacheMount::path`]), which no command uses meanwhile: an archive of its files
    /// with their owners as commands see them and exact times. The root of the archive is the folder. An error comes with
    /// the last read at the latest. Dropping the reader ends the work.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] unless [`ExecCapabilities::cache_contents`]; [`crate::ErrorKind::Io`].
    async fn pack_cache(&self, folder: &Path) -> Result<Box<dyn Read + Send>> {
        let _ = folder;
        Err(no_cache_contents())
    }

    /// Makes the folder of a cache mount of an archive that [`Executor::pack_cache`] of another machine has made, or that
    /// is hostile: nothing outside of the folder is touched. An existing folder stays as it is. The folder appears with all of
    /// its files when `files` has been read to the end without an error, or not at all. Owners that cannot be set here
    /// become root. Dropping the future ends the work; what is beside the folder then belongs to no cache.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] unless [`ExecCapabilities::cache_contents`]; the errors of reading `files`;
    /// [`crate::ErrorKind::Invalid`], [`crate::ErrorKind::TooLarge`] and [`crate::ErrorKind::Unsupported`] for archives
    /// that cannot be unpacked; [`crate::ErrorKind::Io`].
    async fn fill_cache(&self, folder: &Path, files: Box<dyn Read + Send>) -> Result<()> {
        let _ = (folder, files);
        Err(no_cache_contents())
    }

    /// Makes the network that the commands of one build share: see [`Network::Private`]. A build with that network asks once,
    /// before the first command that it runs; one whose commands are all cached does not ask.
    ///
    /// The default refuses it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`], with a message that names the network `private` and what is missing.
    async fn build_network(&self) -> Result<BuildNetwork> {
        Err(no_build_network(self))
    }
}

/// Why an executor makes no network of a build.
pub(crate) fn no_build_network(executor: &(impl Display + ?Sized)) -> crate::Error {
    crate::Error::unsupported(format!(
        "the network `private` cannot be had with this executor ({executor}): use the native executor with full isolation, or \
         the network `host` or `none`"
    ))
}

/// Why an executor does neither of the two.
fn no_cache_contents() -> crate::Error {
    crate::Error::unsupported("this executor cannot read or make the content of cache mounts")
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Executor + ?Sized> Executor for Arc<T> {
    fn capabilities(&self) -> ExecCapabilities {
        (**self).capabilities()
    }

    async fn run(&self, rootfs: &RootFs, spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        (**self).run(rootfs, spec, log).await
    }

    async fn check_limits(&self, limits: &StepLimits) -> Result<()> {
        (**self).check_limits(limits).await
    }

    async fn pack_cache(&self, folder: &Path) -> Result<Box<dyn Read + Send>> {
        (**self).pack_cache(folder).await
    }

    async fn fill_cache(&self, folder: &Path, files: Box<dyn Read + Send>) -> Result<()> {
        (**self).fill_cache(folder, files).await
    }

    async fn build_network(&self) -> Result<BuildNetwork> {
        (**self).build_network().await
    }
}
