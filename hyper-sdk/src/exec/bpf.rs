//! The parts that all system call filters are made of: classic BPF instructions and the data that they read.

use seccompiler::sock_filter;

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(super) const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
pub(super) const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(super) const HAS_BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The offset of the call's number.
pub(super) const NUMBER: u32 = 0;
/// The offset of the ABI (`AUDIT_ARCH_…`).
pub(super) const ARCH: u32 = 4;
/// The offset of the 64-bit arguments.
const ARGUMENTS: u32 = 16;

pub(super) const fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Loads the lower half of an argument, which comes first on every supported machine.
pub(super) const fn argument(index: u8) -> sock_filter {
    op(LOAD, 0, 0, ARGUMENTS + 8 * index as u32)
}

/// Loads the upper half of an argument.
pub(super) const fn upper_argument(index: u8) -> sock_filter {
    op(LOAD, 0, 0, ARGUMENTS + 8 * index as u32 + 4)
}

/// Runs a filter like the kernel and returns its result.
#[cfg(test)]
pub(super) fn run(program: &[sock_filter], arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let step = &program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            LOAD => {
                value = match step.k {
                    NUMBER => number,
                    ARCH => arch,
                    offset => {
                        let argument = arguments.get((offset - ARGUMENTS) as usize / 8).copied();
                        (argument.unwrap_or(0) >> (8 * (offset % 8))) as u32
                    }
                }
            }
            AND => value &= step.k,
            JUMP => at += step.k as usize,
            EQUAL => at += branch(value == step.k),
            AT_LEAST => at += branch(value >= step.k),
            HAS_BITS => at += branch(value & step.k != 0),
            RETURN => return step.k,
            other => panic!("{other:#x}"),
        }
    }
}
