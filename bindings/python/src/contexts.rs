//! Build contexts as Python gives them: a path or an address, bytes, or an object with `read`.

use crate::file_object::{Stream, blocking};
use hyper_sdk::source::{ContextInput, read_context_blocking};
use hyper_sdk::{Error, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::path::{Path, PathBuf};

/// A build context or named context.
pub(crate) enum ContextArgument {
    /// Text as on the command line.
    Text(String),
    /// A folder.
    Path(PathBuf),
    /// An archive of files, or the text of a Dockerfile.
    Stream(Stream),
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
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Self::Path(path));
        }
        if let Some(stream) = Stream::of(object)? {
            return Ok(Self::Stream(stream));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "a context is a path, an address, bytes or a binary file, not `{kind}`"
        )))
    }
}

/// Unpacks a context into a folder in `scratch`, which is removed with the value. Dropping the future ends the reading.
pub(crate) async fn unpack(context: Stream, scratch: &Path) -> Result<ContextInput> {
    let scratch = scratch.to_owned();
    blocking(move |cancelled| {
        std::fs::create_dir_all(&scratch).map_err(|e| Error::io("cannot make the folder", &scratch, e))?;
        context.read_with(cancelled, |stream| read_context_blocking(stream, &scratch))
    })
    .await
}
