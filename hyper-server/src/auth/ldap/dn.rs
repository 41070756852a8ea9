//! Distinguished names (RFC 4514): with a place for the name of a user, and those that a directory gives.
//!
//! # Invariants
//! - A user name becomes one value of one attribute: each of its bytes that is not a letter, a digit, `-` or `_` is written as
//!   `\XX`.

use hyper_sdk::{Error, Result};
use std::fmt::Write as _;

/// The longest name that is read, in bytes.
const MAX_DN: usize = 4096;
/// Where the name of the user stands.
const PLACE: &str = "{user}";
/// A user, to see where the name stands.
const SAMPLE: &str = "sample-0-user";

/// A name with one place for that of the user, such as `uid={user},ou=people,dc=example,dc=com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnTemplate {
    before: String,
    after: String,
}

impl DnTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when it has no place, or more than one, or is no distinguished name.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!(
                "`{}` must be a distinguished name with `{PLACE}` once, as a value or a part of one, such as `uid={PLACE},ou=people,dc=example,dc=com`",
                text.escape_debug()
            ))
        };
        let (before, after) = text.split_once(PLACE).ok_or_else(invalid)?;
        if after.contains(['{', '}']) || before.contains(['{', '}']) || before.ends_with('\\') {
            return Err(invalid());
        }
        let template = Self { before: before.to_owned(), after: after.to_owned() };
        // Not a part of the name of an attribute.
        let dn = Dn::parse(&template.of(SAMPLE)).ok_or_else(invalid)?;
        match dn.0.iter().flatten().any(|(_, value)| value.contains(SAMPLE)) {
            true => Ok(template),
            false => Err(invalid()),
        }
    }

    /// The name of the entry of a user.
    pub(super) fn of(&self, user: &str) -> String {
        let mut dn = self.before.clone();
        for byte in user.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => dn.push(char::from(byte)),
                _ => drop(write!(dn, "\\{byte:02x}")),
            }
        }
        dn + &self.after
    }
}

/// A distinguished name: its parts from the entry up to the root, each with attributes and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dn(Vec<Part>);

type Part = Vec<(String, String)>;

impl Dn {
    /// Reads a name; `None` when it is not one. Names of attributes become lower case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_DN {
            return None;
        }
        let mut parts = vec![Part::new()];
        let mut rest = text;
        loop {
            let (attribute, after) = rest.split_once('=')?;
            let attribute = attribute.trim().to_ascii_lowercase();
            if attribute.is_empty()
                || !attribute.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
            {
                return None;
            }
            let (value, separator, after) = value(after)?;
            parts.last_mut()?.push((attribute, value));
            rest = after;
            match separator {
                None => return Some(Self(parts)),
                Some('+') => {}
                Some(_) => parts.push(Part::new()),
            }
        }
    }

    /// Whether this is the name of an entry directly below another.
    pub(super) fn is_child_of(&self, parent: &Self) -> bool {
        let of = |parts: &[Part]| Self(parts.to_vec()).normal();
        self.0.len() == parent.0.len() + 1 && of(&self.0[1..]) == of(&parent.0)
    }

    /// The value of its first part, as it is written; `None` when that has several.
    pub(super) fn name(&self) -> Option<&str> {
        match self.0.first()?.as_slice() {
            [(_, value)] => Some(value),
            _ => None,
        }
    }

    /// The name in one of its many forms: lower case, without needless white space.
    pub(super) fn normal(&self) -> String {
        let value = |text: &str| {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
            let escape = |c: char| match c {
                '\0' => "\\00".to_owned(),
                ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => format!("\\{c}"),
                c => c.to_string(),
            };
            text.chars().map(escape).collect::<String>()
        };
        let part = |part: &Part| {
            let mut pairs: Vec<_> =
                part.iter().map(|(attribute, text)| format!("{attribute}={}", value(text))).collect();
            pairs.sort_unstable();
            pairs.join("+")
        };
        self.0.iter().map(part).collect::<Vec<_>>().join(",")
    }
}

/// A value, what ends it, and what follows.
fn value(text: &str) -> Option<(String, Option<char>, &str)> {
    let mut bytes = Vec::new();
    // White space at the end does not count unless it is escaped.
    let mut kept = 0;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            ',' | ';' | '+' => return Some((finish(bytes, kept)?, Some(c), &text[at + c.len_utf8()..])),
            '\\' => {
                let (_, escaped) = characters.next()?;
                match escaped.to_digit(16) {
                    Some(high) => {
                        let low = characters.next()?.1.to_digit(16)?;
                        bytes.push(u8::try_from(high * 16 + low).ok()?);
                    }
                    None if " \"#+,;<=>\\".contains(escaped) => bytes.push(escaped as u8),
                    None => return None,
                }
                kept = bytes.len();
            }
            '\0' | '"' => return None,
            ' ' if bytes.is_empty() => {}
            c => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                if c != ' ' {
                    kept = bytes.len();
                }
            }
        }
    }
    Some((finish(bytes, kept)?, None, ""))
}

fn finish(mut bytes: Vec<u8>, kept: usize) -> Option<String> {
    bytes.truncate(kept);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEOPLE: &str = "uid={user},ou=people,dc=example,dc=com";

    #[test]
    fn a_user_is_one_value() {
        let template = DnTemplate::parse(PEOPLE).unwrap();
        assert_eq!(template.of("ada-1"), "uid=ada-1,ou=people,dc=example,dc=com");
        assert_eq!(template.of("a,ou=x"), "uid=a\\2cou\\3dx,ou=people,dc=example,dc=com");
        assert_eq!(template.of("é "), "uid=\\c3\\a9\\20,ou=people,dc=example,dc=com");
        for good in ["{user}@example.com", "cn={user}", "cn=x {user} y,dc=a"] {
            assert_eq!(DnTemplate::parse(good).is_ok(), good.contains('='), "{good}");
        }
        for bad in [
            "",
            "uid=a",
            "{user}",
            "{user}=a",
            "{user}=sample,dc=x",
            "uid={user},cn={user}",
            "uid=\\{user}",
            "uid={user},",
            "uid={mail}",
            "uid={user},ou",
        ] {
            assert!(DnTemplate::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_compared_without_their_form() {
        let dn = |text: &str| Dn::parse(text).unwrap();
        assert_eq!(dn("CN=Dev Ops , OU=Groups,DC=x").normal(), "cn=dev ops,ou=groups,dc=x");
        assert_eq!(dn("a=1+B=2,c=3").normal(), dn("b=2 + a=1, c=3").normal());
        assert_eq!(dn("cn=a\\2cb\\+\\C3\\A9,dc=x").name(), Some("a,b+é"));
        assert_eq!(dn("cn=a\\ ,dc=x").name(), Some("a "));
        let base = dn("ou=Groups,dc=example");
        assert!(dn("cn=a,OU=groups,DC=example").is_child_of(&base));
        for other in [
            "ou=groups,dc=example",
            "cn=a,ou=sub,ou=groups,dc=example",
            "cn=a,ou=groups,dc=example,dc=com",
            "cn=a\\,ou\\=groups\\,dc\\=example",
            "cn=a\\,ou=groups,dc=example",
        ] {
            assert!(!dn(other).is_child_of(&base), "{other}");
        }
        assert!(!dn("cn=a\\,ou\\=groups,dc=example").is_child_of(&base), "an escaped comma ends no part");
        assert_eq!(dn("cn=a+uid=b,dc=x").name(), None);
        for bad in ["", "a", "a=b,", "=b", "a=\\", "a=\\zz", "a=\\4", "a=\"b\"", "a b=c", "a=\0", "a=\\ff"] {
            assert!(Dn::parse(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        /// Whatever a name is, it stays one value of the attribute of the template.
        #[test]
        fn no_name_leaves_its_value(user in ".{1,60}") {
            let dn = Dn::parse(&DnTemplate::parse(PEOPLE).unwrap().of(&user)).unwrap();
            prop_assert_eq!(dn.name(), Some(user.as_str()));
            prop_assert!(dn.is_child_of(&Dn::parse("ou=people,dc=example,dc=com").unwrap()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}", parts in "[a=,+\\\\ #\"0-9]{0,30}") {
            for text in [text, parts] {
                if let Some(dn) = Dn::parse(&text) {
                    prop_assert_eq!(Dn::parse(&dn.normal()).map(|dn| dn.normal()), Some(dn.normal()));
                }
                let _ = DnTemplate::parse(&text);
            }
        }
    }
}
