//! Ranges of a blob (RFC 9110, section 14): how they are parsed, and responses with several ranges.
//!
//! Clients that pull lazily fetch many small pieces of a layer in one request; a server that supports only one range
//! would send them the whole layer.

use crate::body::BlobBody;
use bytes::Bytes;
use futures::StreamExt;
use hyper_sdk::store::{ByteRange, ByteStream, SharedStore, UploadId};
use hyper_sdk::{Digest, RepositoryName, Result};
use std::ops::Range;

/// The most ranges of one request. With more, the whole blob is sent.
const MOST: usize = 1000;

/// The ranges of a `Range` header. `None` for other units, malformed texts and too many ranges: the response is then
/// the whole content.
pub(crate) fn parse(value: &str) -> Option<Vec<ByteRange>> {
    let (unit, list) = value.trim().split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        if ranges.len() == MOST {
            return None;
        }
        ranges.push(parse_one(text)?);
    }
    (!ranges.is_empty()).then_some(ranges)
}

fn parse_one(text: &str) -> Option<ByteRange> {
    let (first, last) = text.split_once('-')?;
    let number = |s: &str| {
        let s = s.trim();
        (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => Some(ByteRange::Suffix(number(last)?)),
        (first, "") => Some(ByteRange::FromTo(number(first)?, None)),
        (first, last) => Some(ByteRange::FromTo(number(first)?, Some(number(last)?))),
    }
}

/// The parts of content of `size` bytes to send. Ranges outside of the content are left out, and overlapping ranges are
/// merged, so no more than the content is sent. Ranges that do not overlap keep their order. Empty when no range can be
/// satisfied.
pub(crate) fn resolve(ranges: &[ByteRange], size: u64) -> Vec<Range<u64>> {
    let parts = ranges.iter().filter_map(|range| range.resolve(size).ok());
    let parts: Vec<Range<u64>> = parts.map(|(offset, length)| offset..offset + length).collect();
    let mut sorted = parts.clone();
    sorted.sort_by_key(|part| part.start);
    if sorted.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        return parts;
    }
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for part in sorted {
        match merged.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => merged.push(part),
        }
    }
    merged
}

/// The framing of several parts as `multipart/byteranges`.
pub(super) struct Multipart {
    boundary: String,
    size: u64,
    parts: Vec<Range<u64>>,
}

impl Multipart {
    /// The parts of content of `size` bytes.
    pub(super) fn new(parts: Vec<Range<u64>>, size: u64) -> Result<Self> {
        // The boundary is random, so that no content can be crafted to contain it.
        Ok(Self { boundary: UploadId::random()?.to_string(), size, parts })
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    fn head(&self, index: usize, part: &Range<u64>) -> String {
        format!(
            "{}--{}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
            if index == 0 { "" } else { "\r\n" },
            self.boundary,
            part.start,
            part.end - 1,
            self.size
        )
    }

    fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// The length of the whole body.
    pub(super) fn length(&self) -> u64 {
        let parts = self.parts.iter().enumerate();
        let parts: u64 = parts.map(|(i, part)| self.head(i, part).len() as u64 + part.end - part.start).sum();
        parts + self.tail().len() as u64
    }

    /// The body, from content in memory.
    pub(super) fn whole(&self, content: &Bytes) -> Bytes {
        let mut body = Vec::with_capacity(self.length() as usize);
        for (i, part) in self.parts.iter().enumerate() {
            body.extend_from_slice(self.head(i, part).as_bytes());
            body.extend_from_slice(&content[part.start as usize..part.end as usize]);
        }
        body.extend_from_slice(self.tail().as_bytes());
        body.into()
    }

    /// The body, from a blob whose first part is open. The other parts are opened one after the other.
    pub(super) fn stream(
        self,
        first: BlobBody,
        store: SharedStore,
        repository: RepositoryName,
        digest: Digest,
    ) -> BlobBody {
        let length = self.length();
        let mut pieces: Vec<Piece> = Vec::with_capacity(2 * self.parts.len() + 1);
        for (i, part) in self.parts.iter().enumerate() {
            pieces.push(Piece::Frame(self.head(i, part).into()));
            pieces.push(Piece::Part(part.clone()));
        }
        pieces.push(Piece::Frame(self.tail().into()));
        let mut first = Some(first);
        let body = futures::stream::iter(pieces).then(move |piece| {
            let opened = match &piece {
                Piece::Part(_) => first.take(),
                Piece::Frame(_) => None,
            };
            let (store, repository, digest) = (store.clone(), repository.clone(), digest.clone());
            async move {
                match (piece, opened) {
                    (Piece::Frame(bytes), _) => futures::stream::iter([Ok(bytes)]).boxed(),
                    (Piece::Part(_), Some(opened)) => opened.into_stream(),
                    (Piece::Part(part), None) => {
                        let range = ByteRange::FromTo(part.start, Some(part.end - 1));
                        match store.get_blob(&repository, &digest, Some(range)).await {
                            Ok(reader) => reader.stream,
                            Err(e) => futures::stream::iter([Err(e)]).boxed(),
                        }
                    }
                }
            }
        });
        let body: ByteStream = body.flatten().boxed();
        BlobBody::of(length, body)
    }
}

enum Piece {
    Frame(Bytes),
    Part(Range<u64>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_parsed_as_the_rfc_says() {
        use ByteRange::{FromTo, Suffix};
        for (text, ranges) in [
            ("bytes=0-0", Some(vec![FromTo(0, Some(0))])),
            ("bytes=500-", Some(vec![FromTo(500, None)])),
            ("bytes=-500", Some(vec![Suffix(500)])),
            ("bytes=500-0", Some(vec![FromTo(500, Some(0))])),
            ("bytes=0-99999999999999999999999", Some(vec![FromTo(0, Some(u64::MAX))])),
            ("bytes=0-1,2-3", Some(vec![FromTo(0, Some(1)), FromTo(2, Some(3))])),
            ("bytes= 0-1 , ,-3", Some(vec![FromTo(0, Some(1)), Suffix(3)])),
            ("Bytes=0-0", Some(vec![FromTo(0, Some(0))])),
            ("bytes=-", None),
            ("bytes=", None),
            ("bytes=,", None),
            ("bytes=a-b", None),
            ("bytes=0-1,x", None),
            ("bytes=+1-2", None),
            ("items=0-1", None),
            ("", None),
        ] {
            assert_eq!(parse(text), ranges, "{text}");
        }
        let many = |n| format!("bytes={}", (0..n).map(|i| format!("{i}-{i}")).collect::<Vec<_>>().join(","));
        assert_eq!(parse(&many(MOST)).unwrap().len(), MOST);
        assert_eq!(parse(&many(MOST + 1)), None);
    }

    #[test]
    fn overlapping_ranges_become_one_and_others_keep_their_order() {
        let resolve = |text: &str| resolve(&parse(text).unwrap(), 100);
        assert_eq!(resolve("bytes=50-59,0-9"), [50..60, 0..10]);
        assert_eq!(resolve("bytes=0-9,10-19"), [0..10, 10..20]);
        assert_eq!(resolve("bytes=0-9,5-19,90-"), [0..20, 90..100]);
        assert_eq!(resolve("bytes=0-,0-,0-"), std::slice::from_ref(&(0..100)));
        assert_eq!(resolve("bytes=-1,200-300,0-0"), [99..100, 0..1]);
        assert!(resolve("bytes=100-,200-300,-0,9-8").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = parse(&text);
            let _ = parse(&format!("bytes={text}"));
        }

        #[test]
        fn resolved_ranges_never_exceed_the_content(ends in prop::collection::vec((0u64..200, 0u64..200), 1..20)) {
            let ranges: Vec<ByteRange> = ends.iter().map(|(a, b)| ByteRange::FromTo(*a, Some(*b))).collect();
            let parts = resolve(&ranges, 100);
            prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= 100);
            let asked = |n| ends.iter().any(|(a, b)| (*a..=*b).contains(&n));
            for n in 0..100 {
                prop_assert_eq!(parts.iter().any(|part| part.contains(&n)), asked(n));
            }
        }
    }
}
