//! TLS for listeners: the certificate of the server, the authorities of its clients, and their renewal without a restart.
//!
//! ```text
//! files ── read ── parse ── ServerConfig ── swapped in, for new connections
//!            │        │ a fault: the old one stays, one line in the log
//!            └── unchanged: nothing to do
//! ```
//!
//! # Invariants
//! - TLS 1.2 and 1.3 alone. The cryptography is that of aws-lc, whatever provider the process has installed.
//! - A configuration is swapped in as a whole: the files were read, parsed and checked against each other.
//! - An open connection keeps the configuration that it began with.
//! - No error and no line of the log has a byte of the key.

use crate::client_certificate::NameRule;
use crate::standard_io::chain;
use hyper_sdk::digest::Hasher;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Digest, Error, Result, ResultExt};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::TlsAcceptor;

/// The largest file that is read. Lists of revoked certificates are the largest.
const MAX_FILE: u64 = 16 << 20;
/// The pause between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// The files of TLS, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate of the server, then the certificates of the authorities between it and the root.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities of client certificates; `None` asks clients for none.
    pub client_ca: Option<PathBuf>,
    /// The lists of revoked client certificates, of every authority of `client_ca`.
    pub client_crl: Option<PathBuf>,
    /// Whether a client must have a certificate.
    pub client_auth: ClientAuth,
    /// Which part of a client certificate is the name of the user.
    pub client_name: NameRule,
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a certificate has no connection.
    #[default]
    Required,
    /// A client without a certificate is anonymous, or logs in in another way.
    Optional,
}

impl FromStr for ClientAuth {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            _ => Err(Error::invalid(format!(
                "invalid client authentication `{}`: use required or optional",
                s.escape_debug()
            ))),
        }
    }
}

/// The TLS of a listener. Clones share it, and what is reloaded.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    options: TlsOptions,
    current: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// What was seen of the files.
struct Seen {
    /// Their content, or their fault, when they were last looked at, so that a fault is logged once.
    files: Digest,
    /// The certificate that is in use.
    certificate: Digest,
    /// When the first certificate of its chain ends, in seconds since 1970.
    ends: Option<i64>,
    /// Whether the files could not be used when they were last read.
    is_faulty: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.options).finish()
    }
}

/// The bytes of the files.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files and checks them against each other.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::NotFound`] or [`hyper_sdk::ErrorKind::Io`] when a file cannot be read,
    /// [`hyper_sdk::ErrorKind::Invalid`] when it has not what it must have, [`hyper_sdk::ErrorKind::Denied`] when other
    /// users can read the key.
    pub fn open(options: TlsOptions) -> Result<Self> {
        if options.client_crl.is_some() && options.client_ca.is_none() {
            return Err(Error::invalid(
                "a list of revoked client certificates needs the client authorities too",
            ));
        }
        let files = Files::read(&options)?;
        let config = files.config(&options)?;
        let seen = Seen {
            files: files.digest(),
            certificate: Digest::sha256(&files.certificate),
            ends: files.ends(),
            is_faulty: false,
        };
        let (current, seen) = (RwLock::new(Arc::new(config)), Mutex::new(seen));
        Ok(Self(Arc::new(Shared { options, current, seen })))
    }

    /// Whether the files ask clients for certificates.
    pub fn knows_clients(&self) -> bool {
        self.0.options.client_ca.is_some()
    }

    /// What is valid and probably a mistake: a certificate that has expired, or is not valid yet.
    pub fn warnings(&self) -> Vec<String> {
        let path = &self.0.options.certificate;
        let chain =
            small_file::read(path, "the certificate", MAX_FILE, Kinds::FilesAndPipes).unwrap_or_default();
        CertificateDer::pem_slice_iter(&chain)
            .flatten()
            .filter_map(|one| outside_of_validity(path, &one))
            .collect()
    }

    /// Reads the files again, when their content has changed. New connections then have the new certificate; open ones
    /// are left alone. When the new files cannot be used, the old ones stay.
    ///
    /// # Errors
    /// Those of [`Tls::open`], once for each content. A new certificate that has expired is one of them.
    pub fn reload(&self) -> Result<bool> {
        let mut seen = self.seen();
        let outcome = self.reload_seen(&mut seen);
        match outcome {
            Ok(true) => seen.is_faulty = false,
            // As before: a fault is an error once.
            Ok(false) => {}
            Err(_) => seen.is_faulty = true,
        }
        outcome
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the first certificate of the chain in use ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> Option<i64> {
        self.seen().ends
    }

    /// Whether the files cannot be used, so that those of before are in use.
    pub(crate) fn is_faulty(&self) -> bool {
        self.seen().is_faulty
    }

    fn reload_seen(&self, seen: &mut Seen) -> Result<bool> {
        let options = &self.0.options;
        let files = match Files::read(options) {
            Ok(files) => files,
            // A file is missing while it is being replaced, or for good: said once.
            Err(e) => {
                let now = Digest::sha256(e.to_string());
                return if std::mem::replace(&mut seen.files, now.clone()) == now {
                    Ok(false)
                } else {
                    Err(e)
                };
            }
        };
        let digest = files.digest();
        if seen.files == digest {
            return Ok(false);
        }
        // The other files count as soon as they are there, whatever has become of a certificate that is in use.
        let certificate = Digest::sha256(&files.certificate);
        let new = CertificateDer::pem_slice_iter(&files.certificate).flatten().next();
        let new = new.filter(|_| seen.certificate != certificate);
        if let Some(why) = new.and_then(|new| outside_of_validity(&options.certificate, &new)) {
            // It may become valid.
            let fault = Digest::sha256(format!("{digest} {why}"));
            let is_known = std::mem::replace(&mut seen.files, fault.clone()) == fault;
            return if is_known { Ok(false) } else { Err(Error::invalid(why)) };
        }
        seen.files = digest;
        let config = Arc::new(files.config(options)?);
        seen.certificate = certificate;
        seen.ends = files.ends();
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(true)
    }

    /// [`Tls::reload`], with its outcome in the log.
    pub(crate) fn reload_and_log(&self) {
        match self.reload() {
            Ok(true) => {
                tracing::info!(certificate = %self.0.options.certificate.display(), "the files of TLS were read again");
            }
            Ok(false) => {}
            Err(e) => {
                let error = chain(&e);
                tracing::error!(error, "the files of TLS cannot be used: the old ones stay in use");
            }
        }
    }

    /// Looks at the files again and again.
    pub(crate) async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            if tokio::task::spawn_blocking(move || tls.reload_and_log()).await.is_err() {
                return;
            }
        }
    }

    /// What makes connections of the current configuration.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// The part of a client certificate that is the name of the user.
    pub(crate) fn name_rule(&self) -> NameRule {
        self.0.options.client_name
    }
}

impl Files {
    fn read(options: &TlsOptions) -> Result<Self> {
        let read = |path: &Path, what| small_file::read(path, what, MAX_FILE, Kinds::Files);
        let optional =
            |path: &Option<PathBuf>, what| path.as_deref().map(|path| read(path, what)).transpose();
        let files = Self {
            certificate: read(&options.certificate, "the certificate")?,
            key: read(&options.key, "the key of the certificate")?,
            client_ca: optional(&options.client_ca, "the client authorities")?,
            client_crl: optional(&options.client_crl, "the list of revoked client certificates")?,
        };
        let mode = std::fs::metadata(&options.key)
            .at("cannot read the key of the certificate", &options.key)?
            .mode();
        if mode & 0o007 != 0 {
            return Err(Error::new(
                hyper_sdk::ErrorKind::Denied,
                "every user of this machine may use the key of the certificate: take the right away with `chmod o= FILE`",
            )
            .with_context("path", options.key.display()));
        }
        Ok(files)
    }

    fn ends(&self) -> Option<i64> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).flatten();
        chain
            .filter_map(|der| {
                Some(x509_parser::parse_x509_certificate(&der).ok()?.1.validity().not_after.timestamp())
            })
            .min()
    }

    fn digest(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        for file in
            [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref(), self.client_crl.as_ref()]
        {
            hasher.update_field(file.map_or(&[][..], Vec::as_slice));
        }
        hasher.finish()
    }

    fn config(&self, options: &TlsOptions) -> Result<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&self.certificate, "the certificate", &options.certificate)?;
        let key = private_key(&self.key, &options.key)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::internal("TLS cannot be set up").with_source(e))?;
        let builder = match &self.client_ca {
            Some(authorities) => {
                builder.with_client_cert_verifier(self.client_verifier(authorities, options, provider)?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|e| {
            let (certificate, key) = (options.certificate.display(), options.key.display());
            match e {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::invalid(format!(
                    "the key in `{key}` is not that of the first certificate in `{certificate}`: the certificate of the \
                     server comes before those of its authorities"
                )),
                e => Error::invalid(format!("the certificate in `{certificate}` or the key in `{key}` cannot be used"))
                    .with_source(e),
            }
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn client_verifier(
        &self,
        authorities: &[u8],
        options: &TlsOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
        let path = options.client_ca.as_deref().unwrap_or(Path::new(""));
        let mut roots = RootCertStore::empty();
        for one in certificates(authorities, "the client authorities", path)? {
            roots.add(one).map_err(|e| {
                invalid("the client authorities have an invalid certificate", path).with_source(e)
            })?;
        }
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if let (Some(bytes), Some(path)) = (&self.client_crl, &options.client_crl) {
            let bad = || invalid("the list of revoked client certificates is not PEM", path);
            let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes)
                .collect::<Result<_, _>>()
                .map_err(|e| bad().with_source(e))?;
            if lists.is_empty() {
                return Err(bad());
            }
            verifier = verifier.with_crls(lists).enforce_revocation_expiration();
        }
        if options.client_auth == ClientAuth::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        verifier.build().map_err(|e| match (&e, &options.client_crl) {
            (VerifierBuilderError::InvalidCrl(_), Some(path)) => {
                invalid("the list of revoked client certificates is invalid", path).with_source(e)
            }
            _ => invalid("the client authorities cannot be used", path).with_source(e),
        })
    }
}

fn invalid(message: impl fmt::Display, path: &Path) -> Error {
    Error::invalid(message.to_string()).with_context("path", path.display())
}

fn certificates(bytes: &[u8], what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(format!("{what} is not PEM"), path).with_source(e))?;
    match found.is_empty() {
        true => Err(invalid(
            format!("{what} has no certificate: a PEM file with `BEGIN CERTIFICATE` is needed"),
            path,
        )),
        false => Ok(found),
    }
}

fn private_key(bytes: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>> {
    let is_encrypted =
        |text: &str| text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED");
    PrivateKeyDer::from_pem_slice(bytes).map_err(|e| match std::str::from_utf8(bytes) {
        // The error of the parser may quote the line that it does not understand.
        Ok(text) if is_encrypted(text) => invalid(
            "the key of the certificate is encrypted: write it without a password, `openssl pkey` does so",
            path,
        ),
        _ if matches!(e, rustls::pki_types::pem::Error::NoItemsFound) => invalid(
            "the key of the certificate has no key: a PEM file with `BEGIN PRIVATE KEY` is needed",
            path,
        ),
        _ => invalid("the key of the certificate is not PEM", path),
    })
}

/// Says that a certificate has expired, or is not valid yet.
fn outside_of_validity(path: &Path, der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let now =
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).ok()?;
    let validity = certificate.validity();
    let (path, subject) = (path.display(), certificate.subject().to_string());
    let subject = subject.escape_debug();
    if validity.not_after.timestamp() < now {
        return Some(format!("the certificate of `{subject}` in `{path}` expired at {}", validity.not_after));
    }
    (validity.not_before.timestamp() > now).then(|| {
        format!("the certificate of `{subject}` in `{path}` is not valid before {}", validity.not_before)
    })
}
