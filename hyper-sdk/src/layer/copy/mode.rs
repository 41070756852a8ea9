//! `--chmod`: an octal mode, or symbolic changes such as `u=rwX,go=rX`, applied without a umask.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What `a` stands for: the permissions and both set-id bits, but not the sticky bit.
const ALL: u32 = 0o6777;

/// A change of the permission bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModeChange {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Octal(u32),
    Symbolic(Vec<Change>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    who: u32,
    operator: u8,
    /// The plain bits, before they are limited to `who`.
    bits: u32,
    /// `X`: execution for folders and for what somebody may execute.
    execute_if_any: bool,
    /// The classes whose present permissions are copied, as shifts.
    copies: Vec<u32>,
}

impl ModeChange {
    /// Parses an octal mode of at most `07777`, or a comma-separated list of `[ugoa]*([-+=][rwxXstugo]*)+`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the text is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::invalid(format!("invalid mode `{text}`: {why}"));
        let kind = if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
            Kind::Octal(mode.ok_or_else(|| invalid("an octal mode lies between 0 and 07777"))?)
        } else {
            let mut changes = Vec::new();
            for clause in text.split(',') {
                parse_clause(clause.as_bytes(), &mut changes).ok_or_else(|| {
                    invalid("write an octal mode such as 0755, or changes such as u=rwX,go=rX")
                })?;
            }
            Kind::Symbolic(changes)
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// The mode, when it does not depend on the mode before.
    pub fn fixed(&self) -> Option<u32> {
        match self.kind {
            Kind::Octal(mode) => Some(mode),
            Kind::Symbolic(_) => None,
        }
    }

    /// The permission bits (twelve) that a file or directory with `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let before = mode & 0o7777;
        let changes = match &self.kind {
            Kind::Octal(mode) => return *mode,
            Kind::Symbolic(changes) => changes,
        };
        let mut now = before;
        for change in changes {
            let mut bits = change.bits & change.who;
            if change.execute_if_any && (is_directory || before & 0o111 != 0) {
                bits |= 0o111 & change.who;
            }
            for shift in &change.copies {
                bits |= (((now >> shift) & 0o7) * 0o111) & change.who;
            }
            now = match change.operator {
                b'+' => now | bits,
                b'-' => now & !bits,
                _ => (now & !change.who) | bits,
            };
        }
        now
    }
}

fn parse_clause(clause: &[u8], changes: &mut Vec<Change>) -> Option<()> {
    let classes = clause.iter().take_while(|b| b"ugoa".contains(b)).count();
    let named = clause[..classes].iter().fold(0, |who, class| {
        who | match class {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o0007,
            _ => ALL,
        }
    });
    let mut rest = &clause[classes..];
    if rest.is_empty() {
        return None;
    }
    while let Some((&operator, tail)) = rest.split_first() {
        if !b"+-=".contains(&operator) {
            return None;
        }
        let who = if named == 0 { ALL } else { named };
        let mut change = Change { who, operator, bits: 0, execute_if_any: false, copies: Vec::new() };
        let length = tail.iter().take_while(|b| !b"+-=".contains(b)).count();
        for permission in &tail[..length] {
            match permission {
                b'r' => change.bits |= 0o444,
                b'w' => change.bits |= 0o222,
                b'x' => change.bits |= 0o111,
                b'X' if operator == b'-' => change.bits |= 0o111,
                b'X' => change.execute_if_any = true,
                b's' => change.bits |= 0o6000,
                // The sticky bit belongs to nobody: naming only the others leaves it alone.
                b't' if named == 0 || named & 0o6770 != 0 => {
                    change.bits |= 0o1000;
                    change.who |= 0o1000;
                }
                b't' => {}
                b'u' => change.copies.push(6),
                b'g' => change.copies.push(3),
                b'o' => change.copies.push(0),
                _ => return None,
            }
        }
        changes.push(change);
        rest = &tail[length..];
    }
    Some(())
}

impl TryFrom<String> for ModeChange {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<ModeChange> for String {
    fn from(change: ModeChange) -> Self {
        change.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_apply_as_chmod_does() {
        for (text, before, directory, after) in [
            ("0755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("0", 0o644, false, 0),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("go=u-w", 0o750, false, 0o755),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("u=rw", 0o4755, false, 0o655),
            ("o+s", 0o644, false, 0o644),
            ("+t", 0o777, true, 0o1777),
            ("go=", 0o777, false, 0o700),
            ("g=o", 0o704, false, 0o744),
            ("u+x-w", 0o644, false, 0o544),
        ] {
            let change = ModeChange::parse(text).unwrap();
            assert_eq!(change.apply(before, directory), after, "{text} on {before:o}");
            let json = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<ModeChange>(&json).unwrap(), change);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "8", "10000", "755x", "u", "u=rwz", "rwx", "u=r,,g=r", "=,"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
