//! Limits of what a command may use, as data that is sent to the helper.
//!
//! A limit changes neither what a command is nor its result, so no key of the cache depends on it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a process uses and the kernel limits, by the names of `docker --ulimit` (see `setrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UlimitKind {
    /// The size of a core file, in bytes.
    Core,
    /// Processor time, in seconds.
    Cpu,
    /// The data segment, in bytes.
    Data,
    /// The size of a file that is written, in bytes.
    Fsize,
    /// File locks. The kernel does not enforce it.
    Locks,
    /// Locked memory, in bytes.
    Memlock,
    /// POSIX message queues, in bytes.
    Msgqueue,
    /// The ceiling of the nice value, as 20 minus the value.
    Nice,
    /// Open files: one more than the highest descriptor.
    Nofile,
    /// Processes of the user. Root is not bound by it.
    Nproc,
    /// Resident memory, in bytes. The kernel does not enforce it.
    Rss,
    /// The ceiling of the real-time priority.
    Rtprio,
    /// Processor time without a pause under real-time scheduling, in microseconds.
    Rttime,
    /// Signals that wait.
    Sigpending,
    /// The stack, in bytes.
    Stack,
}

impl UlimitKind {
    /// Every kind, by name.
    pub const ALL: [Self; 15] = [
        Self::Core,
        Self::Cpu,
        Self::Data,
        Self::Fsize,
        Self::Locks,
        Self::Memlock,
        Self::Msgqueue,
        Self::Nice,
        Self::Nofile,
        Self::Nproc,
        Self::Rss,
        Self::Rtprio,
        Self::Rttime,
        Self::Sigpending,
        Self::Stack,
    ];

    /// Its name, as in `nofile`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::Fsize => "fsize",
            Self::Locks => "locks",
            Self::Memlock => "memlock",
            Self::Msgqueue => "msgqueue",
            Self::Nice => "nice",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Rss => "rss",
            Self::Rtprio => "rtprio",
            Self::Rttime => "rttime",
            Self::Sigpending => "sigpending",
            Self::Stack => "stack",
        }
    }
}

/// A limit of each process of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What is limited.
    pub kind: UlimitKind,
    /// The limit that is enforced; `None` for no limit. At most `hard`.
    pub soft: Option<u64>,
    /// The most that the command may raise it to; `None` for no limit.
    pub hard: Option<u64>,
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
        write!(f, "{}={}:{}", self.kind.name(), text(self.soft), text(self.hard))
    }
}

/// What a command may use.
///
/// ```
/// use hyper_sdk::exec::{ExecSpec, StepLimits, Ulimit, UlimitKind};
///
/// let mut spec = ExecSpec::new(["make"]);
/// spec.limits.ulimits.push(Ulimit { kind: UlimitKind::Nofile, soft: Some(1024), hard: Some(4096) });
/// assert!(!spec.limits.is_empty() && StepLimits::default().is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLimits {
    /// Limits of each process; of several with one kind the last one is used. Others are those of the executor.
    pub ulimits: Vec<Ulimit>,
    /// The size of `/dev/shm` in bytes; `None` for 64 MiB.
    pub shm_size: Option<u64>,
}

impl StepLimits {
    /// Whether nothing but the defaults is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
