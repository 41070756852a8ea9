//! Tokens that this server issues (the docker token protocol), for clients that send passwords only to a token
//! endpoint.
//!
//! ```text
//! GET /v2/…                      401  WWW-Authenticate: Bearer realm="https://HOST/v2/token",service="…",scope="…"
//! GET /v2/token?scope=…          200  {"token":"…"}             with Basic credentials, or without any
//! GET /v2/…  Bearer TOKEN        200
//! ```
//!
//! A token is a JSON Web Token (RFC 7519). It has the user name, which is empty for anonymous callers, and the granted scopes.
//! It is signed with HMAC-SHA-256 and a key that the server makes, or with [`TokenKeys`].
//!
//! # Invariants
//! - A server accepts tokens of one way of signing: the header `alg` is compared, and never selects an algorithm.
//! - The server stores the key that it makes in a file that only its owner can read, so a token stays valid after a
//!   restart and on every server of the same folder. Servers with a database of their own take the key from there. Without
//!   either, the key is lost when the process ends.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::Scope;
use super::issuers::External;
use super::scope::Access;
use super::token_keys::TokenKeys;

/// How long a token is valid, in seconds. It is checked only at the beginning of a request, so an upload may take
/// longer.
const LIFETIME: i64 = 300;
/// How long a token is valid at least, in seconds.
const LEAST_LIFETIME: i64 = 60;
/// The largest difference between the clocks of two servers on one folder, in seconds.
const LEEWAY: i64 = 60;
/// The most scopes of one token: it has to fit into a header.
pub(crate) const MAX_SCOPES: usize = 32;
/// The longest token that is accepted, in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// The age at which a temporary file of a key is abandoned.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(60 * 60);

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    /// The user; empty for an anonymous caller.
    pub(crate) sub: String,
    aud: String,
    /// The id of the API token that it was issued for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_token: Option<String>,
    /// What is known of a user of another issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) external: Option<External>,
    /// Of a user of the directory: the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<BTreeSet<String>>,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
    /// Tells tokens apart, for others who verify them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    access: Vec<Access>,
}

impl Claims {
    /// The scopes that the token grants.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.access.iter().filter_map(Access::scope)
    }
}

/// A token, with its lifetime and the time when it was issued.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires_in: i64,
    pub(crate) issued_at: String,
}

/// Whom a token is issued to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holder<'a> {
    /// The name of the user; empty for an anonymous caller.
    pub(super) user: &'a str,
    /// The id of the API token or refresh token that it is issued for.
    pub(super) api_token: Option<&'a str>,
    /// What is known of a user of another issuer.
    pub(super) external: Option<&'a External>,
    /// Of a user of the directory: the groups.
    pub(super) directory: Option<&'a BTreeSet<String>>,
    /// When the token of that issuer expires, in seconds since 1970.
    pub(super) until: Option<i64>,
}

/// Issues and verifies tokens.
pub(crate) struct Issuer {
    signer: Signer,
    service: String,
}

/// How tokens are signed.
enum Signer {
    /// With a secret of the servers of this registry.
    Secret(Hmac<Sha256>),
    /// With keys whose public part others have.
    Keys(TokenKeys),
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Issuer {
    /// An issuer with the key of a file, which is created when it does not exist, or without a file with a new key.
    pub(crate) fn new(service: &str, key: Option<&Path>) -> Result<Self> {
        let key = match key {
            Some(path) => shared_key(path)?,
            None => random_key()?,
        };
        Self::with_key(service, &key)
    }

    /// An issuer with this key.
    pub(crate) fn with_key(service: &str, key: &[u8]) -> Result<Self> {
        let mac = Hmac::new_from_slice(key)
            .map_err(|e| Error::internal("the key of tokens has a wrong length").with_source(e))?;
        Ok(Self { signer: Signer::Secret(mac), service: service.to_owned() })
    }

    /// An issuer with keys whose public part others may have.
    pub(crate) fn with_keys(service: &str, keys: TokenKeys) -> Self {
        Self { signer: Signer::Keys(keys), service: service.to_owned() }
    }

    /// The keys whose public part others may have.
    pub(crate) fn keys(&self) -> Option<&TokenKeys> {
        match &self.signer {
            Signer::Secret(_) => None,
            Signer::Keys(keys) => Some(keys),
        }
    }

    /// Keys for another purpose, which are made from those that sign: the first is for what begins now. All servers that accept the
    /// tokens of one another have them.
    pub(super) fn derived(&self, purpose: &str) -> Vec<[u8; 32]> {
        match &self.signer {
            Signer::Keys(keys) => keys.derived(purpose),
            // What is signed otherwise has no white space.
            Signer::Secret(mac) => vec![mac.clone().chain_update(purpose).finalize().into_bytes().into()],
        }
    }

    /// Issues a token. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when the scopes are more than a header can have.
    pub(super) fn issue(&self, to: Holder<'_>, scopes: &[Scope], now: i64) -> Result<Issued> {
        // Clients take a shorter time for a minute.
        let lifetime =
            to.until.map_or(LIFETIME, |until| until.saturating_sub(now).clamp(LEAST_LIFETIME, LIFETIME));
        let claims = Claims {
            iss: self.service.clone(),
            sub: to.user.to_owned(),
            aud: self.service.clone(),
            api_token: to.api_token.map(str::to_owned),
            external: to.external.cloned(),
            directory: to.directory.cloned(),
            iat: now,
            nbf: Some(now),
            exp: now + lifetime,
            jti: Some(random_id()?),
            access: scopes.iter().filter_map(Access::of).collect(),
        };
        let claims = serde_json::to_vec(&claims)
            .map_err(|e| Error::internal("a token cannot be written").with_source(e))?;
        let token = match &self.signer {
            Signer::Keys(keys) => keys.sign(&claims)?,
            Signer::Secret(mac) => {
                let mut token =
                    format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
                let signature = mac.clone().chain_update(&token).finalize().into_bytes();
                token.push('.');
                URL_SAFE_NO_PAD.encode_string(signature, &mut token);
                token
            }
        };
        if token.len() > MAX_LENGTH {
            return Err(Error::invalid("the token would be too long for a header: ask for fewer scopes"));
        }
        Ok(Issued { token, expires_in: lifetime, issued_at: rfc3339(now) })
    }

    /// The claims of a token; `None` when the token is forged, or not valid at the time `now`.
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        if token.len() > MAX_LENGTH {
            return None;
        }
        let claims = match &self.signer {
            Signer::Keys(keys) => keys.verify(token)?,
            Signer::Secret(mac) => {
                let (signed, signature) = token.rsplit_once('.')?;
                let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
                mac.clone().chain_update(signed).verify_slice(&signature).ok()?;
                let (header, claims) = signed.split_once('.')?;
                if URL_SAFE_NO_PAD.decode(header).ok()? != HEADER.as_bytes() {
                    return None;
                }
                URL_SAFE_NO_PAD.decode(claims).ok()?
            }
        };
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        let begins = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
        let holds = begins.saturating_sub(LEEWAY) <= now && now < claims.exp;
        (holds && claims.aud == self.service && claims.iss == self.service).then_some(claims)
    }
}

/// 128 random bits.
fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    super::fill_random(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

type Key = [u8; 32];

fn random_key() -> Result<Key> {
    let mut key = [0; 32];
    super::fill_random(&mut key)?;
    Ok(key)
}

/// The key that all servers on a folder share. A key that is damaged, or that other users can read, is replaced. Only
/// the tokens of the last minutes become invalid by that.
fn shared_key(path: &Path) -> Result<Key> {
    match read_key(path)? {
        Some(key) => return Ok(key),
        None => {
            let key = random_key()?;
            match write_key(path, &key) {
                Ok(()) => {}
                // On a read-only file system there is no other server to share the key with.
                Err(e) if is_ignorable(&e) => {
                    tracing::warn!(path = %path.display(), error = %e, "the key of tokens is not stored");
                    return Ok(key);
                }
                Err(e) => return Err(e).at("cannot write the key of tokens", path),
            }
        }
    }
    // Another server may have written its key first. The key in the file is the valid one.
    read_key(path)?.ok_or_else(|| Error::internal("the key of tokens was removed while the server started"))
}

fn read_key(path: &Path) -> Result<Option<Key>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).at("cannot read the key of tokens", path),
    };
    let mode = file.metadata().at("cannot read the key of tokens", path)?.mode();
    let mut key = [0; 32];
    let whole = file.read_exact(&mut key).is_ok();
    if whole && mode & 0o077 == 0 {
        return Ok(Some(key));
    }
    tracing::warn!(path = %path.display(), "the key of tokens was damaged, or other users could read it: it is replaced by a new key");
    match fs::remove_file(path) {
        Err(e) if !is_ignorable(&e) => Err(e).at("cannot replace the key of tokens", path),
        _ => Ok(None),
    }
}

/// Whether the server can run without the file after this failure to write it.
fn is_ignorable(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(e.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded)
}

/// Writes a key atomically to a file that no other user can read. Does nothing when the file exists.
fn write_key(path: &Path, key: &Key) -> std::io::Result<()> {
    let (stem, folder) = (path.file_stem().unwrap_or_default().to_string_lossy(), path.parent());
    // A server that was killed may have left temporary files.
    hyper_sdk::stale_files::remove(folder.unwrap_or(Path::new(".")), ABANDONED, |name| {
        let id = name.strip_prefix(&*stem).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".new"));
        id.is_some_and(|id| hyper_sdk::store::UploadId::parse(id).is_ok())
    });
    let name = hyper_sdk::store::UploadId::random().map_err(std::io::Error::from)?;
    let temporary = path.with_extension(format!("{name}.new"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(key)?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    })();
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => written.and(Err(e)),
        _ => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn alice() -> Holder<'static> {
        Holder { user: "alice", ..Holder::default() }
    }

    fn issuer() -> Issuer {
        Issuer::new("s", None).unwrap()
    }

    #[test]
    fn a_token_grants_what_it_says_until_it_expires() {
        let issuer = issuer();
        let scopes: [Scope; 1] = ["repository:a/b:pull,push".parse().unwrap()];
        let issued = issuer.issue(alice(), &scopes, 1000).unwrap();
        let claims = issuer.verify(&issued.token, 1000).unwrap();
        assert_eq!(claims.sub, "alice");
        assert_eq!(claims.scopes().collect::<Vec<_>>(), scopes);
        assert!(issuer.verify(&issued.token, 1000 + LIFETIME - 1).is_some());
        assert!(issuer.verify(&issued.token, 1000 + LIFETIME).is_none());
        assert!(issuer.verify(&issued.token, 1000 - LEEWAY - 1).is_none());
    }

    #[test]
    fn a_token_ends_soon_after_what_it_was_issued_for_and_fits_into_a_header() {
        let issuer = issuer();
        let lifetime = |until| issuer.issue(Holder { until, ..alice() }, &[], 1000).unwrap().expires_in;
        assert_eq!(
            [None, Some(1200), Some(1010), Some(0), Some(i64::MAX)].map(lifetime),
            [300, 200, 60, 60, 300]
        );
        let scope = format!("repository:{}:pull,push,delete", "a/".repeat(120) + "a");
        let scopes = vec![scope.parse::<Scope>().unwrap(); 60];
        let e = issuer.issue(alice(), &scopes, 1000).unwrap_err();
        assert_eq!(e.kind(), hyper_sdk::ErrorKind::Invalid);
        assert!(issuer.issue(alice(), &scopes[..MAX_SCOPES], 1000).is_ok());
    }

    #[test]
    fn a_forged_token_is_invalid() {
        let issuer = issuer();
        let good = issuer.issue(alice(), &[], 1000).unwrap().token;
        let parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let other = URL_SAFE_NO_PAD.encode(claims.replace("alice", "admin"));
        for bad in [
            String::new(),
            "a.b.c".to_owned(),
            format!("{}.{}", parts[0], parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{other}.{}", parts[0], parts[2]),
            format!("{good}="),
            format!("{good}x"),
            good.repeat(200),
        ] {
            assert!(issuer.verify(&bad, 1000).is_none(), "{bad}");
        }
        assert!(self::issuer().verify(&good, 1000).is_none(), "another key");
    }

    #[test]
    fn a_token_of_one_way_of_signing_is_refused_by_the_other() {
        use crate::auth::{TokenAlgorithm, new_token_key};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, new_token_key(TokenAlgorithm::Es256).unwrap().0.expose()).unwrap();
        let (secret, keys) = (issuer(), Issuer::with_keys("s", TokenKeys::open(&[&path]).unwrap()));
        let scopes: [Scope; 1] = ["repository:a/b:pull,push".parse().unwrap()];
        let of_secret = secret.issue(alice(), &scopes, 1000).unwrap().token;
        let of_keys = keys.issue(alice(), &scopes, 1000).unwrap().token;
        assert!(secret.verify(&of_keys, 1000).is_none() && keys.verify(&of_secret, 1000).is_none());
        let claims = keys.verify(&of_keys, 1000).unwrap();
        assert_eq!(claims.scopes().collect::<Vec<_>>(), scopes);
        assert!(keys.verify(&of_keys, 1000 + LIFETIME).is_none());
        assert!(keys.verify(&of_keys, 1000 - LEEWAY - 1).is_none());
        let other = Issuer::with_keys("other", TokenKeys::open(&[&path]).unwrap());
        assert!(other.verify(&of_keys, 1000).is_none(), "a token of another registry");
        assert!(keys.verify(&of_keys.repeat(100), 1000).is_none());
    }

    #[test]
    fn servers_share_a_key_through_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        let left = dir.path().join("token.0123456789abcdef0123456789abcdef.new");
        fs::write(&left, "a killed server left this").unwrap();
        let old = std::time::SystemTime::now() - 2 * ABANDONED;
        File::options().write(true).open(&left).unwrap().set_modified(old).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || Issuer::new("s", Some(&path)).unwrap())
            })
            .collect();
        let issuers: Vec<Issuer> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let token = issuers[0].issue(alice(), &[], 1000).unwrap().token;
        assert!(issuers.iter().all(|issuer| issuer.verify(&token, 1000).is_some()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let again = Issuer::new("s", Some(&path)).unwrap();
        assert!(again.verify(&token, 1000).is_none(), "a key that others could read is not used");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        Issuer::new("s", Some(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 32);
    }
}
