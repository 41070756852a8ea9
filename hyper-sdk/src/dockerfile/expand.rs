//! Expansion: quotes, escapes and variables of a word.
//!
//! ```text
//! $x ${x}            the value, empty when unset      ${x#p} ${x##p}   without the shortest, longest prefix p
//! ${x:-w} ${x-w}     w when unset (: or empty)        ${x%p} ${x%%p}   without the shortest, longest suffix p
//! ${x:+w} ${x+w}     w when set (: and not empty)     ${x/p/r}         the first p replaced by r
//! ${x:?e} ${x?e}     fail with e when unset           ${x//p/r}        every p replaced by r
//! ```
//! `w`, `p` and `r` are expanded, too. An instruction sees the environment before it, so the caller gives the same environment
//! for all its words. Time and memory are linear in the word and its values. The depth of nesting and the size of a result
//! are limited, so that a file cannot exhaust them.

use super::pattern::Pattern;
use crate::{Error, ErrorKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// The variables of an expansion.
///
/// ```
/// use hyper_sdk::dockerfile::Expander;
/// use std::collections::BTreeMap;
///
/// // A map is an environment, and so is a list of pairs.
/// let env = BTreeMap::from([("VERSION".to_owned(), "1.2".to_owned())]);
/// let word = Expander::new('\\').word("app-${VERSION:-none}.tar", &env).unwrap();
/// assert_eq!(word.text, "app-1.2.tar");
/// ```
pub trait Environment {
    /// The value of a variable; `None` when it is not set.
    fn get(&self, name: &str) -> Option<&str>;
    /// The names of the variables, for "did you mean".
    fn names(&self) -> Vec<&str>;
}

impl<S: std::hash::BuildHasher> Environment for HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

/// A list of pairs. The last one of a name counts.
impl Environment for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|(key, _)| key.as_str()).collect()
    }
}

impl Environment for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        Environment::get(self.as_slice(), name)
    }

    fn names(&self) -> Vec<&str> {
        Environment::names(self.as_slice())
    }
}

/// An environment without variables.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyEnvironment;

impl Environment for EmptyEnvironment {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The variables that an expansion looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// The names that are set.
    pub used: BTreeSet<String>,
    /// The names that are not set.
    pub undefined: BTreeSet<String>,
}

impl Variables {
    /// Adds those of another expansion.
    pub fn extend(&mut self, other: Variables) {
        self.used.extend(other.used);
        self.undefined.extend(other.undefined);
    }
}

/// An expanded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// The variables that were looked up.
    pub variables: Variables,
}

/// The error of an expansion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpandError {
    /// One sentence in lower case, without a full stop.
    pub message: String,
    /// The offset of the error in the word.
    pub offset: usize,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExpandError {}

impl From<ExpandError> for Error {
    fn from(e: ExpandError) -> Self {
        Error::new(ErrorKind::Invalid, e.message)
    }
}

/// The maximal depth of nesting, as in `${x:-${y:-...}}`.
const MAX_DEPTH: usize = 100;
/// The most bytes of the result of an expansion.
const MAX_RESULT: usize = 64 << 20;

/// Expands words.
#[derive(Clone, Copy, Debug)]
pub struct Expander {
    escape: char,
    keep_quotes: bool,
    keep_escapes: bool,
    ignore_quotes: bool,
    keep_undefined: bool,
}

impl Expander {
    /// An expander for the words of a file with an escape character.
    pub fn new(escape: char) -> Self {
        Self { escape, keep_quotes: false, keep_escapes: false, ignore_quotes: false, keep_undefined: false }
    }

    /// An expander for the bodies of heredocs: quotes have no meaning, and the escape character is always `\`.
    pub fn for_heredoc() -> Self {
        Self { ignore_quotes: true, ..Self::new('\\') }
    }

    /// Keeps quotes.
    #[must_use]
    pub fn keep_quotes(mut self) -> Self {
        self.keep_quotes = true;
        self
    }

    /// Keeps escape characters.
    #[must_use]
    pub fn keep_escapes(mut self) -> Self {
        self.keep_escapes = true;
        self
    }

    /// Keeps references to variables that are not set.
    #[must_use]
    pub fn keep_undefined(mut self) -> Self {
        self.keep_undefined = true;
        self
    }

    /// Removes quotes and escapes, and replaces variables. White space is kept.
    ///
    /// # Errors
    /// Unbalanced quotes or braces, an unknown form, `${x:?}` of an unset variable, a result that is too large.
    pub fn word(&self, word: &str, env: &dyn Environment) -> Result<Expanded, ExpandError> {
        // Most words are plain.
        let plain = |c: char| c != '$' && c != '\'' && c != '"' && c != self.escape;
        if word.chars().all(plain) {
            return Ok(Expanded { text: word.to_owned(), variables: Variables::default() });
        }
        let mut run = Run::new(self, word, env);
        let text = run.until(None, self.keep_escapes, &mut Sink::default())?;
        Ok(Expanded { text, variables: run.variables })
    }

    /// Expands like [`Expander::word`], then splits at unquoted white space, including that of variables.
    ///
    /// # Errors
    /// Those of [`Expander::word`].
    pub fn words(&self, text: &str, env: &dyn Environment) -> Result<Vec<String>, ExpandError> {
        self.words_with_variables(text, env).map(|(words, _)| words)
    }

    /// Like [`Expander::words`]. It also returns the variables that were looked up.
    ///
    /// # Errors
    /// Those of [`Expander::word`].
    pub(crate) fn words_with_variables(
        &self,
        text: &str,
        env: &dyn Environment,
    ) -> Result<(Vec<String>, Variables), ExpandError> {
        let mut run = Run::new(self, text, env);
        let mut sink = Sink { words: Some(Vec::new()), ..Sink::default() };
        run.until(None, self.keep_escapes, &mut sink)?;
        Ok((sink.finish(), run.variables))
    }
}

/// Collects the words of a split.
#[derive(Debug, Default)]
struct Sink {
    words: Option<Vec<String>>,
    word: String,
}

impl Sink {
    fn end_word(&mut self) {
        if let Some(words) = self.words.as_mut().filter(|_| !self.word.is_empty()) {
            words.push(std::mem::take(&mut self.word));
        }
    }

    /// A character outside of quotes, where white space splits.
    fn split(&mut self, c: char) {
        if c.is_whitespace() {
            self.end_word();
        } else {
            self.raw(c);
        }
    }

    fn raw(&mut self, c: char) {
        if self.words.is_some() {
            self.word.push(c);
        }
    }

    fn raw_str(&mut self, text: &str) {
        if self.words.is_some() {
            self.word.push_str(text);
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.words.unwrap_or_default()
    }
}

struct Run<'a> {
    options: &'a Expander,
    text: &'a str,
    at: usize,
    env: &'a dyn Environment,
    variables: Variables,
    keep_escapes: bool,
    depth: usize,
    produced: usize,
}

impl<'a> Run<'a> {
    fn new(options: &'a Expander, text: &'a str, env: &'a dyn Environment) -> Self {
        Self {
            options,
            text,
            at: 0,
            env,
            variables: Variables::default(),
            keep_escapes: options.keep_escapes,
            depth: 0,
            produced: 0,
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ExpandError> {
        Err(ExpandError { message: message.into(), offset: self.at })
    }

    /// Expands up to a stop character, which is consumed, or to the end of the text.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        sink: &mut Sink,
    ) -> Result<String, ExpandError> {
        if self.depth >= MAX_DEPTH {
            return self.fail(format!("substitutions are nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let result = self.until_inner(stop, sink);
        self.keep_escapes = outer;
        self.depth -= 1;
        result
    }

    fn until_inner(&mut self, stop: Option<char>, sink: &mut Sink) -> Result<String, ExpandError> {
        let mut result = String::new();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok(result);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.produced += value.len();
                    if self.produced > MAX_RESULT {
                        return self.fail(format!("the result is larger than {MAX_RESULT} bytes"));
                    }
                    value.chars().for_each(|c| sink.split(c));
                    result.push_str(&value);
                }
                '\'' | '"' if !self.options.ignore_quotes => {
                    let value = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    sink.raw_str(&value);
                    result.push_str(&value);
                }
                '<' => {
                    let value = self.less_than();
                    sink.raw_str(value);
                    result.push_str(value);
                }
                c if c == self.options.escape => {
                    self.next();
                    if self.keep_escapes {
                        sink.raw(c);
                        result.push(c);
                    }
                    let Some(escaped) = self.next() else { break };
                    sink.raw(escaped);
                    result.push(escaped);
                }
                c => {
                    self.next();
                    sink.split(c);
                    result.push(c);
                }
            }
        }
        match stop {
            Some(stop) => self.fail(format!("a substitution misses its `{stop}`")),
            None => Ok(result),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        match self.text[self.at..].find('\'') {
            Some(length) => {
                let inner = &self.text[self.at..self.at + length];
                self.at += length + 1;
                Ok(if self.options.keep_quotes { format!("'{inner}'") } else { inner.to_owned() })
            }
            None => Err(ExpandError { message: "a single quote is not closed".to_owned(), offset: start }),
        }
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let mut result = String::new();
        self.next();
        if self.options.keep_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    let message = "a double quote is not closed".to_owned();
                    return Err(ExpandError { message, offset: start });
                }
                Some('"') => {
                    self.next();
                    if self.options.keep_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.produced += value.len();
                    if self.produced > MAX_RESULT {
                        return self.fail(format!("the result is larger than {MAX_RESULT} bytes"));
                    }
                    result.push_str(&value);
                }
                Some(c) => {
                    self.next();
                    let mut c = c;
                    if c == self.options.escape {
                        if self.keep_escapes {
                            result.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            // Only these can be escaped here; before other characters the escape character is kept.
                            Some(n) if n == '"' || n == '$' || n == self.options.escape => {
                                self.next();
                                c = n;
                            }
                            Some(_) => {}
                        }
                    }
                    result.push(c);
                }
            }
        }
    }

    /// `<<` keeps the white space after it, so that `<< NAME` is one word.
    fn less_than(&mut self) -> &'a str {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.next();
            }
        }
        &self.text[start..self.at]
    }

    fn name(&mut self) -> &'a str {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while self.peek().is_some_and(char::is_numeric) {
                    self.next();
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.next();
                }
            }
        }
        &self.text[start..self.at]
    }

    fn lookup(&mut self, name: &str) -> Option<&'a str> {
        let value = self.env.get(name);
        let set = if value.is_some() { &mut self.variables.used } else { &mut self.variables.undefined };
        if !set.contains(name) {
            set.insert(name.to_owned());
        }
        value
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.lookup(name) {
                Some(value) => value.to_owned(),
                None if self.options.keep_undefined => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return self.fail("a substitution misses its `}`"),
            Some('{' | '}' | ':') => return self.fail("bad substitution: a variable name must follow `${`"),
            Some(_) => {}
        }
        let name = self.name();
        let Some(c) = self.next() else { return self.fail("a substitution misses its `}`") };
        match c {
            '}' if name.is_empty() => self.fail("bad substitution: a variable name must follow `${`"),
            '}' => Ok(match self.lookup(name) {
                Some(value) => value.to_owned(),
                None if self.options.keep_undefined => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => match self.next() {
                Some(c @ ('+' | '-' | '?')) => self.conditional(name, c, true),
                // An unset variable may be one of the shell: keep the reference.
                Some(c)
                    if self.options.keep_undefined
                        && !matches!(c, '#' | '%')
                        && self.env.get(name).is_none() =>
                {
                    self.lookup(name);
                    let word = self.operand('}', false)?;
                    Ok(format!("${{{name}:{c}{word}}}"))
                }
                Some(c) => self.fail(format!("unsupported modifier `:{c}` in a substitution")),
                None => self.fail("a substitution misses its `}`"),
            },
            '+' | '-' | '?' => self.conditional(name, c, false),
            '#' | '%' => self.trim(name, c),
            '/' => self.replace(name),
            c => self.fail(format!("unsupported modifier `{c}` in a substitution")),
        }
    }

    fn conditional(&mut self, name: &str, operator: char, or_empty: bool) -> Result<String, ExpandError> {
        let word = self.operand('}', false)?;
        let value = self.lookup(name);
        let colon = if or_empty { ":" } else { "" };
        if value.is_none() && self.options.keep_undefined {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let value_in_use = value.filter(|v| !(or_empty && v.is_empty()));
        match (operator, value_in_use) {
            ('-', Some(v)) | ('?', Some(v)) => Ok(v.to_owned()),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            _ if !word.is_empty() => self.fail(format!("{name}: {word}")),
            _ if value.is_none() => self.fail(format!("{name}: is not allowed to be unset")),
            _ => self.fail(format!("{name}: is not allowed to be empty")),
        }
    }

    fn trim(&mut self, name: &str, operator: char) -> Result<String, ExpandError> {
        let word = self.operand('}', true)?;
        let value = self.lookup(name);
        if value.is_none() && self.options.keep_undefined {
            return Ok(format!("${{{name}{operator}{word}}}"));
        }
        let (pattern, longest) = match word.strip_prefix(operator) {
            Some(rest) => (rest, true),
            None => (word.as_str(), false),
        };
        let pattern = self.pattern(pattern)?;
        let value = value.unwrap_or_default();
        Ok(match operator {
            '#' => pattern.trim_prefix(value, longest),
            _ => pattern.trim_suffix(value, longest),
        })
    }

    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern_text = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = self.lookup(name);
        if value.is_none() && self.options.keep_undefined {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern_text}/{replacement}}}"));
        }
        let pattern = self.pattern(&pattern_text)?;
        match pattern.replace(value.unwrap_or_default(), &replacement, all, MAX_RESULT) {
            Some(text) => Ok(text),
            None => self.fail(format!("the result is larger than {MAX_RESULT} bytes")),
        }
    }

    fn operand(&mut self, stop: char, keep_escapes: bool) -> Result<String, ExpandError> {
        self.until(Some(stop), keep_escapes, &mut Sink::default())
    }

    fn pattern(&self, text: &str) -> Result<Pattern, ExpandError> {
        match Pattern::parse(text) {
            Ok(pattern) => Ok(pattern),
            Err(message) => self.fail(format!("invalid pattern `{text}` in a substitution: {message}")),
        }
    }
}
