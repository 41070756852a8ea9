//! System calls that have no safe wrapper.
//!
//! # Invariants
//! - [`fork`], [`unshare`] and [`exec`] are called only in the helper, while it has one thread: after a fork the child
//!   may do whatever the parent could.
#![allow(
    unsafe_code,
    reason = "fork, execve, capset, seccomp, bpf, landlock, ioctl and mount_setattr have no safe wrapper"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The side of a fork.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old process, with the number of the new one.
    Parent(i32),
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks the process.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the helper is single-threaded here, so the child's memory, locks included, is in a sound state.
    match check(i64::from(unsafe { libc::fork() }))? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Forks; the child starts in the control group `cgroup`, as the first process of a new pid namespace. When that fails
/// no namespace is left behind: an unshared one would accept no further process.
pub(crate) fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    fork_as_first(CLONE_INTO_CGROUP, cgroup.as_raw_fd() as u64)
}

/// Forks; the child is the first process of a new pid namespace, and this process stays outside of it.
pub(crate) fn fork_into_namespace() -> io::Result<Fork> {
    fork_as_first(0, 0)
}

fn fork_as_first(more_flags: u64, cgroup: u64) -> io::Result<Fork> {
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let args = CloneArgs {
        flags: more_flags | libc::CLONE_NEWPID as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup,
        ..CloneArgs::default()
    };
    // SAFETY: without a stack of its own and without CLONE_VM the child is a copy, as with `fork`, which this replaces
    // for the sake of the control group and the namespace alone; the helper is single-threaded, so its memory is in a
    // sound state.
    match check(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<CloneArgs>()) })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Ends the process at once, without running destructors that belong to the other side of a fork.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Leaves the namespaces that `flags` (`CLONE_NEW…`) names.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: only namespaces are unshared, no memory and no file table.
    check(i64::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Replaces the program. Returns only when that failed.
pub(crate) fn exec(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Waits for a child (`-1`: any). Returns its number and its exit code, 128 + the signal's number after a signal;
/// `None` when it has not ended and `block` is false.
pub(crate) fn wait(pid: i32, block: bool) -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid pointer.
        let result = unsafe { libc::waitpid(pid, &mut status, if block { 0 } else { libc::WNOHANG }) };
        match check(i64::from(result)) {
            Ok(0) => return Ok(None),
            Ok(pid) if libc::WIFEXITED(status) => return Ok(Some((pid as i32, libc::WEXITSTATUS(status)))),
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some((pid as i32, 128 + libc::WTERMSIG(status))));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Blocks `signals`, so that [`next_signal`] returns them.
pub(crate) fn block_signals(signals: &[i32]) {
    with_signal_set(signals, |set| {
        // SAFETY: `set` is initialised; the old mask is not requested.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, set, std::ptr::null_mut()) };
    });
}

/// Waits for one of the blocked `signals`.
pub(crate) fn next_signal(signals: &[i32]) -> Option<i32> {
    let mut signal = 0;
    with_signal_set(signals, |set| {
        // SAFETY: `set` is initialised; the details are not requested.
        signal = unsafe { libc::sigwaitinfo(set, std::ptr::null_mut()) };
    });
    (signal > 0).then_some(signal)
}

fn with_signal_set(signals: &[i32], f: impl FnOnce(&libc::sigset_t)) {
    // SAFETY: all zeroes is a valid bit pattern, and `sigemptyset` makes it a valid set.
    let mut set = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    // SAFETY: `set` is valid; an invalid signal number is refused without effect.
    unsafe {
        libc::sigemptyset(&mut set);
        for &signal in signals {
            libc::sigaddset(&mut set, signal);
        }
    }
    f(&set);
}

/// Resets every signal to its default action and unblocks all, as a new program expects.
pub(crate) fn reset_signals() {
    with_signal_set(&[], |set| {
        // SAFETY: `set` is initialised.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, set, std::ptr::null_mut()) };
    });
    // The C library reserves two signals and would refuse them.
    #[repr(C)]
    struct KernelAction([usize; 3], u64);
    let default = KernelAction([0; 3], 0);
    for signal in 1..=64 {
        // SAFETY: the kernel reads an action, whose parts are all zero: the default action, which runs no code of ours,
        // no flags, and an empty mask of eight bytes. SIGKILL and SIGSTOP are refused without effect.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &default, std::ptr::null_mut::<u8>(), 8_usize)
        };
    }
}

/// Lets the kernel reap ended children.
pub(crate) fn ignore_children() {
    // SAFETY: ignoring runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Whether this process ignores the signals by which a terminal, or a manager of processes, ends a whole group of them.
pub(crate) fn ignore_interrupts(ignores: bool) {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: neither action runs code of ours.
        unsafe { libc::signal(signal, if ignores { libc::SIG_IGN } else { libc::SIG_DFL }) };
    }
}

/// Lets [`wait`] report ended children.
pub(crate) fn notice_children() {
    // SAFETY: the default action runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Sends a signal; a missing process is not an error.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: plain numbers.
    unsafe { libc::kill(pid, signal) };
}

/// Asks for SIGKILL when the parent dies, and makes sure that it has not died already.
pub(crate) fn die_with_parent(parent: i32) {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // A parent outside this pid namespace has the number 0. SAFETY: no arguments.
    let now = unsafe { libc::getppid() };
    if now != parent && now != 0 {
        exit_now(1);
    }
}

/// Makes this process the parent of the orphans below it.
pub(crate) fn set_subreaper() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })).map(drop)
}

/// Asks for `signal` when the parent dies; 0 for none.
pub(crate) fn signal_at_death_of_parent(signal: i32) {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// The number of this process.
pub(crate) fn own_pid() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() }
}

/// Prevents other processes from tracing this one.
pub(crate) fn hide_memory() {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
}

/// Sets the supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length belong to one slice.
    check(i64::from(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })).map(drop)
}

/// Sets real, effective and saved user and group.
pub(crate) fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::setresgid(gid, gid, gid) }))?;
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::setresuid(uid, uid, uid) })).map(drop)
}

/// Sets the host name of the namespace.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong to one string.
    check(i64::from(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })).map(drop)
}

/// The number of the last capability that the kernel knows.
pub(crate) fn last_capability() -> u32 {
    // SAFETY: plain numbers.
    (0..64).take_while(|&cap| unsafe { libc::prctl(libc::PR_CAPBSET_READ, cap) } >= 0).last().unwrap_or(40)
}

/// The name of a capability that the sandbox itself needs.
pub(crate) fn capability_name(capability: u32) -> String {
    const NAMES: &[(u32, &str)] = &[
        (0, "CHOWN"),
        (1, "DAC_OVERRIDE"),
        (3, "FOWNER"),
        (5, "KILL"),
        (6, "SETGID"),
        (7, "SETUID"),
        (18, "SYS_CHROOT"),
        (27, "MKNOD"),
    ];
    match NAMES.iter().find(|(number, _)| *number == capability) {
        Some((_, name)) => format!("CAP_{name}"),
        None => format!("capability {capability}"),
    }
}

/// Removes a capability from the bounding set.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })).map(drop)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// The effective capabilities, a bit each.
pub(crate) fn effective_capabilities() -> u64 {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data records.
    let result = unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) };
    if result < 0 { 0 } else { u64::from(data[0].effective) | u64::from(data[1].effective) << 32 }
}

/// Keeps the permitted capabilities across a change of user.
pub(crate) fn keep_capabilities() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })).map(drop)
}

/// Makes capabilities inheritable and ambient, so that every new program keeps them.
pub(crate) fn raise_ambient_capabilities(bits: u64) -> io::Result<()> {
    write_capabilities(bits, bits)?;
    for capability in (0..u64::BITS).filter(|capability| bits >> capability & 1 == 1) {
        // SAFETY: plain numbers.
        let result =
            unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
        check(i64::from(result))?;
    }
    Ok(())
}

/// Sets the permitted and effective capabilities and empties the inheritable and ambient ones.
pub(crate) fn set_capabilities(bits: u64) -> io::Result<()> {
    write_capabilities(bits, 0)
}

fn write_capabilities(bits: u64, inheritable: u64) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let record = |bits: u32, inheritable: u32| CapData { effective: bits, permitted: bits, inheritable };
    let data =
        [record(bits as u32, inheritable as u32), record((bits >> 32) as u32, (inheritable >> 32) as u32)];
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    // SAFETY: version 3 takes a header and two data records.
    check(unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) }).map(drop)
}

/// The number of the first unused loop device; 0 when it is unknown.
pub(crate) fn free_loop_device() -> u32 {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
    let Ok(control) = std::fs::File::options().read(true).write(true).open("/dev/loop-control") else {
        return 0;
    };
    // SAFETY: this request takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).unwrap_or(0)
}

/// Installs a system call filter, without `no_new_privs`: the caller must have CAP_SYS_ADMIN in its namespace.
pub(crate) fn install_filter(program: &[seccompiler::sock_filter]) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// Installs a notifying filter and returns its listener. The caller must have CAP_SYS_ADMIN in its namespace.
pub(crate) fn install_notifying_filter(program: &[seccompiler::sock_filter]) -> io::Result<OwnedFd> {
    // A signal must not make a program repeat a call that is already done; older kernels do not guarantee that.
    let fd = set_filter(
        program,
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    )
    .or_else(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => set_filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        _ => Err(e),
    })?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn set_filter(program: &[seccompiler::sock_filter], flags: libc::c_ulong) -> io::Result<i64> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` points to as many instructions as it says, of the layout that the kernel defines; the kernel
    // checks and copies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter) })
}

/// Brings the loopback interface of the network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all zeroes is a valid request.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`.
    check(i64::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })).map(drop)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (`MOUNT_ATTR_…`) of a mount, and of all mounts below it when `recursive`.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    change_mount(mount, set, 0, recursive)
}

/// Clears attributes (`MOUNT_ATTR_…`) of a mount.
pub(crate) fn mount_clearattr(mount: BorrowedFd<'_>, clear: u64) -> io::Result<()> {
    change_mount(mount, 0, clear, false)
}

fn change_mount(mount: BorrowedFd<'_>, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr { set, clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty path is a valid string, and the size is that of the structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attributes,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// One instruction of a BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BpfInstruction {
    pub(crate) code: u8,
    /// The destination in the low four bits, the source in the high ones.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) value: i32,
}

/// Loads a BPF program that decides which devices a control group may open.
pub(crate) fn load_device_program(program: &[BpfInstruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    const PROG_LOAD: i32 = 5;
    const CGROUP_DEVICE: u32 = 15;
    let load = Load {
        kind: CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structure is a prefix of the kernel's, its size is given, and the memory that it points to outlives
    // the call; the kernel checks the program.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<Load>()) })?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a control group, in addition to existing ones.
pub(crate) fn attach_device_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const PROG_ATTACH: i32 = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is a prefix of the kernel's, and its size is given.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<Attach>()) }).map(drop)
}

/// Denies this process and its children the abstract sockets of all other processes (Landlock, since Linux 6.12). The
/// caller must have CAP_SYS_ADMIN in its namespace.
pub(crate) fn hide_abstract_sockets() -> io::Result<()> {
    #[repr(C)]
    struct Ruleset {
        files: u64,
        network: u64,
        scoped: u64,
    }
    const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    let rules = Ruleset { files: 0, network: 0, scoped: SCOPE_ABSTRACT_UNIX_SOCKET };
    // SAFETY: the size is that of the structure.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &rules, size_of::<Ruleset>(), 0) })?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    let rules = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) }).map(drop)
}

/// Whether [`hide_abstract_sockets`] is possible.
pub(crate) fn can_hide_abstract_sockets() -> bool {
    const GET_VERSION: u32 = 1;
    /// The first version with scopes.
    const WITH_SCOPES: i64 = 6;
    // SAFETY: with this flag the kernel takes no structure and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, GET_VERSION) };
    version >= WITH_SCOPES
}

/// Marks every file above `keep_up_to` close-on-exec.
pub(crate) fn close_on_exec_above(keep_up_to: u32) {
    // SAFETY: the files are only marked.
    unsafe { libc::syscall(libc::SYS_close_range, keep_up_to + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes every file above `keep_up_to`, such as files that the caller let its children inherit.
pub(crate) fn close_above(keep_up_to: u32) {
    // SAFETY: the helper has just started and owns only the first three files; it never returns to code that owns
    // others.
    unsafe { libc::syscall(libc::SYS_close_range, keep_up_to + 1, u32::MAX, 0) };
}

/// Duplicates a borrowed descriptor onto a low number such as standard output.
pub(crate) fn duplicate_to(file: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: nothing in the helper owns the numbers 0 to 2 after the request was read.
    check(i64::from(unsafe { libc::dup2(file.as_raw_fd(), number) })).map(drop)
}
