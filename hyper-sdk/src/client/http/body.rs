//! Bodies of responses, read up to a limit.

use super::transport_error;
use crate::client::timeouts::{Broken, RateCheck, Timeouts};
use crate::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use reqwest::Response;

/// The body of a response up to `cap` bytes, and whether that is the whole body.
pub(super) async fn read_capped(
    response: &mut Response,
    cap: usize,
    timeouts: Timeouts,
) -> Result<(Bytes, bool)> {
    let mut all = BytesMut::new();
    let mut rate = timeouts.rate_check();
    while let Some(bytes) = next_chunk(&mut rate, response).await? {
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
pub(super) async fn read_all(response: &mut Response, cap: usize, timeouts: Timeouts) -> Result<Bytes> {
    match read_capped(response, cap, timeouts).await? {
        (bytes, true) => Ok(bytes),
        (_, false) => Err(Error::new(ErrorKind::TooLarge, "the registry's answer is above the limit")
            .with_context("limit", cap)),
    }
}

/// The next bytes of a response. Fails when they do not come in time.
pub(super) async fn next_chunk(rate: &mut RateCheck, response: &mut Response) -> Result<Option<Bytes>> {
    rate.next(response).await.map_err(|broken| match broken {
        Broken::Late(e) => e,
        Broken::Failed(e) => transport_error::of_request(e),
    })
}
