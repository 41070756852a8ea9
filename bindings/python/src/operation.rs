//! One operation of the SDK, and two ways to wait for it.
//!
//! # Invariants
//! - While Rust works, the GIL is released.
//! - A signal handler of Python that raises (Ctrl-C), a progress callback that raises, and a cancelled asyncio task
//!   all drop the future of the operation, which by the SDK's contract ends every process that it started.
//! - Events are handed over in order, and all of them before the result.

use crate::exit::{Ending, Engaged};
use crate::failure::exception;
use crate::value::to_python;
use futures::future::BoxFuture;
use hyper_sdk::progress::{Event, Events, Progress};
use hyper_sdk::{Error, Result};
use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How often Python gets a chance to run its signal handlers.
const SIGNALS: Duration = Duration::from_millis(50);
/// How many events are handed over without looking at signals.
const EVENTS: usize = 256;

/// The result of an operation, before it is a Python object.
pub(crate) enum Outcome {
    /// `None`.
    Nothing,
    /// One of `hyper_sdk.results`, or a list of them, by the name of the class.
    Made(&'static str, Value),
    /// Plain data: lists, dicts, strings, numbers.
    Plain(Value),
    /// Bytes as they are stored.
    Bytes(Vec<u8>),
    /// A list of `pathlib.Path`.
    Paths(Vec<PathBuf>),
    /// An object that exists already.
    Object(Py<PyAny>),
}

impl Outcome {
    fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::Nothing => Ok(py.None().into_bound(py)),
            Self::Made(class, value) => {
                py.import("hyper_sdk.results")?.getattr("_make")?.call1((class, to_python(py, &value)?))
            }
            Self::Plain(value) => to_python(py, &value),
            Self::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
            Self::Paths(paths) => paths.into_bound_py_any(py),
            Self::Object(object) => Ok(object.into_bound(py)),
        }
    }
}

/// Where events go: a Python callable, and the channel that they come from.
struct Listener {
    callback: Py<PyAny>,
    events: Events,
}

/// Work that has not begun.
pub(crate) struct Operation {
    future: BoxFuture<'static, Result<Outcome>>,
    listener: Option<Listener>,
}

impl Operation {
    /// An operation without events.
    pub(crate) fn new(future: impl Future<Output = Result<Outcome>> + Send + 'static) -> Self {
        Self { future: Box::pin(future), listener: None }
    }

    /// An operation that gets a [`Progress`], whose events go to `callback` if there is one.
    pub(crate) fn with_progress<F>(callback: Option<Py<PyAny>>, work: impl FnOnce(Progress) -> F) -> Self
    where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let Some(callback) = callback else { return Self::new(work(Progress::none())) };
        let (progress, events) = Progress::channel();
        Self { future: Box::pin(work(progress)), listener: Some(Listener { callback, events }) }
    }
}

/// The process that started the runtime.
static OWNER: OnceLock<u32> = OnceLock::new();

/// Whether this process, and not one that it was forked from, started the runtime.
pub(crate) fn is_started() -> bool {
    OWNER.get() == Some(&std::process::id())
}

/// The runtime of this process.
///
/// # Errors
/// In a process that was forked after the first use: threads do not survive a fork. Those of
/// [`hyper_sdk::runtime::start`].
pub(crate) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: Mutex<Option<&'static Runtime>> = Mutex::new(None);
    if *OWNER.get_or_init(std::process::id) != std::process::id() {
        return Err(Error::unsupported(
            "this process was forked from one that had used hyper_sdk: start it with the `spawn` method of multiprocessing",
        ));
    }
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match *runtime {
        Some(runtime) => Ok(runtime),
        // It lives as long as the process.
        None => Ok(runtime.insert(Box::leak(Box::new(hyper_sdk::runtime::start()?)))),
    }
}

/// Aborts its task when it is dropped.
struct Running(JoinHandle<Result<Outcome>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Woken {
    Events(Vec<Event>),
    Done(std::result::Result<Result<Outcome>, tokio::task::JoinError>),
    Signals,
}

/// Waits on the calling thread.
pub(crate) fn run_sync(py: Python<'_>, operation: Operation) -> PyResult<Bound<'_, PyAny>> {
    let runtime = runtime().map_err(|e| exception(&e))?;
    let mut running = Running(runtime.spawn(operation.future));
    let mut listener = operation.listener;
    let outcome = loop {
        let woken = py.detach(|| {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    events = next_events(listener.as_mut()) => Woken::Events(events),
                    done = &mut running.0 => Woken::Done(done),
                    () = tokio::time::sleep(SIGNALS) => Woken::Signals,
                }
            })
        });
        let told = match woken {
            Woken::Done(outcome) => break outcome,
            Woken::Events(events) => tell(py, listener.as_ref(), &events, None),
            Woken::Signals => Ok(()),
        };
        if let Err(raised) = told.and_then(|()| py.check_signals()) {
            // Nothing of the operation is left when the exception reaches the caller.
            running.0.abort();
            let _ended = py.detach(|| runtime.block_on(&mut running.0));
            return Err(raised);
        }
    };
    if let Some(listener) = &mut listener {
        let mut rest = Vec::new();
        while let Ok(event) = listener.events.try_recv() {
            rest.push(event);
        }
        tell(py, Some(listener), &rest, None)?;
    }
    finish(outcome.unwrap_or_else(|e| Err(broken(e))), py)
}

/// Gives a coroutine. The operation starts when the coroutine is awaited or made a task; no event loop has to run
/// before that.
pub(crate) fn run_async(py: Python<'_>, operation: Operation) -> PyResult<Bound<'_, PyAny>> {
    let operation = Mutex::new(Some(operation));
    let start = PyCFunction::new_closure(py, None, None, move |arguments, _| {
        let operation = operation.lock().unwrap_or_else(PoisonError::into_inner).take();
        let operation =
            operation.ok_or_else(|| PyRuntimeError::new_err("the operation has already been started"))?;
        start(arguments.py(), operation).map(Bound::unbind)
    })?;
    py.import("hyper_sdk._coroutine")?.getattr("operation")?.call1((start,))
}

/// Starts an operation and returns a future of the running event loop. The operation ends when the future is cancelled.
fn start(py: Python<'_>, operation: Operation) -> PyResult<Bound<'_, PyAny>> {
    let runtime = runtime().map_err(|e| exception(&e))?;
    let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
    let future = event_loop.call_method0("create_future")?;
    let settle = py.import("hyper_sdk._coroutine")?.getattr("settle")?.unbind();
    let (waiting, target) = (event_loop.unbind(), future.clone().unbind());
    let (engaged, mut ending) = (Engaged::new(), Ending::new());
    if ending.has_begun() {
        return Err(PyRuntimeError::new_err(
            "the program is ending: use `Hyper`, whose calls return when they are done",
        ));
    }
    let task = runtime.spawn(async move {
        // Dropped last, when everything else has left Python.
        let _engaged = engaged;
        let done = tokio::select! {
            biased;
            () = ending.wait() => return,
            done = follow(operation, &waiting) => done,
        };
        Python::attach(|py| {
            let (value, error) = match done {
                Ok(value) => (value, None),
                Err(raised) => (py.None(), Some(raised.into_value(py))),
            };
            // An event loop that is closed has nobody who waits.
            let _ = waiting.call_method1(py, "call_soon_threadsafe", (settle, target, value, error));
        });
    });
    let task = task.abort_handle();
    let end = PyCFunction::new_closure(py, None, None, move |_, _| task.abort())?;
    future.call_method1("add_done_callback", (end,))?;
    Ok(future)
}

/// Does an operation, and hands its events to an event loop.
async fn follow(operation: Operation, event_loop: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    let Operation { mut future, mut listener } = operation;
    // Until the loop has seen the events that it has, it gets no more.
    let mut seen: Option<oneshot::Receiver<()>> = None;
    let outcome = loop {
        let events = tokio::select! {
            biased;
            () = wait_for(&mut seen), if seen.is_some() => {
                seen = None;
                continue;
            }
            events = next_events(listener.as_mut()), if seen.is_none() => events,
            outcome = &mut future => break outcome,
        };
        seen = Some(Python::attach(|py| {
            let event_loop = event_loop.bind(py);
            tell(py, listener.as_ref(), &events, Some(event_loop))?;
            mark(event_loop)
        })?);
    };
    // The operation is gone before its result is there.
    drop(future);
    Python::attach(|py| {
        if let Some(listener) = &mut listener {
            let mut rest = Vec::new();
            while let Ok(event) = listener.events.try_recv() {
                rest.push(event);
            }
            tell(py, Some(listener), &rest, Some(event_loop.bind(py)))?;
        }
        finish(outcome, py).map(Bound::unbind)
    })
}

/// Waits until a mark was reached, or never will be.
async fn wait_for(mark: &mut Option<oneshot::Receiver<()>>) {
    if let Some(mark) = mark {
        let _ = mark.await;
    }
}

/// Tells when the event loop has done all that it was given so far.
fn mark(event_loop: &Bound<'_, PyAny>) -> PyResult<oneshot::Receiver<()>> {
    let (reached, mark) = oneshot::channel();
    let reached = std::sync::Mutex::new(Some(reached));
    let call = PyCFunction::new_closure(event_loop.py(), None, None, move |_, _| {
        let reached = reached.lock().unwrap_or_else(PoisonError::into_inner).take();
        reached.is_some_and(|reached| reached.send(()).is_ok())
    })?;
    event_loop.call_method1("call_soon_threadsafe", (call,))?;
    Ok(mark)
}

/// Waits for events; for ever when there are none to come.
async fn next_events(listener: Option<&mut Listener>) -> Vec<Event> {
    let Some(listener) = listener else { return std::future::pending().await };
    let mut events = Vec::new();
    if listener.events.recv_many(&mut events, EVENTS).await == 0 {
        return std::future::pending().await;
    }
    events
}

/// Calls the callback with each event: here, or soon in the event loop.
fn tell(
    py: Python<'_>,
    listener: Option<&Listener>,
    events: &[Event],
    event_loop: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let Some(listener) = listener else { return Ok(()) };
    for event in events {
        let value = serde_json::to_value(event)
            .map_err(|e| exception(&Error::internal("an event is not plain data").with_source(e)))?;
        let value = to_python(py, &value)?;
        match event_loop {
            None => listener.callback.bind(py).call1((value,))?,
            Some(event_loop) => {
                event_loop.call_method1("call_soon_threadsafe", (listener.callback.bind(py), value))?
            }
        };
    }
    Ok(())
}

fn finish(outcome: Result<Outcome>, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    outcome.map_err(|e| exception(&e))?.into_python(py)
}

fn broken(error: tokio::task::JoinError) -> Error {
    Error::internal("the operation ended early").with_source(error)
}
