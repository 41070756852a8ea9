//! HMAC-SHA-256 (RFC 2104) with the secret key of a state folder: what is short or easy to guess cannot be found by trying
//! without the key.

use crate::private_folder;
use crate::small_file::{self, Kinds};
use crate::{Error, Result, ResultExt as _, staged_file};
use sha2::{Digest as _, Sha256};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::Path;

/// The name of the file with the key, in the folder of the history.
const FILE: &str = "steps.key";
const LENGTH: usize = 32;
/// The bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// A keyed hash function.
pub(crate) struct KeyedHash {
    inner: Sha256,
    outer: Sha256,
    name: String,
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedHash").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KeyedHash {
    /// The hash with a key of at most 64 bytes.
    pub(crate) fn new(key: &[u8]) -> Self {
        let begin = |with: u8| {
            let mut block = [with; BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            Sha256::new_with_prefix(block)
        };
        let mut hash = Self { inner: begin(0x36), outer: begin(0x5c), name: String::new() };
        hash.name = hash.short(&[b"name of the key"], 8);
        hash
    }

    /// The hash with the key in a folder. The key is made when it is missing or not one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when it can be neither read nor made.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        const WHAT: &str = "the key of the records of steps";
        let path = folder.join(FILE);
        let read = || small_file::read(&path, WHAT, LENGTH as u64, Kinds::Files).ok();
        if let Some(key) = read().filter(|key| key.len() == LENGTH) {
            return Ok(Self::new(&key));
        }
        private_folder::open(folder)?;
        let mut key = [0; LENGTH];
        let mut filled = 0;
        while filled < LENGTH {
            let more = rustix::rand::getrandom(&mut key[filled..], rustix::rand::GetRandomFlags::empty());
            filled += more.map_err(|e| Error::from(std::io::Error::from(e)))?;
        }
        staged_file::remove_abandoned(folder);
        // A temporary file is for its owner alone.
        let mut staged =
            tempfile::Builder::new().suffix(".partial").tempfile_in(folder).at("cannot write", &path)?;
        staged.write_all(&key).at("cannot write", &path)?;
        // Of several processes one makes it. One that is no key is replaced.
        if path.symlink_metadata().is_ok_and(|meta| meta.len() != LENGTH as u64) {
            staged.persist(&path).map_err(|e| e.error).at("cannot write", &path)?;
        } else {
            let _ = staged.persist_noclobber(&path);
        }
        let key = small_file::read(&path, WHAT, LENGTH as u64, Kinds::Files)?;
        Ok(Self::new(&key))
    }

    /// What tells its key from another one.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The hash of fields as 32 hexadecimal digits. Other lists of fields have other hashes.
    pub(crate) fn of(&self, fields: &[&[u8]]) -> String {
        self.short(fields, 16)
    }

    /// The first bytes of the hash of fields, in hexadecimal digits.
    pub(crate) fn short(&self, fields: &[&[u8]], bytes: usize) -> String {
        let mut inner = self.inner.clone();
        for field in fields {
            inner.update((field.len() as u64).to_le_bytes());
            inner.update(field);
        }
        let hash = self.end(inner);
        hash.iter().take(bytes).fold(String::with_capacity(2 * bytes), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn end(&self, inner: Sha256) -> [u8; 32] {
        let mut outer = self.outer.clone();
        outer.update(inner.finalize());
        outer.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_hmac_sha_256() {
        // RFC 4231, test case 2.
        let hash = KeyedHash::new(b"Jefe");
        let mut inner = hash.inner.clone();
        inner.update(b"what do ya want for nothing?");
        let hex: String = hash.end(inner).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn fields_and_keys_are_told_apart() {
        let (one, two) = (KeyedHash::new(b"one"), KeyedHash::new(b"two"));
        assert_ne!(one.of(&[b"a", b"bc"]), one.of(&[b"ab", b"c"]));
        assert_ne!(one.of(&[b"a"]), two.of(&[b"a"]));
        assert_ne!(one.name(), two.name());
    }

    #[test]
    fn the_key_of_a_folder_stays_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = KeyedHash::open(folder.path()).unwrap();
        assert_eq!(KeyedHash::open(folder.path()).unwrap().name(), first.name());
        let path = folder.path().join(FILE);
        let meta = path.metadata().unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o600, LENGTH as u64));
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(KeyedHash::open(elsewhere.path()).unwrap().name(), first.name());
        for damaged in [&b""[..], b"short", &[0; LENGTH + 1]] {
            std::fs::write(&path, damaged).unwrap();
            let other = KeyedHash::open(folder.path()).unwrap();
            assert_ne!(other.name(), first.name());
            assert_eq!(KeyedHash::open(folder.path()).unwrap().name(), other.name());
        }
    }
}
