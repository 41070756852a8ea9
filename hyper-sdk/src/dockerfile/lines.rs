//! Logical lines: physical lines are joined at continuations, and comments are removed.
//!
//! A logical line has the text of an instruction, and segments that map each byte of it back to the file. The escape
//! character at the end of a line continues it, unless another one precedes it. Comment lines and empty lines in a
//! continuation are dropped; the empty lines are kept for a warning.

use super::span::{Span, Word};
use std::ops::Range;

/// The text of one instruction, with the origin of its bytes.
#[derive(Clone, Debug)]
pub(crate) struct LogicalLine {
    /// The joined text, leading white space removed.
    pub(crate) text: String,
    /// Pairs of (offset in `text`, offset in the file), ascending.
    segments: Vec<(usize, usize)>,
    /// From the first to the last byte in the file.
    pub(crate) span: Span,
    /// The comment lines directly above, without the mark.
    pub(crate) comments: Vec<Word>,
    /// The empty lines inside the continuation.
    pub(crate) empty_lines: Vec<Span>,
}

impl LogicalLine {
    /// The offset in the file of a byte of the text. The end of the text maps to the end of its last byte.
    fn locate(&self, offset: usize) -> usize {
        let index = self.segments.partition_point(|(start, _)| *start <= offset);
        match index.checked_sub(1).and_then(|i| self.segments.get(i)) {
            Some((text_start, file_start)) => file_start + (offset - text_start),
            None => self.span.start,
        }
    }

    /// The place of a range of the text.
    pub(crate) fn locate_range(&self, range: Range<usize>) -> Span {
        let start = self.locate(range.start);
        let end = if range.end > range.start { self.locate(range.end - 1) + 1 } else { start };
        Span::new(start, end)
    }

    /// The whole text as a slice.
    pub(crate) fn all(&self) -> Text<'_> {
        Text { line: self, start: 0, end: self.text.len() }
    }
}

/// A part of a logical line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    line: &'a LogicalLine,
    start: usize,
    end: usize,
}

impl<'a> Text<'a> {
    pub(crate) fn as_str(self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The part at a range that is relative to this part.
    pub(crate) fn sub(self, range: Range<usize>) -> Self {
        Self { line: self.line, start: self.start + range.start, end: self.start + range.end }
    }

    pub(crate) fn trim(self) -> Self {
        let text = self.as_str();
        let from = text.len() - text.trim_start().len();
        let trimmed = text.trim();
        self.sub(from..from + trimmed.len())
    }

    pub(crate) fn trim_start(self) -> Self {
        let text = self.as_str();
        self.sub(text.len() - text.trim_start().len()..text.len())
    }

    pub(crate) fn span(self) -> Span {
        self.line.locate_range(self.start..self.end)
    }

    /// The part as a word.
    pub(crate) fn word(self) -> Word {
        Word::new(self.as_str().to_owned(), self.span())
    }

    /// A value that stands for a relative range of this part.
    pub(crate) fn value(self, value: String, range: Range<usize>) -> Word {
        Word::new(value, self.sub(range).span())
    }

    /// Splits at runs of white space other than line ends, into at most `limit` parts.
    ///
    /// Leading or trailing white space gives an empty part, as in the split by a regular expression that BuildKit uses.
    pub(crate) fn split_blank(self, limit: usize) -> Vec<Self> {
        let text = self.as_str();
        let mut parts = Vec::new();
        let mut start = 0;
        let mut at = 0;
        let bytes = text.as_bytes();
        while at < bytes.len() && parts.len() + 1 < limit {
            if is_blank(bytes[at]) {
                parts.push(self.sub(start..at));
                while at < bytes.len() && is_blank(bytes[at]) {
                    at += 1;
                }
                start = at;
            } else {
                at += 1;
            }
        }
        parts.push(self.sub(start..text.len()));
        parts
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | b'\r' | b' ')
}

/// Reads logical and raw lines from a text.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    comments: Vec<Word>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str, at: usize, escape: char) -> Self {
        Self { text, at, escape, comments: Vec::new() }
    }

    /// The next physical line with its line ending, and where it starts.
    pub(crate) fn raw(&mut self) -> Option<(&'a str, usize)> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        let end = self.text[start..].find('\n').map_or(self.text.len(), |i| start + i + 1);
        self.at = end;
        Some((&self.text[start..end], start))
    }

    /// The offset of the next byte to read.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The next logical line.
    pub(crate) fn next_line(&mut self) -> Option<LogicalLine> {
        loop {
            let (raw, start) = self.raw()?;
            let body = trim_newline(raw);
            let trimmed = body.trim_start();
            let start = start + (body.len() - trimmed.len());
            if let Some(comment) = trimmed.strip_prefix('#') {
                let text = comment.trim();
                if text.is_empty() {
                    self.comments.clear();
                } else {
                    let from = start + (trimmed.len() - comment.trim_start().len());
                    self.comments.push(Word::new(text.to_owned(), Span::new(from, from + text.len())));
                }
                continue;
            }
            let (kept, continues) = self.cut_continuation(trimmed);
            if !continues && kept.is_empty() {
                continue;
            }
            return Some(self.join(kept, start, continues, start + trimmed.len()));
        }
    }

    fn join(&mut self, first: &str, start: usize, mut continues: bool, mut end: usize) -> LogicalLine {
        let mut text = first.to_owned();
        let mut segments = vec![(0, start)];
        let mut empty_lines = Vec::new();
        while continues {
            let Some((raw, at)) = self.raw() else { break };
            let body = trim_newline(raw);
            let trimmed = body.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_lines.push(Span::new(at, at + body.len()));
                continue;
            }
            let (kept, more) = self.cut_continuation(body);
            continues = more;
            end = at + body.len();
            if !kept.is_empty() {
                segments.push((text.len(), at));
                text.push_str(kept);
            }
        }
        let comments = std::mem::take(&mut self.comments);
        LogicalLine { text, segments, span: Span::new(start, end), comments, empty_lines }
    }

    /// The line without the escape character that continues it, and whether it has one.
    fn cut_continuation<'b>(&self, line: &'b str) -> (&'b str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(rest) if !rest.ends_with(self.escape) => (rest, true),
            _ => (line, false),
        }
    }
}

pub(crate) fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<LogicalLine> {
        let mut lines = Lines::new(text, 0, '\\');
        std::iter::from_fn(|| lines.next_line()).collect()
    }

    #[test]
    fn continuations_are_joined_and_keep_the_places_of_bytes() {
        let text = "# about\n  RUN a \\\n# inside\n\n   b \\  \n c\\\\\nCMD x\n";
        let all = lines(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].text, "RUN a    b  c\\\\");
        assert_eq!(all[0].comments[0].value, "about");
        assert_eq!(all[0].empty_lines.len(), 1);
        let at = all[0].text.find('b').unwrap();
        let span = all[0].locate_range(at..at + 1);
        assert_eq!(&text[span.start..span.end], "b");
        assert_eq!(all[1].text, "CMD x");
        assert!(all[1].comments.is_empty());
    }

    #[test]
    fn a_file_can_end_in_a_continuation() {
        assert_eq!(lines("RUN a \\\n").first().unwrap().text, "RUN a ");
        assert_eq!(lines("RUN a \\").first().unwrap().text, "RUN a ");
        assert_eq!(lines("\\\nRUN a").first().unwrap().text, "RUN a");
        assert!(lines("").is_empty());
    }

    #[test]
    fn an_empty_comment_separates_comments() {
        assert!(lines("# a\n#\nRUN x").first().unwrap().comments.is_empty());
        assert_eq!(lines("# a\n\n# b\nRUN x").first().unwrap().comments.len(), 2);
    }
}
