//! The keys of an issuer over HTTP (OpenID Connect Discovery 1.0, section 4).

use super::fetched::Fetched;
use super::options::{IssuerKeys, IssuerOptions};
use hyper_sdk::client::{DocumentClient, DocumentOptions, Proxies, read_authorities};
use hyper_sdk::{Error, Result, ResultExt as _};
use serde::Deserialize;

#[derive(Debug)]
pub(super) struct Web {
    client: DocumentClient,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Keys(String),
    /// The issuer, whose document says where the keys are.
    Discovery(String),
}

/// The members of the document that are read.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Web {
    pub(super) fn new(options: &IssuerOptions) -> Result<Self> {
        let (key, place) = match &options.keys {
            IssuerKeys::Url(url) => ("jwks-url", Place::Keys(url.clone())),
            _ => ("url", Place::Discovery(options.url.clone())),
        };
        let (Place::Keys(url) | Place::Discovery(url)) = &place;
        DocumentClient::check(url).context("key", key)?;
        let roots = options.authorities.iter().map(|path| read_authorities(path)).collect::<Result<_>>()?;
        // As other programs read them.
        let proxies = Proxies::from_variables(|name| std::env::var(name).ok());
        let client = DocumentClient::new(&DocumentOptions { roots, proxies, ..DocumentOptions::default() })?;
        Ok(Self { client, place })
    }

    pub(super) async fn fetch(&self) -> Result<Fetched> {
        let url = match &self.place {
            Place::Keys(url) => url.clone(),
            Place::Discovery(issuer) => self.discover(issuer).await?,
        };
        let document = self.client.get(&url).await?;
        Ok(Fetched { bytes: document.bytes, max_age: document.max_age })
    }

    /// Where an issuer has its keys.
    async fn discover(&self, issuer: &str) -> Result<String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = self.client.get(&url).await?;
        let found: Discovery = serde_json::from_slice(&document.bytes).map_err(|_| {
            Error::invalid("the document does not say where the keys are").with_context("url", &url)
        })?;
        if found.issuer != issuer {
            return Err(Error::invalid("the document is that of another issuer")
                .with_context("url", url)
                .with_context("found", found.issuer.escape_debug()));
        }
        // An issuer elsewhere has no keys on this machine.
        if issuer.starts_with("https:") && !found.jwks_uri.starts_with("https:") {
            return Err(Error::invalid("the document of an issuer with https names keys without it")
                .with_context("url", url));
        }
        Ok(found.jwks_uri)
    }
}
