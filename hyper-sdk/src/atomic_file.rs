//! Atomic files: written in the folder of their destination, and named when they are whole.

use crate::staged_file::{self, StagedFile};
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// The largest number of links that are followed from a destination.
const MAX_LINKS: usize = 40;

/// The target of a write.
enum Target {
    /// An open file, or a file that is not regular: a pipe, a terminal. It is written directly.
    Direct(std::fs::File),
    /// A regular file at this path, which is replaced.
    Replace(PathBuf),
}

/// Follows the links of a destination. A link into `/proc`, such as `/dev/stdout`, leads to an open file, which is
/// written at its current position and never replaced.
fn find_target(destination: &Path) -> io::Result<Target> {
    let mut path = destination.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize()?;
        let Some(name) = path.file_name().map(ToOwned::to_owned) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file"));
        };
        path = folder.join(&name);
        if folder == Path::new("/proc/self/fd").canonicalize().unwrap_or_default()
            && let Some(number) = name.to_str().and_then(|name| name.parse().ok())
            && let Some(open) = duplicate_open_file(number)
        {
            return Ok(Target::Direct(open));
        }
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() && !path.starts_with("/proc") => {
                path = folder.join(path.read_link()?)
            }
            Ok(meta) if meta.is_file() => return Ok(Target::Replace(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Target::Replace(path)),
            Ok(_) => return open_without_waiting(&path).map(Target::Direct),
            Err(e) => return Err(e),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Duplicates an open descriptor of this process. Opening its path instead would write from the beginning of the file.
fn duplicate_open_file(number: i32) -> Option<std::fs::File> {
    if number == 1 {
        return io::stdout().as_fd().try_clone_to_owned().ok().map(Into::into);
    }
    // Some sandboxes do not allow it; then the path is opened.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok()?;
    rustix::process::pidfd_getfd(own, number, PidfdGetfdFlags::empty()).ok().map(Into::into)
}

/// Opens a file that is not regular for writing, without waiting for a reader of a pipe.
///
/// # Errors
/// Those of the system, for example for a named pipe without a reader, or a folder.
pub fn open_without_waiting(path: &Path) -> io::Result<std::fs::File> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::NXIO => io::Error::new(
            io::ErrorKind::NotConnected,
            "the pipe has no reader: start the reader before the build",
        ),
        other => other.into(),
    })?;
    // Writes block as usual until the reader takes the bytes.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file.into())
}

/// Writes a small file atomically. A file that is open, such as `/dev/stdout`, or that is not regular, is written
/// directly.
///
/// # Errors
/// [`crate::ErrorKind::Io`] with the path.
pub fn write_file(destination: &Path, content: &[u8]) -> Result<()> {
    write_atomically(destination, |mut file| file.write_all(content))
}

/// Writes a file that gets its name when it is whole. A destination that exists and is no regular
/// file (a pipe, a terminal), or that is an open file, is written straight.
pub(crate) fn write_atomically(
    destination: &Path,
    write: impl FnOnce(std::fs::File) -> io::Result<()>,
) -> Result<()> {
    let at =
        |e: io::Error| Error::from(e).with_context("path", destination.display()).with_op("write the output");
    let destination = match find_target(destination).map_err(at)? {
        Target::Direct(file) => return write(file).map_err(at),
        Target::Replace(path) => path,
    };
    let folder = destination.parent().unwrap_or(Path::new("/"));
    // Of an output that was killed while it was written.
    staged_file::remove_abandoned(folder);
    let staged = StagedFile::begin_in(folder).map_err(at)?;
    staged.file().try_clone().and_then(write).map_err(at)?;
    staged.persist(&destination).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> Result<()> {
        write_atomically(path, |mut file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn links_are_kept_and_their_targets_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        for (link, target) in [("sub/one", "../file"), ("two", "sub/one"), ("loop", "loop"), ("new", "made")]
        {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        for (name, file) in [("file", "file"), ("sub/one", "file"), ("two", "file"), ("new", "made")] {
            write(&at(name), name).unwrap();
            assert_eq!(std::fs::read_to_string(at(file)).unwrap(), name);
        }
        assert!(["sub/one", "two", "new"].iter().all(|link| at(link).is_symlink()));
        for bad in ["loop", "none/x", "..", "sub"] {
            assert!(write(&at(bad), "").is_err(), "{bad}");
        }
        let failed = write_atomically(&at("file"), |_| Err(io::Error::other("no")));
        assert!(failed.is_err() && std::fs::read_to_string(at("file")).unwrap() == "two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "a failure must leave no file");
    }

    #[test]
    fn old_partial_files_of_a_killed_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let names = [".tmpAb12cd.partial", ".tmpXy34zz.partial", "mine.partial", ".tmpAb12cd"];
        for name in names {
            std::fs::write(folder.path().join(name), "part").unwrap();
        }
        for name in [names[0], names[2], names[3]] {
            let file = std::fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 60 * 60))
                .unwrap();
        }
        write(&folder.path().join("out"), "text").unwrap();
        assert_eq!(names.map(|name| folder.path().join(name).exists()), [false, true, true, true]);
    }

    #[test]
    fn what_is_being_written_beside_a_file_stays_however_long_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        let slow = folder.path().join("slow");
        write_atomically(&slow, |file| {
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 60 * 60))?;
            write(&folder.path().join("other"), "text").map_err(io::Error::other)
        })
        .unwrap();
        assert!(slow.exists());
    }

    #[test]
    fn an_open_file_is_written_and_not_replaced() {
        use std::os::fd::AsRawFd as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open");
        let open = std::fs::File::create(&path).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        write(Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd())), "text").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
        let same = std::os::unix::fs::MetadataExt::ino;
        assert_eq!(same(&before), same(&std::fs::metadata(&path).unwrap()));
    }

    #[test]
    fn an_open_file_is_written_at_its_position() {
        use std::os::fd::AsRawFd as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open");
        std::fs::write(&path, "before\n").unwrap();
        let mut open = std::fs::File::options().append(true).open(&path).unwrap();
        let name = format!("/dev/fd/{}", open.as_raw_fd());
        for text in ["one\n", "two\n"] {
            write(Path::new(&name), text).unwrap();
            open.write_all(b"-").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\none\n-two\n-");
        assert!(write(Path::new("/dev/fd/9999"), "").is_err(), "the descriptor is not open");
    }

    #[test]
    fn a_pipe_is_written_only_if_it_has_a_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        let error = write(&path, "text").unwrap_err();
        assert!(format!("{error:?}").contains("no reader"), "{error:?}");
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || std::fs::read_to_string(path).unwrap())
        };
        // More than the buffer of a pipe: the writer has to wait for the reader.
        let long = "x".repeat(1 << 20);
        while write(&path, &long).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap().len(), long.len());
        assert!(path.exists(), "the pipe must not be replaced");
    }
}
