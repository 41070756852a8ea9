//! Ignore files and `--exclude`: which paths of a tree are left out.
//!
//! A file has one pattern on each line. A line with `#` in its first column is a comment. White space around a pattern and a
//! leading slash are removed, and the path is cleaned (`a/../b` is `b`). `!` makes an exception. The patterns are tried in
//! order against the path and its parents, and the last match decides. Names and patterns are bytes; each byte that is not
//! UTF-8 is one character.

use super::glob::Glob;
use crate::{Error, Result};

#[derive(Clone, Debug)]
enum Matcher {
    /// An exact path.
    Exact,
    /// The prefix before a final `**`.
    Prefix,
    /// The suffix after a leading `**`.
    Suffix,
    Glob(Glob),
}

#[derive(Clone, Debug)]
struct Rule {
    /// The cleaned pattern, without `!`.
    pattern: String,
    negated: bool,
    matcher: Matcher,
}

impl Rule {
    fn parse(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(text);
        let (negated, pattern) = match cleaned.strip_prefix('!') {
            Some("") => {
                return Err(Error::invalid("the pattern `!` has no path: write one after it"));
            }
            Some(rest) => (true, rest),
            None => (false, cleaned.as_str()),
        };
        // Every matcher checks the syntax of one level.
        Glob::new(pattern)?;
        let matcher = matcher(pattern)?;
        Ok(Some(Self { pattern: pattern.to_owned(), negated, matcher }))
    }

    fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => path == self.pattern,
            Matcher::Prefix => path.starts_with(&self.pattern[..self.pattern.len() - 2]),
            Matcher::Suffix => {
                let suffix = &self.pattern[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Matcher::Glob(glob) => glob.matches(path),
        }
    }

    fn matches_with_parents(&self, path: &str) -> bool {
        if let Matcher::Glob(glob) = &self.matcher {
            return glob.matches_with_parents(path);
        }
        self.matches(path) || path.match_indices('/').any(|(at, _)| at > 0 && self.matches(&path[..at]))
    }

    fn may_match_below(&self, folder: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => self.pattern.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
            Matcher::Prefix => {
                let prefix = &self.pattern[..self.pattern.len() - 2];
                let folder = format!("{folder}/");
                folder.starts_with(prefix) || prefix.starts_with(&folder)
            }
            Matcher::Suffix => true,
            Matcher::Glob(glob) => glob.may_match_below(folder),
        }
    }
}

/// Chooses the matcher. Patterns whose only wildcard is `**` at an end are compared as text.
fn matcher(pattern: &str) -> Result<Matcher> {
    let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
    if plain(pattern) {
        return Ok(Matcher::Exact);
    }
    if pattern.strip_prefix("**").is_some_and(plain) {
        return Ok(Matcher::Suffix);
    }
    if pattern.strip_suffix("**").is_some_and(plain) {
        return Ok(Matcher::Prefix);
    }
    Glob::deep(pattern).map(Matcher::Glob)
}

/// The matches of a folder, for the paths directly in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentMatches(Vec<bool>);

/// A list of patterns.
#[derive(Clone, Debug, Default)]
pub struct IgnoreSet {
    rules: Vec<Rule>,
}

impl IgnoreSet {
    /// Parses an ignore file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the line of a malformed pattern.
    pub fn parse(text: &str) -> Result<Self> {
        let mut rules = Vec::new();
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (mark, path) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let cleaned = if path.is_empty() { String::new() } else { clean(path) };
            let path = match cleaned.strip_prefix('/') {
                Some(rest) if !rest.is_empty() => rest,
                _ => cleaned.as_str(),
            };
            let rule = Rule::parse(&format!("{mark}{path}")).map_err(|e| {
                Error::invalid(format!("line {} of the ignore file: {}", index + 1, e.message()))
            })?;
            rules.extend(rule);
        }
        Ok(Self { rules })
    }

    /// Parses an ignore file of bytes. Bytes that are not UTF-8 match the same bytes in the names of files.
    ///
    /// # Errors
    /// Those of [`IgnoreSet::parse`]; [`crate::ErrorKind::Invalid`] for a file with zero bytes, such as UTF-16.
    #[cfg(feature = "build")]
    pub(crate) fn parse_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.contains(&0) {
            return Err(Error::invalid(
                "the ignore file contains zero bytes, which no name can have: save it as UTF-8",
            ));
        }
        Self::parse(&path_text(bytes))
            .map_err(|e| Error::invalid(e.message().chars().map(shown).collect::<String>()))
    }

    /// A set of patterns, such as those of `--exclude`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the malformed pattern.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let rules: Result<Vec<Option<Rule>>> = patterns.into_iter().map(Rule::parse).collect();
        Ok(Self { rules: rules?.into_iter().flatten().collect() })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a pattern is an exception.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.negated)
    }

    /// The cleaned patterns with `!`. Equal lists are equal sets.
    pub fn patterns(&self) -> Vec<String> {
        self.rules.iter().map(|r| format!("{}{}", if r.negated { "!" } else { "" }, r.pattern)).collect()
    }

    /// Whether a path is ignored. The path is relative and clean, with slashes.
    pub fn matches(&self, path: &str) -> bool {
        let deciding = self.rules.iter().rev().find(|rule| rule.matches_with_parents(path));
        path != "." && deciding.is_some_and(|rule| !rule.negated)
    }

    /// Whether all files are ignored, without exceptions.
    pub(crate) fn leaves_nothing(&self) -> bool {
        // A wildcard that matches the folder matches every name in it.
        let takes_all = |rule: &Rule| {
            !matches!(rule.matcher, Matcher::Exact) && rule.matches(".") && rule.matches("any name")
        };
        !self.has_exceptions() && self.rules.iter().any(takes_all)
    }

    /// Whether a path is ignored, given the matches of its folder.
    ///
    /// This is [`IgnoreSet::matches`] for a walk from the top: start with the default value, and pass every folder's second
    /// result to the paths in it. The cost does not depend on the depth.
    pub fn matches_in(&self, path: &str, parent: &ParentMatches) -> (bool, ParentMatches) {
        let mut ignored = false;
        let mut matched = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let hit = parent.0.get(index).copied().unwrap_or(false) || rule.matches(path);
            if hit {
                ignored = !rule.negated;
            }
            matched.push(hit);
        }
        (ignored, ParentMatches(matched))
    }

    /// Whether a folder is ignored and has no exceptions, so that a walk can skip it.
    pub fn can_prune(&self, folder: &str) -> bool {
        self.matches(folder) && !self.may_except_below(folder)
    }

    /// Whether an exception could match something below a folder.
    pub(crate) fn may_except_below(&self, folder: &str) -> bool {
        self.rules.iter().any(|rule| rule.negated && rule.may_match_below(folder))
    }
}

/// The first of 256 characters that stand for bytes that are not UTF-8. These characters themselves are written as bytes, so
/// that two names never have the same text.
#[cfg(feature = "build")]
const BYTES: u32 = 0x10_ff00;

/// The text of a path for [`IgnoreSet`]. The path can have any bytes.
#[cfg(feature = "build")]
pub(crate) fn path_text(path: &[u8]) -> std::borrow::Cow<'_, str> {
    let plain = |text: &str| text.chars().all(|c| u32::from(c) < BYTES);
    if let Ok(text) = std::str::from_utf8(path)
        && plain(text)
    {
        return std::borrow::Cow::Borrowed(text);
    }
    let byte = |b: &u8| char::from_u32(BYTES + u32::from(*b)).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut out = String::with_capacity(path.len() * 2);
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match u32::from(c) < BYTES {
                true => out.push(c),
                false => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(byte)),
            }
        }
        out.extend(chunk.invalid().iter().map(byte));
    }
    std::borrow::Cow::Owned(out)
}

/// A character in messages: a byte as its number.
#[cfg(feature = "build")]
fn shown(c: char) -> String {
    u32::from(c).checked_sub(BYTES).map_or_else(|| c.to_string(), |byte| format!("\\x{byte:02x}"))
}

/// The shortest equivalent path, as of Go's `filepath.Clean`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ignored(file: &str, path: &str) -> bool {
        IgnoreSet::parse(file).unwrap().matches(path)
    }

    #[test]
    fn lines_are_cleaned() {
        let set = IgnoreSet::parse("\u{feff}# c\n  # d \n\n /a/../b \n! /c/\n!\t.git\r\n").unwrap();
        assert_eq!(set.patterns(), ["# d", "b", "!c", "!.git"]);
        assert!(IgnoreSet::parse("a\n!\n").unwrap_err().message().contains("line 2"));
        assert!(IgnoreSet::parse("[").is_err());
    }

    #[test]
    fn patterns_match_as_in_buildkit() {
        for (file, path, expected) in [
            ("*", "a/b", true),
            ("**", "a/b/c", true),
            ("a", "a/b", true),
            ("a", "ab", false),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "x.md", true),
            ("*.md", "d/x.md", false),
            ("**/*.md", "d/x.md", true),
            ("**/x", "x", true),
            ("**/x", "ax", false),
            ("**x", "ax", true),
            ("a/**", "a", false),
            ("a/**", "a/b", true),
            ("a**", "ab/c", true),
            ("a/**/b", "a/b", true),
            ("a/*/b", "a/x/y/b", false),
            ("a?c", "abc", true),
            ("a[b-d]c", "acc", true),
            ("a\\*", "a*", true),
            ("dir\n!dir/keep", "dir/keep", false),
            ("dir\n!dir/keep", "dir/other", true),
            ("!dir/keep\ndir", "dir/keep", true),
            ("**\n!**/*.go", "a/b.go", false),
            ("a.b", "axb", false),
            ("", "a", false),
        ] {
            assert_eq!(ignored(file, path), expected, "{file:?} {path}");
        }
    }

    #[test]
    fn folders_with_exceptions_are_not_pruned() {
        let set = IgnoreSet::parse("node_modules\ndir\n!dir/keep/**\n*.tmp\n").unwrap();
        assert!(set.can_prune("node_modules") && set.can_prune("dir/other"));
        assert!(!set.can_prune("dir") && !set.can_prune("dir/keep/x") && !set.can_prune("src"));
        assert!(!IgnoreSet::parse("*\n!**/x\n").unwrap().can_prune("a"));
        for (text, nothing) in [
            ("*", true),
            ("a\n**\n", true),
            ("*\n!a\n", false),
            (".", false),
            ("a", false),
            ("*.md", false),
            ("?", false),
            ("?*", true),
        ] {
            assert_eq!(IgnoreSet::parse(text).unwrap().leaves_nothing(), nothing, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_walk_agrees_with_single_matches(
            patterns in prop::collection::vec("!?(\\*\\*/?)?[ab*?]{1,3}(/[ab*]{1,2}){0,2}(/\\*\\*)?", 0..5),
            path in "[ab]{1,2}(/[ab]{1,2}){0,4}",
        ) {
            if let Ok(set) = IgnoreSet::new(patterns.iter().map(String::as_str)) {
                let mut parent = ParentMatches::default();
                let mut pruned = false;
                let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
                for end in ends {
                    let (hit, next) = set.matches_in(&path[..end], &parent);
                    prop_assert_eq!(hit, set.matches(&path[..end]));
                    prop_assert!(!pruned || hit, "a pruned folder held {}", &path[..end]);
                    pruned |= set.can_prune(&path[..end]);
                    parent = next;
                }
            }
        }

        #[test]
        fn arbitrary_patterns_never_panic(text in "\\PC{0,40}", path in "\\PC{0,20}") {
            if let Ok(set) = IgnoreSet::parse(&text) {
                set.matches(&path);
                set.can_prune(&path);
            }
        }
    }
}
