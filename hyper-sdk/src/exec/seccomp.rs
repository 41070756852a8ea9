//! The system call filter of a step: a list of what is allowed, modelled on Docker's default profile.
//!
//! A call that is not on the list returns EPERM, which programs handle. A call that is newer than the list returns
//! ENOSYS, as on an older kernel: the C library then does without it, and would not after EPERM. So does `clone3`, whose
//! flags a filter cannot see, and with it the C library falls back to `clone`. The x32 interface is absent.
//!
//! One list of [`Rule`]s holds for every kind of program that a machine runs, 32-bit ones too: see [`super::syscalls`].
//! The filter searches the number in a tree of ranges, so that its length costs little.
//!
//! With a single id ([`super::Identity::Single`]) another filter passes changes of owner and identity to a supervisor:
//! see [`super::single`].

mod section;

pub(super) use section::section;

use super::allowed::ALLOWED;
use super::bpf::{AND, ARCH, AT_LEAST, EQUAL, HAS_BITS, JUMP, LOAD, NUMBER, RETURN, argument, op};
use super::syscalls::{Abi, CLONE, CLONE3, Call, NEWEST, PERSONALITY, SOCKET, SOCKETCALL, SOCKETCALL_SOCKET};
use crate::{Error, Result};
use seccompiler::BpfProgram;

/// What a filter does with one system call. The first case whose conditions all hold decides.
#[derive(Clone, Debug)]
struct Rule {
    call: Call,
    cases: Vec<Case>,
    /// What the filter returns when no case holds (`SECCOMP_RET_…`).
    otherwise: u32,
}

/// Conditions, and what the filter returns when all of them hold.
type Case = (Vec<When>, u32);

/// A condition. Only the lower 32 bits of an argument are compared: no call here uses more.
#[derive(Clone, Debug)]
enum When {
    /// The argument of this index has any of these bits.
    HasAnyOf(u8, u32),
    /// The argument of this index, masked, is one of these.
    IsOneOf(u8, u32, Vec<u32>),
}

/// What a filter does with every call.
#[derive(Clone, Debug)]
struct Policy {
    rules: Vec<Rule>,
    /// The result for a known call without a rule.
    otherwise: u32,
    /// The result for a call that is newer than [`NEWEST`].
    unknown: u32,
}

/// The namespaces that `clone` may not make.
const CLONE_NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;
/// The personas that `personality` may set: the usual one and an old one (`PER_LINUX32`), each also with the machine
/// name of Linux 2.6 (`UNAME26`); the last one only asks.
const PERSONAS: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The families of sockets that a step has in every network. Each one more is code of the kernel, and some reach past
/// every network namespace: AF_VSOCK the hypervisor, AF_BLUETOOTH and AF_QIPCRTR the hardware.
pub(super) const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Families that read and forge all traffic, for a network without the host's.
const PACKET_FAMILIES: [i32; 2] = [libc::AF_PACKET, libc::AF_XDP];
/// The type of a socket without its flags, and the old name of AF_PACKET as a type.
const KIND_MASK: u32 = 0xf;
const SOCK_PACKET: u32 = 10;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = errno(libc::EPERM);
const ABSENT: u32 = errno(libc::ENOSYS);

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
    Ok(vec![compile(abis, &policy(host_network, is_handed_over))])
}

/// The filter that notifies `socketcall` when it makes a socket: see [`super::notify::socketcall`].
pub(super) fn handed_over() -> BpfProgram {
    compile(Abi::of_machine(std::env::consts::ARCH), &only_new_sockets(libc::SECCOMP_RET_USER_NOTIF))
}

/// A policy about nothing but `socketcall` that makes a socket.
fn only_new_sockets(action: u32) -> Policy {
    Policy { rules: vec![socketcall(action)], otherwise: ALLOW, unknown: ALLOW }
}

/// `socketcall` that makes a socket. Its family is in memory, which filters cannot read.
fn socketcall(new_socket: u32) -> Rule {
    let makes_one = When::IsOneOf(0, u32::MAX, vec![SOCKETCALL_SOCKET]);
    Rule { call: SOCKETCALL, cases: vec![(vec![makes_one], new_socket)], otherwise: ALLOW }
}

/// What every step may do.
fn policy(host_network: bool, is_handed_over: bool) -> Policy {
    let mut rules: Vec<Rule> =
        ALLOWED.iter().map(|&call| Rule { call, cases: Vec::new(), otherwise: ALLOW }).collect();
    rules.extend([
        Rule { call: CLONE3, cases: Vec::new(), otherwise: ABSENT },
        Rule {
            call: CLONE,
            cases: vec![(vec![When::HasAnyOf(0, CLONE_NAMESPACES as u32)], DENY)],
            otherwise: ALLOW,
        },
        Rule {
            call: PERSONALITY,
            cases: vec![(vec![When::IsOneOf(0, u32::MAX, PERSONAS.to_vec())], ALLOW)],
            otherwise: DENY,
        },
        socket(host_network),
        socketcall(if is_handed_over { ALLOW } else { DENY }),
    ]);
    Policy { rules, otherwise: DENY, unknown: ABSENT }
}

/// `socket`. On the host's network, a step could read and forge all traffic with a packet or raw socket.
fn socket(host_network: bool) -> Rule {
    let is_one_of =
        |families: &[i32]| When::IsOneOf(0, u32::MAX, families.iter().map(|family| *family as u32).collect());
    let mut cases = Vec::new();
    if host_network {
        // AF_NETLINK has messages to the kernel, which programs ask for as either type.
        let raw = When::IsOneOf(1, KIND_MASK, vec![libc::SOCK_RAW as u32, SOCK_PACKET]);
        cases.push((vec![is_one_of(&[libc::AF_INET, libc::AF_INET6]), raw], DENY));
    } else {
        cases.push((vec![is_one_of(&PACKET_FAMILIES)], ALLOW));
    }
    cases.push((vec![is_one_of(&FAMILIES)], ALLOW));
    Rule { call: SOCKET, cases, otherwise: DENY }
}

/// Compiles a policy for every ABI of the machine. A program of another ABI is killed; the machine runs none.
fn compile(abis: &[Abi], policy: &Policy) -> BpfProgram {
    let mut program = vec![op(LOAD, 0, 0, ARCH)];
    for &abi in abis {
        let mut block = vec![op(LOAD, 0, 0, NUMBER)];
        block.extend(search(&ranges(abi, policy)));
        program.extend([op(EQUAL, 1, 0, abi.mark()), op(JUMP, 0, 0, block.len() as u32)]);
        program.extend(block);
    }
    program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// What the filter does with the numbers of a range.
#[derive(Clone, Copy, Debug)]
enum Outcome<'a> {
    Return(u32),
    Ask(&'a Rule),
}

/// The outcome of every number of an ABI: each entry holds up to the next one, and the first begins at 0.
fn ranges<'a>(abi: Abi, policy: &'a Policy) -> Vec<(u32, Outcome<'a>)> {
    let mut known: Vec<(u32, &Rule)> =
        policy.rules.iter().filter_map(|rule| Some((rule.call.number(abi)?, rule))).collect();
    known.sort_unstable_by_key(|(number, _)| *number);
    let mut ranges: Vec<(u32, Outcome<'a>)> = Vec::new();
    let mut add = |start: u32, outcome: Outcome<'a>| match (ranges.last(), outcome) {
        (Some((_, Outcome::Return(before))), Outcome::Return(now)) if *before == now => {}
        _ => ranges.push((start, outcome)),
    };
    let mut next = 0;
    for (number, rule) in known {
        // The numbers before this one have no rule.
        if next < number && next <= NEWEST {
            add(next, Outcome::Return(policy.otherwise));
        }
        if number > NEWEST && next < number {
            add(next.max(NEWEST + 1), Outcome::Return(policy.unknown));
        }
        match rule.cases.is_empty() {
            true => add(number, Outcome::Return(rule.otherwise)),
            false => add(number, Outcome::Ask(rule)),
        }
        next = number + 1;
    }
    if next <= NEWEST {
        add(next, Outcome::Return(policy.otherwise));
    }
    add(next.max(NEWEST + 1), Outcome::Return(policy.unknown));
    ranges
}

/// Searches the number, which is loaded, by halving the ranges. The program always returns.
fn search(ranges: &[(u32, Outcome<'_>)]) -> BpfProgram {
    match ranges {
        [] => vec![op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS)],
        [(_, Outcome::Return(action))] => vec![op(RETURN, 0, 0, *action)],
        [(_, Outcome::Ask(rule))] => ask(rule),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (below, above) = (search(low), search(high));
            // A conditional jump reaches 255 instructions, another one all.
            let mut program = vec![op(AT_LEAST, 0, 1, high[0].0), op(JUMP, 0, 0, below.len() as u32)];
            program.extend(below);
            program.extend(above);
            program
        }
    }
}

/// Tries the cases of a rule one by one.
fn ask(rule: &Rule) -> BpfProgram {
    let mut program = Vec::new();
    for (conditions, action) in &rule.cases {
        let mut case = vec![op(RETURN, 0, 0, *action)];
        for condition in conditions.iter().rev() {
            let mut test = Vec::new();
            match condition {
                When::HasAnyOf(index, bits) => test.extend([argument(*index), op(HAS_BITS, 1, 0, *bits)]),
                When::IsOneOf(index, mask, values) => {
                    test.extend([argument(*index), op(AND, 0, 0, *mask)]);
                    for (at, value) in values.iter().enumerate() {
                        // Jumps past the remaining values and the jump after them.
                        test.push(op(EQUAL, (values.len() - at) as u8, 0, *value));
                    }
                }
            }
            test.push(op(JUMP, 0, 0, case.len() as u32));
            test.extend(case);
            case = test;
        }
        program.extend(case);
    }
    program.push(op(RETURN, 0, 0, rule.otherwise));
    program
}

#[cfg(test)]
mod tests;
