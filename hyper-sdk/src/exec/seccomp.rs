//! The system call filters of a step, modelled on what Docker's default profile blocks.
//!
//! It is a list of what is denied, not of what is allowed: a system call that is newer than this list reaches the
//! kernel, whose own checks of capabilities and namespaces hold. What is denied gives EPERM, so that programs see an
//! ordinary refusal; `clone3`, whose flags a filter cannot see, gives ENOSYS, so that the C library falls back to
//! `clone`. 32-bit x86 programs are filtered by their own numbers; the x32 interface is absent.
//!
//! With a single id ([`super::Identity::Single`]) a further filter lets every change of owner or identity succeed
//! without effect, since programs such as package managers insist on them.

use crate::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Denied in every step, by the numbers of this machine.
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

/// The same for 32-bit x86 programs, whose numbers the C library of this machine does not name.
const DENIED_I386: &[u32] = &[
    21, 22, 25, 51, 52, 62, 74, 79, 86, 87, 88, 101, 103, 110, 111, 113, 115, 121, 127, 128, 129, 130, 131,
    135, 166, 167, 217, 253, 264, 283, 286, 287, 288, 310, 317, 336, 338, 342, 343, 346, 350, 357, 374, 404,
    405, 425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 443,
];

/// Succeed without effect when there is a single id.
const FAKED: &[i64] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

const FAKED_I386: &[u32] = &[
    16, 23, 46, 70, 71, 81, 95, 138, 139, 164, 170, 182, 198, 203, 204, 206, 207, 208, 210, 212, 213, 214,
    215, 216, 298,
];

/// The namespaces that `clone` may not make.
const CLONE_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// The filters of a step, in the order to install them.
pub(super) fn filters(single_identity: bool) -> Result<Vec<BpfProgram>> {
    let mut denied: Rules = DENIED.iter().map(|&number| (number, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for bit in (0..64).map(|shift| 1_u64 << shift).filter(|bit| CLONE_NAMESPACES & bit != 0) {
        namespaces.push(argument(0, SeccompCmpOp::MaskedEq(bit), bit)?);
    }
    denied.insert(libc::SYS_clone, namespaces);
    // AF_VSOCK would reach the hypervisor past every network namespace.
    denied.insert(libc::SYS_socket, vec![argument(0, SeccompCmpOp::Eq, libc::AF_VSOCK as u64)?]);

    let mut programs = vec![
        compile(denied, libc::EPERM, DENIED_I386)?,
        compile([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS, &[435])?,
    ];
    if single_identity {
        let mut faked: Rules = FAKED.iter().map(|&number| (number, Vec::new())).collect();
        // Device nodes cannot be made without the host's root; anything else can.
        let device = |index| {
            [libc::S_IFCHR, libc::S_IFBLK]
                .into_iter()
                .map(|kind| argument(index, SeccompCmpOp::MaskedEq(u64::from(libc::S_IFMT)), u64::from(kind)))
                .collect::<Result<Vec<_>>>()
        };
        faked.insert(libc::SYS_mknodat, device(2)?);
        #[cfg(target_arch = "x86_64")]
        faked.insert(libc::SYS_mknod, device(1)?);
        programs.push(compile(faked, 0, FAKED_I386)?);
    }
    Ok(programs)
}

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(wrong)
}

fn wrong(e: seccompiler::BackendError) -> Error {
    Error::unsupported("a system call filter cannot be made for this machine").with_source(e)
}

/// Compiles a list of numbers that give `errno`. Everything else is allowed.
fn compile(rules: Rules, errno: i32, i386: &[u32]) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(wrong)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
        .map_err(wrong)?;
    let native: BpfProgram = filter.try_into().map_err(wrong)?;
    Ok(if arch == TargetArch::x86_64 { with_i386(i386, errno, native) } else { native })
}

/// Puts a filter for 32-bit programs before the native one, which would kill them, and hides the x32 interface.
fn with_i386(numbers: &[u32], errno: i32, native: BpfProgram) -> BpfProgram {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    const X32_BIT: u32 = 0x4000_0000;
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    let op = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let refuse = |errno: i32| op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32);

    let mut block = vec![op(LOAD, 0, 0, NUMBER)];
    for &number in numbers {
        block.push(op(EQUAL, 0, 1, number));
        block.push(refuse(errno));
    }
    block.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));

    let mut program =
        vec![op(LOAD, 0, 0, ARCH), op(EQUAL, 1, 0, AUDIT_ARCH_I386), op(JUMP, 0, 0, block.len() as u32)];
    program.extend(block);
    program.extend([op(LOAD, 0, 0, NUMBER), op(AT_LEAST, 0, 1, X32_BIT), refuse(libc::ENOSYS)]);
    program.extend(native);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_fit_the_kernels_limit() {
        for single in [false, true] {
            let programs = filters(single).unwrap();
            assert_eq!(programs.len(), if single { 3 } else { 2 });
            assert!(programs.iter().all(|program| program.len() < 4096));
        }
    }

    #[test]
    fn the_lists_are_disjoint() {
        assert!(DENIED.iter().all(|number| !FAKED.contains(number)));
        assert!(DENIED_I386.iter().all(|number| !FAKED_I386.contains(number)));
    }
}
