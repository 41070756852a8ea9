//! The namespaces that the helper lives in: a mount namespace, and for an ordinary user a user namespace.
//!
//! The ids of an ordinary user are mapped as follows: 0 is the user; 1 and above are the user's subordinate ids of
//! `/etc/subuid` and `/etc/subgid`, in their order. The set-uid programs `newuidmap` and `newgidmap` write the maps. If
//! any of these is missing, only 0 is mapped, to the user.
//!
//! Root of a container without the privileges for mounts makes a user namespace too, in which every id of the container
//! is mapped to itself. Where no namespace can be made there is none: files can be read and written, and steps need
//! [`Isolation::None`].

use super::{Identity, Isolation, SandboxOptions, sys, view};
use crate::{Error, Result};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The result of [`enter`].
pub(crate) struct Entered {
    pub(crate) identity: Identity,
    pub(crate) user_namespace: bool,
    pub(crate) isolation: Isolation,
    /// Why there are not more ids.
    pub(crate) identity_reasons: Vec<String>,
    /// Why the isolation is not better.
    pub(crate) isolation_reasons: Vec<String>,
}

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SETFCAP: u32 = 31;
/// The capabilities that are needed to give files any owner.
const ANY_OWNER: &[u32] = &[0, 1, 3, CAP_SETGID, CAP_SETUID];
/// The capabilities that are needed to give files any owner and to run steps.
const NEEDED: &[u32] = &[0, 1, 3, CAP_SETGID, CAP_SETUID, 8, 12, 18, CAP_SYS_ADMIN];
/// How many subordinate ids are needed: images use ids up to 65535 (`nobody` is 65534).
const ENOUGH_IDS: u64 = 65535;
/// The folders where distributions put the set-uid programs; the caller's `PATH` is not used.
const PROGRAM_FOLDERS: &[&str] = &["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin", "/run/wrappers/bin"];

/// Enters the namespaces.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] when this process may not have them. It may be in some of them already, and must
/// end: another process can go on with [`without`].
pub(crate) fn enter(options: &SandboxOptions) -> Result<Entered> {
    let have = sys::effective_capabilities();
    let has_all = |wanted: &[u32]| wanted.iter().all(|capability| have >> capability & 1 == 1);
    if has_all(NEEDED) && options.identity != Some(Identity::Single) {
        sys::unshare(libc::CLONE_NEWNS).map_err(refused("mount namespace"))?;
        receive_mounts_only()?;
        let isolation = options.isolation;
        return Ok(Entered {
            identity: Identity::Full,
            user_namespace: false,
            isolation,
            identity_reasons: Vec::new(),
            isolation_reasons: forced(isolation),
        });
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut reasons = Vec::new();
    let maps = if options.identity == Some(Identity::Single) {
        Err("a single id was asked for".to_owned())
    } else if uid == 0 && has_all(&[CAP_SETGID, CAP_SETUID, CAP_SETFCAP]) && MappedIds::own().has_enough() {
        Ok(["uid_map", "gid_map"].map(IdMap::Own))
    } else {
        subordinate_maps(uid, gid)
    };
    let maps = match maps {
        Ok(maps) => Some(maps),
        Err(why) => {
            reasons.push(why);
            None
        }
    };
    let own_pid = sys::own_pid();
    let (wait, go) = std::io::pipe()?;
    let mapper = match &maps {
        // The maps must be written by a process outside: it starts now and waits until the namespace exists.
        Some(maps) => match sys::fork()? {
            sys::Fork::Child => {
                drop(go);
                let mut byte = [0];
                let ready = std::io::Read::read(&mut &wait, &mut byte).is_ok_and(|n| n == 1);
                sys::exit_now(i32::from(!(ready && maps.iter().all(|map| map.write(own_pid)))));
            }
            sys::Fork::Parent(pid) => Some(pid),
        },
        None => None,
    };
    drop(wait);
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(refused(
        "this user may not make user namespaces: run as root, or allow them (sysctl `kernel.unprivileged_userns_clone`, \
         `user.max_user_namespaces`, or the AppArmor setting `kernel.apparmor_restrict_unprivileged_userns`; in a \
         container, a seccomp profile that permits them)",
    ))?;
    let mut identity = Identity::Single;
    if let Some(mapper) = mapper {
        std::io::Write::write_all(&mut &go, b"g")?;
        match sys::wait(mapper, true) {
            Ok(Some((_, 0))) => identity = Identity::Full,
            _ if matches!(maps, Some([IdMap::Own(_), _])) => {
                reasons.push("the kernel refused to map the ids of this container".to_owned());
            }
            _ => reasons
                .push("`newuidmap` or `newgidmap` refused the ids of /etc/subuid and /etc/subgid".to_owned()),
        }
    }
    if identity == Identity::Single {
        let write = |name: &str, text: String| {
            std::fs::write(format!("/proc/self/{name}"), text)
                .map_err(refused("this user may not set up a user namespace"))
        };
        write("uid_map", format!("0 {uid} 1"))?;
        write("setgroups", "deny".to_owned())?;
        write("gid_map", format!("0 {gid} 1"))?;
    }
    sys::set_ids(0, 0)?;
    if identity == Identity::Full {
        sys::set_groups(&[])?;
    }
    receive_mounts_only()?;
    let (isolation, isolation_reasons) = match options.isolation {
        Isolation::Full => match can_mount_proc() {
            Ok(()) => (Isolation::Full, Vec::new()),
            Err(why) => (Isolation::SharedProcesses, vec![why]),
        },
        asked => (asked, forced(asked)),
    };
    Ok(Entered { identity, user_namespace: true, isolation, identity_reasons: reasons, isolation_reasons })
}

/// What there is without namespaces, and why there are none.
pub(crate) fn without(options: &SandboxOptions, why: String) -> Entered {
    let have = sys::effective_capabilities();
    let missing: Vec<String> =
        ANY_OWNER.iter().filter(|bit| have >> **bit & 1 == 0).map(|bit| sys::capability_name(*bit)).collect();
    let reason = if options.identity == Some(Identity::Single) {
        Some("a single id was asked for".to_owned())
    } else if !missing.is_empty() {
        Some(format!("this process lacks {}", missing.join(", ")))
    } else if !MappedIds::own().has_enough() {
        Some("this container has fewer than 65536 ids".to_owned())
    } else {
        None
    };
    Entered {
        identity: if reason.is_some() { Identity::Single } else { Identity::Full },
        user_namespace: false,
        isolation: Isolation::None,
        identity_reasons: reason.into_iter().collect(),
        isolation_reasons: vec![why],
    }
}

/// The reason for an isolation that a caller chose.
fn forced(isolation: Isolation) -> Vec<String> {
    if isolation == Isolation::Full { Vec::new() } else { vec!["it was asked for".to_owned()] }
}

fn refused(message: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::unsupported(message).with_source(e)
}

/// Whether a step can have a `/proc` of its own: the kernel refuses a new one where the present one is covered in parts.
fn can_mount_proc() -> std::result::Result<(), String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let covered: Vec<&str> = covers_of_proc(&mounts);
    if covered.is_empty() {
        return Ok(());
    }
    let tried = sys::fork().and_then(|fork| match fork {
        sys::Fork::Child => {
            // The first process of the new namespace may mount its `/proc`.
            let outcome = sys::unshare(libc::CLONE_NEWPID).and_then(|()| sys::fork());
            match outcome {
                Ok(sys::Fork::Child) => {
                    let mounted = view::new_mount("proc", &[], MountAttrFlags::empty());
                    sys::exit_now(i32::from(mounted.is_err()))
                }
                Ok(sys::Fork::Parent(pid)) => {
                    sys::exit_now(sys::wait(pid, true).ok().flatten().map_or(1, |(_, code)| code))
                }
                Err(_) => sys::exit_now(1),
            }
        }
        sys::Fork::Parent(pid) => sys::wait(pid, true),
    });
    match tried {
        Ok(Some((_, 0))) => Ok(()),
        _ => Err(format!(
            "the kernel refuses a new /proc, because the present one is covered at {}",
            covered[0]
        )),
    }
}

/// What is mounted below `/proc`.
fn covers_of_proc(mounts: &str) -> Vec<&str> {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| place.starts_with("/proc/"))
        .collect()
}

/// The ids that a user namespace maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MappedIds {
    /// The first of each range and how many it has.
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

impl MappedIds {
    /// The ids that are mapped for this process.
    pub(crate) fn own() -> Self {
        let read =
            |name: &str| ranges(&std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default());
        Self { users: read("uid_map"), groups: read("gid_map") }
    }

    /// Whether there are as many as images use.
    fn has_enough(&self) -> bool {
        let count = |ranges: &[(u32, u32)]| ranges.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        count(&self.users).min(count(&self.groups)) > ENOUGH_IDS
    }

    pub(crate) fn has(&self, uid: u32, gid: u32) -> bool {
        let has = |ranges: &[(u32, u32)], id: u32| {
            ranges.iter().any(|(first, count)| id.checked_sub(*first).is_some_and(|at| at < *count))
        };
        has(&self.users, uid) && has(&self.groups, gid)
    }
}

/// The ranges of ids of a map as the kernel shows it.
fn ranges(map: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        let (first, _, count) = (numbers.next()??, numbers.next()?, numbers.next()??);
        Some((first, count))
    };
    map.lines().filter_map(range).collect()
}

/// Whether the user namespace of this process maps a single id.
pub(crate) fn has_single_id() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) == Some("1") && map.lines().count() == 1
}

/// Makes the mount namespace a slave: mounts of the host still propagate here, and mounts here stay here.
fn receive_mounts_only() -> Result<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|e| refused("this process may not change mounts")(e.into()))
}

/// A map of ids, as a process outside of the new namespace writes it.
enum IdMap {
    /// Through a set-uid program.
    Program { program: PathBuf, own: u32, ranges: Vec<(u32, u32)> },
    /// Every id of this process to itself, written to this file below `/proc/PID`.
    Own(&'static str),
}

impl IdMap {
    fn write(&self, pid: i32) -> bool {
        match self {
            Self::Own(name) => {
                let map = std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
                let text: Vec<String> =
                    ranges(&map).iter().map(|(first, count)| format!("{first} {first} {count}")).collect();
                std::fs::write(format!("/proc/{pid}/{name}"), text.join("\n")).is_ok()
            }
            Self::Program { program, own, ranges } => {
                let mut command = Command::new(program);
                command.arg(pid.to_string()).args(["0", &own.to_string(), "1"]);
                let mut inside = 1_u32;
                for &(start, count) in ranges {
                    command.args([inside.to_string(), start.to_string(), count.to_string()]);
                    inside += count;
                }
                command.env_clear().status().is_ok_and(|status| status.success())
            }
        }
    }
}

/// The maps of a user, or the reason why there are none.
fn subordinate_maps(uid: u32, gid: u32) -> std::result::Result<[IdMap; 2], String> {
    let name = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| login_name(&text, uid));
    let map = |program: &str, file: &str, own: u32| {
        let path = PROGRAM_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(program))
            .find(|path| path.exists())
            .ok_or_else(|| format!("`{program}` is not installed"))?;
        let text = std::fs::read_to_string(file).map_err(|_| format!("{file} cannot be read"))?;
        let ranges = subordinate_ranges(&text, name.as_deref(), uid);
        let count = ranges.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        if count < ENOUGH_IDS {
            return Err(format!("{file} gives this user {count} ids, and 65536 are needed"));
        }
        Ok(IdMap::Program { program: path, own, ranges })
    };
    Ok([map("newuidmap", "/etc/subuid", uid)?, map("newgidmap", "/etc/subgid", gid)?])
}

fn login_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges of a user, by name or number, as many as one map can hold.
fn subordinate_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let mut total = 0_u32;
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            if Some(who) != name && who != uid {
                return None;
            }
            let (start, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
            start.checked_add(count)?;
            total = total.checked_add(count)?;
            (count > 0).then_some((start, count))
        })
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_proc_is_found() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /proc rw - proc proc rw\n\
                      3 2 0:6 /null /proc/kcore rw - tmpfs t rw\n4 1 0:7 / /process rw - tmpfs t rw\n";
        assert_eq!(covers_of_proc(mounts), ["/proc/kcore"]);
        assert_eq!(covers_of_proc(""), [""; 0]);
    }

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let text = "other:1:2\nme:100000:65536\n\n1000:300000:10\nme:x:y\nme:4294967295:7\n";
        assert_eq!(subordinate_ranges(text, Some("me"), 1000), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(subordinate_ranges(text, None, 7), []);
    }

    #[test]
    fn the_login_name_is_the_first_of_its_number() {
        assert_eq!(login_name("root:x:0:0::/:\na:x:7:1::/:\nb:x:7:1::/:", 7).as_deref(), Some("a"));
        assert_eq!(login_name("broken", 7), None);
    }
}
