//! Opens the tested backend or store, any number of times on the same folder.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

type Open<T> = dyn Fn(PathBuf) -> BoxFuture<'static, Option<Opened<T>>> + Send + Sync;

/// Opens a backend or a store. Every opening gets the same folder, which is empty at first and is removed with the
/// value.
///
/// A backend that keeps its data elsewhere can use the folder as a unique name.
pub struct Opener<T> {
    folder: tempfile::TempDir,
    open: Box<Open<T>>,
    first: Mutex<Option<Opened<T>>>,
}

impl<T> Opener<T> {
    /// An opener that calls `open` with its folder. The second value, such as a server, lives as long as the backend.
    /// `open` may give an `Option` of both.
    ///
    /// # Panics
    /// When the system has no temporary folder.
    pub fn new<F, Fut, G>(open: F) -> Self
    where
        F: Fn(PathBuf) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Into<Option<(T, G)>>,
        G: Send + 'static,
    {
        let open = move |folder| {
            let opened = open(folder);
            async move {
                let (backend, guard) = opened.await.into()?;
                Some(Opened { backend, _guard: Box::new(guard) as Box<dyn Any + Send> })
            }
            .boxed()
        };
        Self { folder: tempfile::tempdir().unwrap(), open: Box::new(open), first: Mutex::new(None) }
    }

    /// Opens it for the first time; `None` where this machine cannot run it. What is open is what
    /// [`open`](Self::open) gives next.
    pub async fn ready(self) -> Option<Self> {
        let opened = self.start().await?;
        *self.first.lock().unwrap() = Some(opened);
        Some(self)
    }

    /// Opens it. A caller that opens it again must have dropped the earlier value and everything from it.
    ///
    /// # Panics
    /// When this machine cannot run it: see [`ready`](Self::ready).
    pub async fn open(&self) -> Opened<T> {
        let first = self.first.lock().unwrap().take();
        match first {
            Some(opened) => opened,
            None => self.start().await.expect("the fixture has nothing to open"),
        }
    }

    async fn start(&self) -> Option<Opened<T>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn nothing_is_opened_twice_to_see_whether_it_can_be() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let opener = Opener::new(move |_| {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move { Some((number, ())) }
        });
        let opener = opener.ready().await.unwrap();
        assert_eq!((*opener.open().await, count.load(Ordering::SeqCst)), (0, 1));
        assert_eq!((*opener.open().await, count.load(Ordering::SeqCst)), (1, 2));
    }

    #[tokio::test]
    async fn what_a_machine_cannot_run_is_not_opened() {
        assert!(Opener::new(|_| async { None::<(u8, ())> }).ready().await.is_none());
        assert!(Opener::new(|_| async { (7, ()) }).ready().await.is_some());
    }
}
