//! Patterns for names: `*` in a text, and `**` for several segments of a repository.
//!
//! A comparison takes at most as many steps as the product of the two lengths, because only the last wildcard is ever
//! extended.

use super::RepositoryName;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The longest pattern, in bytes: that of a name.
const MAX_PATTERN: usize = 255;
/// The longest pattern for tags, in bytes: that of a tag.
const MAX_TAG_PATTERN: usize = 128;

/// A text in which `*` stands for any characters, also none. There are no other wildcards, and no way to mean a `*`.
///
/// ```
/// use hyper_sdk::TextPattern;
///
/// let releases = TextPattern::of_tags("v*")?;
/// assert!(releases.matches("v1.2") && !releases.matches("latest"));
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextPattern(Box<str>);

impl TextPattern {
    /// The longest text of a pattern that programs should take, in bytes.
    pub const MAX_BYTES: usize = MAX_PATTERN;

    /// The pattern with this text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Reads a pattern for tags.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when it can match no tag.
    pub fn of_tags(text: &str) -> Result<Self> {
        let is_good = !text.is_empty()
            && text.len() <= MAX_TAG_PATTERN
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-*".contains(&b))
            && !text.starts_with(['.', '-']);
        if is_good {
            return Ok(Self::new(text));
        }
        Err(Error::invalid(format!(
            "`{}` matches no tag: use letters, digits, `.`, `_`, `-` and the wildcard `*`",
            text.escape_debug()
        )))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, when nothing in it is a wildcard.
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&*self.0)
    }

    /// Whether it matches a whole text.
    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }

    /// Whether it matches every text.
    pub fn is_all(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|b| b == b'*')
    }

    /// Whether it surely matches everything that another one matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.is_all() || self == other
    }
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // The place after the last `*`, and where its text ends.
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after, end)) = star {
            (p, t) = (after, end + 1);
            star = Some((after, end + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A pattern for repositories: `*` stands for characters of one segment, and the segment `**` for one or more segments.
///
/// ```
/// use hyper_sdk::RepositoryPattern;
///
/// let of_team = RepositoryPattern::parse("team/**")?;
/// assert!(of_team.matches("team/app/web") && !of_team.matches("team"));
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// `**`
    All,
    /// A name.
    Name,
    /// `NAME/**`: the length of the name with its slash.
    Below(usize),
    /// `None` is `**`.
    Segments(Vec<Option<TextPattern>>),
}

impl RepositoryPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reason why it is none, or can match no name.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(Error::invalid)
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_PATTERN {
            return Err(format!("a pattern has 1 to {MAX_PATTERN} characters"));
        }
        if text.split('/').any(str::is_empty) {
            return Err("a name has no empty segment, so this matches no repository".to_owned());
        }
        if let Some(other) =
            text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-' | '/' | '*'))
        {
            return Err(format!(
                "no repository has `{}` in its name: use a-z, 0-9, `.`, `_`, `-`, `/`, and the wildcards `*` and `**`",
                other.escape_debug()
            ));
        }
        if text.split('/').any(|segment| segment.contains("**") && segment != "**") {
            return Err("`**` stands for whole segments, as in `team/**`".to_owned());
        }
        // What has no wildcard is taken literally, so it has to be possible in a name.
        if let Some(segment) = text.split('/').find(|s| !s.contains('*') && RepositoryName::parse(s).is_err())
        {
            return Err(format!("no repository has the segment `{segment}` in its name"));
        }
        let below = text.strip_suffix("/**").filter(|name| !name.contains('*'));
        let kind = match below {
            Some(name) => Kind::Below(name.len() + 1),
            None if text == "**" => Kind::All,
            None if !text.contains('*') => Kind::Name,
            None => {
                Kind::Segments(text.split('/').map(|s| (s != "**").then(|| TextPattern::new(s))).collect())
            }
        };
        Ok(Self { text: text.into(), kind })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first segment, when every name that it matches begins with it.
    pub fn first_segment(&self) -> Option<&str> {
        let first = self.text.split('/').next()?;
        (!first.contains('*')).then_some(first)
    }

    /// Whether it matches the name of a repository.
    pub fn matches(&self, name: &str) -> bool {
        match &self.kind {
            Kind::All => true,
            Kind::Name => *self.text == *name,
            Kind::Below(prefix) => name.len() > *prefix && name.starts_with(&self.text[..*prefix]),
            Kind::Segments(segments) => matches_segments(segments, name),
        }
    }

    /// Whether it surely matches everything that another one matches.
    pub fn covers(&self, other: &Self) -> bool {
        match self.kind {
            Kind::All => true,
            Kind::Below(prefix) if self != other => other.text.starts_with(&self.text[..prefix]),
            _ => self == other,
        }
    }
}

impl FromStr for RepositoryPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn matches_segments(pattern: &[Option<TextPattern>], name: &str) -> bool {
    let mut p = 0;
    let mut rest = Some(name);
    // The place after the last `**`, and what follows its segments.
    let mut star: Option<(usize, Option<&str>)> = None;
    loop {
        match (pattern.get(p), rest) {
            (None, None) => return true,
            (Some(None), Some(text)) => {
                p += 1;
                rest = after_segment(text).1;
                star = Some((p, rest));
                continue;
            }
            (Some(Some(segment)), Some(text)) => {
                let (first, after) = after_segment(text);
                if segment.matches(first) {
                    (p, rest) = (p + 1, after);
                    continue;
                }
            }
            // Names with more segments do not match either.
            (Some(_), None) => return false,
            (None, Some(_)) => {}
        }
        let Some((after, Some(text))) = star else { return false };
        rest = after_segment(text).1;
        (p, star) = (after, Some((after, rest)));
    }
}

/// The first segment, and the text after it.
fn after_segment(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The meaning of a text pattern, in exponential time.
    fn naive_text(pattern: &str, text: &str) -> bool {
        let Some(first) = pattern.chars().next() else { return text.is_empty() };
        let rest = &pattern[first.len_utf8()..];
        if first == '*' {
            return (0..=text.len()).any(|at| text.is_char_boundary(at) && naive_text(rest, &text[at..]));
        }
        text.strip_prefix(first).is_some_and(|text| naive_text(rest, text))
    }

    fn naive_segments(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((&"**", rest)), _) => (1..=name.len()).any(|n| naive_segments(rest, &name[n..])),
            (Some((first, rest)), Some((segment, names))) => {
                naive_text(first, segment) && naive_segments(rest, names)
            }
            (Some(_), None) => false,
        }
    }

    #[test]
    fn a_pattern_stands_for_whole_names() {
        for (pattern, yes, no) in [
            ("**", &["a", "a/b/c"][..], &[][..]),
            ("team/app", &["team/app"], &["team", "team/app/x", "team/apps"]),
            ("team/*", &["team/app"], &["team", "team/app/x", "teams/app"]),
            ("team/**", &["team/app", "team/app/x"], &["team", "teams/app"]),
            ("*", &["a"], &["a/b"]),
            ("**/cache", &["a/cache", "a/b/cache"], &["cache", "a/cache/b"]),
            ("a/**/z", &["a/b/z", "a/b/c/z", "a/z/z"], &["a/z", "a/b/z/y"]),
            ("a-*/x*y", &["a-/xy", "a-b/xzy"], &["a/xy", "a-b/xzyz"]),
        ] {
            let pattern = RepositoryPattern::parse(pattern).unwrap();
            assert!(yes.iter().all(|name| pattern.matches(name)), "{pattern:?}");
            assert!(!no.iter().any(|name| pattern.matches(name)), "{pattern:?}");
        }
    }

    #[test]
    fn a_pattern_that_matches_no_name_is_an_error() {
        let long = "a".repeat(256);
        for (bad, why) in [
            ("", "1 to 255"),
            (long.as_str(), "1 to 255"),
            ("a//b", "empty segment"),
            ("/a", "empty segment"),
            ("a/", "empty segment"),
            ("Team/*", "`T`"),
            ("a b", "` `"),
            ("a?", "`?`"),
            ("team**", "whole segments"),
            ("a/***", "whole segments"),
            ("-a/**", "`-a`"),
            ("a/b..c", "`b..c`"),
            ("a___b", "`a___b`"),
        ] {
            let e = RepositoryPattern::parse(bad).unwrap_err().to_string();
            assert!(e.contains(why), "{bad}: {e}");
        }
    }

    #[test]
    fn hostile_patterns_take_little_time() {
        let text = TextPattern::new(&"*a".repeat(127));
        let name = "a".repeat(100) + &"b".repeat(155);
        let segments = RepositoryPattern::parse("**/*a*a*a*a/".repeat(19).trim_end_matches('/')).unwrap();
        let path = "aaab/".repeat(50) + "c";
        let start = std::time::Instant::now();
        for _ in 0..100 {
            assert!(!text.matches(&name));
            assert!(!segments.matches(&path));
        }
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn text_patterns_mean_what_the_naive_model_says(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(TextPattern::new(&pattern).matches(&text), naive_text(&pattern, &text));
        }

        #[test]
        fn repository_patterns_mean_what_the_naive_model_says(
            pattern in "(\\*\\*|[ab*]{1,3})(/(\\*\\*|[ab*]{1,3})){0,4}",
            name in "[ab]{1,3}(/[ab]{1,3}){0,5}",
        ) {
            let Ok(parsed) = RepositoryPattern::parse(&pattern) else { return Ok(()) };
            let (p, n): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), name.split('/').collect());
            let expected = naive_segments(&p, &n);
            prop_assert_eq!(parsed.matches(&name), expected);
            if let Some(first) = parsed.first_segment() {
                prop_assert!(!expected || n[0] == first);
            }
        }

        #[test]
        fn a_pattern_that_covers_another_matches_what_it_matches(
            one in "(\\*\\*|[ab*]{1,2})(/(\\*\\*|[ab*]{1,2})){0,2}",
            other in "(\\*\\*|[ab*]{1,2})(/(\\*\\*|[ab*]{1,2})){0,2}",
            name in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let (Ok(one), Ok(other)) = (RepositoryPattern::parse(&one), RepositoryPattern::parse(&other)) else {
                return Ok(());
            };
            if one.covers(&other) && other.matches(&name) {
                prop_assert!(one.matches(&name));
            }
        }
    }
}
