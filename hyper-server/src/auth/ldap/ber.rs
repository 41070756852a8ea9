//! The parts of BER (X.690) that LDAP uses (RFC 4511, section 5.1): tags of one byte and definite lengths.
//!
//! ```text
//! tag | length: one byte below 128, or 128 + N and N bytes | content
//! ```
//!
//! # Invariants
//! - Reading never goes deeper by itself: the caller reads one level at a time, so no message needs a deep stack.
//! - A length is compared with what is there before anything is set aside for it.

/// The most bytes of a length that are read.
const MAX_LENGTH_BYTES: usize = 4;

/// An element with this tag.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            bytes.push(0x80 | (length.len() - zeros) as u8);
            bytes.extend_from_slice(&length[zeros..]);
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

/// A number that is not negative, with this tag.
pub(super) fn number(tag: u8, value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(3);
    let digits = &bytes[zeros..];
    // The first bit is the sign.
    match digits[0] & 0x80 {
        0 => element(tag, digits),
        _ => element(tag, &[&[0], digits].concat()),
    }
}

/// How long the head of an element is, and its content, by its first bytes; `None` when they are not enough.
///
/// # Errors
/// The length is indefinite, or needs more than four bytes.
pub(super) fn head(bytes: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    let Some(first) = bytes.get(1) else { return Ok(None) };
    let more = match first {
        0..0x80 => return Ok(Some((2, usize::from(*first)))),
        _ => usize::from(first & 0x7f),
    };
    if !(1..=MAX_LENGTH_BYTES).contains(&more) {
        return Err(());
    }
    let Some(length) = bytes.get(2..2 + more) else { return Ok(None) };
    Ok(Some((2 + more, length.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)))))
}

/// Elements, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content. `None` at the end, and when it is damaged.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (start, length) = head(self.0).ok()??;
        let tag = self.0[0];
        let content = self.0.get(start..start.checked_add(length)?)?;
        self.0 = &self.0[start + length..];
        Some((tag, content))
    }

    /// The content of the next element, which has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next element, which is a number that is not negative.
    pub(super) fn number(&mut self, tag: u8) -> Option<u32> {
        let content = self.expect(tag)?;
        let is_number = (1..=5).contains(&content.len()) && content[0] & 0x80 == 0;
        let value = content.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        u32::try_from(value).ok().filter(|_| is_number)
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_short_or_long() {
        assert_eq!(element(4, b"ab"), [4, 2, b'a', b'b']);
        assert_eq!(element(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(element(0x30, &[0; 70_000])[..5], [0x30, 0x83, 1, 0x11, 0x70]);
        for (value, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0, 128]),
            (256, &[1, 0]),
            (u32::MAX, &[0, 255, 255, 255, 255]),
        ] {
            let bytes = number(2, value);
            assert_eq!(bytes[2..], *expected);
            assert_eq!(Reader(&bytes).number(2), Some(value));
        }
    }

    #[test]
    fn damaged_elements_are_refused() {
        for bad in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x80],
            &[4, 0x81],
            &[4, 0x85, 0, 0, 0, 0, 0],
            &[4, 0x84, 255, 255, 255, 255],
            &[4, 0xff],
        ] {
            assert!(Reader(bad).next().is_none(), "{bad:?}");
        }
        assert!(Reader(&[4, 0]).expect(2).is_none() && Reader(&[2, 0]).number(2).is_none());
        assert!(Reader(&[2, 1, 255]).number(2).is_none(), "a negative number");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tag: u8, content in proptest::collection::vec(any::<u8>(), 0..400), rest: Vec<u8>) {
            let bytes = [element(tag, &content), rest.clone()].concat();
            let mut reader = Reader(&bytes);
            prop_assert_eq!(reader.next(), Some((tag, &content[..])));
            prop_assert_eq!(reader.0, &rest[..]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            while reader.next().is_some() {}
        }
    }
}
