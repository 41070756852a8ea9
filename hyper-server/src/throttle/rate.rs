//! How often something may happen, as a value of the configuration.

use hyper_sdk::{Error, Result};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest time in which a whole burst may come back.
const LONGEST: u64 = 366 * 24 * 60 * 60 * 1_000_000_000;

/// How often something may happen: `50/s`, `600/m burst 100`, `100/6h`.
///
/// The burst is how often it may happen at once, after a rest; without one in the text it is the number before the slash. One
/// more is allowed each time the period divided by that number has passed.
///
/// ```
/// use hyper_server::Rate;
///
/// let rate: Rate = "100/6h".parse()?;
/// assert_eq!(rate.burst(), 100);
/// assert_eq!(rate.to_string(), "100/6h burst 100");
/// assert!("fast".parse::<Rate>().is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    /// The period: a number of units.
    number: u32,
    unit: Unit,
    burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    const ALL: [(Self, &str, u64); 3] =
        [(Self::Second, "s", 1), (Self::Minute, "m", 60), (Self::Hour, "h", 3600)];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn seconds(self) -> u64 {
        Self::ALL[self as usize].2
    }
}

impl Rate {
    /// `count` times in a second, and as often at once after a rest.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when the number is 0.
    pub fn per_second(count: u32) -> Result<Self> {
        Self { count, number: 1, unit: Unit::Second, burst: count }.checked().ok_or_else(|| invalid(&count))
    }

    pub(super) const fn ten_in_ten_minutes() -> Self {
        Self { count: 10, number: 10, unit: Unit::Minute, burst: 10 }
    }

    pub(super) const fn a_hundred_in_ten_minutes() -> Self {
        Self { count: 100, number: 10, unit: Unit::Minute, burst: 100 }
    }

    /// How often it may happen at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The time after which one more is allowed.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval_nanos())
    }

    pub(super) fn interval_nanos(self) -> u64 {
        let period = u64::from(self.number) * self.unit.seconds() * 1_000_000_000;
        (period / u64::from(self.count)).max(1)
    }

    /// The time in which a whole burst comes back, in nanoseconds. It is at most [`LONGEST`].
    pub(super) fn window_nanos(self) -> u64 {
        self.interval_nanos().saturating_mul(u64::from(self.burst))
    }

    fn checked(self) -> Option<Self> {
        let has_zero = self.count == 0 || self.number == 0 || self.burst == 0;
        // The longest period does not fit into the nanoseconds of 64 bits.
        let period = u64::from(self.number).checked_mul(self.unit.seconds())?.checked_mul(1_000_000_000)?;
        (!has_zero && period <= LONGEST && self.window_nanos() <= LONGEST).then_some(self)
    }
}

fn invalid(text: &dyn fmt::Display) -> Error {
    Error::invalid(format!(
        "invalid rate `{text}`: write 50/s, 600/m, 100/6h or 50/s burst 200; a burst must come back within a year"
    ))
}

impl FromStr for Rate {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let read = || {
            let mut words = s.split_whitespace();
            let (count, period) = words.next()?.split_once('/')?;
            let digits = period.len() - period.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, unit) = period.split_at(digits);
            let unit = Unit::ALL.iter().find(|(_, name, _)| *name == unit)?.0;
            let number = if number.is_empty() { 1 } else { whole(number)? };
            let count = whole(count)?;
            let burst = match (words.next(), words.next(), words.next()) {
                (None, None, None) => count,
                (Some("burst"), Some(burst), None) => whole(burst)?,
                _ => return None,
            };
            Self { count, number, unit, burst }.checked()
        };
        read().ok_or_else(|| invalid(&s.escape_debug()))
    }
}

fn whole(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.count)?;
        if self.number != 1 {
            write!(f, "{}", self.number)?;
        }
        write!(f, "{} burst {}", self.unit.name(), self.burst)
    }
}

/// Reads a rate, or `off`.
pub(super) fn rate_or_off<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Rate>, D::Error> {
    match String::deserialize(d)?.as_str() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|e: Error| serde::de::Error::custom(e.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_has_a_count_a_period_and_a_burst() {
        for (text, shown, interval) in [
            ("50/s", "50/s burst 50", Duration::from_millis(20)),
            ("600/m burst 7", "600/m burst 7", Duration::from_millis(100)),
            ("  100/6h ", "100/6h burst 100", Duration::from_secs(216)),
            ("1/1s", "1/s burst 1", Duration::from_secs(1)),
            ("4294967295/s", "4294967295/s burst 4294967295", Duration::from_nanos(1)),
            ("1/8784h", "1/8784h burst 1", Duration::from_secs(366 * 24 * 60 * 60)),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), rate.interval()), (shown, interval));
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }
        for text in [
            "",
            "50",
            "50/",
            "/s",
            "0/s",
            "50/0s",
            "50/s burst 0",
            "50/s burst",
            "50/s burst x",
            "50/d",
            "-1/s",
            "+1/s",
            "1.5/s",
            "50 /s",
            "50/s burst 1 2",
            "1/8785h",
            "1/h burst 9000",
            "4294967296/s",
            "1/4294967295h",
        ] {
            let e = text.parse::<Rate>().unwrap_err();
            assert!(
                e.message().contains(&format!("`{text}`")) && e.message().contains("50/s burst 200"),
                "{e}"
            );
        }
        assert!(Rate::per_second(0).is_err());
        assert_eq!(Rate::per_second(50).unwrap(), "50/s".parse().unwrap());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<Rate>();
        }

        #[test]
        fn any_numbers_are_parsed_without_a_panic(text in "[0-9]{1,11}/[0-9]{0,11}[smh]( burst [0-9]{1,11})?") {
            if let Ok(rate) = text.parse::<Rate>() {
                prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
                prop_assert!(rate.window_nanos() <= LONGEST);
            }
        }
    }
}
