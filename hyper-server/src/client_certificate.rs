//! The certificate of a client, and the name of the user in it.

use hyper_sdk::{Error, Result};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The longest name that is taken from a certificate, in bytes.
const MAX_NAME: usize = 256;

/// Which part of a client certificate is the name of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// The common name of the subject.
    #[default]
    CommonName,
    /// The DNS name of the alternative names.
    Dns,
    /// The address of mail of the alternative names.
    Email,
    /// The URI of the alternative names, as SPIFFE has it.
    Uri,
}

impl FromStr for NameRule {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "cn" => Ok(Self::CommonName),
            "dns" => Ok(Self::Dns),
            "email" => Ok(Self::Email),
            "uri" => Ok(Self::Uri),
            _ => Err(Error::invalid(format!(
                "invalid part of a certificate `{}`: use cn, dns, email or uri",
                s.escape_debug()
            ))),
        }
    }
}

/// The certificate by which the client of a connection has shown who it is. [`serve`](crate::serve) adds it to the
/// extensions of each request of such a connection, after its chain was verified. Clones share their data.
#[derive(Clone)]
pub struct ClientCertificate(Arc<Parts>);

struct Parts {
    der: CertificateDer<'static>,
    name: Option<String>,
}

impl ClientCertificate {
    pub(crate) fn new(der: CertificateDer<'static>, rule: NameRule) -> Self {
        let name = name(&der, rule);
        Self(Arc::new(Parts { der, name }))
    }

    /// The certificate, in DER.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The name of the user; `None` when the certificate does not have exactly one, or one that cannot be a name.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// The one name of a certificate. Two make it unclear who the client is.
fn name(der: &CertificateDer<'_>, rule: NameRule) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let mut names = names(&certificate, rule)?;
    let name = names.pop().filter(|_| names.is_empty())?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    is_name.then_some(name)
}

fn names(certificate: &X509Certificate<'_>, rule: NameRule) -> Option<Vec<String>> {
    if rule == NameRule::CommonName {
        return certificate
            .subject()
            .iter_common_name()
            .map(|name| name.as_str().ok().map(str::to_owned))
            .collect();
    }
    let names = certificate.subject_alternative_name().ok()??;
    let of_rule = |name: &GeneralName<'_>| match (rule, name) {
        (NameRule::Dns, GeneralName::DNSName(name))
        | (NameRule::Email, GeneralName::RFC822Name(name))
        | (NameRule::Uri, GeneralName::URI(name)) => Some((*name).to_owned()),
        _ => None,
    };
    Some(names.value.general_names.iter().filter_map(of_rule).collect())
}
