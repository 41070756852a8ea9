//! The exporter of a build without the feature `otlp`: there is none.

use super::{ExporterOptions, SpanListener};
use crate::trace::SpanCounts;
use hyper_sdk::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// # Errors
/// [`hyper_sdk::ErrorKind::Unsupported`] always.
pub(crate) fn check(_: &ExporterOptions) -> Result<()> {
    Err(Error::unsupported("this build cannot send traces (OTLP): build it with the feature `otlp`"))
}

/// No exporter.
#[derive(Debug)]
pub(crate) enum Exporter {}

impl Exporter {
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unsupported`] always.
    pub(crate) fn start(_: ExporterOptions) -> Result<(Self, SpanListener)> {
        Err(Error::unsupported("this build cannot send traces (OTLP): build it with the feature `otlp`"))
    }

    pub(crate) fn counts(&self) -> &Arc<SpanCounts> {
        match *self {}
    }

    pub(crate) async fn stop(self, _: Duration) {
        match self {}
    }
}
