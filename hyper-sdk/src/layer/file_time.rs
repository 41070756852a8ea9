//! A time of a file.

use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// A time of a file, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileTime {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// The rest, below a second.
    pub nanoseconds: u32,
}

impl FileTime {
    /// A time of whole seconds since 1970.
    pub const fn of(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }

    /// The time now.
    pub fn now() -> Self {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(Self::of(0), |since| Self {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        })
    }
}
