//! The limits of steps as text: the values of `--ulimit`, `--shm-size`, and of `--resource` and the flags that it stands for.
//!
//! ```text
//!   --ulimit     KIND=SOFT[:HARD]   a number, or -1 or `unlimited`; HARD is SOFT without it
//!   --shm-size   SIZE               bytes, or with a unit: 64m, 1g; 0 for the default
//!   --resource   NAME=VALUE         a name of [`RESOURCES`]; 0 for no limit
//! ```

use super::text::wrong;
use crate::dockerfile::parse_size;
use crate::exec::{GroupLimits, SwapLimit, Ulimit, UlimitKind};
use crate::{Error, Result};
use std::str::FromStr;

impl FromStr for Ulimit {
    type Err = Error;

    /// Parses `KIND=SOFT[:HARD]`, as `docker build --ulimit` does.
    fn from_str(text: &str) -> Result<Self> {
        let expected = || wrong(text, "expected NAME=SOFT or NAME=SOFT:HARD");
        let (name, values) = text.split_once('=').ok_or_else(expected)?;
        let kind = UlimitKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = UlimitKind::ALL.map(UlimitKind::name).join(", ");
            wrong(text, format_args!("the name of a limit is one of {names}"))
        })?;
        let number = |value: &str| match value {
            "-1" | "unlimited" => Ok(None),
            value => match value.parse::<u64>() {
                // The kernel takes the largest number for no limit.
                Ok(number) if number < u64::MAX => Ok(Some(number)),
                _ => Err(wrong(text, format_args!("`{value}` is neither a number nor `unlimited`"))),
            },
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let limit = Self { kind, soft: number(soft)?, hard: number(hard)? };
        match (limit.soft, limit.hard) {
            (None, Some(_)) => Err(wrong(text, "the soft limit is above the hard limit")),
            (Some(soft), Some(hard)) if soft > hard => {
                Err(wrong(text, "the soft limit is above the hard limit"))
            }
            _ => Ok(limit),
        }
    }
}

/// Limits of each process of a step. The last one of a kind counts.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for an unknown name, for what is not a number, and for a soft limit above the hard one.
pub fn ulimits<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<Ulimit>> {
    let mut all: Vec<Ulimit> = Vec::new();
    for text in texts {
        let limit: Ulimit = text.as_ref().parse()?;
        all.retain(|other| other.kind != limit.kind);
        all.push(limit);
    }
    Ok(all)
}

/// The size of `/dev/shm`, in bytes: a number with an optional unit; `None` for 0, which stands for the default.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for what is not a size.
pub fn shm_size(text: &str) -> Result<Option<u64>> {
    let size = parse_size(text).map_err(Error::invalid)?;
    Ok(Some(size).filter(|size| *size > 0))
}

/// The names of limits that a step has together with everything that it starts.
pub const RESOURCES: [&str; 9] = [
    "memory",
    "memory-swap",
    "cpus",
    "cpu-shares",
    "cpu-quota",
    "cpu-period",
    "cpuset-cpus",
    "cpuset-mems",
    "pids-limit",
];

/// Limits that a step has together with everything that it starts, by their names and values. The last value of a name
/// counts. Where Docker takes 0, or -1, for no limit, it is none here.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for an unknown name, for a malformed value, and for values that contradict each other.
pub fn resources<N: AsRef<str>, V: AsRef<str>>(
    limits: impl IntoIterator<Item = (N, V)>,
) -> Result<GroupLimits> {
    let mut all = GroupLimits::default();
    for (name, value) in limits {
        let (name, value) = (name.as_ref().trim(), value.as_ref().trim());
        set(&mut all, name, value).map_err(|e| wrong(&format!("{name}={value}"), e.message()))?;
    }
    all.validate()?;
    Ok(all)
}

fn set(all: &mut GroupLimits, name: &str, value: &str) -> Result<()> {
    let size = || parse_size(value).map(|size| Some(size).filter(|size| *size > 0)).map_err(Error::invalid);
    let number = || match value {
        "-1" => Ok(None),
        value => match value.parse::<u64>() {
            Ok(number) => Ok(Some(number).filter(|number| *number > 0)),
            Err(_) => Err(Error::invalid("expected a number")),
        },
    };
    let list = || Some(value.to_owned()).filter(|value| !value.is_empty());
    match name {
        "memory" => all.memory = size()?,
        "memory-swap" if value == "-1" => all.memory_swap = Some(SwapLimit::Unlimited),
        "memory-swap" => all.memory_swap = size()?.map(SwapLimit::Total),
        "cpus" => all.millicpus = Some(thousandths(value)?).filter(|cpus| *cpus > 0),
        "cpu-shares" => all.cpu_shares = number()?,
        "cpu-quota" => all.cpu_quota = number()?,
        "cpu-period" => all.cpu_period = number()?,
        "cpuset-cpus" => all.cpuset_cpus = list(),
        "cpuset-mems" => all.cpuset_mems = list(),
        "pids-limit" => all.pids = number()?,
        _ => {
            let names = RESOURCES.join(", ");
            return Err(Error::invalid(format!("the name of a limit of resources is one of {names}")));
        }
    }
    Ok(())
}

/// A number with up to three digits after the point, in thousandths.
fn thousandths(text: &str) -> Result<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = format!("{whole}{part:0<3}");
    match is_number(whole) && is_number(part) && part.len() <= 3 && !(whole.is_empty() && part.is_empty()) {
        true => digits.parse().map_err(|_| Error::invalid("expected a number of processors")),
        false => Err(Error::invalid("expected a number of processors, such as 1.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_processes_are_parsed() {
        let of = |text: &str| text.parse::<Ulimit>().map(|limit| limit.to_string());
        assert_eq!(of("nofile=1024").unwrap(), "nofile=1024:1024");
        assert_eq!(of("stack=1:unlimited").unwrap(), "stack=1:-1");
        assert_eq!(of("core=-1").unwrap(), "core=-1:-1");
        let all = ulimits(["core=1", "nofile=2", "core=3"]).unwrap();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), ["nofile=2:2", "core=3:3"]);
        assert_eq!((shm_size("1.5m").unwrap(), shm_size("0").unwrap()), (Some(3 << 19), None));
    }

    #[test]
    fn limits_of_resources_are_parsed() {
        let all = resources([
            ("memory", "64m"),
            ("memory", "128MiB"),
            ("memory-swap", "-1"),
            ("cpus", "1.5"),
            ("cpu-shares", "0"),
            ("cpuset-cpus", "0-1"),
            ("pids-limit", "-1"),
        ])
        .unwrap();
        let expected = GroupLimits {
            memory: Some(128 << 20),
            memory_swap: Some(SwapLimit::Unlimited),
            millicpus: Some(1500),
            cpuset_cpus: Some("0-1".to_owned()),
            ..GroupLimits::default()
        };
        assert_eq!(all, expected);
        assert!(resources([("memory", "0")]).unwrap().is_empty());
        for (name, value, why) in [
            ("memory", "much", "`memory=much`: `much` is not a size"),
            ("disk", "1", "`disk=1`: the name of a limit of resources is one of memory, memory-swap"),
            ("cpus", "1.2345", "`cpus=1.2345`: expected a number of processors"),
            ("cpus", ".", "expected a number of processors"),
            ("cpu-quota", "x", "`cpu-quota=x`: expected a number"),
            ("memory-swap", "1g", "give `memory`, too"),
            ("memory", "1k", "at least 6291456"),
        ] {
            let error = resources([(name, value)]).unwrap_err().to_string();
            assert!(error.contains(why), "{name}={value}: {error}");
        }
        for (text, number) in [("2", 2000), (".5", 500), ("0.01", 10), ("1.", 1000)] {
            assert_eq!(thousandths(text).unwrap(), number, "{text}");
        }
    }
}
