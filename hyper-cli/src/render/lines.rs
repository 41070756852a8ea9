//! Cuts what a command writes into lines, in a bounded amount of memory.

/// How many bytes of a line wait for its end.
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
/// What a command overwrites with carriage returns is told as it stands in the end. Only of a line that is too long to
/// wait for its end a part is told first.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: String,
    /// A carriage return came: what follows overwrites the line.
    returned: bool,
    /// A part of the line was told.
    told: bool,
}

impl Lines {
    /// Takes text; it need not end where a line does.
    pub(super) fn take(&mut self, mut text: &str, mut give: impl FnMut(Piece<'_>)) {
        while !text.is_empty() {
            let end = memchr::memchr2(b'\n', b'\r', text.as_bytes()).unwrap_or(text.len());
            let (written, rest) = text.split_at(end);
            if !written.is_empty() {
                if std::mem::take(&mut self.returned) {
                    if std::mem::take(&mut self.told) {
                        give(Piece::End(""));
                    }
                    self.waiting.clear();
                }
                self.waiting.push_str(written);
                if self.waiting.len() > LONGEST {
                    give(Piece::Part(&self.waiting));
                    self.waiting.clear();
                    self.told = true;
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

    /// Gives a line whose end has not come.
    pub(super) fn finish(&mut self, mut give: impl FnMut(Piece<'_>)) {
        if self.told || !self.waiting.is_empty() {
            self.end(&mut give);
        }
    }

    fn end(&mut self, give: &mut impl FnMut(Piece<'_>)) {
        give(Piece::End(&self.waiting));
        self.waiting.clear();
        (self.returned, self.told) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts are joined by `+`, and lines end with `|`.
    fn told(blocks: &[&str]) -> String {
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
    fn lines_are_told_as_they_stand_in_the_end() {
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
            assert_eq!(told(blocks), expected, "{blocks:?}");
        }
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let block = "x".repeat(32 << 10);
        let blocks: Vec<&str> = [block.as_str(); 5].to_vec();
        assert_eq!(told(&[&blocks[..], &["end\n"]].concat()), "98304+65539+|");
        assert_eq!(told(&[&blocks[..3], &["\rnext\n"]].concat()), "98304+|next|");
        assert_eq!(told(&[&blocks[..3], &["\r\nnext\n"]].concat()), "98304+|next|");
        assert_eq!(told(&blocks[..3]), "98304+|");
    }

    #[test]
    fn bytes_are_looked_at_once() {
        // With a look at all that waits for each block this takes hours.
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
