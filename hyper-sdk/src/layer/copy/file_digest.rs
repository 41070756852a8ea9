//! The parts of a file that must be read: the hash of its content, and the one extended attribute that layers keep.
//!
//! Layers contain only the extended attribute `security.capability` of a copied file, as with BuildKit: `user.*`
//! depends on the build machine, and `security.selinux` and similar ones belong to the host.

use super::metadata::Metadata;
use crate::Result;
use sha2::Digest as _;
use std::fmt;
use std::fs::File;
use std::io::Read;

/// The one extended attribute that is kept.
pub(crate) const CAPABILITY: &str = "security.capability";

/// The result of reading a regular file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct FileDigest {
    /// The SHA-256 of the content.
    pub sha256: [u8; 32],
    /// The file capabilities, as the kernel stores them.
    pub capability: Option<Vec<u8>>,
}

impl FileDigest {
    /// The hash as a digest.
    #[cfg(test)]
    pub(crate) fn digest(&self) -> Result<crate::Digest> {
        crate::Digest::parse(&format!(
            "sha256:{}",
            self.sha256.iter().map(|b| format!("{b:02x}")).collect::<String>()
        ))
    }
}

impl fmt::Debug for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileDigest({:02x?}, capability: {})", &self.sha256[..6], self.capability.is_some())
    }
}

/// Hashes regular files, possibly from a cache.
pub(crate) trait FileHasher: Sync {
    /// The digest of the file with this metadata; `open` opens it.
    ///
    /// # Errors
    /// Those of `open` and of reading.
    fn hash_file(&self, metadata: &Metadata, open: &dyn Fn() -> Result<File>) -> Result<FileDigest>;
}

/// Reads every file every time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadingHasher;

impl FileHasher for ReadingHasher {
    fn hash_file(&self, metadata: &Metadata, open: &dyn Fn() -> Result<File>) -> Result<FileDigest> {
        let mut file = open()?;
        let capability = capability(&file)?;
        let mut hasher = sha2::Sha256::new();
        // Most files are small: clearing a large buffer for each would cost more than reading it. One byte more than
        // the size is needed to detect the end.
        let size = usize::try_from(metadata.size).unwrap_or(usize::MAX);
        let mut buffer = vec![0; size.saturating_add(1).clamp(512, 64 << 10)];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        Ok(FileDigest { sha256: hasher.finalize().into(), capability })
    }
}

/// The file capabilities of an open file.
pub(super) fn capability(file: &File) -> Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    let mut value = vec![0; 64];
    match rustix::fs::fgetxattr(file, CAPABILITY, &mut value) {
        Ok(n) => {
            value.truncate(n);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(None),
        Err(e) => Err(std::io::Error::from(e).into()),
    }
}
