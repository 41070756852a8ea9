//! `--chown` and `--chmod`: who owns what is copied, and how its mode changes.

use crate::{Error, Result};

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, looked up in the root file system of the destination.
    Name(String),
}

impl Principal {
    fn parse(text: &str) -> Self {
        match text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok()) {
            Some(id) => Self::Id(id),
            None => Self::Name(text.to_owned()),
        }
    }
}

/// The parsed value of `--chown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user.
    pub user: Principal,
    /// The group; without one the user's number is the group's number (a name's primary group).
    pub group: Option<Principal>,
}

impl Owner {
    /// Parses `USER[:GROUP]`; an empty user or group is number zero.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the value is empty.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("`--chown` needs a user"));
        }
        let principal = |part: &str| if part.is_empty() { Principal::Id(0) } else { Principal::parse(part) };
        Ok(match text.split_once(':') {
            Some((user, group)) => Self { user: principal(user), group: Some(principal(group)) },
            None => Self { user: principal(text), group: None },
        })
    }
}

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// What "all" stands for: the nine permissions and both set-id bits.
const ALL: u32 = SET_UID | SET_GID | 0o777;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operator {
    Add,
    Remove,
    Assign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operand {
    /// These bits.
    Bits(u32),
    /// Execution, for folders and for what anybody may execute already.
    ExecuteIfAny,
    /// The permissions that a class has now: its three bits lie this far to the left.
    CopyOf(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Change {
    /// The bits that may change.
    who: u32,
    operator: Operator,
    operand: Operand,
}

/// The parsed value of `--chmod`: an octal mode, or changes such as `u=rwX,go=rX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chmod(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Octal(u32),
    Symbolic(Vec<Change>),
}

impl Chmod {
    /// Parses an octal mode up to `07777`, or a comma-separated list of `[ugoa]*([-+=][rwxXstugo]*)+`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8)
                .ok()
                .filter(|m| *m <= 0o7777)
                .map(|m| Self(Kind::Octal(m)))
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "invalid `--chmod` value `{text}`: an octal mode lies between 0 and 07777"
                    ))
                });
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes)
                .ok_or_else(|| Error::invalid(format!("invalid `--chmod` value `{text}`")))?;
        }
        Ok(Self(Kind::Symbolic(changes)))
    }

    /// The mode when it does not depend on the mode before.
    pub fn fixed(&self) -> Option<u32> {
        match self.0 {
            Kind::Octal(mode) => Some(mode),
            Kind::Symbolic(_) => None,
        }
    }

    /// The new mode (twelve bits) of a file or folder of a mode.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let before = mode & 0o7777;
        let changes = match &self.0 {
            Kind::Octal(mode) => return *mode,
            Kind::Symbolic(changes) => changes,
        };
        let mut now = before;
        for Change { who, operator, operand } in changes {
            let (bits, cleared) = match operand {
                Operand::Bits(bits) => (*bits, ALL | who),
                Operand::ExecuteIfAny if is_dir || before & 0o111 != 0 => (0o111, 0),
                Operand::ExecuteIfAny => (0, 0),
                Operand::CopyOf(shift) => (((now >> shift) & 0o7) * 0o111, 0o777),
            };
            now = match operator {
                Operator::Add => now | (bits & who),
                Operator::Remove => now & !(bits & who),
                Operator::Assign => (now & !(cleared & who)) | (bits & who),
            };
        }
        now
    }
}

/// Parses one clause into the changes that it makes, in order.
fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let classes = clause.len() - clause.trim_start_matches(['u', 'g', 'o', 'a']).len();
    let mut named = 0;
    for class in clause[..classes].chars() {
        named |= match class {
            'u' => SET_UID | 0o700,
            'g' => SET_GID | 0o070,
            'o' => 0o007,
            _ => ALL,
        };
    }
    // The set-id bits and the sticky bit mean nothing to others alone.
    let special = named == 0 || named & !0o007 != 0;
    let base = if named == 0 { ALL } else { named };
    let mut chars = clause[classes..].chars().peekable();
    chars.peek()?;
    while let Some(operator) = chars.next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Assign,
            _ => return None,
        };
        let (mut who, mut bits, mut execute_if_any) = (base, 0, false);
        let mut assigned = operator != Operator::Assign;
        while let Some(c) = chars.next_if(|c| !matches!(c, '+' | '-' | '=')) {
            match c {
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= 0o111,
                'X' if operator == Operator::Remove => bits |= 0o111,
                'X' => execute_if_any = true,
                's' if special => bits |= SET_UID | SET_GID,
                't' if special => {
                    bits |= STICKY;
                    who |= STICKY;
                }
                's' | 't' => {}
                'u' | 'g' | 'o' => {
                    if bits != 0 {
                        changes.push(Change { who, operator, operand: Operand::Bits(bits) });
                        bits = 0;
                    }
                    assigned = true;
                    if std::mem::take(&mut execute_if_any) {
                        changes.push(Change { who, operator: Operator::Add, operand: Operand::ExecuteIfAny });
                    }
                    let shift = match c {
                        'u' => 6,
                        'g' => 3,
                        _ => 0,
                    };
                    changes.push(Change { who, operator, operand: Operand::CopyOf(shift) });
                }
                _ => return None,
            }
        }
        if bits != 0 || !assigned {
            changes.push(Change { who, operator, operand: Operand::Bits(bits) });
        }
        if execute_if_any {
            changes.push(Change { who, operator: Operator::Add, operand: Operand::ExecuteIfAny });
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(text: &str, mode: u32, is_dir: bool) -> u32 {
        Chmod::parse(text).unwrap().apply(mode, is_dir)
    }

    #[test]
    fn octal_modes_replace_everything() {
        assert_eq!(apply("0755", 0o4600, false), 0o755);
        assert_eq!(Chmod::parse("644").unwrap().fixed(), Some(0o644));
        for bad in ["", "8", "10000", "0x1", "u", "u=rwx,", "u~r", "z=r", "=7", "rwx", ",u=r"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn symbolic_modes_change_what_they_name() {
        assert_eq!(apply("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(apply("u=rwX,go=rX", 0o600, true), 0o755);
        assert_eq!(apply("u=rwX,go=rX", 0o701, false), 0o755);
        assert_eq!(apply("go-w", 0o666, false), 0o644);
        assert_eq!(apply("+x", 0o644, false), 0o755);
        assert_eq!(apply("a=", 0o7777, false), 0o1000);
        assert_eq!(apply("g=u", 0o640, false), 0o660);
        assert_eq!(apply("go=u-w", 0o600, false), 0o644);
        assert_eq!(apply("u+s,+t", 0o755, false), 0o5755);
        assert_eq!(apply("o+s", 0o755, false), 0o755);
        assert_eq!(apply("u=,g+w", 0o4755, false), 0o075);
        assert_eq!(apply("-X", 0o755, false), 0o644);
        assert_eq!(apply("u-r+w", 0o400, false), 0o200);
    }

    #[test]
    fn owners_have_numbers_or_names() {
        let owner = |text: &str| Owner::parse(text).unwrap();
        assert_eq!(owner("1000"), Owner { user: Principal::Id(1000), group: None });
        assert_eq!(owner("me:5").group, Some(Principal::Id(5)));
        assert_eq!(owner("me:").group, Some(Principal::Id(0)));
        assert_eq!(owner(":wheel").user, Principal::Id(0));
        assert_eq!(owner("-1").user, Principal::Name("-1".into()));
        assert!(Owner::parse("").is_err());
    }
}
