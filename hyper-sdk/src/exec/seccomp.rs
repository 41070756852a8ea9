//! The system call filters of a step, modelled on what Docker's default profile blocks.
//!
//! The filter lists denied calls, not allowed ones: a system call that is newer than the list reaches the kernel, whose
//! own checks of capabilities and namespaces apply. A denied call returns EPERM, which programs handle. `clone3`, whose
//! flags a filter cannot see, returns ENOSYS, so that the C library falls back to `clone`. The x32 interface is absent.
//!
//! One list of [`Rule`]s holds for every kind of program that a machine runs, 32-bit ones too: see [`super::syscalls`].
//!
//! With a single id ([`super::Identity::Single`]) another filter passes changes of owner and identity to a supervisor:
//! see [`super::single`].

use super::bpf::{AND, ARCH, AT_LEAST, EQUAL, HAS_BITS, JUMP, LOAD, NUMBER, RETURN, argument, op};
use super::syscalls::{Abi, CLONE, CLONE3, Call, DENIED, SOCKET, SOCKETCALL, SOCKETCALL_SOCKET};
use crate::{Error, Result};
use seccompiler::BpfProgram;

/// What a filter does with one system call. The first matching rule decides; without one the call is allowed.
#[derive(Clone, Debug)]
struct Rule {
    call: Call,
    when: When,
    /// What the filter returns (`SECCOMP_RET_…`).
    action: u32,
}

/// When a rule matches. Only the lower 32 bits of an argument are compared: no call here uses more.
#[derive(Clone, Debug)]
enum When {
    Always,
    /// The argument of this index has any of these bits.
    HasAnyOf(u8, u32),
    /// The argument of this index, masked, is one of these.
    IsOneOf(u8, u32, Vec<u32>),
}

/// The namespaces that `clone` may not make.
const CLONE_NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;
/// The type of a socket without its flags, and one of the types.
const KIND_MASK: u32 = 0xf;
const SOCK_PACKET: u32 = 10;
/// Numbers of the x32 interface have this bit.
const X32_BIT: u32 = 0x4000_0000;

const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// The filters of a step, in the order to install them.
///
/// `is_handed_over` says that the filter of [`handed_over`] is installed: the calls that it notifies are not denied
/// here, since a denial would win.
pub(super) fn filters(host_network: bool, is_handed_over: bool) -> Result<Vec<BpfProgram>> {
    let abis = Abi::of_machine(std::env::consts::ARCH);
    if abis.is_empty() {
        return Err(Error::unsupported("a system call filter cannot be made for this machine"));
    }
    Ok(vec![compile(abis, &denied(host_network, is_handed_over))])
}

/// The filter that notifies `socketcall` when it makes a socket: see [`super::notify::socketcall`].
pub(super) fn handed_over() -> BpfProgram {
    compile(Abi::of_machine(std::env::consts::ARCH), &[new_socket(libc::SECCOMP_RET_USER_NOTIF)])
}

/// `socketcall` that makes a socket. Its family is in memory, which filters cannot read.
fn new_socket(action: u32) -> Rule {
    Rule { call: SOCKETCALL, when: When::IsOneOf(0, u32::MAX, vec![SOCKETCALL_SOCKET]), action }
}

/// The calls that no step may make.
fn denied(host_network: bool, is_handed_over: bool) -> Vec<Rule> {
    const DENY: u32 = errno(libc::EPERM);
    let mut rules: Vec<Rule> =
        DENIED.iter().map(|&call| Rule { call, when: When::Always, action: DENY }).collect();
    rules.push(Rule { call: CLONE3, when: When::Always, action: errno(libc::ENOSYS) });
    rules.push(Rule { call: CLONE, when: When::HasAnyOf(0, CLONE_NAMESPACES as u32), action: DENY });
    // AF_VSOCK would reach the hypervisor past every network namespace.
    let mut families = vec![libc::AF_VSOCK as u32];
    if host_network {
        // With the host's network, a step could read and forge all traffic.
        families.extend([libc::AF_PACKET as u32, libc::AF_XDP as u32]);
    }
    rules.push(Rule { call: SOCKET, when: When::IsOneOf(0, u32::MAX, families), action: DENY });
    if host_network {
        // The old name of AF_PACKET, as a type of AF_INET.
        rules.push(Rule { call: SOCKET, when: When::IsOneOf(1, KIND_MASK, vec![SOCK_PACKET]), action: DENY });
    }
    if !is_handed_over {
        rules.push(new_socket(DENY));
    }
    rules
}

/// Compiles rules for every ABI of the machine. A program of another ABI is killed; the machine runs none.
fn compile(abis: &[Abi], rules: &[Rule]) -> BpfProgram {
    let mut program = vec![op(LOAD, 0, 0, ARCH)];
    for &abi in abis {
        let block = block(abi, rules);
        program.extend([op(EQUAL, 1, 0, abi.mark()), op(JUMP, 0, 0, block.len() as u32)]);
        program.extend(block);
    }
    program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// The rules for one ABI. The block always returns.
fn block(abi: Abi, rules: &[Rule]) -> BpfProgram {
    let mut block = vec![op(LOAD, 0, 0, NUMBER)];
    if abi == Abi::X86_64 {
        block.extend([op(AT_LEAST, 0, 1, X32_BIT), op(RETURN, 0, 0, errno(libc::ENOSYS))]);
    }
    for rule in rules {
        let Some(number) = rule.call.number(abi) else { continue };
        let mut tests = Vec::new();
        match &rule.when {
            When::Always => {}
            When::HasAnyOf(index, bits) => {
                tests.extend([argument(*index), op(HAS_BITS, 1, 0, *bits), op(JUMP, 0, 0, 1)]);
            }
            When::IsOneOf(index, mask, values) => {
                tests.extend([argument(*index), op(AND, 0, 0, *mask)]);
                for (at, value) in values.iter().enumerate() {
                    // Jumps to the action, past the remaining values and the jump after them.
                    let over = (values.len() - at) as u8;
                    tests.push(op(EQUAL, over, 0, *value));
                }
                tests.push(op(JUMP, 0, 0, 1));
            }
        }
        let is_plain = tests.is_empty();
        tests.push(op(RETURN, 0, 0, rule.action));
        if !is_plain {
            // Reloads the number for the next rules.
            tests.push(op(LOAD, 0, 0, NUMBER));
        }
        block.push(op(EQUAL, 0, tests.len() as u8, number));
        block.extend(tests);
    }
    block.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::bpf::run;

    const MACHINES: [&[Abi]; 3] = [&[Abi::X86_64, Abi::I386], &[Abi::Aarch64, Abi::Arm], &[Abi::Riscv64]];
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const DENY: u32 = errno(libc::EPERM);

    /// Calls `check` with every ABI and the results of its calls.
    fn each_abi(rules: &[Rule], mut check: impl FnMut(Abi, &dyn Fn(&Call, [u32; 3]) -> Option<u32>)) {
        for abis in MACHINES {
            let program = compile(abis, rules);
            for &abi in abis {
                check(abi, &|call, arguments| {
                    Some(run(&program, abi.mark(), call.number(abi)?, &arguments.map(u64::from)))
                });
            }
        }
    }

    #[test]
    fn all_abis_deny_the_same_calls() {
        each_abi(&denied(true, false), |abi, answer| {
            for call in DENIED {
                assert!(matches!(answer(call, [0; 3]), None | Some(DENY)), "{abi:?} {}", call.name);
            }
            for bit in 0..32 {
                let expected = if CLONE_NAMESPACES >> bit & 1 == 1 { DENY } else { ALLOW };
                assert_eq!(answer(&CLONE, [1 << bit, 0, 0]), Some(expected), "{abi:?} clone bit {bit}");
                assert_eq!(answer(&CLONE, [1 << bit | libc::CLONE_NEWUSER as u32, 0, 0]), Some(DENY));
            }
            assert_eq!(answer(&CLONE3, [0; 3]), Some(errno(libc::ENOSYS)), "{abi:?}");
            for family in 0..64 {
                let refused = [libc::AF_VSOCK, libc::AF_PACKET, libc::AF_XDP].contains(&family);
                let expected = if refused { DENY } else { ALLOW };
                assert_eq!(answer(&SOCKET, [family as u32, 1, 0]), Some(expected), "{abi:?} {family}");
            }
            for (kind, expected) in [(1, ALLOW), (3, ALLOW), (10, DENY), (10 | 0o2000000, DENY)] {
                let answered = answer(&SOCKET, [libc::AF_INET as u32, kind, 0]);
                assert_eq!(answered, Some(expected), "{abi:?} {kind:o}");
            }
            for (what, expected) in [(1, DENY), (2, ALLOW), (3, ALLOW), (20, ALLOW)] {
                let has_it = matches!(abi, Abi::I386 | Abi::Arm);
                assert_eq!(answer(&SOCKETCALL, [what, 0, 0]), has_it.then_some(expected), "{abi:?} {what}");
            }
        });
        // A private network has no traffic of the host.
        each_abi(&denied(false, false), |abi, answer| {
            for (family, expected) in [
                (libc::AF_VSOCK, DENY),
                (libc::AF_PACKET, ALLOW),
                (libc::AF_XDP, ALLOW),
                (libc::AF_INET, ALLOW),
            ] {
                assert_eq!(answer(&SOCKET, [family as u32, 1, 0]), Some(expected), "{abi:?} {family}");
            }
        });
    }

    #[test]
    fn only_notified_calls_are_exempt_from_denial() {
        let over = libc::SECCOMP_RET_USER_NOTIF;
        each_abi(&[new_socket(over)], |abi, answer| {
            for (what, expected) in [(1, over), (2, ALLOW), (8, ALLOW)] {
                let has_it = matches!(abi, Abi::I386 | Abi::Arm);
                assert_eq!(answer(&SOCKETCALL, [what, 0, 0]), has_it.then_some(expected), "{abi:?}");
            }
            assert_eq!(answer(&SOCKET, [40, 1, 0]), Some(ALLOW));
        });
        each_abi(&denied(true, true), |_, answer| {
            assert!(matches!(answer(&SOCKETCALL, [1, 0, 0]), None | Some(ALLOW)));
        });
    }

    #[test]
    fn x32_calls_and_unknown_abis_are_rejected() {
        for rules in [denied(true, true)] {
            let program = compile(MACHINES[0], &rules);
            for number in [0, 56, 512, 0x3fff_ffff] {
                let answer = run(&program, Abi::X86_64.mark(), number | X32_BIT, &[]);
                assert_eq!(answer, errno(libc::ENOSYS), "{number}");
            }
            assert_eq!(run(&program, Abi::I386.mark(), 0x3fff_ffff, &[]), ALLOW);
            assert_eq!(run(&program, Abi::Arm.mark(), 20, &[]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn the_filters_fit_the_kernels_limit() {
        let programs = filters(true, false).unwrap();
        assert_eq!(programs.len(), 1);
        assert!(programs.iter().all(|program| program.len() < 4096));
    }

    #[test]
    fn call_numbers_are_unique() {
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64, Abi::Arm] {
            let all = DENIED.iter().chain([&CLONE, &CLONE3, &SOCKET, &SOCKETCALL]);
            let mut numbers: Vec<u32> = all.filter_map(|call| call.number(abi)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }

    /// The numbers of this machine equal those of the C library.
    #[test]
    fn call_numbers_match_the_c_library() {
        let abi = Abi::of_machine(std::env::consts::ARCH)[0];
        let known = |name: &str| DENIED.iter().find(|call| call.name == name).unwrap().number(abi);
        for (name, number) in [
            ("acct", libc::SYS_acct),
            ("add_key", libc::SYS_add_key),
            ("bpf", libc::SYS_bpf),
            ("clock_adjtime", libc::SYS_clock_adjtime),
            ("clock_settime", libc::SYS_clock_settime),
            ("delete_module", libc::SYS_delete_module),
            ("fanotify_init", libc::SYS_fanotify_init),
            ("finit_module", libc::SYS_finit_module),
            ("init_module", libc::SYS_init_module),
            ("kexec_file_load", libc::SYS_kexec_file_load),
            ("kexec_load", libc::SYS_kexec_load),
            ("keyctl", libc::SYS_keyctl),
            ("lookup_dcookie", libc::SYS_lookup_dcookie),
            ("mount", libc::SYS_mount),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("move_pages", libc::SYS_move_pages),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("open_tree", libc::SYS_open_tree),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("pivot_root", libc::SYS_pivot_root),
            ("quotactl", libc::SYS_quotactl),
            ("reboot", libc::SYS_reboot),
            ("request_key", libc::SYS_request_key),
            ("setdomainname", libc::SYS_setdomainname),
            ("sethostname", libc::SYS_sethostname),
            ("setns", libc::SYS_setns),
            ("settimeofday", libc::SYS_settimeofday),
            ("swapoff", libc::SYS_swapoff),
            ("swapon", libc::SYS_swapon),
            ("syslog", libc::SYS_syslog),
            ("umount2", libc::SYS_umount2),
            ("unshare", libc::SYS_unshare),
            ("userfaultfd", libc::SYS_userfaultfd),
            ("vhangup", libc::SYS_vhangup),
        ] {
            assert_eq!(known(name).map(i64::from), Some(number), "{name}");
        }
        assert_eq!(CLONE.number(abi).map(i64::from), Some(libc::SYS_clone));
        assert_eq!(CLONE3.number(abi).map(i64::from), Some(libc::SYS_clone3));
        assert_eq!(SOCKET.number(abi).map(i64::from), Some(libc::SYS_socket));
    }
}
