//! How a command prints: results on standard output, progress and messages on standard error.

use crate::args::{Format, GlobalArgs};
use crate::failure::Failure;
use crate::render::{Mode, Renderer};
use crate::terminal;
use hyper_sdk::progress::{Event, Progress};

/// How a run of the program prints.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    pub(crate) color: bool,
    pub(crate) quiet: bool,
    pub(crate) format: Format,
}

impl Console {
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        Self { color: global.color.resolve(), quiet: global.quiet, format: global.format }
    }

    /// How results are printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether only results are printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes a line of the result to standard output. A reader that went away is not an error.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when it cannot be written.
    pub fn print_line(&self, text: &str) -> hyper_sdk::Result<()> {
        terminal::print_line(text)
    }

    /// Writes the result to standard output as indented JSON.
    ///
    /// # Errors
    /// As [`Console::print_line`].
    pub fn print_json(&self, value: &impl serde::Serialize) -> hyper_sdk::Result<()> {
        terminal::print_json(value)
    }

    /// Writes a line to standard error, unless only results are printed.
    pub fn message(&self, line: &str) {
        if !self.quiet {
            terminal::message(line);
        }
    }

    /// Writes a warning to standard error.
    pub fn warn(&self, text: &str) {
        terminal::warn(self.color, text);
    }

    /// Shows the warnings of work that has no other progress.
    pub(crate) fn warnings(&self) -> Progress {
        let console = *self;
        Progress::new(move |event| {
            if let Event::Warning { message, .. } = event {
                console.warn(&message);
            }
        })
    }

    /// Runs work and shows its progress on standard error until both have ended. Dropping the future drops the work.
    ///
    /// # Errors
    /// Those of the work; [`hyper_sdk::ErrorKind::Internal`] when the display failed.
    pub async fn with_progress<T>(
        &self,
        work: impl AsyncFnOnce(Progress) -> hyper_sdk::Result<T>,
    ) -> Result<T, Failure> {
        let mode = if self.quiet { Mode::Quiet } else { Mode::Auto };
        let renderer = Renderer::start(mode, self.color, None)?;
        let outcome = work(renderer.progress().clone()).await;
        renderer.finish(outcome.is_err()).await?;
        Ok(outcome?)
    }
}
