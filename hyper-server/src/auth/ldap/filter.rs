//! Filters of a search (RFC 4515) with places for values, such as `(&(objectClass=person)(uid={user}))`.
//!
//! # Invariants
//! - A filter is parsed before there is a value: a value becomes one octet string of the parsed filter, and is never part of its
//!   text. So no user name changes what a filter means, whatever characters it has.
//! - A place stands for a whole comparison with `=`; there is none in the name of an attribute or beside `*`.

use super::ber::element;
use hyper_sdk::{Error, Result};

/// The longest filter, in bytes.
const MAX_FILTER: usize = 4096;
/// How deep parentheses may be.
const MAX_DEPTH: usize = 16;

/// A parsed filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter(Node);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    /// With the tag of its kind: equal, at least, at most or nearly.
    Compare(u8, String, Value),
    Present(String),
    /// The attribute, and the pieces between the `*`, of which the first and the last may be empty.
    Substrings(String, Vec<Vec<u8>>),
    Extensible {
        rule: Option<String>,
        attribute: Option<String>,
        with_dn: bool,
        value: Value,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(Vec<u8>),
    Place(Place),
}

/// What a filter has a place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The name of the user.
    User,
    /// The distinguished name of the user's entry.
    Dn,
}

/// What stands in the places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) user: &'a str,
    pub(super) dn: &'a str,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says where it is wrong.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { text: text.as_bytes(), at: 0 };
        let node = match text.len() {
            0..=MAX_FILTER => parser.filter(0),
            _ => Err("it is too long"),
        };
        match node {
            Ok(node) if parser.at == text.len() => Ok(Self(node)),
            Ok(_) => Err(parser.invalid("there is text after the filter")),
            Err(why) => Err(parser.invalid(why)),
        }
    }

    /// Whether it has a place for this, with a comparison that must be so or may be so.
    pub(super) fn has(&self, place: Place) -> bool {
        self.0.has(place)
    }

    /// The filter with these values, as a search has it (RFC 4511, section 4.5.1).
    pub(super) fn encode(&self, values: &Values<'_>) -> Vec<u8> {
        self.0.encode(values)
    }
}

impl Node {
    fn has(&self, place: Place) -> bool {
        match self {
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().any(|node| node.has(place)),
            // What the name must not be says of nobody who it is.
            Self::Not(_) | Self::Present(_) | Self::Substrings(..) => false,
            Self::Compare(_, _, value) | Self::Extensible { value, .. } => *value == Value::Place(place),
        }
    }

    fn encode(&self, values: &Values<'_>) -> Vec<u8> {
        let text = |text: &str| element(0x04, text.as_bytes());
        let all = |nodes: &[Self]| nodes.iter().flat_map(|node| node.encode(values)).collect::<Vec<u8>>();
        match self {
            Self::And(nodes) => element(0xa0, &all(nodes)),
            Self::Or(nodes) => element(0xa1, &all(nodes)),
            Self::Not(node) => element(0xa2, &node.encode(values)),
            Self::Compare(tag, attribute, value) => {
                element(*tag, &[text(attribute), element(0x04, value.bytes(values))].concat())
            }
            Self::Present(attribute) => element(0x87, attribute.as_bytes()),
            Self::Substrings(attribute, pieces) => {
                let last = pieces.len() - 1;
                let numbered = pieces.iter().enumerate().filter(|(_, piece)| !piece.is_empty());
                let pieces = numbered.flat_map(|(at, piece)| {
                    let tag = match at {
                        0 => 0x80,
                        _ if at == last => 0x82,
                        _ => 0x81,
                    };
                    element(tag, piece)
                });
                element(0xa4, &[text(attribute), element(0x30, &pieces.collect::<Vec<u8>>())].concat())
            }
            Self::Extensible { rule, attribute, with_dn, value } => {
                let mut content = Vec::new();
                rule.iter().for_each(|rule| content.extend(element(0x81, rule.as_bytes())));
                attribute.iter().for_each(|name| content.extend(element(0x82, name.as_bytes())));
                content.extend(element(0x83, value.bytes(values)));
                if *with_dn {
                    content.extend(element(0x84, &[0xff]));
                }
                element(0xa9, &content)
            }
        }
    }
}

impl Value {
    fn bytes<'a>(&'a self, values: &Values<'a>) -> &'a [u8] {
        match self {
            Self::Text(bytes) => bytes,
            Self::Place(Place::User) => values.user.as_bytes(),
            Self::Place(Place::Dn) => values.dn.as_bytes(),
        }
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

type Parsed<T> = std::result::Result<T, &'static str>;

impl Parser<'_> {
    fn invalid(&self, why: &str) -> Error {
        let shown = String::from_utf8_lossy(self.text);
        Error::invalid(format!(
            "the filter `{}` is not valid at character {}: {why}",
            shown.chars().take(200).collect::<String>().escape_debug(),
            self.at + 1
        ))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8, why: &'static str) -> Parsed<()> {
        match self.peek() == Some(byte) {
            true => {
                self.at += 1;
                Ok(())
            }
            false => Err(why),
        }
    }

    fn filter(&mut self, depth: usize) -> Parsed<Node> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep");
        }
        self.take(b'(', "a `(` is missing")?;
        let node = match self.peek() {
            Some(b'&') => Node::And(self.list(depth)?),
            Some(b'|') => Node::Or(self.list(depth)?),
            Some(b'!') => {
                self.at += 1;
                Node::Not(Box::new(self.filter(depth + 1)?))
            }
            _ => self.item()?,
        };
        self.take(b')', "a `)` is missing")?;
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Parsed<Vec<Node>> {
        self.at += 1;
        let mut nodes = Vec::new();
        while self.peek() == Some(b'(') {
            nodes.push(self.filter(depth + 1)?);
        }
        if nodes.is_empty() { Err("`&` and `|` need a filter in parentheses") } else { Ok(nodes) }
    }

    fn item(&mut self) -> Parsed<Node> {
        let attribute = self.name()?;
        match self.peek() {
            Some(b':') => return self.extensible(attribute),
            _ if attribute.is_empty() => return Err("the name of an attribute is missing"),
            _ => {}
        }
        let tag = match self.peek() {
            Some(b'=') => 0xa3,
            Some(b'>') => 0xa5,
            Some(b'<') => 0xa6,
            Some(b'~') => 0xa8,
            _ => return Err("a `=` is missing"),
        };
        if tag != 0xa3 {
            self.at += 1;
        }
        self.take(b'=', "a `=` is missing")?;
        if let Some(place) = self.place()? {
            return Ok(Node::Compare(tag, attribute, Value::Place(place)));
        }
        let mut pieces = self.pieces()?;
        match pieces.len() {
            1 => Ok(Node::Compare(tag, attribute, Value::Text(pieces.remove(0)))),
            _ if tag != 0xa3 => {
                Err("a `*` is not possible with this comparison: write `\\2a` for the character")
            }
            2 if pieces.iter().all(Vec::is_empty) => Ok(Node::Present(attribute)),
            count if pieces[1..count - 1].iter().any(Vec::is_empty) => Err("`**` is not possible"),
            _ => Ok(Node::Substrings(attribute, pieces)),
        }
    }

    /// `attribute:dn:rule:=value`, of which the attribute or the rule may be missing.
    fn extensible(&mut self, attribute: String) -> Parsed<Node> {
        let (mut rule, mut with_dn) = (None, false);
        self.at += 1;
        while self.peek() != Some(b'=') {
            match self.name()? {
                name if name.is_empty() => return Err("a matching rule is missing"),
                name if name == "dn" && !with_dn && rule.is_none() => with_dn = true,
                name if rule.is_none() => rule = Some(name),
                _ => return Err("there are two matching rules"),
            }
            self.take(b':', "a `:=` is missing")?;
        }
        self.at += 1;
        let attribute = Some(attribute).filter(|name| !name.is_empty());
        if attribute.is_none() && rule.is_none() {
            return Err("an attribute or a matching rule is missing");
        }
        let value = match self.place()? {
            Some(place) => Value::Place(place),
            None => match <[Vec<u8>; 1]>::try_from(self.pieces()?) {
                Ok([text]) => Value::Text(text),
                Err(_) => return Err("a `*` is not possible with a matching rule"),
            },
        };
        Ok(Node::Extensible { rule, attribute, with_dn, value })
    }

    /// The name of an attribute with its options, or of a rule.
    fn name(&mut self) -> Parsed<String> {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"-.;_".contains(b)).count();
        self.at += length;
        Ok(rest[..length].iter().copied().map(char::from).collect())
    }

    fn place(&mut self) -> Parsed<Option<Place>> {
        for (text, place) in [(&b"{user}"[..], Place::User), (b"{dn}", Place::Dn)] {
            if self.text[self.at..].starts_with(text) {
                self.at += text.len();
                return match self.peek() {
                    Some(b')') => Ok(Some(place)),
                    _ => Err("a place such as `{user}` is the whole value of a comparison"),
                };
            }
        }
        Ok(None)
    }

    /// The value up to its `)`, with `*` between the pieces.
    fn pieces(&mut self) -> Parsed<Vec<Vec<u8>>> {
        let mut pieces = vec![Vec::new()];
        loop {
            let byte = match self.peek() {
                None => return Err("a `)` is missing"),
                Some(b')') => return Ok(pieces),
                Some(b'(' | 0) => return Err("this character must be written as `\\28`, `\\29` or `\\00`"),
                Some(b'{' | b'}') => {
                    return Err("only `{user}` and `{dn}` are places: write a brace as `\\7b` or `\\7d`");
                }
                Some(b'*') => {
                    pieces.push(Vec::new());
                    self.at += 1;
                    continue;
                }
                Some(b'\\') => {
                    let hex =
                        self.text.get(self.at + 1..self.at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
                    let hex = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                    self.at += 2;
                    hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())
                        .ok_or("after `\\` there are two hexadecimal digits")?
                }
                Some(byte) => byte,
            };
            self.at += 1;
            pieces.last_mut().expect("there is a piece").push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ldap::ber::Reader;
    use proptest::prelude::*;

    fn encoded(filter: &str, user: &str) -> Vec<u8> {
        Filter::parse(filter).unwrap().encode(&Values { user, dn: "cn=d" })
    }

    #[test]
    fn filters_have_the_form_of_the_protocol() {
        assert_eq!(encoded("(uid={user})", "ab"), b"\xa3\x09\x04\x03uid\x04\x02ab");
        assert_eq!(encoded("(a>=1)", ""), b"\xa5\x06\x04\x01a\x04\x011");
        assert_eq!(encoded("(a<=1)", "")[0], 0xa6);
        assert_eq!(encoded("(a~=1)", "")[0], 0xa8);
        assert_eq!(encoded("(objectClass=*)", ""), b"\x87\x0bobjectClass");
        assert_eq!(encoded("(!(a=1))", ""), b"\xa2\x08\xa3\x06\x04\x01a\x04\x011");
        assert_eq!(encoded("(|(a=*)(b=*))", ""), b"\xa1\x06\x87\x01a\x87\x01b");
        assert_eq!(encoded("(a=x*y*z)", ""), b"\xa4\x0e\x04\x01a\x30\x09\x80\x01x\x81\x01y\x82\x01z");
        assert_eq!(encoded("(a=*y*)", ""), b"\xa4\x08\x04\x01a\x30\x03\x81\x01y");
        assert_eq!(encoded("(a=\\2a\\c3\\A9)", ""), b"\xa3\x08\x04\x01a\x04\x03*\xc3\xa9");
        assert_eq!(encoded("(member:1.2:={dn})", ""), b"\xa9\x13\x81\x031.2\x82\x06member\x83\x04cn=d");
        assert_eq!(encoded("(:dn:2.5:=a)", ""), b"\xa9\x0b\x81\x032.5\x83\x01a\x84\x01\xff");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (bad, part) in [
            ("", "character 1"),
            ("uid=a", "`(` is missing"),
            ("(uid=a", "`)` is missing"),
            ("(uid=a))", "after the filter"),
            ("(=a)", "attribute is missing"),
            ("(uid)", "`=` is missing"),
            ("(&)", "need a filter"),
            ("(&(a=b)(c)", "`=` is missing"),
            ("(uid={user}*)", "whole value"),
            ("(uid=x{user})", "only `{user}`"),
            ("({user}=a)", "attribute is missing"),
            ("(uid={mail})", "only `{user}`"),
            ("(uid=a(b)", "`\\28`"),
            ("(uid=\\2)", "hexadecimal"),
            ("(uid=\\+1)", "hexadecimal"),
            ("(a=x**y)", "`**`"),
            ("(a>=x*)", "`*` is not possible"),
            ("(:=a)", "is missing"),
            ("(a:b:c:=d)", "two matching rules"),
            ("(a:b:=*)", "`*` is not possible"),
        ] {
            let e = Filter::parse(bad).unwrap_err().to_string();
            assert!(e.contains(part), "{bad}: {e}");
        }
        assert!(Filter::parse(&format!("{}(a=b){}", "(!".repeat(17), ")".repeat(17))).is_err());
        assert!(Filter::parse(&format!("(a={})", "b".repeat(5000))).is_err());
    }

    #[test]
    fn a_place_that_does_not_name_the_user_does_not_count() {
        let has = |text: &str| Filter::parse(text).unwrap().has(Place::User);
        assert!(has("(uid={user})") && has("(&(a=b)(|(uid={user})(mail={user})))"));
        assert!(!has("(!(uid={user}))") && !has("(uid=*)") && !has("(uid={dn})"));
    }

    proptest! {
        /// Whatever a name is, the filter stays the comparison that it is.
        #[test]
        fn no_name_changes_a_filter(user in ".{0,60}") {
            let bytes = encoded("(&(objectClass=person)(uid={user}))", &user);
            let mut outer = Reader(&bytes);
            let mut all = Reader(outer.expect(0xa0).unwrap());
            prop_assert!(all.expect(0xa3).is_some());
            let mut item = Reader(all.expect(0xa3).unwrap());
            prop_assert_eq!(item.expect(4), Some(&b"uid"[..]));
            prop_assert_eq!(item.expect(4), Some(user.as_bytes()));
            prop_assert!(item.is_empty() && all.is_empty() && outer.is_empty());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}", parts in "[()&|!=*:{}a\\\\]{0,30}") {
            let _ = Filter::parse(&text);
            let _ = Filter::parse(&parts);
        }
    }
}
