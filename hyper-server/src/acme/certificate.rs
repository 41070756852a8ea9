//! A file with a certificate: for what it was requested, the key, and the chain.
//!
//! ```text
//! Directory: https://ca.example/directory
//! Domains: a.example b.example
//! Issued: 1796045312
//! -----BEGIN PRIVATE KEY----- …
//! -----BEGIN CERTIFICATE----- …
//! ```
//!
//! PEM allows text before the first `BEGIN` (RFC 7468, section 2), so other programs read the file, too.

use hyper_sdk::{Digest, Error, Result};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::collections::BTreeSet;
use x509_parser::extensions::GeneralName;

/// What the names of the files begin with, and end with.
pub(super) const NAMES: (&str, &str) = ("certificate-", ".pem");

/// A name for what is asked of a directory. Servers whose domains are not the same must not replace the certificates of each other.
pub(super) fn purpose(directory: &str, domains: &[String]) -> String {
    Digest::sha256(format!("{directory}\n{}", domains.join(" "))).hex()[..16].to_owned()
}

/// The file of the certificate for a purpose.
pub(super) fn file_name(purpose: &str) -> String {
    format!("{}{purpose}{}", NAMES.0, NAMES.1)
}

/// A certificate that can be used, but for its time.
#[derive(Debug)]
pub(super) struct Certificate {
    directory: String,
    domains: Vec<String>,
    /// When it was issued to this server, in seconds since 1970.
    pub(super) issued: i64,
    /// When it ends, in seconds since 1970. Its chain may end earlier: a new certificate would have the same.
    pub(super) ends: i64,
    /// What it is called in renewal information (RFC 9773, section 4.1), if its authority has named its key.
    pub(super) name: Option<Name>,
}

/// The key identifier of the authority of a certificate, and its serial number.
pub(super) type Name = (Vec<u8>, Vec<u8>);

/// The content of the file.
#[cfg(feature = "acme")]
pub(super) fn file(directory: &str, domains: &[String], issued: i64, key: &str, chain: &str) -> String {
    let domains = domains.join(" ");
    format!("Directory: {directory}\nDomains: {domains}\nIssued: {issued}\n{key}{chain}")
}

impl Certificate {
    /// Reads the content of the file, and checks that its parts belong together.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says what is wrong, without a byte of the key.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("the certificate by ACME cannot be used: {why}"));
        let (head, _) = text.split_once("-----BEGIN ").ok_or_else(|| bad("it is not PEM"))?;
        let line = |name: &str| {
            let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.ok_or_else(|| bad(&format!("it has no line `{name}`")))
        };
        let domains: Vec<String> = line("Domains")?.split(' ').map(str::to_owned).collect();
        let issued = line("Issued")?.parse().map_err(|_| bad("the line `Issued` is not a number"))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| bad("a certificate is not PEM"))?;
        // The error of the parser may quote the line that it does not understand.
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| bad("its key is not PEM"))?;
        let first = chain.first().ok_or_else(|| bad("there is no certificate"))?.clone();
        let parsed = |der| x509_parser::parse_x509_certificate(der).map_err(|_| bad("it is not X.509"));
        let (_, leaf) = parsed(&first)?;
        let ends = leaf.validity().not_after.timestamp();
        let names = leaf.subject_alternative_name().map_err(|_| bad("its names are not X.509"))?;
        let names: BTreeSet<String> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        if let Some(missing) = domains.iter().find(|domain| !names.contains(*domain)) {
            return Err(bad(&format!("it is not for `{}`", missing.escape_debug())));
        }
        let authority = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        });
        let name = authority.map(|authority| (authority, leaf.raw_serial().to_vec()));
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|e| bad("its key is not that of the first certificate").with_source(e))?;
        Ok(Self { directory: line("Directory")?.to_owned(), domains, issued, ends, name })
    }

    #[cfg(test)]
    pub(super) fn of_name(name: Option<Name>, issued: i64, ends: i64) -> Self {
        Self { directory: String::new(), domains: Vec::new(), issued, ends, name }
    }

    /// Whether it was requested for these domains, of this directory.
    pub(super) fn fits(&self, directory: &str, domains: &[String]) -> bool {
        self.directory == directory && self.domains == domains
    }

    /// When a new one is requested, in seconds since 1970: when a third of its life is left, and up to a twentieth of its life later,
    /// by `spread`, so that not all servers of the world come at once.
    pub(super) fn due(&self, spread: f64) -> i64 {
        // Its life begins when this server got it: a directory that dates certificates back must not be asked without end.
        let life = self.ends.saturating_sub(self.issued).max(0) as f64;
        self.issued.saturating_add((life * (2.0 / 3.0 + spread.clamp(0.0, 1.0) / 20.0)) as i64)
    }
}

#[cfg(test)]
#[cfg(feature = "acme")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        (key.serialize_pem(), params.self_signed(&key).unwrap().pem())
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let domains = ["a.example".to_owned(), "b.example".to_owned()];
        let (key, chain) = pair(&["b.example", "A.example", "more.example"]);
        let (start, end) = (1_577_836_800, 1_893_456_000);
        let text = file("https://ca.example/", &domains, start, &key, &chain);
        let read = Certificate::parse(&text).unwrap();
        assert!(read.fits("https://ca.example/", &domains));
        assert!(!read.fits("https://other.example/", &domains));
        assert!(!read.fits("https://ca.example/", &domains[..1]));
        let life = end - start;
        assert_eq!((read.ends, read.due(0.0)), (end, start + life * 2 / 3));
        assert!(read.due(1.0) > read.due(0.0) && read.due(1.0) < end - life / 4);
        let late = Certificate::parse(&text.replace("Issued: 1577836800", "Issued: 1893456001")).unwrap();
        assert_eq!(late.due(0.0), end + 1);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused_without_the_key() {
        let domains = ["a.example".to_owned()];
        let ((key, chain), (other, _)) = (pair(&["a.example"]), pair(&["a.example"]));
        let file = |key: &str, chain: &str| file("https://ca.example/", &domains, 1, key, chain);
        let good = file(&key, &chain);
        Certificate::parse(&good).unwrap();
        let secret = key.lines().nth(1).unwrap();
        for (text, part) in [
            (file(&other, &chain), "key is not that"),
            (file("", &chain), "key is not PEM"),
            (file(&key, ""), "no certificate"),
            (file(&key, &pair(&["c.example"]).1), "not for `a.example`"),
            (good.replace("Issued: 1", "Issued: x"), "Issued"),
            (good.replace("Directory", "directory"), "no line `Directory`"),
            (good.replace("Domains: a.example", "Domains: \u{1b}x"), "\\u{1b}x"),
            (good.replace("BEGIN CERTIFICATE-----\n", "BEGIN CERTIFICATE-----\n!"), "not PEM"),
            (good[..good.len() / 2].to_owned(), "PEM"),
            (String::new(), "not PEM"),
        ] {
            let e = Certificate::parse(&text).unwrap_err();
            let shown = format!("{e:?} {}", crate::standard_io::chain(&e));
            assert!(shown.contains(part) && !shown.contains(secret), "{part}: {shown}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = Certificate::parse(&text);
            let lines = format!("Directory: x\nDomains: a\nIssued: 1\n-----BEGIN {text}");
            let _ = Certificate::parse(&lines);
        }
    }
}
