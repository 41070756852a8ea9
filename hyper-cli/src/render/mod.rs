//! Shows the events of work, and writes every line to a log file.
//!
//! ```text
//!   work ──events──▶ channel ──▶ render task ─┬─▶ View: tty | plain | json | warnings  standard error
//!                                             └─▶ Plain, never clipped                 ROOT/logs/*.log
//! ```

mod json;
mod lines;
mod log_file;
mod plain;
mod tty;

use crate::json_events;
use crate::terminal::paint;
use clap::ValueEnum;
use hyper_sdk::progress::{Event, Events, Progress};
use hyper_sdk::{Error, Result};
use plain::Plain;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// Live bars
    Tty,
    /// Lines
    Plain,
    /// One JSON object a line
    #[value(alias = "rawjson")]
    Json,
    /// Nothing but warnings
    #[value(alias = "none")]
    Quiet,
}

/// Shows events in one way.
trait View: Send {
    /// Takes an event that came `now` after the start.
    fn event(&mut self, event: &Event, now: Duration);
    /// The last event has come. `failed` says whether the work failed.
    fn finish(&mut self, failed: bool);
}

/// Shows only warnings: they say that the result may differ from what was asked for.
struct Warnings<W> {
    out: W,
    color: bool,
}

impl<W: io::Write + Send> View for Warnings<W> {
    fn event(&mut self, event: &Event, _: Duration) {
        if let Event::Warning { message, .. } = event {
            // A reader that went away must not stop the work.
            let _ = writeln!(self.out, "{} {message}", paint(self.color, "33", "WARN:"));
        }
    }

    fn finish(&mut self, _: bool) {
        let _ = self.out.flush();
    }
}

/// How many displays run.
static RUNNING: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// One of them, until it is dropped.
struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.send_modify(|count| *count += 1);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.send_modify(|count| *count -= 1);
    }
}

/// Waits until every display has shown what there is, but not for longer than `limit`. For work that was dropped with its
/// display: how its tasks ended would not be shown otherwise.
pub(crate) async fn all_have_ended(limit: Duration) {
    let mut running = RUNNING.subscribe();
    let _ = tokio::time::timeout(limit, running.wait_for(|count| *count == 0)).await;
}

/// A running display. Dropping it without [`Renderer::finish`] ends the display at the next event.
pub(crate) struct Renderer {
    progress: Progress,
    stop: oneshot::Sender<bool>,
    task: JoinHandle<()>,
    log: Option<PathBuf>,
}

impl Renderer {
    /// Starts to show events. With a folder for logs, every line is written to a file there that is named after `what`.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the log file cannot be made.
    pub(crate) fn start(mode: Mode, color: bool, logs: Option<(&Path, &str)>) -> Result<Self> {
        let mut views: Vec<Box<dyn View>> = vec![match mode {
            Mode::Auto if json_events::is_on() => Box::new(json::Json::new(io::stderr())),
            Mode::Tty => Box::new(tty::Tty::new(color)),
            Mode::Auto if io::stderr().is_terminal() => Box::new(tty::Tty::new(color)),
            Mode::Auto | Mode::Plain => Box::new(Plain::new(io::stderr(), color)),
            Mode::Json => Box::new(json::Json::new(io::stderr())),
            Mode::Quiet => Box::new(Warnings { out: io::stderr(), color }),
        }];
        let mut log = None;
        if let Some((folder, what)) = logs {
            let (path, file) = log_file::create(folder, what)?;
            views.push(Box::new(Plain::new(io::BufWriter::new(file), false)));
            log = Some(path);
        }
        let (progress, events) = Progress::channel();
        let (stop, stopped) = oneshot::channel();
        let running = Running::begin();
        let task = tokio::spawn(async move {
            show(views, events, stopped).await;
            drop(running);
        });
        Ok(Self { progress, stop, task, log })
    }

    /// Where to send events.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The path of the log file.
    pub(crate) fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// Shows the events that have come, ends the display, and returns the path of the log file.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Internal`] when the display failed.
    pub(crate) async fn finish(self, failed: bool) -> Result<Option<PathBuf>> {
        // Cancelled work may keep handles of the progress, so the channel alone does not show the end.
        let _ = self.stop.send(failed);
        drop(self.progress);
        self.task.await.map_err(|e| Error::internal("the progress display failed").with_source(e))?;
        Ok(self.log)
    }
}

async fn show(mut views: Vec<Box<dyn View>>, mut events: Events, mut stopped: oneshot::Receiver<bool>) {
    let start = json_events::start();
    let failed = loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Some(event) => views.iter_mut().for_each(|v| v.event(&event, start.elapsed())),
                None => break stopped.await.unwrap_or(true),
            },
            failed = &mut stopped => break failed.unwrap_or(true),
        }
    };
    while let Ok(event) = events.try_recv() {
        views.iter_mut().for_each(|v| v.event(&event, start.elapsed()));
    }
    views.iter_mut().for_each(|v| v.finish(failed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::progress::LogStream;

    #[tokio::test]
    async fn the_log_file_keeps_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let renderer = Renderer::start(Mode::Quiet, false, Some((folder.path(), "build"))).unwrap();
        let task = renderer.progress().start("RUN make", None);
        let long = "x".repeat(100_000);
        task.log(LogStream::Stdout, format!("{long}\nlast without an end").as_bytes());
        task.done();
        let log = renderer.finish(false).await.unwrap().unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains(&long) && text.contains("last without an end"));
        assert!(text.contains("RUN make") && text.contains("DONE"));
    }

    #[test]
    fn a_quiet_display_shows_only_warnings() {
        let mut out = Vec::new();
        let mut view = Warnings { out: &mut out, color: false };
        view.event(&Event::Started { task: 0, name: "RUN make".into(), total: None }, Duration::ZERO);
        view.event(&Event::Warning { task: Some(0), message: "of a task".into() }, Duration::ZERO);
        view.event(&Event::Warning { task: None, message: "of all".into() }, Duration::ZERO);
        view.finish(true);
        assert_eq!(String::from_utf8(out).unwrap(), "WARN: of a task\nWARN: of all\n");
    }

    #[tokio::test]
    async fn a_handle_that_is_left_does_not_keep_the_display_open() {
        let renderer = Renderer::start(Mode::Quiet, false, None).unwrap();
        let _left_behind = renderer.progress().clone();
        assert_eq!(renderer.finish(true).await.unwrap(), None);
    }
}
