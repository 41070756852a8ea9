//! Wildcards over slash-separated paths: Go's `filepath.Match`, and the same with `**`.
//!
//! A pattern is compiled to tokens, and a match runs them as a set of states, one character at a time. The time is at most the
//! product of both lengths, for every pattern. The same set, run over a folder's path and a slash, says whether something
//! below the folder could match.
//!
//! ```text
//! *      any run without a slash       [a-z] [^a-z]  one character of, not of, a class
//! ?      one character but a slash     \c            the character itself (with `**`: as in a regular expression)
//! **/    any number of folders         ** at the end everything below (both only with `**` enabled)
//! ```

use crate::escape::{self, Escape};
use crate::{Error, Result};

/// Whether a path has an unescaped wildcard.
pub(crate) fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// One character but a slash.
    Any,
    /// Any run of characters but slashes.
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// The start of `(.*/)?`: nothing, or into [`Token::InFolders`].
    Folders,
    /// Inside `(.*/)?`: only a slash leads on.
    InFolders,
    /// Any run of characters.
    Everything,
    /// A word boundary; or the absence of one.
    Boundary(bool),
}

impl Token {
    /// A token that matches no character.
    const NEVER: Self = Self::Class { negated: false, ranges: Vec::new() };
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    /// The prefix of every match.
    prefix: String,
    /// Whether the prefix is the whole pattern.
    literal: bool,
}

impl Glob {
    /// Compiles a pattern of `filepath.Match`, in which `**` is the same as `*`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a class is not closed or an escape character ends the pattern.
    pub fn new(pattern: &str) -> Result<Self> {
        Self::compile(pattern, false)
    }

    /// Compiles a pattern in which `**` matches slashes, as in ignore files and `--parents`.
    ///
    /// # Errors
    /// Those of [`Glob::new`].
    pub fn deep(pattern: &str) -> Result<Self> {
        Self::compile(pattern, true)
    }

    fn compile(pattern: &str, deep: bool) -> Result<Self> {
        let invalid = |why: &str| Error::invalid(format!("invalid pattern `{pattern}`: {why}"));
        let mut tokens: Vec<Token> = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if deep && chars.next_if_eq(&'*').is_some() => {
                    chars.next_if_eq(&'/');
                    if chars.peek().is_none() {
                        tokens.push(Token::Everything);
                    } else if tokens.last() != Some(&Token::InFolders) {
                        tokens.extend([Token::Folders, Token::InFolders]);
                    }
                }
                '*' if tokens.last() == Some(&Token::Star) => {}
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                '[' => tokens.push(class(&mut chars, deep).map_err(invalid)?),
                '\\' if deep => match escape::read(&mut chars).map_err(invalid)? {
                    Escape::Char(c) => tokens.push(Token::Literal(c)),
                    Escape::Class(ranges) => {
                        tokens.push(Token::Class { negated: false, ranges: ranges.to_vec() });
                    }
                    Escape::Boundary(wanted) => tokens.push(Token::Boundary(wanted)),
                    Escape::Start if tokens.is_empty() => {}
                    Escape::End if chars.peek().is_none() => {}
                    Escape::Start | Escape::End => tokens.push(Token::NEVER),
                },
                '\\' => match chars.next() {
                    Some(next) => tokens.push(Token::Literal(next)),
                    None => return Err(invalid("it ends in an escape character")),
                },
                c => tokens.push(Token::Literal(c)),
            }
        }
        let prefix: String = tokens
            .iter()
            .map_while(|token| match token {
                Token::Literal(c) => Some(*c),
                _ => None,
            })
            .collect();
        let literal = prefix.chars().count() == tokens.len();
        Ok(Self { tokens, prefix, literal })
    }

    /// Whether the whole path matches.
    pub fn matches(&self, path: &str) -> bool {
        if self.literal {
            return path == self.prefix;
        }
        path.starts_with(&self.prefix)
            && self.run(path, false).is_some_and(|states| states[self.tokens.len()])
    }

    /// Whether the whole path or one of its parents matches. It takes the time of one match.
    pub(crate) fn matches_with_parents(&self, path: &str) -> bool {
        if self.literal {
            let rest = path.strip_prefix(&self.prefix);
            return rest
                .is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && !self.prefix.is_empty()));
        }
        path.starts_with(&self.prefix) && self.run(path, true).is_some_and(|states| states[self.tokens.len()])
    }

    /// Whether something below a folder could match; `""` and `"."` stand for the root.
    pub(crate) fn may_match_below(&self, folder: &str) -> bool {
        let folder = folder.trim_end_matches('/');
        // A boundary depends on the character after the folder.
        let has_boundary = self.tokens.iter().any(|t| matches!(t, Token::Boundary(_)));
        if folder.is_empty() || folder == "." || has_boundary {
            return true;
        }
        self.run(&format!("{folder}/"), false)
            .is_some_and(|states| states[..self.tokens.len()].contains(&true))
    }

    /// The states after a text; `None` when no state is left. With `parents`, those after its first matching parent.
    fn run(&self, text: &str, parents: bool) -> Option<Vec<bool>> {
        let count = self.tokens.len();
        let mut states = vec![false; count + 1];
        let mut next = states.clone();
        states[0] = true;
        self.close(&mut states, escape::is_boundary(None, text.chars().next()));
        for (at, c) in text.char_indices() {
            if parents && c == '/' && at > 0 && states[count] {
                break;
            }
            next.fill(false);
            let mut alive = false;
            for (i, token) in self.tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                let (stay, step) = match token {
                    Token::Literal(literal) => (false, *literal == c),
                    Token::Any => (false, c != '/'),
                    Token::Star => (c != '/', false),
                    Token::Class { negated, ranges } => {
                        (false, ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated)
                    }
                    // A slash ends the folders; other characters stay inside.
                    Token::Folders => {
                        next[i + 2] |= c == '/';
                        (false, true)
                    }
                    Token::InFolders => (true, c == '/'),
                    Token::Everything => (true, false),
                    Token::Boundary(_) => (false, false),
                };
                next[i] |= stay;
                next[i + 1] |= step;
                alive = true;
            }
            if !alive {
                return None;
            }
            std::mem::swap(&mut states, &mut next);
            let after = text[at + c.len_utf8()..].chars().next();
            self.close(&mut states, escape::is_boundary(Some(c), after));
        }
        Some(states)
    }

    /// Adds the states that need no character, at a word boundary or elsewhere.
    fn close(&self, states: &mut [bool], boundary: bool) {
        for (i, token) in self.tokens.iter().enumerate() {
            if states[i] {
                match token {
                    Token::Star | Token::Everything => states[i + 1] = true,
                    Token::Folders => states[i + 2] = true,
                    Token::Boundary(wanted) if *wanted == boundary => states[i + 1] = true,
                    _ => {}
                }
            }
        }
    }
}

/// Parses a class after its `[`.
fn class(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    deep: bool,
) -> std::result::Result<Token, &'static str> {
    const OPEN: &str = "a `[` is not closed";
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges: Vec<(char, char)> = Vec::new();
    // A character, or the characters of an escape.
    let bound = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next() {
        None => Err(OPEN),
        Some('-' | ']') => Err("a class has a `-` or `]` where a character must be"),
        Some('\\') if deep => match escape::read(chars)? {
            Escape::Char(c) => Ok((c, None)),
            Escape::Class(ranges) => Ok(('-', Some(ranges))),
            _ => Err("a class has a backslash before a letter that does not stand for a character"),
        },
        Some('\\') => chars.next().map(|c| (c, None)).ok_or(OPEN),
        Some(c) => Ok((c, None)),
    };
    let mut is_empty = true;
    loop {
        if !is_empty && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        is_empty = false;
        let (low, several) = bound(chars)?;
        if let Some(several) = several {
            ranges.extend(several);
            continue;
        }
        let high = if chars.next_if_eq(&'-').is_some() { bound(chars)? } else { (low, None) };
        if high.1.is_some() {
            return Err("a class has a range that ends in several characters");
        }
        ranges.push((low, high.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn go(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn patterns_of_one_level_match() {
        for (pattern, name) in [
            ("abc", "abc"),
            ("*", "abc"),
            ("*c", "abc"),
            ("a*", "abc"),
            ("a*/b", "abc/b"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f"),
            ("ab[c]", "abc"),
            ("ab[b-d]", "abc"),
            ("ab[^e-g]", "abc"),
            ("a\\*b", "a*b"),
            ("a?b", "a☺b"),
            ("[a-ζ]*", "α"),
            ("[\\]a]", "]"),
            ("[\\-x]", "-"),
            ("**", "ab"),
        ] {
            assert!(go(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a*", "ab/c"),
            ("a*/b", "a/c/b"),
            ("ab[^c]", "abc"),
            ("a???b", "a☺b"),
            ("a?b", "a/b"),
            ("a*b", "a/b"),
            ("*", "a/b"),
            ("**", "a/b"),
            ("", "a"),
        ] {
            assert!(!go(pattern, name), "{pattern} {name}");
        }
        for bad in ["[]a]", "[-]", "[x-]", "[-x]", "a[", "[", "[^", "[^bc", "a\\", "[a-b-c]"] {
            assert!(Glob::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_of_several_levels_match() {
        let deep = |pattern: &str, name: &str| Glob::deep(pattern).unwrap().matches(name);
        for (pattern, name) in [
            ("**/a", "a"),
            ("**/a", "x/y/a"),
            ("a/**", "a/b/c"),
            ("a/**/b", "a/b"),
            ("a/**/b", "a/x/y/b"),
            ("**", "a"),
        ] {
            assert!(deep(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("**/a", "xa"), ("a/**", "a"), ("a/**/b", "a/xb"), ("*/a", "x/y/a")] {
            assert!(!deep(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn letters_after_a_backslash_are_escapes() {
        let deep = |pattern: &str, name: &str| Glob::deep(pattern).unwrap().matches(name);
        for (pattern, name) in [
            ("\\w", "a"),
            ("\\w*", "s.txt"),
            ("s\\Wtxt", "s.txt"),
            ("[\\w.]*", "a*"),
            ("[^\\w]", "é"),
            ("\\bsub", "sub"),
            ("sub\\b*", "sub.x"),
            ("a\\z", "a"),
            ("\\Aa", "a"),
            ("\\x61", "a"),
            ("[\\x61-\\x63]", "b"),
            ("a\\$", "a$"),
        ] {
            assert!(deep(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("\\a", "a"),
            ("[\\a]", "a"),
            ("a\\b", "ab"),
            ("sub\\b*", "subx"),
            ("bin\\Debug", "binDebug2"),
            ("a\\zb", "ab"),
            ("b\\Aa", "ba"),
        ] {
            assert!(!deep(pattern, name), "{pattern} {name}");
        }
        assert!(Glob::deep("x\\b/a").unwrap().matches_with_parents("x/a/b"));
        assert!(Glob::deep("a\\b").unwrap().may_match_below("a"));
        for bad in ["\\C", "\\1", "\\é", "[\\b]", "[a-\\w]"] {
            assert!(Glob::deep(bad).is_err(), "{bad}");
        }
        // In patterns of one level a backslash only escapes.
        assert!(go("\\a", "a") && go("[\\w]", "w"));
    }

    #[test]
    fn folders_without_matches_can_be_skipped() {
        let below = |pattern: &str, folder: &str| Glob::deep(pattern).unwrap().may_match_below(folder);
        assert!(
            below("a/b/*.rs", "a") && below("a/b/*.rs", "a/b") && below("**/x", "q/r") && below("a", ".")
        );
        assert!(
            !below("a/b/*.rs", "c")
                && !below("a/b/*.rs", "a/b/c")
                && !below("a", "a")
                && !below("*.rs", "src")
        );
    }

    #[test]
    fn wildcards_are_found() {
        assert!(has_wildcard("a*") && has_wildcard("[") && has_wildcard("\\\\?"));
        assert!(!has_wildcard("a\\*b") && !has_wildcard("a"));
    }

    #[test]
    fn many_stars_are_cheap() {
        let glob = Glob::deep(&format!("{}b", "**/a*".repeat(100))).unwrap();
        assert!(!glob.matches(&"a/".repeat(2000)));
    }

    proptest! {
        #[test]
        fn a_match_of_a_parent_is_found_in_one_pass(pattern in "[ab/*?]{1,8}", path in "[ab/]{1,10}") {
            if let Ok(glob) = Glob::deep(&pattern) {
                let folders = path.match_indices('/').filter(|(at, _)| *at > 0);
                let any = glob.matches(&path) || folders.into_iter().any(|(at, _)| glob.matches(&path[..at]));
                prop_assert_eq!(glob.matches_with_parents(&path), any);
            }
        }

        #[test]
        fn matches_are_never_skipped(pattern in "[ab*?/\\[\\]^\\\\-]{0,12}", path in "[ab]{1,2}(/[ab]{1,2}){1,4}") {
            if let Some(glob) = Glob::deep(&pattern).ok().filter(|glob| glob.matches(&path)) {
                for (at, _) in path.match_indices('/') {
                    prop_assert!(glob.may_match_below(&path[..at]));
                }
            }
        }
    }
}
