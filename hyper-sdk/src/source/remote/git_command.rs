//! Runs the program `git` with the settings of this file, and without those of the user or the system.

use super::git_watch::{self, Outcome};
use super::{Inner, disk_space, make_folder};
use crate::dockerfile::{percent_decode, without_password};
use crate::graph::GitSource;
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use base64::Engine as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use url::Url;

/// The largest part of git's output that an error quotes, in bytes.
const TAIL: usize = 2000;
/// The lock file of a repository.
pub(super) const LOCK: &str = "hyper.lock";
/// The largest list of references of a server, in bytes: git keeps the list in memory.
const MAX_REFERENCES: u64 = 256 << 20;
/// The allowed protocols.
pub(super) const PROTOCOLS: &str = "git:http:https:ssh";

/// The environment variables that git does not inherit, because they could change what is fetched, how it is written,
/// or what is reported. The others name the paths of programs, proxies and certificate authorities.
const NOT_INHERITED: [&str; 49] = [
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INDEX_VERSION",
    "GIT_NAMESPACE",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_SYSTEM",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_DEFAULT_HASH",
    "GIT_DEFAULT_REF_FORMAT",
    "GIT_ATTR_SOURCE",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROTOCOL",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSL_NO_VERIFY",
    "GIT_SSL_CERT",
    "GIT_SSL_KEY",
    "GIT_HTTP_PROXY_AUTHMETHOD",
    "GIT_HTTP_USER_AGENT",
    "GIT_CURL_VERBOSE",
    "GIT_TRACE",
    "GIT_TRACE_CURL",
    "GIT_TRACE_CURL_NO_DATA",
    "GIT_TRACE_PACKET",
    "GIT_TRACE_SETUP",
    "GIT_TRACE2",
    "GIT_TRACE2_EVENT",
    "GIT_TRACE2_PERF",
    "GIT_REDACT_COOKIES",
    "GIT_TRACE_REDACT",
    "XDG_CONFIG_HOME",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
];

/// Git for one remote repository, with the private repository of what was fetched from it.
pub(super) struct Git {
    environment: Vec<(OsString, OsString)>,
    pub(super) repository: PathBuf,
    pub(super) remote: String,
    pub(super) shown: String,
    /// Whether the server gets credentials.
    trusted: bool,
    /// The longest time without progress.
    idle: Duration,
}

/// Settings of git, in order.
type Settings = Vec<(String, String)>;

/// The settings of every git command.
fn settings(idle: Duration) -> Settings {
    let silence = idle.as_secs().max(1).to_string();
    [
        ("core.hooksPath", "/dev/null"),
        ("core.attributesFile", "/dev/null"),
        ("core.excludesFile", "/dev/null"),
        ("core.fsmonitor", "false"),
        // The reflogs contain names and times of this machine.
        ("core.logAllRefUpdates", "false"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("pack.threads", "1"),
        ("advice.detachedHead", "false"),
        ("init.defaultBranch", "main"),
        ("transfer.fsckObjects", "false"),
        ("safe.directory", "*"),
        ("http.lowSpeedLimit", "1"),
        ("http.lowSpeedTime", silence.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The credentials for the server of this address, as settings of git. A password in the address takes precedence over
/// the secrets, and the secrets over a user name without a password.
fn credentials(inner: &Inner, url: &Url) -> Result<Settings> {
    let host = url.host_str().unwrap_or_default();
    let secret = |name: &str| -> Result<Option<String>> {
        let Some(secret) = inner.secret(&[format!("{name}.{host}"), name.to_owned()]) else {
            return Ok(None);
        };
        std::str::from_utf8(secret.expose())
            .map(|t| Some(t.trim().to_owned()))
            .map_err(|_| Error::invalid(format!("the secret `{name}` is not UTF-8")))
    };
    let basic = |pair: String| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let user = percent_decode(url.username());
    let header = if let Some(password) = url.password() {
        Some(basic(format!("{user}:{}", percent_decode(password))))
    } else if let Some(value) = secret("GIT_AUTH_HEADER")? {
        Some(value)
    } else {
        secret("GIT_AUTH_TOKEN")?.map(|token| basic(format!("x-access-token:{token}")))
    };
    let origin = url.origin().ascii_serialization();
    let mut settings = match header {
        Some(value) => vec![(format!("http.{origin}/.extraHeader"), format!("Authorization: {value}"))],
        // Addresses of public repositories may have a user name too, and their servers reject it without its password.
        // So git sends it, with an empty password, only when the server asks for credentials.
        None if !user.is_empty() => vec![(format!("credential.{origin}.username"), user)],
        None => return Ok(Vec::new()),
    };
    // Git would send the header to the target of a redirect.
    settings.push((format!("http.{origin}/.followRedirects"), "false".to_owned()));
    Ok(settings)
}

impl Git {
    /// Creates the folder of the repository; runs nothing.
    pub(super) fn new(inner: &Inner, source: &GitSource, shown: &str) -> Result<Self> {
        let root = inner.root.join("git");
        let repository = root.join(Digest::sha256(&source.remote).hex());
        make_folder(&repository)?;
        let home = root.join("home");
        make_folder(&home)?;
        let idle = inner.options.git_idle();
        let mut settings = settings(idle);
        let mut trusted = false;
        if let Ok(url) = Url::parse(&source.remote)
            && matches!(url.scheme(), "http" | "https")
        {
            let credentials = credentials(inner, &url)?;
            trusted = !credentials.is_empty();
            settings.extend(credentials);
            if let Some(proxy) = inner.options.proxy.as_ref().and_then(|choice| choice.of(&url)) {
                settings.push(("http.proxy".to_owned(), proxy));
            }
        }
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &str, value: OsString| environment.push((name.into(), value));
        set("GIT_CONFIG_COUNT", settings.len().to_string().into());
        for (number, (key, value)) in settings.into_iter().enumerate() {
            set(&format!("GIT_CONFIG_KEY_{number}"), key.into());
            set(&format!("GIT_CONFIG_VALUE_{number}"), value.into());
        }
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            // An empty value means no templates, not even those of the system.
            ("GIT_TEMPLATE_DIR", ""),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "true"),
            (
                "GIT_SSH_COMMAND",
                "ssh -o BatchMode=yes -o ConnectTimeout=60 -o ServerAliveInterval=15 -o ServerAliveCountMax=4",
            ),
            ("GIT_SSH_VARIANT", "ssh"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("LC_ALL", "C"),
        ] {
            set(name, value.into());
        }
        // Git would read passwords from `.netrc` in the home folder of the user. `ssh` takes its keys from the home
        // folder in the user database, independent of this variable.
        set("HOME", home.into());
        if let Some(socket) = &inner.options.ssh_agent {
            set("SSH_AUTH_SOCK", socket.into());
        }
        let remote = address_without_password(&source.remote);
        Ok(Self { environment, repository, remote, shown: shown.to_owned(), trusted, idle })
    }

    pub(super) fn error(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{} {what}", self.shown))
    }

    /// Locks the repository, so that one process at a time uses it.
    pub(super) async fn lock(&self) -> Result<std::fs::File> {
        let path = self.repository.join(LOCK);
        super::blocking(move || {
            let file = std::fs::File::create(&path).at("cannot make the lock", &path)?;
            file.lock().at("cannot lock", &path)?;
            Ok(file)
        })
        .await
    }

    pub(super) fn command(&self, folder: &Path, protocols: &str) -> Command {
        let mut command = Command::new("git");
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs git until it ends or makes no progress.
    pub(super) async fn output(&self, command: &mut Command) -> Result<String> {
        self.output_within(command, u64::MAX).await
    }

    async fn output_within(&self, command: &mut Command, most: u64) -> Result<String> {
        let outcome = git_watch::run(command, self.idle, most, &self.repository).await.map_err(|e| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let message = if missing {
                "git repositories are fetched by the program `git`, which is not installed".to_owned()
            } else {
                "git cannot be started".to_owned()
            };
            Error::new(if missing { ErrorKind::NotFound } else { ErrorKind::Io }, message).with_source(e)
        })?;
        let stuck = |kind, what: &str| Error::new(kind, format!("{} {what}", self.shown));
        let (status, output, complaints) = match outcome {
            Outcome::Ended { status, output, complaints } => (status, output, complaints),
            Outcome::Silent(time) => {
                return Err(stuck(ErrorKind::Timeout, "is silent").with_context("seconds", time.as_secs()));
            }
            Outcome::Slow(time) => {
                return Err(
                    stuck(ErrorKind::Timeout, "sends too slowly").with_context("seconds", time.as_secs())
                );
            }
            Outcome::Full => return Err(disk_space::full(&self.repository, &self.shown)),
            Outcome::TooMuch(limit) => {
                return Err(
                    stuck(ErrorKind::TooLarge, "has too many branches and tags").with_context("limit", limit)
                );
            }
        };
        if status.success() {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
        let said = String::from_utf8_lossy(&complaints);
        let said = said.trim();
        let from = said.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
        let said = said[from..].lines().map(without_passwords).collect::<Vec<_>>().join("\n");
        let error = if NO_ROOM.iter().any(|text| said.contains(text)) {
            disk_space::full(&self.repository, &self.shown)
        } else if self.trusted && is_redirect(&said) {
            let why = "redirects, and a server that redirects gets no credentials: name the final address";
            Error::invalid(format!("{} {why}", self.shown))
        } else {
            self.error("cannot be fetched by git")
        };
        Err(error.with_context("git says", said))
    }

    /// Runs git outside of any repository, so that the settings of a repository here do not matter.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.repository, PROTOCOLS);
        self.output_within(command.env("GIT_DIR", "none").args(arguments), MAX_REFERENCES).await
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.repository, PROTOCOLS);
        self.output(command.env("GIT_DIR", ".").args(arguments)).await
    }
}

/// The messages of git about a full disk.
const NO_ROOM: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Whether git failed because of a redirect, which it must not follow.
fn is_redirect(said: &str) -> bool {
    ["301", "302", "303", "307", "308"]
        .iter()
        .any(|status| said.contains(&format!("returned error: {status}")))
}

fn address_without_password(remote: &str) -> String {
    match Url::parse(remote) {
        Ok(mut url) if url.password().is_some() || url.scheme().starts_with("http") => {
            let _ = url.set_password(None);
            if url.scheme().starts_with("http") {
                let _ = url.set_username("");
            }
            url.into()
        }
        _ => remote.to_owned(),
    }
}

/// A line of git's output without the passwords of its addresses.
fn without_passwords(line: &str) -> String {
    line.split_inclusive([' ', '\'']).map(without_password).collect()
}
