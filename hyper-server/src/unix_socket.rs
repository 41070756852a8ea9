//! Sockets of the file system.
//!
//! # Invariants
//! - The socket has its mode before a client can connect.
//! - Only a socket of this user at which nobody listens is replaced; any other file stays, and is an error.
//! - Only the file that was made is removed at the end.

use crate::listen::cannot_listen;
use hyper_sdk::{Error, ErrorDetail, ErrorKind, Result};
use rustix::fs::{FileType, Mode, Stat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// How many connections wait to be accepted.
const BACKLOG: i32 = 1024;

/// A socket of the file system at which this process listens. Its file is removed when the value is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    listener: UnixListener,
    made: (u64, u64),
}

impl UnixSocket {
    /// Makes the socket with a mode, such as 0600: who may write to it may connect.
    ///
    /// A socket that a killed process has left there is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is another file, or another program listens there; [`ErrorKind::Denied`] when
    /// others could replace the socket; [`ErrorKind::Io`] when it cannot be made.
    pub fn bind(path: &Path, mode: u32) -> Result<Self> {
        check_folder(path)?;
        remove_stale(path)?;
        let bind = || -> io::Result<(UnixListener, Stat)> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // Linux gives the file the mode of the socket, less the mask of the process.
            rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o777))?;
            rustix::net::listen(&socket, BACKLOG)?;
            let listener = UnixListener::from_std(socket.into())?;
            Ok((listener, rustix::fs::lstat(path)?))
        };
        let (listener, stat) = bind().map_err(|e| cannot_listen(format!("unix:{}", path.display()), e))?;
        Ok(Self { path: path.to_owned(), listener, made: (stat.st_dev, stat.st_ino) })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if rustix::fs::lstat(&self.path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.made) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn refused(kind: ErrorKind, path: &Path, why: &str) -> Error {
    let address = format!("unix:{}", path.display());
    Error::new(kind, format!("cannot listen at `{address}`: {why}"))
        .with_detail(ErrorDetail::Listen { address })
}

/// Checks that others cannot put a socket of their own in the place of ours.
fn check_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stat = rustix::fs::stat(folder)
        .map_err(|e| Error::io("cannot open the folder of the socket", folder, e.into()))?;
    let me = rustix::process::geteuid().as_raw();
    let open = stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0;
    if open || (stat.st_uid != me && stat.st_uid != 0) {
        return Err(refused(
            ErrorKind::Denied,
            path,
            "other users can replace files of the folder. Use a folder that only you or root can write to",
        ));
    }
    Ok(())
}

/// Removes the socket of a process that has ended.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(stat) = rustix::fs::lstat(path) else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(refused(ErrorKind::Conflict, path, "there is a file that is not a socket"));
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refused(ErrorKind::Conflict, path, "there is a socket of another user"));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            rustix::fs::unlink(path).map_err(|e| Error::io("cannot remove the old socket", path, e.into()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(refused(ErrorKind::Conflict, path, "another program listens there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for wanted in [0o600, 0o660, 0o666] {
            let socket = UnixSocket::bind(&path, wanted).unwrap();
            assert_eq!(mode(&path), wanted);
            let e = UnixSocket::bind(&path, wanted).unwrap_err();
            assert!(e.to_string().contains("another program"), "{e}");
            drop(socket);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn an_abandoned_socket_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        // Another program has replaced it: its file stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(socket);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let e = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert!(e.to_string().contains("not a socket"), "{e}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(UnixSocket::bind(&link, 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let e = UnixSocket::bind(&dir.path().join("s"), 0o600).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Denied);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        UnixSocket::bind(&dir.path().join("s"), 0o600).unwrap();
    }
}
