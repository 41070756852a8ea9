//! The log of the program itself.

use crate::json_events;
use crate::terminal::message;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;

/// Sends the log of the program itself to standard error, at the level of `HYPER_LOG`; warnings without it.
pub(crate) fn init(color: bool) {
    let filter = EnvFilter::try_from_env("HYPER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call, as in tests, keeps the first subscriber.
    let writer = || -> Box<dyn Write> {
        if json_events::is_on() { Box::new(LogWriter) } else { Box::new(io::stderr()) }
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(color && !json_events::is_on())
        .with_target(false)
        // Such an error is printed with a macro that panics when it cannot print.
        .log_internal_errors(false)
        .try_init();
}

/// Writes lines of the log as events.
#[derive(Debug)]
struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        message(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
