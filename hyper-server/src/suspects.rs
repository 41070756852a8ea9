//! Blobs that a reader found damaged: they are looked at again, one at a time.

use crate::state::State;
use futures::StreamExt as _;
use hyper_sdk::store::BlobReader;
use hyper_sdk::store::errors::is_bytes_damaged;
use hyper_sdk::{Digest, Error};
use std::sync::Arc;

/// Looks at a blob again if an error says that its bytes are damaged. While another one is looked at, it waits for its next
/// reader: what readers make the server do stays bounded.
pub(crate) fn suspect(state: &Arc<State>, digest: &Digest, error: &Error) {
    if state.options.read_only || !is_bytes_damaged(error) {
        return;
    }
    let Ok(turn) = state.suspects.clone().try_acquire_owned() else { return };
    let (state, digest) = (state.clone(), digest.clone());
    tokio::spawn(async move {
        let _turn = turn;
        match state.store.scrub_blob(&digest).await {
            Ok(true) => state.metrics.found_damage(),
            Ok(false) => tracing::warn!(%digest, "a reader got damaged bytes of a blob that is whole"),
            Err(error) => tracing::warn!(%digest, %error, "a blob that seems damaged cannot be read again"),
        }
    });
}

/// A reader that is checked while it is read, when the options say so.
pub(crate) fn checked(state: &Arc<State>, digest: &Digest, reader: BlobReader) -> BlobReader {
    if !state.options.verify_reads {
        return reader;
    }
    let reader = reader.verified(digest);
    let (state, digest) = (state.clone(), digest.clone());
    let stream = reader.stream.map(move |piece| piece.inspect_err(|e| suspect(&state, &digest, e)));
    BlobReader { stream: stream.boxed(), ..reader }
}
