//! The numbers of the system calls that filters decide about by their arguments, for every ABI of a machine. The calls
//! that are allowed with any arguments are in [`super::allowed`].

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
    /// The name.
    pub(super) name: &'static str,
    numbers: [Option<u32>; 4],
}

/// The newest call that the lists know, in every ABI: `open_tree_attr` of Linux 6.15. What has a higher number is new.
pub(super) const NEWEST: u32 = 467;

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

/// A call by its numbers on 64-bit x86, 32-bit x86, the 64-bit machines that share a table, and 32-bit ARM; -1 for none.
pub(super) const fn call(name: &'static str, numbers: [i32; 4]) -> Call {
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
pub(super) const fn new(name: &'static str, number: i32) -> Call {
    call(name, [number; 4])
}

/// Makes a process; the flags are the first argument everywhere.
pub(super) const CLONE: Call = call("clone", [56, 120, 220, 120]);
/// Makes a process; the flags are in a structure, which filters cannot read.
pub(super) const CLONE3: Call = new("clone3", 435);
/// Sets how the kernel treats the process; the persona is the first argument.
pub(super) const PERSONALITY: Call = call("personality", [135, 136, 92, 136]);
/// Makes a socket; the family is the first argument, the type the second one.
pub(super) const SOCKET: Call = call("socket", [41, 359, 198, 281]);
/// The old call for all socket operations: the first argument selects one, and its arguments are in memory.
pub(super) const SOCKETCALL: Call = call("socketcall", [-1, 102, -1, 102]);
/// The first argument of [`SOCKETCALL`] that makes a socket.
pub(super) const SOCKETCALL_SOCKET: u32 = 1;
