//! What is asked of which directory, and how the server proves that a domain is its own.

use super::certificate;
use super::folder::Folder;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, ErrorKind, Result, ResultExt as _};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Directories by their short names.
const DIRECTORIES: &[(&str, &str)] = &[
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
    ("zerossl", "https://acme.zerossl.com/v2/DV90"),
];
/// The most domains of one certificate. That of Let's Encrypt.
const MAX_DOMAINS: usize = 100;
/// The largest file of a key.
const MAX_KEY: u64 = 4096;

/// How the server proves that a domain is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// By a handshake of TLS at port 443 (RFC 8737).
    #[default]
    TlsAlpn01,
    /// By an answer to plain HTTP at port 80 (RFC 8555, section 8.3).
    Http01,
}

impl AcmeChallenge {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

impl FromStr for AcmeChallenge {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "tls-alpn-01" => Ok(Self::TlsAlpn01),
            "http-01" => Ok(Self::Http01),
            "dns-01" => {
                Err(Error::unsupported("the challenge dns-01 is not there: use tls-alpn-01 or http-01"))
            }
            _ => Err(Error::invalid(format!(
                "invalid challenge `{}`: use tls-alpn-01 or http-01",
                s.escape_debug()
            ))),
        }
    }
}

/// An account at the operator of the directory, to which the account of ACME is bound (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeExternalAccount {
    /// The identifier of its key.
    pub id: String,
    /// The file with its HMAC key, in base64url as operators show it.
    pub key_file: PathBuf,
}

impl AcmeExternalAccount {
    /// Reads the key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is not base64url, [`ErrorKind::Denied`] when every user of the machine can read it, and those
    /// of reading.
    pub(crate) fn key(&self) -> Result<Vec<u8>> {
        use base64::Engine as _;
        use base64::alphabet::{STANDARD, URL_SAFE};
        use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
        let what = "the key of the external account";
        let text = small_file::read_text(&self.key_file, what, MAX_KEY, Kinds::Files)?;
        let mode = std::fs::metadata(&self.key_file)
            .at("cannot read the key of the external account", &self.key_file)?
            .mode();
        if mode & 0o007 != 0 {
            let message = format!(
                "every user of this machine may read {what}: take the right away with `chmod o= FILE`"
            );
            return Err(Error::new(ErrorKind::Denied, message).with_context("path", self.key_file.display()));
        }
        let any = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let text = text.trim();
        let alphabet = if text.contains(['+', '/']) { STANDARD } else { URL_SAFE };
        // The error of the decoder would show a byte of the key.
        match GeneralPurpose::new(&alphabet, any).decode(text) {
            Ok(key) if !key.is_empty() => Ok(key),
            _ => Err(Error::invalid(format!("{what} is not base64url"))
                .with_context("path", self.key_file.display())),
        }
    }
}

/// A certificate that the server gets by ACME (RFC 8555), and renews.
///
/// ```no_run
/// use hyper_server::{AcmeOptions, Listener, Registry, ServerOptions, Tls, TlsOptions, serve};
///
/// async fn run(socket: tokio::net::TcpListener, registry: Registry) -> hyper_sdk::Result<()> {
///     let mut acme = AcmeOptions::new(["registry.example.com"], "/var/lib/registry/acme");
///     acme.accepts_terms = true;
///     let tls = Tls::acme(TlsOptions::default(), acme)?;
///     serve(Listener::tls(socket, tls), registry, ServerOptions::default(), std::future::pending()).await
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeOptions {
    /// The names of the certificate.
    pub domains: Vec<String>,
    /// Whether the operator agrees to the terms of service of the directory, without which it gives no certificate.
    pub accepts_terms: bool,
    /// Addresses of mail at which the directory reaches the operator.
    pub contact: Vec<String>,
    /// The URL of the directory, or one of the names that [`directory_url`] knows.
    pub directory: String,
    /// Certificates to trust besides those of the system, PEM: of a private directory.
    pub authorities: Option<PathBuf>,
    /// The folder of the account, the key and the certificate. It is made, for the user of the server alone. Servers that share it
    /// have one certificate.
    pub folder: PathBuf,
    /// How the server proves that a domain is its own.
    pub challenge: AcmeChallenge,
    /// The account at the operator of the directory, where it wants one.
    pub external_account: Option<AcmeExternalAccount>,
}

impl AcmeOptions {
    /// A certificate of Let's Encrypt for these domains, by tls-alpn-01. The terms are not accepted yet.
    pub fn new<T: Into<String>>(domains: impl IntoIterator<Item = T>, folder: impl Into<PathBuf>) -> Self {
        Self {
            domains: domains.into_iter().map(Into::into).collect(),
            accepts_terms: false,
            contact: Vec::new(),
            directory: DIRECTORIES[0].0.to_owned(),
            authorities: None,
            folder: folder.into(),
            challenge: AcmeChallenge::default(),
            external_account: None,
        }
    }

    /// Checks everything that needs no directory, and reads the files. Makes no folder.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] that says what is wrong, [`ErrorKind::Unsupported`] for what needs another challenge and without the
    /// feature `acme`, and those of reading.
    pub fn check(&self) -> Result<()> {
        if cfg!(not(feature = "acme")) {
            return Err(Error::unsupported("a certificate by ACME needs the feature `acme`"));
        }
        domains(&self.domains)?;
        if !self.accepts_terms {
            return Err(Error::invalid(
                "the directory gives certificates to those who agree to its terms of service: read them, and set \
                 `accept-terms = true`",
            ));
        }
        for contact in &self.contact {
            mail(contact)?;
        }
        directory_url(&self.directory)?;
        if let Some(external) = &self.external_account {
            if external.id.is_empty() {
                return Err(Error::invalid("the identifier of the external account is empty"));
            }
            external.key()?;
        }
        #[cfg(feature = "acme")]
        if let Some(path) = &self.authorities {
            hyper_sdk::client::read_authorities(path)?;
        }
        check_folder(&self.folder)
    }

    /// The file of the certificate for these domains, with its key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the directory or a domain is not well formed.
    pub fn certificate_file(&self) -> Result<PathBuf> {
        let purpose = certificate::purpose(&directory_url(&self.directory)?, &domains(&self.domains)?);
        Ok(self.folder.join(certificate::file_name(&purpose)))
    }

    /// The files of all certificates that a server may show: that for these domains, whether it is there or not, and those of others,
    /// which are in use until it is there.
    ///
    /// # Errors
    /// Those of [`AcmeOptions::certificate_file`].
    pub(crate) fn certificate_files(&self) -> Result<Vec<PathBuf>> {
        let (own, folder) = (self.certificate_file()?, Folder::at(&self.folder));
        let others = folder.names(certificate::NAMES).into_iter().map(|name| folder.path(&name));
        let others: Vec<_> = others.filter(|path| *path != own).collect();
        Ok([vec![own], others].concat())
    }

    /// The contacts as URLs.
    #[cfg(feature = "acme")]
    pub(crate) fn contact_urls(&self) -> Vec<String> {
        self.contact.iter().filter_map(|contact| mail(contact).ok()).collect()
    }
}

/// The URL of a directory: of the names `letsencrypt`, `letsencrypt-staging` and `zerossl`, or itself.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what is neither such a name nor a URL of https.
pub fn directory_url(text: &str) -> Result<String> {
    if let Some((_, url)) = DIRECTORIES.iter().find(|(name, _)| *name == text) {
        return Ok((*url).to_owned());
    }
    let names: Vec<&str> = DIRECTORIES.iter().map(|(name, _)| *name).collect();
    let is_url = text.parse::<http::Uri>().is_ok_and(|url| {
        url.scheme_str() == Some("https")
            && url.authority().is_some_and(|host| !host.host().is_empty() && !host.as_str().contains('@'))
    });
    match is_url {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!(
            "invalid directory `{}`: use a URL of https, or {}",
            text.escape_debug(),
            names.join(", ")
        ))),
    }
}

/// The domains in small letters and in order.
///
/// # Errors
/// [`ErrorKind::Invalid`] that names the one that is wrong.
pub(crate) fn domains(texts: &[String]) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for text in texts {
        if !found.insert(domain(text)?) {
            return Err(Error::invalid(format!("the domain `{}` is there twice", text.escape_debug())));
        }
    }
    if found.is_empty() || found.len() > MAX_DOMAINS {
        return Err(Error::invalid(format!(
            "a certificate has one to {MAX_DOMAINS} domains, and there are {}",
            found.len()
        )));
    }
    Ok(found.into_iter().collect())
}

fn domain(text: &str) -> Result<String> {
    let bad = |why: &str| Error::invalid(format!("invalid domain `{}`: {why}", text.escape_debug()));
    if text.starts_with("*.") {
        return Err(Error::unsupported(format!(
            "a certificate for `{}` needs the challenge dns-01, which is not there: name each domain",
            text.escape_debug()
        )));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(bad("it is an address; a name is needed"));
    }
    if !text.is_ascii() {
        return Err(bad("write its form of ASCII, which begins with `xn--`"));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(is_label) {
        return Err(bad("a name of DNS is needed, without scheme, port and path"));
    }
    Ok(text.to_ascii_lowercase())
}

/// The URL of an address of mail.
fn mail(text: &str) -> Result<String> {
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"?&,;<>()[]\\\"%".contains(&b);
    match address.split_once('@') {
        Some((user, host)) if !user.is_empty() && domain(host).is_ok() && user.bytes().all(is_plain) => {
            Ok(format!("mailto:{address}"))
        }
        _ => Err(Error::invalid(format!(
            "invalid contact `{}`: use an address of mail, such as admin@example.com",
            text.escape_debug()
        ))),
    }
}

/// That the folder can be one, without making it.
fn check_folder(path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the folder of ACME has no name"));
    }
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("cannot look at the folder of ACME", path, e)),
    };
    let why = match () {
        () if !meta.is_dir() => "the folder of ACME is something else than a folder",
        () if meta.uid() != rustix::process::geteuid().as_raw() => {
            "the folder of ACME belongs to another user: run this as that user"
        }
        () => return Ok(()),
    };
    Err(Error::new(ErrorKind::Denied, why).with_context("path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn options(dir: &Path) -> AcmeOptions {
        AcmeOptions { accepts_terms: true, ..AcmeOptions::new(["r.example.com"], dir.join("acme")) }
    }

    #[test]
    fn domains_are_names_of_hosts() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(domains(&texts(&["b.Example.com", "a"])).unwrap(), ["a", "b.example.com"]);
        for (wrong, part) in [
            (&["*.example.com"][..], "dns-01"),
            (&["192.0.2.1"], "address"),
            (&["::1"], "address"),
            (&["bücher.example"], "xn--"),
            (&["https://a.example"], "without scheme"),
            (&["a.example:443"], "port"),
            (&["../../etc"], "invalid domain"),
            (&["a..b"], "invalid domain"),
            (&["-a.example"], "invalid domain"),
            (&["a.example."], "invalid domain"),
            (&["a_b.example"], "invalid domain"),
            (&[""], "invalid domain"),
            (&["a.example", "A.example"], "twice"),
            (&[], "one to 100"),
        ] {
            let e = domains(&texts(wrong)).unwrap_err().to_string();
            assert!(e.contains(part), "{wrong:?}: {e}");
        }
        let many: Vec<String> = (0..101).map(|n| format!("a{n}.example")).collect();
        assert!(domains(&many).is_err() && domains(&many[1..]).is_ok());
    }

    #[test]
    fn a_directory_is_a_name_or_a_url_of_https() {
        assert!(directory_url("letsencrypt").unwrap().starts_with("https://acme-v02."));
        assert!(directory_url("letsencrypt-staging").unwrap().contains("staging"));
        assert_eq!(directory_url("https://ca.example:9000/acme").unwrap(), "https://ca.example:9000/acme");
        for wrong in ["", "lets", "http://ca.example/", "https://", "https://u:p@ca.example/", "ca.example"] {
            let e = directory_url(wrong).unwrap_err().to_string();
            assert!(e.contains("letsencrypt-staging"), "{wrong}: {e}");
        }
    }

    #[test]
    #[cfg(feature = "acme")]
    fn options_are_checked_without_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let good = options(dir.path());
        good.check().unwrap();
        assert!(!good.folder.exists(), "a check makes nothing");
        let refused = |options: AcmeOptions, part: &str| {
            let e = options.check().unwrap_err().to_string();
            assert!(e.contains(part), "{part}: {e}");
        };
        refused(AcmeOptions { accepts_terms: false, ..good.clone() }, "accept-terms = true");
        for contact in ["admin", "a@b?cc=x@y", "a@", "@b", "a b@c.d", "mailto:a,b@c.d", "a@b\n.c"] {
            refused(AcmeOptions { contact: vec![contact.to_owned()], ..good.clone() }, "invalid contact");
        }
        let contact = vec!["mailto:a@b.example".to_owned(), "c+d@b.example".to_owned()];
        let with = AcmeOptions { contact, ..good.clone() };
        with.check().unwrap();
        assert_eq!(with.contact_urls(), ["mailto:a@b.example", "mailto:c+d@b.example"]);
        let file = dir.path().join("file");
        std::fs::write(&file, "no base64: s3cret!").unwrap();
        refused(AcmeOptions { folder: file.clone(), ..good.clone() }, "something else");
        refused(AcmeOptions { authorities: Some(file.clone()), ..good.clone() }, "/file");
        let external = |key: &str, mode: u32| {
            std::fs::write(&file, key).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let external = AcmeExternalAccount { id: "kid".to_owned(), key_file: file.clone() };
            AcmeOptions { external_account: Some(external), ..good.clone() }
        };
        let e = external("no base64: s3cret!", 0o600).check().unwrap_err();
        let shown = format!("{e} {e:?} {}", crate::standard_io::chain(&e));
        assert!(shown.contains("base64url") && !shown.contains("s3cret"), "{shown}");
        refused(external("", 0o600), "base64url");
        refused(external("AAAA", 0o604), "chmod");
        for key in ["-_8=\n", "-_8", "+/8="] {
            let options = external(key, 0o640);
            options.check().unwrap();
            assert_eq!(options.external_account.unwrap().key().unwrap(), [0xfb, 0xff]);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_a_panic(text: String) {
            let _ = (domain(&text), mail(&text), directory_url(&text), text.parse::<AcmeChallenge>());
        }
    }
}
