//! The table `[undelete]` of the configuration: for how long deletions can be undone.

use crate::units::TimeSpan;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// For how long deletions can be undone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct UndeleteConfig {
    /// For how long what is deleted is kept; 0 means not at all.
    pub(crate) window: TimeSpan,
}

impl Default for UndeleteConfig {
    /// Who deletes something wants it gone, and its space: that it stays is asked for.
    fn default() -> Self {
        Self { window: TimeSpan(Duration::ZERO) }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_window_needs_a_collector() {
        for (text, seconds, warns) in [
            ("", 0, false),
            ("[gc]\nevery = \"0s\"\n", 0, false),
            ("[undelete]\nwindow = \"2h\"\n", 7200, false),
            ("[gc]\nevery = \"0s\"\n[undelete]\nwindow = \"2h\"\n", 7200, true),
        ] {
            let config = Config::parse(text).unwrap();
            assert_eq!(config.registry().undelete_window.as_secs(), seconds, "{text}");
            let warnings = config.warnings();
            assert_eq!(warnings.iter().any(|text| text.contains("gc.every")), warns, "{warnings:?}");
        }
    }
}
