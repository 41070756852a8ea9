//! A registry in this process.

use crate::environment::warn;
use crate::failure::exception;
use crate::operation::{Operation, Outcome, run_async, run_sync};
use crate::session::Session;
use hyper_sdk::store::{DiskStore, MemoryStore, SharedStore};
use hyper_sdk::{Error, ErrorKind, Result, private_folder};
use hyper_server::{ListenAddress, RegistryOptions, RunningServer, ServeSession as _, Server, ServerOptions};
use pyo3::prelude::*;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where images are kept.
enum Data {
    Memory,
    Folder(PathBuf),
    /// The local store of a session.
    Session(Arc<Session>),
}

struct Inner {
    data: Data,
    listen: String,
    read_only: bool,
    htpasswd: Option<PathBuf>,
    server: Mutex<Option<RunningServer>>,
}

impl Inner {
    fn server(&self) -> std::sync::MutexGuard<'_, Option<RunningServer>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self) -> Result<SocketAddr> {
        let running = self.server().as_ref().map(RunningServer::address);
        running.ok_or_else(|| {
            Error::invalid("the registry is not running: call `start`, or use it in a `with` statement")
        })
    }

    async fn start(&self) -> Result<()> {
        if self.server().is_some() {
            return Err(Error::new(ErrorKind::Conflict, "the registry is already running"));
        }
        let listen: ListenAddress = self.listen.parse()?;
        let mut registry = RegistryOptions {
            read_only: self.read_only,
            htpasswd: self.htpasswd.clone(),
            ..RegistryOptions::default()
        };
        let options = ServerOptions { drain_timeout: Duration::from_secs(10), ..ServerOptions::default() };
        let store: SharedStore = match &self.data {
            Data::Memory => Arc::new(MemoryStore::default()),
            Data::Folder(folder) => {
                if let Some(warning) = private_folder::open(folder)?.warning {
                    warn(&warning);
                }
                registry.token_key = Some(folder.join("token.key"));
                Arc::new(DiskStore::open(folder).await?)
            }
            Data::Session(session) => {
                *self.server() = Some(session.sdk.serve(listen.bind().await?, registry, options).await?);
                return Ok(());
            }
        };
        *self.server() = Some(Server::start_on(listen.bind().await?, store, registry, options)?);
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        let server = self.server().take();
        match server {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }
}

/// Serves images over HTTP from this process.
///
/// `data` is the folder of the images; by default they are in memory. `Hyper.serve` makes a registry over the images of a
/// `Hyper`. The registry runs between `start` and `stop`, or in a `with` or `async with` statement.
#[pyclass(frozen, module = "hyper_sdk")]
pub(crate) struct Registry(Arc<Inner>);

impl Registry {
    /// A registry over the local store of a session.
    pub(crate) fn of_session(
        session: &Arc<Session>,
        listen: String,
        read_only: bool,
        htpasswd: Option<PathBuf>,
    ) -> Self {
        Self::with(Data::Session(Arc::clone(session)), listen, read_only, htpasswd)
    }

    fn with(data: Data, listen: String, read_only: bool, htpasswd: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner { data, listen, read_only, htpasswd, server: Mutex::default() }))
    }

    fn starting(slf: &Bound<'_, Self>) -> Operation {
        let (inner, this) = (Arc::clone(&slf.get().0), slf.clone().into_any().unbind());
        Operation::new(async move {
            inner.start().await?;
            Ok(Outcome::Object(this))
        })
    }

    fn stopping(&self) -> Operation {
        let inner = Arc::clone(&self.0);
        Operation::new(async move {
            inner.stop().await?;
            Ok(Outcome::Nothing)
        })
    }
}

#[pymethods]
impl Registry {
    #[new]
    #[pyo3(signature = (data=None, listen="127.0.0.1:0".to_owned(), *, read_only=false, htpasswd=None))]
    fn new(data: Option<PathBuf>, listen: String, read_only: bool, htpasswd: Option<PathBuf>) -> Self {
        Self::with(data.map_or(Data::Memory, Data::Folder), listen, read_only, htpasswd)
    }

    /// The address, as `ADDRESS:PORT`: the host in the names of its images.
    #[getter]
    fn address(&self) -> PyResult<String> {
        self.0.address().map(|a| a.to_string()).map_err(|e| exception(&e))
    }

    /// The URL: `http://ADDRESS:PORT`.
    #[getter]
    fn url(&self) -> PyResult<String> {
        self.0.address().map(|a| format!("http://{a}")).map_err(|e| exception(&e))
    }

    /// Starts the registry, and returns it.
    fn start<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        run_sync(slf.py(), Self::starting(slf))
    }

    /// Answers the requests that have begun, and stops. A registry that is not running stays as it is.
    fn stop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        run_sync(py, self.stopping())
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        run_sync(slf.py(), Self::starting(slf))
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, pyo3::types::PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        run_sync(py, self.stopping())
    }

    fn __aenter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        run_async(slf.py(), Self::starting(slf))
    }

    #[pyo3(signature = (*_exception))]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _exception: &Bound<'py, pyo3::types::PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        run_async(py, self.stopping())
    }

    fn __repr__(&self) -> String {
        match self.0.address() {
            Ok(address) => format!("Registry(address='{address}')"),
            Err(_) => "Registry(stopped)".to_owned(),
        }
    }
}
