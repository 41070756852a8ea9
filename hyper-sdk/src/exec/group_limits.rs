//! Limits of what a command and everything that it starts use together, which control groups enforce.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// The least memory of a command: the sandbox itself needs some of it.
const LEAST_MEMORY: u64 = 6 << 20;
/// The highest number of a processor or of a memory node that is understood.
const HIGHEST: u32 = 1 << 16;

/// Memory and swap together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapLimit {
    /// As much swap as there is.
    Unlimited,
    /// So many bytes of memory and swap together.
    Total(u64),
}

/// Limits of a command and everything that it starts, together. Each command has a control group of its own for them.
///
/// They need control groups that the executor may make: root's with version 1, and one that was handed to the builder with
/// version 2. There the native executor moves its own process, and what that started, into a group below for as long as
/// its helper lives: the kernel lets a group with processes hand down no controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLimits {
    /// Memory in bytes, at least 6 MiB. When it is used up, processes of the command are killed.
    pub memory: Option<u64>,
    /// Memory and swap together; without, twice the memory, where the kernel counts swap. It needs `memory`.
    pub memory_swap: Option<SwapLimit>,
    /// Processor time in thousandths of one processor, at least 10. Not together with `cpu_quota` and `cpu_period`.
    pub millicpus: Option<u64>,
    /// The weight among others that want the processors: 2 to 262144, and 1024 is that of everything else.
    pub cpu_shares: Option<u64>,
    /// Processor time within a period, in microseconds, at least 1000.
    pub cpu_quota: Option<u64>,
    /// The length of a period, in microseconds, 1000 to 1000000; 100000 without.
    pub cpu_period: Option<u64>,
    /// The processors, as a list such as `0-3,6`.
    pub cpuset_cpus: Option<String>,
    /// The memory nodes, as such a list.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The control group in which those of commands are made, as a path from the root of the hierarchy (of the mount, in a
    /// container); without, that of the executor. With control groups of version 1 it is made when it is missing, and
    /// kept; one of version 2 must be there. Limits of the executor's own group do not hold in another one.
    pub parent: Option<String>,
}

impl GroupLimits {
    /// Whether there is no limit. A parent alone limits nothing, and commands run in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The names of the limits that are given, as their flags have them; without the parent.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let given = [
            ("memory", self.memory.is_some()),
            ("memory-swap", self.memory_swap.is_some()),
            ("cpus", self.millicpus.is_some()),
            ("cpu-shares", self.cpu_shares.is_some()),
            ("cpu-quota", self.cpu_quota.is_some()),
            ("cpu-period", self.cpu_period.is_some()),
            ("cpuset-cpus", self.cpuset_cpus.is_some()),
            ("cpuset-mems", self.cpuset_mems.is_some()),
            ("pids-limit", self.pids.is_some()),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }

    /// Checks the values, one by one and together.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`], with a message that names the limit.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::invalid(message));
        let range = |name: &str, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                let most = if most == u64::MAX { String::new() } else { format!(" and at most {most}") };
                wrong(format!("`{name}` is {value}, and it is at least {least}{most}"))
            }
            _ => Ok(()),
        };
        range("memory", self.memory, LEAST_MEMORY, u64::MAX)?;
        range("cpu-shares", self.cpu_shares, 2, 262_144)?;
        range("cpu-quota", self.cpu_quota, 1000, u64::MAX)?;
        range("cpu-period", self.cpu_period, 1000, 1_000_000)?;
        range("pids-limit", self.pids, 1, u64::MAX - 16)?;
        if self.millicpus.is_some_and(|cpus| cpus < 10) {
            return wrong("`cpus` is at least 0.01".to_owned());
        }
        if self.millicpus.is_some() && (self.cpu_quota.is_some() || self.cpu_period.is_some()) {
            return wrong(
                "`cpus` is a quota of processor time: leave out `cpu-quota` and `cpu-period`".to_owned(),
            );
        }
        match (self.memory_swap, self.memory) {
            (Some(_), None) => {
                return wrong("`memory-swap` is memory and swap together: give `memory`, too".to_owned());
            }
            (Some(SwapLimit::Total(total)), Some(memory)) if total < memory => {
                return wrong(format!(
                    "`memory-swap` is memory and swap together, so it is at least `memory`: {total} is less than {memory}"
                ));
            }
            _ => {}
        }
        for (name, list) in [("cpuset-cpus", &self.cpuset_cpus), ("cpuset-mems", &self.cpuset_mems)] {
            if let Some(list) = list.as_deref().filter(|list| numbers(list).is_none()) {
                return wrong(format!("`{name}`: `{list}` is no list of numbers such as `0-3,6`"));
            }
        }
        self.parent.as_deref().map_or(Ok(()), check_parent)
    }

    /// The quota and the period of processor time, in microseconds.
    pub(super) fn quota(&self) -> Option<(Option<u64>, u64)> {
        const PERIOD: u64 = 100_000;
        match self.millicpus {
            Some(cpus) => Some((Some(cpus.saturating_mul(PERIOD / 1000)), PERIOD)),
            None if self.cpu_quota.is_none() && self.cpu_period.is_none() => None,
            None => Some((self.cpu_quota, self.cpu_period.unwrap_or(PERIOD))),
        }
    }
}

/// Checks a path of a control group.
fn check_parent(parent: &str) -> Result<()> {
    let wrong =
        |why: &str| Err(Error::invalid(format!("`cgroup-parent`: `{}` {why}", parent.escape_debug())));
    let mut parts = parent.strip_prefix('/').unwrap_or(parent).split('/');
    if parent.contains(':') {
        return wrong(
            "is the form of systemd (slice:prefix:name), which is not supported: give a path such as `/builds`",
        );
    }
    if Path::new(parent).starts_with("/sys/fs/cgroup") {
        return wrong(
            "is a path of a file: give the path of the control group, from the root of its hierarchy",
        );
    }
    match parts.any(|part| matches!(part, "" | "." | "..") || part.contains(char::is_control)) {
        true => wrong("is no path of a control group, such as `/builds`"),
        false => Ok(()),
    }
}

/// The numbers of a list such as `0-3,6`; `None` for what is not one.
pub(super) fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let (mut all, mut listed) = (BTreeSet::new(), 0);
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        // Parts may overlap, but not so often that it takes long.
        listed += last - first + 1;
        if listed > 2 * HIGHEST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_parsed() {
        let of = |list: &str| numbers(list).map(|all| all.into_iter().collect::<Vec<_>>());
        assert_eq!(of("0-2,6").unwrap(), [0, 1, 2, 6]);
        assert_eq!(of("1\n").unwrap(), [1]);
        for bad in ["", "a", "2-1", "1,", "-1", "0-4294967295", "0-1-2"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits_that_contradict_each_other_are_invalid() {
        let of = |change: fn(&mut GroupLimits)| {
            let mut limits = GroupLimits { memory: Some(64 << 20), ..GroupLimits::default() };
            change(&mut limits);
            limits.validate().map_err(|e| e.to_string())
        };
        of(|_| {}).unwrap();
        of(|limits| limits.memory_swap = Some(SwapLimit::Total(64 << 20))).unwrap();
        of(|limits| limits.parent = Some("/a/b.slice".into())).unwrap();
        type Change = fn(&mut GroupLimits);
        let bad: [(Change, &str); 15] = [
            (|limits| limits.memory = Some(1 << 20), "`memory` is 1048576, and it is at least 6291456"),
            (|limits| limits.memory_swap = Some(SwapLimit::Total(1)), "1 is less than 67108864"),
            (
                |limits| (limits.memory, limits.memory_swap) = (None, Some(SwapLimit::Unlimited)),
                "give `memory`, too",
            ),
            (|limits| limits.millicpus = Some(9), "`cpus` is at least 0.01"),
            (
                |limits| (limits.millicpus, limits.cpu_quota) = (Some(500), Some(5000)),
                "leave out `cpu-quota`",
            ),
            (
                |limits| limits.cpu_shares = Some(1),
                "`cpu-shares` is 1, and it is at least 2 and at most 262144",
            ),
            (|limits| limits.cpu_period = Some(2_000_000), "`cpu-period` is 2000000"),
            (|limits| limits.pids = Some(0), "`pids-limit` is 0"),
            (|limits| limits.cpuset_cpus = Some("x".into()), "`cpuset-cpus`: `x` is no list"),
            (|limits| limits.parent = Some("/a/../b".into()), "`cgroup-parent`: `/a/../b` is no path"),
            (|limits| limits.parent = Some("/".into()), "`cgroup-parent`: `/` is no path"),
            (|limits| limits.parent = Some(String::new()), "`cgroup-parent`: `` is no path"),
            (|limits| limits.parent = Some("//a".into()), "`cgroup-parent`: `//a` is no path"),
            (|limits| limits.parent = Some("a.slice:b:c".into()), "`a.slice:b:c` is the form of systemd"),
            (|limits| limits.parent = Some("/sys/fs/cgroup/memory/a".into()), "is a path of a file"),
        ];
        for (change, why) in bad {
            let error = of(change).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_number_of_processors_is_a_quota() {
        let of = |limits: GroupLimits| limits.quota();
        assert_eq!(
            of(GroupLimits { millicpus: Some(1500), ..GroupLimits::default() }),
            Some((Some(150_000), 100_000))
        );
        assert_eq!(
            of(GroupLimits { cpu_quota: Some(5000), ..GroupLimits::default() }),
            Some((Some(5000), 100_000))
        );
        assert_eq!(of(GroupLimits { cpu_period: Some(5000), ..GroupLimits::default() }), Some((None, 5000)));
        assert_eq!(of(GroupLimits::default()), None);
    }
}
