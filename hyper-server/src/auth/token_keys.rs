//! Keys of tokens that others can verify: ES256 or EdDSA, in files.
//!
//! ```text
//! files: first ── signs and verifies      key id: the thumbprint of the public key (RFC 7638)
//!        others ─ verify
//! ```
//!
//! # Invariants
//! - A set of keys is replaced as a whole: a file that cannot be used leaves the former set.
//! - The key of a token is found by its id, and verifies the algorithm of its own kind alone.
//! - No error and no line of the log has a byte of a private key.

use super::jose::{Algorithm, PublicKey, Unverified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, Result, ResultExt, Secret};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject as _};
use serde_json::{Value, json};
use sha2::Sha256;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

/// The largest file of a key.
const MAX_FILE: u64 = 64 << 10;
/// The most keys.
const MAX_KEYS: usize = 16;

/// How a key signs tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenAlgorithm {
    /// ECDSA with the curve P-256 (`ES256`), which every token server and registry knows.
    #[default]
    Es256,
    /// Ed25519 (`EdDSA`).
    EdDsa,
}

impl FromStr for TokenAlgorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "es256" => Ok(Self::Es256),
            "eddsa" => Ok(Self::EdDsa),
            _ => Err(Error::invalid(format!(
                "the algorithm `{}` is not supported: use es256 or eddsa",
                text.escape_debug()
            ))),
        }
    }
}

/// The keys with which a registry signs its tokens ([`crate::RegistryOptions::token_keys`]). Clones share them.
///
/// The first file signs; tokens of all are accepted. A new key is therefore first added at the end, at every server of the
/// registry, then moved to the front, and the old one removed when the last token of it has expired.
///
/// ```
/// use hyper_server::auth::{TokenAlgorithm, TokenKeys, new_token_key};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("key.pem");
/// let (pem, id) = new_token_key(TokenAlgorithm::Es256)?;
/// std::fs::write(&path, pem.expose())?;
/// let keys = TokenKeys::open(&[path])?;
/// assert_eq!(keys.ids(), [id]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenKeys(Arc<RwLock<State>>);

struct State {
    files: Vec<PathBuf>,
    keys: Arc<[Key]>,
}

/// One key.
struct Key {
    pair: Pair,
    public: PublicKey,
    id: String,
    /// Makes keys for other purposes.
    deriver: Hmac<Sha256>,
}

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenKeys").field(&self.ids()).finish()
    }
}

impl TokenKeys {
    /// Reads the files: each has one private key, as PEM of PKCS#8 without a password.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when there is no file, or a file has no key of this form, one of another kind, or the key
    /// of another file; an error that says why a file cannot be read.
    pub fn open<P: AsRef<Path>>(files: &[P]) -> Result<Self> {
        let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_owned()).collect();
        let keys = read(&files)?;
        Ok(Self(Arc::new(RwLock::new(State { files, keys }))))
    }

    /// Reads the files again. Tokens that are issued after this are signed by the first of them.
    ///
    /// # Errors
    /// Those of [`TokenKeys::open`]. The former keys then stay.
    pub fn reload(&self) -> Result<()> {
        let files = self.0.read().unwrap_or_else(PoisonError::into_inner).files.clone();
        self.replace(&files)
    }

    /// Reads other files in place of those of now.
    ///
    /// # Errors
    /// Those of [`TokenKeys::open`]. The former keys then stay.
    pub fn replace<P: AsRef<Path>>(&self, files: &[P]) -> Result<()> {
        let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_owned()).collect();
        let keys = read(&files)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = State { files, keys };
        Ok(())
    }

    /// The ids of the keys; the first signs.
    pub fn ids(&self) -> Vec<String> {
        self.keys().iter().map(|key| key.id.clone()).collect()
    }

    /// The public keys as a JSON Web Key Set (RFC 7517, section 5), for others who verify the tokens.
    pub fn public_keys(&self) -> String {
        let keys: Vec<Value> = self.keys().iter().map(|key| key.public.to_jwk(key.algorithm())).collect();
        json!({ "keys": keys }).to_string()
    }

    fn keys(&self) -> Arc<[Key]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// A signed token with these claims, which are JSON.
    pub(super) fn sign(&self, claims: &[u8]) -> Result<String> {
        let keys = self.keys();
        let first = keys.first().ok_or_else(|| Error::internal("there is no key of tokens"))?;
        let header = json!({"alg": first.algorithm().name(), "kid": first.id, "typ": "JWT"}).to_string();
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = first.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// A key for another purpose of each of the keys.
    pub(super) fn derived(&self, purpose: &str) -> Vec<[u8; 32]> {
        let of = |key: &Key| key.deriver.clone().chain_update(purpose).finalize().into_bytes().into();
        self.keys().iter().map(of).collect()
    }

    /// The claims of a token that one of the keys has signed.
    pub(super) fn verify(&self, token: &str) -> Option<Vec<u8>> {
        let token = Unverified::parse(token)?;
        let (keys, id) = (self.keys(), token.key.as_deref()?);
        let key = keys.iter().find(|key| key.id == id)?;
        token.is_signed_by(&key.public, key.algorithm()).then_some(token.claims)
    }
}

impl Key {
    fn new(pair: Pair, der: &[u8]) -> Self {
        let deriver = Hmac::new_from_slice(der).expect("HMAC takes a key of any length");
        let public = match &pair {
            Pair::Es256(pair) => PublicKey::P256(pair.public_key().as_ref().to_vec()),
            Pair::EdDsa(pair) => PublicKey::Ed25519(pair.public_key().as_ref().to_vec()),
        };
        Self { id: public.thumbprint(), pair, public, deriver }
    }

    fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Es256(_) => Algorithm::Es256,
            Pair::EdDsa(_) => Algorithm::EdDsa,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), message),
            Pair::EdDsa(pair) => pair.try_sign(message),
        };
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|e| Error::internal("a token cannot be signed").with_source(e))
    }
}

fn read(files: &[PathBuf]) -> Result<Arc<[Key]>> {
    if files.is_empty() || files.len() > MAX_KEYS {
        return Err(Error::invalid(format!("there must be 1 to {MAX_KEYS} files with keys of tokens")));
    }
    let mut keys: Vec<Key> = Vec::new();
    for path in files {
        let text = small_file::read_text(path, "the key of tokens", MAX_FILE, Kinds::Files)?;
        let key = parse(&text).context("path", path.display())?;
        if keys.iter().any(|other| other.id == key.id) {
            return Err(
                Error::invalid("two files have the same key of tokens").with_context("path", path.display())
            );
        }
        if let Some(warning) = mode_warning(path) {
            tracing::warn!("{warning}");
        }
        keys.push(key);
    }
    Ok(keys.into())
}

/// What is to be said of the rights on the file of a key. A mounted secret may belong to another user, so that the mode is
/// no reason to refuse it.
pub(crate) fn mode_warning(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let is_open = std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o007 != 0);
    let file = path.display().to_string();
    is_open.then(|| {
        format!(
            "every user of this machine can read the key of tokens `{}`: take that right away (chmod o=)",
            file.escape_debug()
        )
    })
}

fn parse(text: &str) -> Result<Key> {
    let pkcs8 = "a PEM file of PKCS#8 without a password is needed, as `hyperregistry key new` and `openssl genpkey` make it";
    let invalid = |what: &str| Error::invalid(format!("{what}: {pkcs8}"));
    if text.contains("ENCRYPTED PRIVATE KEY") {
        return Err(invalid("the key of tokens has a password"));
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| match e {
        pem::Error::NoItemsFound => invalid("the file has no private key"),
        _ => invalid("the file is not valid PEM"),
    })?;
    let PrivateKeyDer::Pkcs8(der) = der else {
        return Err(invalid("the key of tokens has another form"));
    };
    let der = der.secret_pkcs8_der();
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
        return Ok(Key::new(Pair::Es256(pair), der));
    }
    match Ed25519KeyPair::from_pkcs8(der) {
        Ok(pair) => Ok(Key::new(Pair::EdDsa(pair), der)),
        Err(_) => Err(Error::unsupported(
            "the key of tokens is of another kind: tokens are signed with keys of the curve P-256 (ES256) or Ed25519 (EdDSA)",
        )),
    }
}

/// Makes a key for [`TokenKeys`]: the text of its file, and its id.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Internal`] when the machine has no random bytes.
pub fn new_token_key(algorithm: TokenAlgorithm) -> Result<(Secret, String)> {
    let random = SystemRandom::new();
    let made = match algorithm {
        TokenAlgorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random),
        TokenAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8v1(&random),
    };
    let der = made.map_err(|e| Error::internal("a key cannot be made").with_source(e))?;
    let encoded = STANDARD.encode(der.as_ref());
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    for line in encoded.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    let id = parse(&pem)?.id;
    Ok((pem.into(), id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::ErrorKind;
    use std::fs;

    fn file(folder: &Path, name: &str, algorithm: TokenAlgorithm) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, new_token_key(algorithm).unwrap().0.expose()).unwrap();
        path
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let folder = tempfile::tempdir().unwrap();
        let old = file(folder.path(), "old", TokenAlgorithm::Es256);
        let new = file(folder.path(), "new", TokenAlgorithm::EdDsa);
        let (before, during, after) = (
            TokenKeys::open(&[&old]).unwrap(),
            TokenKeys::open(&[&old, &new]).unwrap(),
            TokenKeys::open(&[&new]).unwrap(),
        );
        let by_old = during.sign(b"{}").unwrap();
        assert_eq!(before.verify(&by_old).unwrap(), b"{}");
        assert!(during.verify(&by_old).is_some() && after.verify(&by_old).is_none());
        during.replace(&[&new, &old]).unwrap();
        let by_new = during.sign(b"{}").unwrap();
        assert!(during.verify(&by_old).is_some() && during.verify(&by_new).is_some());
        assert!(before.verify(&by_new).is_none() && after.verify(&by_new).is_some());
        let set: Value = serde_json::from_str(&during.public_keys()).unwrap();
        assert_eq!((&set["keys"][0]["alg"], &set["keys"][1]["alg"]), (&json!("EdDSA"), &json!("ES256")));
        assert!(set.to_string().find("\"d\"").is_none(), "the set has a private key");
        assert_eq!(set["keys"][0]["kid"], json!(during.ids()[0]));
    }

    /// A key is used as its kind says, whatever the header of a token says.
    #[test]
    fn the_header_of_a_token_chooses_no_algorithm() {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let folder = tempfile::tempdir().unwrap();
        let keys = TokenKeys::open(&[file(folder.path(), "a", TokenAlgorithm::Es256)]).unwrap();
        let good = keys.sign(br#"{"sub":"alice"}"#).unwrap();
        let parts: Vec<&str> = good.split('.').collect();
        let id = &keys.ids()[0];
        let public = URL_SAFE_NO_PAD.encode(keys.public_keys());
        for algorithm in ["none", "HS256", "EdDSA", "RS256", "ES384", "es256", ""] {
            let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","kid":"{id}"}}"#));
            let signed = format!("{header}.{}", parts[1]);
            let mac = Hmac::<sha2::Sha256>::new_from_slice(public.as_bytes()).unwrap();
            let mac = URL_SAFE_NO_PAD.encode(mac.chain_update(&signed).finalize().into_bytes());
            for signature in ["", parts[2], &mac] {
                assert!(keys.verify(&format!("{signed}.{signature}")).is_none(), "{algorithm}");
            }
        }
        let other = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"other"}"#);
        let without = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        for header in [other, without] {
            assert!(keys.verify(&format!("{header}.{}.{}", parts[1], parts[2])).is_none());
        }
        assert!(keys.verify(&good).is_some());
    }

    #[test]
    fn a_file_that_is_no_key_is_named_and_leaves_the_former_keys() {
        let folder = tempfile::tempdir().unwrap();
        let good = file(folder.path(), "good", TokenAlgorithm::Es256);
        let keys = TokenKeys::open(&[&good]).unwrap();
        let ids = keys.ids();
        let bad = folder.path().join("bad");
        let pem = |kind: &str| format!("-----BEGIN {kind}-----\nMAA=\n-----END {kind}-----\n");
        let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for (text, part) in [
            (String::new(), "no private key"),
            ("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n".to_owned(), "not valid PEM"),
            (pem("ENCRYPTED PRIVATE KEY"), "has a password"),
            (pem("EC PRIVATE KEY"), "another form"),
            (pem("PRIVATE KEY"), "of another kind"),
            (rsa, "of another kind"),
        ] {
            fs::write(&bad, &text).unwrap();
            let e = keys.replace(&[&good, &bad]).unwrap_err();
            assert!(e.to_string().contains(part) && e.to_string().contains("bad"), "{part}: {e}");
            assert_eq!(keys.ids(), ids);
        }
        assert_eq!(TokenKeys::open(&[&good, &good]).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(TokenKeys::open::<PathBuf>(&[]).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(TokenKeys::open(&[folder.path().join("none")]).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&good, new_token_key(TokenAlgorithm::EdDsa).unwrap().0.expose()).unwrap();
        keys.reload().unwrap();
        assert_ne!(keys.ids(), ids);
    }
}
