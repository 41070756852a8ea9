//! The caller's side: starts the helper and sends operations to it.

use super::descriptors;
use super::errand::Attendants;
use super::protocol::{Hello, Reply, Request, Start, Started, read_frame, write_frame};
use super::{HelperCommand, Identity, Isolation, Place, Rung, SandboxOptions};
use crate::{Error, ErrorKind, MissingInput, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Serialize;
use std::fmt;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod errands;

/// How long a helper may take to become ready. It usually takes milliseconds.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A helper process in which files can have other owners, and which runs steps.
///
/// Works as root and as an ordinary user, in this order of preference: no user namespace (root), one with every id of a
/// container (its root), one with subordinate ids (`newuidmap` and `/etc/subuid`), one with only the caller's id, no
/// namespaces at all ([`SandboxOptions::isolation`]). The helper is started once and ends when the
/// last clone is dropped. It is started again if it died.
///
/// ```no_run
/// # async fn example() -> hyper_sdk::Result<()> {
/// use hyper_sdk::exec::NativeExecutor;
/// use hyper_sdk::sandbox::{HelperCommand, Sandbox};
/// use hyper_sdk::snapshot::LocalSnapshotter;
///
/// let sandbox = Sandbox::start(HelperCommand::current_exe()).await?;
/// let snapshots = LocalSnapshotter::open("/var/tmp/snapshots", sandbox.clone()).await?;
/// let executor = NativeExecutor::new(sandbox);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    command: HelperCommand,
    /// What every helper is told first.
    start: Start,
    /// They end before the helper, which waits for them.
    attendants: Attendants,
    helper: Mutex<Option<Arc<Helper>>>,
    hello: Hello,
    /// Where `hello` is kept.
    place: Option<Place>,
    /// Whether `hello` is what an earlier helper said.
    known: bool,
    /// Whether a helper said something else than `hello`.
    changed: AtomicBool,
    notes: Vec<String>,
    /// Without isolation, steps run one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Helper {
    socket: OwnedFd,
    child: Mutex<Child>,
}

/// A running operation. Dropping it ends the operation.
pub(crate) struct Operation {
    control: UnixStream,
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
}

/// Waits for the end of an operation. Dropping it ends the operation.
pub(crate) struct Control(tokio::net::UnixStream);

impl Operation {
    /// The control to wait with, and the pipes with the output and errors of the operation.
    pub(crate) fn split(self) -> Result<(Control, OwnedFd, OwnedFd)> {
        Ok((Control::new(self.control)?, self.output, self.errors))
    }

    /// The control alone, of an operation without output.
    fn into_control(self) -> UnixStream {
        self.control
    }
}

impl Control {
    fn new(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(tokio::net::UnixStream::from_std(stream)?))
    }

    /// Waits for the reply.
    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        let length = self.0.read_u32_le().await.map_err(lost)? as usize;
        if length > super::protocol::MAX_FRAME {
            return Err(Error::internal("the sandbox helper sent a reply that is too long"));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await.map_err(lost)?;
        parse(&bytes)
    }

    /// The socket, for another request.
    fn into_std(self) -> Result<UnixStream> {
        let stream = self.0.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// Closes it after the reply.
    pub(crate) async fn close(mut self) {
        // An error means that the other side has closed already.
        self.0.shutdown().await.ok();
    }
}

impl Sandbox {
    /// Starts the helper and finds out what this machine supports: [`Sandbox::start_with`] the defaults.
    ///
    /// # Errors
    /// Those of [`Sandbox::start_with`].
    pub async fn start(command: HelperCommand) -> Result<Self> {
        Self::start_with(command, SandboxOptions::default()).await
    }

    /// Starts the helper and finds out what this machine supports, up to what the options allow. Where there can be no
    /// namespaces, files can be unpacked and read all the same, and steps are refused unless the options ask for
    /// [`Isolation::None`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the program does not become the helper (see [`crate::exec::init`]), also in
    /// such a program itself; [`crate::ErrorKind::NotFound`] when the helper program does not exist.
    pub async fn start_with(command: HelperCommand, options: SandboxOptions) -> Result<Self> {
        Self::start_at(command, options, None).await
    }

    /// [`Sandbox::start_with`]. When the place has what an earlier helper said, the helper starts with the first operation.
    ///
    /// # Errors
    /// Those of [`Sandbox::start_with`]. Those of a helper that starts later come with the operation; so does
    /// [`crate::ErrorKind::Conflict`] when it says something else than what is kept: see [`Sandbox::has_changed`].
    pub(crate) async fn start_at(
        command: HelperCommand,
        options: SandboxOptions,
        place: Option<Place>,
    ) -> Result<Self> {
        tokio::task::spawn_blocking(move || {
            super::helper::refuse_another()?;
            let mut start = Start { options, no_namespaces: None };
            let known = place.as_ref().and_then(Place::load);
            let is_known = known.is_some();
            let (helper, hello) = match known {
                Some(hello) => (None, hello),
                None => match Helper::start(&command, &start)? {
                    (helper, Ok(hello)) => (Some(helper), hello),
                    (_, Err(refused)) => {
                        start.no_namespaces = Some(full_text(&refused));
                        let (helper, hello) = Helper::start(&command, &start)?;
                        (Some(helper), hello?)
                    }
                },
            };
            let notes = notes(&hello, &options);
            let (helper, turn) = (Mutex::new(helper.map(Arc::new)), Arc::default());
            let (known, changed) = (is_known, AtomicBool::new(false));
            let attendants = Attendants::default();
            Ok(Self(Arc::new(Inner {
                command,
                start,
                attendants,
                helper,
                hello,
                place,
                known,
                changed,
                notes,
                turn,
            })))
        })
        .await
        .map_err(|e| Error::internal("starting the sandbox helper panicked").with_source(e))?
    }

    /// Whether an earlier helper found out what this one can do, and overlays work on the file system of the place.
    pub(crate) fn is_known(&self) -> bool {
        self.0.known
    }

    /// Keeps what the helper said, for a later process: overlays work on the file system of the place.
    pub(crate) fn keep(&self) {
        if let Some(place) = &self.0.place {
            place.keep(&self.0.start, &self.0.hello);
        }
    }

    /// Whether a helper said something else than what was known. What is known has been removed then, and a new sandbox
    /// finds it out anew.
    pub(crate) fn has_changed(&self) -> bool {
        self.0.changed.load(Ordering::Relaxed)
    }

    /// How far steps are separated from the machine.
    pub fn isolation(&self) -> Isolation {
        self.0.hello.isolation
    }

    /// Waits until no other step runs, where only one may. The turn ends when the guard is dropped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] where steps have no isolation and nobody asked for that.
    pub(crate) async fn turn(&self) -> Result<Option<tokio::sync::OwnedMutexGuard<()>>> {
        if self.isolation() != Isolation::None {
            return Ok(None);
        }
        if self.0.start.options.isolation != Isolation::None {
            return Err(Error::unsupported(
                "a step cannot be separated from this machine, and the build wants isolation",
            )
            .with_missing(MissingInput::Isolation)
            .with_context("detail", self.0.hello.isolation_reasons.join("; ")));
        }
        Ok(Some(Arc::clone(&self.0.turn).lock_owned().await))
    }

    /// What this machine supports, part by part, and why each better choice is not used. Snapshots are not a part of it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when the helper ended.
    pub async fn describe(&self) -> Result<Vec<Rung>> {
        let hello = &self.0.hello;
        let identity = match (hello.identity, hello.user_namespace) {
            (Identity::Full, false) => "root",
            (Identity::Full, true) => "user namespace with many ids",
            (Identity::Single, _) => "single id",
        };
        let isolation = match hello.isolation {
            Isolation::Full => "namespaces",
            Isolation::SharedProcesses => "namespaces, with the processes and the /proc of this machine",
            Isolation::None => "none",
        };
        let with = |part: &str, used: &str, reasons: &[String]| {
            reasons.iter().fold(Rung::new(part, used), |rung, reason| rung.because(reason.clone()))
        };
        let mut rungs = vec![
            with("identity", identity, &hello.identity_reasons),
            with("isolation", isolation, &hello.isolation_reasons),
        ];
        match self.call(Request::Describe).await? {
            Reply::Described(more) => rungs.extend(more),
            _ => return Err(Error::internal("the sandbox helper sent a reply of the wrong kind")),
        }
        Ok(rungs)
    }

    /// The owners that files and processes can have.
    pub fn identity(&self) -> Identity {
        self.0.hello.identity
    }

    /// Why files and processes cannot have more owners.
    pub(crate) fn identity_reasons(&self) -> &[String] {
        &self.0.hello.identity_reasons
    }

    /// Whether files can have this owner.
    pub(crate) fn can_own(&self, uid: u32, gid: u32) -> bool {
        // With a single id, owners are recorded instead.
        self.identity() == Identity::Single || self.0.hello.ids.has(uid, gid)
    }

    /// Whether overlays can be mounted here; otherwise trees must be copied.
    pub(crate) fn can_overlay(&self) -> bool {
        self.0.hello.overlay.is_ok()
    }

    /// Why overlays cannot be mounted.
    pub(crate) fn overlay_reason(&self) -> Option<&str> {
        self.0.hello.overlay.as_ref().err().map(String::as_str)
    }

    /// Messages about limits of this machine and their reasons.
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Whether the helper runs in its own user namespace, and so without the privileges of the host's root.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.0.hello.user_namespace
    }

    /// Sends a request to the helper, which starts it at once.
    pub(crate) fn begin<S: Serialize>(&self, request: &Request<S>) -> Result<Operation> {
        let text = serde_json::to_vec(request).expect("requests are plain data with string keys");
        let mut last = None;
        // The helper may have died (out of memory, killed) since its last use: then it is started again, once.
        for _ in 0..2 {
            let helper = self.helper()?;
            match helper.begin() {
                Ok(mut operation) => {
                    write_frame(&mut operation.control, &text)
                        .map_err(|e| Error::internal("the sandbox helper does not listen").with_source(e))?;
                    return Ok(operation);
                }
                Err(e) => {
                    let mut current = self.0.helper.lock().unwrap_or_else(PoisonError::into_inner);
                    if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &helper)) {
                        self.0.attendants.end();
                        *current = None;
                    }
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("the sandbox helper cannot be reached")))
    }

    /// Starts the helper, unless it runs.
    ///
    /// # Errors
    /// Those of an operation that starts it: see [`Sandbox::start_at`].
    pub(crate) async fn start_helper(&self) -> Result<()> {
        let sandbox = self.clone();
        tokio::task::spawn_blocking(move || sandbox.helper().map(drop))
            .await
            .map_err(|e| Error::internal("starting the sandbox helper panicked").with_source(e))?
    }

    fn helper(&self) -> Result<Arc<Helper>> {
        let mut helper = self.0.helper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(helper) = &*helper {
            return Ok(Arc::clone(helper));
        }
        let (new, hello) = Helper::start(&self.0.command, &self.0.start)?;
        match hello {
            Ok(hello) if hello == self.0.hello => Ok(Arc::clone(helper.insert(Arc::new(new)))),
            other => {
                self.0.changed.store(true, Ordering::Relaxed);
                if let Some(place) = &self.0.place {
                    place.forget();
                }
                let differs = "what this machine lets a sandbox do has changed: build again";
                Err(other.err().unwrap_or_else(|| Error::new(ErrorKind::Conflict, differs)))
            }
        }
    }

    /// Runs an operation without a stream and returns its reply.
    pub(crate) async fn call(&self, request: Request) -> Result<Reply> {
        let operation = self.begin(&request)?;
        drop((operation.output, operation.errors));
        Control::new(operation.control)?.reply().await
    }

    /// Runs an operation that reads a tar, on a blocking thread, and then the folders of the layers below. Dropping the
    /// future ends it with the next read.
    pub(crate) async fn feed(
        &self,
        request: Request,
        mut tar: Box<dyn Read + Send>,
        lowers: impl Future<Output = Result<Vec<PathBuf>>>,
    ) -> Result<()> {
        let operation = self.begin(&request)?;
        drop((operation.output, operation.errors));
        let mut control = operation.control;
        // The future of the caller may be dropped while the thread is reading. Closing the socket ends the operation at
        // once, and the next write of the thread fails.
        let closer = Closer(control.try_clone().map_err(lost)?);
        let fed = tokio::task::spawn_blocking(move || -> Result<_> {
            let mut buffer = vec![0; 256 << 10];
            loop {
                let n = tar.read(&mut buffer)?;
                if write_frame(&mut control, &buffer[..n]).is_err() {
                    // The operation has ended early; its reply has the reason.
                    return Ok((control, false));
                }
                if n == 0 {
                    return Ok((control, true));
                }
            }
        })
        .await
        .map_err(|e| Error::internal("a layer reader panicked").with_source(e))?;
        let (mut control, is_whole) = fed?;
        if is_whole {
            let lowers = serde_json::to_vec(&lowers.await?)
                .map_err(|e| Error::invalid("the path of the snapshots is not UTF-8").with_source(e))?;
            // A write error means that the operation has ended early.
            let _ = write_frame(&mut control, &lowers);
        }
        let reply = Control::new(control)?.reply().await;
        drop(closer);
        reply.map(drop)
    }

    /// Runs an operation that writes a tar.
    pub(crate) fn stream(&self, request: &Request) -> Result<Box<dyn Read + Send>> {
        let operation = self.begin(request)?;
        Ok(Box::new(TarPipe { output: operation.output.into(), control: Some(operation.control) }))
    }
}

struct Closer(UnixStream);

impl Drop for Closer {
    fn drop(&mut self) {
        // This fails only when the socket is closed already.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

struct TarPipe {
    output: std::fs::File,
    control: Option<UnixStream>,
}

impl Read for TarPipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.output.read(buffer)?;
        if n == 0
            && !buffer.is_empty()
            && let Some(mut control) = self.control.take()
        {
            read_reply(&mut control).map_err(std::io::Error::other)?;
        }
        Ok(n)
    }
}

impl Helper {
    /// Starts a helper. The inner result is an error when it may not have namespaces; it has ended then.
    fn start(command: &HelperCommand, start: &Start) -> Result<(Self, Result<Hello>)> {
        super::helper::refuse_another()?;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| Error::from(std::io::Error::from(e)))?;
        let child = Command::new(&command.program)
            .args(&command.args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::io("cannot start the sandbox helper", &command.program, e))?;
        let helper = Self { socket: ours, child: Mutex::new(child) };
        let text = serde_json::to_vec(start).expect("plain data");
        // A program that has ended already is noticed below.
        let _ = rustix::net::send(&helper.socket, &text, rustix::net::SendFlags::NOSIGNAL);
        let mut buffer = vec![0; 64 << 10];
        let deadline = Instant::now() + READY_TIMEOUT;
        let not_called = || super::helper::not_called().with_context("program", command.program.display());
        let n = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&helper.socket, PollFlags::IN)], Some(&left)) {
                // The program does something else instead of becoming the helper.
                Ok(0) => return Err(not_called()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Error::from(std::io::Error::from(e))),
            }
            match rustix::net::recv(&helper.socket, &mut buffer[..], rustix::net::RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                // It ended before it read what was sent.
                Err(rustix::io::Errno::CONNRESET) | Ok((0, _)) => return Err(not_called()),
                Ok((n, _)) => break n,
                Err(e) => return Err(Error::from(std::io::Error::from(e))),
            }
        };
        match serde_json::from_slice::<Started>(&buffer[..n]) {
            Ok(Started::Ready(hello)) => Ok((helper, Ok(hello))),
            Ok(Started::NoNamespaces(failure)) => Ok((helper, Err(failure.into()))),
            Ok(Started::Failed(failure)) => Err(failure.into()),
            Err(e) => {
                Err(Error::internal("the sandbox helper sent a message that cannot be parsed").with_source(e))
            }
        }
    }

    fn begin(&self) -> Result<Operation> {
        let failed = |e: rustix::io::Errno| Error::from(std::io::Error::from(e));
        let (control, theirs) = UnixStream::pair()?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed);
        let ((output, output_end), (errors, errors_end)) = (pipe()?, pipe()?);
        descriptors::send(&self.socket, [theirs.as_fd(), output_end.as_fd(), errors_end.as_fd()])?;
        Ok(Operation { control, output, errors })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The helper ends when its socket closes: it waits for its operations, and removes control groups. A stopped or stuck
        // helper is killed.
        if rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).is_ok() {
            let mut ends = [PollFd::new(&self.socket, PollFlags::empty())];
            let _ = poll(&mut ends, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }));
        }
        // Its children die with it. Both calls fail only when it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Warnings about limits of this machine and their reasons.
fn notes(hello: &Hello, options: &SandboxOptions) -> Vec<String> {
    let mut notes = Vec::new();
    if hello.identity == Identity::Single {
        let effect = "other owners and users than root are recorded for the image, and steps are not kept from what \
                      belongs to another user";
        notes.extend(hello.identity_reasons.iter().map(|why| format!("{why}: {effect}")));
    }
    let effect = match hello.isolation {
        Isolation::Full => return notes,
        Isolation::SharedProcesses => {
            "steps see the processes of this machine, and can end those of the same user"
        }
        Isolation::None if options.isolation == Isolation::None => {
            "steps run one at a time without isolation: they have the privileges, the network and the processes of this \
             machine, no /proc and no /sys, and what they write to a read-only mount is discarded"
        }
        // Steps are refused, and the error has the reason.
        Isolation::None => return notes,
    };
    notes.push(match hello.isolation_reasons.first() {
        Some(why) if options.isolation != hello.isolation => format!("{why}: {effect}"),
        _ => effect.to_owned(),
    });
    notes
}

/// The message of an error with its cause.
fn full_text(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{}: {cause}", error.message()),
        None => error.message().to_owned(),
    }
}

fn lost(e: std::io::Error) -> Error {
    Error::internal("the sandbox helper ended without a reply; it may have been killed").with_source(e)
}

fn read_reply(control: &mut UnixStream) -> Result<Reply> {
    let bytes =
        read_frame(control).map_err(lost)?.ok_or_else(|| lost(std::io::ErrorKind::UnexpectedEof.into()))?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Reply> {
    serde_json::from_slice::<Reply>(bytes)
        .map_err(|e| {
            Error::internal("the sandbox helper sent a message that cannot be parsed").with_source(e)
        })?
        .into_result()
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("hello", &self.0.hello).finish_non_exhaustive()
    }
}
