//! The places that results are written to, checked before there are results.

use super::output::is_stdout;
use super::{CachePlace, CacheTarget, CacheTo, Destination, Output, OutputKind, emptied_folders};
use crate::atomic_file::open_without_waiting;
use crate::client::S3Access;
use crate::{Error, Result};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a named pipe may be without a reader: a reader that is started together with the build is waited for.
const READER: Duration = Duration::from_secs(1);

/// Checks whether results can be written to files and folders of this machine. Nothing is written.
///
/// Named pipes stay open until this is dropped: a reader would take the end of a short look for the end of the result.
///
/// ```
/// use hyper_sdk::build::{Destinations, Output};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let outputs = [Output::parse("type=local,dest=out")?, Output::parse("type=oci,dest=nowhere/image.tar")?];
/// let mut destinations = Destinations::new(&outputs, None);
/// assert!(destinations.check(&outputs[0]).is_ok());
/// let error = destinations.check(&outputs[1]).unwrap_err();
/// assert_eq!(error.message(), "there is no folder nowhere");
/// // The first output makes its folder.
/// destinations.check_file("out/digest".as_ref())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Destinations {
    /// The folders that the outputs make.
    made: Vec<PathBuf>,
    /// Whether an output is written to standard output.
    takes_stdout: bool,
    home: Option<PathBuf>,
    pipes: Vec<File>,
}

impl Destinations {
    /// The destinations of the outputs of one build. `home` is the home folder of the user, which no output may empty.
    pub fn new(outputs: &[Output], home: Option<&Path>) -> Self {
        let made = outputs.iter().filter_map(Output::folder).map(Path::to_owned).collect();
        let takes_stdout = outputs.iter().any(Output::is_stdout);
        Self { made, takes_stdout, home: home.map(Path::to_owned), pipes: Vec::new() }
    }

    /// Checks all outputs and caches of a build, and keeps the named pipes of outputs open. Blocks as [`Destinations::check_file`] does.
    ///
    /// # Errors
    /// Those of [`Destinations::check`].
    pub(super) fn open(
        outputs: &[Output],
        caches: &[CacheTo],
        access: &S3Access,
        home: Option<&Path>,
    ) -> Result<Self> {
        check_caches(caches, access)?;
        let mut all = Self::new(outputs, home);
        outputs.iter().try_for_each(|output| all.check(output))?;
        Ok(all)
    }

    /// Checks the destination of an output. An output without a destination of its own passes, and so does standard output.
    /// Blocks as [`Destinations::check_file`] does.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that says why nothing can be written there, and when the output would empty the home
    /// folder.
    pub fn check(&mut self, output: &Output) -> Result<()> {
        if let OutputKind::Local(folder) = &output.kind
            && output.files.delete
            && self.home.as_deref().is_some_and(|home| emptied_folders::holds(folder, home))
        {
            return Err(emptied_folders::refusal(folder, "holds your home folder"));
        }
        match (output.folder(), output.destination()) {
            (Some(folder), _) => check_folder(folder),
            (None, Some(path)) if !output.is_stdout() => self.check_path(path),
            (None, _) => Ok(()),
        }
    }

    /// Checks whether a file beside the outputs can be written. A regular file that is there would be replaced; an open
    /// file, a pipe and a device are written to as they stand. Blocks for up to a second for a named pipe that nobody reads
    /// yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that says why it cannot.
    pub fn check_file(&mut self, path: &Path) -> Result<()> {
        if self.takes_stdout && is_stdout(path) {
            return Err(Error::invalid("an archive goes to standard output: name another file"));
        }
        self.check_path(path)
    }

    fn check_path(&mut self, path: &Path) -> Result<()> {
        let is_named_as_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if is_named_as_folder || path.is_dir() {
            return Err(Error::invalid(format!("{} is a folder: name a file", path.display())));
        }
        if let Ok(meta) = path.metadata() {
            if meta.file_type().is_fifo() && !is_stdout(path) {
                self.pipes.push(wait_for_reader(path)?);
                return Ok(());
            }
            // Open files are below these folders, too, and they are written to as they stand.
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
        } else if self.made.iter().any(|made| folder == made) {
            Ok(())
        } else {
            Err(Error::invalid(format!("there is no folder {}", folder.display())))
        }
    }
}

/// Opens a named pipe when it has a reader.
fn wait_for_reader(path: &Path) -> Result<File> {
    let start = Instant::now();
    loop {
        match open_without_waiting(path) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected && start.elapsed() < READER => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(cannot_be_written(path, &e)),
            Ok(file) => return Ok(file),
        }
    }
}

/// Checks the folders and the buckets of caches. A cache whose error is ignored passes.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] that says why nothing can be written there; those of [`crate::s3::S3Bucket::resolve`].
fn check_caches(caches: &[CacheTo], access: &S3Access) -> Result<()> {
    caches.iter().filter(|cache| !cache.ignore_error).try_for_each(|cache| match &cache.target {
        CacheTarget::Place(CachePlace::Layout { folder, .. }) => check_folder(folder),
        // Whatever is missing is told before the build, and not after it.
        CacheTarget::Place(CachePlace::S3(place)) => place.bucket.resolve(&access.environment).map(drop),
        _ => Ok(()),
    })
}

/// Whether an output is a stream: a second attempt would append to what the first one wrote.
pub(super) fn is_stream(output: &Output) -> bool {
    let (OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to)) = &output.kind else {
        return false;
    };
    match to {
        Destination::Stdout(_) => true,
        Destination::File(path) => std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()),
        Destination::Folder(_) => false,
    }
}

/// Checks whether files can be written into a folder, which is made with its parents where they are missing.
fn check_folder(path: &Path) -> Result<()> {
    let existing = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    let existing = existing.unwrap_or(Path::new("."));
    if !existing.is_dir() {
        return Err(Error::invalid(format!("{} is not a folder", existing.display())));
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, existing, access, AtFlags::EACCESS) {
        // The owner changes the mode, which an earlier image may have set.
        Err(Errno::ACCESS) if existing == path && is_own(existing) => Ok(()),
        _ => check_access(existing, access),
    }
}

fn is_own(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

fn check_access(path: &Path, access: Access) -> Result<()> {
    accessat(CWD, path, access, AtFlags::EACCESS).map_err(|e| cannot_be_written(path, &e.into()))
}

fn cannot_be_written(path: &Path, why: &io::Error) -> Error {
    Error::invalid(format!("{} cannot be written to: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, path: &Path) -> Result<(), String> {
        let output = Output::parse(&format!("{output}={}", path.display())).unwrap();
        let outputs = std::slice::from_ref(&output);
        Destinations::new(outputs, None).check(&output).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn files_and_folders_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
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
            assert!(check(kind, &file).unwrap_err().contains("is not a folder"), "{kind}");
            assert!(check(kind, &file.join("x")).unwrap_err().contains("is not a folder"), "{kind}");
        }
        assert_eq!(check("type=tar,dest", Path::new("/dev/null")), Ok(()));
        assert!(check("type=tar,dest", &folder.path().join("new/")).unwrap_err().contains("is a folder"));
        assert_eq!(check("type=local,dest", Path::new("relative/folder")), Ok(()));
    }

    #[test]
    fn a_file_may_be_in_a_folder_that_an_output_makes() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("made");
        let outputs = [Output::from(OutputKind::Local(made.clone()))];
        let mut destinations = Destinations::new(&outputs, None);
        assert!(destinations.check_file(&made.join("x")).is_ok());
        assert!(destinations.check_file(&folder.path().join("other/x")).is_err());
    }

    #[test]
    fn the_home_folder_is_not_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home/me");
        std::fs::create_dir_all(&home).unwrap();
        std::os::unix::fs::symlink("home", folder.path().join("link")).unwrap();
        for (name, mode, is_refused) in [
            ("home/me", "delete", true),
            ("home", "delete", true),
            ("link", "delete", true),
            ("home/me/out", "delete", false),
            ("other", "delete", false),
            ("home/me", "copy", false),
        ] {
            let text = format!("type=local,mode={mode},dest={}", folder.path().join(name).display());
            let output = Output::parse(&text).unwrap();
            let checked = Destinations::open(&[output], &[], &S3Access::default(), Some(&home));
            assert_eq!(checked.is_err(), is_refused, "{name} {mode}: {checked:?}");
        }
    }

    #[test]
    fn a_pipe_needs_a_reader_and_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let open = |outputs: &[Output]| Destinations::open(outputs, &[], &S3Access::default(), None);
        rustix::fs::mkfifoat(CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let output = Output::parse(&format!("type=tar,dest={}", path.display())).unwrap();
        let error = open(std::slice::from_ref(&output)).unwrap_err();
        assert!(error.message().contains("the pipe has no reader"), "{error}");
        let reader = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read_to_string(path).unwrap()
        });
        let destinations = open(&[output]).unwrap();
        assert_eq!(destinations.pipes.len(), 1);
        let mut pipe = std::fs::File::options().write(true).open(&path).unwrap();
        io::Write::write_all(&mut pipe, b"late").unwrap();
        drop((pipe, destinations));
        assert_eq!(reader.join().unwrap(), "late");
    }
}
