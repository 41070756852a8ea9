//! A place in an event log.

use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

/// A place in the event log of one registry: after an event, before the next one. Its text is opaque to clients.
///
/// ```
/// use hyper_sdk::store::EventCursor;
///
/// let cursor: EventCursor = "3f9a0c2b-17".parse()?;
/// assert_eq!((cursor.log(), cursor.after()), ("3f9a0c2b", 17));
/// assert!("17".parse::<EventCursor>().is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventCursor {
    log: String,
    after: u64,
}

impl EventCursor {
    /// The place after an event of a log.
    pub fn new(log: impl Into<String>, after: u64) -> Self {
        Self { log: log.into(), after }
    }

    /// The name of the log. A store that is filled from a backup begins another one.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The number of the last event before the place; 0 at the begin.
    pub fn after(&self) -> u64 {
        self.after
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.log, self.after)
    }
}

impl FromStr for EventCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            let shown: String = text.chars().take(64).collect();
            Error::new(ErrorKind::Invalid, format!("invalid cursor of events `{}`", shown.escape_debug()))
        };
        let (log, after) = text.rsplit_once('-').ok_or_else(invalid)?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if log.is_empty() || log.len() > 32 || !log.chars().all(is_name) {
            return Err(invalid());
        }
        let is_number = after.bytes().all(|b| b.is_ascii_digit());
        // The databases have signed numbers.
        let after = after.parse().ok().filter(|after| is_number && i64::try_from(*after).is_ok());
        Ok(Self::new(log, after.ok_or_else(invalid)?))
    }
}

/// Where a reader of events begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EventStart {
    /// With the oldest event that is kept.
    #[default]
    Oldest,
    /// With the next event that happens.
    Now,
    /// After a place.
    After(EventCursor),
}

impl FromStr for EventStart {
    type Err = Error;

    /// `oldest`, `now` or the text of a cursor.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "now" => Ok(Self::Now),
            cursor => cursor.parse().map(Self::After),
        }
    }
}
