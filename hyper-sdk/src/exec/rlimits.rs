//! The limits of each process of a command (`setrlimit`).

use super::limits::{Ulimit, UlimitKind, is_more, last_of_each};
use crate::sandbox::Identity;
use crate::{Error, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets limits of this process; of several with one kind the last one.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] with the limit that there is, for a hard limit that this process may not set.
pub(super) fn apply(ulimits: &[Ulimit]) -> Result<()> {
    for limit in last_of_each(ulimits) {
        set(limit, Rlimit { current: limit.soft, maximum: limit.hard })?;
    }
    Ok(())
}

/// Whether [`apply`] succeeds, without lowering a limit of this process.
///
/// # Errors
/// Those of [`apply`].
pub(super) fn check(ulimits: &[Ulimit], identity: Identity) -> Result<()> {
    for limit in last_of_each(ulimits) {
        if limit.kind == UlimitKind::Locks && identity == Identity::Single {
            // The owners that a step asked for are kept there.
            return Err(Error::unsupported(format!(
                "the limit `{limit}` cannot be set where steps have a single id; the kernel does not enforce it anyway"
            )));
        }
        let now = getrlimit(resource(limit.kind));
        if is_more(limit.hard, now.maximum) {
            set(limit, Rlimit { current: now.current, maximum: limit.hard })?;
        }
    }
    Ok(())
}

fn set(limit: &Ulimit, to: Rlimit) -> Result<()> {
    let resource = resource(limit.kind);
    setrlimit(resource, to).map_err(|e| {
        let now = getrlimit(resource).maximum;
        let most = now.map_or_else(|| "no limit".to_owned(), |most| most.to_string());
        let name = limit.kind.name();
        let open = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
        let open = open.and_then(|text| text.trim().parse::<u64>().ok());
        let error = match open.filter(|open| limit.kind == UlimitKind::Nofile && is_more(limit.hard, Some(*open))) {
            Some(open) => Error::unsupported(format!(
                "the limit `{limit}` of steps cannot be set: the kernel allows at most {open} open files (fs.nr_open)"
            )),
            None => Error::unsupported(format!(
                "the limit `{limit}` of steps cannot be set: the hard limit of `{name}` is {most} here, and raising it \
                 takes root of this machine (CAP_SYS_RESOURCE)"
            )),
        };
        error.with_source(std::io::Error::from(e))
    })
}

fn resource(kind: UlimitKind) -> Resource {
    match kind {
        UlimitKind::Core => Resource::Core,
        UlimitKind::Cpu => Resource::Cpu,
        UlimitKind::Data => Resource::Data,
        UlimitKind::Fsize => Resource::Fsize,
        UlimitKind::Locks => Resource::Locks,
        UlimitKind::Memlock => Resource::Memlock,
        UlimitKind::Msgqueue => Resource::Msgqueue,
        UlimitKind::Nice => Resource::Nice,
        UlimitKind::Nofile => Resource::Nofile,
        UlimitKind::Nproc => Resource::Nproc,
        UlimitKind::Rss => Resource::Rss,
        UlimitKind::Rtprio => Resource::Rtprio,
        UlimitKind::Rttime => Resource::Rttime,
        UlimitKind::Sigpending => Resource::Sigpending,
        UlimitKind::Stack => Resource::Stack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_a_limit_of_this_system() {
        for kind in UlimitKind::ALL {
            // The same limit again is always permitted.
            let now = getrlimit(resource(kind));
            check(&[Ulimit { kind, soft: now.current, hard: now.maximum }], Identity::Full).unwrap();
        }
    }

    #[test]
    fn the_last_limit_of_a_kind_counts() {
        let now = getrlimit(Resource::Nofile);
        // Nobody may have this one.
        let endless = Ulimit { kind: UlimitKind::Nofile, soft: None, hard: None };
        let same = Ulimit { kind: UlimitKind::Nofile, soft: now.current, hard: now.maximum };
        if now.maximum.is_some() {
            check(&[same, endless], Identity::Full).unwrap_err();
        }
        check(&[endless, same], Identity::Full).unwrap();
        apply(&[endless, same]).unwrap();
        assert_eq!(getrlimit(Resource::Nofile), now);
    }
}
