//! The header `traceparent` of W3C Trace Context.

use http::HeaderMap;
use std::fmt;

/// The span of a client, by the header `traceparent` (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) is_sampled: bool,
}

impl TraceParent {
    /// That of a request; `None` when it has none, several, or one that is not valid.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        Self::parse(only.to_str().ok()?)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = |part: &str, length: usize| -> Option<u128> {
            let is_hex = part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            (part.len() == length && is_hex).then(|| u128::from_str_radix(part, 16).ok())?
        };
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32).filter(|trace| *trace != 0)?;
        let span = hex(parts.next()?, 16).filter(|span| *span != 0)?;
        let flags = hex(parts.next()?, 2)?;
        // A later version may have more at the end.
        let is_known = version == 0 && parts.next().is_none() || (1..255).contains(&version);
        is_known.then_some(Self { trace, span: span as u64, is_sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_as_the_recommendation_says() {
        let parent = TraceParent::parse(TEXT).unwrap();
        assert_eq!(parent.to_string(), TEXT);
        assert!(parent.is_sampled);
        assert!(!TraceParent::parse(&TEXT.replace("-01", "-fe")).unwrap().is_sampled);
        assert_eq!(TraceParent::parse(&format!("cc{}-more", &TEXT[2..])), Some(parent));
        for bad in [
            String::new(),
            TEXT.to_uppercase(),
            format!("{TEXT}-more"),
            format!("ff{}", &TEXT[2..]),
            TEXT.replace("4bf9", "4bg9"),
            TEXT.replace("00f067aa0ba902b7", "0000000000000000"),
            TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            TEXT.replace("-01", "-1"),
            TEXT.replace("-01", "-+1"),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.append("traceparent", TEXT.parse().unwrap());
        assert_eq!(TraceParent::of(&headers), Some(parent));
        headers.append("traceparent", TEXT.parse().unwrap());
        assert_eq!(TraceParent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = TraceParent::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(trace in 1..=u128::MAX, span in 1..=u64::MAX, is_sampled: bool) {
            let parent = TraceParent { trace, span, is_sampled };
            prop_assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        }

        /// Near what is valid, with wrong lengths, letters and versions.
        #[test]
        fn what_is_read_has_the_lengths_and_letters_of_the_recommendation(
            text in "(00|cc|ff|0)-[0-9a-f]{31,33}-[0-9a-fA-F]{16}-0[01g](-[a-z]{0,3})?"
        ) {
            let Some(parent) = TraceParent::parse(&text) else { return Ok(()) };
            prop_assert!(text.len() == 55 || !text.starts_with("00") && text.as_bytes()[55] == b'-', "{}", text);
            prop_assert_eq!(&parent.to_string()[2..55], &text[2..55]);
            prop_assert!(!text.starts_with("ff") && parent.trace != 0 && parent.span != 0);
        }
    }
}
