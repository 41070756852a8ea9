//! Git repositories.
//!
//! One commit is fetched into a bare repository of ours, as shallow as the server allows, and its files are written from
//! there. Their modes are 0644, 0755 and 0755 for folders, and their time is that of the commit, so that they are the
//! same wherever they are fetched. Only the protocols of the network are allowed, in submodules too.

use super::{Fetched, Inner, keep, make_folder};
use crate::dockerfile::{GitReference, without_password};
use crate::graph::GitSource;
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use base64::Engine as _;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};
use tokio::process::Command;
use url::Url;

/// The most of git's own words that an error repeats.
const TAIL: usize = 2000;
/// What may be fetched from.
const PROTOCOLS: &str = "git:http:https:ssh";

/// What is to be fetched for a parsed address. `keep_git_dir` and `checksum` are those of the instruction, which win.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the instruction and the address contradict each other.
pub fn git_source(
    address: &GitReference,
    keep_git_dir: Option<bool>,
    checksum: Option<&str>,
) -> Result<GitSource> {
    let checksum = match (checksum, &address.checksum) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(Error::invalid("the checksum of the flag and that of the address are not the same"));
        }
        (flag, query) => flag.or(query.as_deref()),
    };
    if let Some(text) = checksum {
        let plain = text.len() >= 7 && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain {
            return Err(Error::invalid(format!(
                "`{text}` is no checksum of a git repository: it is a commit, or at least its first seven digits"
            )));
        }
    }
    Ok(GitSource {
        remote: address.remote.clone(),
        reference: address.reference.clone(),
        checksum: checksum.map(str::to_ascii_lowercase),
        subdir: address.subdir.clone(),
        keep_git_dir: keep_git_dir.or(address.keep_git_dir).unwrap_or(false),
        submodules: address.submodules.unwrap_or(true),
        fetch_by_commit: address.fetch_by_commit,
    })
}

/// Fetches the files of the commit that the source names.
pub(super) async fn fetch(inner: &Inner, source: &GitSource) -> Result<Fetched> {
    let shown = without_password(&source.remote);
    let task = inner.options.progress.start(format!("fetch {shown}"), None);
    let outcome = fetch_shown(inner, source, &shown).await;
    task.end_with(outcome)
}

async fn fetch_shown(inner: &Inner, source: &GitSource, shown: &str) -> Result<Fetched> {
    let starts_like_a_flag = |text: &Option<String>| text.as_deref().is_some_and(|t| t.starts_with('-'));
    if source.remote.starts_with('-') || starts_like_a_flag(&source.reference) {
        return Err(Error::invalid(format!("`{shown}` is not a git repository and reference")));
    }
    let repository = inner.root.join("git").join(Digest::sha256(&source.remote).hex());
    make_folder(&repository)?;
    let remote = address_without_password(&source.remote);
    let git = Git { environment: environment(inner, source)?, repository, remote, shown: shown.to_owned() };
    let _lock = git.lock().await?;
    if !git.repository.join("HEAD").is_file() {
        git.run(&["init", "--quiet", "--bare", "."]).await?;
    }
    let found = git.find(source).await?;
    git.get(&found).await?;
    let time: i64 = git
        .run(&["show", "--no-patch", "--no-show-signature", "--format=%ct", &found.commit])
        .await?
        .trim()
        .parse()
        .map_err(|_| git.error("has a commit without a time"))?;
    let name = Digest::sha256(format!(
        "{}\0{}\0{:?}\0{}\0{}",
        source.remote, found.commit, source.subdir, source.keep_git_dir, source.submodules
    ));
    let checkouts = inner.root.join("checkouts");
    make_folder(&checkouts)?;
    let path = checkouts.join(name.hex());
    if !path.is_dir() {
        let made = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&checkouts)
            .at("cannot make a folder in", &checkouts)?;
        git.check_out(source, &found, made.path()).await?;
        let subdir = source.subdir.clone();
        super::blocking(move || take_files(made, subdir.as_deref(), time, &path)).await?;
        return Ok(Fetched { path: checkouts.join(name.hex()), time: Some(time) });
    }
    Ok(Fetched { path, time: Some(time) })
}

/// What a reference came to.
struct Found {
    commit: String,
    /// The full name, where the server has one.
    name: Option<String>,
}

struct Git {
    environment: Vec<(String, String)>,
    repository: PathBuf,
    remote: String,
    shown: String,
}

/// What git is told beside the environment of this process: credentials, the agent, and what it must not do.
fn environment(inner: &Inner, source: &GitSource) -> Result<Vec<(String, String)>> {
    let mut settings = vec![
        ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
        ("core.fsmonitor".to_owned(), "false".to_owned()),
        ("gc.auto".to_owned(), "0".to_owned()),
        ("maintenance.auto".to_owned(), "false".to_owned()),
        ("pack.threads".to_owned(), "1".to_owned()),
        ("advice.detachedHead".to_owned(), "false".to_owned()),
        ("init.defaultBranch".to_owned(), "main".to_owned()),
        ("transfer.fsckObjects".to_owned(), "false".to_owned()),
        ("safe.directory".to_owned(), "*".to_owned()),
    ];
    if let Ok(url) = Url::parse(&source.remote)
        && matches!(url.scheme(), "http" | "https")
    {
        let host = url.host_str().unwrap_or_default();
        let ids = |name: &str| [format!("{name}.{host}"), name.to_owned()];
        let text = |id: &[String]| -> Result<Option<String>> {
            let Some(secret) = inner.secret(id) else { return Ok(None) };
            std::str::from_utf8(secret.expose())
                .map(|t| Some(t.trim().to_owned()))
                .map_err(|_| Error::invalid(format!("the secret `{}` is not UTF-8", id[1])))
        };
        let basic =
            |pair: String| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let in_address = url.password().map(|password| {
            let decode = |text| crate::dockerfile::percent_decode(text);
            basic(format!("{}:{}", decode(url.username()), decode(password)))
        });
        let value = match (in_address, text(&ids("GIT_AUTH_HEADER"))?) {
            (Some(value), _) | (None, Some(value)) => Some(value),
            (None, None) => {
                text(&ids("GIT_AUTH_TOKEN"))?.map(|token| basic(format!("x-access-token:{token}")))
            }
        };
        if let Some(value) = value {
            let origin = url.origin().ascii_serialization();
            settings.push((format!("http.{origin}/.extraHeader"), format!("Authorization: {value}")));
        }
        if let Some(proxy) = inner.options.proxy.as_ref().and_then(|choice| choice.of(&url)) {
            settings.push(("http.proxy".to_owned(), proxy));
        }
    }
    let mut environment = vec![("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string())];
    for (number, (key, value)) in settings.into_iter().enumerate() {
        environment.push((format!("GIT_CONFIG_KEY_{number}"), key));
        environment.push((format!("GIT_CONFIG_VALUE_{number}"), value));
    }
    let mut set = |name: &str, value: &str| environment.push((name.to_owned(), value.to_owned()));
    set("GIT_CONFIG_NOSYSTEM", "1");
    set("GIT_CONFIG_GLOBAL", "/dev/null");
    set("GIT_TERMINAL_PROMPT", "0");
    set("GIT_ASKPASS", "true");
    set("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    set("GIT_LFS_SKIP_SMUDGE", "1");
    set("LC_ALL", "C");
    if let Some(socket) = &inner.options.ssh_agent {
        set("SSH_AUTH_SOCK", &socket.display().to_string());
    }
    Ok(environment)
}

/// Variables that speak about another repository, or change how files are written.
const NOT_INHERITED: [&str; 14] = [
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CEILING_DIRECTORIES",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_QUARANTINE_PATH",
    "GIT_SSH",
    "GIT_TEMPLATE_DIR",
    "SSH_AUTH_SOCK",
];

impl Git {
    fn error(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{} {what}", self.shown))
    }

    /// One process at a time works in the repository.
    async fn lock(&self) -> Result<std::fs::File> {
        let path = self.repository.join("hyper.lock");
        super::blocking(move || {
            let file = std::fs::File::create(&path).at("cannot make the lock", &path)?;
            file.lock().at("cannot lock", &path)?;
            Ok(file)
        })
        .await
    }

    fn command(&self, folder: &Path, protocols: &str) -> Command {
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

    async fn output(&self, command: &mut Command) -> Result<String> {
        let output = command.output().await.map_err(|e| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let message = if missing {
                "git repositories are fetched by the program `git`, which is not installed".to_owned()
            } else {
                "git cannot be started".to_owned()
            };
            Error::new(if missing { ErrorKind::NotFound } else { ErrorKind::Io }, message).with_source(e)
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let from = said.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
        let said = said[from..].lines().map(without_passwords).collect::<Vec<_>>().join("\n");
        Err(self.error("cannot be fetched by git").with_context("git says", said))
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.repository, PROTOCOLS);
        self.output(command.env("GIT_DIR", ".").args(arguments)).await
    }

    /// What the reference of the source is now.
    async fn find(&self, source: &GitSource) -> Result<Found> {
        if let (Some(checksum), true) = (&source.checksum, source.fetch_by_commit)
            && is_commit(checksum)
        {
            return Ok(Found { commit: checksum.clone(), name: None });
        }
        let wanted = source.reference.as_deref().unwrap_or("HEAD");
        if is_commit(wanted) {
            let commit = wanted.to_ascii_lowercase();
            self.check(source, &[&commit])?;
            return Ok(Found { commit, name: None });
        }
        let short = wanted.strip_prefix("refs/").unwrap_or(wanted);
        // A branch wins over a tag, as in `git checkout`; an annotated tag is followed to its commit.
        let (head, tag) = (format!("refs/heads/{short}"), format!("refs/tags/{short}"));
        let peeled = |name: &str| format!("{name}^{{}}");
        let mut names =
            vec![head, peeled(&tag), tag, peeled(&format!("refs/{short}")), format!("refs/{short}")];
        if wanted == "HEAD" {
            names = vec!["HEAD".to_owned()];
        }
        let mut arguments = vec!["ls-remote", "--", self.remote.as_str()];
        arguments.extend(names.iter().map(String::as_str));
        let listing = self.run(&arguments).await?;
        let listed = |name: &str| {
            listing.lines().filter_map(|l| l.split_once('\t')).find(|(_, n)| *n == name).map(|(id, _)| id)
        };
        let Some((name, commit)) = names.iter().find_map(|n| listed(n).map(|id| (n, id))) else {
            return Err(self.unknown(wanted).await);
        };
        let name = name.trim_end_matches("^{}");
        // The object of an annotated tag is as good a checksum as its commit.
        let objects: Vec<&str> = std::iter::once(commit).chain(listed(name)).collect();
        self.check(source, &objects)?;
        Ok(Found { commit: commit.to_owned(), name: Some(name.to_owned()) })
    }

    async fn unknown(&self, wanted: &str) -> Error {
        let arguments = ["ls-remote", "--heads", "--tags", "--", self.remote.as_str()];
        let listing = self.run(&arguments).await.unwrap_or_default();
        let names = listing.lines().filter_map(|l| {
            let name = l.split_once('\t')?.1;
            name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"))
        });
        let hint = match crate::dockerfile::suggestion(wanted, names) {
            Some(near) => format!(": did you mean `{near}`?"),
            None => String::new(),
        };
        let message = format!("{} has no branch or tag `{wanted}`{hint}", self.shown);
        Error::new(ErrorKind::NotFound, message)
    }

    fn check(&self, source: &GitSource, objects: &[&str]) -> Result<()> {
        match &source.checksum {
            Some(wanted) if !objects.iter().any(|id| id.starts_with(&wanted.to_ascii_lowercase())) => {
                let message = format!("{} is at another commit than its checksum says", self.shown);
                Err(Error::new(ErrorKind::DigestInvalid, message)
                    .with_context("expected", wanted)
                    .with_context("got", objects.first().unwrap_or(&"nothing")))
            }
            _ => Ok(()),
        }
    }

    async fn has(&self, commit: &str) -> bool {
        self.run(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).await.is_ok()
    }

    /// Brings the commit into the repository.
    async fn get(&self, found: &Found) -> Result<()> {
        if self.has(&found.commit).await {
            return Ok(());
        }
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--force"];
        let remote = self.remote.as_str();
        let what = found.name.as_deref().unwrap_or(&found.commit);
        let shallow = self.run(&[&fetch[..], &["--depth=1", "--", remote, what]].concat()).await;
        if shallow.is_ok() && self.has(&found.commit).await {
            return Ok(());
        }
        // Servers may refuse single commits and shallow copies, and the reference may have moved in the meantime.
        let all = ["--", remote, "+refs/heads/*:refs/fetched/heads/*", "+refs/tags/*:refs/fetched/tags/*"];
        let deep: &[&str] = if self.repository.join("shallow").is_file() { &["--unshallow"] } else { &[] };
        self.run(&[&fetch[..], deep, &all].concat()).await?;
        if self.has(&found.commit).await {
            return Ok(());
        }
        let message = format!("{} has no commit {}", self.shown, found.commit);
        Err(Error::new(ErrorKind::NotFound, message))
    }

    /// Writes the files of the commit into an empty folder.
    async fn check_out(&self, source: &GitSource, found: &Found, to: &Path) -> Result<()> {
        let commit = found.commit.as_str();
        let keeps = source.keep_git_dir && source.subdir.is_none();
        let has_submodules = source.submodules
            && self.run(&["cat-file", "-e", &format!("{commit}:.gitmodules")]).await.is_ok();
        let run = async |protocols: &str, arguments: &[&OsStr]| {
            self.output(self.command(to, protocols).args(arguments)).await
        };
        let words = |line: &'static str| line.split(' ').map(OsStr::new).collect::<Vec<_>>();
        run("", &words("init --quiet .")).await?;
        // A local copy of this one commit; nothing else of the repository is shared.
        self.run(&["update-ref", "refs/fetched/wanted", commit]).await?;
        let mut fetch =
            words("fetch --quiet --no-tags --no-recurse-submodules --depth=1 --update-shallow --");
        let url = format!("file://{}", self.repository.display());
        fetch.extend([OsStr::new(&url), OsStr::new("refs/fetched/wanted")]);
        run("file", &fetch).await?;
        let mut checkout = words("checkout --quiet --force --detach --no-recurse-submodules");
        checkout.push(OsStr::new(commit));
        run("", &checkout).await?;
        run("", &[&words("remote add -- origin")[..], &[OsStr::new(&self.remote)]].concat()).await?;
        if has_submodules {
            let update = words("submodule --quiet update --init --recursive --depth=1");
            run(PROTOCOLS, &update).await?;
        }
        if keeps {
            // The index holds inodes and times of this machine; one without is as good.
            std::fs::remove_file(to.join(".git/index")).at("cannot remove the index of git", to)?;
            run("", &words("read-tree HEAD")).await?;
            for name in ["FETCH_HEAD", "ORIG_HEAD", "logs", "hooks", "description", "info", "branches"] {
                remove(&to.join(".git").join(name))?;
            }
        } else {
            remove_git(to)?;
        }
        Ok(())
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
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

/// A line of git's with the passwords of the addresses in it left out.
fn without_passwords(line: &str) -> String {
    line.split_inclusive([' ', '\'']).map(without_password).collect()
}

fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.at("cannot remove", path)
}

/// Removes `.git` here and in the submodules below.
fn remove_git(folder: &Path) -> Result<()> {
    remove(&folder.join(".git"))?;
    for entry in std::fs::read_dir(folder).at("cannot read the folder", folder)? {
        let entry = entry.at("cannot read the folder", folder)?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_git(&entry.path())?;
        }
    }
    Ok(())
}

/// Gives the files their modes and times and moves them, or those of the folder `subdir` of them, to their place.
fn take_files(made: tempfile::TempDir, subdir: Option<&str>, time: i64, to: &Path) -> Result<()> {
    let mtime = UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or(0));
    let mut top = made.path().to_owned();
    for part in subdir.into_iter().flat_map(|s| s.split('/')).filter(|p| !p.is_empty()) {
        top.push(part);
        // A link could lead out of the repository.
        if part == ".." || !std::fs::symlink_metadata(&top).is_ok_and(|meta| meta.is_dir()) {
            let message = format!("the git repository has no folder `{}`", subdir.unwrap_or_default());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
    }
    plain_modes(&top, mtime)?;
    if top == made.path() {
        return keep(made, to);
    }
    match std::fs::rename(&top, to) {
        Err(e) if !to.is_dir() => Err(Error::io("cannot move the folder to its place", to, e)),
        _ => Ok(()),
    }
}

fn plain_modes(path: &Path, mtime: std::time::SystemTime) -> Result<()> {
    let meta = std::fs::symlink_metadata(path).at("cannot read", path)?;
    if meta.is_symlink() {
        return set_link_time(path, mtime);
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).at("cannot read the folder", path)? {
            plain_modes(&entry.at("cannot read the folder", path)?.path(), mtime)?;
        }
    }
    let mode = if meta.is_dir() || meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .at("cannot change the mode of", path)?;
    std::fs::File::open(path).and_then(|file| file.set_modified(mtime)).at("cannot change the time of", path)
}

fn set_link_time(path: &Path, mtime: std::time::SystemTime) -> Result<()> {
    let seconds = mtime.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let at = rustix::fs::Timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::io("cannot change the time of", path, e.into()))
}
