//! Numbers of the language: exact as long as they are whole, else binary floating point.

use std::cmp::Ordering;
use std::fmt;

/// A number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    /// A whole number.
    Whole(i128),
    /// Any other number, and whole ones that are too large.
    Float(f64),
}

/// The largest float below which every whole number is exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Number {
    /// A finite float as a number; `None` for infinities and what is not a number.
    pub(super) fn from_f64(value: f64) -> Option<Self> {
        match value {
            v if !v.is_finite() => None,
            #[allow(clippy::cast_possible_truncation)]
            v if v.trunc() == v && v.abs() <= EXACT => Some(Self::Whole(v as i128)),
            v => Some(Self::Float(v)),
        }
    }

    /// Parses a decimal number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(['-', '+']).unwrap_or(text);
        if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        match text.parse::<i128>() {
            Ok(whole) => Some(Self::Whole(whole)),
            Err(_) => Self::from_f64(text.parse().ok()?),
        }
    }

    /// The nearest float.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn as_f64(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }

    /// The whole number; `None` for a fraction.
    pub(super) fn as_whole(self) -> Option<i128> {
        match self {
            Self::Whole(whole) => Some(whole),
            #[allow(clippy::cast_possible_truncation)]
            Self::Float(f) if f.trunc() == f && f.abs() < 1e38 => Some(f as i128),
            Self::Float(_) => None,
        }
    }

    /// The number as an index or a count.
    pub(super) fn as_index(self) -> Option<usize> {
        usize::try_from(self.as_whole()?).ok()
    }

    /// Computes exactly where that is possible.
    pub(super) fn combine(
        self,
        other: Self,
        exact: impl Fn(i128, i128) -> Option<i128>,
        float: impl Fn(f64, f64) -> f64,
    ) -> Option<Self> {
        if let (Self::Whole(a), Self::Whole(b)) = (self, other)
            && let Some(whole) = exact(a, b)
        {
            return Some(Self::Whole(whole));
        }
        Self::from_f64(rounded(float(self.as_f64(), other.as_f64())))
    }

    /// The quotient; `None` when there is none.
    pub(super) fn divided_by(self, other: Self) -> Option<Self> {
        let whole = |a: i128, b: i128| (b != 0 && a.checked_rem(b) == Some(0)).then(|| a / b);
        self.combine(other, whole, |a, b| a / b)
    }

    /// The remainder, with the sign of the dividend; `None` when there is none.
    pub(super) fn modulo(self, other: Self) -> Option<Self> {
        self.combine(other, i128::checked_rem, |a, b| a % b)
    }
}

/// Without the last digits, which are noise of binary arithmetic: 0.1 + 0.2 is 0.3.
fn rounded(value: f64) -> f64 {
    format!("{value:.14e}").parse().unwrap_or(value)
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(b),
            _ => self.as_f64().total_cmp(&other.as_f64()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(whole) => write!(f, "{whole}"),
            Self::Float(float) => write!(f, "{float}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_stay_exact() {
        for text in ["0", "-7", "20240101000000000000", "1.5", "0.1"] {
            assert_eq!(Number::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Number::parse("1.20").unwrap().to_string(), "1.2");
        assert_eq!(Number::parse("1e3").unwrap().to_string(), "1000");
        assert_eq!(Number::parse("2.0").unwrap(), Number::Whole(2));
        for text in ["", "x", "1x", "inf", "NaN", "-", "0x10"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn arithmetic_has_no_noise() {
        let n = |text: &str| Number::parse(text).unwrap();
        assert_eq!(n("0.1").combine(n("0.2"), i128::checked_add, |a, b| a + b), Some(n("0.3")));
        assert_eq!(n("7").divided_by(n("2")), Some(n("3.5")));
        assert_eq!(n("6").divided_by(n("2")), Some(n("3")));
        assert_eq!(n("6").divided_by(n("0")), None);
        assert_eq!(n("-7").modulo(n("3")), Some(n("-1")));
    }
}
