//! Parses the text of a POSIX shell, as far as the rules need it: simple commands, the operators between them, and their
//! nesting. Substitutions stay a part of their words.
//!
//! The grammar is that of POSIX.1-2017, Shell Command Language, sections 2.2 to 2.10. Every text is accepted: a malformed one
//! gives some commands and no error. The time is linear in the text.

use std::ops::Range;

/// The operator after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    And,
    Or,
    Pipe,
    /// `;`, `&` or the end of the line.
    Next,
    End,
}

/// A simple command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// The words without quotes and redirections. Substitutions are kept as written.
    pub(super) words: Vec<String>,
    /// Its place in the text.
    pub(super) range: Range<usize>,
    pub(super) joint: Joint,
    /// The number of groups, subshells and compound commands around it.
    pub(super) depth: usize,
    /// Whether its output goes into a file.
    pub(super) to_file: bool,
    /// Whether it is a condition, which may fail: of `if` or `while`, or after `!`.
    pub(super) condition: bool,
}

impl Command {
    /// The program and its arguments, without assignments and words that run another command.
    pub(super) fn program(&self) -> &[String] {
        let mut words = &self.words[..];
        while let Some(first) = words.first() {
            let wraps = matches!(first.as_str(), "env" | "exec" | "command" | "time" | "eatmydata" | "nice");
            if !wraps && !is_assignment(first) {
                break;
            }
            words = &words[1..];
        }
        words
    }

    /// The name of the program, without its folder.
    pub(super) fn name(&self) -> &str {
        let name = self.program().first().map_or("", String::as_str);
        name.rsplit('/').next().unwrap_or(name)
    }

    /// The arguments of the program.
    pub(super) fn arguments(&self) -> &[String] {
        self.program().get(1..).unwrap_or_default()
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// The simple commands of a text, in order.
pub(super) fn commands(text: &str) -> Vec<Command> {
    let mut parser = Parser {
        text,
        at: 0,
        commands: Vec::new(),
        depth: 0,
        heredocs: Vec::new(),
        cases: Vec::new(),
        condition: false,
        negated: false,
    };
    parser.run();
    parser.commands
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    commands: Vec<Command>,
    depth: usize,
    /// The delimiters of the heredocs that begin at the next line.
    heredocs: Vec<String>,
    /// For each open `case`, whether a pattern comes next.
    cases: Vec<bool>,
    /// Whether `then` or `do` is still to come.
    condition: bool,
    /// Whether a `!` stands before the pipe.
    negated: bool,
}

/// Words that open or continue a compound command. A command follows them.
const OPENERS: [&str; 6] = ["if", "while", "until", "for", "select", "case"];
const MIDDLES: [&str; 6] = ["then", "else", "elif", "do", "!", "{"];
const CLOSERS: [&str; 4] = ["fi", "done", "esac", "}"];

impl Parser<'_> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn run(&mut self) {
        let mut current: Option<Command> = None;
        while let Some(byte) = self.byte() {
            if self.cases.last() == Some(&true) && current.is_none() && self.pattern() {
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'\\' if self.text[self.at..].starts_with("\\\n") => self.at += 2,
                b'\n' => {
                    self.end(&mut current, Joint::Next);
                    self.at += 1;
                    self.skip_heredocs();
                }
                b'#' => self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at),
                b';' => {
                    self.end(&mut current, Joint::Next);
                    let double = self.text[self.at..].starts_with(";;");
                    self.at += if double { 2 } else { 1 };
                    if let (true, Some(pattern)) = (double, self.cases.last_mut()) {
                        *pattern = true;
                    }
                }
                b'&' | b'|' => {
                    let rest = &self.text[self.at..];
                    let (joint, length) = if rest.starts_with("&&") {
                        (Joint::And, 2)
                    } else if rest.starts_with("||") {
                        (Joint::Or, 2)
                    } else if rest.starts_with("|&") {
                        (Joint::Pipe, 2)
                    } else if rest.starts_with("&>") {
                        self.redirect(&mut current);
                        continue;
                    } else if byte == b'|' {
                        (Joint::Pipe, 1)
                    } else {
                        (Joint::Next, 1)
                    };
                    self.end(&mut current, joint);
                    self.at += length;
                }
                b'(' => {
                    // `name()` is the head of a function; elsewhere a subshell begins.
                    self.end(&mut current, Joint::Next);
                    self.at += 1;
                    self.depth += 1;
                }
                b')' => {
                    self.end(&mut current, Joint::Next);
                    self.at += 1;
                    self.depth = self.depth.saturating_sub(1);
                }
                b'<' | b'>' => self.redirect(&mut current),
                _ => self.word(&mut current),
            }
        }
        self.end(&mut current, Joint::End);
        if let Some(last) = self.commands.last_mut() {
            last.joint = Joint::End;
        }
    }

    fn end(&mut self, current: &mut Option<Command>, joint: Joint) {
        self.negated &= joint == Joint::Pipe;
        if let Some(mut command) = current.take() {
            command.joint = joint;
            self.commands.push(command);
        } else if let (true, Some(last)) = (joint != Joint::Next, self.commands.last_mut()) {
            // After a group or a subshell.
            last.joint = joint;
        }
    }

    /// Skips the pattern of a `case`; false at its end.
    fn pattern(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        if trimmed.starts_with("esac") {
            if let Some(pattern) = self.cases.last_mut() {
                *pattern = false;
            }
            return false;
        }
        let end = rest.find(')').map_or(rest.len(), |at| at + 1);
        self.at += end;
        if let Some(pattern) = self.cases.last_mut() {
            *pattern = false;
        }
        true
    }

    fn word(&mut self, current: &mut Option<Command>) {
        let start = self.at;
        let (word, quoted) = self.read_word();
        if self.at == start {
            // A word cannot begin with this character.
            self.at += self.text[start..].chars().next().map_or(1, char::len_utf8);
            return;
        }
        if current.is_none() && !quoted {
            if OPENERS.contains(&word.as_str()) {
                self.depth += 1;
                self.condition = matches!(word.as_str(), "if" | "while" | "until");
                if matches!(word.as_str(), "for" | "select" | "case") {
                    self.skip_head(word == "case");
                }
                return;
            }
            if MIDDLES.contains(&word.as_str()) {
                self.depth += usize::from(word == "{");
                match word.as_str() {
                    "elif" => self.condition = true,
                    "then" | "do" | "else" => self.condition = false,
                    "!" => self.negated = true,
                    _ => {}
                }
                return;
            }
            if CLOSERS.contains(&word.as_str()) {
                self.depth = self.depth.saturating_sub(1);
                if word == "esac" {
                    self.cases.pop();
                }
                return;
            }
        }
        let (depth, condition) = (self.depth, self.condition || self.negated);
        let command = current.get_or_insert_with(|| Command {
            words: Vec::new(),
            range: start..start,
            joint: Joint::End,
            depth,
            to_file: false,
            condition,
        });
        command.words.push(word);
        command.range.end = self.at;
    }

    /// Skips `NAME in WORDS` of a loop, and `WORD in` of a `case`.
    fn skip_head(&mut self, case: bool) {
        loop {
            match self.byte() {
                None | Some(b';' | b'\n' | b'&' | b'|' | b')') => return,
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(_) => {
                    let start = self.at;
                    let (word, _) = self.read_word();
                    if self.at == start {
                        self.at += self.text[start..].chars().next().map_or(1, char::len_utf8);
                    }
                    if case && word == "in" {
                        self.cases.push(true);
                        return;
                    }
                }
            }
        }
    }

    /// Reads a word, and whether a part of it is quoted.
    fn read_word(&mut self) -> (String, bool) {
        let mut word = String::new();
        let mut quoted = false;
        while let Some(byte) = self.byte() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' => break,
                b'\\' => {
                    let next = self.text[self.at + 1..].chars().next();
                    self.at += 1 + next.map_or(0, char::len_utf8);
                    quoted = true;
                    word.extend(next.filter(|c| *c != '\n'));
                }
                b'\'' => {
                    let body = &self.text[self.at + 1..];
                    let end = body.find('\'').unwrap_or(body.len());
                    word.push_str(&body[..end]);
                    self.at += 1 + (end + 1).min(body.len());
                    quoted = true;
                }
                b'"' => {
                    self.at += 1;
                    self.double_quoted(&mut word);
                    quoted = true;
                }
                b'$' | b'`' => self.substitution(&mut word),
                _ => {
                    let c = self.text[self.at..].chars().next().unwrap_or('\0');
                    word.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
        (word, quoted)
    }

    fn double_quoted(&mut self, word: &mut String) {
        while let Some(c) = self.text[self.at..].chars().next() {
            match c {
                '"' => {
                    self.at += 1;
                    return;
                }
                '\\' => {
                    let next = self.text[self.at + 1..].chars().next();
                    self.at += 1 + next.map_or(0, char::len_utf8);
                    word.extend(next.filter(|c| *c != '\n'));
                }
                '$' | '`' => self.substitution(word),
                c => {
                    word.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    /// Copies `$(…)`, `${…}`, `$name` or a pair of backticks as written.
    fn substitution(&mut self, word: &mut String) {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let (open, close) = match (bytes[start], bytes.get(start + 1)) {
            (b'`', _) => (b'`', b'`'),
            (_, Some(b'(')) => (b'(', b')'),
            (_, Some(b'{')) => (b'{', b'}'),
            _ => {
                self.at += 1;
                word.push('$');
                return;
            }
        };
        let mut at = start + if open == b'`' { 1 } else { 2 };
        let mut depth = 1;
        let mut quote = 0;
        while at < bytes.len() && depth > 0 {
            let byte = bytes[at];
            if byte == b'\\' && quote != b'\'' {
                at += 1;
            } else if quote != 0 {
                quote = if byte == quote { 0 } else { quote };
            } else if matches!(byte, b'\'' | b'"') && open != b'`' {
                quote = byte;
            } else if byte == close {
                depth -= 1;
            } else if byte == open {
                depth += 1;
            }
            at += 1;
        }
        let mut end = at.min(bytes.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        word.push_str(&self.text[start..end]);
        self.at = end;
    }

    /// Reads a redirection and its target.
    fn redirect(&mut self, current: &mut Option<Command>) {
        let start = self.at;
        let length =
            self.text[start..].bytes().take_while(|b| matches!(b, b'<' | b'>' | b'&' | b'|' | b'-')).count();
        let operator = &self.text[start..start + length];
        self.at += length;
        while matches!(self.byte(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let (target, _) = self.read_word();
        if operator.starts_with("<<") && !operator.starts_with("<<<") && !target.is_empty() {
            self.heredocs.push(target.clone());
        }
        if let Some(command) = current {
            // The word before is the number of a descriptor.
            let descriptor = command.range.end == start
                && command.words.last().is_some_and(|w| w.len() == 1 && w.as_bytes()[0].is_ascii_digit());
            let number = if descriptor { command.words.pop() } else { None };
            let output = operator.contains('>') && !operator.contains('&') && number.as_deref() != Some("2");
            command.to_file |= output && target != "/dev/null";
            command.range.end = self.at;
        }
    }

    fn skip_heredocs(&mut self) {
        for delimiter in std::mem::take(&mut self.heredocs) {
            while self.at < self.text.len() {
                let rest = &self.text[self.at..];
                let line = rest.split('\n').next().unwrap_or_default();
                self.at += (line.len() + 1).min(rest.len());
                if line.trim_start_matches('\t').trim_end_matches('\r') == delimiter {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Vec<String> {
        commands(text)
            .iter()
            .map(|c| format!("{}{}:{:?}", c.words.join(" "), ".".repeat(c.depth), c.joint))
            .collect()
    }

    #[test]
    fn commands_and_operators_are_parsed() {
        assert_eq!(shown("a 'b c' && d | e || f; g"), ["a b c:And", "d:Pipe", "e:Or", "f:Next", "g:End"]);
        assert_eq!(shown("a # b && c\nd \\\n e"), ["a:Next", "d e:End"]);
        assert_eq!(shown("(a && b) | c"), ["a.:And", "b.:Pipe", "c:End"]);
        assert_eq!(shown("if a; then b; else c; fi && d"), ["a.:Next", "b.:Next", "c.:And", "d:End"]);
        assert_eq!(shown("for x in a b; do c $x; done"), ["c $x.:End"]);
        assert_eq!(
            shown("case $x in a|b) c ;; *) d | e ;; esac; f"),
            ["c.:Next", "d.:Pipe", "e.:Next", "f:End"]
        );
        assert_eq!(
            shown("a $(b | c; d) `e|f` \"$(g \"h\" | i)\""),
            ["a $(b | c; d) `e|f` $(g \"h\" | i):End"]
        );
        assert_eq!(shown("cat <<EOF | a\nb && c\nEOF\nd"), ["cat:Pipe", "a:Next", "d:End"]);
        assert_eq!(shown("a > f 2>&1 < g && { b; }"), ["a:And", "b.:End"]);
        assert_eq!(
            shown("X=1 env Y=2 /usr/bin/apt-get install"),
            ["X=1 env Y=2 /usr/bin/apt-get install:End"]
        );
        assert_eq!(commands("X=1 env Y=2 /usr/bin/apt-get install")[0].name(), "apt-get");
    }

    #[test]
    fn conditions_are_distinguished() {
        for (text, conditions) in [
            ("if a | b; then c; elif d; then e; else f; fi; g", "ttftfff"),
            ("while a; do b; done && ! c | d; e", "tfttf"),
            ("for x in a; do b; done || ! c && d", "ftf"),
        ] {
            let found: String = commands(text).iter().map(|c| if c.condition { 't' } else { 'f' }).collect();
            assert_eq!(found, conditions, "{text}");
        }
    }

    #[test]
    fn output_to_files_is_found() {
        for (text, to_file) in [
            ("a > f", true),
            ("a >>f", true),
            ("a 2> f", false),
            ("a >/dev/null", false),
            ("a >&2", false),
            ("a 1>f", true),
        ] {
            assert_eq!(commands(text)[0].to_file, to_file, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_accepted(text in "[a-c$(){}'\"`\\\\|&;<>#\n =éif]{0,60}") {
            for command in commands(&text) {
                prop_assert!(text.get(command.range.clone()).is_some());
                prop_assert!(!command.words.is_empty());
            }
        }

        #[test]
        fn all_words_are_accepted(words in proptest::collection::vec(
            prop_oneof![Just("case"), Just("in"), Just("esac"), Just("if"), Just("fi"), Just(";;"), Just("x)"), Just("<<E"),
                        Just("E"), Just("\n"), Just("{"), Just("}"), Just("for"), Just("do"), Just("done"), Just("$(")], 0..30,
        )) {
            commands(&words.join(" "));
        }
    }
}
