//! The messages of LDAP that a login needs (RFC 4511): bind, search and StartTLS.
//!
//! ```text
//! SEQUENCE { number, operation, controls }
//! ```
//!
//! # Invariants
//! - What a directory sends is read level by level within the message, whose size the connection bounds; what is damaged is
//!   `None`, and nothing of it is trusted to have a form.

use super::ber::{Reader, element, number};

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// The name of the operation StartTLS (RFC 4511, section 4.14).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
/// The most characters of the explanation of a directory that are kept.
const MAX_EXPLANATION: usize = 200;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) code: u32,
    /// What the directory says of it, for the log.
    pub(super) explanation: String,
}

impl Outcome {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const SIZE_LIMIT: u32 = 4;
    pub(super) const NO_SUCH_OBJECT: u32 = 32;

    /// Whether a bind failed because of its name and password: they are wrong, or the account may not log in.
    pub(super) fn refuses_login(&self) -> bool {
        // constraintViolation, noSuchObject, inappropriateAuthentication, invalidCredentials, insufficientAccessRights,
        // unwillingToPerform.
        matches!(self.code, 19 | Self::NO_SUCH_OBJECT | 48 | 49 | 50 | 53)
    }
}

/// An entry that a search has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dn: String,
    pub(super) attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    /// The values of an attribute, whose name is compared without case and without options.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let is_it =
            move |found: &str| found.split(';').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        let found = self.attributes.iter().filter(move |(found, _)| is_it(found));
        found.flat_map(|(_, values)| values.iter().map(Vec::as_slice))
    }
}

/// What a directory sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Bound(Outcome),
    Found(Entry),
    /// Where else to look, which nobody does.
    Elsewhere,
    Searched(Outcome),
    Extended(Outcome),
}

/// Where a search looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// At the entry itself.
    Entry = 0,
    /// At the entries directly below.
    Children = 1,
    /// At the entry and all below.
    Tree = 2,
}

/// A search.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    /// As [`super::filter::Filter::encode`] makes it.
    pub(super) filter: Vec<u8>,
    pub(super) attributes: &'a [&'a str],
    /// The most entries.
    pub(super) most: u32,
}

/// A request to bind with a name and a password (RFC 4511, section 4.2).
pub(super) fn bind(id: u32, dn: &str, password: &str) -> Vec<u8> {
    let content =
        [number(INTEGER, 3), element(OCTETS, dn.as_bytes()), element(0x80, password.as_bytes())].concat();
    message(id, &element(0x60, &content))
}

/// A request to search (RFC 4511, section 4.5). Aliases are not followed.
pub(super) fn search(id: u32, search: &Search<'_>, seconds: u32) -> Vec<u8> {
    let attributes: Vec<u8> =
        search.attributes.iter().flat_map(|name| element(OCTETS, name.as_bytes())).collect();
    let content = [
        element(OCTETS, search.base.as_bytes()),
        number(ENUMERATED, search.scope as u32),
        number(ENUMERATED, 0),
        number(INTEGER, search.most),
        number(INTEGER, seconds),
        element(0x01, &[0]),
        search.filter.clone(),
        element(SEQUENCE, &attributes),
    ];
    message(id, &element(0x63, &content.concat()))
}

/// A request to begin TLS.
pub(super) fn start_tls(id: u32) -> Vec<u8> {
    message(id, &element(0x77, &element(0x80, START_TLS)))
}

/// What ends a connection (RFC 4511, section 4.3).
pub(super) fn unbind(id: u32) -> Vec<u8> {
    message(id, &element(0x42, &[]))
}

fn message(id: u32, operation: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[&number(INTEGER, id), operation].concat())
}

/// Reads the content of a message: the number of its request, which is 0 when the directory speaks by itself, and what it says;
/// `None` for what is damaged, or nothing that was asked for.
pub(super) fn read(content: &[u8]) -> Option<(u32, Answer)> {
    let mut reader = Reader(content);
    let id = reader.number(INTEGER)?;
    let (tag, content) = reader.next()?;
    let answer = match tag {
        0x61 => Answer::Bound(outcome(content)?),
        0x64 => Answer::Found(entry(content)?),
        0x65 => Answer::Searched(outcome(content)?),
        0x73 => Answer::Elsewhere,
        0x78 => Answer::Extended(outcome(content)?),
        _ => return None,
    };
    Some((id, answer))
}

fn outcome(content: &[u8]) -> Option<Outcome> {
    let mut reader = Reader(content);
    let code = reader.number(ENUMERATED)?;
    reader.expect(OCTETS)?;
    let text = String::from_utf8_lossy(reader.expect(OCTETS)?);
    let explanation = text.chars().take(MAX_EXPLANATION).collect::<String>().escape_debug().to_string();
    Some(Outcome { code, explanation })
}

fn entry(content: &[u8]) -> Option<Entry> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let mut reader = Reader(content);
    let dn = text(reader.expect(OCTETS)?)?;
    let (mut list, mut attributes) = (Reader(reader.expect(SEQUENCE)?), Vec::new());
    while !list.is_empty() {
        let mut attribute = Reader(list.expect(SEQUENCE)?);
        let name = text(attribute.expect(OCTETS)?)?;
        let (mut set, mut values) = (Reader(attribute.expect(SET)?), Vec::new());
        while !set.is_empty() {
            values.push(set.expect(OCTETS)?.to_vec());
        }
        attributes.push((name, values));
    }
    Some(Entry { dn, attributes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_have_the_form_of_the_protocol() {
        assert_eq!(bind(1, "cn=a", "pw"), b"\x30\x12\x02\x01\x01\x60\x0d\x02\x01\x03\x04\x04cn=a\x80\x02pw");
        assert_eq!(start_tls(1)[..9], *b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16");
        assert_eq!(unbind(3), b"\x30\x05\x02\x01\x03\x42\x00");
        let asked = Search {
            base: "dc=x",
            scope: Scope::Tree,
            filter: b"\x87\x01a".to_vec(),
            attributes: &["uid"],
            most: 2,
        };
        assert_eq!(
            search(2, &asked, 5),
            b"\x30\x24\x02\x01\x02\x63\x1f\x04\x04dc=x\x0a\x01\x02\x0a\x01\x00\x02\x01\x02\x02\x01\x05\x01\x01\x00\x87\x01a\x30\x05\x04\x03uid"
        );
    }

    #[test]
    fn answers_are_read() {
        let bound = b"\x02\x01\x01\x61\x0a\x0a\x01\x31\x04\x00\x04\x03no\n";
        let outcome = Outcome { code: 49, explanation: "no\\n".to_owned() };
        assert!(outcome.refuses_login());
        assert_eq!(read(bound), Some((1, Answer::Bound(outcome))));
        let found = b"\x02\x01\x02\x64\x17\x04\x04cn=a\x30\x0f\x30\x0d\x04\x03Uid\x31\x06\x04\x01a\x04\x01b";
        let Some((2, Answer::Found(entry))) = read(found) else { panic!("no entry") };
        assert_eq!(
            (entry.dn.as_str(), entry.values("uid").collect::<Vec<_>>()),
            ("cn=a", vec![&b"a"[..], b"b"])
        );
        assert_eq!(entry.values("cn").count(), 0);
        for cut in 0..found.len() {
            assert!(read(&found[..cut]).is_none(), "{cut}");
        }
        assert!(read(b"\x02\x01\x01\x7f\x00").is_none());
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_refused(bytes: Vec<u8>, tag in prop_oneof![Just(0x61u8), Just(0x64), Just(0x65), Just(0x78)]) {
            let _ = read(&bytes);
            let _ = read(&[number(INTEGER, 1), element(tag, &bytes)].concat());
        }
    }
}
