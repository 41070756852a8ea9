//! File objects of Python, and bytes, as Rust reads and writes them: on a thread of its own, until somebody cancels.
//!
//! # Invariants
//! - When the future of [`blocking`] is dropped, its work reads and writes nothing more. A call of `read` or `write` that
//!   has begun by then ends by itself: nobody can interrupt the code of a Python object in another thread.

use crate::exit::Engaged;
use hyper_sdk::{Error, Result};
use pyo3::exceptions::{PyBlockingIOError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many bytes one call of `read` asks for, and one call of `write` is given.
const CHUNK: usize = 1 << 20;

/// Tells work on another thread that nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Acquire) {
            true => Err(io::Error::other("the operation was cancelled")),
            false => Ok(()),
        }
    }
}

/// Cancels when it is dropped.
struct CancelOnDrop(Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// Does work on a thread of its own. Dropping the future cancels the work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Cancelled) -> Result<T> + Send + 'static,
) -> Result<T> {
    let cancelled = Cancelled::default();
    let _guard = CancelOnDrop(cancelled.clone());
    let engaged = Engaged::new();
    let work = move || {
        let _engaged = engaged;
        work(&cancelled)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the thread of a file object ended early").with_source(e))?
}

/// The content of `bytes`, a `bytearray` or a `memoryview`; `None` for another object.
pub(crate) fn bytes_of(object: Borrowed<'_, '_, PyAny>) -> PyResult<Option<PyBackedBytes>> {
    let is_buffer = object.is_instance_of::<PyByteArray>() || object.is_instance_of::<PyMemoryView>();
    if !is_buffer && !object.is_instance_of::<PyBytes>() {
        return Ok(None);
    }
    let bytes = object.py().get_type::<PyBytes>().call1((object,))?;
    Ok(Some(bytes.extract()?))
}

/// An argument that is bytes.
pub(crate) struct BytesArgument(pub(crate) PyBackedBytes);

impl<'py> FromPyObject<'_, 'py> for BytesArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Some(bytes) = bytes_of(object)? {
            return Ok(Self(bytes));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("expected bytes, not `{kind}`")))
    }
}

/// Bytes, or an object with a method `read` that returns bytes.
pub(crate) enum Stream {
    Bytes(PyBackedBytes),
    File(Py<PyAny>),
}

impl Stream {
    /// The stream that an object is: `None` when it is neither bytes nor has a method `read`.
    pub(crate) fn of(object: Borrowed<'_, '_, PyAny>) -> PyResult<Option<Self>> {
        if let Some(bytes) = bytes_of(object)? {
            return Ok(Some(Self::Bytes(bytes)));
        }
        Ok(object.hasattr("read")?.then(|| Self::File(object.to_owned().unbind())))
    }

    /// Lets `work` read the stream. What a file object raises becomes the cause of the error.
    pub(crate) fn read_with<T>(
        self,
        cancelled: &Cancelled,
        work: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        let mut reader = StreamReader {
            stream: self,
            chunk: None,
            position: 0,
            cancelled: cancelled.clone(),
            raised: None,
        };
        let done = work(&mut reader);
        match reader.raised {
            Some(raised) => Err(Error::invalid("the file object cannot be read").with_source(raised)),
            None => done,
        }
    }

    /// Keeps the stream in a new file.
    pub(crate) fn spool(self, cancelled: &Cancelled, path: &Path) -> Result<()> {
        let cannot = |e| Error::io("cannot write a temporary file", path, e);
        let mut file = std::fs::File::create_new(path).map_err(cannot)?;
        self.read_with(cancelled, |stream| io::copy(stream, &mut file).map(drop).map_err(cannot))
    }
}

struct StreamReader {
    stream: Stream,
    /// What was read of a file object, and how much of that was handed on.
    chunk: Option<PyBackedBytes>,
    position: usize,
    cancelled: Cancelled,
    raised: Option<PyErr>,
}

impl StreamReader {
    /// Makes `chunk` the next bytes; no bytes at the end.
    fn next_chunk(&mut self) -> io::Result<()> {
        let Stream::File(file) = &self.stream else { return Ok(()) };
        let read = Python::attach(|py| {
            // Whoever holds the GIL may have cancelled meanwhile.
            self.cancelled.check()?;
            let chunk = file.bind(py).call_method1("read", (CHUNK,)).and_then(|chunk| {
                chunk.extract::<PyBackedBytes>().map_err(|_| {
                    PyTypeError::new_err(
                        "`read` returns no bytes: open the file in binary mode, as with `\"rb\"`",
                    )
                })
            });
            io::Result::Ok(chunk)
        })?;
        match read {
            Ok(chunk) => (self.chunk, self.position) = (Some(chunk), 0),
            Err(raised) => {
                self.raised = Some(raised);
                return Err(io::Error::other("the file object raised an exception"));
            }
        }
        Ok(())
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancelled.check()?;
        let is_used = self.chunk.as_ref().is_none_or(|chunk| self.position >= chunk.len());
        if is_used && !buffer.is_empty() {
            self.next_chunk()?;
        }
        let whole = match &self.stream {
            Stream::Bytes(bytes) => Some(bytes),
            Stream::File(_) => self.chunk.as_ref(),
        };
        let rest = whole.map_or(&[][..], |whole| &whole[self.position..]);
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.position += n;
        Ok(n)
    }
}

/// Writes a file to an object with a method `write`.
pub(crate) fn write_to(object: &Py<PyAny>, cancelled: &Cancelled, path: &Path) -> Result<()> {
    let cannot = |e| Error::io("cannot read a temporary file", path, e);
    let mut file = std::fs::File::open(path).map_err(cannot)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = file.read(&mut chunk).map_err(cannot)?;
        if n == 0 {
            return Ok(());
        }
        // A raw file may take less than it is given.
        let mut rest = &chunk[..n];
        while !rest.is_empty() {
            let count = Python::attach(|py| {
                cancelled.check().map_err(cannot)?;
                taken(py, object.bind(py), rest)
                    .map_err(|raised| Error::invalid("the file object cannot be written").with_source(raised))
            })?;
            rest = &rest[count.min(rest.len())..];
        }
    }
}

/// Writes bytes to an object, and returns how many it took.
fn taken(py: Python<'_>, object: &Bound<'_, PyAny>, bytes: &[u8]) -> PyResult<usize> {
    let taken = object.call_method1("write", (PyBytes::new(py, bytes),))?;
    let taken = match taken.is_none() {
        false => taken.extract::<usize>().unwrap_or(bytes.len()),
        // A raw file that would have to wait took nothing; another object without an answer took everything.
        true if object.is_instance(&py.import("io")?.getattr("RawIOBase")?)? => 0,
        true => bytes.len(),
    };
    match taken {
        0 => Err(PyBlockingIOError::new_err("`write` takes no more bytes")),
        taken => Ok(taken),
    }
}
