//! One stream of events for the library, the CLI and Python.
//!
//! The caller of long work passes a [`Progress`]. The work sends [`Event`]s, and a user interface shows them. Sending never
//! waits and never fails, even after the sink is dropped. The output of a command has no limit, so code that passes it on
//! waits for [`Progress::ready`] first.
//!
//! ```
//! use hyper_sdk::progress::{Event, Progress};
//! let (progress, mut events) = Progress::channel();
//! let task = progress.start("push layer", Some(10));
//! task.advance(10);
//! task.done();
//! drop(progress);
//! assert!(matches!(events.try_recv(), Ok(Event::Started { .. })));
//! ```

mod channel;
#[cfg(feature = "build")]
mod once;

pub use channel::Events;

use crate::Digest;
use futures::future::BoxFuture;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The number of a task, unique within a [`Progress`].
pub type TaskId = u64;

/// The stream of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The work was done.
    Done,
    /// The result was already in a cache or at the destination.
    Cached,
    /// The work failed, with the one-line text of its error.
    Failed(String),
    /// The work was cancelled, by the caller or because other work failed.
    Cancelled,
}

/// An event of some work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A task began.
    Started {
        /// The task.
        task: TaskId,
        /// The name: `[build 2/5] RUN make`.
        name: String,
        /// The units of work (bytes, unless the name says otherwise), when known.
        total: Option<u64>,
    },
    /// A task advanced: `done` units of `total` so far.
    Advanced {
        /// The task.
        task: TaskId,
        /// Units done so far.
        done: u64,
        /// Units in all, when known.
        total: Option<u64>,
    },
    /// Output of a command. It can end within a line.
    Log {
        /// The task.
        task: TaskId,
        /// The stream.
        stream: LogStream,
        /// The text. Bytes that are not UTF-8 are replaced.
        text: String,
    },
    /// A warning about a task, or about the whole when `task` is `None`.
    Warning {
        /// The task.
        task: Option<TaskId>,
        /// One line.
        message: String,
    },
    /// A task ended.
    Finished {
        /// The task.
        task: TaskId,
        /// The outcome.
        outcome: Outcome,
        /// How long it took, in milliseconds.
        milliseconds: u64,
    },
    /// A result: the digest of an image that was built, pushed or pulled.
    Result {
        /// The name of the image.
        name: String,
        /// The digest.
        digest: Digest,
    },
}

/// Receives the events of some work.
///
/// ```
/// use hyper_sdk::progress::{Event, Progress, Sink};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// /// Counts warnings.
/// #[derive(Clone, Default)]
/// struct Warnings(Arc<AtomicUsize>);
///
/// impl Sink for Warnings {
///     fn event(&self, event: Event) {
///         if let Event::Warning { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let warnings = Warnings::default();
/// Progress::new(warnings.clone()).warn("the cache is nearly full");
/// assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Receives one event. It must not block.
    fn event(&self, event: Event);

    /// Waits until there is room for more output of commands. A sink without a buffer is always ready.
    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl<F: Fn(Event) + Send + Sync + 'static> Sink for F {
    fn event(&self, event: Event) {
        self(event);
    }
}

/// A handle that sends events. Clones share the sink and the task numbers.
#[derive(Clone)]
pub struct Progress {
    sink: Option<Arc<dyn Sink>>,
    next: Arc<AtomicU64>,
}

impl Progress {
    /// Progress without a sink: events are dropped.
    pub fn none() -> Self {
        Self { sink: None, next: Arc::default() }
    }

    /// Progress with a sink.
    pub fn new(sink: impl Sink) -> Self {
        Self { sink: Some(Arc::new(sink)), next: Arc::default() }
    }

    /// Progress with a channel. The channel holds any number of events, but [`Progress::ready`] waits while much output of
    /// commands is not received yet.
    pub fn channel() -> (Self, Events) {
        let (sink, events) = channel::channel();
        (Self::new(sink), events)
    }

    /// Waits until the sink has room for more output of commands. Dropping the future loses nothing.
    pub async fn ready(&self) {
        if let Some(sink) = &self.sink {
            sink.ready().await;
        }
    }

    /// The same progress, but equal warnings about the whole are sent only once.
    #[must_use]
    #[cfg(feature = "build")]
    pub(crate) fn each_warning_once(&self) -> Self {
        let sink = self.sink.clone().map(|sink| Arc::new(once::Once::new(sink)) as Arc<dyn Sink>);
        Self { sink, next: Arc::clone(&self.next) }
    }

    /// The same progress, but each event is changed on its way.
    #[cfg(feature = "build")]
    pub(crate) fn map(&self, change: impl Fn(Event) -> Event + Send + Sync + 'static) -> Self {
        let sink = self
            .sink
            .clone()
            .map(|sink| Arc::new(move |event: Event| sink.event(change(event))) as Arc<dyn Sink>);
        Self { sink, next: Arc::clone(&self.next) }
    }

    /// The same progress, without the events that a test refuses.
    #[cfg(feature = "build")]
    pub(crate) fn filter(&self, takes: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        let sink = self.sink.clone().map(|sink| {
            Arc::new(move |event: Event| {
                if takes(&event) {
                    sink.event(event);
                }
            }) as Arc<dyn Sink>
        });
        Self { sink, next: Arc::clone(&self.next) }
    }

    /// Sends one event.
    pub fn send(&self, event: Event) {
        if let Some(sink) = &self.sink {
            sink.event(event);
        }
    }

    /// Sends a warning about the whole.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::Warning { task: None, message: message.into() });
    }

    /// Begins a task. A task that is dropped before it ends is reported as cancelled.
    pub fn start(&self, name: impl Into<String>, total: Option<u64>) -> Task {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Event::Started { task: id, name: name.into(), total });
        Task {
            progress: self.clone(),
            id,
            done: AtomicU64::new(0),
            total,
            reported: AtomicU64::new(0),
            start: Instant::now(),
            ended: false,
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("sink", &self.sink.is_some()).finish()
    }
}

/// A task that has begun. [`Task::done`], [`Task::cached`], [`Task::failed`] or a drop ends it.
#[derive(Debug)]
pub struct Task {
    progress: Progress,
    id: TaskId,
    done: AtomicU64,
    total: Option<u64>,
    reported: AtomicU64,
    start: Instant,
    ended: bool,
}

impl Task {
    /// The task's number.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Adds finished units of work. It reports at most once in 50 ms, and when all units are finished.
    pub fn advance(&self, units: u64) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        let now = self.start.elapsed().as_millis() as u64 / 50 + 1;
        if self.reported.swap(now, Ordering::Relaxed) != now || Some(done) == self.total {
            self.progress.send(Event::Advanced { task: self.id, done, total: self.total });
        }
    }

    /// The progress that gets its events.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Passes on output of a command. It does not wait: see [`Progress::ready`].
    pub fn log(&self, stream: LogStream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.progress.send(Event::Log { task: self.id, stream, text });
    }

    /// Sends a warning about this task.
    pub fn warn(&self, message: impl Into<String>) {
        self.progress.send(Event::Warning { task: Some(self.id), message: message.into() });
    }

    /// How long the task has run.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends the task as done.
    pub fn done(mut self) {
        self.end(Outcome::Done);
    }

    /// Ends the task as cached: its result existed already.
    pub fn cached(mut self) {
        self.end(Outcome::Cached);
    }

    /// Ends the task as failed.
    pub fn failed(mut self, error: &crate::Error) {
        let outcome = match error.kind() {
            crate::ErrorKind::Cancelled => Outcome::Cancelled,
            _ => Outcome::Failed(error.to_string()),
        };
        self.end(outcome);
    }

    /// Ends the task as done or failed, by a result, and returns the result.
    pub fn end_with<T>(self, result: crate::Result<T>) -> crate::Result<T> {
        match &result {
            Ok(_) => self.done(),
            Err(e) => self.failed(e),
        }
        result
    }

    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        let milliseconds = self.start.elapsed().as_millis() as u64;
        self.progress.send(Event::Finished { task: self.id, outcome, milliseconds });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Outcome::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_that_starts_ends_once() {
        let (progress, mut events) = Progress::channel();
        progress.start("a", None).done();
        drop(progress.start("b", None));
        let mut ends = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let Event::Finished { task, outcome, .. } = event {
                ends.push((task, outcome));
            }
        }
        assert_eq!(ends, [(0, Outcome::Done), (1, Outcome::Cancelled)]);
    }

    #[test]
    fn the_last_advance_is_always_reported() {
        let (progress, mut events) = Progress::channel();
        let task = progress.start("a", Some(1000));
        for _ in 0..1000 {
            task.advance(1);
        }
        let mut last = 0;
        while let Ok(event) = events.try_recv() {
            if let Event::Advanced { done, .. } = event {
                last = done;
            }
        }
        assert_eq!(last, 1000);
    }
}
