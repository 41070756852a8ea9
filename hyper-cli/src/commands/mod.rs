//! One file a command: its arguments, whose doc comments are the help, and one function that calls the SDK.

pub(crate) mod build;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
mod plan;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod quickstart;
pub(crate) mod reference;
mod result;
pub(crate) mod rm;
pub(crate) mod rules;
pub(crate) mod serve;
pub(crate) mod tag;

use crate::backends::Session;
use crate::failure::Failure;
use crate::render::{Mode, Renderer, json};
use hyper_sdk::progress::Progress;
use std::io::Write;
use tracing_subscriber::EnvFilter;

/// Sends the log of the program itself to standard error, as much as `HYPER_LOG` asks for: warnings without it.
pub(crate) fn init_logging(color: bool) {
    let filter = EnvFilter::try_from_env("HYPER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call, as in tests, keeps the first subscriber.
    let writer = || -> Box<dyn Write> {
        if json::is_on() { Box::new(json::LogWriter) } else { Box::new(std::io::stderr()) }
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(color && !json::is_on())
        .with_target(false)
        // What cannot be written would be told by a macro that panics when that cannot be written either.
        .log_internal_errors(false)
        .try_init();
}

/// Does some work with its progress on standard error, to the end of both.
async fn with_progress<T>(
    session: &Session,
    work: impl AsyncFnOnce(Progress) -> hyper_sdk::Result<T>,
) -> Result<T, Failure> {
    let mode = if session.quiet { Mode::Quiet } else { Mode::Auto };
    let renderer = Renderer::start(mode, session.color, None)?;
    let outcome = work(renderer.progress().clone()).await;
    renderer.finish(outcome.is_err()).await?;
    Ok(outcome?)
}
