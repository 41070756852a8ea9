//! Splits the arguments of an instruction: white space, quoted words, `k=v` pairs, JSON arrays.

use super::diagnostic::Diagnostic;
use super::lines::Text;
use super::span::Word;
use serde_json::Value;

/// A key and a value of ENV or LABEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key, before expansion.
    pub key: Word,
    /// The value with its quotes, before expansion.
    pub value: Word,
    /// Whether its form is `k=v`; otherwise it is the legacy form `k v`.
    pub equals: bool,
}

/// Whether a name is valid for a stage: `[a-z][a-z0-9-_.]*`.
pub(crate) fn is_stage_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// Splits at unquoted white space. Quotes and escapes are kept in the words.
pub(crate) fn quoted_words(text: Text<'_>, escape: char) -> Vec<Word> {
    let source = text.as_str();
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = source.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(from) = start.take() {
                words.push(text.value(std::mem::take(&mut word), from..at));
            }
            continue;
        }
        start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            // An escape character at the very end is dropped.
            let Some((_, next)) = chars.next() else { break };
            word.push(c);
            word.push(next);
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ => {}
        }
        word.push(c);
    }
    if let Some(from) = start.filter(|_| !word.is_empty()) {
        words.push(text.value(word, from..source.len()));
    }
    words
}

/// Parses the arguments of ENV and LABEL.
pub(crate) fn pairs(text: Text<'_>, escape: char, command: &str) -> Result<Vec<Pair>, Diagnostic> {
    let words = quoted_words(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.value.contains('=') {
        let parts = text.split_blank(2);
        return match parts.as_slice() {
            [key, value] => Ok(vec![Pair { key: key.word(), value: value.word(), equals: false }]),
            _ => Err(Diagnostic::error(
                "missing-value",
                text.span(),
                format!("{command} must have two arguments"),
            )
            .with_help(format!("write `{command} {}=value`", first.value))),
        };
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        let Some((key, value)) = word.value.split_once('=') else {
            return Err(Diagnostic::error(
                "missing-equals",
                word.span,
                format!("cannot find `=` in `{}`: it must be of the form name=value", word.value),
            )
            .with_help("quote a value that contains white space"));
        };
        // The split is exact where the word stands unchanged in the file; otherwise the whole word is marked.
        let exact = word.span.len() == word.value.len();
        let (mut key_span, mut value_span) = (word.span, word.span);
        if exact {
            key_span.end = key_span.start + key.len();
            value_span.start = key_span.end + 1;
        }
        pairs.push(Pair {
            key: Word::new(key.to_owned(), key_span),
            value: Word::new(value.to_owned(), value_span),
            equals: true,
        });
    }
    Ok(pairs)
}

/// What looks like a JSON array, looked at closely.
pub(crate) enum Json {
    /// An array of strings.
    Strings(Vec<Word>),
    /// No JSON array at all: the text means something else.
    No,
    /// A JSON array with something else than strings in it.
    Mixed,
}

/// Parses the exec form.
pub(crate) fn json(text: Text<'_>) -> Json {
    let trimmed = text.trim_start();
    if !trimmed.as_str().starts_with('[') {
        return Json::No;
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(trimmed.as_str()) else { return Json::No };
    let mut strings = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::String(s) => strings.push(s),
            _ => return Json::Mixed,
        }
    }
    let ranges = string_ranges(trimmed.as_str());
    let whole = 0..trimmed.as_str().len();
    let words = strings
        .into_iter()
        .enumerate()
        .map(|(i, s)| trimmed.value(s, ranges.get(i).cloned().unwrap_or(whole.clone())))
        .collect();
    Json::Strings(words)
}

/// The places of the strings in an array that is known to hold nothing but strings, quotes included.
fn string_ranges(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = None;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match (start, byte) {
            (_, _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(from), b'"') => {
                ranges.push(from..at + 1);
                start = None;
            }
            (None, b'"') => start = Some(at),
            _ => {}
        }
    }
    ranges
}
