//! A root file system of this machine's own tools: the base image of the quickstart, without a download.
//!
//! ```text
//!   a static busybox is found:  bin/busybox and links to it
//!   else:                       bin/TOOL copied, lib/hyper/*.so, the dynamic linker at the path that the tools name
//! ```
//! The libraries are those that the dynamic linker lists. An image of the folder needs
//! `LD_LIBRARY_PATH=/lib/hyper` in its environment.

use hyper_sdk::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the libraries are in the root file system.
const LIBRARIES: &str = "lib/hyper";
/// The folders, with their modes.
const FOLDERS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("etc", 0o755),
    (LIBRARIES, 0o755),
    ("root", 0o700),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// The content of the root file system.
#[derive(Debug)]
pub(crate) struct HostTools {
    /// One line for people.
    pub(crate) made_of: String,
    /// The size of the programs and libraries in bytes.
    pub(crate) size: u64,
}

/// Puts `sh` and these tools into the folder `root`, with all that they need to run.
///
/// # Errors
/// [`ErrorKind::NotFound`] when a tool or a library is missing on this machine.
pub(crate) fn copy_tools(root: &Path, tools: &[&str]) -> Result<HostTools> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(PathBuf::from));
    copy_tools_of(&folders, root, tools)
}

fn copy_tools_of(folders: &[PathBuf], root: &Path, tools: &[&str]) -> Result<HostTools> {
    for (name, mode) in FOLDERS {
        let path = root.join(name);
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)))
            .map_err(|e| Error::io("cannot make the folder", path, e))?;
    }
    for (name, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        let path = root.join(name);
        fs::write(&path, text).map_err(|e| Error::io("cannot write the file", path, e))?;
    }
    let tools = || ["sh"].iter().chain(tools);
    if let Some(busybox) = static_busybox(folders) {
        let size = copy(&busybox, &root.join("bin/busybox"))?;
        for tool in tools() {
            link("busybox", &root.join("bin").join(tool))?;
        }
        return Ok(HostTools { made_of: format!("the static {}", busybox.display()), size });
    }

    // A program with many names, such as busybox or uutils, is copied once.
    let mut programs: BTreeMap<PathBuf, &str> = BTreeMap::new();
    let mut needed = Needed::default();
    let mut size = 0;
    for tool in tools() {
        let found = find(folders, tool).ok_or_else(|| {
            let message = "this machine has no such tool for the base image: install it, or a static busybox";
            Error::new(ErrorKind::NotFound, message).with_context("tool", tool)
        })?;
        let real = found.canonicalize().map_err(|e| Error::io("cannot resolve the tool", &found, e))?;
        let place = root.join("bin").join(tool);
        if let Some(first) = programs.get(&real) {
            link(first, &place)?;
            continue;
        }
        needed.add(&real)?;
        size += copy(&real, &place)?;
        programs.insert(real, tool);
    }
    let made_of =
        format!("{} tools of this machine and {} libraries", programs.len(), needed.libraries.len());
    for (name, library) in needed.libraries {
        size += copy(&library, &root.join(LIBRARIES).join(name))?;
    }
    for linker in needed.linkers {
        size += copy(&linker, &root.join(linker.strip_prefix("/").unwrap_or(&linker)))?;
    }
    Ok(HostTools { made_of, size })
}

fn static_busybox(folders: &[PathBuf]) -> Option<PathBuf> {
    let names = ["busybox", "busybox.static", "busybox-static"];
    let mut found = names.iter().filter_map(|name| find(folders, name));
    found.find(|path| fs::read(path).ok().and_then(|program| linkage(&program)) == Some(Linkage::Static))
}

fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().filter(|f| f.is_absolute()).map(|f| f.join(name)).find(|p| p.is_file())
}

fn copy(from: &Path, to: &Path) -> Result<u64> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).map_err(|e| Error::io("cannot make the folder", parent, e))?;
    let size = fs::copy(from, to).map_err(|e| Error::io("cannot copy a tool of this machine", from, e))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .map_err(|e| Error::io("cannot set the mode of the file", to, e))?;
    Ok(size)
}

fn link(target: &str, place: &Path) -> Result<()> {
    symlink(target, place).map_err(|e| Error::io("cannot make the link", place, e))
}

/// The dynamic linkers and libraries that the tools need.
#[derive(Debug, Default)]
struct Needed {
    linkers: BTreeSet<PathBuf>,
    libraries: BTreeMap<String, PathBuf>,
}

impl Needed {
    /// Adds what a program needs: its dynamic linker, and the libraries that this one finds for it.
    fn add(&mut self, program: &Path) -> Result<()> {
        let bytes =
            fs::read(program).map_err(|e| Error::io("cannot read a tool of this machine", program, e))?;
        let linkage = linkage(&bytes).ok_or_else(|| {
            Error::unsupported("this tool is not a 64-bit little-endian ELF program, so it cannot be copied")
                .with_context("path", program.display())
        })?;
        let Linkage::Dynamic(linker) = linkage else { return Ok(()) };
        let listed = Command::new(&linker).env_remove("LD_PRELOAD").arg("--list").arg(program).output();
        let listed = listed.map_err(|e| Error::io("cannot run the dynamic linker", &linker, e))?;
        for (name, path) in libraries(&String::from_utf8_lossy(&listed.stdout)) {
            if !Path::new(path).is_absolute() {
                let message = "a library of a tool is not found on this machine";
                return Err(Error::new(ErrorKind::NotFound, message)
                    .with_context("library", name)
                    .with_context("tool", program.display()));
            }
            self.libraries.insert(name.to_owned(), path.into());
        }
        if !listed.status.success() {
            let message = "the dynamic linker cannot list the libraries of a tool";
            return Err(Error::new(ErrorKind::Io, message)
                .with_context("tool", program.display())
                .with_context("linker", &linker)
                .with_context("output", String::from_utf8_lossy(&listed.stderr).trim()));
        }
        self.linkers.insert(linker.into());
        Ok(())
    }
}

/// The names and paths in a list of the dynamic linker: `NAME => PATH (ADDRESS)`. A library that is missing has the
/// path `not found`.
fn libraries(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let path = rest.rsplit_once(" (0x").map_or(rest, |(path, _)| path);
        // A library that is named with its path is the dynamic linker.
        (!name.contains('/')).then_some((name, path.trim()))
    })
}

/// How a program finds its libraries.
#[derive(Debug, PartialEq, Eq)]
enum Linkage {
    /// It needs none.
    Static,
    /// The dynamic linker at this path loads them.
    Dynamic(String),
}

/// Reads the program headers of a 64-bit little-endian ELF program; `None` for anything else.
fn linkage(program: &[u8]) -> Option<Linkage> {
    const PT_INTERP: u64 = 3;
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let number = |at: u64, width: usize| {
        let at = usize::try_from(at).ok()?;
        let field = program.get(at..at.checked_add(width)?)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let header = start.checked_add(index * size)?;
        if number(header, 4)? == PT_INTERP {
            let (offset, length) = (number(header.checked_add(8)?, 8)?, number(header.checked_add(32)?, 8)?);
            let offset = usize::try_from(offset).ok()?;
            let path = program.get(offset..offset.checked_add(usize::try_from(length).ok()?)?)?;
            let path = path.split(|byte| *byte == 0).next()?;
            return String::from_utf8(path.to_vec()).ok().map(Linkage::Dynamic);
        }
    }
    Some(Linkage::Static)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_folders() -> Vec<PathBuf> {
        ["/bin", "/usr/bin"].map(PathBuf::from).to_vec()
    }

    #[test]
    fn the_tools_run_in_the_root_file_system() {
        // A folder without busybox, so that the tools themselves are copied.
        let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for tool in ["sh", "sort"] {
            let real = find(&host_folders(), tool).unwrap().canonicalize().unwrap();
            symlink(real, folder.path().join(tool)).unwrap();
        }
        let tools = copy_tools_of(&[folder.path().to_owned()], root.path(), &["sort"]).unwrap();
        assert!(tools.size > 0 && tools.made_of.contains("tools of this machine"), "{tools:?}");
        let sort = root.path().join("bin/sort");
        // The copied dynamic linker finds all libraries among the copies.
        let mut run = match linkage(&fs::read(&sort).unwrap()).unwrap() {
            Linkage::Static => Command::new(&sort),
            Linkage::Dynamic(linker) => {
                let mut run = Command::new(root.path().join(linker.trim_start_matches('/')));
                run.arg("--library-path").arg(root.path().join(LIBRARIES)).arg(&sort);
                run
            }
        };
        let listed: Vec<_> = fs::read_dir(root.path().join(LIBRARIES)).unwrap().collect();
        assert!(run.arg("--version").output().unwrap().status.success(), "{run:?} {listed:?}");
        for (name, mode) in FOLDERS {
            let found = fs::metadata(root.path().join(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, *mode, "{name}");
        }
    }

    #[test]
    fn a_missing_tool_is_named() {
        let (empty, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let e = copy_tools_of(&[empty.path().to_owned()], root.path(), &[]).unwrap_err();
        assert_eq!((e.kind(), e.context_value("tool")), (ErrorKind::NotFound, Some("sh")));
    }

    #[test]
    fn lists_of_both_dynamic_linkers_are_read() {
        let glibc = "\tlinux-vdso.so.1 (0x00007ffd)\n\tliba.so.1 => /lib/x/liba.so.1 (0x00007f)\n\
                     \tlibb.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [("liba.so.1", "/lib/x/liba.so.1"), ("libb.so", "not found")];
        assert_eq!(libraries(glibc).collect::<Vec<_>>(), expected);
        let musl = "\t/lib/ld-musl-x86_64.so.1 (0x7f)\n\
                    \tlibc.musl-x86_64.so.1 => /lib/ld-musl-x86_64.so.1 (0x7f)\n";
        let expected = [("libc.musl-x86_64.so.1", "/lib/ld-musl-x86_64.so.1")];
        assert_eq!(libraries(musl).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn damaged_programs_are_rejected_without_a_panic() {
        let bytes = fs::read("/bin/sh").unwrap();
        assert_eq!(linkage(b"#!/bin/sh\n"), None);
        assert!(linkage(&bytes).is_some());
        for cut in (0..bytes.len().min(4096)).step_by(7) {
            let _ = linkage(&bytes[..cut]);
        }
        for at in 0..bytes.len().min(1024) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = linkage(&damaged);
        }
    }
}
