//! Escape sequences in the patterns of ignore files, `--exclude` and `--parents`.
//!
//! BuildKit passes these patterns to Go's regular expressions, with their escape sequences: escaped punctuation is
//! literal, but an escaped letter or digit has a special meaning. Both pattern parsers share this module.

/// An escape sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escape {
    /// This character.
    Char(char),
    /// A character of these ranges.
    Class(&'static [(char, char)]),
    /// `\b` and `\B`: whether the position is a word boundary.
    Boundary(bool),
    /// `\A`: the beginning of the text.
    Start,
    /// `\z`: the end of the text.
    End,
}

const DIGIT: &[(char, char)] = &[('0', '9')];
const NO_DIGIT: &[(char, char)] = &[('\0', '/'), (':', char::MAX)];
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
const NO_SPACE: &[(char, char)] =
    &[('\0', '\u{8}'), ('\u{b}', '\u{b}'), ('\u{e}', '\u{1f}'), ('!', char::MAX)];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
const NO_WORD: &[(char, char)] = &[('\0', '/'), (':', '@'), ('[', '^'), ('`', '`'), ('{', char::MAX)];

/// Parses an escape sequence after its backslash.
///
/// # Errors
/// The reason: an invalid escape sequence, or one that is not implemented.
pub(crate) fn read<I: Iterator<Item = char> + Clone>(rest: &mut I) -> Result<Escape, &'static str> {
    let c = rest.next().ok_or("it ends in a backslash")?;
    Ok(match c {
        'd' => Escape::Class(DIGIT),
        'D' => Escape::Class(NO_DIGIT),
        's' => Escape::Class(SPACE),
        'S' => Escape::Class(NO_SPACE),
        'w' => Escape::Class(WORD),
        'W' => Escape::Class(NO_WORD),
        'b' => Escape::Boundary(true),
        'B' => Escape::Boundary(false),
        'A' => Escape::Start,
        'z' => Escape::End,
        'a' => Escape::Char('\u{7}'),
        'f' => Escape::Char('\u{c}'),
        'n' => Escape::Char('\n'),
        'r' => Escape::Char('\r'),
        't' => Escape::Char('\t'),
        'v' => Escape::Char('\u{b}'),
        'x' => Escape::Char(hexadecimal(rest).ok_or("`\\x` needs two hexadecimal digits after it")?),
        '0'..='7' => Escape::Char(octal(c, rest)?),
        'p' | 'P' | 'Q' => return Err("`\\p`, `\\P` and `\\Q` of regular expressions are not implemented"),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Escape::Char(c),
        _ => return Err("an unknown escape sequence: remove the backslash, and separate folders with `/`"),
    })
}

/// Whether a word begins or ends between two characters.
pub(crate) fn is_boundary(before: Option<char>, after: Option<char>) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    word(before) != word(after)
}

fn octal<I: Iterator<Item = char> + Clone>(first: char, rest: &mut I) -> Result<char, &'static str> {
    let mut value = first.to_digit(8).unwrap_or(0);
    let mut digits = 1;
    let mut ahead = rest.clone();
    while let Some(digit) = ahead.next().and_then(|c| c.to_digit(8)).filter(|_| digits < 3) {
        value = value * 8 + digit;
        digits += 1;
        *rest = ahead.clone();
    }
    if first != '0' && digits == 1 {
        return Err("a backslash before a digit refers to a group, and patterns have no groups");
    }
    char::from_u32(value).ok_or("a backslash before a number that is not a character")
}

fn hexadecimal<I: Iterator<Item = char>>(rest: &mut I) -> Option<char> {
    let mut digit = || rest.next();
    let mut value = 0;
    match digit()? {
        '{' => {
            let mut c = digit()?;
            loop {
                value = value * 16 + c.to_digit(16)?;
                if value > u32::from(char::MAX) {
                    return None;
                }
                c = digit()?;
                if c == '}' {
                    break;
                }
            }
        }
        first => value = first.to_digit(16)? * 16 + digit()?.to_digit(16)?,
    }
    char::from_u32(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_have_their_meaning_in_go() {
        for (text, expected, left) in [
            (".x", Escape::Char('.'), "x"),
            ("_", Escape::Char('_'), ""),
            ("ab", Escape::Char('\u{7}'), "b"),
            ("x611", Escape::Char('a'), "1"),
            ("x{e9}1", Escape::Char('é'), "1"),
            ("1411", Escape::Char('a'), "1"),
            ("0", Escape::Char('\0'), ""),
            ("428", Escape::Char('"'), "8"),
            ("wx", Escape::Class(WORD), "x"),
        ] {
            let mut rest = text.chars();
            assert_eq!(read(&mut rest), Ok(expected), "{text}");
            assert_eq!(rest.as_str(), left, "{text}");
        }
        for bad in [
            "",
            "1",
            "18",
            "8",
            "x",
            "x6",
            "x6g",
            "x{",
            "x{110000}",
            "x{}",
            "x+1",
            "pL",
            "Qa",
            "é",
            "C",
            "k",
            "E",
        ] {
            assert!(read(&mut bad.chars()).is_err(), "{bad}");
        }
        for (class, other) in [(DIGIT, NO_DIGIT), (SPACE, NO_SPACE), (WORD, NO_WORD)] {
            let holds =
                |class: &[(char, char)], c| class.iter().any(|(low, high)| (*low..=*high).contains(&c));
            assert!(('\0'..='\u{200}').chain([char::MAX]).all(|c| holds(class, c) != holds(other, c)));
        }
    }
}
