//! The numbers of the system calls in filters, for every ABI of a machine.

/// The ABI of a program, as the kernel reports it to filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    /// 64-bit x86. The x32 interface has the same mark; its numbers have an extra bit.
    X86_64,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
    /// 64-bit RISC-V, whose numbers are those of 64-bit ARM.
    Riscv64,
}

impl Abi {
    /// The ABIs that a machine runs; empty for an unsupported machine.
    pub(super) fn of_machine(machine: &str) -> &'static [Self] {
        match machine {
            "x86_64" => &[Self::X86_64, Self::I386],
            "aarch64" => &[Self::Aarch64, Self::Arm],
            "riscv64" => &[Self::Riscv64],
            _ => &[],
        }
    }

    /// The mark (`AUDIT_ARCH_…`).
    pub(super) fn mark(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }
}

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The name, for tests and debugging.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare it with what the C library says"))]
    pub(super) name: &'static str,
    numbers: [Option<u32>; 4],
}

impl Call {
    /// The number, if this ABI has the call.
    pub(super) fn number(&self, abi: Abi) -> Option<u32> {
        self.numbers[match abi {
            Abi::X86_64 => 0,
            Abi::I386 => 1,
            Abi::Aarch64 | Abi::Riscv64 => 2,
            Abi::Arm => 3,
        }]
    }
}

const fn call(name: &'static str, numbers: [i32; 4]) -> Call {
    let mut known = [None; 4];
    let mut at = 0;
    while at < 4 {
        if numbers[at] >= 0 {
            known[at] = Some(numbers[at] as u32);
        }
        at += 1;
    }
    Call { name, numbers: known }
}

/// A call with the same number in every ABI, as all calls since Linux 5.1.
const fn new(name: &'static str, number: i32) -> Call {
    call(name, [number; 4])
}

/// Makes a process; the flags are the first argument everywhere.
pub(super) const CLONE: Call = call("clone", [56, 120, 220, 120]);
/// Makes a process; the flags are in a structure, which filters cannot read.
pub(super) const CLONE3: Call = new("clone3", 435);
/// Makes a socket; the family is the first argument.
pub(super) const SOCKET: Call = call("socket", [41, 359, 198, 281]);
/// The old call for all socket operations: the first argument selects one, and its arguments are in memory.
pub(super) const SOCKETCALL: Call = call("socketcall", [-1, 102, -1, 102]);
/// The first argument of [`SOCKETCALL`] that makes a socket.
pub(super) const SOCKETCALL_SOCKET: u32 = 1;

/// Denied in every step.
pub(super) const DENIED: &[Call] = &[
    call("acct", [163, 51, 89, 51]),
    call("add_key", [248, 286, 217, 309]),
    call("bpf", [321, 357, 280, 386]),
    call("clock_adjtime", [305, 343, 266, 372]),
    call("clock_adjtime64", [-1, 405, -1, 405]),
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
];
