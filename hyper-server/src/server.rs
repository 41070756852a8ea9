//! Registries inside other programs: tests, the command line, Python.

use crate::listen::cannot_listen;
use crate::options::RegistryOptions;
use crate::registry::Registry;
use crate::serve::{ServerOptions, serve};
use hyper_sdk::store::SharedStore;
use hyper_sdk::{Error, Result};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Starts registries inside other programs: tests, the command line, Python.
///
/// ```
/// use hyper_sdk::store::MemoryStore;
/// use hyper_server::{RegistryOptions, Server, ServerOptions};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let (store, any_port) = (Arc::new(MemoryStore::default()), ([127, 0, 0, 1], 0).into());
/// let server = Server::start(store, any_port, RegistryOptions::default(), ServerOptions::default()).await?;
/// println!("push to {}", server.address());
/// server.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Serves a store at `address` on the current tokio runtime; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the address cannot be bound, and those of [`Registry::new`].
    pub async fn start(
        store: SharedStore,
        address: SocketAddr,
        registry: RegistryOptions,
        options: ServerOptions,
    ) -> Result<RunningServer> {
        let listener = TcpListener::bind(address).await.map_err(|e| cannot_listen(address, e))?;
        Self::start_on(listener, store, registry, options)
    }

    /// Like [`Server::start`], on a listener that is already bound.
    ///
    /// # Errors
    /// Those of [`Registry::new`].
    pub fn start_on(
        listener: TcpListener,
        store: SharedStore,
        registry: RegistryOptions,
        mut options: ServerOptions,
    ) -> Result<RunningServer> {
        options.slow_uploads |= registry.throttling.slows_uploads();
        options.slow_downloads |= registry.throttling.slows_downloads();
        let registry = Registry::new(store, registry)?;
        options.connections = registry.connections().clone();
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, registry.clone(), options, shutdown));
        Ok(RunningServer { address, registry, stop: Some(stop), task: Some(task) })
    }
}

/// A registry that runs in the background. Dropping it stops the registry without waiting for requests in flight, which
/// may run until the drain timeout.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    registry: Registry,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<()>>>,
}

impl RunningServer {
    /// The address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its root, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The registry that is served.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops accepting, answers the requests in flight and returns when the last one has ended.
    ///
    /// # Errors
    /// Those of [`serve`].
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        let ended = match self.task.take() {
            Some(task) => {
                task.await.map_err(|e| Error::internal("the server was interrupted").with_source(e))?
            }
            None => Ok(()),
        };
        self.registry.note_last_pulls().await;
        ended
    }
}
