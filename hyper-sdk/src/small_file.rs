//! Reads small untrusted files within a limit: Dockerfiles, ignore files, secrets, configuration.
//!
//! # Invariants
//! - Opening never blocks, neither for the writer of a pipe nor for a device.
//! - Reading ends at the limit of the caller, and for a pipe after a time without data.
//! - The error of a rejected file names the file, its kind and the limit.

use crate::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a pipe without a writer is read.
pub(crate) const PIPE_OPEN_TIME: Duration = Duration::from_secs(5);
/// How long a pipe with a writer is read without data.
pub(crate) const PIPE_IDLE_TIME: Duration = Duration::from_secs(120);

/// How much memory is set aside at most for the size that the system tells.
const MAX_HINT: u64 = 1 << 20;

/// The kinds of file that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Regular files, and `/dev/null`, which counts as an empty file.
    Files,
    /// Also pipes, such as `<(command)`, and terminals, for files that a user names.
    FilesAndPipes,
}

/// Opens a file without blocking. Follows a link.
///
/// `what` names it in messages, as in `the Dockerfile`.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::Io`] from the system; [`ErrorKind::Invalid`] for a file of another kind.
pub fn open(path: &Path, what: &str, kinds: Kinds) -> Result<File> {
    open_with(path, what, kinds, OFlags::empty())
}

/// Opens a regular file without blocking. Does not follow a link.
///
/// # Errors
/// Those of [`open`]; [`ErrorKind::Io`] for a link.
pub fn open_no_follow(path: &Path, what: &str) -> Result<File> {
    open_with(path, what, Kinds::Files, OFlags::NOFOLLOW)
}

fn open_with(path: &Path, what: &str, kinds: Kinds, more: OFlags) -> Result<File> {
    let cannot = |e: Errno| match e {
        Errno::NXIO => Error::invalid(format!("{what} is a socket or has no device: name a file"))
            .with_context("path", path.display()),
        e => Error::io(format!("cannot read {what}"), path, e.into()),
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | more;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(cannot)?);
    let stat = rustix::fs::fstat(&file).map_err(cannot)?;
    let pipes = kinds == Kinds::FilesAndPipes;
    let is = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(file),
        FileType::CharacterDevice if is_null(stat.st_rdev) || (pipes && file.is_terminal()) => {
            return Ok(file);
        }
        FileType::Fifo if pipes => return Ok(file),
        FileType::Fifo => "a pipe",
        FileType::Directory => "a folder",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "not a regular file",
    };
    Err(Error::invalid(format!("{what} is {is}: a regular file is needed here"))
        .with_context("path", path.display()))
}

fn is_null(device: u64) -> bool {
    (rustix::fs::major(device), rustix::fs::minor(device)) == (1, 3)
}

/// Reads a file of at most `limit` bytes. Blocks; for a pipe, until no data arrives for two minutes.
///
/// # Errors
/// Those of [`open`]; [`ErrorKind::TooLarge`] above the limit; [`ErrorKind::Timeout`] for a pipe that stays silent.
pub fn read(path: &Path, what: &str, limit: u64, kinds: Kinds) -> Result<Vec<u8>> {
    read_opened(open(path, what, kinds)?, path, what, limit)
}

/// [`read`] for text.
///
/// # Errors
/// Those of [`read`]; [`ErrorKind::Invalid`] when the file is not UTF-8.
pub fn read_text(path: &Path, what: &str, limit: u64, kinds: Kinds) -> Result<String> {
    String::from_utf8(read(path, what, limit, kinds)?)
        .map_err(|_| Error::invalid(format!("{what} is not UTF-8")).with_context("path", path.display()))
}

/// Reads a file that was opened here, of at most `limit` bytes.
///
/// # Errors
/// Those of [`read`].
pub(crate) fn read_opened(file: File, path: &Path, what: &str, limit: u64) -> Result<Vec<u8>> {
    // The size that the system tells is a hint: files of `/proc` have none, and others grow.
    let size = file.metadata().map_or(0, |meta| meta.len().min(limit).min(MAX_HINT));
    let mut bytes = Vec::with_capacity(size as usize + 64);
    let mut patient = TimeoutReader { file: &file, started: Instant::now(), any: false };
    (&mut patient).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => {
            let (open, idle) = (PIPE_OPEN_TIME.as_secs(), PIPE_IDLE_TIME.as_secs());
            let message = format!(
                "{what} is a pipe without data: a writer must open it within {open} seconds, and write at least every {idle} seconds"
            );
            Error::new(ErrorKind::Timeout, message).with_context("path", path.display())
        }
        _ => Error::io(format!("cannot read {what}"), path, e),
    })?;
    if bytes.len() as u64 > limit {
        let limit = match limit {
            l if l % (1 << 20) == 0 => format!("{} MiB", l >> 20),
            l => format!("{l} bytes"),
        };
        return Err(Error::new(ErrorKind::TooLarge, format!("{what} is larger than {limit}, the limit"))
            .with_context("path", path.display()));
    }
    Ok(bytes)
}

/// A non-blocking reader that waits for data within the time limits of this module.
struct TimeoutReader<'a> {
    file: &'a File,
    started: Instant,
    /// Whether a writer has opened the file.
    any: bool,
}

impl Read for TimeoutReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let (wait, ends) = match rustix::io::read(self.file, &mut *buffer) {
                Ok(0) => (PIPE_OPEN_TIME.saturating_sub(self.started.elapsed()), true),
                Ok(count) => {
                    self.any = true;
                    return Ok(count);
                }
                Err(Errno::INTR) => continue,
                // A writer has the pipe open and does not write at the moment.
                Err(Errno::AGAIN) => (PIPE_IDLE_TIME, false),
                Err(e) => return Err(e.into()),
            };
            if ends && (self.any || !self.awaits_a_writer()?) {
                return Ok(0);
            }
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            let mut fds = [PollFd::new(self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(std::io::ErrorKind::TimedOut.into()),
                Ok(_) if fds[0].revents().contains(PollFlags::HUP) && ends => return Ok(0),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl TimeoutReader<'_> {
    /// Whether this is a named pipe that no writer has opened yet: then an end of file is not the end of the content.
    fn awaits_a_writer(&self) -> std::io::Result<bool> {
        let stat = rustix::fs::fstat(self.file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            return Ok(false);
        }
        let mut fds = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!fds[0].revents().contains(PollFlags::HUP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn fifo(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn files_are_read_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "12345").unwrap();
        let read = |limit| read(&path, "the list", limit, Kinds::Files);
        assert_eq!(read(5).unwrap(), b"12345");
        let e = read(4).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge);
        assert!(
            e.to_string().contains("the list is larger than 4 bytes") && e.to_string().contains("/a"),
            "{e}"
        );
        // A file with the size 0 may have content.
        let version = Path::new("/proc/version");
        assert_eq!(super::read(version, "x", 3, Kinds::Files).unwrap_err().kind(), ErrorKind::TooLarge);
        let missing = folder.path().join("missing");
        assert_eq!(super::read(&missing, "x", 3, Kinds::Files).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn other_kinds_of_files_are_rejected_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = fifo(folder.path());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, is) in [
            (pipe.as_path(), "a pipe"),
            (socket.as_path(), "a socket"),
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let e = read(path, "the list", 1 << 20, Kinds::Files).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
            assert!(e.message().contains(&format!("the list is {is}")), "{e}");
            assert!(e.to_string().contains(&path.display().to_string()), "{e}");
        }
        assert!(open(Path::new("/dev/zero"), "x", Kinds::FilesAndPipes).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(open(&link, "x", Kinds::Files).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(open_no_follow(&link, "x").is_err());
        assert!(read(Path::new("/dev/null"), "x", 5, Kinds::Files).unwrap().is_empty());
    }

    #[test]
    fn a_pipe_is_read_to_its_end_however_late_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let to = path.clone();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            let mut pipe = File::options().write(true).open(to).unwrap();
            for word in ["one ", "two"] {
                pipe.write_all(word.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        assert_eq!(read(&path, "x", 100, Kinds::FilesAndPipes).unwrap(), b"one two");
        writer.join().unwrap();
        // Like `<(command)`: the descriptor of an open pipe, whose writer may have ended.
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&read_end);
        let path = std::path::PathBuf::from(format!("/proc/self/fd/{number}"));
        rustix::io::write(&write_end, b"text").unwrap();
        drop(write_end);
        assert_eq!(read(&path, "x", 100, Kinds::FilesAndPipes).unwrap(), b"text");
        assert_eq!(read(&path, "x", 100, Kinds::FilesAndPipes).unwrap(), b"");
    }

    #[test]
    fn a_pipe_without_a_writer_or_an_end_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let e = read(&path, "the secret", 100, Kinds::FilesAndPipes).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout);
        assert!(e.to_string().contains("the secret is a pipe without data"), "{e}");
        let to = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = File::options().write(true).open(to).unwrap();
            while pipe.write_all(&[b'a'; 4096]).is_ok() {}
        });
        let e = read(&path, "the secret", 100_000, Kinds::FilesAndPipes).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge);
        writer.join().unwrap();
    }
}
