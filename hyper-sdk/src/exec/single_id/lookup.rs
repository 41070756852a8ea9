//! Looks up the paths that a process of a step names, as the kernel would for that process.

use crate::exec::notify::{self, Request};
use crate::layer::open_resolved;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const MAX_LINKS: usize = 40;

/// Where a lookup starts.
struct Start {
    /// `None` for the root of the supervisor, which is the step's.
    folder: Option<OwnedFd>,
    /// Whether the folder is the root of the process.
    is_root: bool,
    path: PathBuf,
}

/// A process that has made a call.
pub(super) struct Caller<'a> {
    /// `/proc` of the step.
    pub(super) proc: &'a OwnedFd,
    pub(super) pid: u32,
}

/// A name in a folder that exists.
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: Vec<u8>,
    /// Whether the path ends with a `/`.
    pub(super) slash: bool,
}

impl<'a> Caller<'a> {
    pub(super) fn new(proc: &'a OwnedFd, request: &Request) -> Self {
        Self { proc, pid: request.pid }
    }

    fn link(&self, name: &str) -> rustix::io::Result<PathBuf> {
        let text = rustix::fs::readlinkat(self.proc, format!("{}/{name}", self.pid), Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(text.as_bytes())))
    }

    fn open_link(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let path = format!("{}/{name}", self.pid);
        rustix::fs::openat(self.proc, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// An open file of the process, as an `O_PATH` descriptor.
    pub(super) fn file(&self, number: i32) -> rustix::io::Result<OwnedFd> {
        match number {
            libc::AT_FDCWD => self.open_link("cwd"),
            n if n < 0 => Err(Errno::BADF),
            n => self.open_link(&format!("fd/{n}")).map_err(|_| Errno::BADF),
        }
    }

    /// Reads a path from the process; a null pointer is an empty path.
    pub(super) fn path(&self, at: u64) -> rustix::io::Result<Vec<u8>> {
        if at == 0 { Ok(Vec::new()) } else { notify::read_text(self.pid, at) }
    }

    fn start(&self, folder: i32, path: &[u8]) -> rustix::io::Result<Start> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let path = Path::new(OsStr::from_bytes(path));
        let root = self.link("root")?;
        if root == Path::new("/") {
            let folder = if path.is_absolute() { None } else { Some(self.file(folder)?) };
            return Ok(Start { folder, is_root: false, path: path.to_owned() });
        }
        // The process has another root, such as after chroot.
        let path = if path.is_absolute() {
            path.to_owned()
        } else {
            let name = if folder == libc::AT_FDCWD { "cwd".to_owned() } else { format!("fd/{folder}") };
            let here = self.link(&name)?;
            // A folder outside the root has no path within it.
            Path::new("/").join(here.strip_prefix(&root).map_err(|_| Errno::LOOP)?).join(path)
        };
        Ok(Start { folder: Some(self.open_link("root")?), is_root: true, path })
    }

    /// Opens a path as an `O_PATH` descriptor.
    ///
    /// # Errors
    /// `ELOOP` also for a path through a magic link of `/proc`.
    pub(super) fn open(&self, folder: i32, path: &[u8], follow: bool) -> rustix::io::Result<OwnedFd> {
        let start = self.start(folder, path)?;
        open(&start, &start.path, if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW })
    }

    /// The same, but the path may be empty for the folder itself (`AT_EMPTY_PATH`), and the links of `/proc` and `/dev`
    /// that programs use for their own open files work.
    pub(super) fn open_any(
        &self,
        folder: i32,
        path: &[u8],
        follow: bool,
        empty: bool,
    ) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() && empty {
            return self.file(folder);
        }
        match (follow, own_file(path)) {
            (true, Some(number)) => self.file(number),
            _ => self.open(folder, path, follow),
        }
    }

    /// The folder and the name of a file to be made. With `follow`, dangling links are followed, as `open` does.
    pub(super) fn place(&self, folder: i32, path: &[u8], follow: bool) -> rustix::io::Result<Place> {
        let mut start = self.start(folder, path)?;
        for _ in 0..MAX_LINKS {
            let text = start.path.as_os_str().as_bytes();
            let slash = text.ends_with(b"/");
            let end = text.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
            let (above, name) = match text[..end].iter().rposition(|b| *b == b'/') {
                Some(0) => (&b"/"[..], &text[1..end]),
                Some(at) => (&text[..at], &text[at + 1..end]),
                None => (&b"."[..], &text[..end]),
            };
            if matches!(name, b"" | b"." | b"..") {
                return Err(Errno::EXIST);
            }
            let folder = open(&start, Path::new(OsStr::from_bytes(above)), OFlags::PATH | OFlags::DIRECTORY)?;
            let name = name.to_vec();
            if !follow {
                return Ok(Place { folder, name, slash });
            }
            match rustix::fs::readlinkat(&folder, OsStr::from_bytes(&name), Vec::new()) {
                Err(_) => return Ok(Place { folder, name, slash }),
                Ok(target) => {
                    let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                    if target.is_absolute() {
                        start.path = target;
                    } else if start.is_root {
                        start.path = Path::new(OsStr::from_bytes(above)).join(target);
                    } else {
                        start = Start { folder: Some(folder), is_root: false, path: target };
                    }
                    if start.path.is_absolute() && !start.is_root {
                        start.folder = None;
                    }
                }
            }
        }
        Err(Errno::LOOP)
    }

    /// The umask of the process.
    pub(super) fn mask(&self) -> rustix::io::Result<u32> {
        u32::from_str_radix(&self.status_line("Umask:")?, 8).map_err(|_| Errno::IO)
    }

    /// Whether set-user-id programs have no effect for the process (`no_new_privs`).
    pub(super) fn gains_nothing(&self) -> bool {
        self.status_line("NoNewPrivs:").is_ok_and(|fact| fact == "1")
    }

    fn status_line(&self, name: &str) -> rustix::io::Result<String> {
        notify::process_status(self.proc, self.pid, name)
    }
}

fn open(start: &Start, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::NO_MAGICLINKS;
    if start.is_root {
        resolve |= ResolveFlags::IN_ROOT;
    }
    let folder = start.folder.as_ref().map_or(CWD, |folder| folder.as_fd());
    open_resolved(folder, path, flags, resolve)
}

/// The number of an open file whose path is one of the usual links.
fn own_file(path: &[u8]) -> Option<i32> {
    match path {
        b"/dev/stdin" => Some(0),
        b"/dev/stdout" => Some(1),
        b"/dev/stderr" => Some(2),
        path => {
            let number = path.strip_prefix(b"/dev/fd/").or_else(|| path.strip_prefix(b"/proc/self/fd/"))?;
            std::str::from_utf8(number).ok()?.parse().ok().filter(|n| *n >= 0)
        }
    }
}

/// The status of an `O_PATH` descriptor.
pub(super) fn status(file: impl AsFd) -> rustix::io::Result<rustix::fs::Stat> {
    rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)
}
