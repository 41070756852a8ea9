//! Digests: parsing, hashing with a state that can be saved, and verification while reading.
//!
//! A digest is `ALGORITHM:HEX` (image-spec, descriptor.md, "Digests"). Hyper computes `sha256` and `sha512`; parsing
//! rejects every other algorithm by name, so a [`Digest`] can always be verified.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use sha2::digest::common::hazmat::SerializableState;
use std::fmt;
use std::io::Read;
use std::str::FromStr;

/// A hash algorithm of the image specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the default everywhere.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm that Hyper computes.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name in a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The number of hexadecimal characters of an encoded hash.
    pub(crate) fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// A hasher in its initial state.
    pub fn hasher(self) -> Hasher {
        Hasher::new(self)
    }

    /// The digest of bytes in memory.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(Error::new(
                ErrorKind::DigestInvalid,
                format!("unknown digest algorithm `{}`: use sha256 or sha512", clip(s)),
            )),
        }
    }
}

/// The digest of some content: an algorithm and its lower-case hexadecimal hash.
///
/// ```
/// use hyper_sdk::Digest;
///
/// let digest = Digest::sha256("hello");
/// assert_eq!(Digest::parse(digest.as_str())?, digest);
/// assert!(Digest::parse("sha256:short").is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: String,
    algorithm: Algorithm,
}

impl Digest {
    /// Parses `ALGORITHM:HEX`.
    ///
    /// # Errors
    /// [`ErrorKind::DigestInvalid`] when the algorithm is unknown, the length is wrong or a character is not a
    /// lower-case hexadecimal digit.
    pub fn parse(s: &str) -> Result<Self> {
        let bad =
            |why: &str| Error::new(ErrorKind::DigestInvalid, format!("`{}` is not a digest: {why}", clip(s)));
        let (name, hex) = s.split_once(':').ok_or_else(|| bad("expected ALGORITHM:HEX"))?;
        let algorithm = name.parse::<Algorithm>()?;
        if hex.len() != algorithm.hex_len() {
            return Err(bad(&format!("{algorithm} takes {} hexadecimal characters", algorithm.hex_len())));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("only the characters 0-9 and a-f are allowed"));
        }
        Ok(Self { text: s.to_owned(), algorithm })
    }

    /// The SHA-256 digest of bytes in memory.
    pub fn sha256(bytes: impl AsRef<[u8]>) -> Self {
        Algorithm::Sha256.digest(bytes.as_ref())
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The first twelve hexadecimal characters, for messages.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text, `ALGORITHM:HEX`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The digest of a SHA-256 hash in binary form.
    pub fn from_sha256(hash: &[u8; 32]) -> Self {
        Self::from_hash(Algorithm::Sha256, hash)
    }

    /// The hash in binary form.
    pub fn hash_bytes(&self) -> Vec<u8> {
        let nibble = |c: u8| if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 };
        self.hex().as_bytes().chunks_exact(2).map(|c| nibble(c[0]) << 4 | nibble(c[1])).collect()
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(algorithm.name().len() + 1 + hash.len() * 2);
        text.push_str(algorithm.name());
        text.push(':');
        for byte in hash {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Self { text, algorithm }
    }
}

fn clip(s: &str) -> String {
    const MAX: usize = 160;
    let mut out: String = s.chars().take(MAX).flat_map(char::escape_debug).collect();
    if s.chars().nth(MAX).is_some() {
        out.push('…');
    }
    out
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&s).map_err(serde::de::Error::custom)
    }
}

/// A running hash whose state can be saved and restored, so that an upload can be resumed after a restart.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher in its initial state.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// A SHA-256 hasher in its initial state.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        match &mut self.0 {
            State::Sha256(h) => h.update(bytes),
            State::Sha512(h) => h.update(bytes),
        }
    }

    /// Adds a field of a composite key: its length, then its bytes, so that different lists of fields do not collide.
    pub fn update_field(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.update((bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// The digest of all bytes.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(h) => Digest::from_hash(Algorithm::Sha256, &h.finalize()),
            State::Sha512(h) => Digest::from_hash(Algorithm::Sha512, &h.finalize()),
        }
    }

    /// The state as bytes: one byte for the algorithm, then the state of `sha2`.
    pub fn save(&self) -> Vec<u8> {
        match &self.0 {
            State::Sha256(h) => [&[1u8][..], h.serialize().as_slice()].concat(),
            State::Sha512(h) => [&[2u8][..], h.serialize().as_slice()].concat(),
        }
    }

    /// Restores a hasher that [`Hasher::save`] saved.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the bytes are not a saved state.
    pub fn restore(saved: &[u8]) -> Result<Self> {
        let corrupt = || Error::new(ErrorKind::Corrupt, "the saved hash state is damaged");
        match saved.split_first() {
            Some((1, rest)) => {
                let state = rest.try_into().map_err(|_| corrupt())?;
                Ok(Self(State::Sha256(sha2::Sha256::deserialize(&state).map_err(|_| corrupt())?)))
            }
            Some((2, rest)) => {
                let state = rest.try_into().map_err(|_| corrupt())?;
                Ok(Self(State::Sha512(sha2::Sha512::deserialize(&state).map_err(|_| corrupt())?)))
            }
            _ => Err(corrupt()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm())
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A reader that verifies the content of another one: it fails at the end when size or digest do not match.
///
/// The error is returned instead of the end of file, so a consumer that reads to the end never accepts wrong content.
/// An excess byte fails immediately.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    left: u64,
}

impl<R: Read> VerifyingReader<R> {
    /// A reader of `inner`, which must yield exactly `size` bytes with the digest `expected`.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        Self { inner, hasher: Some(expected.algorithm().hasher()), expected, left: size }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buffer)?;
        let Some(hasher) = &mut self.hasher else { return Ok(n) };
        if n as u64 > self.left {
            return Err(Error::new(ErrorKind::SizeInvalid, "the content is longer than announced")
                .with_context("digest", &self.expected)
                .into());
        }
        self.left -= n as u64;
        hasher.update(&buffer[..n]);
        if n == 0 {
            if self.left != 0 {
                return Err(Error::new(ErrorKind::SizeInvalid, "the content is shorter than announced")
                    .with_context("digest", &self.expected)
                    .with_context("missing bytes", self.left)
                    .into());
            }
            let got = self.hasher.take().map(Hasher::finish);
            if got.as_ref() != Some(&self.expected) {
                return Err(Error::new(ErrorKind::DigestInvalid, "the content does not match its digest")
                    .with_context("expected", &self.expected)
                    .into());
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_vectors() {
        assert_eq!(
            Digest::sha256(b"").as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!(Algorithm::Sha512.digest(b"abc").as_str().starts_with("sha512:ddaf35a193617aba"));
    }

    #[test]
    fn the_binary_form_is_converted_back() {
        let digest = Digest::sha256(b"abc");
        assert_eq!(Digest::from_sha256(&digest.hash_bytes().try_into().unwrap()), digest);
        assert_eq!(Algorithm::Sha512.digest(b"abc").hash_bytes().len(), 64);
    }

    #[test]
    fn the_error_of_a_malformed_digest_has_the_reason() {
        for (text, why) in [
            ("sha256", "ALGORITHM:HEX"),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", "unknown digest algorithm"),
            ("sha256:abc", "64 hexadecimal"),
            (&format!("sha256:{}", "A".repeat(64)), "a-f"),
        ] {
            let e = Digest::parse(text).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::DigestInvalid);
            assert!(e.to_string().contains(why), "{e}");
        }
    }

    #[test]
    fn the_verifying_reader_rejects_wrong_content_and_sizes() {
        let digest = Digest::sha256(b"hello");
        let read = |bytes: &[u8], size| {
            let mut out = Vec::new();
            VerifyingReader::new(bytes, digest.clone(), size).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"hello", 5).unwrap(), b"hello");
        for (bytes, size) in [(&b"hellO"[..], 5), (b"hell", 5), (b"hello!", 5), (b"hello", 4)] {
            assert!(read(bytes, size).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_restored_hasher_continues(a: Vec<u8>, b: Vec<u8>) {
            for algorithm in Algorithm::ALL {
                let mut hasher = algorithm.hasher();
                hasher.update(&a);
                let mut restored = Hasher::restore(&hasher.save()).unwrap();
                restored.update(&b);
                prop_assert_eq!(restored.finish(), algorithm.digest(&[a.clone(), b.clone()].concat()));
            }
        }

        #[test]
        fn parsing_never_panics(s: String) {
            let _ = Digest::parse(&s);
        }
    }
}
