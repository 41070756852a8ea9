//! One entry of a layer: its clean path, kind and metadata.
//!
//! # Invariants
//! - A [`LayerPath`] is relative and clean: no leading or trailing slash, no empty part, no `.`, no `..`, no NUL. It
//!   consists of bytes, like file names on Linux. The empty path is the root of the layer.
//! - Paths are ordered part by part (`a`, `a/b`, `a.b`), so that a directory is followed at once by everything below
//!   it. The order of plain bytes would put `a.b` between `a` and `a/b`.
//! - A whiteout has the path that it hides, not its `.wh.` name: only the tar reader and writer use that name.

use super::file_time::FileTime;
use crate::{Digest, Error, Result};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The longest path that is accepted: that of Linux (`PATH_MAX`, without the NUL).
pub(crate) const MAX_PATH: usize = 4095;
/// The longest part of a path that is accepted (`NAME_MAX`).
pub(crate) const MAX_NAME: usize = 255;
/// The prefix of the names of whiteout files (image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name of the file that makes its directory opaque (image-spec, layer.md, "Opaque Whiteout").
pub(crate) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// A clean path inside a layer, relative to its root. Clones share their bytes: a plan, an index and a table of times of
/// one layer have every path once.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct LayerPath(Arc<[u8]>);

impl LayerPath {
    /// Makes a path from bytes that must be clean already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the path is empty or absolute, has an empty, `.` or `..` part, a NUL, a part
    /// longer than [`MAX_NAME`], or is longer than [`MAX_PATH`].
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self> {
        let path = path.into();
        let reject = |why: &str| {
            Err(Error::invalid(format!("the path of a layer entry {why}"))
                .with_context("path", escape(&path[..path.len().min(256)])))
        };
        if path.is_empty() {
            return reject("is empty");
        }
        if path[0] == b'/' {
            return reject("is absolute");
        }
        if path.len() > MAX_PATH {
            return reject("is longer than 4095 bytes");
        }
        if path.contains(&0) {
            return reject("contains a NUL");
        }
        for part in path.split(|&b| b == b'/') {
            match part {
                b"" => return reject("has an empty part"),
                b"." => return reject("has the part `.`"),
                b".." => return reject("has the part `..`"),
                part if part.len() > MAX_NAME => return reject("has a part longer than 255 bytes"),
                _ => {}
            }
        }
        Ok(Self(path.into()))
    }

    /// Makes a path from a name in an archive: leading, trailing and double slashes and `.` parts are dropped, so that
    /// `./a//b/` is `a/b` and `./` is the root.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a part is `..` (it is never interpreted), and the errors of
    /// [`LayerPath::new`] for the rest.
    pub fn from_archive(name: &[u8]) -> Result<Self> {
        let mut clean = Vec::with_capacity(name.len());
        for part in name.split(|&b| b == b'/') {
            if part.is_empty() || part == b"." {
                continue;
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(part);
        }
        if clean.is_empty() && !name.is_empty() { Ok(Self::root()) } else { Self::new(clean) }
    }

    /// The root of the layer.
    pub fn root() -> Self {
        Self(Arc::default())
    }

    /// Whether this is the root of the layer.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the operating system; empty for the root.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The path for the operating system. Join it only to a trusted directory: symlinks are followed.
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_os_str())
    }

    /// The directory that holds the entry; `None` for the root itself.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(Self(self.0[..self.0.iter().rposition(|&b| b == b'/').unwrap_or(0)].into()))
    }

    /// The last part; empty for the root.
    pub fn file_name(&self) -> &[u8] {
        &self.0[self.0.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1)..]
    }

    /// The parts, outermost first; none for the root.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|part| !part.is_empty())
    }

    /// Every directory above the entry, outermost first, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| Self(self.0[..at].into()))
    }

    /// The entry called `name` in this directory; `name` may have several parts.
    ///
    /// # Errors
    /// Those of [`LayerPath::new`].
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        if self.is_root() || name.is_empty() {
            return if name.is_empty() { Self::new(self.0.to_vec()) } else { Self::new(name) };
        }
        if name[0] == b'/' {
            return Self::new(name);
        }
        Self::new([&*self.0, b"/", name].concat())
    }

    /// The entry called `name` in this directory. [`LayerPath::join`] has accepted the name before.
    pub(crate) fn join_known(&self, name: &[u8]) -> Self {
        match self.is_root() {
            true => Self(name.into()),
            false => Self([&*self.0, b"/", name].concat().into()),
        }
    }

    /// Whether this is `directory` itself or lies below it.
    pub fn starts_with(&self, directory: &Self) -> bool {
        directory.is_root()
            || (self.0.starts_with(&directory.0)
                && matches!(self.0.get(directory.0.len()), None | Some(b'/')))
    }

    /// The path relative to `directory`; empty for `directory` itself, `None` for a path outside of it.
    pub(crate) fn relative_to(&self, directory: &Self) -> Option<&[u8]> {
        if !self.starts_with(directory) {
            return None;
        }
        let rest = &self.0[directory.0.len()..];
        Some(rest.strip_prefix(b"/").unwrap_or(rest))
    }
}

impl Ord for LayerPath {
    fn cmp(&self, other: &Self) -> Ordering {
        path_order(&self.0, &other.0)
    }
}

/// The order of two paths by their parts.
pub(super) fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    match a.iter().zip(b).find(|(a, b)| a != b) {
        // NUL never occurs, so a slash taken for zero sorts before every other byte.
        Some((a, b)) => {
            let weight = |byte: u8| if byte == b'/' { 0 } else { byte };
            weight(*a).cmp(&weight(*b))
        }
        None => a.len().cmp(&b.len()),
    }
}

impl PartialOrd for LayerPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(if self.is_root() { b"." } else { &self.0 }))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Bytes as printable text: control characters and invalid UTF-8 are escaped.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// The size in bytes.
        size: u64,
        /// The SHA-256 of the content, if known. It always is in an index made by the writer or the reader.
        digest: Option<Digest>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The text of the link: any bytes except NUL, never interpreted by reader or writer.
        target: Vec<u8>,
    },
    /// Another name of a regular file (or, rarely, another non-directory) of this layer or a lower one.
    Hardlink {
        /// The first name.
        target: LayerPath,
    },
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Hides what the lower layers have at the path.
    Whiteout,
    /// Hides what the lower layers have in the directory at the path; the directory itself is another entry.
    OpaqueWhiteout,
}

impl EntryKind {
    /// Whether this is a whiteout or an opaque mark.
    pub fn is_whiteout(&self) -> bool {
        matches!(self, Self::Whiteout | Self::OpaqueWhiteout)
    }

    /// The order among entries of one path: a whiteout, then the real entry, then the opaque mark.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Whiteout => 0,
            Self::OpaqueWhiteout => 2,
            _ => 1,
        }
    }

    /// The name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Directory => "directory",
            Self::Symlink { .. } => "symlink",
            Self::Hardlink { .. } => "hardlink",
            Self::CharDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
            Self::Fifo => "fifo",
            Self::Whiteout => "whiteout",
            Self::OpaqueWhiteout => "opaque whiteout",
        }
    }
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: LayerPath,
    /// The kind.
    pub kind: EntryKind,
    /// The permission bits, at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change of the content, in whole seconds since 1970.
    pub mtime: i64,
    /// The nanoseconds of that time. They are 0 in stored layers and in indexes.
    pub nanoseconds: u32,
    /// The extended attributes, by full name such as `security.capability`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry owned by root, at time 0 and without extended attributes.
    pub fn new(path: LayerPath, kind: EntryKind, mode: u32) -> Self {
        Self { path, kind, mode, uid: 0, gid: 0, mtime: 0, nanoseconds: 0, xattrs: BTreeMap::new() }
    }

    /// A directory owned by root, at time 0.
    pub fn directory(path: LayerPath, mode: u32) -> Self {
        Self::new(path, EntryKind::Directory, mode)
    }

    /// A file owned by root, at time 0, with an unknown digest.
    pub fn file(path: LayerPath, size: u64, mode: u32) -> Self {
        Self::new(path, EntryKind::File { size, digest: None }, mode)
    }

    /// A whiteout that hides `path`.
    pub fn whiteout(path: LayerPath) -> Self {
        Self::new(path, EntryKind::Whiteout, 0)
    }

    /// The time of the last change of the content.
    pub fn time(&self) -> FileTime {
        FileTime { seconds: self.mtime, nanoseconds: self.nanoseconds }
    }

    /// Sets the time of the last change of the content.
    pub fn set_time(&mut self, time: FileTime) {
        (self.mtime, self.nanoseconds) = (time.seconds, time.nanoseconds);
    }

    /// Moves the entry below another directory, and the target of a hardlink too.
    ///
    /// # Errors
    /// Those of [`LayerPath::new`], for a path that becomes too long.
    pub(crate) fn move_below(&mut self, directory: &LayerPath) -> Result<()> {
        if directory.is_root() {
            return Ok(());
        }
        self.path = directory.join(self.path.as_bytes())?;
        if let EntryKind::Hardlink { target } = &mut self.kind {
            *target = directory.join(target.as_bytes())?;
        }
        Ok(())
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    /// Whether this is a hardlink.
    pub(crate) fn is_hardlink(&self) -> bool {
        matches!(self.kind, EntryKind::Hardlink { .. })
    }

    /// The size of a file's content; 0 for everything else.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size, .. } => size,
            _ => 0,
        }
    }

    /// The digest of a file's content, if known.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.kind {
            EntryKind::File { digest, .. } => digest.as_ref(),
            _ => None,
        }
    }

    /// The order of entries in a layer: by path, and at one path the whiteout, the real entry, the opaque mark.
    pub fn layer_order(&self, other: &Self) -> Ordering {
        self.path.cmp(&other.path).then(self.kind.rank().cmp(&other.kind.rank()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> LayerPath {
        LayerPath::new(text).unwrap()
    }

    #[test]
    fn hostile_paths_are_rejected_with_a_reason() {
        for (text, why) in [
            (&b""[..], "empty"),
            (b"/etc/passwd", "absolute"),
            (b"a//b", "empty part"),
            (b"a/", "empty part"),
            (b"./a", "`.`"),
            (b"a/..", "`..`"),
            (b"a\0b", "NUL"),
            (&[b'x'; 256][..], "255"),
            (&b"ab/".repeat(1400)[..], "4095"),
        ] {
            let e = LayerPath::new(text).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }
    }

    #[test]
    fn archive_names_are_cleaned_but_never_climb() {
        for (name, clean) in [("./a//b/", "a/b"), ("/a", "a"), ("a/./b", "a/b"), ("...", "...")] {
            assert_eq!(LayerPath::from_archive(name.as_bytes()).unwrap(), path(clean));
        }
        assert!(LayerPath::from_archive(b"./").unwrap().is_root());
        assert!(LayerPath::from_archive(b"").is_err());
        assert!(LayerPath::from_archive(b"a/../b").is_err());
        assert!(LayerPath::from_archive(b"../b").is_err());
    }

    #[test]
    fn parents_names_and_prefixes() {
        let p = path("a/b/c");
        assert_eq!(p.parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(LayerPath::root()));
        assert_eq!(LayerPath::root().parent(), None);
        assert_eq!(p.file_name(), b"c");
        assert_eq!(p.ancestors().collect::<Vec<_>>(), [path("a"), path("a/b")]);
        assert!(p.starts_with(&path("a/b")) && p.starts_with(&p) && p.starts_with(&LayerPath::root()));
        assert!(!path("ab").starts_with(&path("a")));
        assert_eq!(p.relative_to(&path("a")), Some(&b"b/c"[..]));
        assert_eq!(p.relative_to(&LayerPath::root()), Some(&b"a/b/c"[..]));
        assert_eq!(path("a").join("b/c").unwrap(), p);
        assert!(path("a").join("/etc").is_err() && path("a").join("..").is_err());
        assert_eq!(path("a").join("").unwrap(), path("a"));
    }

    #[test]
    fn a_directory_sorts_before_its_content() {
        let mut paths = ["a.b", "a/b", "a", "a/b.c", "a/b/c", "b"].map(path);
        paths.sort();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b.c", "a.b", "b"].map(path));
    }

    proptest! {
        #[test]
        fn paths_are_ordered_by_their_parts(a in "[a./]{1,8}", b in "[a./]{1,8}") {
            if let (Ok(a), Ok(b)) = (LayerPath::new(a), LayerPath::new(b)) {
                prop_assert_eq!(a.cmp(&b), a.parts().cmp(b.parts()));
            }
        }

        #[test]
        fn cleaning_never_yields_a_hostile_path(name: Vec<u8>) {
            if let Ok(clean) = LayerPath::from_archive(&name) && !clean.is_root() {
                prop_assert!(LayerPath::new(clean.as_bytes()).is_ok());
            }
        }
    }
}
