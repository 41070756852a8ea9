//! Git repositories.
//!
//! One commit is fetched into a private bare repository, as shallow as the server allows, and its files are checked out
//! from there. The modes are 0644 and 0755, and 0755 for folders, and the modification time is that of the commit, so
//! the files are the same on every machine. Only network protocols are allowed, also in submodules.

use super::git_command::{Git, PROTOCOLS};
use super::integrity::{Sealed, remove};
use super::{Fetched, Inner, about, keep, make_folder};
use crate::dockerfile::{GitReference, without_password};
use crate::graph::GitSource;
use crate::private_folder::{self, TemporaryFolder};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// The source of a parsed address. `keep_git_dir` and `checksum` come from the instruction and take precedence.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the instruction and the address contradict each other.
pub(crate) fn git_source(
    address: &GitReference,
    keep_git_dir: Option<bool>,
    checksum: Option<&str>,
) -> Result<GitSource> {
    let checksum = match (checksum, &address.checksum) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(Error::invalid("the checksum of the flag and the checksum of the address differ"));
        }
        (flag, query) => flag.or(query.as_deref()),
    };
    if let Some(text) = checksum {
        let plain = text.len() >= 7 && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain {
            return Err(Error::invalid(format!(
                "`{text}` is not a checksum of a git repository: write a commit, or at least its first seven digits"
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

/// Fetches the files of the commit of a source.
pub(super) async fn fetch(inner: &Inner, source: &GitSource) -> Result<Fetched> {
    let shown = without_password(&source.remote);
    let task = inner.options.progress.start(format!("fetch {shown}"), None);
    let outcome = fetch_shown(inner, source, &shown).await.map_err(|e| about(e, &shown));
    task.end_with(outcome)
}

async fn fetch_shown(inner: &Inner, source: &GitSource, shown: &str) -> Result<Fetched> {
    let starts_like_a_flag = |text: &Option<String>| text.as_deref().is_some_and(|t| t.starts_with('-'));
    if source.remote.starts_with('-') || starts_like_a_flag(&source.reference) {
        return Err(Error::invalid(format!("`{shown}` is not a git repository and reference")));
    }
    let git = Git::new(inner, source, shown)?;
    let _lock = git.lock().await?;
    let found = git.find(source).await?;
    let checkouts = inner.root.join("checkouts");
    make_folder(&checkouts)?;
    let existed = git.exists();
    match git.files(inner, source, &found, &checkouts).await {
        Err(_) if existed && git.is_damaged().await => {
            inner
                .options
                .progress
                .warn(format!("the cached git repository of {shown} is damaged: it is fetched again"));
            git.forget()?;
            git.files(inner, source, &found, &checkouts).await
        }
        outcome => outcome,
    }
}

/// A resolved reference.
struct Found {
    commit: String,
    /// The full name, if the server has one.
    name: Option<String>,
    /// The object of the name: the commit, or an annotated tag of the commit.
    object: String,
}

impl Git {
    /// Resolves the reference of the source at the server.
    async fn find(&self, source: &GitSource) -> Result<Found> {
        if let (Some(checksum), true) = (&source.checksum, source.fetch_by_commit)
            && is_commit(checksum)
        {
            return Ok(Found { commit: checksum.clone(), name: None, object: checksum.clone() });
        }
        let wanted = source.reference.as_deref().unwrap_or("HEAD");
        if is_commit(wanted) {
            let commit = wanted.to_ascii_lowercase();
            self.check(source, &[&commit])?;
            return Ok(Found { object: commit.clone(), commit, name: None });
        }
        let short = wanted.strip_prefix("refs/").unwrap_or(wanted);
        // A branch takes precedence over a tag, as in `git checkout`; an annotated tag is followed to its commit.
        let (head, tag) = (format!("refs/heads/{short}"), format!("refs/tags/{short}"));
        let peeled = |name: &str| format!("{name}^{{}}");
        let mut names =
            vec![head, peeled(&tag), tag, peeled(&format!("refs/{short}")), format!("refs/{short}")];
        if wanted == "HEAD" {
            names = vec!["HEAD".to_owned()];
        }
        let mut arguments = vec!["ls-remote", "--", self.remote.as_str()];
        arguments.extend(names.iter().map(String::as_str));
        let listing = self.ask(&arguments).await?;
        let listed = |name: &str| {
            listing.lines().filter_map(|l| l.split_once('\t')).find(|(_, n)| *n == name).map(|(id, _)| id)
        };
        let Some((name, commit)) = names.iter().find_map(|n| listed(n).map(|id| (n, id))) else {
            return Err(self.unknown(wanted).await);
        };
        let name = name.trim_end_matches("^{}");
        // The object of an annotated tag is a valid checksum, like its commit.
        let objects: Vec<&str> = std::iter::once(commit).chain(listed(name)).collect();
        self.check(source, &objects)?;
        // The tag object itself is needed only with `.git`.
        let object = listed(name).filter(|_| source.keep_git_dir).unwrap_or(commit).to_owned();
        Ok(Found { commit: commit.to_owned(), name: Some(name.to_owned()), object })
    }

    async fn unknown(&self, wanted: &str) -> Error {
        let arguments = ["ls-remote", "--heads", "--tags", "--", self.remote.as_str()];
        let listing = self.ask(&arguments).await.unwrap_or_default();
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
                let message = format!("{} is not at the commit of its checksum", self.shown);
                Err(Error::new(ErrorKind::DigestInvalid, message)
                    .with_context("expected", wanted)
                    .with_context("got", objects.first().unwrap_or(&"nothing")))
            }
            _ => Ok(()),
        }
    }

    /// The files of the resolved commit, from the cache or checked out now.
    async fn files(
        &self,
        inner: &Inner,
        source: &GitSource,
        found: &Found,
        checkouts: &Path,
    ) -> Result<Fetched> {
        self.prepare(&found.commit).await?;
        self.get(found).await?;
        let time: i64 = self
            .run(&["show", "--no-patch", "--no-show-signature", "--format=%ct", &found.commit])
            .await?
            .trim()
            .parse()
            .map_err(|_| self.error("has a commit without a time"))?;
        let name = Digest::sha256(format!(
            "{}\0{}\0{:?}\0{:?}\0{}",
            source.remote,
            found.commit,
            source.subdir,
            source.keep_git_dir.then_some((&found.name, &found.object)),
            source.submodules
        ));
        let kept = Sealed::new(checkouts.join(name.hex()));
        let fetched = Fetched { path: kept.folder.clone(), time: Some(time) };
        let looked_at = kept.clone();
        match super::blocking(move || Ok(looked_at.is_intact())).await? {
            Some(true) => return Ok(fetched),
            Some(false) => inner.options.progress.warn(format!(
                "the cached files of the git repository {} were changed: they are \
                 written again",
                self.shown
            )),
            None => {}
        }
        let made = private_folder::temporary(".new-", Some(checkouts))?;
        self.check_out(source, found, made.path()).await?;
        let subdir = source.subdir.clone();
        super::blocking(move || {
            kept.remove()?;
            take_files(made, subdir.as_deref(), time, &kept.folder)?;
            kept.seal()
        })
        .await?;
        Ok(fetched)
    }

    /// Whether the private repository exists.
    fn exists(&self) -> bool {
        self.repository.join("HEAD").is_file()
    }

    /// Whether `git fsck` finds the repository damaged.
    async fn is_damaged(&self) -> bool {
        self.run(&["fsck", "--no-dangling", "--no-progress"]).await.is_err()
    }

    /// Removes the private repository except for its lock.
    fn forget(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.repository).at("cannot read the folder", &self.repository)? {
            let entry = entry.at("cannot read the folder", &self.repository)?;
            if entry.file_name() != super::git_command::LOCK {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Creates the private repository with the object format of the commit. A repository with another format is from an
    /// earlier repository at the address, and is replaced.
    async fn prepare(&self, commit: &str) -> Result<()> {
        let config = std::fs::read_to_string(self.repository.join("config")).unwrap_or_default();
        let is_sha256 = config.to_ascii_lowercase().contains("objectformat = sha256");
        if self.exists() {
            if is_sha256 == has_sha256(commit) {
                return Ok(());
            }
            self.forget()?;
        }
        self.run(&[&["init", "--quiet", "--bare"], object_format(commit), &["."]].concat()).await.map(drop)
    }

    async fn has(&self, commit: &str) -> bool {
        self.run(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).await.is_ok()
    }

    /// Fetches the commit into the repository.
    async fn get(&self, found: &Found) -> Result<()> {
        if self.has(&found.object).await {
            return Ok(());
        }
        // A git process that was killed, in this build or another, may have left files.
        clear(&self.repository);
        self.get_missing(found).await.inspect_err(|_| clear(&self.repository))
    }

    async fn get_missing(&self, found: &Found) -> Result<()> {
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--force"];
        let remote = self.remote.as_str();
        let what = found.name.as_deref().unwrap_or(&found.commit);
        let shallow = self.run(&[&fetch[..], &["--depth=1", "--", remote, what]].concat()).await;
        match shallow {
            Ok(_) if self.has(&found.object).await => return Ok(()),
            // A second request is useless when the server does not respond.
            Err(e) if is_stuck(&e) => return Err(e),
            _ => {}
        }
        // Servers may reject single commits and shallow copies, and the reference may have moved in the meantime.
        let all = ["--", remote, "+refs/heads/*:refs/fetched/heads/*", "+refs/tags/*:refs/fetched/tags/*"];
        let deep: &[&str] = if self.repository.join("shallow").is_file() { &["--unshallow"] } else { &[] };
        self.run(&[&fetch[..], deep, &all].concat()).await?;
        if self.has(&found.object).await {
            return Ok(());
        }
        let message = format!("{} has no commit {}", self.shown, found.commit);
        Err(Error::new(ErrorKind::NotFound, message))
    }

    /// Checks out the files of the commit into an empty folder.
    async fn check_out(&self, source: &GitSource, found: &Found, to: &Path) -> Result<()> {
        let commit = found.commit.as_str();
        let keeps = source.keep_git_dir && source.subdir.is_none();
        let has_submodules = source.submodules
            && self.run(&["cat-file", "-e", &format!("{commit}:.gitmodules")]).await.is_ok();
        let run = async |protocols: &str, arguments: &[&OsStr]| {
            self.output(self.command(to, protocols).args(arguments)).await
        };
        let words = |line: &'static str| line.split(' ').map(OsStr::new).collect::<Vec<_>>();
        let format: Vec<&OsStr> = object_format(commit).iter().map(OsStr::new).collect();
        run("", &[words("init --quiet"), format, words(".")].concat()).await?;
        // A local clone of this commit; it shares nothing else with the repository.
        self.run(&["update-ref", "refs/fetched/wanted", &found.object]).await?;
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
            let mut update = words("submodule --quiet update --init --recursive --depth=1");
            let updated = run(PROTOCOLS, &update).await;
            if let Err(e) = updated {
                if is_stuck(&e) {
                    return Err(e);
                }
                // The server of a submodule may reject shallow copies, or the commit is not the newest one there.
                update.pop();
                run(PROTOCOLS, &update).await?;
            }
        }
        if keeps {
            let is_reference =
                |name: &&String| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
            if let Some(name) = found.name.as_ref().filter(is_reference) {
                run("", &["update-ref", name, &found.object].map(OsStr::new)).await?;
            }
            for folder in git_folders(to)? {
                remove_traces(&folder)?;
                let mut read = self.command(&folder, "");
                self.output(read.args(["--git-dir=.", "read-tree", "HEAD"])).await?;
            }
        } else {
            remove_git(to)?;
        }
        Ok(())
    }
}

/// Whether git was killed because it made no progress.
fn is_stuck(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::TooLarge | ErrorKind::StorageFull)
}

/// Removes the leftovers of a killed git from a repository without another user: partial packs and objects, and locks,
/// which would block the next git.
fn clear(repository: &Path) {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_of = |entry: &std::fs::DirEntry, prefixes: &[&str]| {
        let name = entry.file_name();
        prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
    };
    let objects = repository.join("objects");
    for entry in entries(&objects) {
        if is_of(&entry, &["tmp_", "incoming-"]) {
            let _ = remove(&entry.path());
            continue;
        }
        // Packs, and the folders of loose objects.
        for entry in entries(&entry.path()).filter(|entry| is_of(entry, &["tmp_", ".tmp-"])) {
            let _ = remove(&entry.path());
        }
    }
    let mut folders = vec![repository.join("refs")];
    let mut locks: Vec<PathBuf> = entries(repository).map(|entry| entry.path()).collect();
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => locks.push(entry.path()),
            }
        }
    }
    for lock in locks.iter().filter(|path| path.extension().is_some_and(|end| end == "lock")) {
        let _ = remove(lock);
    }
}

/// Whether a commit belongs to a repository with SHA-256 objects.
fn has_sha256(commit: &str) -> bool {
    commit.len() == 64
}

/// The option of `git init` for the object format of this commit.
fn object_format(commit: &str) -> &'static [&'static str] {
    if has_sha256(commit) { &["--object-format=sha256"] } else { &[] }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The folder `.git` of a work tree, and the git folders of all its submodules.
fn git_folders(work_tree: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![work_tree.join(".git")];
    let mut open = vec![work_tree.join(".git/modules")];
    while let Some(folder) = open.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).at("cannot read the folder", &folder)? {
            let entry = entry.at("cannot read the folder", &folder)?;
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            // The name of a submodule may contain slashes; then this is one of its parent folders.
            let path = entry.path();
            if path.join("HEAD").is_file() {
                open.push(path.join("modules"));
                found.push(path);
            } else {
                open.push(path);
            }
        }
    }
    Ok(found)
}

/// Removes data about this machine or the current time from a git folder. The index contains inodes and times; an index
/// that is created from the commit does not.
fn remove_traces(folder: &Path) -> Result<()> {
    for name in ["index", "FETCH_HEAD", "ORIG_HEAD", "logs", "hooks", "description", "info", "branches"] {
        remove(&folder.join(name))?;
    }
    Ok(())
}

/// Removes `.git` from a work tree and its submodules.
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
fn take_files(made: TemporaryFolder, subdir: Option<&str>, time: i64, to: &Path) -> Result<()> {
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
