//! The table `[auth.token]` of the configuration: how tokens are signed, and how long logins last.

use crate::RegistryOptions;
use crate::auth::{TokenKeys, mode_warning};
use crate::units::TimeSpan;
use hyper_sdk::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Tokens that the registry issues.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TokenConfig {
    /// The files of the keys; the first signs.
    pub(crate) keys: Vec<PathBuf>,
    /// How long a refresh token is valid without use; 0 gives none.
    pub(crate) refresh: TimeSpan,
}

impl Default for TokenConfig {
    fn default() -> Self {
        let refresh = RegistryOptions::default().refresh_tokens.unwrap_or_default();
        Self { keys: Vec::new(), refresh: TimeSpan(refresh) }
    }
}

impl TokenConfig {
    /// The keys; `None` when the registry makes a secret of its own.
    ///
    /// # Errors
    /// Those of [`TokenKeys::open`].
    pub(crate) fn keys(&self) -> Result<Option<TokenKeys>> {
        let keys = (!self.keys.is_empty()).then(|| TokenKeys::open(&self.keys));
        keys.transpose().map_err(|e| e.with_context("key", "auth.token.keys"))
    }

    /// What is to be said of the files of the keys, which [`TokenConfig::keys`] writes to the log.
    pub(crate) fn file_warnings(&self) -> impl Iterator<Item = String> {
        self.keys.iter().filter_map(|path| mode_warning(path))
    }

    /// How long a refresh token is valid without use; `None` gives none.
    pub(crate) fn refresh(&self) -> Option<Duration> {
        Some(self.refresh.0).filter(|time| !time.is_zero())
    }
}
