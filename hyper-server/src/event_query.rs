//! What a request for events asks for.

use hyper_sdk::store::EventStart;
use hyper_sdk::{Error, Result};
use std::time::Duration;

/// The query parameters of a request for events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventQuery {
    /// Where they begin.
    pub(crate) start: EventStart,
    /// The most events.
    pub(crate) limit: Option<usize>,
    /// How long to wait for one.
    pub(crate) wait: Duration,
}

impl EventQuery {
    /// Reads the parameters `since` and `wait`.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says which one is wrong.
    pub(crate) fn parse(since: Option<&str>, limit: Option<usize>, wait: Option<&str>) -> Result<Self> {
        let start = since.filter(|text| !text.is_empty()).map(str::parse).transpose()?.unwrap_or_default();
        let wait = Duration::from_secs(number("wait", wait)?.unwrap_or_default());
        Ok(Self { start, limit, wait })
    }
}

/// A parameter that is a number, 0 or more.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] that names it.
pub(crate) fn number(key: &str, text: Option<&str>) -> Result<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!("the parameter `{key}` must be a number, 0 or more")));
    }
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}
