//! A session: a state folder with its local store, registries, credentials and the builder, in one type.
//!
//! ```text
//!   ROOT/          the state folder
//!     store/       images: a registry store that a server can serve
//!     history/     records of builds
//!     scratch/     files that are unpacked for one build
//!     uses/        who works with the folder just now
//!     …            caches and snapshots of the builder
//! ```
//!
//! A whole program that builds the folder `.` and keeps the image as `app:1`:
//!
//! ```no_run
//! use hyper_sdk::build::BuildRequest;
//! use hyper_sdk::progress::Progress;
//! use hyper_sdk::session::Session;
//!
//! fn main() -> hyper_sdk::Result<()> {
//!     hyper_sdk::exec::init();
//!     hyper_sdk::runtime::start()?.block_on(async {
//!         let session = Session::from_variables(|name| std::env::var_os(name))?;
//!         let mut request = BuildRequest::from_folder(".", None)?;
//!         request.tags.push("app:1".parse()?);
//!         session.build(request, &Progress::none()).await?;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # Invariants
//! - Nothing is read or written before it is needed: a session of a folder that does not exist can be asked for its path.
//! - The state folder is closed to other users before anything is put into it. If it was open, that is a warning in
//!   [`SessionOptions::progress`].

mod archives;
mod clients;
mod defaults;
mod history;
mod images;
mod login;
mod names;
mod options;
mod several;
mod space;
mod transfers;

pub use archives::SaveOptions;
pub use defaults::Defaults;
pub use history::{
    BuildRecord, Change, FileChange, History, Reason, RecordOutcome, Recording, StepRecord, StepWhy, Why,
};
pub use images::{ImageDetails, ImageSummary, Location};
pub use login::{Login, login_credentials};
pub use options::SessionOptions;
pub use several::Job;

use crate::build::{BuildOutput, BuildRequest, Builder as _, LocalBuilder, LocalBuilderOptions, Output};
use crate::progress::Progress;
use crate::source::ClientFactory;
use crate::store::{MemoryStore, SharedStore};
use crate::{Result, ResultExt as _, private_folder};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::sync::OnceCell;

/// A state folder and its images, with methods to build and move images. Clones are the same session.
///
/// ```
/// use hyper_sdk::session::Session;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let session = Session::builder(folder.join("state")).open()?;
/// assert!(session.images(None).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: SessionOptions,
    clients: ClientFactory,
    /// Whether the state folder was made and closed to other users.
    opened: OnceLock<()>,
    store: OnceCell<SharedStore>,
    builder: OnceCell<Arc<LocalBuilder>>,
    parts: OnceLock<LocalBuilderOptions>,
}

impl Session {
    /// Options for a session in a state folder.
    pub fn builder(root: impl Into<PathBuf>) -> SessionOptions {
        SessionOptions::new(root)
    }

    /// A session with the settings of the environment: [`Defaults::from_variables`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when there is no home folder to put the state folder into.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        SessionOptions::from_defaults(None, Defaults::from_variables(variable))?.open()
    }

    fn new(options: SessionOptions) -> Self {
        let clients = options.clients.clone().unwrap_or_else(|| clients::factory(&options));
        Self(Arc::new(Inner {
            options,
            clients,
            opened: OnceLock::new(),
            store: OnceCell::new(),
            builder: OnceCell::new(),
            parts: OnceLock::new(),
        }))
    }

    /// The options of the session. The state folder is absolute.
    pub fn options(&self) -> &SessionOptions {
        &self.0.options
    }

    /// The path of the state folder, which need not exist yet.
    pub fn path(&self) -> &Path {
        &self.0.options.root
    }

    /// Opens the state folder, and closes it to other users. If it was open to them, that is a warning.
    ///
    /// # Errors
    /// Those of [`private_folder::open`].
    pub fn root(&self) -> Result<&Path> {
        if self.0.opened.get().is_none() {
            if let Some(warning) = private_folder::open(self.path()).op("open the state folder")?.warning {
                self.0.options.progress.warn(warning);
            }
            let _ = self.0.opened.set(());
        }
        Ok(self.path())
    }

    /// A folder for files that are unpacked for one build.
    ///
    /// # Errors
    /// Those of [`Session::root`]; [`crate::ErrorKind::Io`] when it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf> {
        let scratch = self.root()?.join("scratch");
        std::fs::create_dir_all(&scratch).at("cannot make the folder", &scratch)?;
        Ok(scratch)
    }

    /// The local store, which a server can serve.
    ///
    /// # Errors
    /// Those of [`Session::root`] and of opening the store.
    pub async fn store(&self) -> Result<SharedStore> {
        let open = || async {
            let root = self.root()?;
            match &self.0.options.open_store {
                Some(open) => open.open(root).await,
                None => open_store(root).await,
            }
        };
        self.0.store.get_or_try_init(open).await.cloned()
    }

    /// The builder over the state folder and its store.
    ///
    /// # Errors
    /// Those of [`Session::store`] and of [`LocalBuilder::open`].
    pub async fn local_builder(&self) -> Result<Arc<LocalBuilder>> {
        let open = || async {
            self.root()?;
            Ok(Arc::new(self.builder_options(self.store().await?).open()?))
        };
        self.0.builder.get_or_try_init(open).await.cloned()
    }

    fn builder_options(&self, store: SharedStore) -> LocalBuilderOptions {
        let options = self.options();
        let mut builder = LocalBuilderOptions::new(self.path(), store, self.0.clients.clone());
        builder.proxy = Some(options.proxies.clone().into());
        builder.home.clone_from(&options.home);
        builder.cache_limit = options.cache_limit;
        options.setup.iter().fold(builder, |builder, change| change.apply(builder))
    }

    /// The options of the builder on an empty store, to ask for the names of its parts.
    fn parts(&self) -> &LocalBuilderOptions {
        self.0.parts.get_or_init(|| self.builder_options(Arc::new(MemoryStore::default())))
    }

    /// Builds an image, and keeps it in the local store unless the request has other outputs. Dropping the future cancels:
    /// see [`crate::build::Builder`].
    ///
    /// # Errors
    /// Those of [`Session::local_builder`] and of [`crate::build::Builder::build`].
    pub async fn build(&self, request: BuildRequest, progress: &Progress) -> Result<BuildOutput> {
        self.local_builder().await?.build(request, progress).await
    }

    /// Parses the text of an output. Its type may be one of the builder's exporters: [`Output::parse_with`].
    ///
    /// # Errors
    /// Those of [`Output::parse_with`].
    pub fn parse_output(&self, text: &str) -> Result<Output> {
        Output::parse_with(text, self.parts().exporters.keys().map(String::as_str))
    }

    /// The schemes of the builder's sources, for [`crate::build::text::named_contexts`].
    pub fn schemes(&self) -> Vec<&str> {
        self.parts().sources.keys().map(String::as_str).collect()
    }
}

#[cfg(feature = "store-sql")]
async fn open_store(root: &Path) -> Result<SharedStore> {
    Ok(Arc::new(crate::store::DiskStore::open(root.join("store")).await?))
}

#[cfg(not(feature = "store-sql"))]
async fn open_store(_: &Path) -> Result<SharedStore> {
    Err(crate::Error::unsupported("a session without the feature `store-sql` needs a store from the caller"))
}

#[cfg(test)]
mod tests;
