//! The network of a build: one network namespace for its steps, which a program for user-mode networks connects to that of
//! this machine.
//!
//! ```text
//! helper ── operation ── pid 1 of a pid namespace, in the new network namespace ── pasta, or slirp4netns, outside of it
//!           step ── joins /proc/PID/ns/net of that pid 1
//! ```
//! The operation lives as long as its control socket is open. It ends with the helper, and everything in the pid namespace
//! with it, whoever is killed.
//!
//! # Invariants
//! - Nothing of the loopback interface of this machine is reached but its resolver, through an address of the program; also
//!   by no socket that names an interface (`own_loopback`).
//! - No port of a step is open on this machine.
//! - The program has no file of the builder but the text that it writes.

use super::own_loopback;
use crate::sandbox::{Context, Failure, Isolation, NetworkPlace, read_frame, sys, write_frame};
use crate::{Error, ErrorKind, Result, ResultExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, memfd_create};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The folders of the programs; the `PATH` of the caller is not used.
const FOLDERS: &[&str] = &["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/current-system/sw/bin"];
/// Where the network namespace has a name for the program, in a mount namespace of its own.
const FOLDER: &str = "/tmp";
const NAME: &str = "/tmp/hyper-network";
/// How much of what the program says is kept.
const MAX_TEXT: usize = 1000;
/// How long the program may take to be ready. It usually takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the programs make their interface with.
const DEVICE: &str = "/dev/net/tun";

/// A program that connects a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tool {
    Pasta(PathBuf),
    Slirp(PathBuf),
}

impl Tool {
    fn name(&self) -> &'static str {
        match self {
            Self::Pasta(_) => "pasta",
            Self::Slirp(_) => "slirp4netns",
        }
    }

    /// The address at which a step finds a resolver.
    fn nameserver(&self) -> &'static str {
        match self {
            Self::Pasta(_) => "169.254.1.1",
            Self::Slirp(_) => "10.0.2.3",
        }
    }

    /// Its command, without files.
    fn command(&self) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Self::Pasta(program) => (
                program,
                &[
                    "--config-net",
                    "--no-map-gw",
                    "-t",
                    "none",
                    "-u",
                    "none",
                    "-T",
                    "none",
                    "-U",
                    "none",
                    "-q",
                    "--runas",
                    "0",
                    "--no-netns-quit",
                    "--dns-forward",
                    self.nameserver(),
                    "--netns-only",
                    "--netns",
                    NAME,
                ],
            ),
            Self::Slirp(program) => (
                program,
                &[
                    "--configure",
                    "--disable-host-loopback",
                    "--enable-sandbox",
                    "--enable-seccomp",
                    "--ready-fd=0",
                    "--netns-type=path",
                    NAME,
                    "tap0",
                ],
            ),
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/");
        command
    }

    /// Starts it in the network namespace of this process, and waits until it has connected that of [`NAME`]. What it says
    /// goes into `text`.
    fn start(&self, text: &Text) -> Result<()> {
        let mut command = self.command();
        command.stdout(text.writer()?).stderr(text.writer()?);
        let (Self::Pasta(program) | Self::Slirp(program)) = self;
        let failed = |e| Error::io("cannot start a program", program, e);
        let is_ready = match self {
            // It goes on in the background once it is ready.
            Self::Pasta(_) => command.stdin(Stdio::null()).status().map_err(failed)?.success(),
            Self::Slirp(_) => {
                let (mut ready, end) = std::io::pipe()?;
                command.stdin(Stdio::from(OwnedFd::from(end))).spawn().map_err(failed)?;
                // The command keeps its end of the pipe.
                drop(command);
                ready.read(&mut [0])? == 1
            }
        };
        if is_ready { Ok(()) } else { Err(failure(self.name(), "has ended", text)) }
    }
}

/// What a program says, its beginning alone: the memory has one size.
struct Text(File);

impl Text {
    fn new() -> Result<Self> {
        let failed = std::io::Error::from;
        let file = memfd_create("text", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed)?;
        rustix::fs::ftruncate(&file, MAX_TEXT as u64).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK).map_err(failed)?;
        Ok(Self(File::from(file)))
    }

    /// What writes it, from where the last one has ended.
    fn writer(&self) -> Result<Stdio> {
        Ok(Stdio::from(self.0.try_clone()?))
    }

    /// The lines, joined.
    fn read(&self) -> String {
        let mut bytes = [0; MAX_TEXT];
        let length = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        let said =
            bytes.get(..length).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
        let said = String::from_utf8_lossy(said);
        // pasta says so of each line where there is no system log.
        let is_said = |line: &&str| !line.is_empty() && !line.starts_with("Failed to send ");
        said.lines().map(str::trim).filter(is_said).collect::<Vec<_>>().join("; ")
    }
}

/// The error when a program has not connected the network.
fn failure(tool: &str, what: &str, text: &Text) -> Error {
    let error = Error::unsupported(format!(
        "the network `private` cannot be made: {tool} {what}. The networks `host` and `none` do without it"
    ));
    match text.read() {
        said if said.is_empty() => error,
        said => error.with_context("detail", said),
    }
}

/// The program that is used here.
fn tool(folders: &[&str]) -> Result<Tool> {
    let find =
        |name: &str| folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    let pasta = find("pasta").map(Tool::Pasta);
    pasta.or_else(|| find("slirp4netns").map(Tool::Slirp)).ok_or_else(|| {
        Error::unsupported(
            "the network `private` needs pasta (package `passt`) or slirp4netns (package `slirp4netns`), and neither is \
             installed: install one, or choose the network `host` or `none`",
        )
    })
}

/// What connects the network of a build here.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] with what is missing.
pub(super) fn usable(context: Context) -> Result<&'static str> {
    if context.isolation != Isolation::Full {
        return Err(Error::unsupported(
            "the network `private` needs steps with all namespaces: choose full isolation, or the network `host` or `none`",
        ));
    }
    let tool = tool(FOLDERS)?;
    match rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(tool.name()),
        Err(e) => Err(Error::unsupported(
            "the network `private` needs `/dev/net/tun`, and this user cannot open it: give the user the right to read and \
             write it (without the file, load the module `tun`), or choose the network `host` or `none`",
        )
        .with_source(std::io::Error::from(e))),
    }
}

/// What pid 1 of the network says to the operation.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready { nameserver: String, interface: u32 },
    Failed(Failure),
}

/// What came first.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Answer,
    CallerGone,
    Late,
}

/// Makes the network, sends its place, and ends this process when the caller closes the control socket.
pub(super) fn serve(
    control: &mut UnixStream,
    context: Context,
    reply: impl FnOnce(NetworkPlace) -> Vec<u8>,
) -> Result<Infallible> {
    let tool = usable(context)?;
    let text = Text::new()?;
    let own_pid = sys::own_pid();
    let (mut answer, to_answer) = UnixStream::pair()?;
    sys::unshare(libc::CLONE_NEWPID).context("detail", "pid namespace")?;
    let keeper = match sys::fork()? {
        sys::Fork::Child => {
            drop(answer);
            keep(to_answer, own_pid, &text)
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(to_answer);
    let made = match news(control, &answer, PATIENCE) {
        Ok(News::Answer) => place(keeper, &mut answer, tool, &text),
        Ok(News::Late) => {
            Err(failure(tool, &format!("was not ready after {} seconds", PATIENCE.as_secs()), &text))
        }
        Ok(News::CallerGone) => end(keeper),
        Err(error) => Err(error),
    };
    let sent = made.and_then(|place| Ok(write_frame(control, &reply(place))?));
    if let Err(error) = sent {
        sys::kill(keeper, libc::SIGKILL);
        let _ = sys::wait(keeper, true);
        return Err(error);
    }
    while !matches!(poll(&mut [PollFd::new(control, PollFlags::RDHUP | PollFlags::HUP)], None), Ok(n) if n > 0)
    {
    }
    end(keeper)
}

/// Ends pid 1 of the network with everything in its namespace, and then this process.
fn end(keeper: i32) -> ! {
    sys::kill(keeper, libc::SIGKILL);
    let _ = sys::wait(keeper, true);
    sys::exit_now(0)
}

/// Waits for pid 1 of the network, unless the caller goes first.
fn news(control: &UnixStream, answer: &UnixStream, patience: Duration) -> Result<News> {
    let began = Instant::now();
    loop {
        let left = Timespec::try_from(patience.saturating_sub(began.elapsed())).ok();
        let mut files =
            [PollFd::new(control, PollFlags::RDHUP | PollFlags::HUP), PollFd::new(answer, PollFlags::IN)];
        match poll(&mut files, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(std::io::Error::from(e).into()),
            Ok(0) => return Ok(News::Late),
            Ok(_) if files[0].revents().is_empty() => return Ok(News::Answer),
            Ok(_) => return Ok(News::CallerGone),
        }
    }
}

/// The place of the network that pid 1 of it has made.
fn place(keeper: i32, answer: &mut UnixStream, tool: &str, text: &Text) -> Result<NetworkPlace> {
    let (nameserver, interface) = match read_answer(answer)? {
        Some(Answer::Ready { nameserver, interface }) => (nameserver, interface),
        Some(Answer::Failed(why)) => return Err(why.into()),
        None => return Err(failure(tool, "was ended from outside", text)),
    };
    let path = PathBuf::from(format!("/proc/{keeper}/ns/net"));
    let inode = std::fs::metadata(&path).map_err(|e| Error::io("cannot find the network", &path, e))?.ino();
    Ok(NetworkPlace { path, inode, interface, nameserver })
}

/// Is pid 1 of the network: makes it, says so, and keeps it until its program has ended or the operation kills this process.
fn keep(mut to_answer: UnixStream, operation: i32, text: &Text) -> ! {
    sys::die_with_parent(operation);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // The operation may have died before the line above.
    if poll(&mut [PollFd::new(&to_answer, PollFlags::RDHUP | PollFlags::HUP)], Some(&now)) != Ok(0) {
        sys::exit_now(1);
    }
    // The program gets what it is given and no other file.
    sys::close_on_exec_above(2);
    match connect(text) {
        Ok((nameserver, interface)) => {
            say(&mut to_answer, &Answer::Ready { nameserver, interface });
            // An error means that there is no child any more. A step that comes later is told that the network is gone.
            while sys::wait(-1, true).is_ok() {}
        }
        Err(error) => say(&mut to_answer, &Answer::Failed(error.into())),
    }
    sys::exit_now(1)
}

/// Moves this process into a new network namespace. A child stays in the one from before, and has a program connect the two.
/// Returns the address of the resolver, and the number of the interface.
fn connect(text: &Text) -> Result<(String, u32)> {
    let tool = tool(FOLDERS)?;
    let mounted = |e: rustix::io::Errno| Error::io("cannot give the network a name", NAME, e.into());
    sys::unshare(libc::CLONE_NEWNS).context("detail", "mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(mounted)?;
    mount("hyper", FOLDER, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None).map_err(mounted)?;
    File::create(NAME).map_err(|e| Error::io("cannot give the network a name", NAME, e))?;
    let (mut made, mut make) = UnixStream::pair()?;
    // A process in a user namespace cannot go back into the network of this machine.
    if let sys::Fork::Child = sys::fork()? {
        drop(make);
        // The other end closes without a word when there is no network.
        if made.read_exact(&mut [0]).is_ok() {
            let said = tool.start(text).map_err(Failure::from);
            let _ = write_frame(&mut made, &serde_json::to_vec(&said).expect("plain data"));
        }
        sys::exit_now(0)
    }
    drop(made);
    sys::unshare(libc::CLONE_NEWNET).context("detail", "network namespace")?;
    sys::loopback_up().context("detail", "loopback interface")?;
    mount_bind("/proc/self/ns/net", NAME).map_err(mounted)?;
    // Some kernels have others than that of loopback in every network.
    let before = own_loopback::interfaces()?;
    make.write_all(&[0])?;
    let ended = || failure(tool.name(), "was ended from outside", text);
    read_answer::<Result<(), Failure>>(&mut make)?.ok_or_else(ended)??;
    let made =
        own_loopback::interfaces()?.into_iter().find(|name| !before.contains(name)).ok_or_else(ended)?;
    let interface = name_to_index(network_socket()?, &made).map_err(|_| ended())?;
    own_loopback::keep_inside()?;
    Ok((tool.nameserver().to_owned(), interface))
}

/// A socket that asks about the interfaces of this network namespace.
fn network_socket() -> Result<OwnedFd> {
    let made = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    made.map_err(|e| Error::from(std::io::Error::from(e)).with_context("detail", "socket of the network"))
}

fn read_answer<T: DeserializeOwned>(from: &mut UnixStream) -> Result<Option<T>> {
    Ok(read_frame(from)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Sends an answer. When the operation has ended, this process is about to.
fn say(to_answer: &mut UnixStream, answer: &Answer) {
    let _ = write_frame(to_answer, &serde_json::to_vec(answer).expect("plain data"));
}

/// Moves this process into the network of its build.
pub(super) fn join(place: Option<&NetworkPlace>) -> Result<()> {
    let gone = || {
        Error::new(
            ErrorKind::Unavailable,
            "the network `private` of the build is gone: its program (pasta or slirp4netns) has ended",
        )
    };
    let place =
        place.ok_or_else(|| Error::invalid("a command with the network `private` needs its place"))?;
    let file = File::open(&place.path).map_err(|e| gone().with_source(e))?;
    if file.metadata()?.ino() != place.inode {
        return Err(gone());
    }
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| Error::from(std::io::Error::from(e)).with_context("detail", "network namespace"))?;
    // Pid 1 of the network hears of the end of the program later than the kernel.
    match index_to_name(network_socket()?, place.interface) {
        Ok(_) => Ok(()),
        Err(e @ Errno::NODEV) => Err(gone().with_source(std::io::Error::from(e))),
        Err(e) => {
            Err(Error::from(std::io::Error::from(e)).with_context("detail", "interface of the network"))
        }
    }
}

/// `/etc/resolv.conf` of a step in such a network, of that of this machine.
pub(super) fn resolv_conf(own: &str, nameserver: &str) -> String {
    let kept = own
        .lines()
        .filter(|line| matches!(line.split_whitespace().next(), Some("search" | "domain" | "options")));
    kept.map(|line| format!("{line}\n")).chain([format!("nameserver {nameserver}\n")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasta_is_preferred_and_both_are_named_when_neither_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_str().unwrap()];
        let error = tool(&folders).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(
            error.message().contains("package `passt`") && error.message().contains("package `slirp4netns`")
        );
        std::fs::write(folder.path().join("slirp4netns"), "").unwrap();
        assert_eq!(tool(&folders).unwrap().name(), "slirp4netns");
        std::fs::write(folder.path().join("pasta"), "").unwrap();
        assert_eq!(tool(&folders).unwrap().name(), "pasta");
    }

    #[test]
    fn the_wait_ends_with_an_answer_with_the_caller_and_with_the_time() {
        let ((mut control, caller), (answer, mut keeper)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let now = |control: &UnixStream| news(control, &answer, Duration::ZERO).unwrap();
        assert_eq!(now(&control), News::Late);
        write_frame(&mut keeper, b"text").unwrap();
        assert_eq!(now(&control), News::Answer);
        drop(caller);
        assert_eq!(now(&control), News::CallerGone);
        (control, _) = UnixStream::pair().unwrap();
        assert_eq!(now(&control), News::CallerGone);
        let (control, _caller) = UnixStream::pair().unwrap();
        let (answer, keeper) = UnixStream::pair().unwrap();
        drop(keeper);
        assert_eq!(news(&control, &answer, Duration::ZERO).unwrap(), News::Answer, "one that has ended");
    }

    #[test]
    fn the_beginning_of_what_a_program_says_is_kept() {
        let text = Text::new().unwrap();
        let say = |script: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]).stdout(text.writer().unwrap()).stderr(text.writer().unwrap());
            shell.status().unwrap();
        };
        assert_eq!(text.read(), "");
        say("echo one; echo; echo ' two' >&2; echo Failed to send 9 bytes to syslog");
        say("echo three");
        assert_eq!(text.read(), "one; two; three");
        say("yes 0123456789 | head -c 100000");
        assert!(
            text.0.metadata().unwrap().len() == MAX_TEXT as u64 && text.read().starts_with("one; two; three")
        );
        let error = failure("pasta", "has ended", &text);
        assert!(
            error.message().contains("`private`") && format!("{error:?}").contains("two; three"),
            "{error:?}"
        );
    }

    #[test]
    fn a_step_asks_the_resolver_of_the_program_alone() {
        let own = "# a\nnameserver 127.0.0.53\nsearch example.com\noptions edns0\nnameserver ::1\n";
        assert_eq!(resolv_conf(own, "10.0.2.3"), "search example.com\noptions edns0\nnameserver 10.0.2.3\n");
    }
}
