//! Cuts the output of a command into lines, in bounded memory.

/// How many bytes of a line are kept until its end comes.
const LONGEST: usize = 64 << 10;

/// A line, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A part of a long line: more of it follows.
    Part(&'a str),
    /// The end of a line: all of it, unless parts came before.
    End(&'a str),
}

/// Takes text as it comes, and gives lines.
///
/// A line that a command overwrites with carriage returns is given in its last form. Of a line that is too long to keep, a
/// part is given first.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: String,
    /// A carriage return came: what follows overwrites the line.
    returned: bool,
    /// A part of the line was given.
    is_begun: bool,
}

impl Lines {
    /// Takes text; it need not end where a line does.
    pub(super) fn take(&mut self, mut text: &str, mut give: impl FnMut(Piece<'_>)) {
        while !text.is_empty() {
            let end = memchr::memchr2(b'\n', b'\r', text.as_bytes()).unwrap_or(text.len());
            let (written, rest) = text.split_at(end);
            if !written.is_empty() {
                if std::mem::take(&mut self.returned) {
                    if std::mem::take(&mut self.is_begun) {
                        give(Piece::End(""));
                    }
                    self.waiting.clear();
                }
                self.waiting.push_str(written);
                if self.waiting.len() > LONGEST {
                    give(Piece::Part(&self.waiting));
                    self.waiting.clear();
                    self.is_begun = true;
                }
            }
            match rest.as_bytes().first() {
                Some(b'\n') => self.end(&mut give),
                Some(_) => self.returned = true,
                None => {}
            }
            text = rest.get(1..).unwrap_or_default();
        }
    }

    /// Gives the last line, which has no end.
    pub(super) fn finish(&mut self, mut give: impl FnMut(Piece<'_>)) {
        if self.is_begun || !self.waiting.is_empty() {
            self.end(&mut give);
        }
    }

    fn end(&mut self, give: &mut impl FnMut(Piece<'_>)) {
        give(Piece::End(&self.waiting));
        self.waiting.clear();
        (self.returned, self.is_begun) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts are joined by `+`, and lines end with `|`.
    fn given(blocks: &[&str]) -> String {
        let (mut lines, mut out) = (Lines::default(), String::new());
        let mut give = |piece: Piece<'_>| match piece {
            Piece::Part(text) => out.push_str(&format!("{}+", text.len())),
            Piece::End(text) => out.push_str(&format!("{text}|")),
        };
        blocks.iter().for_each(|block| lines.take(block, &mut give));
        lines.finish(&mut give);
        assert!(lines.waiting.is_empty());
        out
    }

    #[test]
    fn an_overwritten_line_is_given_in_its_last_form() {
        for (blocks, expected) in [
            (&["one\ntw", "o\nlast"][..], "one|two|last|"),
            (&["10%\r20%\n"], "20%|"),
            (&["10%\r", "20%", "\r", "\nnext"], "20%|next|"),
            (&["a\r\nb\r\r\n\n"], "a|b||"),
            (&["a\r"], "a|"),
            (&["\r\r"], ""),
            (&["10%\r20%\r30%"], "30%|"),
            (&[""], ""),
        ] {
            assert_eq!(given(blocks), expected, "{blocks:?}");
        }
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let block = "x".repeat(32 << 10);
        let blocks: Vec<&str> = [block.as_str(); 5].to_vec();
        assert_eq!(given(&[&blocks[..], &["end\n"]].concat()), "98304+65539+|");
        assert_eq!(given(&[&blocks[..3], &["\rnext\n"]].concat()), "98304+|next|");
        assert_eq!(given(&[&blocks[..3], &["\r\nnext\n"]].concat()), "98304+|next|");
        assert_eq!(given(&blocks[..3]), "98304+|");
    }

    #[test]
    fn every_byte_is_read_once() {
        // Reading all kept bytes again for each block would take hours.
        let mut lines = Lines::default();
        let mut bytes = 0;
        for _ in 0..(64 << 10) {
            lines.take("0123456789abcdef0123456789abcdef", |piece| {
                let (Piece::Part(text) | Piece::End(text)) = piece;
                bytes += text.len();
            });
            assert!(lines.waiting.len() <= LONGEST);
        }
        lines.finish(|piece| {
            let (Piece::Part(text) | Piece::End(text)) = piece;
            bytes += text.len();
        });
        assert_eq!(bytes, 2 << 20);
    }
}
