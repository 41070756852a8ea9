//! What is known of a file of a source without opening it.

use crate::layer::FileTime;
use rustix::fs::FileType;

/// The metadata of a file, known without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The kind of file.
    pub(crate) file_type: FileType,
    /// The permission bits, at most `0o7777`.
    pub(crate) mode: u32,
    /// The owner in the image; 0 in a context.
    pub(crate) uid: u32,
    /// The group in the image; 0 in a context.
    pub(crate) gid: u32,
    /// The size in bytes.
    pub(crate) size: u64,
    /// The device that holds the file.
    pub(crate) device: u64,
    /// The inode.
    pub(crate) inode: u64,
    /// The number of names.
    pub(crate) links: u64,
    /// The device number of a device file.
    pub(crate) special: u64,
    /// The time of the last change of the content: seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// The time of the last change of content or metadata: seconds and nanoseconds.
    pub(crate) ctime: (i64, u32),
}

impl Metadata {
    /// The time of the last change of the content.
    pub(crate) fn time(&self) -> FileTime {
        FileTime { seconds: self.mtime.0, nanoseconds: self.mtime.1 }
    }

    /// Whether this is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }
}

/// The path of a name in a directory, both relative to the source.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}
