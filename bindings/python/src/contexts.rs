//! Build contexts as Python gives them: a path or an address, bytes, or an object with `read`.

use hyper_sdk::source::{ContextInput, read_context_blocking};
use hyper_sdk::{Error, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many bytes are asked of a Python object at a time.
const CHUNK: usize = 1 << 20;

/// A build context or named context.
pub(crate) enum ContextArgument {
    /// Text as on the command line.
    Text(String),
    /// A folder.
    Path(PathBuf),
    /// An archive of files, or the text of a Dockerfile.
    Bytes(PyBackedBytes),
    /// The same, from an object with a method `read`.
    Stream(Py<PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for ContextArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            // What is not UTF-8 can only be the name of a folder.
            return match text.to_cow() {
                Ok(text) => Ok(Self::Text(text.into_owned())),
                Err(_) => Ok(Self::Path(object.extract()?)),
            };
        }
        let is_buffer = object.is_instance_of::<PyByteArray>() || object.is_instance_of::<PyMemoryView>();
        if object.is_instance_of::<PyBytes>() || is_buffer {
            let bytes = object.py().get_type::<PyBytes>().call1((object,))?;
            return Ok(Self::Bytes(bytes.extract()?));
        }
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Self::Path(path));
        }
        if object.hasattr("read")? {
            return Ok(Self::Stream(object.to_owned().unbind()));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "a context is a path, an address, bytes or a binary file, not `{kind}`"
        )))
    }
}

/// A binary file of Python. What it raises is kept.
pub(crate) struct PythonFile {
    file: Py<PyAny>,
    chunk: Option<PyBackedBytes>,
    position: usize,
    raised: Raised,
}

/// The exception of a Python object that was read.
#[derive(Clone, Default)]
pub(crate) struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    /// The exception as the cause of an error; or the error itself when nothing was raised.
    pub(crate) fn or(self, error: Error) -> Error {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(raised) => Error::invalid("the file object cannot be read").with_source(raised),
            None => error,
        }
    }
}

impl PythonFile {
    /// A reader of an object with a method `read`, and the exception that it will have raised.
    pub(crate) fn new(file: Py<PyAny>) -> (Self, Raised) {
        let raised = Raised::default();
        (Self { file, chunk: None, position: 0, raised: raised.clone() }, raised)
    }

    fn next_chunk(&self) -> PyResult<PyBackedBytes> {
        Python::attach(|py| {
            let chunk = self.file.bind(py).call_method1("read", (CHUNK,))?;
            chunk.extract::<PyBackedBytes>().map_err(|_| {
                PyTypeError::new_err("`read` gives no bytes: open the file in binary mode, as with `\"rb\"`")
            })
        })
    }
}

impl Read for PythonFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let is_empty = self.chunk.as_ref().is_none_or(|chunk| self.position >= chunk.len());
        if is_empty {
            let chunk = self.next_chunk().map_err(|raised| {
                *self.raised.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(raised);
                io::Error::other("the file object raised an exception")
            })?;
            (self.chunk, self.position) = (Some(chunk), 0);
        }
        let rest = self.chunk.as_deref().map_or(&[][..], |chunk| &chunk[self.position..]);
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.position += n;
        Ok(n)
    }
}

/// Unpacks a context into a folder in `scratch`, which is removed with the value.
pub(crate) async fn unpack(context: ContextArgument, scratch: &Path) -> Result<ContextInput> {
    let scratch = scratch.to_owned();
    let work = move || {
        std::fs::create_dir_all(&scratch).map_err(|e| Error::io("cannot make the folder", &scratch, e))?;
        match context {
            ContextArgument::Bytes(bytes) => read_context_blocking(&bytes[..], &scratch),
            ContextArgument::Stream(file) => {
                let (file, raised) = PythonFile::new(file);
                read_context_blocking(file, &scratch).map_err(|e| raised.or(e))
            }
            ContextArgument::Text(_) | ContextArgument::Path(_) => {
                Err(Error::internal("a folder is no stream"))
            }
        }
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("reading the context broke off").with_source(e))?
}
