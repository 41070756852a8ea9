//! Images as archives: `save` and `load`.

use crate::arguments::Several;
use crate::contexts::{ContextArgument, PythonFile, Raised};
use crate::operation::{Operation, Outcome};
use crate::session::Session;
use crate::transfer::transferred;
use hyper_sdk::build::text::platform;
use hyper_sdk::client::PullOptions;
use hyper_sdk::layout::ImageLayout;
use hyper_sdk::{Error, Reference, Result, private_folder};
use pyo3::exceptions::{PyBlockingIOError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many bytes are given to a Python object at a time.
const CHUNK: usize = 1 << 20;
/// The folder in the scratch folder that an archive is kept in on its way, and its name there.
const FOLDER: &str = "archive-";
const FILE: &str = "archive.tar";

/// Where an archive goes: a path, or an object with a method `write`.
pub(crate) enum Destination {
    Path(PathBuf),
    Stream(Py<PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Destination {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Self::Path(path));
        }
        if object.hasattr("write")? {
            return Ok(Self::Stream(object.to_owned().unbind()));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("a destination is a path or a binary file, not `{kind}`")))
    }
}

/// An archive to load: a path, bytes, or an object with a method `read`.
pub(crate) struct Source(ContextArgument);

impl<'py> FromPyObject<'_, 'py> for Source {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self)
    }
}

impl Session {
    pub(crate) fn save(
        self: &Arc<Self>,
        references: Several<String>,
        destination: Destination,
        wanted: Option<String>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let names = references.0.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>>>()?;
            let wanted = wanted.as_deref().map(platform).transpose()?;
            match destination {
                Destination::Path(path) => sdk.save(&names, wanted.as_ref(), &path).await?,
                Destination::Stream(stream) => {
                    let folder = private_folder::temporary(FOLDER, Some(&sdk.scratch()?))?;
                    let path = folder.path().join(FILE);
                    sdk.save(&names, wanted.as_ref(), &path).await?;
                    blocking(move || write(&path, &stream)).await?;
                }
            }
            Ok(Outcome::Nothing)
        })
    }

    pub(crate) fn load(self: &Arc<Self>, source: Source, name: Option<String>) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let name = name.as_deref().map(Reference::parse).transpose()?;
            let scratch = sdk.scratch()?;
            let folder = private_folder::temporary(FOLDER, Some(&scratch))?;
            let path = match source.0 {
                ContextArgument::Text(path) => path.into(),
                ContextArgument::Path(path) => path,
                stream => {
                    let path = folder.path().join(FILE);
                    let spooled = path.clone();
                    blocking(move || spool(stream, &spooled)).await?;
                    path
                }
            };
            let layout = ImageLayout::open_archive(&path, &scratch).await?;
            let loaded = sdk.load(&layout, name.as_ref(), &PullOptions::default()).await?;
            drop(folder);
            let loaded = loaded.iter().map(|(name, image)| transferred(name, image)).collect();
            Ok(Outcome::Made("Transferred", loaded))
        })
    }
}

/// Writes a file to a Python object.
fn write(path: &Path, stream: &Py<PyAny>) -> Result<()> {
    let cannot = |e| Error::io("cannot read the archive", path, e);
    let mut file = std::fs::File::open(path).map_err(cannot)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = file.read(&mut chunk).map_err(cannot)?;
        if n == 0 {
            return Ok(());
        }
        Python::attach(|py| {
            // A raw file may take less than it is given.
            let mut rest = &chunk[..n];
            while !rest.is_empty() {
                let taken = stream.bind(py).call_method1("write", (PyBytes::new(py, rest),))?;
                // An object that says nothing has taken all, but for a raw file, which would have to wait.
                let is_raw = || stream.bind(py).is_instance(&py.import("io")?.getattr("RawIOBase")?);
                let taken = match taken.is_none() {
                    true => {
                        if is_raw()? {
                            0
                        } else {
                            rest.len()
                        }
                    }
                    false => taken.extract::<usize>().unwrap_or(rest.len()),
                };
                if taken == 0 {
                    return Err(PyBlockingIOError::new_err("`write` takes no more bytes"));
                }
                rest = &rest[taken.min(rest.len())..];
            }
            PyResult::Ok(())
        })
        .map_err(|raised| Error::invalid("the file object cannot be written").with_source(raised))?;
    }
}

/// Keeps the bytes of a Python value in a file.
fn spool(source: ContextArgument, path: &Path) -> Result<()> {
    let cannot = |e| Error::io("cannot keep the archive", path, e);
    let mut file = std::fs::File::create_new(path).map_err(cannot)?;
    let (copied, raised) = match source {
        ContextArgument::Stream(stream) => {
            let (mut stream, raised) = PythonFile::new(stream);
            (std::io::copy(&mut stream, &mut file), raised)
        }
        ContextArgument::Bytes(bytes) => (std::io::copy(&mut &bytes[..], &mut file), Raised::default()),
        ContextArgument::Text(_) | ContextArgument::Path(_) => {
            return Err(Error::internal("a path is no stream"));
        }
    };
    copied.map(drop).map_err(|e| raised.or(cannot(e)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the work on the archive broke off").with_source(e))?
}
