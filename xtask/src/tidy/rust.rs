//! Rust source as the house rules need it: code without comments, string literals, and tokens.

/// A source text, taken apart.
pub(super) struct Source {
    /// The text with blanks in place of comments and of what is in literals. Lines are where they were.
    pub(super) code: String,
    /// Each string literal with the line that it begins in.
    pub(super) strings: Vec<(usize, String)>,
}

/// Takes a text apart.
pub(super) fn read(text: &str) -> Source {
    let mut source = Source { code: String::with_capacity(text.len()), strings: Vec::new() };
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some((length, content)) = string(rest, source.code.chars().next_back()) {
            let line = source.code.matches('\n').count() + 1;
            source.strings.push((line, content.to_owned()));
            length
        } else if let Some(length) = character(rest) {
            length
        } else {
            source.code.push(next);
            at += next.len_utf8();
            continue;
        };
        source.code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        at += length;
    }
    source
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length and the content of a string literal at the begin of a text, raw or not.
fn string(text: &str, before: Option<char>) -> Option<(usize, &str)> {
    if let Some(rest) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = rest.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        return Some((end + 2, &rest[..end]));
    }
    if before.is_some_and(is_word) {
        return None;
    }
    let raw = text.strip_prefix('b').or_else(|| text.strip_prefix('c')).unwrap_or(text).strip_prefix('r')?;
    let marks = raw.len() - raw.trim_start_matches('#').len();
    let content = raw[marks..].strip_prefix('"')?;
    let end = content.find(&format!("\"{}", "#".repeat(marks)))?;
    Some((text.len() - content.len() + end + 1 + marks, &content[..end]))
}

/// The length of a character literal at the begin of a text; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return Some(inner[2..].find('\'')? + 4);
    }
    let c = inner.chars().next()?;
    inner[c.len_utf8()..].starts_with('\'').then(|| c.len_utf8() + 2)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A word, `::`, or another character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// The line that it is in, from 1.
    pub(super) line: usize,
}

/// The tokens of code that [`read`] gave.
pub(super) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(c) = code[at..].chars().next() {
        let rest = &code[at..];
        let length = if is_word(c) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            tokens.push(Token { text: &rest[..length], line });
        }
        line += usize::from(c == '\n');
        at += length;
    }
    tokens
}

/// Where the braces that open at `open` close; the end when they do not.
pub(super) fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The end of the item that begins at `start`: after its semicolon or its closing brace.
pub(super) fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let mut at = start;
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "{" => return closing(tokens, at) + 1,
            "}" => return at,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    tokens.len()
}

/// Takes away what is compiled for tests alone. A module of that kind in a file of its own is in `modules`.
pub(super) fn without_tests<'a>(all: &[Token<'a>], modules: &mut Vec<&'a str>) -> Vec<Token<'a>> {
    let mut kept = Vec::with_capacity(all.len());
    let mut at = 0;
    while at < all.len() {
        let is_cfg = ["#", "[", "cfg", "("]
            .iter()
            .enumerate()
            .all(|(i, text)| all.get(at + i).is_some_and(|t| t.text == *text));
        if !is_cfg {
            kept.push(all[at]);
            at += 1;
            continue;
        }
        let end = closing(all, at + 1) + 1;
        let names = |word: &str| all[at..end.min(all.len())].iter().any(|token| token.text == word);
        if !names("test") || names("feature") || names("not") {
            kept.extend(&all[at..end.min(all.len())]);
            at = end;
            continue;
        }
        let mut start = end;
        while all.get(start).is_some_and(|token| token.text == "#") {
            start = closing(all, start + 1) + 1;
        }
        at = item_end(all, start);
        let item = &all[start.min(all.len())..at.min(all.len())];
        if let [.., keyword, name, semicolon] = item
            && (keyword.text, semicolon.text) == ("mod", ";")
        {
            modules.push(name.text);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text =
            "a // \"b\n/* c /* d */ e */ f(\"g\\\"h\", r#\"i\"j\"#, 'k', '\\'', b\"l\", '\\u{1b}') 'm: 'n'\n";
        let source = read(text);
        let words: Vec<&str> =
            tokens(&source.code).iter().map(|t| t.text).filter(|t| t.chars().all(is_word)).collect();
        assert_eq!(words, ["a", "f", "b", "m"]);
        let strings: Vec<&str> = source.strings.iter().map(|(_, s)| s.as_str()).collect();
        assert_eq!(strings, ["g\\\"h", "i\"j", "l"]);
        assert_eq!(source.code.matches('\n').count(), text.matches('\n').count());
    }

    #[test]
    fn what_is_for_tests_is_taken_away() {
        let text = "use a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\n#[path = \"x\"]\nmod c { fn d() {} }\n\
                    #[cfg(any(test, feature = \"e\"))]\nmod f;\n#[cfg(test)]\nfn g(x: [u8; 3]) -> T { h }\nmod i;\n";
        let source = read(text);
        let (all, mut modules) = (tokens(&source.code), Vec::new());
        let kept: Vec<&str> = without_tests(&all, &mut modules).iter().map(|t| t.text).collect();
        assert_eq!(modules, ["b"]);
        assert_eq!(kept.join(" "), "use a ; # [ cfg ( any ( test , feature = ) ) ] mod f ; mod i ;");
    }
}
