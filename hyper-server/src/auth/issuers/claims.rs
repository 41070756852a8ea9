//! The claims of a token of an issuer: when it is valid, for whom, and who it is about.

use super::{External, Identity, IssuerOptions};
use crate::auth::is_unseen;
use crate::policy::has_value;
use hyper_sdk::{Error, Result, TextPattern};
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The largest difference between the clocks of the issuer and of this machine, in seconds.
const SKEW: i64 = 60;
/// The longest name of a user, in bytes.
const MAX_USER: usize = 512;
/// The most groups, and their bytes together.
const MAX_GROUPS: (usize, usize) = (200, 4 << 10);
/// The bytes of the other claims that a policy sees.
const MAX_CLAIMS: usize = 4 << 10;

/// The claims that every token must have (RFC 7519, section 4.1).
#[derive(Debug, Deserialize)]
pub(super) struct Standard {
    pub(super) iss: String,
    pub(super) sub: String,
    aud: Audience,
    exp: Number,
    nbf: Option<Number>,
    iat: Option<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Standard {
    /// Reads claims; `None` when one is missing or has another type.
    pub(super) fn parse(claims: &[u8]) -> Option<(Self, Map<String, Value>)> {
        Some((serde_json::from_slice(claims).ok()?, serde_json::from_slice(claims).ok()?))
    }

    /// When the token expires, in seconds since 1970.
    fn expires(&self) -> i64 {
        seconds(&self.exp)
    }

    /// Whether the token is for one of these audiences, and valid now.
    pub(super) fn check(&self, audience: &[String], now: i64) -> std::result::Result<(), &'static str> {
        let is_for = |one: &String| audience.contains(one);
        let is_for_us = match &self.aud {
            Audience::One(one) => is_for(one),
            Audience::Several(several) => several.iter().any(is_for),
        };
        let later = now.saturating_add(SKEW);
        match () {
            () if !is_for_us => Err("it is for another audience"),
            () if now.saturating_sub(SKEW) >= self.expires() => Err("it has expired"),
            () if self.nbf.as_ref().is_some_and(|nbf| seconds(nbf) > later) => Err("it is not valid yet"),
            () if self.iat.as_ref().is_some_and(|iat| seconds(iat) > later) => {
                Err("it was issued in the future")
            }
            () if self.sub.is_empty() => Err("its subject is empty"),
            () => Ok(()),
        }
    }
}

/// A time of a token, which may have a fraction.
fn seconds(number: &Number) -> i64 {
    number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64)
}

/// What the claims of a token must be, and what they say of its user.
#[derive(Debug)]
pub(super) struct Rules {
    require: Vec<(String, Vec<TextPattern>)>,
    user: Vec<Piece>,
    groups: Option<String>,
    claims: Vec<String>,
}

/// A piece of the name of a user.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Claim(String),
}

impl Rules {
    /// The rules of these options.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when the name of a user has no claim, or braces that do not fit.
    pub(super) fn new(options: &IssuerOptions) -> Result<Self> {
        let patterns = |texts: &Vec<String>| texts.iter().map(|text| TextPattern::new(text)).collect();
        Ok(Self {
            require: options.require.iter().map(|(claim, texts)| (claim.clone(), patterns(texts))).collect(),
            user: pieces(&options.user)?,
            groups: options.groups.clone(),
            claims: options.claims.clone(),
        })
    }

    /// Who a token is about, or why it is refused.
    pub(super) fn identity(
        &self,
        issuer: &str,
        standard: &Standard,
        all: &Map<String, Value>,
    ) -> std::result::Result<Identity, &'static str> {
        let is_so = |(claim, patterns): &(String, Vec<TextPattern>)| {
            all.get(claim).is_some_and(|value| patterns.iter().any(|pattern| has_value(value, pattern)))
        };
        if !self.require.iter().all(is_so) {
            return Err("a claim is not what is required");
        }
        let mut user = format!("{issuer}:");
        for piece in &self.user {
            match piece {
                Piece::Text(text) => user.push_str(text),
                Piece::Claim(claim) => match all.get(claim) {
                    Some(Value::String(text)) if !text.is_empty() => user.push_str(text),
                    Some(Value::Number(number)) => user.push_str(&number.to_string()),
                    _ => return Err("a claim of the name of the user is missing, or no text"),
                },
            }
        }
        if user.len() > MAX_USER || user.contains(is_unseen) {
            return Err(
                "the name of the user is too long, or has control characters or ones that turn the direction of text",
            );
        }
        let mut claims = BTreeMap::from([
            ("iss".to_owned(), Value::from(standard.iss.as_str())),
            ("sub".to_owned(), Value::from(standard.sub.as_str())),
        ]);
        for name in &self.claims {
            match all.get(name) {
                None | Some(Value::Null | Value::Object(_)) => {}
                Some(value) => drop(claims.insert(name.clone(), value.clone())),
            }
        }
        if serde_json::to_vec(&claims).map_or(usize::MAX, |bytes| bytes.len()) > MAX_CLAIMS {
            return Err("its claims are too large");
        }
        let external = External { issuer: issuer.to_owned(), groups: self.groups(all)?, claims };
        Ok(Identity { user, proof: external, expires: standard.expires() })
    }

    fn groups(&self, all: &Map<String, Value>) -> std::result::Result<BTreeSet<String>, &'static str> {
        let Some(value) = self.groups.as_ref().and_then(|claim| all.get(claim)) else {
            return Ok(BTreeSet::new());
        };
        let groups: Option<BTreeSet<String>> = match value {
            Value::String(one) => Some([one.clone()].into()),
            Value::Array(several) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let groups = groups.ok_or("its groups are not texts")?;
        let bytes: usize = groups.iter().map(String::len).sum();
        if groups.len() > MAX_GROUPS.0 || bytes > MAX_GROUPS.1 {
            return Err("it has too many groups");
        }
        Ok(groups)
    }
}

/// Reads the name of a user with claims in braces.
fn pieces(text: &str) -> Result<Vec<Piece>> {
    let invalid =
        || Error::invalid("`user` must be a text with a claim in braces, such as `{sub}` or `{repository}`");
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let (claim, after) = after.split_once('}').ok_or_else(invalid)?;
        if claim.is_empty() || claim.contains('{') {
            return Err(invalid());
        }
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Claim(claim.to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    pieces.retain(|piece| *piece != Piece::Text(String::new()));
    let is_stray = |piece: &Piece| matches!(piece, Piece::Text(text) if text.contains(['{', '}']) || text.contains(char::is_control));
    let has_claim = pieces.iter().any(|piece| matches!(piece, Piece::Claim(_)));
    match has_claim && !pieces.iter().any(is_stray) {
        true => Ok(pieces),
        false => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_700_000_000;

    fn token(more: Value) -> Value {
        let mut claims =
            json!({"iss": "https://i.example", "sub": "repo:acme/app", "aud": "us", "exp": NOW + 300});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn read(claims: &Value) -> Option<(Standard, Map<String, Value>)> {
        Standard::parse(claims.to_string().as_bytes())
    }

    #[test]
    fn a_token_is_for_its_audience_and_its_time() {
        let check =
            |more: Value| read(&token(more)).map(|(standard, _)| standard.check(&["us".to_owned()], NOW));
        for good in [
            json!({}),
            json!({"aud": ["them", "us"]}),
            json!({"exp": NOW - 59, "nbf": NOW + 60, "iat": NOW + 60}),
            json!({"exp": NOW as f64 + 0.5, "nbf": 0, "iat": 1.5}),
        ] {
            assert_eq!(check(good.clone()), Some(Ok(())), "{good}");
        }
        for (bad, why) in [
            (json!({"aud": "them"}), "audience"),
            (json!({"aud": []}), "audience"),
            (json!({"aud": "us "}), "audience"),
            (json!({"exp": NOW - 60}), "expired"),
            (json!({"exp": -1}), "expired"),
            (json!({"exp": 1e-300}), "expired"),
            (json!({"nbf": NOW + 61}), "not valid yet"),
            (json!({"iat": NOW + 61}), "future"),
            (json!({"sub": ""}), "subject"),
        ] {
            assert!(check(bad.clone()).unwrap().unwrap_err().contains(why), "{bad}");
        }
        for bad in [
            json!({"exp": null}),
            json!({"exp": "2099-01-01"}),
            json!({"aud": null}),
            json!({"aud": {"us": 1}}),
            json!({"sub": 7}),
            json!({"iss": ["https://i.example"]}),
            json!({"nbf": "x"}),
        ] {
            assert_eq!(check(bad.clone()), None, "{bad}");
        }
        assert!(
            Standard::parse(br#"{"iss":"a","iss":"b","sub":"s","aud":"us","exp":1}"#).is_none(),
            "two issuers"
        );
    }

    fn options() -> IssuerOptions {
        IssuerOptions {
            user: "{repository}@{run}".to_owned(),
            groups: Some("teams".to_owned()),
            claims: vec!["ref".to_owned(), "nested".to_owned()],
            require: [
                ("repository".to_owned(), vec!["acme/*".to_owned()]),
                ("ref".to_owned(), vec!["refs/heads/main".to_owned(), "refs/tags/*".to_owned()]),
            ]
            .into(),
            ..IssuerOptions::new("ci", "https://i.example", "us")
        }
    }

    #[test]
    fn claims_say_who_a_token_is_about() {
        let rules = Rules::new(&options()).unwrap();
        let identity = |more: Value| {
            let good = json!({"repository": "acme/app", "ref": "refs/tags/v1", "run": 7, "teams": ["b", "a"], "nested": {}});
            let mut claims = token(good);
            for (name, value) in more.as_object().unwrap() {
                claims[name] = value.clone();
            }
            let (standard, all) = read(&claims).unwrap();
            rules.identity("ci", &standard, &all)
        };
        let found = identity(json!({})).unwrap();
        assert_eq!((found.user.as_str(), found.expires), ("ci:acme/app@7", NOW + 300));
        let who = found.proof.principal(&found.user);
        assert_eq!(who.groups().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(who.claims().keys().collect::<Vec<_>>(), ["iss", "ref", "sub"]);
        assert_eq!(identity(json!({"teams": "one"})).unwrap().proof.groups.len(), 1);
        assert!(identity(json!({"teams": null})).is_err());
        for (bad, why) in [
            (json!({"repository": "evil/acme/app"}), "required"),
            (json!({"repository": "acme"}), "required"),
            (json!({"ref": "refs/heads/main2"}), "required"),
            (json!({"ref": null}), "required"),
            (json!({"ref": {"a": "refs/heads/main"}}), "required"),
            (json!({"run": true}), "name of the user"),
            (json!({"run": ""}), "name of the user"),
            (json!({"run": "a\nb"}), "control"),
            (json!({"run": "a\u{202e}b"}), "control"),
            (json!({"run": "x".repeat(600)}), "too long"),
            (json!({"teams": [1]}), "groups"),
            (json!({"teams": ["x".repeat(5000)]}), "groups"),
            (json!({"ref": ["refs/tags/x", "y".repeat(5000)]}), "claims"),
        ] {
            assert!(identity(bad.clone()).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn the_name_of_a_user_has_a_claim() {
        for good in ["{sub}", "{a}/{b}", "x{a}y"] {
            pieces(good).unwrap();
        }
        for bad in ["", "x", "{", "}", "{}", "{a", "a}", "{a}}", "{{a}}", "{a{b}}", "{a}\n"] {
            assert!(pieces(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_claims_are_read_or_refused(text in "\\PC{0,200}", exp in any::<f64>(), name in "\\PC{0,20}") {
            let _ = Standard::parse(text.as_bytes());
            let rules = Rules::new(&IssuerOptions { user: "{n}".to_owned(), ..options() }).unwrap();
            if let Some((standard, all)) = read(&token(json!({"exp": exp, "n": name, "repository": "acme/a", "ref": "refs/tags/a"}))) {
                let _ = standard.check(&["us".to_owned()], NOW);
                if let Ok(identity) = rules.identity("ci", &standard, &all) {
                    prop_assert!(identity.user.starts_with("ci:") && !identity.user.contains(char::is_control));
                }
            }
        }
    }
}
