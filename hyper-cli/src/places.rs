//! Whether the results of a build can be written where they are to go, before there are results.

use hyper_sdk::build::{Destination, Output, OutputKind};
use hyper_sdk::export::open_at_once;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a named pipe may be without a reader: one that is started together with the build is waited for.
const READER: Duration = Duration::from_secs(1);

/// Whether an output goes to standard output.
pub(crate) fn uses_stdout(output: &Output) -> bool {
    let (OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to)) = &output.kind else {
        return false;
    };
    matches!(to, Destination::Stdout(_))
}

/// The folder that an output makes.
pub(crate) fn folder(output: &Output) -> Option<&Path> {
    match &output.kind {
        OutputKind::Local(folder)
        | OutputKind::Oci(Destination::Folder(folder))
        | OutputKind::Docker(Destination::Folder(folder))
        | OutputKind::Tar(Destination::Folder(folder)) => Some(folder),
        _ => None,
    }
}

/// The named pipes that results go to, held open: who reads one would see its end when it was opened for a look.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Vec<File>);

impl Pipes {
    /// Says why an output cannot be written, before there is something to write. `made` are the folders that other
    /// outputs make.
    pub(crate) fn check(&mut self, output: &Output, made: &[PathBuf]) -> Result<(), String> {
        match &output.kind {
            OutputKind::Oci(Destination::Stdout(_)) | OutputKind::Tar(Destination::Stdout(_)) => {
                check_stdout("send standard output to a file or a pipe")
            }
            OutputKind::Docker(Destination::Stdout(_)) => check_stdout("pipe it into `docker load`"),
            OutputKind::Oci(Destination::File(path))
            | OutputKind::Docker(Destination::File(path))
            | OutputKind::Tar(Destination::File(path)) => self.check_file(path, made),
            OutputKind::Local(path) if output.files.delete && holds_home(path) => Err(format!(
                "`mode=delete` would empty {}, which holds your home folder: name a folder that has nothing else in it",
                path.display()
            )),
            _ => folder(output).map_or(Ok(()), check_folder),
        }
    }

    /// Says why a file cannot be written. One that is there is replaced, unless it is open or no regular file.
    pub(crate) fn check_file(&mut self, path: &Path, made: &[PathBuf]) -> Result<(), String> {
        let is_named_as_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if is_named_as_folder || path.is_dir() {
            return Err(format!("{} is a folder: name a file", path.display()));
        }
        if let Ok(meta) = path.metadata() {
            if meta.file_type().is_fifo() && !is_stdout(path) {
                self.0.push(wait_for_reader(path)?);
                return Ok(());
            }
            // Open files are under these, too, and they are written as they stand.
            let is_open = ["/dev", "/proc"].iter().any(|place| path.starts_with(place));
            return match path.canonicalize() {
                Ok(found) if meta.is_file() && !is_open => {
                    let folder = found.parent().unwrap_or(Path::new("/"));
                    check_access(folder, Access::WRITE_OK | Access::EXEC_OK)
                }
                _ => check_access(path, Access::WRITE_OK),
            };
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if folder.is_dir() {
            check_access(folder, Access::WRITE_OK | Access::EXEC_OK)
        } else if made.iter().any(|made| folder == made) {
            Ok(())
        } else {
            Err(format!("there is no folder {}", folder.display()))
        }
    }
}

/// Whether the home folder of the user is a folder, or in it.
fn holds_home(path: &Path) -> bool {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let found = home.and_then(|home| Path::new(&home).canonicalize().ok()).zip(path.canonicalize().ok());
    found.is_some_and(|(home, path)| home.starts_with(path))
}

/// Whether a path is a name of standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Opens a named pipe that somebody reads.
fn wait_for_reader(path: &Path) -> Result<File, String> {
    let start = Instant::now();
    loop {
        match open_at_once(path) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected && start.elapsed() < READER => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(format!("{} cannot be written to: {e}", path.display())),
            Ok(file) => return Ok(file),
        }
    }
}

/// Archives are not for people to look at.
fn check_stdout(or: &str) -> Result<(), String> {
    if io::stdout().is_terminal() {
        return Err(format!("an archive is not written to a terminal: name a file with dest=FILE, or {or}"));
    }
    Ok(())
}

/// Says why files cannot be written into a folder, which is made with those it is in where they are missing.
fn check_folder(path: &Path) -> Result<(), String> {
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(format!("{} is no folder", there.display()));
    }
    // The owner of the folder lets himself in where its mode does not: an image before this one may have set it.
    let access = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, there, access, AtFlags::EACCESS) {
        Err(Errno::ACCESS) if there == path && is_own(there) => Ok(()),
        _ => check_access(there, access),
    }
}

fn is_own(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

fn check_access(path: &Path, access: Access) -> Result<(), String> {
    accessat(CWD, path, access, AtFlags::EACCESS)
        .map_err(|e| format!("{} cannot be written to: {}", path.display(), io::Error::from(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let check = |kind: &str, path: &Path| {
            Pipes::default().check(&Output::parse(&format!("{kind}={}", path.display())).unwrap(), &[])
        };
        for kind in ["type=oci,dest", "type=docker,dest", "type=tar,dest"] {
            assert_eq!(check(kind, &folder.path().join("new")), Ok(()));
            assert_eq!(check(kind, &file), Ok(()));
            assert!(check(kind, folder.path()).unwrap_err().contains("is a folder: name a file"), "{kind}");
            assert!(check(kind, &folder.path().join("no/x")).unwrap_err().contains("there is no folder"));
            assert!(check(kind, &file.join("x")).unwrap_err().contains("there is no folder"));
        }
        for kind in ["type=local,dest", "type=oci,tar=false,dest"] {
            assert_eq!(check(kind, folder.path()), Ok(()));
            assert_eq!(check(kind, &folder.path().join("a/b")), Ok(()));
            assert!(check(kind, &file).unwrap_err().contains("is no folder"), "{kind}");
            assert!(check(kind, &file.join("x")).unwrap_err().contains("is no folder"), "{kind}");
        }
        assert_eq!(check("type=tar,dest", Path::new("/dev/null")), Ok(()));
        assert!(check("type=tar,dest", &folder.path().join("new/")).unwrap_err().contains("is a folder"));
        let made = [folder.path().join("made")];
        assert_eq!(Pipes::default().check_file(&made[0].join("x"), &made), Ok(()));
        assert!(Pipes::default().check_file(&folder.path().join("other/x"), &made).is_err());
        assert_eq!(check("type=local,dest", Path::new("relative/folder")), Ok(()));
    }
}
