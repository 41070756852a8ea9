//! The text of an API token.
//!
//! ```text
//! hyr_ iiiiiiiiiiiiiiii ssssssssssssssssssssssssssssssssssssssss cccccccc
//!      id, 80 bits      secret, 200 bits                         checksum, 40 bits       a-z and 2-7, without spaces
//! ```
//!
//! The prefix and the checksum let scanners of secrets find tokens in files, and tell them from other texts. The id is no
//! secret. What a registry keeps is the SHA-256 of the whole text: a slow hash, as for passwords, would only cost time,
//! because nobody can guess a random secret of this length.

use super::Scope;
use super::issuers::{External, Identity};
use hyper_sdk::store::meta::TokenRecord;
use hyper_sdk::{Digest, Error, Result, Secret};
use sha2::{Digest as _, Sha256};
use std::fmt;

const PREFIX: &str = "hyr_";
/// Of a refresh token, which has the same form. As long as the other.
const REFRESH: &str = "hyf_";
/// The bytes of the id and of the secret, each a multiple of 5.
const ID: usize = 10;
const SECRET: usize = 25;
/// The bytes of the checksum.
const SUM: usize = 5;
/// Base32 (RFC 4648) in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

const ID_END: usize = PREFIX.len() + ID / 5 * 8;
const SUM_START: usize = ID_END + SECRET / 5 * 8;
const LENGTH: usize = SUM_START + SUM / 5 * 8;

/// Begins the entry among the scopes of the token of a login that says who has logged in, as JSON. It is no scope: a pattern of
/// repositories has no `=`.
const LOGIN: &str = "login=";
/// What such a token allows: all that its user may do.
const EVERYTHING: &str = "**:pull,push,delete";

/// The longest name of a user or of a token, in bytes.
const MAX_NAME: usize = 255;
/// The most scopes of a token.
const MAX_SCOPES: usize = 64;

/// An API token that is well-formed. Its text is never printed by `Debug`.
#[derive(Clone)]
pub(crate) struct ApiToken(Secret);

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiToken").field(&self.id()).finish()
    }
}

impl ApiToken {
    /// A new token.
    pub(crate) fn random() -> Result<Self> {
        Self::with_prefix(PREFIX, None)
    }

    /// A new refresh token.
    pub(super) fn random_refresh() -> Result<Self> {
        Self::with_prefix(REFRESH, None)
    }

    /// A new token, with a random id or one that is made from a text.
    fn with_prefix(prefix: &str, id_of: Option<&str>) -> Result<Self> {
        let mut bytes = [0; ID + SECRET];
        super::fill_random(&mut bytes)?;
        if let Some(text) = id_of {
            bytes[..ID].copy_from_slice(&Sha256::digest(text)[..ID]);
        }
        let mut text = prefix.to_owned();
        encode(&bytes, &mut text);
        let sum = checksum(&text);
        text.push_str(&sum);
        Ok(Self(text.into()))
    }

    /// Whether a text has the form of a token, whatever its checksum. Nobody has such a password by chance.
    pub(crate) fn is_like(text: &str) -> bool {
        begins_with(PREFIX, text)
    }

    /// Reads a token; `None` when it has another form or a wrong checksum.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::is_like(text).then(|| Self::whole(text))?
    }

    /// Reads a refresh token; `None` when it has another form or a wrong checksum.
    pub(super) fn parse_refresh(text: &str) -> Option<Self> {
        begins_with(REFRESH, text).then(|| Self::whole(text))?
    }

    fn whole(text: &str) -> Option<Self> {
        (checksum(&text[..SUM_START]) == text[SUM_START..]).then(|| Self(text.into()))
    }

    /// The text, to show it once.
    pub(super) fn into_text(self) -> Secret {
        self.0
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.expose()[PREFIX.len()..ID_END]
    }

    /// What is kept of it.
    pub(crate) fn hash(&self) -> Digest {
        Digest::sha256(self.0.expose())
    }
}

/// Makes an API token: its text, to show once, and what to keep of it. `scopes` are written as `PATTERN:ACTION,ACTION`, with a
/// pattern for repositories as in a policy and the actions pull, push and delete. Times are in seconds since 1970.
///
/// ```
/// use hyper_sdk::store::meta::{MemoryTokens, TokenStore as _};
/// use hyper_server::auth::api_token;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let tokens = MemoryTokens::default();
/// let (token, record) = api_token("ci", "nightly", &["team/**:pull,push"], 1_700_000_000, None)?;
/// tokens.add_token(&record).await?;
/// assert!(token.expose().starts_with("hyr_"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] when there is no scope, and when a scope or a name is not valid.
pub fn api_token(
    user: &str,
    name: &str,
    scopes: &[impl AsRef<str>],
    created: i64,
    expires: Option<i64>,
) -> Result<(Secret, TokenRecord)> {
    let is_bad = |text: &str| text.len() > MAX_NAME || text.contains(char::is_control);
    if user.is_empty() || user.contains(':') || is_bad(user) {
        return Err(Error::invalid("invalid user: 1 to 255 bytes, without `:` and control characters"));
    }
    if is_bad(name) {
        return Err(Error::invalid("invalid name of a token: at most 255 bytes, without control characters"));
    }
    if scopes.is_empty() || scopes.len() > MAX_SCOPES {
        return Err(Error::invalid(format!(
            "a token needs 1 to {MAX_SCOPES} scopes, such as `team/**:pull`"
        )));
    }
    let scopes: Vec<Scope> =
        scopes.iter().map(|text| Scope::of_pattern(text.as_ref())).collect::<Result<_>>()?;
    let token = ApiToken::random()?;
    let record = TokenRecord {
        id: token.id().to_owned(),
        hash: token.hash(),
        user: user.to_owned(),
        name: name.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        created,
        expires,
        used: None,
        bound_to: None,
    };
    Ok((token.0, record))
}

/// Makes the token of a login: its text, to show once, and what to keep of it. `times` are when it is made and when it expires.
/// There cannot be two for one `attempt`, as its id is made from that.
#[cfg_attr(not(feature = "issuers"), allow(dead_code, reason = "there are no logins"))]
pub(super) fn login_token(
    identity: &Identity,
    attempt: &str,
    times: (i64, i64),
    bound_to: Digest,
) -> Result<(Secret, TokenRecord)> {
    let who = serde_json::to_string(&identity.proof)
        .map_err(|e| Error::internal("a login cannot be written").with_source(e))?;
    let token = ApiToken::with_prefix(PREFIX, Some(attempt))?;
    let record = TokenRecord {
        id: token.id().to_owned(),
        hash: token.hash(),
        user: identity.user.clone(),
        name: "browser".to_owned(),
        scopes: vec![EVERYTHING.to_owned(), format!("{LOGIN}{who}")],
        created: times.0,
        expires: Some(times.1),
        used: None,
        bound_to: Some(bound_to),
    };
    Ok((token.0, record))
}

/// Whether an entry among the scopes of a token says who has logged in.
pub(crate) fn is_login_entry(text: &str) -> bool {
    text.starts_with(LOGIN)
}

/// Who has logged in, by the scopes of a token; `None` when it is not that of a login.
///
/// # Errors
/// The entry is one of another version, and nobody knows who it is about.
pub(super) fn login_of(scopes: &[String]) -> std::result::Result<Option<External>, ()> {
    match scopes.iter().find_map(|text| text.strip_prefix(LOGIN)) {
        Some(text) => serde_json::from_str(text).map(Some).map_err(|_| ()),
        None => Ok(None),
    }
}

/// Whether a text has the form of a token with this prefix.
fn begins_with(prefix: &str, text: &str) -> bool {
    text.len() == LENGTH
        && text.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|b| ALPHABET.contains(&b)))
}

fn checksum(text: &str) -> String {
    let mut sum = String::new();
    encode(&Sha256::digest(text)[..SUM], &mut sum);
    sum
}

/// Writes groups of 5 bytes as 8 characters.
fn encode(bytes: &[u8], text: &mut String) {
    for group in bytes.chunks(5) {
        let bits = group.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        text.extend((0..8).rev().map(|n| char::from(ALPHABET[((bits >> (5 * n)) & 31) as usize])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_random_and_has_a_checksum() {
        let [one, other] = [(); 2].map(|()| ApiToken::random().unwrap());
        assert_ne!(one.id(), other.id());
        let text = one.0.expose();
        assert_eq!((text.len(), one.id().len()), (68, 16));
        assert_eq!(ApiToken::parse(text).unwrap().hash(), Digest::sha256(text));
        for at in PREFIX.len()..LENGTH {
            let mut other = text.to_owned();
            let changed = if &text[at..=at] == "a" { "b" } else { "a" };
            other.replace_range(at..=at, changed);
            assert!(ApiToken::is_like(&other) && ApiToken::parse(&other).is_none(), "{at}");
        }
        for bad in
            ["", "hyr_", &text[1..], &text[..67], &text.to_uppercase(), &format!("{text}a"), &"é".repeat(34)]
        {
            assert!(!ApiToken::is_like(bad) && ApiToken::parse(bad).is_none(), "{bad}");
        }
        assert!(!format!("{one:?}").contains(&text[ID_END..SUM_START]));
    }

    #[test]
    fn a_refresh_token_is_no_api_token() {
        let (api, refresh) = (ApiToken::random().unwrap(), ApiToken::random_refresh().unwrap());
        let (api, refresh) = (api.0.expose(), refresh.0.expose());
        assert!(ApiToken::parse_refresh(refresh).is_some() && ApiToken::parse_refresh(api).is_none());
        assert!(ApiToken::parse(refresh).is_none() && !ApiToken::is_like(refresh));
        let swapped = refresh.replacen(REFRESH, PREFIX, 1);
        assert!(ApiToken::parse(&swapped).is_none(), "the checksum is also of the prefix");
    }

    #[test]
    fn an_entry_about_a_login_is_no_scope() {
        let text = r#"login={"issuer":"a","groups":["**:pull"]}"#;
        assert!(Scope::of_pattern(text).is_err() && Scope::of_pattern("login={}:pull").is_err());
        assert!(login_of(&[text.to_owned()]).unwrap().is_some());
        assert!(login_of(&["a:pull".to_owned()]).unwrap().is_none());
        assert!(login_of(&["login=7".to_owned()]).is_err());
    }

    #[test]
    fn groups_of_bytes_are_base32() {
        let mut text = String::new();
        encode(b"fooba", &mut text);
        encode(&[0xff; 5], &mut text);
        assert_eq!(text, "mzxw6ytb77777777");
    }

    #[test]
    fn a_new_token_has_a_user_and_scopes() {
        let make = |user: &str, name: &str, scopes: &[&str]| api_token(user, name, scopes, 1, None);
        let (token, record) = make("ci", "n", &["team/**:push,pull", "a:*"]).unwrap();
        assert_eq!(record.hash, Digest::sha256(token.expose()));
        assert_eq!(record.scopes, ["team/**:push,pull", "a:pull,push,delete"]);
        for (user, name, scopes) in [
            ("", "n", &["a:pull"][..]),
            ("a:b", "n", &["a:pull"]),
            ("a\n", "n", &["a:pull"]),
            ("a", "\u{1b}[2J", &["a:pull"]),
            ("a", &"x".repeat(256), &["a:pull"]),
            ("a", "n", &[]),
            ("a", "n", &["a:pull"; 65]),
            ("a", "n", &["a"]),
            ("a", "n", &["a:"]),
            ("a", "n", &["a:fly"]),
            ("a", "n", &["A:pull"]),
            ("a", "n", &["a**:pull"]),
            ("a", "n", &["registry:catalog:*"]),
        ] {
            assert_eq!(
                make(user, name, scopes).unwrap_err().kind(),
                hyper_sdk::ErrorKind::Invalid,
                "{user} {scopes:?}"
            );
        }
    }
}
