//! Answers calls that make a file: the file belongs to the user of the process.

use super::asked::Asked;
use super::calls::Call;
use super::lookup::{Place, status};
use super::owners::StepOwners;
use crate::exec::notify::{self, Answer};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// The bit that only `O_TMPFILE` has.
const UNNAMED: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
const CWD: i32 = libc::AT_FDCWD;
const ROOT: (u32, u32) = (0, 0);

/// The owner of a file that a process makes in a folder.
fn owner_in(folder: &OwnedFd, asked: &Asked<'_>, owners: &StepOwners) -> rustix::io::Result<(u32, u32)> {
    let (uid, gid) = asked.ids.for_files();
    if status(folder)?.st_mode & 0o2000 == 0 {
        return Ok((uid, gid));
    }
    Ok((uid, owners.shown(folder)?.1))
}

impl Place {
    fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// Records the owner of the new file, and removes the file again if that fails.
    fn owned(&self, owner: (u32, u32), owners: &mut StepOwners) -> rustix::io::Result<Answer> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let done = rustix::fs::openat(&self.folder, self.name(), flags, Mode::empty())
            .and_then(|made| owners.set(&made, owner));
        if let Err(e) = done {
            self.take_away();
            return Err(e);
        }
        Ok(Answer::Value(0))
    }

    fn take_away(&self) {
        // The call fails in any case. A file that cannot be removed stays.
        if rustix::fs::unlinkat(&self.folder, self.name(), AtFlags::empty()).is_err() {
            rustix::fs::unlinkat(&self.folder, self.name(), AtFlags::REMOVEDIR).ok();
        }
    }
}

struct Opening {
    folder: i32,
    path: Vec<u8>,
    flags: u32,
    mode: u32,
    /// Whether the call restricts where the path may lead.
    restricted: bool,
}

fn opening(asked: &Asked<'_>) -> rustix::io::Result<Opening> {
    let args = &asked.request.args;
    let (folder, path, flags, mode, restricted) = match asked.known.call {
        Call::Open => (CWD, asked.path(0)?, args[1] as u32, args[2], false),
        Call::Creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            (CWD, asked.path(0)?, flags as u32, args[1], false)
        }
        Call::Openat => (asked.number(0), asked.path(1)?, args[2] as u32, args[3], false),
        _ => {
            let mut how = [0; 24];
            notify::read(asked.caller.pid, args[2], &mut how)?;
            let number = |at: usize| u64::from_ne_bytes(how[at..at + 8].try_into().expect("eight bytes"));
            (asked.number(0), asked.path(1)?, number(0) as u32, number(8), number(16) != 0)
        }
    };
    Ok(Opening { folder, path, flags, mode: mode as u32, restricted })
}

pub(super) fn open(asked: &Asked<'_>, owners: &mut StepOwners) -> rustix::io::Result<Answer> {
    // The kernel reports wrong arguments.
    let Ok(opening) = opening(asked) else { return Ok(Answer::Continue) };
    let Opening { folder, path, flags, mode, restricted } = opening;
    let has = |bits: i32| flags & bits as u32 == bits as u32;
    if flags & UNNAMED != 0 {
        let Ok(file) = asked.caller.open(folder, &path, true) else { return Ok(Answer::Continue) };
        let owner = owner_in(&file, asked, owners)?;
        if owner == ROOT {
            return Ok(Answer::Continue);
        }
        return make(&file, OsStr::new("."), flags, mode, restricted, owner, asked, owners);
    }
    if !has(libc::O_CREAT) {
        return Ok(Answer::Continue);
    }
    let follow = !has(libc::O_EXCL) && !has(libc::O_NOFOLLOW);
    match asked.caller.open(folder, &path, follow) {
        Err(Errno::NOENT) => {}
        _ => return Ok(Answer::Continue),
    }
    let Ok(place) = asked.caller.place(folder, &path, follow) else { return Ok(Answer::Continue) };
    let owner = owner_in(&place.folder, asked, owners)?;
    if owner == ROOT || place.slash {
        return Ok(Answer::Continue);
    }
    let only_new = flags | (libc::O_EXCL | libc::O_NOFOLLOW) as u32;
    let made = make(&place.folder, place.name(), only_new, mode, restricted, owner, asked, owners);
    match made {
        // Another process was faster.
        Err(Errno::EXIST) if !has(libc::O_EXCL) => Ok(Answer::Continue),
        made => made,
    }
}

#[expect(clippy::too_many_arguments, reason = "the arguments of one system call and what is kept of it")]
fn make(
    folder: &OwnedFd,
    name: &OsStr,
    flags: u32,
    mode: u32,
    restricted: bool,
    owner: (u32, u32),
    asked: &Asked<'_>,
    owners: &mut StepOwners,
) -> rustix::io::Result<Answer> {
    if restricted {
        // Programs then fall back to the call that every kernel has.
        return Err(Errno::NOSYS);
    }
    let mode = Mode::from_raw_mode(mode & 0o7777 & !asked.caller.mask()?);
    let ours = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::openat(folder, name, ours, mode)?;
    if let Err(e) = owners.set(&file, owner) {
        if flags & UNNAMED == 0 {
            rustix::fs::unlinkat(folder, name, AtFlags::empty()).ok();
        }
        return Err(e);
    }
    Ok(Answer::File(file, flags & libc::O_CLOEXEC as u32 != 0))
}

pub(super) fn mkdir(asked: &Asked<'_>, owners: &mut StepOwners) -> rustix::io::Result<Answer> {
    let (folder, path, mode) = match asked.known.call {
        Call::Mkdir => (CWD, asked.path(0), asked.request.args[1]),
        _ => (asked.number(0), asked.path(1), asked.request.args[2]),
    };
    let place = path.and_then(|path| asked.caller.place(folder, &path, false));
    let Ok(place) = place else { return Ok(Answer::Continue) };
    let owner = owner_in(&place.folder, asked, owners)?;
    if owner == ROOT {
        return Ok(Answer::Continue);
    }
    let mode = Mode::from_raw_mode(mode as u32 & 0o7777 & !asked.caller.mask()?);
    rustix::fs::mkdirat(&place.folder, place.name(), mode)?;
    place.owned(owner, owners)
}

pub(super) fn mknod(asked: &Asked<'_>, owners: &mut StepOwners) -> rustix::io::Result<Answer> {
    let (folder, path, mode) = match asked.known.call {
        Call::Mknod => (CWD, asked.path(0), asked.request.args[1] as u32),
        _ => (asked.number(0), asked.path(1), asked.request.args[2] as u32),
    };
    let kind = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => FileType::RegularFile,
        libc::S_IFIFO => FileType::Fifo,
        // The kernel refuses devices, and layers have no sockets.
        _ => return Ok(Answer::Continue),
    };
    let place = path.and_then(|path| asked.caller.place(folder, &path, false));
    let Ok(place) = place else { return Ok(Answer::Continue) };
    let owner = owner_in(&place.folder, asked, owners)?;
    if place.slash || owner == ROOT && (kind == FileType::RegularFile || owners.is_empty()) {
        return Ok(Answer::Continue);
    }
    let mode = Mode::from_raw_mode(mode & 0o7777 & !asked.caller.mask()?);
    rustix::fs::mknodat(&place.folder, place.name(), kind, mode, 0)?;
    place.owned(owner, owners)
}

pub(super) fn symlink(asked: &Asked<'_>, owners: &mut StepOwners) -> rustix::io::Result<Answer> {
    let (folder, path) = match asked.known.call {
        Call::Symlink => (CWD, asked.path(1)),
        _ => (asked.number(1), asked.path(2)),
    };
    let place = path.and_then(|path| asked.caller.place(folder, &path, false));
    let (Ok(target), Ok(place)) = (asked.path(0), place) else { return Ok(Answer::Continue) };
    let owner = owner_in(&place.folder, asked, owners)?;
    // A new link must not get the owner of an earlier one with the same path or inode.
    if place.slash || owner == ROOT && owners.is_empty() {
        return Ok(Answer::Continue);
    }
    rustix::fs::symlinkat(OsStr::from_bytes(&target), &place.folder, place.name())?;
    place.owned(owner, owners)
}

/// Before a rename or a link: a file whose owner is recorded only in a lower layer keeps it under the new name.
pub(super) fn hold(asked: &Asked<'_>, owners: &mut StepOwners) {
    let (folder, path, follow) = match asked.known.call {
        Call::Rename | Call::Link => (CWD, asked.path(0), false),
        Call::Linkat => (asked.number(0), asked.path(1), asked.number(4) & libc::AT_SYMLINK_FOLLOW != 0),
        _ => (asked.number(0), asked.path(1), false),
    };
    // A file that cannot be looked up or changed cannot be renamed either.
    if let Ok(file) = path.and_then(|path| asked.caller.open(folder, &path, follow)) {
        owners.hold(&file).ok();
    }
}
