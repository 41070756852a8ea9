//! The system calls that the supervisor answers, by their numbers in each ABI of this machine, and the filter for them.

use crate::exec::bpf::{ARCH, EQUAL, HAS_BITS, JUMP, LOAD, NUMBER, RETURN, argument, op, upper_argument};
use crate::exec::syscalls::SOCKETCALL_SOCKET;
use seccompiler::{BpfProgram, sock_filter};

/// A call that the supervisor answers, independent of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Chown,
    Lchown,
    Fchown,
    Fchownat,
    Stat,
    Lstat,
    Fstat,
    Fstatat,
    Statx,
    Listxattr,
    Llistxattr,
    Flistxattr,
    Open,
    Creat,
    Openat,
    Openat2,
    Mkdir,
    Mkdirat,
    Mknod,
    Mknodat,
    Symlink,
    Symlinkat,
    Rename,
    Renameat,
    Link,
    Linkat,
    Execve,
    Execveat,
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
    Getresuid,
    Getresgid,
    Getgroups,
    Setuid,
    Setgid,
    Setreuid,
    Setregid,
    Setresuid,
    Setresgid,
    Setgroups,
    Setfsuid,
    Setfsgid,
    /// Only to keep capabilities.
    Prctl,
    /// Only to make a socket.
    Socketcall,
    /// Not notified: the call succeeds without effect, so that the limit with the identity stays.
    Setrlimit,
    Prlimit,
}

/// The memory layout of a status and an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The native layout.
    Native,
    /// `struct stat64` of 32-bit x86.
    I386,
    /// `struct stat64` of 32-bit Arm.
    Arm,
}

/// A call as the program made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) call: Call,
    pub(super) layout: Layout,
    /// Whether ids have 16 bits.
    pub(super) short: bool,
}

struct Interface {
    arch: u32,
    layout: Layout,
    calls: &'static [(u32, Call)],
    /// Older variants of the calls, with 16-bit ids.
    short: &'static [(u32, Call)],
}

#[cfg(target_arch = "x86_64")]
const INTERFACES: &[Interface] = &[
    Interface { arch: 0xC000_003E, layout: Layout::Native, calls: NATIVE, short: &[] },
    Interface { arch: 0x4000_0003, layout: Layout::I386, calls: I386, short: SHORT },
];
#[cfg(target_arch = "aarch64")]
const INTERFACES: &[Interface] = &[
    Interface { arch: 0xC000_00B7, layout: Layout::Native, calls: NATIVE, short: &[] },
    Interface { arch: 0x4000_0028, layout: Layout::Arm, calls: ARM, short: SHORT },
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const INTERFACES: &[Interface] = &[];

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NATIVE: &[(u32, Call)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown as u32, Call::Chown),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown as u32, Call::Lchown),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat as u32, Call::Stat),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat as u32, Call::Lstat),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open as u32, Call::Open),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat as u32, Call::Creat),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir as u32, Call::Mkdir),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod as u32, Call::Mknod),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink as u32, Call::Symlink),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename as u32, Call::Rename),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link as u32, Call::Link),
    (libc::SYS_fchown as u32, Call::Fchown),
    (libc::SYS_fchownat as u32, Call::Fchownat),
    (libc::SYS_fstat as u32, Call::Fstat),
    (libc::SYS_newfstatat as u32, Call::Fstatat),
    (libc::SYS_statx as u32, Call::Statx),
    (libc::SYS_listxattr as u32, Call::Listxattr),
    (libc::SYS_llistxattr as u32, Call::Llistxattr),
    (libc::SYS_flistxattr as u32, Call::Flistxattr),
    (libc::SYS_openat as u32, Call::Openat),
    (libc::SYS_openat2 as u32, Call::Openat2),
    (libc::SYS_mkdirat as u32, Call::Mkdirat),
    (libc::SYS_mknodat as u32, Call::Mknodat),
    (libc::SYS_symlinkat as u32, Call::Symlinkat),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_renameat as u32, Call::Renameat),
    #[cfg(target_arch = "aarch64")]
    (38, Call::Renameat),
    (libc::SYS_renameat2 as u32, Call::Renameat),
    (libc::SYS_linkat as u32, Call::Linkat),
    (libc::SYS_execve as u32, Call::Execve),
    (libc::SYS_execveat as u32, Call::Execveat),
    (libc::SYS_getuid as u32, Call::Getuid),
    (libc::SYS_geteuid as u32, Call::Geteuid),
    (libc::SYS_getgid as u32, Call::Getgid),
    (libc::SYS_getegid as u32, Call::Getegid),
    (libc::SYS_getresuid as u32, Call::Getresuid),
    (libc::SYS_getresgid as u32, Call::Getresgid),
    (libc::SYS_getgroups as u32, Call::Getgroups),
    (libc::SYS_setuid as u32, Call::Setuid),
    (libc::SYS_setgid as u32, Call::Setgid),
    (libc::SYS_setreuid as u32, Call::Setreuid),
    (libc::SYS_setregid as u32, Call::Setregid),
    (libc::SYS_setresuid as u32, Call::Setresuid),
    (libc::SYS_setresgid as u32, Call::Setresgid),
    (libc::SYS_setgroups as u32, Call::Setgroups),
    (libc::SYS_setfsuid as u32, Call::Setfsuid),
    (libc::SYS_setfsgid as u32, Call::Setfsgid),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_setrlimit as u32, Call::Setrlimit),
    #[cfg(target_arch = "aarch64")]
    (164, Call::Setrlimit),
    (libc::SYS_prlimit64 as u32, Call::Prlimit),
    (libc::SYS_prctl as u32, Call::Prctl),
];

/// The calls with the same number on 32-bit x86 and 32-bit Arm.
macro_rules! common_32 {
    ($($more:tt)*) => {
        &[
            (5, Call::Open),
            (8, Call::Creat),
            (9, Call::Link),
            (11, Call::Execve),
            (14, Call::Mknod),
            (38, Call::Rename),
            (39, Call::Mkdir),
            (75, Call::Setrlimit),
            (83, Call::Symlink),
            (172, Call::Prctl),
            (195, Call::Stat),
            (196, Call::Lstat),
            (197, Call::Fstat),
            (198, Call::Lchown),
            (199, Call::Getuid),
            (200, Call::Getgid),
            (201, Call::Geteuid),
            (202, Call::Getegid),
            (203, Call::Setreuid),
            (204, Call::Setregid),
            (205, Call::Getgroups),
            (206, Call::Setgroups),
            (207, Call::Fchown),
            (208, Call::Setresuid),
            (209, Call::Getresuid),
            (210, Call::Setresgid),
            (211, Call::Getresgid),
            (212, Call::Chown),
            (213, Call::Setuid),
            (214, Call::Setgid),
            (215, Call::Setfsuid),
            (216, Call::Setfsgid),
            (232, Call::Listxattr),
            (233, Call::Llistxattr),
            (234, Call::Flistxattr),
            (437, Call::Openat2),
            $($more)*
        ]
    };
}

#[cfg(target_arch = "x86_64")]
const I386: &[(u32, Call)] = common_32![
    (102, Call::Socketcall),
    (295, Call::Openat),
    (296, Call::Mkdirat),
    (297, Call::Mknodat),
    (298, Call::Fchownat),
    (300, Call::Fstatat),
    (302, Call::Renameat),
    (303, Call::Linkat),
    (304, Call::Symlinkat),
    (340, Call::Prlimit),
    (353, Call::Renameat),
    (358, Call::Execveat),
    (383, Call::Statx),
];

#[cfg(target_arch = "aarch64")]
const ARM: &[(u32, Call)] = common_32![
    (322, Call::Openat),
    (323, Call::Mkdirat),
    (324, Call::Mknodat),
    (325, Call::Fchownat),
    (327, Call::Fstatat),
    (329, Call::Renameat),
    (330, Call::Linkat),
    (331, Call::Symlinkat),
    (369, Call::Prlimit),
    (382, Call::Renameat),
    (387, Call::Execveat),
    (397, Call::Statx),
];

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const SHORT: &[(u32, Call)] = &[
    (16, Call::Lchown),
    (23, Call::Setuid),
    (24, Call::Getuid),
    (46, Call::Setgid),
    (47, Call::Getgid),
    (49, Call::Geteuid),
    (50, Call::Getegid),
    (70, Call::Setreuid),
    (71, Call::Setregid),
    (80, Call::Getgroups),
    (81, Call::Setgroups),
    (95, Call::Fchown),
    (138, Call::Setfsuid),
    (139, Call::Setfsgid),
    (164, Call::Setresuid),
    (165, Call::Getresuid),
    (170, Call::Setresgid),
    (171, Call::Getresgid),
    (182, Call::Chown),
];

/// The call with this number in an ABI.
pub(super) fn known(arch: u32, number: i32) -> Option<Known> {
    let interface = INTERFACES.iter().find(|interface| interface.arch == arch)?;
    let find = |list: &[(u32, Call)]| {
        list.iter().find(|(n, _)| i64::from(*n) == i64::from(number)).map(|(_, call)| *call)
    };
    let layout = interface.layout;
    find(interface.calls)
        .map(|call| Known { call, layout, short: false })
        .or_else(|| find(interface.short).map(|call| Known { call, layout, short: true }))
}

/// Makes the call succeed without effect.
const NOTHING: u32 = libc::SECCOMP_RET_ERRNO;
/// The flags with which an open may make a file: `O_CREAT`, and the bit that only `O_TMPFILE` has.
const MAKES_FILES: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// `RLIMIT_LOCKS`, whose type differs between C libraries.
const LIMIT: u32 = 10;

/// The notifying filter.
pub(in crate::exec) fn program() -> BpfProgram {
    let mut program = vec![op(LOAD, 0, 0, ARCH)];
    for interface in INTERFACES {
        let mut block = vec![op(LOAD, 0, 0, NUMBER)];
        for &(number, call) in interface.calls.iter().chain(interface.short) {
            let then = decision(call);
            block.push(op(EQUAL, 0, then.len() as u8, number));
            block.extend(then);
        }
        block.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
        program.extend([op(EQUAL, 1, 0, interface.arch), op(JUMP, 0, 0, block.len() as u32)]);
        program.extend(block);
    }
    program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn decision(call: Call) -> Vec<sock_filter> {
    let notify = op(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF);
    let allow = op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let nothing = op(RETURN, 0, 0, NOTHING);
    match call {
        Call::Open => vec![argument(1), op(HAS_BITS, 0, 1, MAKES_FILES), notify, allow],
        Call::Openat => vec![argument(2), op(HAS_BITS, 0, 1, MAKES_FILES), notify, allow],
        Call::Prctl => vec![argument(0), op(EQUAL, 0, 1, libc::PR_SET_KEEPCAPS as u32), notify, allow],
        Call::Socketcall => vec![argument(0), op(EQUAL, 0, 1, SOCKETCALL_SOCKET), notify, allow],
        Call::Setrlimit => vec![argument(0), op(EQUAL, 0, 1, LIMIT), nothing, allow],
        // Only with new values. A pointer has two halves.
        Call::Prlimit => vec![
            argument(1),
            op(EQUAL, 0, 5, LIMIT),
            argument(2),
            op(EQUAL, 0, 2, 0),
            upper_argument(2),
            op(EQUAL, 1, 0, 0),
            nothing,
            allow,
        ],
        _ => vec![notify],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::bpf;

    fn run(arch: u32, number: u32, args: &[u64]) -> u32 {
        bpf::run(&program(), arch, number, args)
    }

    #[test]
    fn calls_are_notified_by_number_and_flags_in_every_abi() {
        for interface in INTERFACES {
            let number = |wanted: Call| interface.calls.iter().find(|(_, call)| *call == wanted).unwrap().0;
            let run = |number, args: &[u64]| run(interface.arch, number, args);
            for &(number, call) in interface.calls.iter().chain(interface.short) {
                use Call::*;
                if matches!(call, Open | Openat | Setrlimit | Prlimit | Prctl | Socketcall) {
                    continue;
                }
                assert_eq!(run(number, &[]), libc::SECCOMP_RET_USER_NOTIF, "{call:?}");
                assert_eq!(known(interface.arch, number as i32).unwrap().call, call);
            }
            let open = number(Call::Openat);
            assert_eq!(run(open, &[0, 0, 0]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(run(open, &[0, 0, libc::O_CREAT as u64]), libc::SECCOMP_RET_USER_NOTIF);
            assert_eq!(run(open, &[0, 0, libc::O_DIRECTORY as u64]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(run(open, &[0, 0, libc::O_TMPFILE as u64]), libc::SECCOMP_RET_USER_NOTIF);
            let limit = number(Call::Prlimit);
            assert_eq!(run(limit, &[0, 10, 0]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(run(limit, &[0, 10, 8]), NOTHING);
            assert_eq!(run(limit, &[0, 10, 1 << 40]), NOTHING);
            assert_eq!(run(limit, &[0, 7, 8]), libc::SECCOMP_RET_ALLOW);
            let keep = libc::PR_SET_KEEPCAPS as u64;
            assert_eq!(run(number(Call::Prctl), &[keep]), libc::SECCOMP_RET_USER_NOTIF);
            assert_eq!(run(number(Call::Prctl), &[keep + 1]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(run(number(Call::Setrlimit), &[10]), NOTHING);
            assert_eq!(run(number(Call::Setrlimit), &[3]), libc::SECCOMP_RET_ALLOW);
            if interface.layout == Layout::I386 {
                assert_eq!(run(number(Call::Socketcall), &[1]), libc::SECCOMP_RET_USER_NOTIF);
                assert_eq!(run(number(Call::Socketcall), &[2]), libc::SECCOMP_RET_ALLOW);
            }
            assert_eq!(run(9999, &[]), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(run(1, 90, &[]), libc::SECCOMP_RET_ALLOW);
        assert!(program().len() < 4096);
    }

    #[test]
    fn call_numbers_are_unique() {
        for interface in INTERFACES {
            let mut numbers: Vec<_> = interface.calls.iter().chain(interface.short).map(|(n, _)| n).collect();
            let count = numbers.len();
            numbers.sort();
            numbers.dedup();
            assert_eq!(numbers.len(), count);
        }
    }
}
