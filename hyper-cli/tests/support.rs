//! What the end-to-end tests share: a place of its own for each test, the program, a registry, a base image.

use hyper_sdk::Digest;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hyperbuild");

/// Says that a test does not run here.
macro_rules! skip {
    ($($why:tt)*) => {{
        println!("SKIPPED: {}", format_args!($($why)*));
        return;
    }};
}
pub(crate) use skip;

/// The search path of everything that a test runs.
pub(crate) fn path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Where a tool is.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|f| f.join(tool)).find(|p| p.is_file())
}

/// The first of the tools that is missing.
pub(crate) fn missing<'a>(tools: &[&'a str]) -> Option<&'a str> {
    tools.iter().copied().find(|tool| find(tool).is_none())
}

/// Whether the test is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A static busybox of this machine.
pub(crate) fn busybox() -> Option<PathBuf> {
    ["busybox", "busybox.static", "busybox-static"].iter().filter_map(|name| find(name)).find(|path| {
        // A static program names no dynamic linker.
        let bytes = std::fs::read(path).unwrap_or_default();
        !bytes.windows(8).any(|w| w == b"/ld-linu" || w == b"/ld-musl")
    })
}

/// Who runs the program.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// Whoever runs the tests.
    Me,
    /// The user with this name, from root.
    User(String),
    /// A user id without a name and without subordinate ids, from root.
    Id(u32),
}

/// A temporary folder with a state folder and the files of a test. It is removed at the end.
#[derive(Debug)]
pub(crate) struct Place {
    folder: tempfile::TempDir,
    who: Who,
    program: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::of(Who::Me)
    }

    /// A place of another user, who owns the folder and a readable copy of the program.
    pub(crate) fn of(who: Who) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut program = PathBuf::from(PROGRAM);
        let owner = match &who {
            Who::Me => None,
            Who::User(name) => Some((id(name, "-u"), id(name, "-g"))),
            Who::Id(id) => Some((*id, *id)),
        };
        if let Some((user, group)) = owner {
            program = folder.path().join("hyperbuild");
            copy_program(PROGRAM.as_ref(), &program);
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        Self { folder, who, program }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes a script that is going to be run.
    pub(crate) fn write_program(&self, name: &str, text: &str) -> PathBuf {
        let beside = self.write(&format!("{name}.text"), text);
        let path = self.join(name);
        copy_program(&beside, &path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The program, with nothing in its environment but where to look for tools and its own folder.
    pub(crate) fn hyper(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.who {
            Who::Me => Command::new(&self.program),
            who => {
                let mut command = Command::new("setpriv");
                match who {
                    Who::User(name) => command
                        .arg(format!("--reuid={}", id(name, "-u")))
                        .arg(format!("--regid={}", id(name, "-g")))
                        .arg("--init-groups"),
                    Who::Id(id) => command
                        .arg(format!("--reuid={id}"))
                        .arg(format!("--regid={id}"))
                        .arg("--clear-groups"),
                    Who::Me => unreachable!("it was told apart above"),
                };
                command.arg("--inh-caps=-all").arg("--").arg(&self.program);
                command
            }
        };
        command
            .args(arguments)
            .env_clear()
            .env("PATH", path())
            .env("HOME", self.join("home"))
            .env("HYPER_ROOT", self.join("state"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the program, which must succeed, and returns its standard output, trimmed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        succeed(&mut self.hyper(arguments))
    }

    /// Builds a Dockerfile with the folder `context` on the base image `base`.
    pub(crate) fn build(&self, dockerfile: &str, more: &[&str]) -> Command {
        let file = self.write("Dockerfile", dockerfile);
        std::fs::create_dir_all(self.join("context")).unwrap();
        let base = format!("base=oci-layout://{}", base().display());
        let mut command = self.hyper(&["build", "--progress=json", "--build-context", &base, "-f"]);
        command.arg(file).args(more).arg(self.join("context"));
        command
    }

    /// Builds, which has to succeed.
    pub(crate) fn built(&self, dockerfile: &str, more: &[&str]) -> Built {
        let output = self.build(dockerfile, more).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        Built::of(&output)
    }
}

/// A number of `id`.
fn id(user: &str, flag: &str) -> u32 {
    succeed(Command::new("id").args([flag, user])).parse().unwrap()
}

/// Runs a command, which must succeed, and returns its standard output, trimmed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", told(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a folder takes on the disk as `du` counts it, without the log of a database, which may stay until its next use.
pub(crate) fn bytes_on_disk(folder: &Path) -> u64 {
    let without = ["-wal", "-shm"].map(|end| format!("--exclude=hyper.db{end}"));
    let seen = succeed(Command::new("du").args(["-s", "-B1"]).args(without).arg(folder));
    seen.split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs commands at the same time. They are all made before one starts, as making a build writes its Dockerfile.
pub(crate) fn at_once<const N: usize>(commands: [Command; N]) -> [Output; N] {
    commands
        .map(|mut command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .map(|child| child.wait_with_output().unwrap())
}

/// Everything that a program wrote, for messages.
pub(crate) fn told(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The result of a build: its digest and its events.
#[derive(Debug)]
pub(crate) struct Built {
    /// The digest of the image.
    pub(crate) digest: String,
    /// The events in order.
    pub(crate) events: Vec<serde_json::Value>,
}

impl Built {
    pub(crate) fn of(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let events = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { digest: String::from_utf8_lossy(&output.stdout).trim().to_owned(), events }
    }

    /// The outcome of every task by its name.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        let mut outcomes = BTreeMap::new();
        for event in &self.events {
            let Some(task) = event["task"].as_u64() else { continue };
            match event["event"].as_str() {
                Some("started") => {
                    names.insert(task, event["name"].as_str().unwrap().to_owned());
                }
                Some("finished") => {
                    let outcome = &event["outcome"];
                    let text = outcome.as_str().map_or_else(|| outcome.to_string(), str::to_owned);
                    outcomes.insert(names[&task].clone(), text);
                }
                _ => {}
            }
        }
        outcomes
    }

    /// Everything that the steps wrote.
    pub(crate) fn log(&self) -> String {
        self.events.iter().filter(|e| e["event"] == "log").filter_map(|e| e["text"].as_str()).collect()
    }

    /// The position of the event with which a task of this name reached this state.
    pub(crate) fn position(&self, state: &str, text: &str) -> usize {
        let named = |e: &serde_json::Value| {
            e["event"] == "started" && e["name"].as_str().is_some_and(|n| n.contains(text))
        };
        let start = self.events.iter().find(|e| named(e));
        let task = &start.unwrap_or_else(|| panic!("no task {text}: {:?}", self.outcomes()))["task"];
        self.events.iter().position(|e| e["event"] == state && &e["task"] == task).unwrap()
    }
}

/// A registry in a process of its own.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    /// Its host and port.
    pub(crate) host: String,
    _place: Place,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let place = Place::new();
        let mut child =
            place.hyper(&["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let host = line.trim().strip_prefix("http://").expect("it tells where it listens").to_owned();
        Self { child, host: host.trim_end_matches('/').to_owned(), _place: place }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a program that is going to be run. Another process writes the copy: a process that another thread starts just
/// then could inherit a descriptor of this one, and the kernel runs no file that is open for writing.
fn copy_program(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg(from).arg(to));
}

/// An OCI layout with one image: a static busybox, made by the program itself once in a run of the tests.
///
/// # Panics
/// Without a static busybox: a test asks [`busybox`] first.
pub(crate) fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("busybox-base");
        let place = Place::new();
        let context = place.join("rootfs");
        for name in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(context.join(name)).unwrap();
        }
        std::fs::copy(busybox().unwrap(), context.join("bin/busybox")).unwrap();
        let applets = succeed(Command::new(busybox().unwrap()).arg("--list"));
        for name in applets.lines().filter(|name| *name != "busybox" && !name.contains('/')) {
            std::os::unix::fs::symlink("busybox", context.join("bin").join(name)).unwrap();
        }
        place.write("rootfs/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        place.write("rootfs/etc/group", "root:x:0:\n");
        let file = place.write("Dockerfile", "FROM scratch\nCOPY . /\nENV PATH=/bin\nCMD [\"/bin/sh\"]\n");
        // Made elsewhere and moved, so that a killed run leaves nothing incomplete.
        let made = folder.with_extension(std::process::id().to_string());
        let output = format!("type=oci,tar=false,dest={}", made.display());
        succeed(
            place
                .hyper(&["build", "-q", "-t", "base:latest", "--source-date-epoch=1", "-o", &output, "-f"])
                .arg(file)
                .arg(context),
        );
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::rename(&made, &folder).unwrap();
        // Others have to read it, and may not reach the folder of the build.
        let shared = std::env::temp_dir().join(format!("hyper-e2e-base-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&shared);
        succeed(Command::new("cp").args(["-r"]).arg(&folder).arg(&shared));
        succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&shared));
        shared
    })
}

/// The files below a folder: type and permissions, and the content of files and links.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, (u32, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_symlink() {
                std::fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_dir() {
                walk(root, &path, found);
                String::new()
            } else {
                Digest::sha256(std::fs::read(&path).unwrap()).to_string()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (meta.mode(), content));
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// A tool of another project, with only a search path and a home of its own in its environment.
pub(crate) fn tool(name: &str, home: &Path) -> Command {
    std::fs::create_dir_all(home.join("run")).unwrap();
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", path())
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env("TMPDIR", home)
        .stdin(Stdio::null());
    command
}

/// A number that no other process has on its command line.
pub(crate) fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("7{:07}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The processes that have this text on their command line.
pub(crate) fn processes(marker: &str) -> Vec<u32> {
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    ids.filter_map(|entry| {
        let id = entry.file_name().to_string_lossy().parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(marker).then_some(id)
    })
    .collect()
}

/// Waits until something holds.
pub(crate) fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited for a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
