//! Looks at the program of a command before another program starts it.

use crate::sandbox::view;
use crate::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

/// How much of a program is read: its header, or its first line.
const HEADER: usize = 4096;
/// The most entries of a table of segments that are read.
const MAX_SEGMENTS: u64 = 512;
const PT_INTERP: u32 = 3;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A program.
    Program,
    /// Something that nobody may execute.
    Denied,
    /// Nothing.
    Nothing,
}

/// The error for a program whose interpreter is missing.
pub(super) fn no_interpreter() -> Error {
    Error::invalid(
        "the program exists, but its interpreter (the first line of a script, or the loader of a dynamically linked \
         program) does not",
    )
}

/// The error for a program that the kernel does not take.
pub(super) fn wrong_kind() -> Error {
    Error::invalid(
        "the program cannot be executed here: it is for another kind of machine, or a script without a first line that \
         names its interpreter",
    )
}

/// Looks at a path of a tree. Whether this user may execute it is for the kernel to say.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a program whose interpreter is missing, [`crate::ErrorKind::Unsupported`] for one of
/// 32-bit x86 on a 64-bit machine: see [`super::seccomp::section`].
pub(super) fn look(root: BorrowedFd<'_>, path: &str) -> Result<Found> {
    let place = match view::open_in(root, path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(Found::Nothing),
        Err(Errno::ACCESS) => return Ok(Found::Denied),
        Err(e) => return Err(Error::io("cannot open the program", path, e.into())),
    };
    let stat = rustix::fs::fstat(&place).map_err(|e| Error::io("cannot stat", path, e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0 {
        return Ok(Found::Denied);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(view::fd_path(&place), flags, Mode::empty()) else {
        return Ok(Found::Program);
    };
    let file = std::fs::File::from(file);
    let mut header = vec![0; HEADER];
    let Ok(length) = file.read_at(&mut header, 0) else { return Ok(Found::Program) };
    header.truncate(length);
    if cfg!(target_arch = "x86_64") && header.starts_with(b"\x7fELF\x01\x01") && header.get(18) == Some(&3) {
        return Err(Error::unsupported(
            "the program is one of 32-bit x86, for which a runtime cannot make the system call filter of a step: build \
             with the native executor",
        ));
    }
    match interpreter(&file, &header) {
        Some(name)
            if matches!(view::open_in(root, &name, OFlags::PATH), Err(Errno::NOENT | Errno::NOTDIR)) =>
        {
            Err(no_interpreter())
        }
        _ => Ok(Found::Program),
    }
}

/// The absolute path of the interpreter that a script or a dynamically linked program of this machine names.
fn interpreter(file: &std::fs::File, header: &[u8]) -> Option<String> {
    if let Some(line) = header.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let name = std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?;
        return name.starts_with('/').then(|| name.to_owned());
    }
    // 64-bit, least significant byte first.
    if !header.starts_with(b"\x7fELF\x02\x01") || machine(header)? != own_machine()? {
        return None;
    }
    let number = |at: usize, size: usize| {
        let bytes = header.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count.min(MAX_SEGMENTS) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table.checked_add(index * size)?).ok()?;
        let field = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap_or_default());
        if u32::from_le_bytes(entry[..4].try_into().unwrap_or_default()) == PT_INTERP {
            let mut name = vec![0; usize::try_from(field(32)).ok().filter(|length| *length <= HEADER)?];
            file.read_exact_at(&mut name, field(8)).ok()?;
            let name = name.strip_suffix(b"\0").unwrap_or(&name);
            return String::from_utf8(name.to_vec()).ok().filter(|name| name.starts_with('/'));
        }
    }
    None
}

fn machine(header: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(header.get(18..20)?.try_into().ok()?))
}

/// The number of this machine in the header of a program; programs of others may have an emulator.
fn own_machine() -> Option<u16> {
    match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        "riscv64" => Some(243),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_keeps_a_program_from_being_started_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = view::open_folder(folder.path()).unwrap();
        let put = |name: &str, mode: u32, content: &[u8]| {
            std::fs::write(folder.path().join(name), content).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path().join(name), mode).unwrap();
        };
        let look = |path: &str| look(root.as_fd(), path);
        put("sh", 0o755, b"anything");
        put("plain", 0o644, b"anything");
        put("script", 0o755, b"#! /sh -e\nexit\n");
        put("lost", 0o755, b"#!/no/such/sh\nexit\n");
        put("relative", 0o755, b"#!no/such/sh\nexit\n");
        put("short", 0o755, b"\x7fELF\x02\x01");
        put("old", 0o755, b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0");
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("/sh", folder.path().join("link")).unwrap();
        for path in ["/sh", "sh", "/script", "/link", "/relative", "/short"] {
            assert_eq!(look(path).unwrap(), Found::Program, "{path}");
        }
        for path in ["/plain", "/folder"] {
            assert_eq!(look(path).unwrap(), Found::Denied, "{path}");
        }
        for path in ["/none", "/sh/none", "/folder/none"] {
            assert_eq!(look(path).unwrap(), Found::Nothing, "{path}");
        }
        assert_eq!(look("/lost").unwrap_err().kind(), crate::ErrorKind::Invalid);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(look("/old").unwrap_err().kind(), crate::ErrorKind::Unsupported);
        }
    }

    #[test]
    fn a_program_without_its_loader_is_found() {
        // The program of this test has a loader, where it is linked dynamically.
        let own = std::fs::File::open("/proc/self/exe").unwrap();
        let mut header = vec![0; HEADER];
        own.read_exact_at(&mut header, 0).unwrap();
        let Some(name) = interpreter(&own, &header) else {
            assert!(cfg!(target_feature = "crt-static") || own_machine().is_none(), "a loader was not found");
            return;
        };
        assert!(std::path::Path::new(&name).exists(), "{name}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy("/proc/self/exe", folder.path().join("program")).unwrap();
        let root = view::open_folder(folder.path()).unwrap();
        let look = || look(root.as_fd(), "/program");
        assert_eq!(look().unwrap_err().kind(), crate::ErrorKind::Invalid);
        let loader = folder.path().join(name.trim_start_matches('/'));
        std::fs::create_dir_all(loader.parent().unwrap()).unwrap();
        std::fs::write(loader, "").unwrap();
        assert_eq!(look().unwrap(), Found::Program);
    }
}
