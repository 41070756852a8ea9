//! The table `[events]` of the configuration: whether changes are recorded, and for how long.

use crate::options::Events;
use crate::units::TimeSpan;
use hyper_sdk::store::{EventLimits, EventRules};
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// The events of changes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct EventsConfig {
    /// Records events, also without a webhook.
    pub(crate) enabled: bool,
    /// Records events of blobs, too.
    pub(crate) blobs: bool,
    /// How long events are kept.
    pub(crate) keep: TimeSpan,
    /// How many events are kept.
    #[schemars(range(min = 1))]
    pub(crate) keep_count: u64,
}

impl Default for EventsConfig {
    fn default() -> Self {
        let Events { limits, .. } = Events::default();
        let age = std::time::Duration::from_secs(limits.age.unsigned_abs());
        Self { enabled: false, blobs: false, keep: TimeSpan(age), keep_count: limits.count }
    }
}

impl EventsConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        if self.keep.0.is_zero() || self.keep_count == 0 {
            return Err(Error::invalid(
                "the configuration keys `events.keep` and `events.keep-count` must not be 0: without `events.enabled` \
                 there are no events",
            ));
        }
        Ok(())
    }

    /// What is recorded, if anything is.
    pub(crate) fn options(&self, is_wanted: bool) -> Option<Events> {
        let age = i64::try_from(self.keep.0.as_secs()).unwrap_or(i64::MAX);
        (self.enabled || is_wanted).then_some(Events {
            rules: EventRules { blobs: self.blobs },
            limits: EventLimits { age, count: self.keep_count },
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn events_are_recorded_when_they_are_enabled() {
        assert!(Config::parse("").unwrap().registry().events.is_none());
        let config =
            Config::parse("[events]\nenabled = true\nblobs = true\nkeep = \"1h\"\nkeep-count = 7").unwrap();
        let events = config.registry().events.unwrap();
        assert!(events.rules.blobs);
        assert_eq!((events.limits.age, events.limits.count), (3600, 7));
        let e = Config::parse("[events]\nkeep = \"0s\"").unwrap_err();
        assert!(e.to_string().contains("events.keep"), "{e}");
    }
}
