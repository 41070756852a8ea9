//! The table `[cors]` of the configuration: the pages of other origins that may talk to the registry in a browser.

use crate::cors::Cors;
use crate::units::TimeSpan;
use hyper_sdk::{Result, ResultExt as _};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// What pages of other origins may do.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CorsConfig {
    /// The origins, or `*` for all; none when it is empty.
    pub(crate) origins: Vec<String>,
    /// Whether browsers may send the passwords that they have for the registry.
    pub(crate) credentials: bool,
    /// How long browsers remember the answer.
    pub(crate) max_age: TimeSpan,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { origins: Vec::new(), credentials: false, max_age: TimeSpan(Duration::from_secs(60 * 60)) }
    }
}

impl CorsConfig {
    /// What answers pages; `None` when none of another origin may talk to the registry.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`].
    pub(crate) fn cors(&self) -> Result<Option<Cors>> {
        if self.origins.is_empty() {
            return Ok(None);
        }
        Cors::new(&self.origins, self.credentials, self.max_age.0).map(Some).context("key", "cors.origins")
    }
}
