//! Durations (`1m30s`) and sizes (`512m`) in the syntax of Go.

use std::time::Duration;

const NANOS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Parses a duration: a sequence of numbers with units (`ns us ms s m h`), or `0`.
///
/// # Errors
/// A sentence that names the error. A negative duration is an error.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("`{text}` is not a duration");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err(format!("`{text}` is negative"));
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                after.split_at(after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len())
            }
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("a unit is missing in `{text}`"));
        }
        let Some((_, scale)) = NANOS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit `{unit}` in `{text}`"));
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let fraction: f64 =
            if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().map_err(|_| invalid())? };
        nanos += u128::from(whole) * (*scale as u128) + (fraction * scale) as u128;
        if nanos > i64::MAX as u128 {
            return Err(format!("`{text}` is too long"));
        }
        rest = next;
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).map_err(|_| invalid())?))
}

/// Parses a size in bytes: a number with a unit such as `b`, `k`, `kb` or `kib`, in powers of 1024 and in any case.
///
/// # Errors
/// A sentence that names the error.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let invalid = || format!("`{text}` is not a size");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let unit = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix);
    let power = match unit {
        "" if suffix != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let bytes = number * 1024f64.powi(power);
    if bytes < i64::MAX as f64 { Ok(bytes as u64) } else { Err(format!("`{text}` is too large")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse(".5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2h45m1us"), Ok(Duration::new(9900, 1000)));
        for bad in ["", "5", "s", "-1s", "1x", "1s2", ".s", "99999999999h", "1e3s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(parse_size("32"), Ok(32));
        assert_eq!(parse_size("32b"), Ok(32));
        assert_eq!(parse_size("32K"), Ok(32 << 10));
        assert_eq!(parse_size("1.5m"), Ok(3 << 19));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("1 kb"), Ok(1024));
        for bad in ["", "x", "1x", "-1", "1ib", "1.2.3", "99999999999p"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
