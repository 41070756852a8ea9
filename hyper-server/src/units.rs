//! Values of the configuration that are texts there, such as sizes and times: `"64KiB"`, `"30s"`.

use hyper_sdk::{Error, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes: `512`, `"64KiB"`, `"4MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let (number, unit) = split_unit(s);
        let factor: u64 = match unit {
            "" | "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => {
                return Err(Error::invalid(format!(
                    "invalid size `{}`: write 64KiB or 2GB",
                    s.escape_debug()
                )));
            }
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| Error::invalid(format!("invalid size `{}`: write 64KiB or 2GB", s.escape_debug())))
    }
}

/// A duration: `"500ms"`, `"30s"`, `"5m"`, `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeSpan(pub(crate) Duration);

impl FromStr for TimeSpan {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad =
            || Error::invalid(format!("invalid duration `{}`: write 500ms, 30s, 5m or 1h", s.escape_debug()));
        let (number, unit) = split_unit(s);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        let number = number.parse::<u64>().map_err(|_| bad())?;
        Ok(Self(Duration::from_millis(number.checked_mul(millis).ok_or_else(bad)?)))
    }
}

/// When something expires: after some days or hours, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry(Option<Duration>);

impl Expiry {
    /// The time in seconds since 1970; `None` is never.
    ///
    /// # Errors
    /// The time is too far away.
    pub(crate) fn at(self, now: i64) -> Result<Option<i64>> {
        // The last second of the year 9999, the last that can be written.
        const LAST: i64 = 253_402_300_799;
        let Some(after) = self.0 else { return Ok(None) };
        let after = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
        let at = now.saturating_add(after);
        if at > LAST { Err(Error::invalid("the time is too far away: use `never`")) } else { Ok(Some(at)) }
    }
}

impl FromStr for Expiry {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("invalid time `{}`: write 90d, 12h or never", s.escape_debug()));
        let (number, unit) = split_unit(s);
        let after = match (unit, number.parse::<u64>()) {
            ("never", _) if number.is_empty() => return Ok(Self(None)),
            ("d", Ok(days)) => Duration::from_secs(days.checked_mul(24 * 60 * 60).ok_or_else(bad)?),
            _ => s.parse::<TimeSpan>().map_err(|_| bad())?.0,
        };
        if after < Duration::from_secs(1) { Err(bad()) } else { Ok(Self(Some(after))) }
    }
}

/// The mode of a socket, in octal: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketMode(pub(crate) u32);

impl FromStr for SocketMode {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let mode = u32::from_str_radix(s, 8).ok().filter(|mode| *mode <= 0o777);
        mode.map(Self)
            .ok_or_else(|| Error::invalid(format!("invalid mode `{}`: write 0660", s.escape_debug())))
    }
}

fn split_unit(s: &str) -> (&str, &str) {
    let s = s.trim();
    let at = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    (&s[..at], s[at..].trim_start())
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^\s*[0-9]+\s*(ms|s|m|h)\s*$"})
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": r"^\s*[0-9]+\s*(B|KiB|K|MiB|M|GiB|G|TiB|T|kB|KB|MB|GB|TB)?\s*$",
        })
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or a text such as \"64KiB\"")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Size, E> {
                u64::try_from(n).map(Size).map_err(|_| E::custom("a size must not be negative"))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Size, E> {
                Ok(Size(n))
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<Size, E> {
                s.parse().map_err(|e: Error| E::custom(e.message()))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Reads a value from its text.
pub(crate) fn text<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(d: D) -> Result<T, D::Error> {
    String::deserialize(d)?.parse().map_err(|e: Error| de::Error::custom(e.message()))
}

/// Reads an optional value from its text.
pub(crate) fn optional_text<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    text(d).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = text.parse::<Size>();
            let _ = text.parse::<TimeSpan>();
        }
    }
}
