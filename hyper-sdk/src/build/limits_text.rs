//! The limits of steps as text: the values of `--ulimit` and `--shm-size`.
//!
//! ```text
//!   --ulimit     KIND=SOFT[:HARD]   a number, or -1 or `unlimited`; HARD is SOFT without it
//!   --shm-size   SIZE               bytes, or with a unit: 64m, 1g; 0 for the default
//! ```

use super::text::wrong;
use crate::dockerfile::parse_size;
use crate::exec::{Ulimit, UlimitKind};
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
