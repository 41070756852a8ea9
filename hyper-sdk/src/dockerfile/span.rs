//! Places in a source text: byte ranges, and the lines and columns that they fall on.
//!
//! Every token has a [`Span`] of the original file, so that continuations, comments and a byte order mark do not shift the
//! marks of diagnostics.

use std::ops::Range;

/// A half-open range of bytes of a [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// The span of a range of bytes.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// The smallest span that holds both.
    #[must_use]
    pub fn join(self, other: Span) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The number of bytes.
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether the span is empty: it is then a place between two bytes.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self::new(range.start, range.end)
    }
}

/// A value and its place.
///
/// Equal values at different places are not equal: compare `value` to ignore the place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// The place.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value at a place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// Another value at the same place.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), span: self.span }
    }
}

/// A word of a Dockerfile, before expansion, and its place.
pub type Word = Spanned<String>;

impl Word {
    /// The text of the word.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

/// A line and a column, both from one. The column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The line, from one.
    pub line: usize,
    /// The character of the line, from one.
    pub column: usize,
}

/// A text with a name, and an index of its lines.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    line_starts: Vec<usize>,
    /// The number of characters before each block of the text, so that a column costs the same on a long line.
    blocks: Vec<usize>,
}

/// The bytes of a block.
const BLOCK: usize = 256;

/// The number of characters that begin in some bytes of UTF-8.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

impl Source {
    /// A text with its name in messages.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let mut line_starts = vec![0];
        line_starts.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        let mut blocks = Vec::with_capacity(text.len() / BLOCK + 1);
        let mut before = 0;
        for block in text.as_bytes().chunks(BLOCK) {
            blocks.push(before);
            before += characters(block);
        }
        blocks.push(before);
        Self { name: name.into(), text, line_starts, blocks }
    }

    /// The name of the text in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a span; empty when it is not at character boundaries.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// The line (from one) that holds a byte.
    pub fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    /// The bytes of a line (from one) without its line ending.
    pub(crate) fn line_span(&self, line: usize) -> Span {
        let index = line.clamp(1, self.line_starts.len()) - 1;
        let start = self.line_starts[index];
        let end = self.line_starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        Span::new(start, end)
    }

    /// The line and column of a byte; an offset past the end gives the last place.
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.line_of(offset);
        let start = self.line_starts[line - 1];
        Position { line, column: self.characters_before(offset) - self.characters_before(start) + 1 }
    }

    /// The number of characters that begin before a byte.
    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        self.blocks[block.min(self.blocks.len() - 1)]
            + self.text.as_bytes().get(block * BLOCK..offset).map_or(0, characters)
    }

    /// The first and the last line that a span touches.
    pub fn lines(&self, span: Span) -> (usize, usize) {
        let last = if span.is_empty() { span.start } else { span.end - 1 };
        (self.line_of(span.start), self.line_of(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_lines_are_converted() {
        let source = Source::new("f", "añ\r\nb\n\nlast");
        assert_eq!(source.position(0), Position { line: 1, column: 1 });
        assert_eq!(source.position(3), Position { line: 1, column: 3 });
        assert_eq!(source.position(5), Position { line: 2, column: 1 });
        assert_eq!(source.position(7), Position { line: 3, column: 1 });
        assert_eq!(source.position(999), Position { line: 4, column: 5 });
        assert_eq!(source.slice(source.line_span(1)), "añ");
        assert_eq!(source.slice(source.line_span(3)), "");
        assert_eq!(source.slice(source.line_span(4)), "last");
        assert_eq!(source.lines(Span::new(0, 6)), (1, 2));
    }

    #[test]
    fn columns_of_long_lines_count_characters() {
        let text = format!("{}\n{}x", "é".repeat(700), "aé".repeat(500));
        let source = Source::new("f", text.as_str());
        for (offset, _) in text.char_indices().step_by(37) {
            let line = source.line_of(offset);
            let start = source.line_span(line).start;
            assert_eq!(source.position(offset).column, text[start..offset].chars().count() + 1, "{offset}");
        }
        assert_eq!(source.position(text.len()), Position { line: 2, column: 1002 });
        for length in [0, 255, 256, 257, 512] {
            let text = "a".repeat(length);
            assert_eq!(Source::new("f", text.as_str()).position(length).column, length + 1);
        }
    }

    #[test]
    fn a_slice_off_a_character_boundary_is_empty() {
        let source = Source::new("f", "añ");
        assert_eq!(source.slice(Span::new(0, 2)), "");
    }
}
