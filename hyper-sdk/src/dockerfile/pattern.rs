//! The patterns of `${x#p}` and similar forms: `*` and `?` match within a line, and `\` escapes them.
//!
//! A match runs the pattern as a set of positions over the text, one character at a time. There is no backtracking, so the
//! time is at most the product of both lengths.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// Any run of characters of one line.
    Star,
    /// Any one character but a line end.
    Any,
    Literal(char),
}

/// A parsed pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Vec<Token>);

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => {
                    if tokens.last() == Some(&Token::Star) {
                        continue;
                    }
                    Token::Star
                }
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(next),
                    Some(next) => return Err(format!("`\\{next}` is not an escape")),
                    None => return Err("it ends in an escape character".to_owned()),
                },
                c => Token::Literal(c),
            });
        }
        Ok(Self(tokens))
    }

    /// The value without the shortest or longest beginning that the pattern matches.
    pub(crate) fn trim_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match self.find(&chars, 0, true, longest) {
            Some((_, end)) => chars[end..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// The value without the shortest or longest ending that the pattern matches.
    pub(crate) fn trim_suffix(&self, value: &str, longest: bool) -> String {
        let mut tokens = self.0.clone();
        tokens.reverse();
        let chars: Vec<char> = value.chars().rev().collect();
        match Self(tokens).find(&chars, 0, true, longest) {
            Some((_, end)) => chars[end..].iter().rev().collect(),
            None => value.to_owned(),
        }
    }

    /// The value with the first or every longest match replaced, or nothing when that grows beyond `limit` bytes.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut copied = 0;
        let mut search = 0;
        while search <= chars.len() {
            let Some((start, end)) = self.find(&chars, search, false, true) else { break };
            out.extend(&chars[copied..start]);
            // An empty match right after another match does not count.
            if end > copied || start == 0 {
                out.push_str(replacement);
            }
            if out.len() > limit {
                return None;
            }
            copied = end;
            search = if search < end { end } else { search + 1 };
            if !all {
                break;
            }
        }
        out.extend(&chars[copied.min(chars.len())..]);
        (out.len() <= limit).then_some(out)
    }

    /// The leftmost match from a position on (at that very position when anchored), the shortest or longest one.
    fn find(&self, chars: &[char], from: usize, anchored: bool, longest: bool) -> Option<(usize, usize)> {
        // For each position in the pattern, the smallest start of a match.
        let end_state = self.0.len();
        let mut states: Vec<Option<usize>> = vec![None; end_state + 1];
        let mut next = states.clone();
        let mut best: Option<(usize, usize)> = None;
        for at in from..=chars.len() {
            if best.is_none() && (!anchored || at == from) {
                lower(&mut states[0], at);
            }
            for i in 0..end_state {
                if let (Some(start), Token::Star) = (states[i], self.0[i]) {
                    lower(&mut states[i + 1], start);
                }
            }
            if let Some(start) = states[end_state] {
                if best.is_none_or(|(s, _)| start <= s) {
                    best = Some((start, at));
                }
                if !longest {
                    return best;
                }
            }
            let Some(c) = chars.get(at) else { break };
            next.fill(None);
            let mut alive = false;
            for (i, token) in self.0.iter().enumerate() {
                let Some(start) = states[i].filter(|s| best.is_none_or(|(b, _)| *s <= b)) else { continue };
                let target = match token {
                    Token::Star if *c != '\n' => i,
                    Token::Any if *c != '\n' => i + 1,
                    Token::Literal(literal) if literal == c => i + 1,
                    _ => continue,
                };
                lower(&mut next[target], start);
                alive = true;
            }
            std::mem::swap(&mut states, &mut next);
            if !alive && (anchored || best.is_some()) {
                break;
            }
        }
        best
    }
}

fn lower(slot: &mut Option<usize>, start: usize) {
    if slot.is_none_or(|s| start < s) {
        *slot = Some(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn prefixes_and_suffixes_are_shortest_or_longest() {
        assert_eq!(pattern("*/").trim_prefix("a/b/c", false), "b/c");
        assert_eq!(pattern("*/").trim_prefix("a/b/c", true), "c");
        assert_eq!(pattern("/*").trim_suffix("a/b/c", false), "a/b");
        assert_eq!(pattern("/*").trim_suffix("a/b/c", true), "a");
        assert_eq!(pattern("b").trim_prefix("abc", true), "abc");
        assert_eq!(pattern("a?").trim_prefix("añb", true), "b");
        assert_eq!(pattern("\\*").trim_prefix("*x", false), "x");
        assert_eq!(pattern(".tar.*").trim_suffix("x.tar.gz", false), "x");
    }

    #[test]
    fn replacements_are_leftmost_and_longest() {
        let replace = |p: &str, v: &str, r: &str, all| pattern(p).replace(v, r, all, 1000).unwrap();
        assert_eq!(replace("b", "abcb", "X", false), "aXcb");
        assert_eq!(replace("b", "abcb", "X", true), "aXcX");
        assert_eq!(replace("b*", "abcb", "X", true), "aX");
        assert_eq!(replace("*", "abc", "X", true), "X");
        assert_eq!(replace("", "ab", "-", true), "-a-b-");
        assert_eq!(replace("z", "ab", "-", true), "ab");
        assert_eq!(pattern("a").replace(&"a".repeat(100), &"b".repeat(100), true, 1000), None);
    }

    #[test]
    fn wrong_escapes_are_errors() {
        assert!(Pattern::parse("a\\b").is_err());
        assert!(Pattern::parse("a\\").is_err());
    }

    #[test]
    fn many_stars_are_cheap() {
        let text = "a".repeat(3000);
        let p = pattern(&format!("{}b", "a*".repeat(200)));
        assert_eq!(p.trim_prefix(&text, true), text);
    }
}
