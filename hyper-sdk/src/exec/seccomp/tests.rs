//! The filter by an interpreter of its program, on every machine: what is allowed, what is not, and what is unknown.

use super::*;
use crate::exec::bpf::run;
use crate::exec::syscalls::{call, new};

const MACHINES: [&[Abi]; 3] = [&[Abi::X86_64, Abi::I386], &[Abi::Aarch64, Abi::Arm], &[Abi::Riscv64]];

/// Calls that a step must never make, with their numbers.
const FORBIDDEN: &[Call] = &[
    call("acct", [163, 51, 89, 51]),
    call("add_key", [248, 286, 217, 309]),
    call("bpf", [321, 357, 280, 386]),
    call("clock_settime", [227, 264, 112, 262]),
    call("clock_settime64", [-1, 404, -1, 404]),
    call("create_module", [174, 127, -1, -1]),
    call("delete_module", [176, 129, 106, 129]),
    call("fanotify_init", [300, 338, 262, 367]),
    call("finit_module", [313, 350, 273, 379]),
    new("fsconfig", 431),
    new("fsmount", 432),
    new("fsopen", 430),
    new("fspick", 433),
    call("get_kernel_syms", [177, 130, -1, -1]),
    call("init_module", [175, 128, 105, 128]),
    new("io_uring_enter", 426),
    new("io_uring_register", 427),
    new("io_uring_setup", 425),
    call("ioperm", [173, 101, -1, -1]),
    call("iopl", [172, 110, -1, -1]),
    call("kexec_file_load", [320, -1, 294, 401]),
    call("kexec_load", [246, 283, 104, 347]),
    call("keyctl", [250, 288, 219, 311]),
    call("lookup_dcookie", [212, 253, 18, 249]),
    call("mount", [165, 21, 40, 21]),
    new("mount_setattr", 442),
    new("move_mount", 429),
    call("move_pages", [279, 317, 239, 344]),
    call("open_by_handle_at", [304, 342, 265, 371]),
    new("open_tree", 428),
    new("open_tree_attr", 467),
    call("perf_event_open", [298, 336, 241, 364]),
    call("pivot_root", [155, 217, 41, 218]),
    call("query_module", [178, 167, -1, -1]),
    call("quotactl", [179, 131, 60, 131]),
    new("quotactl_fd", 443),
    call("reboot", [169, 88, 142, 88]),
    call("request_key", [249, 287, 218, 310]),
    call("setdomainname", [171, 121, 162, 121]),
    call("sethostname", [170, 74, 161, 74]),
    call("setns", [308, 346, 268, 375]),
    call("settimeofday", [164, 79, 170, 79]),
    call("stime", [-1, 25, -1, 25]),
    call("swapoff", [168, 115, 225, 115]),
    call("swapon", [167, 87, 224, 87]),
    call("sysfs", [139, 135, -1, 135]),
    call("syslog", [103, 103, 116, 103]),
    call("umount", [-1, 22, -1, 22]),
    call("umount2", [166, 52, 39, 52]),
    call("unshare", [272, 310, 97, 337]),
    call("uselib", [134, 86, -1, 86]),
    call("userfaultfd", [323, 374, 282, 388]),
    call("ustat", [136, 62, -1, 62]),
    call("vhangup", [153, 111, 58, 111]),
    call("vm86", [-1, 166, -1, -1]),
    call("vm86old", [-1, 113, -1, -1]),
    call("kcmp", [312, 349, 272, 378]),
    call("migrate_pages", [256, 294, 238, 400]),
    call("nfsservctl", [180, 169, 42, 169]),
    new("pidfd_getfd", 438),
    new("process_madvise", 440),
    call("set_mempolicy", [238, 276, 237, 321]),
    call("mbind", [237, 274, 235, 319]),
];

/// Calls `check` with every ABI and the results of its calls.
fn each_abi(policy: &Policy, mut check: impl FnMut(Abi, &dyn Fn(&Call, [u32; 3]) -> Option<u32>)) {
    for abis in MACHINES {
        let program = compile(abis, policy);
        for &abi in abis {
            check(abi, &|call, arguments| {
                Some(run(&program, abi.mark(), call.number(abi)?, &arguments.map(u64::from)))
            });
        }
    }
}

#[test]
fn every_number_is_allowed_forbidden_or_unknown() {
    const ASKED: [Call; 5] = [CLONE, CLONE3, PERSONALITY, SOCKET, SOCKETCALL];
    for (host_network, handed_over) in [(true, false), (true, true), (false, false), (false, true)] {
        for abis in MACHINES {
            let program = compile(abis, &policy(host_network, handed_over));
            assert!(program.len() < 4096, "the kernel takes no longer one: {}", program.len());
            for &abi in abis {
                let has = |calls: &[Call], number| calls.iter().any(|call| call.number(abi) == Some(number));
                let edges = [0xf0000, 0xf0001, 0xf0002, 0xf0003, 0xf0004, 0xf0005, 0xf0006, 0xf0007];
                let high = [0x3fff_ffff, 0x4000_0000, 0x4000_0038, 0x7fff_ffff, 0x8000_0000, u32::MAX];
                for number in (0..1200).chain(edges).chain(high).filter(|number| !has(&ASKED, *number)) {
                    let expected = match number {
                        _ if has(ALLOWED, number) => ALLOW,
                        _ if number <= NEWEST => DENY,
                        _ => ABSENT,
                    };
                    for arguments in [[0; 3], [1, 2, 3], [u64::MAX; 3]] {
                        assert_eq!(
                            run(&program, abi.mark(), number, &arguments),
                            expected,
                            "{abi:?} {number}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_forbidden_fails_for_every_kind_of_program() {
    for host_network in [true, false] {
        each_abi(&policy(host_network, true), |abi, answer| {
            for call in FORBIDDEN {
                for arguments in [[0; 3], [1; 3], [u32::MAX; 3]] {
                    let expected = if call.number(abi) > Some(NEWEST) { ABSENT } else { DENY };
                    let answered = answer(call, arguments);
                    assert!(answered.is_none_or(|answered| answered == expected), "{abi:?} {}", call.name);
                }
            }
        });
    }
}

#[test]
fn processes_of_a_step_make_no_namespaces() {
    each_abi(&policy(true, true), |abi, answer| {
        for bit in 0..32 {
            let expected = if CLONE_NAMESPACES >> bit & 1 == 1 { DENY } else { ALLOW };
            assert_eq!(answer(&CLONE, [1 << bit, 0, 0]), Some(expected), "{abi:?} clone bit {bit}");
            assert_eq!(answer(&CLONE, [1 << bit | libc::CLONE_NEWUSER as u32, 0, 0]), Some(DENY));
        }
        assert_eq!(answer(&CLONE3, [0; 3]), Some(ABSENT), "{abi:?}");
    });
}

#[test]
fn personas_that_weaken_the_memory_are_refused() {
    each_abi(&policy(true, true), |abi, answer| {
        for (persona, expected) in [
            (0, ALLOW),
            (8, ALLOW),
            (0x2_0000, ALLOW),
            (0x2_0008, ALLOW),
            (u32::MAX, ALLOW),
            (0x4_0000, DENY),
            (0x10_0000, DENY),
            (0x40_0000, DENY),
            (1, DENY),
            (9, DENY),
        ] {
            assert_eq!(answer(&PERSONALITY, [persona, 0, 0]), Some(expected), "{abi:?} {persona:#x}");
        }
    });
}

#[test]
fn the_network_decides_which_sockets_there_are() {
    let (stream, raw, packet) = (libc::SOCK_STREAM as u32, libc::SOCK_RAW as u32, SOCK_PACKET);
    for host_network in [true, false] {
        each_abi(&policy(host_network, false), |abi, answer| {
            for family in (0..64).chain([u32::MAX, 0x1_0002]) {
                for kind in 0..16 {
                    for flags in [0, libc::SOCK_CLOEXEC as u32, libc::SOCK_NONBLOCK as u32] {
                        let number = family as i32;
                        let is_ip = [libc::AF_INET, libc::AF_INET6].contains(&number);
                        let is_plain = [libc::AF_UNIX, libc::AF_NETLINK].contains(&number);
                        let is_packet = [libc::AF_PACKET, libc::AF_XDP].contains(&number);
                        let has_it = match host_network {
                            true => is_plain || is_ip && kind != raw && kind != packet,
                            false => is_plain || is_ip || is_packet,
                        };
                        let expected = if has_it { ALLOW } else { DENY };
                        let answered = answer(&SOCKET, [family, kind | flags, 0]);
                        assert_eq!(
                            answered,
                            Some(expected),
                            "{abi:?} {host_network} {family} {kind} {flags:o}"
                        );
                    }
                }
            }
            for family in [libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH, libc::AF_CAN] {
                assert_eq!(answer(&SOCKET, [family as u32, stream, 0]), Some(DENY), "{abi:?} {family}");
            }
        });
    }
}

#[test]
fn only_notified_calls_are_exempt_from_denial() {
    let over = libc::SECCOMP_RET_USER_NOTIF;
    let has_it = |abi| matches!(abi, Abi::I386 | Abi::Arm);
    each_abi(&only_new_sockets(over), |abi, answer| {
        for (what, expected) in [(1, over), (2, ALLOW), (8, ALLOW)] {
            assert_eq!(answer(&SOCKETCALL, [what, 0, 0]), has_it(abi).then_some(expected), "{abi:?}");
        }
        assert_eq!(answer(&SOCKET, [40, 1, 0]), Some(ALLOW));
        assert_eq!(answer(&CLONE3, [0; 3]), Some(ALLOW));
        assert_eq!(answer(&new("newer", 999), [0; 3]), Some(ALLOW));
    });
    for (is_handed_over, expected) in [(true, ALLOW), (false, DENY)] {
        each_abi(&policy(true, is_handed_over), |abi, answer| {
            assert_eq!(answer(&SOCKETCALL, [1, 0, 0]), has_it(abi).then_some(expected), "{abi:?}");
            assert_eq!(answer(&SOCKETCALL, [20, 0, 0]), has_it(abi).then_some(ALLOW), "{abi:?}");
        });
    }
}

#[test]
fn programs_of_unknown_machines_end() {
    let program = compile(MACHINES[0], &policy(true, true));
    assert_eq!(run(&program, Abi::Arm.mark(), 20, &[]), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(run(&program, 0, 0, &[]), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn call_numbers_are_unique() {
    for abi in MACHINES.concat() {
        let all =
            ALLOWED.iter().chain(FORBIDDEN).chain([&CLONE, &CLONE3, &PERSONALITY, &SOCKET, &SOCKETCALL]);
        let mut numbers: Vec<(u32, &str)> =
            all.filter_map(|call| Some((call.number(abi)?, call.name))).collect();
        numbers.sort_unstable();
        let twice = numbers.windows(2).find(|pair| pair[0].0 == pair[1].0);
        assert_eq!(twice, None, "{abi:?}");
    }
}

/// Numbers of this machine by the C library.
const OF_THE_C_LIBRARY: &[(&str, i64)] = &[
    ("acct", libc::SYS_acct),
    ("add_key", libc::SYS_add_key),
    ("bpf", libc::SYS_bpf),
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
    ("accept", libc::SYS_accept),
    ("accept4", libc::SYS_accept4),
    ("bind", libc::SYS_bind),
    ("brk", libc::SYS_brk),
    ("capget", libc::SYS_capget),
    ("capset", libc::SYS_capset),
    ("chdir", libc::SYS_chdir),
    ("chroot", libc::SYS_chroot),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("clock_nanosleep", libc::SYS_clock_nanosleep),
    ("close", libc::SYS_close),
    ("close_range", libc::SYS_close_range),
    ("connect", libc::SYS_connect),
    ("copy_file_range", libc::SYS_copy_file_range),
    ("dup", libc::SYS_dup),
    ("dup3", libc::SYS_dup3),
    ("epoll_create1", libc::SYS_epoll_create1),
    ("epoll_ctl", libc::SYS_epoll_ctl),
    ("epoll_pwait", libc::SYS_epoll_pwait),
    ("epoll_pwait2", libc::SYS_epoll_pwait2),
    ("eventfd2", libc::SYS_eventfd2),
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("exit", libc::SYS_exit),
    ("exit_group", libc::SYS_exit_group),
    ("faccessat", libc::SYS_faccessat),
    ("faccessat2", libc::SYS_faccessat2),
    ("fadvise64", libc::SYS_fadvise64),
    ("fallocate", libc::SYS_fallocate),
    ("fchdir", libc::SYS_fchdir),
    ("fchmod", libc::SYS_fchmod),
    ("fchmodat", libc::SYS_fchmodat),
    ("fchmodat2", libc::SYS_fchmodat2),
    ("fchown", libc::SYS_fchown),
    ("fchownat", libc::SYS_fchownat),
    ("fcntl", libc::SYS_fcntl),
    ("fdatasync", libc::SYS_fdatasync),
    ("flock", libc::SYS_flock),
    ("fstat", libc::SYS_fstat),
    ("fstatfs", libc::SYS_fstatfs),
    ("fsync", libc::SYS_fsync),
    ("ftruncate", libc::SYS_ftruncate),
    ("futex", libc::SYS_futex),
    ("futex_waitv", libc::SYS_futex_waitv),
    ("get_robust_list", libc::SYS_get_robust_list),
    ("getcwd", libc::SYS_getcwd),
    ("getdents64", libc::SYS_getdents64),
    ("geteuid", libc::SYS_geteuid),
    ("getpid", libc::SYS_getpid),
    ("getrandom", libc::SYS_getrandom),
    ("gettid", libc::SYS_gettid),
    ("getxattr", libc::SYS_getxattr),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("ioctl", libc::SYS_ioctl),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("io_setup", libc::SYS_io_setup),
    ("kill", libc::SYS_kill),
    ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
    ("linkat", libc::SYS_linkat),
    ("listen", libc::SYS_listen),
    ("lseek", libc::SYS_lseek),
    ("madvise", libc::SYS_madvise),
    ("membarrier", libc::SYS_membarrier),
    ("memfd_create", libc::SYS_memfd_create),
    ("mincore", libc::SYS_mincore),
    ("mkdirat", libc::SYS_mkdirat),
    ("mknodat", libc::SYS_mknodat),
    ("mlock2", libc::SYS_mlock2),
    ("mmap", libc::SYS_mmap),
    ("mprotect", libc::SYS_mprotect),
    ("mq_open", libc::SYS_mq_open),
    ("mremap", libc::SYS_mremap),
    ("mseal", libc::SYS_mseal),
    ("msgget", libc::SYS_msgget),
    ("msync", libc::SYS_msync),
    ("munmap", libc::SYS_munmap),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("nanosleep", libc::SYS_nanosleep),
    ("newfstatat", libc::SYS_newfstatat),
    ("openat", libc::SYS_openat),
    ("openat2", libc::SYS_openat2),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pipe2", libc::SYS_pipe2),
    ("pkey_alloc", libc::SYS_pkey_alloc),
    ("ppoll", libc::SYS_ppoll),
    ("prctl", libc::SYS_prctl),
    ("pread64", libc::SYS_pread64),
    ("preadv2", libc::SYS_preadv2),
    ("prlimit64", libc::SYS_prlimit64),
    ("process_mrelease", libc::SYS_process_mrelease),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("pselect6", libc::SYS_pselect6),
    ("ptrace", libc::SYS_ptrace),
    ("pwrite64", libc::SYS_pwrite64),
    ("read", libc::SYS_read),
    ("readlinkat", libc::SYS_readlinkat),
    ("recvmmsg", libc::SYS_recvmmsg),
    ("recvmsg", libc::SYS_recvmsg),
    ("removexattr", libc::SYS_removexattr),
    ("renameat2", libc::SYS_renameat2),
    ("restart_syscall", libc::SYS_restart_syscall),
    ("rseq", libc::SYS_rseq),
    ("rt_sigaction", libc::SYS_rt_sigaction),
    ("rt_sigreturn", libc::SYS_rt_sigreturn),
    ("sched_yield", libc::SYS_sched_yield),
    ("seccomp", libc::SYS_seccomp),
    ("semget", libc::SYS_semget),
    ("sendfile", libc::SYS_sendfile),
    ("sendmmsg", libc::SYS_sendmmsg),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("set_tid_address", libc::SYS_set_tid_address),
    ("setgroups", libc::SYS_setgroups),
    ("setresuid", libc::SYS_setresuid),
    ("setsid", libc::SYS_setsid),
    ("setsockopt", libc::SYS_setsockopt),
    ("setxattr", libc::SYS_setxattr),
    ("shmget", libc::SYS_shmget),
    ("shutdown", libc::SYS_shutdown),
    ("sigaltstack", libc::SYS_sigaltstack),
    ("signalfd4", libc::SYS_signalfd4),
    ("socketpair", libc::SYS_socketpair),
    ("splice", libc::SYS_splice),
    ("statfs", libc::SYS_statfs),
    ("statx", libc::SYS_statx),
    ("symlinkat", libc::SYS_symlinkat),
    ("sync_file_range", libc::SYS_sync_file_range),
    ("syncfs", libc::SYS_syncfs),
    ("sysinfo", libc::SYS_sysinfo),
    ("tee", libc::SYS_tee),
    ("tgkill", libc::SYS_tgkill),
    ("timer_create", libc::SYS_timer_create),
    ("timerfd_create", libc::SYS_timerfd_create),
    ("times", libc::SYS_times),
    ("truncate", libc::SYS_truncate),
    ("umask", libc::SYS_umask),
    ("uname", libc::SYS_uname),
    ("unlinkat", libc::SYS_unlinkat),
    ("utimensat", libc::SYS_utimensat),
    ("vmsplice", libc::SYS_vmsplice),
    ("wait4", libc::SYS_wait4),
    ("waitid", libc::SYS_waitid),
    ("write", libc::SYS_write),
    ("writev", libc::SYS_writev),
    ("kcmp", libc::SYS_kcmp),
    ("mbind", libc::SYS_mbind),
    ("migrate_pages", libc::SYS_migrate_pages),
    ("nfsservctl", libc::SYS_nfsservctl),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("process_madvise", libc::SYS_process_madvise),
    ("set_mempolicy", libc::SYS_set_mempolicy),
];

#[test]
fn call_numbers_match_the_c_library() {
    let abi = Abi::of_machine(std::env::consts::ARCH)[0];
    for (name, number) in OF_THE_C_LIBRARY {
        let call = FORBIDDEN.iter().chain(ALLOWED).find(|call| call.name == *name).unwrap();
        assert_eq!(call.number(abi).map(i64::from), Some(*number), "{name}");
    }
    assert_eq!(CLONE.number(abi).map(i64::from), Some(libc::SYS_clone));
    assert_eq!(CLONE3.number(abi).map(i64::from), Some(libc::SYS_clone3));
    assert_eq!(PERSONALITY.number(abi).map(i64::from), Some(libc::SYS_personality));
    assert_eq!(SOCKET.number(abi).map(i64::from), Some(libc::SYS_socket));
}
