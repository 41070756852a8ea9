//! Integrity checks of the content that is cached between builds.
//!
//! A file from the web is read and hashed before it is used. For the many files of a commit, the sizes, modes and times
//! are compared with those after the checkout. They include the change time of the inode, which no program can set.

use crate::digest::Hasher;
use crate::{Digest, Error, Result, ResultExt as _};
use rustix::fs::{Mode, OFlags};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The expected content of a file from the web.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) digest: Digest,
    /// Its modification time, in seconds since 1970.
    pub(super) time: i64,
}

/// Whether a file is unchanged: a regular file with this content and time, private to its owner. Blocks.
///
/// # Errors
/// [`crate::ErrorKind::Io`] when it cannot be read.
pub(super) fn is_whole(path: &Path, expected: &Expected) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(false),
        Err(e) => return Err(Error::io("cannot open a cached file", path, e.into())),
    };
    let failed = "cannot read a cached file";
    let meta = file.metadata().at(failed, path)?;
    if !meta.is_file() || meta.permissions().mode() & 0o7777 != 0o600 || meta.mtime() != expected.time {
        return Ok(false);
    }
    let mut hasher = expected.digest.algorithm().hasher();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).at(failed, path)? {
            0 => return Ok(hasher.finish() == expected.digest),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Removes a file or folder.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => crate::remove_tree::remove_tree(path).map_err(Into::into),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.at("cannot remove", path)
}

/// A folder and its seal, a file with a digest of the state of the folder.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) folder: PathBuf,
    seal: PathBuf,
}

impl Sealed {
    pub(super) fn new(folder: PathBuf) -> Self {
        let seal = folder.with_extension("seal");
        Self { folder, seal }
    }

    /// Whether the folder is unchanged since it was sealed; `None` without a folder or a seal. Blocks.
    pub(super) fn is_intact(&self) -> Option<bool> {
        let seal = std::fs::read_to_string(&self.seal).ok()?;
        if !self.folder.is_dir() {
            return None;
        }
        Some(state(&self.folder).is_ok_and(|state| state.to_string() == seal))
    }

    /// Seals the folder in its current state. Blocks.
    pub(super) fn seal(&self) -> Result<()> {
        let state = state(&self.folder)?;
        std::fs::write(&self.seal, state.to_string()).at("cannot write a seal", &self.seal)
    }

    /// Removes the folder and the seal. Blocks.
    pub(super) fn remove(&self) -> Result<()> {
        remove(&self.seal)?;
        remove(&self.folder)
    }
}

/// A digest of the state of a folder and its content.
fn state(folder: &Path) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    add(&mut hasher, folder, true)?;
    Ok(hasher.finish())
}

fn add(hasher: &mut Hasher, path: &Path, is_top: bool) -> Result<()> {
    let meta = std::fs::symlink_metadata(path).at("cannot read", path)?;
    hasher.update_field(path.file_name().map_or(&b""[..], |name| name.as_bytes()));
    // The move to its final path changes the folder itself.
    let changed = if is_top { (0, 0) } else { (meta.ctime(), meta.ctime_nsec()) };
    for number in [i64::from(meta.mode()), meta.mtime(), meta.mtime_nsec(), changed.0, changed.1] {
        hasher.update(number.to_le_bytes());
    }
    if !meta.is_dir() {
        hasher.update(meta.size().to_le_bytes());
        return Ok(());
    }
    let mut names = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>())
        .at("cannot read the folder", path)?;
    names.sort();
    hasher.update((names.len() as u64).to_le_bytes());
    names.iter().try_for_each(|name| add(hasher, name, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_sealed_folder_is_not_intact() {
        let place = tempfile::tempdir().unwrap();
        let sealed = Sealed::new(place.path().join("kept"));
        assert_eq!(sealed.is_intact(), None);
        std::fs::create_dir_all(sealed.folder.join("a")).unwrap();
        let file = sealed.folder.join("a/f");
        std::fs::write(&file, "one").unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        assert_eq!(sealed.is_intact(), None);
        let wait = || std::thread::sleep(std::time::Duration::from_millis(20));
        for change in [
            &(|| std::fs::write(&file, "two").unwrap()) as &dyn Fn(),
            &|| {
                std::fs::write(&file, "six").unwrap();
                std::fs::File::open(&file).unwrap().set_modified(time).unwrap();
            },
            &|| std::fs::write(sealed.folder.join("more"), "").unwrap(),
            &|| std::fs::remove_file(&file).unwrap(),
        ] {
            sealed.seal().unwrap();
            assert_eq!(sealed.is_intact(), Some(true));
            wait();
            change();
            assert_eq!(sealed.is_intact(), Some(false));
        }
        sealed.remove().unwrap();
        assert_eq!(sealed.is_intact(), None);
    }

    #[test]
    fn a_file_is_intact_with_its_content_time_and_mode() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        let expected = Expected { digest: Digest::sha256("text"), time: 7 };
        assert!(!is_whole(&path, &expected).unwrap());
        let write = |text: &str, seconds: u64, mode: u32| {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
            is_whole(&path, &expected).unwrap()
        };
        assert!(write("text", 7, 0o600));
        for (text, seconds, mode) in
            [("tex", 7, 0o600), ("tent", 7, 0o600), ("text", 8, 0o600), ("text", 7, 0o644)]
        {
            assert!(!write(text, seconds, mode), "{text} {seconds} {mode:o}");
        }
        assert!(write("text", 7, 0o600));
        let link = place.path().join("link");
        std::os::unix::fs::symlink("f", &link).unwrap();
        assert!(!is_whole(&link, &expected).unwrap());
    }
}
