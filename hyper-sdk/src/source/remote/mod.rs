//! Sources that are elsewhere: files of the web and git repositories, fetched into a folder of this machine.
//!
//! ```text
//!   ROOT/web/KEY.json            what the server said of the newest answer to an address
//!   ROOT/web/DIGEST-KEY-TIME/NAME   that answer
//!   ROOT/git/KEY/                a bare repository with the commits that were fetched from one address
//!   ROOT/git/home/               the home of git, which stays empty
//!   ROOT/checkouts/KEY/          the files of one commit, and KEY.seal how they were written
//! ```
//!
//! # Invariants
//! - A folder with content is complete and never changed: it is made under another name and then renamed. One that
//!   somebody else has changed is not used: it is made anew, with one warning.
//! - A credential goes to the host that it is meant for, and into no message, no file and no program's arguments.
//! - Nothing of a fetched repository is run: no hook, no filter, no helper of its configuration.

mod archive;
mod git;
mod git_command;
mod git_watch;
mod growing;
mod kept;
mod partial;
mod room;
#[cfg(test)]
mod tests;
mod web;
mod web_context;

pub(crate) use archive::newest_in_archive;
pub use archive::{StreamContext, context_of_stream, read_context};
pub(crate) use git::git_source;
pub(super) use web_context::{FILE as CONTEXT_FILE, source as context_source};

use crate::client::Proxies;
use crate::client::timeouts::Timeouts;
use crate::exec::SecretBytes;
use crate::graph::{GitSource, SourceOp, WebSource};
use crate::progress::Progress;
use crate::{Error, ErrorDetail, Result, ResultExt as _};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// An error about an address; `shown` has no password in it.
fn about(error: Error, shown: &str) -> Error {
    match error.detail() {
        Some(_) => error.with_context("url", shown),
        None => error.with_detail(ErrorDetail::Web { url: shown.to_owned() }),
    }
}

type Choose = dyn Fn(&url::Url) -> Option<String> + Send + Sync;

/// The proxy of an address, if it has one; it may hold a password.
#[derive(Clone)]
pub struct ProxyChoice(Arc<Choose>);

impl ProxyChoice {
    /// Asks `choose` for the proxy of each address.
    pub fn new(choose: impl Fn(&url::Url) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(choose))
    }

    fn of(&self, url: &url::Url) -> Option<String> {
        (self.0)(url)
    }
}

impl From<Proxies> for ProxyChoice {
    fn from(proxies: Proxies) -> Self {
        Self::new(move |url| proxies.for_url(url))
    }
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyChoice")
    }
}

/// How remote sources are reached.
#[derive(Clone, Default)]
pub struct RemoteOptions {
    /// Secrets by id; `HTTP_AUTH_TOKEN_HOST`, `HTTP_AUTH_HEADER_HOST`, `GIT_AUTH_TOKEN[.HOST]` and
    /// `GIT_AUTH_HEADER[.HOST]` are used here.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// The proxies of the web; none without.
    pub proxy: Option<ProxyChoice>,
    /// The socket of the agent that `ssh` may ask for keys.
    pub ssh_agent: Option<PathBuf>,
    /// How long a server may be silent: one of the web as in [`crate::client::HttpClientBuilder::idle_timeout`], 20 s
    /// without; one of git, which is waited for 60 s without, also sends 1 KiB a second over ten times as long.
    pub idle_timeout: Option<Duration>,
    /// Where events go.
    pub progress: Progress,
}

impl RemoteOptions {
    fn timeouts(&self) -> Timeouts {
        self.idle_timeout.map_or_else(Timeouts::default, Timeouts::new)
    }

    fn git_idle(&self) -> Duration {
        self.idle_timeout.unwrap_or(Duration::from_secs(60))
    }
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOptions").finish_non_exhaustive()
    }
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// The folder with the files.
    pub path: PathBuf,
    /// The time of the commit, or when the file was changed last if the server says so: seconds since 1970.
    pub time: Option<i64>,
}

/// Fetches remote sources, each once. Clones share what they fetched.
#[derive(Clone)]
pub(crate) struct RemoteSources(Arc<Inner>);

struct Inner {
    root: PathBuf,
    options: RemoteOptions,
    fetched: Mutex<HashMap<String, Arc<OnceCell<Fetched>>>>,
}

impl fmt::Debug for RemoteSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSources").field("root", &self.0.root).finish_non_exhaustive()
    }
}

impl RemoteSources {
    /// Keeps what is fetched in the folder `root`, which is made when something is. Several processes may share it.
    pub(crate) fn new(root: impl Into<PathBuf>, options: RemoteOptions) -> Self {
        Self(Arc::new(Inner { root: root.into(), options, fetched: Mutex::default() }))
    }

    /// Fetches a source; `None` for one that is not remote. Dropping the future stops the fetch and leaves nothing
    /// that is not whole.
    ///
    /// # Errors
    /// Those of the network and of git, [`crate::ErrorKind::DigestInvalid`] for content with another checksum.
    pub(crate) async fn fetch(&self, source: &SourceOp) -> Result<Option<Fetched>> {
        match source {
            SourceOp::Web(web) => self.web(web).await.map(Some),
            SourceOp::Git(git) => self.git(git).await.map(Some),
            SourceOp::Scratch | SourceOp::Image { .. } | SourceOp::Folder { .. } => Ok(None),
        }
    }

    /// Fetches a file of the web.
    ///
    /// # Errors
    /// Those of [`RemoteSources::fetch`].
    pub(crate) async fn web(&self, source: &WebSource) -> Result<Fetched> {
        self.once(source, |inner| async move { web::fetch(&inner, source, None).await }).await
    }

    /// Fetches a build context of the web, and unpacks it into a folder in `scratch` while it arrives.
    ///
    /// # Errors
    /// Those of [`RemoteSources::fetch`] and of [`read_context`].
    pub(crate) async fn context(&self, url: &str, scratch: &Path) -> Result<(Fetched, StreamContext)> {
        web_context::fetch(self, url, scratch).await
    }

    /// Fetches the files of a commit.
    ///
    /// # Errors
    /// Those of [`RemoteSources::fetch`].
    pub(crate) async fn git(&self, source: &GitSource) -> Result<Fetched> {
        self.once(source, |inner| async move { git::fetch(&inner, source).await }).await
    }

    async fn once<S: serde::Serialize + fmt::Debug, F: Future<Output = Result<Fetched>>>(
        &self,
        source: &S,
        fetch: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<Fetched> {
        let key = serde_json::to_string(source)
            .map_err(|e| Error::internal("a source cannot be written as JSON").with_source(e))?;
        let cell = Arc::clone(self.0.fetched.lock().await.entry(key).or_default());
        cell.get_or_try_init(|| fetch(Arc::clone(&self.0))).await.cloned()
    }
}

impl Inner {
    fn secret(&self, ids: &[String]) -> Option<&SecretBytes> {
        ids.iter().find_map(|id| self.options.secrets.get(id))
    }
}

/// Makes a folder of this room.
fn make_folder(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("cannot make the folder", path)
}

/// Gives a complete folder its final name. Another process may have been faster: its folder holds the same.
fn keep(made: tempfile::TempDir, name: &Path) -> Result<()> {
    match std::fs::rename(made.path(), name) {
        Ok(()) => {
            let _ = made.keep();
            Ok(())
        }
        Err(_) if name.is_dir() => Ok(()),
        Err(e) => Err(Error::io("cannot move the folder to its place", name, e)),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a thread that fetches ended early").with_source(e))?
}
