//! How a command of a sandbox ended.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A limit that a command came to: see [`crate::exec::GroupLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReachedLimit {
    /// Processes were killed, because the command used up its memory: the limit in bytes.
    Memory(u64),
    /// Processes or threads could not start: the limit.
    Pids(u64),
}

impl fmt::Display for ReachedLimit {
    /// Says what happened, with the name of the limit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => {
                let (number, unit) = match bytes {
                    bytes if bytes % (1 << 30) == 0 => (bytes >> 30, "GiB"),
                    bytes if bytes % (1 << 20) == 0 => (bytes >> 20, "MiB"),
                    bytes => (*bytes, "bytes"),
                };
                write!(
                    f,
                    "a process was killed, because the step used up its limit of {number} {unit} (`memory`)"
                )
            }
            Self::Pids(most) => write!(
                f,
                "a process or thread could not start, because the step had as many as its limit of {most} (`pids-limit`)"
            ),
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExitStatus {
    /// The exit code; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// The limit that the command came to, whether it succeeded or not.
    pub reached: Option<ReachedLimit>,
}

impl ExitStatus {
    /// The end with an exit code, within all limits.
    pub fn new(code: i32) -> Self {
        Self { code, reached: None }
    }

    /// The same with the limit that the command came to.
    #[must_use]
    pub fn with_reached(mut self, reached: Option<ReachedLimit>) -> Self {
        self.reached = reached;
        self
    }

    /// Whether the command succeeded.
    pub fn success(self) -> bool {
        self.code == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reached_limit_says_its_size() {
        for (bytes, text) in [(64 << 20, "64 MiB"), (2 << 30, "2 GiB"), ((6 << 20) + 1, "6291457 bytes")] {
            let said = ReachedLimit::Memory(bytes).to_string();
            assert!(said.contains(&format!("limit of {text} (`memory`)")), "{said}");
        }
    }
}
