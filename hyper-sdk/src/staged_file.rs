//! Files that get their name when they are whole.
//!
//! # Invariants
//! - Until then a file has no name at all (`O_TMPFILE`), so that a process that is killed, or a thread that begins to write
//!   after its work was cancelled, leaves nothing. Where the file system has no such files, it has a name for the time
//!   being, `.tmpRANDOM.partial`, and a later write beside it removes what is a day old.
//! - What has the name already is replaced by a rename. For that moment the whole file has a name for the time being, too.

use crate::stale_files::{self, is_temporary};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{File, Permissions};
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

/// How the name of a file ends that is being written beside others.
const PARTIAL: &str = ".partial";
/// After so long it is not being written any more, unless it is locked.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// The mode, of which the mask of the user leaves a part.
const MODE: u32 = 0o666;

/// A file that is being written. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct StagedFile {
    form: Form,
    folder: PathBuf,
}

#[derive(Debug)]
enum Form {
    Unnamed(File),
    Named(NamedTempFile),
}

/// Removes what processes left in a folder that were killed while they wrote files with names for the time being.
pub(crate) fn remove_abandoned(folder: &Path) {
    stale_files::remove(folder, ABANDONED, |name| name.strip_suffix(PARTIAL).is_some_and(is_temporary));
}

impl StagedFile {
    /// Begins a file that will have its name in this folder.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn begin_in(folder: &Path) -> io::Result<Self> {
        let form = match unnamed_in(folder) {
            Some(file) => Form::Unnamed(file),
            None => Form::Named(named_in(folder)?),
        };
        Ok(Self { form, folder: folder.to_owned() })
    }

    /// The file, to be written.
    pub(crate) fn file(&self) -> &File {
        match &self.form {
            Form::Unnamed(file) => file,
            Form::Named(staged) => staged.as_file(),
        }
    }

    /// Gives the file its name, which must be in the folder that it was begun in.
    ///
    /// # Errors
    /// Those of the system; then the file is gone, and what had the name still has it.
    pub(crate) fn persist(self, destination: &Path) -> io::Result<()> {
        self.persist_by(destination, |file, name| {
            let open = open_path(file);
            Ok(rustix::fs::linkat(CWD, open, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
        })
    }

    fn persist_by(self, destination: &Path, link: impl Fn(&File, &Path) -> io::Result<()>) -> io::Result<()> {
        let named = match self.form {
            Form::Named(staged) => staged,
            Form::Unnamed(mut file) => match link(&file, destination) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let beside = names().make_in(&self.folder, |name| link(&file, name))?;
                    return beside.persist(destination).map(drop).map_err(|e| e.error);
                }
                // The file system has unnamed files, and gives them no name. The content must not be lost.
                Err(_) => {
                    let mut staged = named_in(&self.folder)?;
                    file.rewind()?;
                    io::copy(&mut file, staged.as_file_mut())?;
                    staged
                }
            },
        };
        named.persist(destination).map(drop).map_err(|e| e.error)
    }
}

/// A file without a name, where there is a way to give it one later.
fn unnamed_in(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::from_raw_mode(MODE)).ok()?);
    open_path(&file).exists().then_some(())?;
    hold(&file);
    Some(file)
}

fn named_in(folder: &Path) -> io::Result<NamedTempFile> {
    let staged = names().tempfile_in(folder)?;
    hold(staged.as_file());
    Ok(staged)
}

/// So that nobody removes it as abandoned. Where there are no locks, nobody looks for one either.
fn hold(file: &File) {
    let _ = file.try_lock_shared();
}

fn names() -> tempfile::Builder<'static, 'static> {
    let mut names = tempfile::Builder::new();
    names.suffix(PARTIAL).permissions(Permissions::from_mode(MODE));
    names
}

/// Through what the kernel finds an open file.
fn open_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn names_in(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn forms(folder: &Path) -> [StagedFile; 2] {
        let unnamed = unnamed_in(folder).expect("the tests need a file system with unnamed files");
        let forms = [Form::Unnamed(unnamed), Form::Named(named_in(folder).unwrap())];
        forms.map(|form| StagedFile { form, folder: folder.to_owned() })
    }

    #[test]
    fn a_file_appears_whole_and_replaces_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for (at, made) in forms(folder.path()).into_iter().enumerate() {
            let name = folder.path().join(format!("out{at}"));
            made.file().write_all(b"one").unwrap();
            made.persist(&name).unwrap();
            let mode = std::fs::metadata(&name).unwrap().permissions().mode() & 0o7777;
            std::fs::write(folder.path().join("usual"), "").unwrap();
            let usual = std::fs::metadata(folder.path().join("usual")).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, usual);
            std::fs::remove_file(folder.path().join("usual")).unwrap();
            std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
            for there in [&name, &folder.path().join("link")] {
                let again = forms(folder.path()).into_iter().nth(at).unwrap();
                again.file().write_all(b"two").unwrap();
                again.persist(there).unwrap();
                assert!(there.symlink_metadata().unwrap().is_file());
                assert_eq!(std::fs::read_to_string(there).unwrap(), "two");
            }
            std::fs::remove_file(folder.path().join("link")).unwrap();
        }
        assert_eq!(names_in(folder.path()), ["out0", "out1"]);
    }

    #[test]
    fn an_unnamed_file_is_never_seen_and_a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let begun = StagedFile::begin_in(folder.path()).unwrap();
        begun.file().write_all(b"part").unwrap();
        assert_eq!(names_in(folder.path()), [""; 0]);
        drop(begun);
        std::fs::create_dir_all(folder.path().join("folder/in")).unwrap();
        for made in forms(folder.path()) {
            assert!(made.persist(&folder.path().join("folder")).is_err());
        }
        assert_eq!(names_in(folder.path()), ["folder"]);
    }

    #[test]
    fn the_content_is_not_lost_where_an_unnamed_file_gets_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let [unnamed, _] = forms(folder.path());
        unnamed.file().write_all(b"text").unwrap();
        let name = folder.path().join("out");
        unnamed.persist_by(&name, |_, _| Err(rustix::io::Errno::PERM.into())).unwrap();
        assert_eq!(std::fs::read_to_string(&name).unwrap(), "text");
        assert_eq!(names_in(folder.path()), ["out"]);
    }
}
