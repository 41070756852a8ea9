//! Paths and patterns as text.

/// A path in its shortest form: without `.`, empty parts and parts that `..` takes back.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// Whether a text is the address of something that is not on this machine.
pub(super) fn is_remote(text: &str) -> bool {
    let is_web = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    let is_git = ["git://", "ssh://", "git@", "github.com/"].iter().any(|start| text.starts_with(start));
    is_web || is_git
}

/// Whether a name matches a pattern with `*`, `?` and `[…]`; `None` for a wrong pattern.
pub(super) fn matches(pattern: &str, name: &str) -> Option<bool> {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        tokens.push(match pattern[at] {
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => {
                at += 1;
                Token::Char(*pattern.get(at)?)
            }
            '[' => {
                let start = at + 1;
                let first = start + usize::from(pattern.get(start) == Some(&'^')) + 1;
                at = (first..pattern.len()).find(|i| pattern[*i] == ']')?;
                Token::Class(&pattern[start..at])
            }
            c => Token::Char(c),
        });
        at += 1;
    }
    // The places of the name that the tokens so far can end at.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for token in &tokens {
        let mut next = vec![false; name.len() + 1];
        for (at, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
            match token {
                Token::Many => next[at..].fill(true),
                token if at < name.len() && token.takes(name[at]) => next[at + 1] = true,
                _ => {}
            }
        }
        reached = next;
    }
    reached.last().copied()
}

enum Token<'a> {
    Many,
    One,
    Char(char),
    Class(&'a [char]),
}

impl Token<'_> {
    fn takes(&self, c: char) -> bool {
        match self {
            Token::Many | Token::One => true,
            Token::Char(own) => *own == c,
            Token::Class(set) => {
                let (negated, mut set) = match set {
                    ['^', rest @ ..] => (true, rest),
                    set => (false, *set),
                };
                let mut found = false;
                while let [first, rest @ ..] = set {
                    (found, set) = match rest {
                        ['-', last, rest @ ..] => (found | (*first..=*last).contains(&c), rest),
                        rest => (found | (*first == c), rest),
                    };
                }
                found != negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_short() {
        for (path, short) in [
            ("", "."),
            ("./a/../b/", "b"),
            ("a//b/.", "a/b"),
            ("../../a", "../../a"),
            ("/../a", "/a"),
            ("/", "/"),
        ] {
            assert_eq!(clean(path), short, "{path}");
        }
    }

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("*", "", Some(true)),
            ("app-*", "app-a", Some(true)),
            ("app-*", "web-a", Some(false)),
            ("a?c", "abc", Some(true)),
            ("[a-c]x", "bx", Some(true)),
            ("[^a-c]x", "bx", Some(false)),
            ("*a*b*", "xxaxxbxx", Some(true)),
            ("[a", "a", None),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
