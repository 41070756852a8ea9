//! Checks content against its digest: a manifest as a whole, a blob while it streams by.

use crate::Result;
use crate::digest::Hasher;
use crate::oci::Manifest;
use crate::reference::ManifestReference;
use crate::store::{BlobReader, ByteStream};
use crate::{Digest, Error, ErrorKind};
use futures::StreamExt;

/// A manifest by the reference that it is asked for or put under: its bytes must have the digest of the reference.
///
/// # Errors
/// [`ErrorKind::DigestInvalid`] when they have another.
pub(super) fn verified_manifest(manifest: Manifest, reference: &ManifestReference) -> Result<Manifest> {
    match reference {
        ManifestReference::Digest(digest) => manifest.with_digest(digest),
        ManifestReference::Tag(_) => Ok(manifest),
    }
}

/// Wraps the reader of a whole blob so that its stream ends with an error when the bytes do not match `digest`.
///
/// The reader of a part passes through: a part has no digest of its own, only its length is checked. Every client does
/// this with what it reads, unless its backend does it.
pub fn verified(reader: BlobReader, digest: &Digest) -> BlobReader {
    let BlobReader { size, offset, length, stream } = reader;
    let whole = offset == 0 && length == size;
    let state = State {
        inner: stream,
        hasher: whole.then(|| digest.algorithm().hasher()),
        digest: digest.clone(),
        left: length,
        over: false,
    };
    let stream = futures::stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        let item = match state.inner.next().await {
            Some(Ok(bytes)) if bytes.len() as u64 > state.left => {
                Err(Error::new(ErrorKind::SizeInvalid, "the blob is longer than announced"))
            }
            Some(Ok(bytes)) => {
                state.left -= bytes.len() as u64;
                if let Some(hasher) = &mut state.hasher {
                    hasher.update(&bytes);
                }
                return Some((Ok(bytes), state));
            }
            Some(Err(e)) => Err(e),
            None if state.left > 0 => {
                Err(Error::new(ErrorKind::SizeInvalid, "the blob is shorter than announced")
                    .with_context("missing bytes", state.left))
            }
            None => match state.hasher.take().map(Hasher::finish) {
                Some(got) if got != state.digest => {
                    Err(Error::new(ErrorKind::DigestInvalid, "the blob does not match its digest")
                        .with_context("got", got))
                }
                _ => return None,
            },
        };
        state.over = true;
        let item = item.map_err(|e: Error| match e.context_value("digest") {
            Some(_) => e,
            None => e.with_context("digest", &state.digest),
        });
        Some((item, state))
    });
    BlobReader { size, offset, length, stream: stream.boxed() }
}

struct State {
    inner: ByteStream,
    hasher: Option<Hasher>,
    digest: Digest,
    left: u64,
    over: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::TryStreamExt;

    async fn read(size: u64, length: u64, chunks: &[&'static str]) -> crate::Result<Vec<Bytes>> {
        let items: Vec<_> = chunks.iter().map(|c| Ok(Bytes::from_static(c.as_bytes()))).collect();
        let stream = futures::stream::iter(items).boxed();
        let reader = BlobReader { size, offset: 0, length, stream };
        verified(reader, &Digest::sha256("hello")).stream.try_collect().await
    }

    #[tokio::test]
    async fn only_the_promised_bytes_pass() {
        assert_eq!(read(5, 5, &["he", "llo"]).await.unwrap().concat(), b"hello");
        assert_eq!(read(5, 5, &["jello"]).await.unwrap_err().kind(), ErrorKind::DigestInvalid);
        assert_eq!(read(5, 5, &["hello", "!"]).await.unwrap_err().kind(), ErrorKind::SizeInvalid);
        assert_eq!(read(5, 5, &["hell"]).await.unwrap_err().kind(), ErrorKind::SizeInvalid);
        assert_eq!(read(5, 3, &["xyz"]).await.unwrap().concat(), b"xyz");
    }
}
