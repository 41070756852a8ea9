//! Starting the log, and changing its level while the server runs.

use crate::config::{LogConfig, LogFormat};
use crate::log::LineWriter;
use crate::log_filter::log_filter;
use crate::otlp::SpanListener;
use hyper_sdk::{Error, Result};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt as lines, reload};

type Replace = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// The level of the log of this process, or its filter.
pub(crate) struct LogLevel {
    current: Mutex<String>,
    replace: Box<Replace>,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.current).finish()
    }
}

/// The filter that a level, or a filter, of the configuration stands for.
///
/// # Errors
/// Those of [`log_filter`].
pub(crate) fn filter(level: &str) -> Result<EnvFilter> {
    log_filter(level, "info")
}

/// Starts the log of this process, and what listens to spans beside it.
///
/// # Errors
/// Those of [`filter`], and [`hyper_sdk::ErrorKind::Internal`] when the process has a log already.
pub(crate) fn start(
    config: &LogConfig,
    writer: LineWriter,
    listener: Option<SpanListener>,
) -> Result<LogLevel> {
    if let Some(listener) = listener {
        return start_with(config, writer, listener);
    }
    let failed = |e| Error::internal("the log cannot be started").with_source(e);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.level)?)
        .with_ansi(false)
        .with_writer(writer);
    let replace: Box<Replace> = match config.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(failed)?;
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(failed)?;
            Box::new(move |filter| handle.reload(filter))
        }
    };
    Ok(LogLevel { current: Mutex::new(config.level.clone()), replace })
}

/// The same with a listener. The level is for the log alone, so each of them has a filter of its own, which costs a little more.
fn start_with(config: &LogConfig, writer: LineWriter, listener: SpanListener) -> Result<LogLevel> {
    type Log = Box<dyn Layer<Layered<SpanListener, Registry>> + Send + Sync>;
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let layer = lines::layer().with_ansi(false).with_writer(writer);
    let log: Log = match config.format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed()
        }
    };
    let whole = tracing_subscriber::registry().with(listener).with(log);
    whole.try_init().map_err(|e| Error::internal("the log cannot be started").with_source(e))?;
    let replace: Box<Replace> = Box::new(move |filter| handle.reload(filter));
    Ok(LogLevel { current: Mutex::new(config.level.clone()), replace })
}

impl LogLevel {
    /// Changes the level from now on. The log says so, if the old or the new level shows it.
    ///
    /// # Errors
    /// Those of [`filter`]; the level then stays.
    pub(crate) fn set(&self, level: &str) -> Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == level {
            return Ok(());
        }
        let filter = filter(level)?;
        let say = || tracing::info!(level, former = *current, "the level of the log changes");
        let was_shown = tracing::enabled!(tracing::Level::INFO);
        if was_shown {
            say();
        }
        (self.replace)(filter)
            .map_err(|e| Error::internal("the level of the log cannot be changed").with_source(e))?;
        if !was_shown {
            say();
        }
        *current = level.to_owned();
        Ok(())
    }
}
