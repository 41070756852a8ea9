//! `semvercmp`: whether a version satisfies a constraint such as `>=1.2, <2` or `^1 || ~2.3`.

use super::{Outcome, Table, Value};
use std::cmp::Ordering;

pub(super) const TABLE: Table = &[("semvercmp", |a| {
    a.exactly(2)?;
    let version = Version::parse(&a.text(0)?)?;
    let constraint = a.text(1)?;
    let mut any = false;
    for alternative in constraint.split("||") {
        let mut all = true;
        for one in conditions(alternative)? {
            all &= one.holds(&version);
        }
        any |= all;
    }
    Ok(Value::Bool(any))
})];

/// A version, or the part of one that a constraint names.
#[derive(Clone, Debug)]
struct Version {
    /// Major, minor and patch number.
    numbers: [u64; 3],
    /// How many of them are given.
    given: usize,
    pre: String,
}

impl Version {
    fn parse(text: &str) -> Outcome<Self> {
        let version = Self::parse_part(text).filter(|version| version.given > 0);
        version.ok_or_else(|| format!("`{text}` is not a version such as 1.2.3").into())
    }

    /// Parses a version whose last numbers may be missing or `x`.
    fn parse_part(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (text, _) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut version = Self { numbers: [0; 3], given: 0, pre: pre.to_owned() };
        let mut open = false;
        for (index, part) in core.split('.').enumerate() {
            let is_wild = matches!(part, "x" | "X" | "*");
            if index > 2 || (open && !is_wild) {
                return None;
            }
            open |= is_wild;
            if !is_wild {
                version.numbers[index] = part.parse().ok()?;
                version.given = index + 1;
            }
        }
        Some(version)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => compare_pre(&self.pre, &other.pre),
        })
    }

    /// The first version after all that begin with the first numbers of this one.
    fn after(&self, numbers: usize) -> Self {
        let mut next = [0; 3];
        next[..numbers].copy_from_slice(&self.numbers[..numbers]);
        if let Some(last) = numbers.checked_sub(1) {
            next[last] = next[last].saturating_add(1);
        }
        Self { numbers: next, given: 3, pre: String::new() }
    }
}

fn compare_pre(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(x), Some(y)) => match (x.parse::<u64>(), y.parse::<u64>()) {
                (Ok(x), Ok(y)) => x.cmp(&y),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => x.cmp(y),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

struct Condition {
    operator: &'static str,
    version: Version,
}

const OPERATORS: [&str; 11] = [">=", "=>", "<=", "=<", "!=", "~>", "=", ">", "<", "~", "^"];

/// The conditions of an alternative, all of which must hold.
fn conditions(text: &str) -> Outcome<Vec<Condition>> {
    let wrong = || format!("`{}` is not a constraint such as >=1.2.3", text.trim());
    if let Some((low, high)) = text.split_once(" - ") {
        let part = |text: &str| Version::parse_part(text).ok_or_else(wrong);
        return Ok(vec![
            Condition { operator: ">=", version: part(low)? },
            Condition { operator: "<=", version: part(high)? },
        ]);
    }
    // An operator may stand apart from its version.
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
        match words.last_mut() {
            Some(last) if is_open => last.push_str(word),
            _ => words.push(word.to_owned()),
        }
        is_open = OPERATORS.contains(&word);
    }
    if words.is_empty() {
        return Err(wrong().into());
    }
    let one = |word: &String| {
        let operator = OPERATORS.iter().find(|operator| word.starts_with(**operator)).copied();
        let version = Version::parse_part(&word[operator.map_or(0, str::len)..]).ok_or_else(wrong)?;
        Ok(Condition { operator: operator.unwrap_or(""), version })
    };
    words.iter().map(one).collect()
}

impl Condition {
    fn holds(&self, version: &Version) -> bool {
        let (own, given) = (&self.version, self.version.given);
        // Only a constraint that names a pre-release lets one pass.
        if !version.pre.is_empty() && own.pre.is_empty() {
            return false;
        }
        let order = version.compare(own);
        let within =
            |numbers: usize| order.is_ge() && (numbers == 0 || version.compare(&own.after(numbers)).is_lt());
        let equal = if given < 3 { within(given) } else { order.is_eq() };
        match self.operator {
            "!=" => !equal,
            ">" if given == 0 => false,
            ">" if given < 3 => version.compare(&own.after(given)).is_ge(),
            ">" => order.is_gt(),
            "<" => order.is_lt(),
            ">=" | "=>" => order.is_ge(),
            "<=" | "=<" => order.is_le() || equal,
            "~" | "~>" => within(given.min(2)),
            "^" => {
                let significant = own.numbers.iter().position(|number| *number > 0).map(|index| index + 1);
                within(significant.unwrap_or(given).min(given.max(1)).min(if given == 0 { 0 } else { 3 }))
            }
            _ => equal,
        }
    }
}
