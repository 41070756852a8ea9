//! Functions of times. A time is a text as in RFC 3339.

use super::{Arguments, Outcome, Table, Value};
use std::fmt::Write as _;

pub(super) const TABLE: Table = &[
    ("formatdate", |a| {
        a.exactly(2)?;
        let (pattern, time) = (a.text(0)?, Time::parse(&a.text(1)?)?);
        Ok(Value::string(time.format(&pattern)?))
    }),
    ("formattimestamp", |a| {
        a.exactly(2)?;
        let pattern = a.text(0)?;
        let time = match a.value(1)? {
            Value::Number(_) => Time::at(whole_seconds(a, 1)?),
            _ => Time::parse(&a.text(1)?)?,
        };
        match &*pattern {
            "X" => Ok(Value::string((time.seconds - time.offset).to_string())),
            pattern => Ok(Value::string(time.format(pattern)?)),
        }
    }),
    ("timeadd", |a| {
        a.exactly(2)?;
        let (time, duration) = (Time::parse(&a.text(0)?)?, duration(&a.text(1)?)?);
        let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos) + duration;
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok().filter(|s| s.abs() < MAX_SECONDS);
        let seconds = seconds.ok_or("the result is out of range")?;
        let nanos = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
        Ok(Value::string(Time { seconds, nanos, ..time }.rfc3339(false)))
    }),
    ("timestamp", |a| {
        a.exactly(0)?;
        Ok(Value::string(Time::at(a.world.now).rfc3339(false)))
    }),
    ("unixtimestampparse", |a| {
        a.exactly(1)?;
        Ok(Time::at(whole_seconds(a, 0)?).parts())
    }),
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Beyond the years 0 to 9999 there are no texts of times.
const MAX_SECONDS: i64 = 253_402_300_800;

fn whole_seconds(a: &Arguments<'_>, index: usize) -> Outcome<i64> {
    let seconds = i64::try_from(a.whole(index)?).ok().filter(|s| (-62_167_219_200..MAX_SECONDS).contains(s));
    seconds.ok_or_else(|| "the time is out of range".into())
}

/// A time on a clock.
#[derive(Clone, Copy)]
struct Time {
    /// What the clock shows, in seconds since 1970.
    seconds: i64,
    nanos: u32,
    /// By how many seconds the clock is ahead of UTC.
    offset: i64,
}

/// A day of the calendar, and the day of the year from 0.
struct Day {
    year: i64,
    month: usize,
    day: i64,
    of_year: i64,
}

impl Time {
    fn at(seconds: i64) -> Self {
        Self { seconds, nanos: 0, offset: 0 }
    }

    fn parse(text: &str) -> Outcome<Self> {
        parse(text).ok_or_else(|| format!("`{text}` is not a time such as 2024-05-31T12:00:00Z").into())
    }

    fn calendar(&self) -> Day {
        calendar(self.seconds.div_euclid(86_400))
    }

    /// The hour, minute and second.
    fn clock(&self) -> (i64, i64, i64) {
        let second = self.seconds.rem_euclid(86_400);
        (second / 3600, second / 60 % 60, second % 60)
    }

    /// The day of the week, from Sunday.
    fn weekday(&self) -> usize {
        usize::try_from((self.seconds.div_euclid(86_400) + 4).rem_euclid(7)).unwrap_or_default()
    }

    fn zone(&self, separator: &str) -> String {
        let sign = if self.offset < 0 { '-' } else { '+' };
        let minutes = self.offset.abs() / 60;
        format!("{sign}{:02}{separator}{:02}", minutes / 60, minutes % 60)
    }

    fn rfc3339(&self, fraction: bool) -> String {
        let (day, (hour, minute, second)) = (self.calendar(), self.clock());
        let zone = if self.offset == 0 { "Z".to_owned() } else { self.zone(":") };
        let nanos = if fraction { format!(".{:09}", self.nanos) } else { String::new() };
        format!(
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}{nanos}{zone}",
            day.year,
            day.month + 1,
            day.day
        )
    }

    fn format(&self, pattern: &str) -> Result<String, String> {
        let (day, (hour, minute, second)) = (self.calendar(), self.clock());
        let half = if hour % 12 == 0 { 12 } else { hour % 12 };
        let mut out = String::new();
        let mut rest = pattern;
        while let Some(c) = rest.chars().next() {
            if c == '\'' {
                rest = quoted(&rest[1..], &mut out)?;
                continue;
            }
            if !c.is_ascii_alphabetic() {
                out.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            let length = rest.len() - rest.trim_start_matches(c).len();
            let (verb, after) = rest.split_at(length);
            rest = after;
            let written = match verb {
                "YYYY" => write!(out, "{:04}", day.year),
                "YY" => write!(out, "{:02}", day.year.rem_euclid(100)),
                "MMMM" => write!(out, "{}", MONTHS[day.month]),
                "MMM" => write!(out, "{:.3}", MONTHS[day.month]),
                "MM" => write!(out, "{:02}", day.month + 1),
                "M" => write!(out, "{}", day.month + 1),
                "DD" => write!(out, "{:02}", day.day),
                "D" => write!(out, "{}", day.day),
                "EEEE" => write!(out, "{}", DAYS[self.weekday()]),
                "EEE" => write!(out, "{:.3}", DAYS[self.weekday()]),
                "hh" => write!(out, "{hour:02}"),
                "h" => write!(out, "{hour}"),
                "HH" => write!(out, "{half:02}"),
                "H" => write!(out, "{half}"),
                "AA" => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
                "aa" => write!(out, "{}", if hour < 12 { "am" } else { "pm" }),
                "mm" => write!(out, "{minute:02}"),
                "m" => write!(out, "{minute}"),
                "ss" => write!(out, "{second:02}"),
                "s" => write!(out, "{second}"),
                "ZZZZZ" => write!(out, "{}", self.zone(":")),
                "ZZZZ" => write!(out, "{}", self.zone("")),
                "ZZZ" if self.offset == 0 => write!(out, "UTC"),
                "ZZZ" => write!(out, "{}", self.zone("")),
                "Z" if self.offset == 0 => write!(out, "Z"),
                "Z" => write!(out, "{}", self.zone(":")),
                other => return Err(format!("`{other}` is no part of a time: put text between `'`")),
            };
            written.map_err(|e| e.to_string())?;
        }
        Ok(out)
    }

    fn parts(&self) -> Value {
        let (day, (hour, minute, second)) = (self.calendar(), self.clock());
        let (iso_year, iso_week) = iso_week(&day, self.weekday());
        let entries = [
            ("year", Value::whole(day.year)),
            ("year_day", Value::whole(day.of_year + 1)),
            ("day", Value::whole(day.day)),
            ("month", Value::count(day.month + 1)),
            ("month_name", Value::string(MONTHS[day.month])),
            ("weekday", Value::count(self.weekday())),
            ("weekday_name", Value::string(DAYS[self.weekday()])),
            ("hour", Value::whole(hour)),
            ("minute", Value::whole(minute)),
            ("second", Value::whole(second)),
            ("rfc3339", Value::string(self.rfc3339(false))),
            ("iso_year", Value::whole(iso_year)),
            ("iso_week", Value::whole(iso_week)),
        ];
        Value::object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// Copies a text up to its closing `'`; `''` is a quote.
fn quoted<'a>(mut rest: &'a str, out: &mut String) -> Result<&'a str, String> {
    loop {
        let (text, after) = rest.split_once('\'').ok_or("a `'` is not closed")?;
        out.push_str(text);
        match after.strip_prefix('\'') {
            Some(more) => {
                out.push('\'');
                rest = more;
            }
            None => return Ok(after),
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && year % 100 != 0 || year % 400 == 0
}

fn days_of(year: i64, month: usize) -> i64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// The days from 1970 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 719_162
}

/// The day so many days after 1970 began.
fn calendar(days: i64) -> Day {
    let mut year = 1970 + days.div_euclid(366);
    while days_before(year + 1) <= days {
        year += 1;
    }
    let of_year = days - days_before(year);
    let (mut month, mut day) = (0, of_year);
    while day >= days_of(year, month) {
        day -= days_of(year, month);
        month += 1;
    }
    Day { year, month, day: day + 1, of_year }
}

/// The year and number of a week, which belongs to the year of its Thursday.
fn iso_week(day: &Day, weekday: usize) -> (i64, i64) {
    let from_monday = (weekday as i64 + 6) % 7;
    let thursday = days_before(day.year) + day.of_year - from_monday + 3;
    let of = calendar(thursday);
    (of.year, of.of_year / 7 + 1)
}

fn parse(text: &str) -> Option<Time> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten()
    };
    let mark = |at: usize, set: &str| text.get(at..=at).is_some_and(|c| set.contains(c));
    if !(mark(4, "-") && mark(7, "-") && mark(10, "Tt") && mark(13, ":") && mark(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let month = usize::try_from(month).ok()?.checked_sub(1).filter(|month| *month < 12)?;
    if !(1..=days_of(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return None;
        }
        nanos = format!("{:0<9}", &fraction[..length.min(9)]).parse().ok()?;
        rest = &fraction[length..];
    }
    let offset = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) =
                (rest.get(1..3)?.parse::<i64>().ok()?, rest.get(4..6)?.parse::<i64>().ok()?);
            if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let days: i64 = days_before(year) + (0..month).map(|m| days_of(year, m)).sum::<i64>() + day - 1;
    Some(Time { seconds: days * 86_400 + hour * 3600 + minute * 60 + second, nanos, offset })
}

/// A duration such as `1h30m` or `-10ms`, in nanoseconds.
fn duration(text: &str) -> Outcome<i128> {
    let wrong = || format!("`{text}` is not a duration such as 1h30m");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(wrong().into());
    }
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong().into()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if total > 9.2e18 {
        return Err(wrong().into());
    }
    #[allow(clippy::cast_possible_truncation)]
    Ok((sign * total) as i128)
}
