//! The log of the program itself.

use crate::json_events;
use crate::terminal::{message, warn};
use hyper_server::log_filter;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;

/// What the log shows when `HYPER_LOG` does not say so.
const LEVEL: &str = "warn";

/// Sends the log of the program itself to standard error, at the level of `HYPER_LOG`; warnings without it. A level that is
/// none is a warning.
pub(crate) fn init(color: bool) {
    let text = std::env::var_os("HYPER_LOG").filter(|text| !text.is_empty());
    let asked = text.map(|text| log_filter(&text.to_string_lossy(), LEVEL)).transpose();
    let (filter, refused) = match asked {
        Ok(filter) => (filter, None),
        Err(error) => (None, Some(error)),
    };
    let filter = filter.unwrap_or_else(|| EnvFilter::new(LEVEL));
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
    if let Some(error) = refused {
        warn(color, &format!("the variable HYPER_LOG is not used: {error}"));
    }
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
