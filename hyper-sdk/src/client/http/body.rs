//! Bodies: read up to a cap, or stream, with a limit on silence instead of one on the whole.

use super::fault;
use crate::store::ByteStream;
use crate::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use reqwest::Response;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The body of a response up to `cap` bytes, and whether that was all of it.
pub(super) async fn read_capped(mut response: Response, cap: usize, idle: Duration) -> Result<(Bytes, bool)> {
    let mut all = BytesMut::new();
    while let Some(bytes) = next_chunk(&mut response, idle).await? {
        if all.len() + bytes.len() > cap {
            all.extend_from_slice(&bytes[..cap - all.len()]);
            return Ok((all.freeze(), false));
        }
        all.extend_from_slice(&bytes);
    }
    Ok((all.freeze(), true))
}

/// The whole body of a response.
///
/// # Errors
/// [`ErrorKind::TooLarge`] when it is longer than `cap` bytes.
pub(super) async fn read_all(response: Response, cap: usize, idle: Duration) -> Result<Bytes> {
    match read_capped(response, cap, idle).await? {
        (bytes, true) => Ok(bytes),
        (_, false) => Err(Error::new(ErrorKind::TooLarge, "the registry's answer is above the limit")
            .with_context("limit", cap)),
    }
}

/// The next bytes of a response, within `idle`.
pub(super) async fn next_chunk(response: &mut Response, idle: Duration) -> Result<Option<Bytes>> {
    match tokio::time::timeout(idle, response.chunk()).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) => Err(fault::of_transport(e)),
        Err(_) => Err(silence(idle)),
    }
}

pub(super) fn silence(idle: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "the registry fell silent").with_context("seconds", idle.as_secs())
}

/// When an upload last moved.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn touch(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A request body that counts each piece taken from `stream` as activity.
    pub(super) fn watch(&self, stream: ByteStream) -> ByteStream {
        let activity = self.clone();
        stream.inspect(move |_| activity.touch()).boxed()
    }

    /// Ends when nothing has moved for `idle`.
    pub(super) async fn stalled(&self, idle: Duration) {
        loop {
            let deadline = self.last() + idle;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}
