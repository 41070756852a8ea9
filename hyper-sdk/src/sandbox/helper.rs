//! The helper: this program, started again, with one thread. It prepares its namespaces once and then forks a process
//! for each operation. The room that runs steps implements them ([`Steps`]).
//!
//! ```text
//! caller ─┬─ helper ─┬─ operation (Run) ── pid 1 of the step ── command
//!         │          ├─ operation (Apply)
//! ```
//! Every process dies with the one to its left: the helper when its socket closes, the others by a signal. An operation
//! also ends when its own control socket closes, and the helper waits for that before it ends. Neither ends by an interrupt
//! of the terminal, which the caller gets as well. Where steps have no pid namespace, the operation and its pid 1 end
//! what is below them: see [`super::processes`].

use super::RootFs;
use super::protocol::{Failure, FrameReader, Hello, Reply, Request, Start, Started, read_frame, write_frame};
use super::{
    Context, ExitStatus, Isolation, Rung, cache_folder, descriptors, errand, sys, tree, userns, view,
};
use crate::{Error, ErrorKind, Result};
use rustix::net::SocketType;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first argument of a program that is started as the helper.
const MARKER: &str = "--hyper-exec-helper";

/// How many files an operation can have open before the table of its open files grows.
const OPEN_FILES: i32 = 1023;

/// How long the operations may take to end after the caller is gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How to start the helper.
///
/// ```no_run
/// use hyper_sdk::exec::{HelperCommand, NativeExecutor};
/// use hyper_sdk::sandbox::Sandbox;
///
/// async fn executor() -> hyper_sdk::Result<NativeExecutor> {
///     // For a program whose `main` is not its own, such as a test or an interpreter.
///     let helper = HelperCommand::with_init("/usr/libexec/hyper-exec-helper");
///     Ok(NativeExecutor::new(Sandbox::start(helper).await?))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl HelperCommand {
    /// The current program, whose `main` must begin with [`crate::exec::init`].
    pub fn current_exe() -> Self {
        Self::with_init("/proc/self/exe")
    }

    /// A program whose `main` begins with [`crate::exec::init`], such as the `hyper-exec-helper` that comes with the SDK.
    pub fn with_init(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: vec![MARKER.into()] }
    }
}

/// Runs the steps of a build in the helper.
pub(crate) trait Steps {
    /// The data of a step.
    type Step: DeserializeOwned;

    /// Prepares the helper for steps, before its first operation.
    fn start(context: Context);

    /// Prepares for the next operation, in the helper before it forks.
    fn prepare(context: Context);

    /// Undoes [`Steps::start`] at the end of the helper.
    fn end();

    /// How steps are restricted here, part by part.
    fn describe(context: Context) -> Vec<Rung>;

    /// Checks that a step can be restricted as it asks, in the process of an operation, which ends then.
    fn check(step: Self::Step, context: Context) -> Result<()>;

    /// Makes the network of a build in the process of an operation and sends the reply. The network is there until
    /// `control` is closed, and this returns only when it could not be made.
    fn network(control: &mut UnixStream, context: Context) -> Result<Infallible>;

    /// Runs a step in the process of its operation, which ends when `io.control` is closed.
    fn run(rootfs: &RootFs, step: Self::Step, io: StepIo<'_>, context: Context) -> Result<ExitStatus>;
}

/// The control socket and the pipes of a step.
pub(crate) struct StepIo<'a> {
    /// The caller closes it to cancel the step.
    pub(crate) control: &'a UnixStream,
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
}

/// Whether this process was started as a helper, by its arguments.
pub(crate) fn is_marked() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == MARKER)
}

/// Whether this process was started as a helper and has not become one. A program may change its arguments, so the
/// standard input is checked too: a helper has a socket there that its parent made.
fn was_started_as_helper() -> bool {
    if is_marked() {
        return true;
    }
    let input = std::io::stdin();
    rustix::net::sockopt::socket_type(&input) == Ok(SocketType::SEQPACKET)
        && rustix::net::sockopt::socket_peercred(&input)
            .is_ok_and(|peer| Some(peer.pid) == rustix::process::getppid())
}

/// Refuses to start a helper in a process that should have become one, and sends the error to the parent. Otherwise
/// each process would start the next, without end.
pub(crate) fn refuse_another() -> Result<()> {
    if !was_started_as_helper() {
        return Ok(());
    }
    let answer = Started::Failed(Failure::from(not_called()));
    let text = serde_json::to_vec(&answer).expect("plain data");
    // The parent may be gone.
    let _ = rustix::net::send(std::io::stdin(), &text, rustix::net::SendFlags::NOSIGNAL);
    Err(not_called())
}

/// The error when a program was started as a helper and did not become one.
pub(crate) fn not_called() -> Error {
    Error::unsupported(
        "the sandbox helper ended at once: the program must call `hyper_sdk::exec::init()` first in `main`",
    )
}

/// Runs the helper. The standard input must be the socket that [`super::Sandbox`] made, and no other thread may run.
pub(crate) fn helper_main<S: Steps>() -> ! {
    let socket = std::io::stdin();
    if rustix::net::sockopt::socket_type(&socket) != Ok(SocketType::SEQPACKET) {
        sys::exit_now(2);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    sys::close_above(2);
    let Some(start) = receive_start(socket.as_fd()) else { sys::exit_now(2) };
    let (answer, context) = match enter(start) {
        Ok((hello, context)) => (Started::Ready(hello), Some(context)),
        Err(error) if error.kind() == ErrorKind::Unsupported => (Started::NoNamespaces(error.into()), None),
        Err(error) => (Started::Failed(error.into()), None),
    };
    let text = serde_json::to_vec(&answer).expect("plain data");
    let sent = rustix::net::send(&socket, &text, rustix::net::SendFlags::NOSIGNAL).is_ok();
    match context {
        Some(context) if sent => {
            S::start(context);
            sys::ignore_children();
            sys::ignore_interrupts(true);
            serve::<S>(socket.as_fd(), context)
        }
        _ => sys::exit_now(1),
    }
}

/// The first message of the caller; `None` when it is gone.
fn receive_start(socket: BorrowedFd<'_>) -> Option<Start> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match rustix::net::recv(socket, &mut buffer[..], rustix::net::RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
            Ok((n, _)) => return serde_json::from_slice(&buffer[..n]).ok(),
        }
    }
}

fn enter(start: Start) -> Result<(Hello, Context)> {
    const CAP_MKNOD: u32 = 27;
    let options = start.options;
    let asked = || (options.isolation == Isolation::None).then(|| "it was asked for".to_owned());
    let why = start.no_namespaces.or_else(asked);
    let entered = match why {
        Some(why) => userns::without(&options, why),
        None => userns::enter(&options)?,
    };
    let context = Context {
        identity: entered.identity,
        user_namespace: entered.user_namespace,
        isolation: entered.isolation,
        devices: !entered.user_namespace && sys::effective_capabilities() >> CAP_MKNOD & 1 == 1,
    };
    let hello = Hello {
        identity: entered.identity,
        user_namespace: entered.user_namespace,
        isolation: entered.isolation,
        overlay: match (options.overlay, entered.isolation) {
            (false, _) => Err("copies were asked for".to_owned()),
            (true, Isolation::None) => Err("nothing can be mounted without namespaces".to_owned()),
            (true, _) => view::can_overlay(),
        },
        ids: userns::MappedIds::own(),
        identity_reasons: entered.identity_reasons,
        isolation_reasons: entered.isolation_reasons,
    };
    Ok((hello, context))
}

fn serve<S: Steps>(socket: BorrowedFd<'_>, context: Context) -> ! {
    let own_pid = sys::own_pid();
    loop {
        let Some(files) = descriptors::receive(socket) else {
            wait_for_operations();
            S::end();
            sys::exit_now(0)
        };
        S::prepare(context);
        // When the fork fails, the caller sees that the sockets close.
        if let Ok(sys::Fork::Child) = sys::fork() {
            sys::die_with_parent(own_pid);
            sys::notice_children();
            let [control, output, errors] = files;
            let code = operation::<S>(UnixStream::from(control), output, errors, context);
            sys::exit_now(code);
        }
    }
}

/// Waits for the operations to end, whose control sockets have closed with the caller: they put in order what outlives a
/// process, such as control groups.
fn wait_for_operations() {
    let began = Instant::now();
    // Ended children are not kept, so the answer is an error once there is none.
    while sys::wait(-1, false).is_ok() && began.elapsed() < END_TIMEOUT {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs one operation in its own process. Returns the exit code.
fn operation<S: Steps>(mut control: UnixStream, output: OwnedFd, errors: OwnedFd, context: Context) -> i32 {
    // The helper's main socket must not stay open here, or the caller's death would go unnoticed.
    let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") else { return 1 };
    if sys::duplicate_to(null.as_fd(), 0).is_err() {
        return 1;
    }
    drop(null);
    let request = match read_frame(&mut control) {
        Ok(Some(bytes)) => match serde_json::from_slice::<Request<S::Step>>(&bytes) {
            Ok(request) => request,
            Err(_) => return 1,
        },
        _ => return 1,
    };
    if matches!(request, Request::Attend) {
        drop((output, errors));
        return attend(control, context);
    }
    let served = |control: &mut UnixStream| dispatch::<S>(request, control, output, errors, context);
    i32::from(answer(&mut control, served).is_err())
}

/// Serves short requests in the process of an operation until the caller closes the socket. Returns the exit code.
fn attend(mut control: UnixStream, context: Context) -> i32 {
    if exit_with_caller(&control).is_err() {
        return 1;
    }
    while let Ok(Some(bytes)) = read_frame(&mut control) {
        let Ok(errand) = serde_json::from_slice(&bytes) else { return 1 };
        if answer(&mut control, |_| errand::serve(errand, context)).is_err() {
            return 1;
        }
    }
    0
}

/// Does the work of a request, and sends the reply. A panic is an error in it. An error means that the caller is to close
/// the socket, or has closed it.
fn answer(
    control: &mut UnixStream,
    work: impl FnOnce(&mut UnixStream) -> Result<Reply>,
) -> std::io::Result<()> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(control)));
    let reply = match outcome {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => Reply::Failed(error.into()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            Reply::Failed(Error::internal(format!("the sandbox helper panicked: {text}")).into())
        }
    };
    let text = serde_json::to_vec(&reply).expect("plain data");
    write_frame(control, &text)?;
    match reply {
        Reply::Failed(_) => Err(std::io::ErrorKind::Other.into()),
        _ => Ok(()),
    }
}

fn dispatch<S: Steps>(
    request: Request<S::Step>,
    control: &mut UnixStream,
    output: OwnedFd,
    errors: OwnedFd,
    context: Context,
) -> Result<Reply> {
    // These fork, so this process must not have a second thread yet.
    let request = match request {
        Request::Run { rootfs, step } => {
            return S::run(&rootfs, *step, StepIo { control, output, errors }, context).map(Reply::Exited);
        }
        Request::Check { step } => return S::check(*step, context).map(|()| Reply::Done),
        Request::Describe => return Ok(Reply::Described(S::describe(context))),
        Request::Network => match S::network(control, context)? {},
        other => other,
    };
    drop(errors);
    exit_with_caller(control)?;
    let mut output = std::io::BufWriter::with_capacity(256 << 10, std::fs::File::from(output));
    match request {
        Request::Run { .. }
        | Request::Check { .. }
        | Request::Describe
        | Request::Network
        | Request::Attend => Err(Error::internal("an operation that was done already")),
        Request::Apply { target, plain, times, any_owner } => {
            // Headers are read in small parts.
            let tar = std::io::BufReader::with_capacity(256 << 10, FrameReader::new(control));
            tree::apply(&target, plain, times.as_deref(), any_owner, tar, lower_layers, context)?;
            Ok(Reply::Done)
        }
        Request::Join { run, rest, target, limit } => {
            tree::join(&run, &rest, &target, limit, context).map(Reply::Joined)
        }
        Request::Diff { upper, lowers, plain } => {
            tree::diff(&upper, &lowers, plain, &mut output, context)?;
            finish(output)
        }
        Request::Copy { sources, plan } => {
            tree::file_operation(&sources, &plan, &mut output, context)?;
            finish(output)
        }
        Request::Export { rootfs, path, published, owners } => {
            tree::export(&rootfs, &path, &published, owners, &mut output, context)?;
            finish(output)
        }
        Request::Pack { files, index } => {
            tree::pack(&files, &index, &mut output)?;
            finish(output)
        }
        Request::PackCache { folder } => {
            cache_folder::pack(&folder, &mut output, context)?;
            finish(output)
        }
        Request::FillCache { folder, staging } => {
            let tar = std::io::BufReader::with_capacity(256 << 10, FrameReader::new(control));
            cache_folder::fill(&folder, &staging, tar, |tar| lower_layers(tar).map(drop), context)?;
            Ok(Reply::Done)
        }
        Request::ReadFile { rootfs, path, limit } => {
            view::read_file(view::open(&rootfs)?.as_fd(), &path, limit).map(Reply::File)
        }
        Request::CopyTree { from, to, for_step } => copy_tree(&from, &to, for_step),
    }
}

/// Reads the lower layers, which follow after the tar.
fn lower_layers(mut tar: std::io::BufReader<FrameReader<'_, UnixStream>>) -> Result<Vec<PathBuf>> {
    // The bytes after the end of the archive belong to the stream that the caller hashes.
    std::io::copy(&mut tar, &mut std::io::sink())?;
    let frame = read_frame(&mut tar.into_inner().into_inner())?;
    let list = frame.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    list.ok_or_else(|| Error::internal("the lower layers of a layer were not sent"))
}

fn copy_tree(from: &RootFs, to: &std::path::Path, for_step: bool) -> Result<Reply> {
    let from = view::open(from)?;
    let target = view::open_folder(to)?;
    let folders = tree::copy_with_record(from.as_fd(), target.as_fd())?;
    if for_step {
        folders.save(to)?;
    }
    Ok(Reply::Done)
}

fn finish(mut output: std::io::BufWriter<std::fs::File>) -> Result<Reply> {
    std::io::Write::flush(&mut output)?;
    Ok(Reply::Done)
}

/// Ends this process when the caller closes the control socket. A thread waits for that, since the work itself blocks.
fn exit_with_caller(control: &UnixStream) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    // The kernel waits for tens of milliseconds whenever the table of open files of a process with threads has to grow,
    // and each lower layer is an open file. So it grows now. A low limit of open files is no error here.
    drop(rustix::io::fcntl_dupfd_cloexec(control, OPEN_FILES));
    let control = control.try_clone()?;
    let watch = move || {
        loop {
            let mut files = [PollFd::new(&control, PollFlags::HUP | PollFlags::RDHUP)];
            if let Ok(n) = poll(&mut files, None)
                && n > 0
            {
                sys::exit_now(1);
            }
        }
    };
    std::thread::Builder::new().spawn(watch)?;
    Ok(())
}
