//! Whether this machine runs the programs of a platform: by itself, or through an emulator that is registered with the kernel
//! (binfmt_misc).
//!
//! The kernel's list of emulators is read where it is mounted. Elsewhere, as in most containers, a program of a few
//! instructions that ends at once is run: the kernel knows its emulators there, too.

use crate::platform::Platform;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the kernel lists the emulators.
const LIST: &str = "/proc/sys/fs/binfmt_misc";

/// How this machine runs the programs of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// By itself, or with an emulator that every step can reach.
    Yes,
    /// With an emulator that is looked for in the files of the step, as it was registered without the flag `F`.
    WithFile(String),
    /// Not at all.
    No,
    /// Nobody knows before a program is tried: the kernel did not say, or the form of the programs is not known here.
    Unknown,
}

/// Finds out how this machine runs the programs of a platform. Blocks while it tries.
pub(crate) fn runs(platform: &Platform) -> Runs {
    let host = Platform::host();
    if platform.os != host.os {
        return Runs::No;
    }
    // Which variants a processor has is for the programs to find out.
    if platform.architecture == host.architecture {
        return Runs::Yes;
    }
    let Some(program) = program(&platform.architecture) else { return Runs::Unknown };
    // Some processors run the programs of an older one, if the kernel lets them.
    let may_need_none =
        matches!((&*host.architecture, &*platform.architecture), ("amd64", "386") | ("arm64", "arm"));
    decide(listed(Path::new(LIST), &program), || starts(&program), may_need_none)
}

/// The answer, from that of the list and from whether a program starts.
fn decide(listed: Option<Runs>, starts: impl FnOnce() -> Option<bool>, may_need_none: bool) -> Runs {
    let is_missing = match listed {
        Some(Runs::No) => !may_need_none,
        Some(runs) => return runs,
        None => false,
    };
    match starts() {
        Some(true) => Runs::Yes,
        Some(false) => Runs::No,
        None if is_missing => Runs::No,
        None => Runs::Unknown,
    }
}

/// What the list of emulators says of a program: [`Runs::No`] when none is for it, `None` when the list cannot be seen.
fn listed(list: &Path, program: &[u8]) -> Option<Runs> {
    if std::fs::read_to_string(list.join("status")).ok()?.trim() != "enabled" {
        return None;
    }
    let mut found = Runs::No;
    for entry in std::fs::read_dir(list).ok()?.flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        if let Some(emulator) = Emulator::parse(&text)
            && emulator.takes(program)
        {
            if emulator.is_open {
                return Some(Runs::Yes);
            }
            found = Runs::WithFile(emulator.interpreter);
        }
    }
    Some(found)
}

/// An entry of the list.
#[derive(Debug, PartialEq, Eq)]
struct Emulator {
    interpreter: String,
    /// Whether the kernel keeps the interpreter open, so that it is found whatever the files of a process are.
    is_open: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Emulator {
    /// Parses the text of an entry; `None` for one that is disabled, and for one that goes by the names of files.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "enabled" {
            return None;
        }
        let field = |name: &str| lines.clone().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let magic = hex(field("magic ")?)?;
        let mask = match field("mask ") {
            Some(mask) => hex(mask)?,
            None => vec![0xff; magic.len()],
        };
        Some(Self {
            interpreter: field("interpreter ")?.to_owned(),
            is_open: field("flags:").is_some_and(|flags| flags.contains('F')),
            offset: field("offset ")?.parse().ok()?,
            magic,
            mask,
        })
    }

    fn takes(&self, program: &[u8]) -> bool {
        let Some(bytes) = program.get(self.offset..) else { return false };
        bytes.len() >= self.magic.len()
            && self.magic.len() == self.mask.len()
            && bytes
                .iter()
                .zip(&self.magic)
                .zip(&self.mask)
                .all(|((byte, magic), mask)| (byte ^ magic) & mask == 0)
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Whether the kernel starts a program, which ends with success: `Some(false)` when it does not know the format, `None` when
/// something else was in the way.
fn starts(program: &[u8]) -> Option<bool> {
    let run = || -> std::io::Result<bool> {
        // An emulator opens it again, so it stays open in the new process. Kernels before 6.3 do not know the flag.
        let file = match memfd_create("probe", MemfdFlags::EXEC) {
            Err(Errno::INVAL) => memfd_create("probe", MemfdFlags::empty())?,
            file => file?,
        };
        let mut file = std::fs::File::from(file);
        file.write_all(program)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.env_clear().current_dir("/");
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(status.success())
    };
    match run() {
        Ok(true) => Some(true),
        Err(e) if e.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => Some(false),
        Ok(false) | Err(_) => None,
    }
}

/// An architecture, as the header of a program names it.
struct Header {
    /// The number of the machine in ELF.
    machine: u16,
    flags: u32,
    is_64: bool,
    is_little: bool,
    /// The instructions of `exit(0)`.
    code: &'static [u8],
}

/// How programs of an architecture look.
#[rustfmt::skip]
fn header(architecture: &str) -> Option<Header> {
    let (machine, flags, is_64, is_little, code): (u16, u32, bool, bool, &'static [u8]) = match architecture {
        "386" => (3, 0, false, true, &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80]),
        "amd64" => (62, 0, true, true, &[0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 5]),
        "arm" => (40, 0x0500_0000, false, true, &[1, 0x70, 0xa0, 0xe3, 0, 0, 0xa0, 0xe3, 0, 0, 0, 0xef]),
        "arm64" => (183, 0, true, true, &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4]),
        "riscv64" => (243, 0, true, true, &[0x93, 8, 0xd0, 5, 0x13, 5, 0, 0, 0x73, 0, 0, 0]),
        "ppc64le" => (21, 2, true, true, &[1, 0, 0, 0x38, 0, 0, 0x60, 0x38, 2, 0, 0, 0x44]),
        "s390x" => (22, 0, true, false, &[0xa7, 0x29, 0, 0, 0x0a, 1]),
        "mips64le" => (8, 0x8000_0000, true, true, &[0xc2, 0x13, 2, 0x24, 0, 0, 4, 0x24, 0x0c, 0, 0, 0]),
        "mips64" => (8, 0x8000_0000, true, false, &[0x24, 2, 0x13, 0xc2, 0x24, 4, 0, 0, 0, 0, 0, 0x0c]),
        "loong64" => (258, 0x43, true, true, &[0x0b, 0x74, 0x81, 3, 4, 0, 0x80, 3, 0, 0, 0x2b, 0]),
        _ => return None,
    };
    Some(Header { machine, flags, is_64, is_little, code })
}

/// A program of an architecture that ends at once with success.
fn program(architecture: &str) -> Option<Vec<u8>> {
    /// Where it is loaded.
    const AT: u64 = 0x0040_0000;
    /// The largest page of any of the architectures.
    const PAGE: u64 = 0x0001_0000;
    let Header { machine, flags, is_64, is_little, code } = header(architecture)?;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_64), 2 - u8::from(is_little), 1];
    bytes.resize(16, 0);
    let mut put = |value: u64, length: usize| match is_little {
        true => bytes.extend(&value.to_le_bytes()[..length]),
        false => bytes.extend(&value.to_be_bytes()[8 - length..]),
    };
    let (word, of_file, of_segment) = if is_64 { (8, 64, 56) } else { (4, 52, 32) };
    let start = of_file + of_segment;
    let length = start + code.len() as u64;
    // A program that is run (2), the version of ELF (1), its entry, and where the table of segments is.
    for (value, length) in
        [(2, 2), (u64::from(machine), 2), (1, 4), (AT + start, word), (of_file, word), (0, word)]
    {
        put(value, length);
    }
    for (value, length) in
        [(u64::from(flags), 4), (of_file, 2), (of_segment, 2), (1, 2), (0, 2), (0, 2), (0, 2)]
    {
        put(value, length);
    }
    // One segment that is loaded (1), to be read and run (5).
    put(1, 4);
    if is_64 {
        put(5, 4);
    }
    for value in [0, AT, AT, length, length] {
        put(value, word);
    }
    if !is_64 {
        put(5, 4);
    }
    put(PAGE, word);
    bytes.extend(code);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_entry_of_the_list_is_for_the_programs_of_its_architecture() {
        let emulator = Emulator::parse(ARM64).unwrap();
        assert!(emulator.is_open && emulator.takes(&program("arm64").unwrap()));
        for other in ["386", "amd64", "arm", "riscv64", "ppc64le", "s390x", "mips64", "mips64le", "loong64"] {
            assert!(!emulator.takes(&program(other).unwrap()), "{other}");
        }
        assert!(!Emulator::parse(&ARM64.replace("POCF", "OC")).unwrap().is_open);
        for text in [
            "",
            "disabled\ninterpreter /x\nflags: \noffset 0\nmagic 7f\n",
            "enabled\ninterpreter /x\nflags: \nextension .py\n",
            "enabled\ninterpreter /x\nflags: \noffset 0\nmagic 7z\n",
            "enabled\ninterpreter /x\nflags: \noffset -1\nmagic 7f\n",
        ] {
            assert_eq!(Emulator::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_list_says_what_runs() {
        let list = tempfile::tempdir().unwrap();
        let program = program("arm64").unwrap();
        let write = |name: &str, text: &str| std::fs::write(list.path().join(name), text).unwrap();
        assert_eq!(listed(list.path(), &program), None);
        write("status", "enabled\n");
        write("register", "");
        assert_eq!(listed(list.path(), &program), Some(Runs::No));
        write("qemu-aarch64", &ARM64.replace("POCF", "OC"));
        let interpreter = "/usr/libexec/qemu-binfmt/aarch64-binfmt-P".to_owned();
        assert_eq!(listed(list.path(), &program), Some(Runs::WithFile(interpreter)));
        write("other", ARM64);
        assert_eq!(listed(list.path(), &program), Some(Runs::Yes));
        write("status", "disabled\n");
        assert_eq!(listed(list.path(), &program), None);
    }

    #[test]
    fn this_machine_runs_its_own_programs_and_none_of_another_system() {
        let host = Platform::host();
        assert_eq!(runs(&host), Runs::Yes);
        if let Some(program) = program(&host.architecture) {
            assert_eq!(starts(&program), Some(true));
        }
        assert_eq!(starts(b"no program"), Some(false));
        assert_eq!(runs(&Platform::new("windows", &host.architecture, None)), Runs::No);
        // An emulator may know what this program does not.
        assert_eq!(runs(&Platform::new(&host.os, "mipsle", None)), Runs::Unknown);
    }

    #[test]
    fn what_cannot_be_found_out_is_not_refused() {
        let file = Runs::WithFile("/x".to_owned());
        for (listed, starts, may_need_none, answer) in [
            (Some(Runs::Yes), None, false, Runs::Yes),
            (Some(file.clone()), Some(false), false, file),
            (Some(Runs::No), Some(true), false, Runs::Yes),
            (Some(Runs::No), Some(false), true, Runs::No),
            (Some(Runs::No), None, false, Runs::No),
            (Some(Runs::No), None, true, Runs::Unknown),
            (None, Some(true), false, Runs::Yes),
            (None, Some(false), false, Runs::No),
            (None, None, false, Runs::Unknown),
        ] {
            let shown = format!("{listed:?} {starts:?} {may_need_none}");
            assert_eq!(decide(listed, || starts, may_need_none), answer, "{shown}");
        }
    }

    /// Emulators start the programs, where they are installed under their usual names.
    #[test]
    fn emulators_run_the_programs() {
        let folder = tempfile::tempdir().unwrap();
        for (architecture, emulator) in [
            ("386", "i386"),
            ("amd64", "x86_64"),
            ("arm", "arm"),
            ("arm64", "aarch64"),
            ("riscv64", "riscv64"),
            ("ppc64le", "ppc64le"),
            ("s390x", "s390x"),
            ("mips64le", "mips64el"),
            ("mips64", "mips64"),
            ("loong64", "loongarch64"),
        ] {
            let path = folder.path().join(architecture);
            std::fs::write(&path, program(architecture).unwrap()).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            let emulator = format!("/usr/bin/qemu-{emulator}-static");
            match Command::new(&emulator).arg(&path).output() {
                Ok(output) => assert!(output.status.success(), "{architecture}: {output:?}"),
                Err(_) => println!("SKIPPED: there is no {emulator}"),
            }
        }
    }
}
