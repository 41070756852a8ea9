//! Remote sources: files from the web and git repositories, fetched into a folder of this machine.
//!
//! ```text
//!   ROOT/web/KEY.json            the record of the last response of an address
//!   ROOT/web/DIGEST-KEY-TIME/NAME   the file of that response
//!   ROOT/git/KEY/                a bare repository with the commits that were fetched from one address
//!   ROOT/git/home/               the home folder of git, which stays empty
//!   ROOT/checkouts/KEY/          the files of one commit, and KEY.seal with their state
//! ```
//!
//! # Invariants
//! - A folder with content is complete and never changed: it is created under another name and then renamed. A folder
//!   that another program has changed is not used: it is replaced, with one warning.
//! - A credential is sent only to its host, and never appears in a message, a file or the arguments of a program.
//! - No program of a fetched repository is run: no hook, no filter, no helper of its configuration.

mod archive;
mod disk_space;
mod git;
mod git_command;
mod git_watch;
mod growing_file;
mod integrity;
mod partial;
#[cfg(test)]
mod tests;
mod web;
mod web_context;

pub(crate) use archive::newest_in_archive;
pub use archive::{ContextInput, read_context, read_context_blocking};
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

/// Adds an address to an error; `shown` has no password.
fn about(error: Error, shown: &str) -> Error {
    match error.detail() {
        Some(_) => error.with_context("url", shown),
        None => error.with_detail(ErrorDetail::Web { url: shown.to_owned() }),
    }
}

type Choose = dyn Fn(&url::Url) -> Option<String> + Send + Sync;

/// Chooses the proxy of an address. A proxy may contain a password.
#[derive(Clone)]
pub struct ProxyChoice(Arc<Choose>);

impl ProxyChoice {
    /// A choice that calls `choose` for each address.
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

/// The options of remote sources.
#[derive(Clone, Default)]
pub struct RemoteOptions {
    /// Secrets by id; `HTTP_AUTH_TOKEN_HOST`, `HTTP_AUTH_HEADER_HOST`, `GIT_AUTH_TOKEN[.HOST]` and
    /// `GIT_AUTH_HEADER[.HOST]` are used.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// The proxies; `None` uses none.
    pub proxy: Option<ProxyChoice>,
    /// The socket of the agent with the keys of `ssh`.
    pub ssh_agent: Option<PathBuf>,
    /// The longest time without data from a server. For the web, it has the meaning of
    /// [`crate::client::HttpClientBuilder::idle_timeout`] and a default of 20 s. For git, the default is 60 s, and the
    /// average rate over ten times as long must be at least 1 KiB per second.
    pub idle_timeout: Option<Duration>,
    /// The receiver of progress events.
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

/// A fetched source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// The folder with the files.
    pub path: PathBuf,
    /// The time of the commit, or the time of the last change that the server gives for a file, in seconds since 1970.
    pub time: Option<i64>,
}

/// Fetches remote sources, each one once. Clones share the fetched sources.
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
    /// Caches fetched sources in the folder `root`, which is created when it is needed. Several processes may share it.
    pub(crate) fn new(root: impl Into<PathBuf>, options: RemoteOptions) -> Self {
        Self(Arc::new(Inner { root: root.into(), options, fetched: Mutex::default() }))
    }

    /// Fetches a source; `None` for a source that is not remote. Dropping the future stops the fetch and leaves no
    /// partial file.
    ///
    /// # Errors
    /// Those of the network and of git, [`crate::ErrorKind::DigestInvalid`] for content that does not match the
    /// checksum.
    pub(crate) async fn fetch(&self, source: &SourceOp) -> Result<Option<Fetched>> {
        match source {
            SourceOp::Web(web) => self.web(web).await.map(Some),
            SourceOp::Git(git) => self.git(git).await.map(Some),
            SourceOp::Scratch | SourceOp::Image { .. } | SourceOp::Folder { .. } => Ok(None),
        }
    }

    /// Fetches a file from the web.
    ///
    /// # Errors
    /// Those of [`RemoteSources::fetch`].
    pub(crate) async fn web(&self, source: &WebSource) -> Result<Fetched> {
        self.once(source, |inner| async move { web::fetch(&inner, source, None).await }).await
    }

    /// Fetches a build context from the web, and unpacks it into a folder in `scratch` while it arrives.
    ///
    /// # Errors
    /// Those of [`RemoteSources::fetch`] and of [`read_context`].
    pub(crate) async fn context(&self, url: &str, scratch: &Path) -> Result<(Fetched, ContextInput)> {
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
        let fetched = cell.get_or_try_init(|| fetch(Arc::clone(&self.0))).await?;
        crate::uses::mark(&fetched.path);
        Ok(fetched.clone())
    }
}

impl Inner {
    fn secret(&self, ids: &[String]) -> Option<&SecretBytes> {
        ids.iter().find_map(|id| self.options.secrets.get(id))
    }
}

/// Creates a private folder of the cache.
fn make_folder(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("cannot make the folder", path)
}

/// Gives a complete folder its final name. Another process may have been faster: its folder holds the same.
fn keep(made: crate::private_folder::TemporaryFolder, name: &Path) -> Result<()> {
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
