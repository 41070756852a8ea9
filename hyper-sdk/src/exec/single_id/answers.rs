//! Answers calls that set and query owners and users.

use super::asked::Asked;
use super::calls::{Call, Layout};
use super::ids::{Ids, KEEP, Kind};
use super::lookup::status as status_of;
use super::owners::{StepOwners, touch};
use super::sys;
use crate::exec::notify::{self, Answer};
use crate::layer::OWNER_ATTRIBUTE;
use crate::sandbox::view;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

const MOST_GROUPS: i32 = 65536;

/// The file that a call names, by the kind of the call.
fn named(asked: &Asked<'_>) -> rustix::io::Result<OwnedFd> {
    let (cwd, caller) = (libc::AT_FDCWD, &asked.caller);
    let at = |flags: i32| {
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        caller.open_any(asked.number(0), &asked.path(1)?, follow, flags & libc::AT_EMPTY_PATH != 0)
    };
    match asked.known.call {
        Call::Chown | Call::Stat | Call::Listxattr => caller.open_any(cwd, &asked.path(0)?, true, false),
        Call::Lchown | Call::Lstat | Call::Llistxattr => caller.open_any(cwd, &asked.path(0)?, false, false),
        Call::Fchown | Call::Fstat | Call::Flistxattr if asked.number(0) < 0 => Err(Errno::BADF),
        Call::Fchown | Call::Fstat | Call::Flistxattr => caller.file(asked.number(0)),
        Call::Fchownat => at(asked.number(4)),
        Call::Fstatat => at(asked.number(3)),
        Call::Statx => at(asked.number(2)),
        _ => Err(Errno::NOSYS),
    }
}

pub(super) fn chown(asked: &Asked<'_>, owners: &mut StepOwners) -> rustix::io::Result<Answer> {
    let first = match asked.known.call {
        Call::Fchownat => 2,
        _ => 1,
    };
    let (uid, gid) = (asked.id(first), asked.id(first + 1));
    if (uid, gid) == (KEEP, KEEP) {
        return Ok(Answer::Continue);
    }
    let file = named(asked)?;
    let before = owners.shown(&file)?;
    let ids = &asked.ids;
    if !ids.is_privileged() {
        let own = ids.for_files().0 == before.0;
        let same_user = uid == KEEP || uid == before.0;
        let own_group = gid == KEEP || gid == before.1 || ids.has_group(gid);
        if !(own && same_user && own_group) {
            return Err(Errno::PERM);
        }
    }
    touch(&file)?;
    let new = |id: u32, before: u32| if id == KEEP { before } else { id };
    owners.set(&file, (new(uid, before.0), new(gid, before.1)))?;
    Ok(Answer::Value(0))
}

pub(super) fn status(asked: &Asked<'_>, owners: &StepOwners) -> rustix::io::Result<Answer> {
    let file = named(asked)?;
    let Some(owner) = owners.get(&file)? else { return Ok(Answer::Continue) };
    let args = &asked.request.args;
    let (at, bytes) = match (asked.known.call, asked.known.layout) {
        (Call::Statx, _) => (args[4], sys::statx_status(&file, asked.number(2), args[3] as u32, owner)?),
        (call, layout) => {
            let at = if call == Call::Fstatat { args[2] } else { args[1] };
            let bytes = match layout {
                Layout::Native => sys::native_status(&file, owner)?,
                layout => status_64(&status_of(&file)?, layout, owner),
            };
            (at, bytes)
        }
    };
    notify::write(asked.caller.pid, at, &bytes)?;
    Ok(Answer::Value(0))
}

/// The names of attributes without the one that records the owner: a program that copies all attributes must not copy
/// that one.
pub(super) fn attributes(asked: &Asked<'_>, owners: &StepOwners) -> rustix::io::Result<Answer> {
    let Ok(file) = named(asked) else { return Ok(Answer::Continue) };
    if !matches!(owners.get(&file), Ok(Some(_))) {
        return Ok(Answer::Continue);
    }
    let mut names = vec![0_u8; 64 << 10];
    let length = rustix::fs::listxattr(view::fd_path(&file), &mut names[..])?;
    let shown = |name: &&[u8]| !name.is_empty() && *name != OWNER_ATTRIBUTE.as_bytes();
    let others = names[..length].split(|byte| *byte == 0).filter(shown);
    let list = others.flat_map(|name| name.iter().copied().chain([0])).collect::<Vec<_>>();
    let room = usize::try_from(asked.request.args[2]).unwrap_or(usize::MAX);
    if room > 0 && room < list.len() {
        return Err(Errno::RANGE);
    }
    if room > 0 {
        notify::write(asked.caller.pid, asked.request.args[1], &list)?;
    }
    Ok(Answer::Value(list.len() as i64))
}

/// `struct stat64` of 32-bit programs. Arm aligns numbers of eight bytes, x86 does not.
#[allow(clippy::unnecessary_cast, reason = "the widths of these numbers differ between machines")]
fn status_64(stat: &rustix::fs::Stat, layout: Layout, (uid, gid): (u32, u32)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(104);
    let align = |bytes: &mut Vec<u8>| {
        if layout == Layout::Arm {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
    };
    let four = |bytes: &mut Vec<u8>, number: u64| bytes.extend((number as u32).to_ne_bytes());
    bytes.extend((stat.st_dev as u64).to_ne_bytes());
    four(&mut bytes, 0);
    for number in [stat.st_ino as u64, stat.st_mode as u64, stat.st_nlink as u64, uid.into(), gid.into()] {
        four(&mut bytes, number);
    }
    bytes.extend((stat.st_rdev as u64).to_ne_bytes());
    four(&mut bytes, 0);
    align(&mut bytes);
    bytes.extend((stat.st_size as u64).to_ne_bytes());
    four(&mut bytes, stat.st_blksize as u64);
    align(&mut bytes);
    bytes.extend((stat.st_blocks as u64).to_ne_bytes());
    for (seconds, nanoseconds) in [
        (stat.st_atime as u64, stat.st_atime_nsec as u64),
        (stat.st_mtime as u64, stat.st_mtime_nsec as u64),
        (stat.st_ctime as u64, stat.st_ctime_nsec as u64),
    ] {
        four(&mut bytes, seconds);
        four(&mut bytes, nanoseconds);
    }
    bytes.extend((stat.st_ino as u64).to_ne_bytes());
    bytes
}

/// The identity of a process after an exec of the named program; `None` when it does not change.
pub(super) fn start(asked: &Asked<'_>, owners: &StepOwners) -> Option<Ids> {
    let file = match asked.known.call {
        Call::Execve => asked.caller.open_any(libc::AT_FDCWD, &asked.path(0).ok()?, true, false),
        _ => {
            let flags = asked.number(4);
            let (follow, empty) = (flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0);
            asked.caller.open_any(asked.number(0), &asked.path(1).ok()?, follow, empty)
        }
    };
    let file = file.ok()?;
    let stat = status_of(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0 {
        return None;
    }
    let mut ids = asked.ids.clone();
    let (user, group) = (stat.st_mode & 0o4000 != 0, stat.st_mode & 0o2010 == 0o2010);
    if (user || group) && !asked.caller.gains_nothing() {
        let (uid, gid) = owners.shown(&file).ok()?;
        ids.start(user.then_some(uid), group.then_some(gid));
    } else {
        ids.start(None, None);
    }
    Some(ids)
}

/// Answers calls that query or change the identity of a process, and returns the new identity if it changes.
pub(super) fn identity(asked: &Asked<'_>) -> rustix::io::Result<(Answer, Option<Ids>)> {
    use Kind::{Group, User};
    let mut ids = asked.ids.clone();
    let id = |index| asked.id(index);
    let mut value = 0;
    match asked.known.call {
        Call::Getuid => return value_of(ids.get(User)[0]),
        Call::Geteuid => return value_of(ids.get(User)[1]),
        Call::Getgid => return value_of(ids.get(Group)[0]),
        Call::Getegid => return value_of(ids.get(Group)[1]),
        Call::Getresuid => return three(asked, ids.get(User)),
        Call::Getresgid => return three(asked, ids.get(Group)),
        Call::Getgroups => return groups(asked, &ids.groups),
        Call::Setuid => ids.set(User, id(0))?,
        Call::Setgid => ids.set(Group, id(0))?,
        Call::Setreuid => ids.set_two(User, id(0), id(1))?,
        Call::Setregid => ids.set_two(Group, id(0), id(1))?,
        Call::Setresuid => ids.set_three(User, [id(0), id(1), id(2)])?,
        Call::Setresgid => ids.set_three(Group, [id(0), id(1), id(2)])?,
        Call::Setfsuid => value = i64::from(ids.set_for_files(User, id(0))),
        Call::Setfsgid => value = i64::from(ids.set_for_files(Group, id(0))),
        Call::Setgroups => ids.set_groups(read_groups(asked)?)?,
        _ => return Ok((Answer::Continue, None)),
    }
    Ok((Answer::Value(value), Some(ids)))
}

fn value_of(id: u32) -> rustix::io::Result<(Answer, Option<Ids>)> {
    Ok((Answer::Value(i64::from(id)), None))
}

/// Ids in the memory layout of a program.
fn bytes_of(ids: &[u32], short: bool) -> Vec<u8> {
    match short {
        true => ids.iter().flat_map(|id| u16::try_from(*id).unwrap_or(65534).to_ne_bytes()).collect(),
        false => ids.iter().flat_map(|id| id.to_ne_bytes()).collect(),
    }
}

fn three(asked: &Asked<'_>, ids: &[u32; 4]) -> rustix::io::Result<(Answer, Option<Ids>)> {
    for (at, id) in asked.request.args.iter().zip(&ids[..3]) {
        notify::write(asked.caller.pid, *at, &bytes_of(&[*id], asked.known.short))?;
    }
    Ok((Answer::Value(0), None))
}

fn groups(asked: &Asked<'_>, groups: &[u32]) -> rustix::io::Result<(Answer, Option<Ids>)> {
    let room = asked.number(0);
    if room < 0 || (room > 0 && (room as usize) < groups.len()) {
        return Err(Errno::INVAL);
    }
    if room > 0 {
        notify::write(asked.caller.pid, asked.request.args[1], &bytes_of(groups, asked.known.short))?;
    }
    Ok((Answer::Value(groups.len() as i64), None))
}

fn read_groups(asked: &Asked<'_>) -> rustix::io::Result<Vec<u32>> {
    let count = asked.number(0);
    if !(0..=MOST_GROUPS).contains(&count) {
        return Err(Errno::INVAL);
    }
    let width = if asked.known.short { 2 } else { 4 };
    let mut bytes = vec![0; count as usize * width];
    notify::read(asked.caller.pid, asked.request.args[1], &mut bytes)?;
    let number = |piece: &[u8]| match *piece {
        [a, b] => u32::from(u16::from_ne_bytes([a, b])),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        _ => 0,
    };
    Ok(bytes.chunks_exact(width).map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat64_has_the_size_and_offsets_of_the_abi() {
        let stat = rustix::fs::stat("/").unwrap();
        for (layout, size) in [(Layout::I386, 96), (Layout::Arm, 104)] {
            let bytes = status_64(&stat, layout, (1000, 1001));
            assert_eq!(bytes.len(), size);
            assert_eq!(bytes[24..28], 1000_u32.to_ne_bytes());
            assert_eq!(bytes[28..32], 1001_u32.to_ne_bytes());
            assert_eq!(bytes[16..20], stat.st_mode.to_ne_bytes());
        }
    }

    #[test]
    fn ids_that_do_not_fit_16_bits_become_nobody() {
        assert_eq!(bytes_of(&[1, 100_000], true), [1_u16.to_ne_bytes(), 65534_u16.to_ne_bytes()].concat());
        assert_eq!(bytes_of(&[100_000], false), 100_000_u32.to_ne_bytes());
    }
}
