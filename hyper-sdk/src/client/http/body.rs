//! Bodies of responses that are read whole, up to a cap.

use super::broken;
use crate::client::patience::{Broken, Pace, Patience};
use crate::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use reqwest::Response;

/// The body of a response up to `cap` bytes, and whether that was all of it.
pub(super) async fn read_capped(
    response: &mut Response,
    cap: usize,
    patience: Patience,
) -> Result<(Bytes, bool)> {
    let mut all = BytesMut::new();
    let mut pace = patience.pace();
    while let Some(bytes) = next_chunk(&mut pace, response).await? {
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
pub(super) async fn read_all(response: &mut Response, cap: usize, patience: Patience) -> Result<Bytes> {
    match read_capped(response, cap, patience).await? {
        (bytes, true) => Ok(bytes),
        (_, false) => Err(Error::new(ErrorKind::TooLarge, "the registry's answer is above the limit")
            .with_context("limit", cap)),
    }
}

/// The next bytes of a response, if they come in time.
pub(super) async fn next_chunk(pace: &mut Pace, response: &mut Response) -> Result<Option<Bytes>> {
    pace.next(response).await.map_err(|broken| match broken {
        Broken::Late(e) => e,
        Broken::Failed(e) => broken::of_transport(e),
    })
}
