//! A PostgreSQL server of the tests, from the packages of the system.

use std::io::{Error, Result, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The user and the group `nobody`, which the server runs as when the tests run as root: it refuses root.
const NOBODY: u32 = 65534;

/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);

/// A private PostgreSQL server, whose data are in a temporary folder and which listens on a socket there. It syncs as a real
/// one does.
///
/// A shell watches over it: when the value is dropped or the process of the tests ends, however it does, the shell stops the
/// server and removes the folder.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    folder: PathBuf,
    watch: Mutex<Option<Child>>,
    count: AtomicU32,
}

impl PostgresServer {
    /// The server that all tests of a process share; `None` where PostgreSQL is not installed.
    ///
    /// # Panics
    /// When it is installed and cannot be started.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<PostgresServer>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start().expect("the PostgreSQL server of the tests cannot be started"))
            .as_ref()
    }

    /// Starts a server of one's own, to stop it in the middle of something; `None` where PostgreSQL is not installed.
    ///
    /// # Errors
    /// What `initdb` or the server said.
    pub fn start() -> Result<Option<Self>> {
        let Some(programs) = programs() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("hyper-postgres-").tempdir()?.keep();
        if is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
        }
        let server = Self { programs, folder, watch: Mutex::new(None), count: AtomicU32::new(0) };
        let data = server.folder.join("data");
        let made = server
            .command("initdb")
            .args(["--no-sync", "-Upostgres", "--encoding=UTF8", "--locale=C", "--auth=trust"])
            .arg("--pgdata")
            .arg(&data)
            .output()?;
        if !made.status.success() {
            return Err(Error::other(String::from_utf8_lossy(&made.stderr)));
        }
        let mut settings = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
        writeln!(
            settings,
            "listen_addresses = ''\nunix_socket_directories = '{}'\nmax_connections = 400\nshared_buffers = '32MB'\n\
             autovacuum = off",
            server.folder.display()
        )?;
        server.up()?;
        Ok(Some(server))
    }

    /// Starts the server after [`stop`](Self::stop).
    ///
    /// # Errors
    /// What the server said.
    pub fn up(&self) -> Result<()> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        // The server ends with the standard input of the shell, which ends with this process.
        let script = "\"$0\" \"$@\" & server=$!; cat >/dev/null; kill -QUIT $server; wait $server; \
                      [ -e \"$KEEP\" ] || rm -rf \"$FOLDER\"";
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"))?;
        let mut shell = self.as_user("sh");
        shell
            .args(["-c", script])
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.folder.join("data"))
            .env("FOLDER", &self.folder)
            .env("KEEP", self.folder.join("keep"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        *watch = Some(shell.spawn()?);
        let start = Instant::now();
        while !self
            .command("psql")
            .args(self.to("postgres"))
            .args(["-c", "SELECT 1"])
            .output()?
            .status
            .success()
        {
            if start.elapsed() > START {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(Error::other(format!("the server does not start:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends the server as a crash does, in the middle of whatever it does. Its data stay.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn stop(&self) -> Result<()> {
        let Some(shell) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let keep = self.folder.join("keep");
        std::fs::write(&keep, "")?;
        end(shell);
        std::fs::remove_file(&keep)
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The URL of a database of the server, with the search path of a new schema, so that a test has it for itself.
    pub fn url(&self, name: &str) -> String {
        let schema = format!("s_{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        self.sql("postgres", &format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
        self.url_of("postgres", &schema)
    }

    /// The URL of a new database.
    pub fn database(&self) -> String {
        let name = format!("d{}", self.count.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url_of(&name, "public")
    }

    fn url_of(&self, database: &str, schema: &str) -> String {
        let folder = self.folder.display();
        format!("postgres://postgres@localhost/{database}?host={folder}&options=-c%20search_path%3D{schema}")
    }

    /// Runs a statement as the administrator, and returns what `psql` prints.
    ///
    /// # Panics
    /// When the statement fails.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let done = self
            .command("psql")
            .args(self.to(database))
            .args(["-v", "ON_ERROR_STOP=1", "-c", statement])
            .output();
        let done = done.expect("psql cannot be started");
        assert!(done.status.success(), "{statement}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn to(&self, database: &str) -> [String; 5] {
        let folder = self.folder.display().to_string();
        ["-qAtX".to_owned(), "-h".to_owned(), folder, "-Upostgres".to_owned(), format!("-d{database}")]
    }

    fn command(&self, program: &str) -> Command {
        self.as_user(self.programs.join(program))
    }

    fn as_user(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
            command.arg("--clear-groups").arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(&self.folder).env("LC_ALL", "C").env_remove("PGOPTIONS");
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        match self.watch.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(shell) => end(shell),
            // The shell of a stopped server has left the folder.
            None => drop(std::fs::remove_dir_all(&self.folder)),
        }
    }
}

/// Closes the input of the shell, and waits until it has stopped the server.
fn end(mut shell: Child) {
    drop(shell.stdin.take());
    let _ = shell.wait();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The folder of the programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder): &(u32, PathBuf)| {
            let mode =
                |program| std::fs::metadata(folder.join(program)).map_or(0, |m| m.permissions().mode());
            ["initdb", "postgres", "psql"].iter().all(|program| mode(program) & 0o111 != 0)
        })
        .collect();
    found.sort();
    found.pop().map(|(_, folder)| folder)
}
