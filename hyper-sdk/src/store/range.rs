//! Ranges of bytes.

use crate::Result;

/// A requested range of bytes. Ends are inclusive, as in HTTP (RFC 9110, section 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first offset to the last, both included; `None` means the end of the content.
    FromTo(u64, Option<u64>),
    /// The last bytes; the number of them.
    Suffix(u64),
}

impl ByteRange {
    /// The offset and length within content of `size` bytes, limited to the content.
    ///
    /// # Errors
    /// [`crate::ErrorKind::RangeInvalid`] when no byte of the content is in the range.
    pub fn resolve(self, size: u64) -> Result<(u64, u64)> {
        let bad = || {
            crate::Error::new(crate::ErrorKind::RangeInvalid, "the range is outside the content")
                .with_context("size", size)
        };
        match self {
            Self::FromTo(first, last) => {
                let end = last.map_or(size, |l| l.saturating_add(1).min(size));
                if first >= size || last.is_some_and(|l| l < first) {
                    return Err(bad());
                }
                Ok((first, end - first))
            }
            Self::Suffix(0) => Err(bad()),
            Self::Suffix(_) if size == 0 => Err(bad()),
            Self::Suffix(n) => {
                let n = n.min(size);
                Ok((size - n, n))
            }
        }
    }
}
