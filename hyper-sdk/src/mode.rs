//! `--chmod`: an octal mode, or symbolic changes such as `u=rwX,go=rX`, applied without a umask.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The bits of `a`: the permissions and both set-id bits, but not the sticky bit.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    /// The bits that may change.
    who: u32,
    operator: u8,
    operand: Operand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    /// These bits, limited to the bits that may change.
    Bits(u32),
    /// `X`: the execute permission for folders, and for files that some user can already execute.
    ExecuteIfAny,
    /// The current permissions of a class, as a shift. Only permissions change, never the three special bits.
    CopyOf(u32),
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

    /// The mode, if it does not depend on the previous mode.
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
        for Change { who, operator, operand } in changes {
            let (bits, replaced) = match operand {
                Operand::Bits(bits) => (bits & who, *who),
                Operand::ExecuteIfAny if is_directory || before & 0o111 != 0 => (0o111 & who, 0),
                Operand::ExecuteIfAny => continue,
                Operand::CopyOf(shift) => ((((now >> shift) & 0o7) * 0o111) & who, 0o777 & who),
            };
            now = match operator {
                b'+' => now | bits,
                b'-' => now & !bits,
                _ => (now & !replaced) | bits,
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
        let length = tail.iter().take_while(|b| !b"+-=".contains(b)).count();
        parse_operation(named, operator, &tail[..length], changes)?;
        rest = &tail[length..];
    }
    Some(())
}

/// Parses the permissions after an operator. Without a class (0) they apply to all classes, except with `t`, which then
/// changes only the sticky bit: `=t` and `+rt` do not change the permissions.
fn parse_operation(named: u32, operator: u8, permissions: &[u8], changes: &mut Vec<Change>) -> Option<()> {
    let (mut who, mut bits, mut execute_if_any) = (named, 0, false);
    let mut push = |who: u32, operator: u8, operand: Operand| {
        changes.push(Change { who: if who == 0 { ALL } else { who }, operator, operand });
    };
    // An empty assignment removes everything, unless it copies: then the copy decides what is removed.
    let mut empty = operator == b'=';
    for permission in permissions {
        // "Others" have no special bit: an assignment to them alone leaves the special bits unchanged.
        let special = who == 0 || who & 0o7770 != 0;
        match permission {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' if operator == b'-' => bits |= 0o111,
            b'X' => execute_if_any = true,
            b's' if special => bits |= 0o6000,
            b't' if special => {
                who |= 0o1000;
                bits |= 0o1000;
            }
            b's' | b't' => {}
            b'u' | b'g' | b'o' => {
                empty = false;
                if bits != 0 {
                    push(who, operator, Operand::Bits(bits));
                    bits = 0;
                }
                if std::mem::take(&mut execute_if_any) {
                    push(who, b'+', Operand::ExecuteIfAny);
                }
                let shift = match permission {
                    b'u' => 6,
                    b'g' => 3,
                    _ => 0,
                };
                push(who, operator, Operand::CopyOf(shift));
            }
            _ => return None,
        }
    }
    if bits != 0 || empty {
        push(who, operator, Operand::Bits(bits));
    }
    if execute_if_any {
        push(who, b'+', Operand::ExecuteIfAny);
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
            // Copies of permissions leave the special bits alone.
            ("go=u", 0o2750, true, 0o2777),
            ("g=u", 0o7777, false, 0o7777),
            ("u=g,g=o", 0o4755, false, 0o4555),
            ("g=s", 0o2750, true, 0o2700),
            ("go=u-w", 0o2750, true, 0o2755),
            ("u-g", 0o4750, false, 0o4250),
            ("o+u", 0o640, false, 0o646),
            ("g=wu", 0o500, false, 0o550),
            ("g=Xo", 0o144, false, 0o144),
            ("a=X", 0o7111, false, 0o1111),
            ("a=", 0o7777, false, 0o1000),
            // Without a class, `t` changes only the sticky bit.
            ("=t", 0o640, false, 0o1640),
            ("=t", 0o7777, false, 0o7777),
            ("+rt", 0o200, false, 0o1200),
            ("a+rt", 0o200, false, 0o1644),
            ("o=t", 0o647, false, 0o640),
            ("-t", 0o1777, true, 0o777),
        ] {
            let change = ModeChange::parse(text).unwrap();
            assert_eq!(change.apply(before, directory), after, "{text} on {before:o}");
            let json = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<ModeChange>(&json).unwrap(), change);
        }
    }

    #[test]
    fn invalid_modes_are_rejected() {
        for text in ["", "8", "10000", "755x", "u", "u=rwz", "rwx", "u=r,,g=r", "=,"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
