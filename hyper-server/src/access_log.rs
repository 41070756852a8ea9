//! The access log: one line for each request.
//!
//! # Invariants
//! - The line has the path, never the query's values, a header or a body, so no credential gets into it.

use crate::auth::Principal;
use crate::error::ApiError;
use crate::route::Endpoint;
use http::{HeaderValue, Method, StatusCode, Uri};
use std::net::IpAddr;
use std::time::Instant;
use tracing::Span;

/// The fields of a line.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) request_id: HeaderValue,
    /// The address of the client; `None` when it is not known.
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// An index into [`Endpoint::NAMES`].
    pub(crate) route: Option<usize>,
    pub(crate) principal: Principal,
    pub(crate) received: u64,
    pub(crate) status: StatusCode,
    /// The code of the error, empty when there is none.
    pub(crate) code: &'static str,
    /// Whether a limit of the client has refused the request: those are counted, and have no line of their own.
    pub(crate) is_limited: bool,
    pub(crate) start: Instant,
    /// The span of the request, which ends with this.
    pub(crate) span: Span,
}

impl Record {
    fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Records an error, and logs the details that the client does not get.
    pub(crate) fn error(&mut self, error: &ApiError) {
        self.code = error.code;
        if !error.status.is_server_error() {
            return;
        }
        let Some(cause) = &error.cause else { return };
        let mut chain = cause.to_string();
        let mut source = std::error::Error::source(cause);
        while let Some(e) = source {
            chain.push_str(": ");
            chain.push_str(&e.to_string());
            source = e.source();
        }
        tracing::error!(request_id = self.request_id(), kind = %cause.kind(), error = chain, "request failed");
    }

    /// Writes the line. `sent` is the number of bytes of the response that were sent; `whole` is whether all of them
    /// were.
    pub(crate) fn write(&self, sent: u64, whole: bool) {
        let route = self.route.and_then(|r| Endpoint::NAMES.get(r)).copied().unwrap_or("none");
        tracing::info!(
            target: "hyperregistry::access",
            request_id = self.request_id(),
            client = self.client.map(tracing::field::display),
            method = self.method.as_str(),
            path = self.uri.path(),
            route,
            user = self.principal.name().unwrap_or("-"),
            status = self.status.as_u16(),
            code = self.code,
            received = self.received,
            sent,
            whole,
            micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
}
