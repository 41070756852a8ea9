//! TLS for listeners: the certificate of the server, the authorities of its clients, and their renewal without a restart.
//!
//! ```text
//! files ── read ── parse ── ServerConfig ── swapped in, for new connections
//!            │        │ a fault: the old one stays, one line in the log
//!            └── unchanged: nothing to do
//! ```
//!
//! With ACME the certificate is in the folder of `acme`, and there may be none yet: then handshakes fail.
//!
//! # Invariants
//! - TLS 1.2 and 1.3 alone. The cryptography is that of aws-lc, whatever provider the process has installed.
//! - A configuration is swapped in as a whole: the files were read, parsed and checked against each other.
//! - An open connection keeps the configuration that it began with.
//! - No error and no line of the log has a byte of the key.

use crate::acme::{self, Acme, AcmeOptions, HttpAnswers};
use crate::client_certificate::NameRule;
use crate::standard_io::chain;
use crate::tls_pem::{certificates, invalid, outside_of_validity, private_key};
use hyper_sdk::digest::Hasher;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Digest, Error, Result, ResultExt};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

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
    acme: Option<Acme>,
    current: RwLock<Arc<ServerConfig>>,
    /// When the first certificate of the chain in use ends, in seconds since 1970, or [`NEVER`].
    ends: AtomicI64,
    /// Whether the files could not be used when they were last read.
    is_faulty: AtomicBool,
    /// Whether the certificate by ACME could not be read when it was last looked at.
    is_unread: AtomicBool,
    /// Held by a look at the files, on a slow disk for long. No request and no handshake takes it.
    seen: Mutex<Seen>,
}

/// Stands for no time.
const NEVER: i64 = i64::MIN;

/// What was seen of the files.
struct Seen {
    /// Their content, or their fault, when they were last looked at, so that a fault is logged once.
    files: Digest,
    /// The certificate that is in use.
    certificate: Digest,
    /// The certificate and the key that are in use, with ACME.
    pair: Option<Pair>,
    /// Why the certificate by ACME cannot be read, so that it is logged once.
    unread: String,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.options).finish()
    }
}

/// The bytes of a certificate and its key.
#[derive(Clone)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The bytes of the files.
struct Files {
    /// `None` while ACME has given none.
    pair: Option<Pair>,
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
        Self::make(options, None)
    }

    /// TLS with a certificate by ACME (RFC 8555). Makes the folder of ACME, and asks nobody: [`serve`](crate::serve) does, for as long as
    /// it serves a listener with this TLS, and renews the certificate. While there is none, handshakes fail and the log says so. The
    /// paths of the certificate and the key in `options` are of no effect.
    ///
    /// # Errors
    /// Those of [`AcmeOptions::check`]; [`hyper_sdk::ErrorKind::Denied`] when others could replace the folder; those of [`Tls::open`]
    /// for the other files.
    pub fn acme(options: TlsOptions, acme: AcmeOptions) -> Result<Self> {
        let options = TlsOptions { certificate: acme.certificate_file()?, key: PathBuf::new(), ..options };
        Self::make(options, Some(Acme::open(acme)?))
    }

    /// Reads the files about clients alone, and checks them against each other.
    ///
    /// # Errors
    /// Those of [`Tls::open`] for these files.
    pub(crate) fn check_clients(options: &TlsOptions) -> Result<()> {
        Files::read(options, None)?.config(options).map(drop)
    }

    fn make(options: TlsOptions, acme: Option<Acme>) -> Result<Self> {
        if options.client_crl.is_some() && options.client_ca.is_none() {
            return Err(Error::invalid(
                "a list of revoked client certificates needs the client authorities too",
            ));
        }
        let pair = match (Pair::read(&options, acme.as_ref()), &acme) {
            (Err(e), Some(_)) => {
                let error = chain(&e);
                tracing::error!(error, "the certificate by ACME cannot be used");
                None
            }
            (pair, _) => pair?,
        };
        let files = Files::read(&options, pair)?;
        let config = files.config(&options)?;
        let seen = Seen {
            files: files.digest(),
            certificate: Digest::sha256(files.certificate()),
            pair: files.pair.clone().filter(|_| acme.is_some()),
            unread: String::new(),
        };
        Ok(Self(Arc::new(Shared {
            options,
            acme,
            current: RwLock::new(Arc::new(config)),
            ends: AtomicI64::new(files.ends().unwrap_or(NEVER)),
            is_faulty: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
            seen: Mutex::new(seen),
        })))
    }

    /// Whether the files ask clients for certificates.
    pub fn knows_clients(&self) -> bool {
        self.0.options.client_ca.is_some()
    }

    /// What is valid and probably a mistake: a certificate that has expired, or is not valid yet.
    pub fn warnings(&self) -> Vec<String> {
        // ACME replaces such a certificate by itself.
        if self.0.acme.is_some() {
            return Vec::new();
        }
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
            Ok(true) => self.0.is_faulty.store(false, Ordering::Relaxed),
            // As before: a fault is an error once.
            Ok(false) => {}
            Err(_) => self.0.is_faulty.store(true, Ordering::Relaxed),
        }
        outcome
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look at the files holds while it lasts.
    #[cfg(all(test, feature = "acme"))]
    pub(crate) fn hold(&self) -> impl Sized {
        self.seen()
    }

    /// When the first certificate of the chain in use ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> Option<i64> {
        Some(self.0.ends.load(Ordering::Relaxed)).filter(|ends| *ends != NEVER)
    }

    /// Whether the files cannot be used, so that those of before are in use.
    pub(crate) fn is_faulty(&self) -> bool {
        self.0.is_faulty.load(Ordering::Relaxed) || self.0.is_unread.load(Ordering::Relaxed)
    }

    /// The certificate and its key. With ACME those in use stand for such as are missing or cannot be read, so that the other files
    /// are read all the same.
    fn pair(&self, seen: &mut Seen) -> Result<Option<Pair>> {
        let read = Pair::read(&self.0.options, self.0.acme.as_ref());
        if self.0.acme.is_none() {
            return read;
        }
        let read = read.and_then(|pair| match (&pair, &seen.pair) {
            (Some(new), Some(old)) if new.certificate != old.certificate => {
                new.check_time(&self.0.options).map(|()| pair)
            }
            _ => Ok(pair),
        });
        self.0.is_unread.store(read.is_err(), Ordering::Relaxed);
        let unread = read.as_ref().err().map(chain).unwrap_or_default();
        if seen.unread != unread && !unread.is_empty() {
            tracing::error!(
                error = unread,
                "the certificate by ACME cannot be used: the old one stays in use"
            );
        }
        seen.unread = unread;
        Ok(read.ok().flatten().or_else(|| seen.pair.clone()))
    }

    fn reload_seen(&self, seen: &mut Seen) -> Result<bool> {
        let options = &self.0.options;
        let files = match self.pair(seen).and_then(|pair| Files::read(options, pair)) {
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
        let certificate = Digest::sha256(files.certificate());
        let new = CertificateDer::pem_slice_iter(files.certificate()).flatten().next();
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
        seen.pair = files.pair.clone().filter(|_| self.0.acme.is_some());
        self.0.ends.store(files.ends().unwrap_or(NEVER), Ordering::Relaxed);
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

    /// Looks at the files again and again, and lets ACME renew the certificate.
    pub(crate) async fn watch(self) {
        let renew = async {
            if let Some(acme) = self.0.acme.clone() {
                acme::run(acme).await;
            }
        };
        // Neither ends the other.
        tokio::join!(self.look(), renew);
    }

    async fn look(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            if tokio::task::spawn_blocking(move || tls.reload_and_log())
                .await
                .is_err_and(|e| e.is_cancelled())
            {
                return;
            }
        }
    }

    /// Begins TLS with a client, with the current configuration. `None`: the client has got the answer of a challenge of ACME, and wants
    /// no more.
    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<Option<TlsStream<IO>>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(acme) = &self.0.acme else {
            return TlsAcceptor::from(self.current()).accept(io).await.map(Some);
        };
        let begun = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let asked = Acme::asked(&begun.client_hello());
        if let Some(name) = asked {
            let answer = acme.answer(name).await.map_err(io::Error::other)?;
            begun.into_stream(answer).await?.shutdown().await?;
            return Ok(None);
        }
        if self.ends().is_none() {
            acme.complain();
        }
        begun.into_stream(self.current()).await.map(Some)
    }

    fn current(&self) -> Arc<ServerConfig> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A service that answers the challenge http-01 of ACME and sends other requests to `https://`, for a listener at port 80. `root` is
    /// the URL at which clients reach the registry, if it is known. `None` without ACME.
    pub fn http_answers(&self, root: Option<String>) -> Option<HttpAnswers> {
        self.0.acme.clone().map(|acme| HttpAnswers::new(acme, root))
    }

    /// Replaces the domains of ACME. A certificate for them is requested, and that of before is in use until then. Returns whether they
    /// were others; `false` without ACME.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the domain that is wrong: those of before stay.
    pub fn set_acme_domains(&self, domains: &[String]) -> Result<bool> {
        self.0.acme.as_ref().map_or(Ok(false), |acme| acme.set_domains(domains))
    }

    /// Lets ACME ask for a certificate now, if it waits after a failure, as far as the limits of the directory allow.
    pub fn ask_acme_now(&self) {
        if let Some(acme) = &self.0.acme {
            acme.ask_now();
        }
    }

    /// How often ACME has failed.
    pub(crate) fn acme_failures(&self) -> u64 {
        self.0.acme.as_ref().map_or(0, Acme::failures)
    }

    /// The part of a client certificate that is the name of the user.
    pub(crate) fn name_rule(&self) -> NameRule {
        self.0.options.client_name
    }
}

impl Pair {
    fn check_time(&self, options: &TlsOptions) -> Result<()> {
        let first = CertificateDer::pem_slice_iter(&self.certificate).flatten().next();
        let why = first.and_then(|first| outside_of_validity(&options.certificate, &first));
        why.map_or(Ok(()), |why| Err(Error::invalid(why)))
    }

    /// The pair that is to be used; `None` while ACME has given none.
    fn read(options: &TlsOptions, acme: Option<&Acme>) -> Result<Option<Self>> {
        if let Some(acme) = acme {
            // One file, and so read once.
            let text = acme.read()?.map(String::into_bytes);
            return Ok(text.map(|text| Self { certificate: text.clone(), key: text }));
        }
        let read = |path: &Path, what| small_file::read(path, what, MAX_FILE, Kinds::Files);
        let pair = Self {
            certificate: read(&options.certificate, "the certificate")?,
            key: read(&options.key, "the key of the certificate")?,
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
        Ok(Some(pair))
    }
}

impl Files {
    fn read(options: &TlsOptions, pair: Option<Pair>) -> Result<Self> {
        let optional = |path: &Option<PathBuf>, what| {
            path.as_deref().map(|path| small_file::read(path, what, MAX_FILE, Kinds::Files)).transpose()
        };
        let client_ca = optional(&options.client_ca, "the client authorities")?;
        let client_crl = optional(&options.client_crl, "the list of revoked client certificates")?;
        Ok(Self { pair, client_ca, client_crl })
    }

    /// The chain of the certificate; empty while there is none.
    fn certificate(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[], |pair| &pair.certificate)
    }

    fn ends(&self) -> Option<i64> {
        let chain = CertificateDer::pem_slice_iter(self.certificate()).flatten();
        chain
            .filter_map(|der| {
                Some(x509_parser::parse_x509_certificate(&der).ok()?.1.validity().not_after.timestamp())
            })
            .min()
    }

    fn digest(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        let pair = self.pair.as_ref();
        for file in [
            pair.map(|pair| &pair.certificate),
            pair.map(|pair| &pair.key),
            self.client_ca.as_ref(),
            self.client_crl.as_ref(),
        ] {
            hasher.update_field(file.map_or(&[][..], Vec::as_slice));
        }
        hasher.finish()
    }

    fn config(&self, options: &TlsOptions) -> Result<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::internal("TLS cannot be set up").with_source(e))?;
        let builder = match &self.client_ca {
            Some(authorities) => {
                builder.with_client_cert_verifier(self.client_verifier(authorities, options, provider)?)
            }
            None => builder.with_no_client_auth(),
        };
        let Some(pair) = &self.pair else {
            return Ok(builder.with_cert_resolver(Arc::new(NoCertificate)));
        };
        let chain = certificates(&pair.certificate, "the certificate", &options.certificate)?;
        let key = private_key(&pair.key, &options.key)?;
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

/// Ends each handshake with an alert.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
