//! Path patterns: the wildcards of sources (Go's `filepath.Match`) and the lists of `--exclude` and `--parents` (moby's
//! pattern lists, with `**`, `!` and "a match of a parent counts").
//!
//! Both compile to one small automaton that runs over a path once, one character at a time, so that the time is at
//! most the product of both lengths, whatever the pattern. Bytes that are not UTF-8 count as one character each.

use crate::escape::{self, Escape};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(u32),
    /// `?`: one character except a slash.
    Any,
    /// `*`: a run of characters without a slash.
    Star,
    /// `**` at the end: everything.
    Rest,
    /// `**/`: empty, or everything up to a slash. Always followed by [`Token::DeepInside`].
    Deep,
    DeepInside,
    Class {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
    /// A word boundary (`\b`), or its negation (`\B`).
    Boundary(bool),
}

const SLASH: u32 = b'/' as u32;

fn characters(bytes: &[u8]) -> Vec<u32> {
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.extend(chunk.valid().chars().map(u32::from));
        out.extend(chunk.invalid().iter().map(|b| 0x11_0000 + u32::from(*b)));
    }
    out
}

fn run(tokens: &[Token], text: &[u32]) -> bool {
    let end = tokens.len();
    let mut now = vec![false; end + 1];
    let mut next = now.clone();
    now[0] = true;
    let character = |at: usize| text.get(at).copied().and_then(char::from_u32);
    for at in 0..=text.len() {
        let boundary = escape::is_boundary(at.checked_sub(1).and_then(character), character(at));
        for i in 0..end {
            if now[i] {
                match tokens[i] {
                    Token::Star | Token::Rest => now[i + 1] = true,
                    Token::Deep => {
                        now[i + 1] = true;
                        now[i + 2] = true;
                    }
                    Token::Boundary(wanted) if wanted == boundary => now[i + 1] = true,
                    _ => {}
                }
            }
        }
        let Some(&c) = text.get(at) else { break };
        next.fill(false);
        for i in 0..end {
            if !now[i] {
                continue;
            }
            match &tokens[i] {
                Token::Literal(l) if *l == c => next[i + 1] = true,
                Token::Any if c != SLASH => next[i + 1] = true,
                Token::Star if c != SLASH => next[i] = true,
                Token::Rest => next[i] = true,
                Token::DeepInside => {
                    next[i] = true;
                    next[i + 1] |= c == SLASH;
                }
                Token::Class { negated, ranges } => {
                    next[i + 1] |= ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated;
                }
                _ => {}
            }
        }
        std::mem::swap(&mut now, &mut next);
    }
    now[end]
}

/// Reads the escape after the backslash before `at`, and advances `at` past it.
fn escaped(text: &[u32], at: &mut usize) -> std::result::Result<Escape, &'static str> {
    let mut rest = text[*at..].iter().map(|c| char::from_u32(*c).unwrap_or(char::REPLACEMENT_CHARACTER));
    let escape = escape::read(&mut rest);
    *at = text.len() - rest.len();
    escape
}

/// The escaped class at this position, if any.
fn class_of(text: &[u32], at: &mut usize) -> Option<&'static [(char, char)]> {
    if text.get(*at) != Some(&u32::from(b'\\')) {
        return None;
    }
    let mut after = *at + 1;
    let Ok(Escape::Class(class)) = escaped(text, &mut after) else { return None };
    *at = after;
    Some(class)
}

fn numbers(class: &[(char, char)]) -> Vec<(u32, u32)> {
    class.iter().map(|(low, high)| (u32::from(*low), u32::from(*high))).collect()
}

fn compile(pattern: &[u8], deep: bool) -> Result<Vec<Token>> {
    let bad = |why: &str| {
        Error::invalid(format!("`{}` is not a pattern: {why}", crate::layer::entry::escape(pattern)))
    };
    let text = characters(pattern);
    let mut tokens = Vec::new();
    let mut at = 0;
    let is = |at: usize, c: u8| text.get(at) == Some(&u32::from(c));
    while at < text.len() {
        let c = text[at];
        at += 1;
        match u8::try_from(c).unwrap_or(0) {
            b'*' if deep && is(at, b'*') => {
                while is(at, b'*') {
                    at += 1;
                }
                if is(at, b'/') {
                    at += 1;
                    if at == text.len() {
                        tokens.push(Token::Rest);
                    } else {
                        tokens.extend([Token::Deep, Token::DeepInside]);
                    }
                } else {
                    tokens.push(Token::Rest);
                }
            }
            b'*' => tokens.push(Token::Star),
            b'?' => tokens.push(Token::Any),
            b'\\' if deep => match escaped(&text, &mut at).map_err(bad)? {
                Escape::Char(c) => tokens.push(Token::Literal(c.into())),
                Escape::Class(class) => tokens.push(Token::Class { negated: false, ranges: numbers(class) }),
                Escape::Boundary(wanted) => tokens.push(Token::Boundary(wanted)),
                Escape::Start if tokens.is_empty() => {}
                Escape::End if at == text.len() => {}
                // A start anchor inside a pattern, or an end anchor before its end, matches nothing.
                Escape::Start | Escape::End => {
                    tokens.push(Token::Class { negated: false, ranges: Vec::new() });
                }
            },
            b'\\' => {
                tokens.push(Token::Literal(*text.get(at).ok_or_else(|| bad("it ends in a backslash"))?));
                at += 1;
            }
            b'[' => {
                let negated = is(at, b'^');
                at += usize::from(negated);
                let mut ranges = Vec::new();
                let character = |at: &mut usize| -> Result<u32> {
                    if is(*at, b'-') || is(*at, b']') {
                        return Err(bad("a class needs a character here"));
                    }
                    if is(*at, b'\\') {
                        *at += 1;
                        if deep {
                            return match escaped(&text, at).map_err(bad)? {
                                Escape::Char(c) => Ok(c.into()),
                                _ => Err(bad("a class needs a character here")),
                            };
                        }
                    }
                    let c = text.get(*at).ok_or_else(|| bad("a class is not closed"))?;
                    *at += 1;
                    Ok(*c)
                };
                while ranges.is_empty() || !is(at, b']') {
                    if let (true, Some(class)) = (deep, class_of(&text, &mut at)) {
                        ranges.extend(numbers(class));
                    } else {
                        let low = character(&mut at)?;
                        let mut high = low;
                        if is(at, b'-') {
                            at += 1;
                            high = character(&mut at)?;
                        }
                        ranges.push((low, high));
                    }
                    if at >= text.len() {
                        return Err(bad("a class is not closed"));
                    }
                }
                at += 1;
                tokens.push(Token::Class { negated, ranges });
            }
            _ => tokens.push(Token::Literal(c)),
        }
    }
    Ok(tokens)
}

/// Whether a source has wildcards: `*`, `?` or `[` without a backslash before it.
pub(crate) fn has_wildcards(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

/// A wildcard pattern for one part of a path, with the rules of Go's `filepath.Match`.
#[derive(Clone, Debug)]
pub(crate) struct NamePattern(Vec<Token>);

impl NamePattern {
    /// Compiles one part of a pattern.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a class is not closed or the pattern ends in a backslash.
    pub(crate) fn new(pattern: &[u8]) -> Result<Self> {
        Ok(Self(compile(pattern, false)?))
    }

    /// Whether a name matches as a whole.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        run(&self.0, &characters(name))
    }
}

#[derive(Clone, Debug)]
struct Line {
    negated: bool,
    tokens: Vec<Token>,
}

/// An ordered list of patterns: the last one that matches a path or one of its parents decides; `!` marks an exception.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct PatternList {
    texts: Vec<String>,
    lines: Vec<Line>,
}

/// The patterns that matched a directory, used for its content.
#[derive(Clone, Debug, Default)]
pub(crate) struct ParentMatch(Option<Vec<bool>>);

impl PatternList {
    /// Compiles patterns. Empty ones are dropped; each is cleaned as a path, also after a `!`.
    ///
    /// The paths that are matched are relative, so a pattern that starts with a slash or with `..` matches none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a pattern is not well formed, or is `!` alone.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut list = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            list.texts.push(pattern.to_owned());
            let text = pattern.trim();
            if text.is_empty() {
                continue;
            }
            let text = clean_pattern(text.as_bytes());
            let (negated, text) = match text.strip_prefix(b"!") {
                Some(b"") => {
                    return Err(Error::invalid("`!` alone is not a pattern: name the files to keep"));
                }
                Some(rest) => (true, rest),
                None => (false, &text[..]),
            };
            list.lines.push(Line { negated, tokens: compile(text, true)? });
        }
        Ok(list)
    }

    /// The patterns as given.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether there is an exception.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.lines.iter().any(|line| line.negated)
    }

    /// Whether a path matches, where `parent` is the result of its parent; and the result for its content.
    pub(crate) fn matches(&self, path: &[u8], parent: &ParentMatch) -> (bool, ParentMatch) {
        let text = characters(path);
        self.decide(parent, |tokens| {
            let above = || (0..text.len()).filter(|&at| text[at] == SLASH);
            run(tokens, &text) || (parent.0.is_none() && above().any(|at| run(tokens, &text[..at])))
        })
    }

    /// Whether a named or found source itself matches, and the result for its content. Patterns are matched against its
    /// name and against its path from the root of the source.
    pub(crate) fn matches_source(&self, path: &[u8]) -> (bool, ParentMatch) {
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let (path, name) = (characters(path), characters(name));
        self.decide(&ParentMatch::default(), |tokens| run(tokens, &name) || run(tokens, &path))
    }

    fn decide(&self, parent: &ParentMatch, hits: impl Fn(&[Token]) -> bool) -> (bool, ParentMatch) {
        let mut matched = false;
        let mut results = vec![false; self.lines.len()];
        for (i, line) in self.lines.iter().enumerate() {
            // A pattern is skipped after a match, and an exception without one.
            let inherited = parent.0.as_ref().is_some_and(|p| p[i]);
            if !inherited && (line.negated != matched || !hits(&line.tokens)) {
                continue;
            }
            results[i] = true;
            matched = !line.negated;
        }
        (matched, ParentMatch(Some(results)))
    }
}

impl TryFrom<Vec<String>> for PatternList {
    type Error = Error;

    fn try_from(texts: Vec<String>) -> Result<Self> {
        Self::new(texts)
    }
}

impl From<PatternList> for Vec<String> {
    fn from(list: PatternList) -> Self {
        list.texts
    }
}

/// Cleans a path relative to the root: `.`, empty parts and slashes at both ends are dropped, and `..` is applied and
/// clamped.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Cleans a pattern: `.`, empty parts and a trailing slash are dropped; a slash and `..` at the start stay.
fn clean_pattern(pattern: &[u8]) -> Vec<u8> {
    let rooted = pattern.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in pattern.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt", true),
            ("*", ".hidden", true),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("[[]xyz]", "[xyz]", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("st\\*uv", "st*uv", true),
            ("st\\*uv", "stuuv", false),
            ("**", "abc", true),
            ("", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(
                NamePattern::new(pattern.as_bytes()).unwrap().matches(name.as_bytes()),
                expected,
                "{pattern}"
            );
        }
        for bad in ["[", "[]", "[a", "[a-", "a\\", "[-a]"] {
            assert!(NamePattern::new(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(has_wildcards(b"a*") && !has_wildcards(b"a\\*") && has_wildcards(b"a\\**"));
    }

    #[test]
    fn lists_match_as_in_moby() {
        let case = |patterns: &[&str], path: &str| {
            PatternList::new(patterns).unwrap().matches(path.as_bytes(), &ParentMatch::default()).0
        };
        for (patterns, path, expected) in [
            (&["**/*-c"][..], "file-c", true),
            (&["**/*-c"], "a/b/sub-c", true),
            (&["**/*-c"], "a/sub-c/x", true),
            (&["*-c"], "a/sub-c", false),
            (&["storage/views"], "storage/views/x", true),
            (&["storage", "!storage/keep"], "storage/keep", false),
            (&["storage", "!storage/keep"], "storage/drop", true),
            (&["!x"], "x", false),
            (&["a/**"], "a", false),
            (&["a/**"], "a/b/c", true),
            (&["a/**/c"], "a/c", true),
            (&["a/**/c"], "a/b/b/c", true),
            (&["a/**/c"], "a/bc", false),
            (&["**"], "x/y", true),
            (&["./a//./b/"], "a/b", true),
            (&["a/../b"], "b", true),
            (&["/a"], "a", false),
            (&["/../a"], "a", false),
            (&["../a"], "a", false),
            (&["a/../../b"], "b", false),
            (&["*", "!/a"], "a", true),
            (&["*", "!./a"], "a", true),
            (&["*", "!a/"], "a", false),
            (&["*/*.png"], "a/b.png", true),
            (&["*/*.png"], "b.png", false),
            // A backslash works as in a regular expression.
            (&["\\a"], "a", false),
            (&["a\\b"], "ab", false),
            (&["\\w*"], "s.txt", true),
            (&["s\\.txt"], "s.txt", true),
            (&["[\\w.]*"], "é", false),
            (&["[^\\w]"], "é", true),
            (&["[\\x61-\\x63]"], "b", true),
            (&["\\bsub"], "sub/x", true),
            (&["sub\\b*"], "subx", false),
            (&["a\\z"], "a", true),
            (&["a\\zb"], "ab", false),
        ] {
            assert_eq!(case(patterns, path), expected, "{patterns:?} {path}");
        }
        assert!(PatternList::new(["!"]).is_err());
        assert!(PatternList::new(["["]).is_err());
    }

    #[test]
    fn a_source_is_matched_by_its_name_or_its_path() {
        for (patterns, path, expected) in [
            (&["*.txt"][..], "home.txt", true),
            (&["*.txt"], "dir/home.txt", true),
            (&["dir/*.txt"], "dir/home.txt", true),
            (&["other/*.txt"], "dir/home.txt", false),
            (&["**/*.txt"], "a/b/home.txt", true),
            // Its parent folder does not matter.
            (&["dist"], "dist/a.js", false),
            (&["**", "!home.txt"], "dir/home.txt", false),
            (&["**", "!home.txt"], "dir/other.txt", true),
            (&["*.txt", "!dir/home.txt"], "dir/home.txt", false),
            (&["h\\xf6*"], "h\u{f6}.txt", true),
        ] {
            let list = PatternList::new(patterns).unwrap();
            assert_eq!(list.matches_source(path.as_bytes()).0, expected, "{patterns:?} {path}");
        }
    }

    proptest! {
        #[test]
        fn parents_can_be_carried_along(patterns in proptest::collection::vec("!?[ab*/]{1,6}", 0..4), path in "[ab](/[ab]){0,3}") {
            let Ok(list) = PatternList::new(&patterns) else { return Ok(()) };
            let mut parent = ParentMatch(Some(vec![false; list.lines.len()]));
            let mut matched = false;
            let ends = path.bytes().enumerate().filter(|(_, b)| *b == b'/').map(|(i, _)| i).chain([path.len()]);
            for end in ends {
                (matched, parent) = list.matches(&path.as_bytes()[..end], &parent);
            }
            // A match of the whole path does not see the order of parents, so only lists without exceptions must agree.
            if !list.has_exceptions() {
                prop_assert_eq!(matched, list.matches(path.as_bytes(), &ParentMatch::default()).0);
            }
        }

        #[test]
        fn cleaning_never_climbs(path: Vec<u8>) {
            let cleaned = clean(&path);
            prop_assert!(cleaned.is_empty() || cleaned.split(|&b| b == b'/').all(|p| !matches!(p, b"" | b"." | b"..")));
        }
    }
}
