//! Blobs that are checked while they are read.

use super::BlobReader;
use super::errors::bytes_damaged;
use crate::Digest;
use bytes::Bytes;
use futures::StreamExt as _;

impl BlobReader {
    /// Hashes the bytes while they are read. The last piece comes when all match the digest; when they do not, the stream ends
    /// with the error of [`bytes_damaged`] in its place. Only a reader of a whole blob can be checked: one of a part is returned
    /// as it is.
    #[must_use]
    pub fn verified(self, digest: &Digest) -> Self {
        let Self { size, offset, length, stream } = self;
        if offset != 0 || length != size {
            return Self { size, offset, length, stream };
        }
        let state = Some((stream, digest.algorithm().hasher(), None::<Bytes>, digest.clone()));
        let checked = futures::stream::unfold(state, |state| async {
            let (mut stream, mut hasher, mut held, digest) = state?;
            loop {
                match stream.next().await {
                    Some(Ok(bytes)) => {
                        hasher.update(&bytes);
                        if let Some(before) = held.replace(bytes) {
                            return Some((Ok(before), Some((stream, hasher, held, digest))));
                        }
                    }
                    Some(Err(e)) => return Some((Err(e), None)),
                    None if hasher.finish() == digest => return held.map(|last| (Ok(last), None)),
                    None => return Some((Err(bytes_damaged(&digest)), None)),
                }
            }
        });
        Self { size, offset, length, stream: checked.boxed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::errors::is_bytes_damaged;
    use futures::TryStreamExt as _;

    fn reader(pieces: &[&'static str]) -> BlobReader {
        let pieces: Vec<_> = pieces.iter().map(|text| Ok(Bytes::from_static(text.as_bytes()))).collect();
        let size = pieces.iter().flatten().map(|piece: &Bytes| piece.len() as u64).sum();
        BlobReader { size, offset: 0, length: size, stream: futures::stream::iter(pieces).boxed() }
    }

    #[tokio::test]
    async fn the_last_bytes_come_only_when_all_match() {
        for pieces in [&["hel", "lo"][..], &["hello"], &["h", "e", "llo"]] {
            let checked = reader(pieces).verified(&Digest::sha256("hello"));
            let got: Vec<Bytes> = checked.stream.try_collect().await.unwrap();
            assert_eq!(got.concat(), b"hello");
            let mut checked = reader(pieces).verified(&Digest::sha256("jello")).stream;
            let mut count = 0;
            let error = loop {
                match checked.next().await.unwrap() {
                    Ok(piece) => count += piece.len(),
                    Err(e) => break e,
                }
            };
            assert!(is_bytes_damaged(&error) && count < 5, "{error}");
            assert!(checked.next().await.is_none());
        }
        assert!(reader(&[]).verified(&Digest::sha256("")).stream.next().await.is_none());
        assert!(reader(&[]).verified(&Digest::sha256("x")).stream.next().await.unwrap().is_err());
        let part = BlobReader { size: 9, ..reader(&["hello"]) }.verified(&Digest::sha256("x"));
        assert_eq!(part.stream.try_collect::<Vec<_>>().await.unwrap().concat(), b"hello");
    }
}
