//! Limits of what a command may use, as data that is sent to the helper.
//!
//! A limit changes neither what a command is nor its result, so no key of the cache depends on it.

use super::group_limits::GroupLimits;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The size of `/dev/shm` when none is asked for.
const SHM_SIZE: u64 = 64 << 20;

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
    /// Processes of the user: those of other commands count, and without a user namespace those of the whole machine. Root
    /// is not bound by it.
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
    /// The size of `/dev/shm` in bytes; `None` and 0 for 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits of the command and everything that it starts, together.
    pub group: GroupLimits,
}

impl StepLimits {
    /// Whether nothing but the defaults is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the values, one by one and together. Whether a machine can set them is another question.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`], with a message that names the limit.
    pub fn validate(&self) -> Result<()> {
        match last_of_each(&self.ulimits).find(|limit| is_more(limit.soft, limit.hard)) {
            Some(limit) => {
                Err(Error::invalid(format!("the limit `{limit}`: the soft limit is above the hard limit")))
            }
            None => self.group.validate(),
        }
    }

    /// The size of `/dev/shm` that is asked for, in bytes.
    pub(super) fn asked_shm_size(&self) -> Option<u64> {
        self.shm_size.filter(|size| *size > 0)
    }

    /// The size of `/dev/shm` in bytes.
    pub(super) fn shm_bytes(&self) -> u64 {
        self.asked_shm_size().unwrap_or(SHM_SIZE)
    }

    /// The first limit, as it is written.
    pub(super) fn first(&self) -> Option<String> {
        let ulimit = last_of_each(&self.ulimits).next().map(Ulimit::to_string);
        let shm_size = || self.asked_shm_size().map(|size| format!("shm-size={size}"));
        let of_group = || self.group.names().first().map(|name| (*name).to_owned());
        let parent = || self.group.parent.as_ref().map(|_| "cgroup-parent".to_owned());
        ulimit.or_else(shm_size).or_else(of_group).or_else(parent)
    }
}

/// The limits that are used: the last one of each kind.
pub(super) fn last_of_each(ulimits: &[Ulimit]) -> impl Iterator<Item = &Ulimit> {
    let is_last = |at: usize, kind| ulimits[at + 1..].iter().all(|later| later.kind != kind);
    ulimits.iter().enumerate().filter(move |(at, limit)| is_last(*at, limit.kind)).map(|(_, limit)| limit)
}

/// Whether a limit allows more than another one.
pub(super) fn is_more(limit: Option<u64>, other: Option<u64>) -> bool {
    match (limit, other) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(limit), Some(other)) => limit > other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn nofile(soft: Option<u64>, hard: Option<u64>) -> Ulimit {
        Ulimit { kind: UlimitKind::Nofile, soft, hard }
    }

    #[test]
    fn no_limit_is_more_than_any() {
        assert!(is_more(None, Some(1)) && is_more(Some(2), Some(1)));
        assert!(!is_more(None, None) && !is_more(Some(1), None) && !is_more(Some(1), Some(1)));
    }

    #[test]
    fn a_soft_limit_above_the_hard_one_is_invalid() {
        let of =
            |ulimits: &[Ulimit]| StepLimits { ulimits: ulimits.to_vec(), ..StepLimits::default() }.validate();
        for wrong in [nofile(Some(10), Some(5)), nofile(None, Some(5))] {
            let error = of(&[nofile(Some(1), Some(1)), wrong]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(&format!("`{wrong}`")), "{error}");
            // The last one of a kind is used.
            of(&[wrong, nofile(Some(5), Some(5))]).unwrap();
        }
        of(&[nofile(Some(5), None), nofile(None, None)]).unwrap();
    }

    #[test]
    fn no_size_of_shared_memory_is_that_of_the_default() {
        let of = |shm_size| StepLimits { shm_size, ..StepLimits::default() };
        assert_eq!([None, Some(0), Some(5)].map(|size| of(size).shm_bytes()), [64 << 20, 64 << 20, 5]);
        assert_eq!([Some(0), Some(5)].map(|size| of(size).first()), [None, Some("shm-size=5".to_owned())]);
    }

    #[test]
    fn the_first_limit_is_named() {
        let mut limits = StepLimits::default();
        assert_eq!(limits.first(), None);
        limits.group.parent = Some("/a".to_owned());
        assert_eq!(limits.first().as_deref(), Some("cgroup-parent"));
        limits.group.pids = Some(9);
        assert_eq!(limits.first().as_deref(), Some("pids-limit"));
        limits.shm_size = Some(5);
        assert_eq!(limits.first().as_deref(), Some("shm-size=5"));
        limits.ulimits = vec![nofile(Some(1), Some(2))];
        assert_eq!(limits.first().as_deref(), Some("nofile=1:2"));
    }
}
