//! The parameters in the query of a request, and in forms, and why a request is rejected before it is looked at.

use crate::event_query::EventQuery;
use hyper_sdk::digest::Algorithm;
use hyper_sdk::store::Page;
use hyper_sdk::{Digest, Error, RepositoryName};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// Why a request line is rejected.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// A name, a digest or a parameter is malformed.
    Malformed(Error),
    /// No such resource.
    NotFound,
    /// The resource does not support the method. The text is the value of the `Allow` header.
    Method(&'static str),
}

impl From<Error> for Rejection {
    fn from(e: Error) -> Self {
        Self::Malformed(e)
    }
}

/// The query parameters of a request for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenQuery {
    /// The scopes.
    pub(crate) scopes: Vec<String>,
    /// Whether the client wants a refresh token.
    pub(crate) offline: bool,
    /// The name of the client program.
    pub(crate) client: String,
}

/// The query parameters of the request that starts an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartUpload {
    /// The digest of the content in the body, for an upload in one request (end-4b).
    pub(crate) digest: Option<Digest>,
    /// The algorithm of the digest of the closing request (end-4c).
    pub(crate) algorithm: Option<Algorithm>,
    /// The blob to mount (end-11).
    pub(crate) mount: Option<Digest>,
    /// The repository to mount it from.
    pub(crate) from: Option<RepositoryName>,
}

/// The parameters of a query, decoded, in their order. Unknown parameters are ignored, because clients may send `ns` to
/// any registry, and proxies add their own.
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Rejection> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((form_decode(key)?, form_decode(value)?));
        }
        Ok(Self(pairs))
    }

    pub(crate) fn all(&self, key: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_ref())
    }

    pub(crate) fn first(&self, key: &'static str) -> Option<&str> {
        self.all(key).next()
    }

    pub(crate) fn digest(&self, key: &'static str) -> Result<Option<Digest>, Rejection> {
        Ok(self.first(key).map(Digest::parse).transpose()?)
    }

    pub(crate) fn page(&self) -> Result<Page, Rejection> {
        let limit = match self.first("n") {
            None => None,
            Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
                Some(n.parse().unwrap_or(usize::MAX))
            }
            Some(_) => {
                return Err(Error::invalid("the parameter `n` must be a number of entries, 0 or more").into());
            }
        };
        Ok(Page { limit, after: self.first("last").filter(|l| !l.is_empty()).map(str::to_owned) })
    }

    /// A parameter that is `true`, `false` or not there.
    pub(crate) fn flag(&self, key: &'static str) -> Result<bool, Rejection> {
        match self.first(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Error::invalid(format!("the parameter `{key}` must be `true` or `false`")).into()),
        }
    }

    /// What a query or a form asks for at the token endpoint: in a query `offline_token=true` is docker's word, in a form
    /// `access_type=offline`.
    pub(crate) fn token(&self) -> TokenQuery {
        TokenQuery {
            scopes: scopes(self.all("scope")),
            offline: self.first("offline_token") == Some("true")
                || self.first("access_type") == Some("offline"),
            client: self.first("client_id").unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn events(&self) -> Result<EventQuery, Rejection> {
        Ok(EventQuery::parse(self.first("since"), self.page()?.limit, self.first("wait"))?)
    }

    pub(crate) fn start_upload(&self) -> Result<StartUpload, Rejection> {
        Ok(StartUpload {
            digest: self.digest("digest")?,
            algorithm: self.first("digest-algorithm").map(str::parse).transpose()?,
            mount: self.digest("mount")?,
            from: self.first("from").filter(|f| !f.is_empty()).map(RepositoryName::parse).transpose()?,
        })
    }
}

fn form_decode(text: &str) -> Result<Cow<'_, str>, Rejection> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| Error::invalid("a parameter of the query is not valid UTF-8"))?;
    Ok(Cow::Owned(decoded.into_owned()))
}

/// The scopes of a list, each of which may hold several, separated by spaces.
fn scopes<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}
