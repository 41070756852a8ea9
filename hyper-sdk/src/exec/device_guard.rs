//! Which devices a step of the host's root can open.
//!
//! A step may make device nodes, and images may contain them. A step can open only the usual devices, as with other
//! builders. Two mechanisms enforce this:
//!
//! ```text
//! a control group with a BPF program   EPERM, wherever the node is; the usual ones work wherever they were made
//! `nodev` on every mount of the step   EACCES; the usual ones work in /dev alone
//! ```
//!
//! Every step tries the first, in a control group (cgroup v2) below the helper's. Before the step relies on it, pid 1
//! makes nodes and checks that they cannot be opened ([`is_enforced`]). Where any part of it fails (no cgroup v2, a
//! read-only one, a kernel without support), the second applies. In a user namespace the kernel opens no device of a
//! mount that was made there, and `nodev` is set on all others.
//!
//! The steps of a helper share one control group, which the helper removes at its end. A step that may open more
//! devices has its own. A new helper removes the groups that a killed helper left behind.

use super::group_folder::GroupFolder;
use super::{ExecMount, HostOption, MountSource, control_group};
use crate::sandbox::sys::{self, BpfInstruction, Fork};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::OnceLock;

/// How access to devices is restricted for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceAccess {
    /// Not restricted: the step has every privilege.
    All,
    /// A control group denies it.
    Guarded,
    /// No mount allows devices except those that are bound on purpose.
    NoDevices,
}

const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
/// The devices that every step may open: kind, major and minor number; `None` for every minor number.
const USUAL: &[(u32, u32, Option<u32>)] = &[
    (CHARACTER, 1, Some(3)), // null
    (CHARACTER, 1, Some(5)), // zero
    (CHARACTER, 1, Some(7)), // full
    (CHARACTER, 1, Some(8)), // random
    (CHARACTER, 1, Some(9)), // urandom
    (CHARACTER, 5, Some(0)), // tty
    (CHARACTER, 5, Some(2)), // ptmx
    (CHARACTER, 136, None),  // pts
];
/// A number reserved for examples, without a driver: opening it has no effect where it is allowed.
const EXAMPLE: (u32, u32) = (42, 1);

/// The control group of the steps of this helper that may open the usual devices alone.
static SHARED: OnceLock<Option<GroupFolder>> = OnceLock::new();

/// Makes the control group that steps share, in the process that forks them all.
pub(super) fn share() {
    SHARED.get_or_init(|| guard(USUAL));
}

/// Whether steps share a control group.
pub(super) fn is_shared() -> bool {
    matches!(SHARED.get(), Some(Some(_)))
}

/// Removes the control group that steps share. While a step is still ending this fails, and the next helper removes the
/// group.
pub(super) fn end_share() {
    if let Some(Some(shared)) = SHARED.get() {
        shared.remove();
    }
}

/// Keeps the control group of a step until the step has ended.
pub(super) enum Guarded {
    /// The shared group.
    Shared,
    /// A group of its own.
    Own { _until_dropped: GroupFolder },
    /// The group that limits what the step uses.
    OfStep,
}

/// Forks into a control group whose processes may also open the devices among `mounts`; the child is pid 1 of a new pid
/// namespace. A process is in one group of version 2: `of_step` is the one that the step has anyway. `None` where that is
/// not possible.
pub(super) fn fork(mounts: &[ExecMount], of_step: Option<&GroupFolder>) -> Option<(Guarded, Fork)> {
    let more: Vec<_> = mounts.iter().filter_map(granted).collect();
    if let Some(group) = of_step {
        let program = sys::load_device_program(&program(&[USUAL, &more].concat())).ok()?;
        sys::attach_device_program(program.as_fd(), group.as_fd()).ok()?;
        return sys::fork_into(group.as_fd()).ok().map(|fork| (Guarded::OfStep, fork));
    }
    if more.is_empty()
        && let Some(Some(shared)) = SHARED.get()
        && let Ok(fork) = sys::fork_into(shared.as_fd())
    {
        return Some((Guarded::Shared, fork));
    }
    // A manager of control groups on this machine may remove an empty group before it is used.
    for _ in 0..3 {
        let guard = guard(&[USUAL, &more].concat())?;
        if let Ok(fork) = sys::fork_into(guard.as_fd()) {
            return Some((Guarded::Own { _until_dropped: guard }, fork));
        }
    }
    None
}

/// Makes a control group with these rules.
fn guard(rules: &[(u32, u32, Option<u32>)]) -> Option<GroupFolder> {
    let program = sys::load_device_program(&program(rules)).ok()?;
    let guard = GroupFolder::make(&control_group::own_group()?).ok()?;
    sys::attach_device_program(program.as_fd(), guard.as_fd()).ok()?;
    Some(guard)
}

/// Whether the device rules are enforced for this process. Tries nodes in `folder`, which is on a mount of the sandbox.
pub(super) fn is_enforced(folder: BorrowedFd<'_>) -> bool {
    let open = |kind, (major, minor), name: &str| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(folder, name, kind, mode, rustix::fs::makedev(major, minor))?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, name, flags, Mode::empty());
        rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
        opened.map(drop)
    };
    open(FileType::CharacterDevice, EXAMPLE, "probe-c") == Err(Errno::PERM)
        && open(FileType::BlockDevice, EXAMPLE, "probe-b") == Err(Errno::PERM)
        && open(FileType::CharacterDevice, (1, 3), "probe-null").is_ok()
}

/// The device that a mount grants.
fn granted(mount: &ExecMount) -> Option<(u32, u32, Option<u32>)> {
    let MountSource::HostPath { path, options } = &mount.source else { return None };
    if options.contains(&HostOption::NoDevices) {
        return None;
    }
    let stat = std::fs::metadata(path).ok()?;
    let kind = match stat.file_type() {
        kind if kind.is_block_device() => BLOCK,
        kind if kind.is_char_device() => CHARACTER,
        _ => return None,
    };
    Some((kind, rustix::fs::major(stat.rdev()), Some(rustix::fs::minor(stat.rdev()))))
}

/// The program: making a node is allowed, opening one by the list.
fn program(rules: &[(u32, u32, Option<u32>)]) -> Vec<BpfInstruction> {
    const LOAD: u8 = 0x61; // a word from memory
    const MOVE: u8 = 0xb7;
    const SHIFT_RIGHT: u8 = 0x77;
    const AND: u8 = 0x57;
    const JUMP_UNLESS: u8 = 0x55; // not equal
    const EXIT: u8 = 0x95;
    const MAKE_NODE: i32 = 1;
    let op = |code, to: u8, from: u8, offset, value| BpfInstruction {
        code,
        registers: to | from << 4,
        offset,
        value,
    };
    // The context: kind in the low and access in the high half of a word, major number, minor number.
    let mut all = vec![
        op(LOAD, 2, 1, 0, 0),
        op(LOAD, 4, 1, 4, 0),
        op(LOAD, 5, 1, 8, 0),
        op(MOVE | 0x08, 3, 2, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND, 2, 0, 0, 0xffff),
    ];
    let answer = |yes: bool| [op(MOVE, 0, 0, 0, i32::from(yes)), op(EXIT, 0, 0, 0, 0)];
    all.push(op(JUMP_UNLESS, 3, 0, 2, MAKE_NODE));
    all.extend(answer(true));
    for &(kind, major, minor) in rules {
        let mut checks = vec![(2, kind), (4, major)];
        checks.extend(minor.map(|minor| (5, minor)));
        for (at, (register, value)) in checks.iter().enumerate() {
            // Over the checks that follow and the answer.
            let over = (checks.len() - at - 1 + 2) as i16;
            all.push(op(JUMP_UNLESS, *register, 0, over, *value as i32));
        }
        all.extend(answer(true));
    }
    all.extend(answer(false));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of the program.
    fn run(program: &[BpfInstruction], access: u32, kind: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0_u64; 11], 0_usize);
        loop {
            let BpfInstruction { code, registers: named, offset, value } = program[at];
            let (to, from) = (usize::from(named & 15), usize::from(named >> 4));
            at += 1;
            match code {
                0x61 => registers[to] = u64::from(context[offset as usize / 4]),
                0xb7 => registers[to] = value as u64,
                0xbf => registers[to] = registers[from],
                0x77 => registers[to] >>= value,
                0x57 => registers[to] &= value as u64,
                0x55 if registers[to] != value as u64 => at += offset as usize,
                0x55 => {}
                0x95 => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_making_nodes_and_opening_usual_devices() {
        let mut rules = USUAL.to_vec();
        rules.push((BLOCK, 7, Some(3)));
        let program = program(&rules);
        let (make, read, write) = (1, 2, 4);
        for (kind, major, minor) in [(BLOCK, 8, 0), (CHARACTER, 1, 1), (CHARACTER, 10, 200)] {
            assert!(run(&program, make, kind, major, minor));
            for access in [read, write, read | write, make | read, 0] {
                assert!(!run(&program, access, kind, major, minor), "{kind} {major}:{minor} {access}");
            }
        }
        for minor in [3, 5, 7, 8, 9] {
            assert!(run(&program, read | write, CHARACTER, 1, minor));
            assert!(!run(&program, read, BLOCK, 1, minor));
        }
        for (major, minor, allowed) in
            [(5, 0, true), (5, 1, false), (5, 2, true), (136, 0, true), (136, 999, true), (137, 0, false)]
        {
            assert_eq!(run(&program, read | write, CHARACTER, major, minor), allowed, "{major}:{minor}");
        }
        assert!(run(&program, read | write, BLOCK, 7, 3) && !run(&program, read, BLOCK, 7, 4));
        assert!(!run(&program, read, CHARACTER, 7, 3));
    }
}
