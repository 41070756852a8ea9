//! Opens the tested backend or store, any number of times on the same folder.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

type Open<T> = dyn Fn(PathBuf) -> BoxFuture<'static, Opened<T>> + Send + Sync;

/// Opens a backend or a store. Every opening gets the same folder, which is empty at first and is removed with the
/// value.
///
/// A backend that keeps its data elsewhere can use the folder as a unique name.
pub struct Opener<T> {
    folder: tempfile::TempDir,
    open: Box<Open<T>>,
}

impl<T> Opener<T> {
    /// An opener that calls `open` with its folder. The second value, such as a server, lives as long as the backend.
    ///
    /// # Panics
    /// When the system has no temporary folder.
    pub fn new<F, Fut, G>(open: F) -> Self
    where
        F: Fn(PathBuf) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = (T, G)> + Send + 'static,
        G: Send + 'static,
    {
        let open = move |folder| {
            let opened = open(folder);
            async move {
                let (backend, guard) = opened.await;
                Opened { backend, _guard: Box::new(guard) as Box<dyn Any + Send> }
            }
            .boxed()
        };
        Self { folder: tempfile::tempdir().unwrap(), open: Box::new(open) }
    }

    /// Opens it. A caller that opens it again must have dropped the earlier value and everything from it.
    pub async fn open(&self) -> Opened<T> {
        (self.open)(self.folder.path().join("data")).await
    }

    /// A folder outside of the backend's folder.
    pub fn elsewhere(&self) -> &Path {
        self.folder.path()
    }
}

impl<T> fmt::Debug for Opener<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("folder", &self.folder.path()).finish_non_exhaustive()
    }
}

/// An open backend or store.
pub struct Opened<T> {
    backend: T,
    // Dropped after the backend.
    _guard: Box<dyn Any + Send>,
}

impl<T> Deref for Opened<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.backend
    }
}

impl<T: fmt::Debug> fmt::Debug for Opened<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opened").field(&self.backend).finish()
    }
}
