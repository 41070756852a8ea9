//! Writes a layer once more, from its index and from a tree that has its files.
//!
//! The index has everything of a layer but the content of its files. So the layer is the same, byte for byte, whenever
//! and from whatever snapshot it is written.

use super::entry::{Entry, EntryKind};
use super::files;
use super::index::LayerIndex;
use super::writer::LayerWriter;
use crate::{Error, ErrorKind, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Writes the layer of an index. The content of its files comes from the tree `top`, which has them at their paths.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the path when a file is missing or has other content than the index says; those of the
/// writer.
pub(crate) fn pack<W: Write>(index: &LayerIndex, top: &Path, writer: &mut LayerWriter<W>) -> Result<()> {
    let top = files::open_top(top)?;
    for entry in index.entries() {
        match entry.kind {
            EntryKind::File { size: 1.., .. } => {
                let mut file = open(&top, entry)?;
                writer.append(entry, Some(&mut file)).map_err(|e| match e.kind() {
                    ErrorKind::Conflict => changed(entry).with_source(e),
                    _ => e,
                })?;
            }
            _ => writer.append(entry, None)?,
        }
    }
    Ok(())
}

fn open(top: &OwnedFd, entry: &Entry) -> Result<File> {
    // A pipe that was put in the place of a file does not block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = files::open_below(top.as_fd(), entry.path.as_bytes(), flags).map_err(|e| failed(entry, e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| failed(entry, e))?;
    match files::type_of(&stat) {
        FileType::RegularFile => Ok(File::from(file)),
        _ => Err(changed(entry)),
    }
}

/// The error of a file that cannot be opened.
fn failed(entry: &Entry, e: Errno) -> Error {
    match e {
        // Nothing is at its path, or something else than a file, or its mode has changed.
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::LOOP
        | Errno::XDEV
        | Errno::NXIO
        | Errno::NODEV
        | Errno::ACCESS => changed(entry).with_source(std::io::Error::from(e)),
        // It says nothing about the file: too many open files, a lack of memory, an error of the disk.
        _ => Error::io("cannot read a file of an unpacked layer", entry.path.to_string(), e.into()),
    }
}

fn changed(entry: &Entry) -> Error {
    Error::new(ErrorKind::Corrupt, "an unpacked layer is not as it was written")
        .with_context("path", &entry.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerPath;

    fn entries() -> Vec<(Entry, &'static [u8])> {
        let path = |text: &str| LayerPath::new(text).unwrap();
        let mut file = Entry::file(path("d/f"), 4, 0o640);
        (file.uid, file.gid, file.mtime) = (7, 8, 123);
        file.xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
        let link = EntryKind::Hardlink { target: path("d/f") };
        vec![
            (Entry::directory(path("d"), 0o700), b""),
            (file, b"text"),
            (Entry::new(path("d/g"), link, 0o640), b""),
            (Entry::file(path("empty"), 0, 0o644), b""),
            (Entry::whiteout(path("gone")), b""),
        ]
    }

    fn written() -> (Vec<u8>, LayerIndex) {
        let mut writer = LayerWriter::new(Vec::new(), Some(100));
        for (entry, mut data) in entries() {
            writer.append(&entry, Some(&mut data)).unwrap();
        }
        writer.finish().unwrap()
    }

    fn packed(top: &Path, index: &LayerIndex) -> Result<Vec<u8>> {
        let mut writer = LayerWriter::new(Vec::new(), None);
        pack(index, top, &mut writer)?;
        Ok(writer.finish()?.0)
    }

    #[test]
    fn a_layer_is_written_again_from_its_index_byte_for_byte() {
        let (tar, index) = written();
        let index = LayerIndex::from_bytes(&index.to_bytes()).unwrap();
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("d")).unwrap();
        std::fs::write(tree.path().join("d/f"), "text").unwrap();
        assert_eq!(packed(tree.path(), &index).unwrap(), tar);
    }

    #[test]
    fn a_tree_that_was_changed_is_an_error_with_the_path() {
        let (_, index) = written();
        let tree = tempfile::tempdir().unwrap();
        let file = tree.path().join("d/f");
        std::fs::create_dir(tree.path().join("d")).unwrap();
        let is_refused = || {
            let error = packed(tree.path(), &index).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            assert!(format!("{error:?}").contains("d/f"), "{error:?}");
        };
        is_refused();
        for content in ["TEXT", "tex", "text and more"] {
            std::fs::write(&file, content).unwrap();
            is_refused();
        }
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        is_refused();
        std::fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        is_refused();
    }

    #[test]
    fn a_file_that_cannot_be_read_now_is_not_one_that_changed() {
        let entry = Entry::file(LayerPath::new("d/f").unwrap(), 4, 0o640);
        for e in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::AGAIN] {
            let error = failed(&entry, e);
            assert!(!matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{error:?}");
            assert!(format!("{error:?}").contains("d/f"), "{error:?}");
        }
        assert_eq!(failed(&entry, Errno::NOENT).kind(), ErrorKind::Corrupt);
    }
}
