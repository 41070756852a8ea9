//! The part of a request that an authenticator gets.

use super::{Action, Scope};
use crate::connection::ConnectionInfo;
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Uri};
use hyper_sdk::RepositoryName;
use std::net::IpAddr;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource<'a> {
    /// The registry as a whole.
    Registry,
    /// The list of repositories.
    Catalog,
    /// The metrics, when they are for users only.
    Metrics,
    /// A repository.
    Repository(&'a RepositoryName),
}

impl<'a> Resource<'a> {
    /// The repository, when it is one.
    pub fn repository(self) -> Option<&'a RepositoryName> {
        match self {
            Self::Repository(name) => Some(name),
            _ => None,
        }
    }
}

/// A request to authenticate: its head, its connection, its resource and its action.
#[derive(Clone, Copy, Debug)]
pub struct AuthRequest<'a> {
    parts: &'a Parts,
    resource: Resource<'a>,
    action: Action,
    client: Option<IpAddr>,
}

impl<'a> AuthRequest<'a> {
    /// A request for `action` on a resource.
    pub fn new(parts: &'a Parts, resource: Resource<'a>, action: Action) -> Self {
        Self { parts, resource, action, client: None }
    }

    /// The same request, of a client with this address.
    #[must_use]
    pub fn with_client(self, client: Option<IpAddr>) -> Self {
        Self { client, ..self }
    }

    /// The address of the client: that of the connection, or the one that a trusted proxy says. `None` when nobody says it,
    /// as at a socket of the file system.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The method.
    pub fn method(&self) -> &'a Method {
        &self.parts.method
    }

    /// The target.
    pub fn uri(&self) -> &'a Uri {
        &self.parts.uri
    }

    /// The headers.
    pub fn headers(&self) -> &'a HeaderMap {
        &self.parts.headers
    }

    /// The connection, when the request came through [`serve`](crate::serve).
    pub fn connection(&self) -> Option<&'a ConnectionInfo> {
        self.parts.extensions.get()
    }

    /// The extensions that outer layers added, such as the certificate of the client.
    pub fn extensions(&self) -> &'a Extensions {
        &self.parts.extensions
    }

    /// What the request is about.
    pub fn resource(&self) -> Resource<'a> {
        self.resource
    }

    /// The repository that the request is about, when it is about one.
    pub fn repository(&self) -> Option<&'a RepositoryName> {
        self.resource.repository()
    }

    /// What the request does there.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The scope that a token needs for this request: the catalog, or the action in the repository together with pull,
    /// because clients that push also read.
    pub fn scope(&self) -> Option<Scope> {
        if self.resource == Resource::Catalog {
            return Some(Scope::catalog());
        }
        let actions = match self.action {
            Action::Probe | Action::Pull => vec![Action::Pull],
            other => vec![Action::Pull, other],
        };
        Some(Scope::new(self.repository()?.clone(), actions))
    }

    /// The token of an `Authorization` header of the Bearer scheme (RFC 6750).
    pub fn bearer(&self) -> Option<&'a str> {
        let (scheme, token) = self.authorization()?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// The user and the password of an `Authorization` header of the Basic scheme (RFC 7617).
    pub fn basic(&self) -> Option<(String, String)> {
        let (scheme, encoded) = self.authorization()?;
        scheme.eq_ignore_ascii_case("basic").then(|| decode_basic(encoded))?
    }

    fn authorization(&self) -> Option<(&'a str, &'a str)> {
        self.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')
    }

    /// Whether the request has an `Authorization` header.
    pub fn has_authorization(&self) -> bool {
        self.headers().contains_key(http::header::AUTHORIZATION)
    }
}

fn decode_basic(encoded: &str) -> Option<(String, String)> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let mut user = String::from_utf8(bytes).ok()?;
    let colon = user.find(':')?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(authorization: &str) -> Parts {
        http::Request::get("/v2/").header("authorization", authorization).body(()).unwrap().into_parts().0
    }

    #[test]
    fn basic_credentials_are_read_strictly() {
        let read = |s: &str| AuthRequest::new(&parts(s), Resource::Registry, Action::Probe).basic();
        assert_eq!(read("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        assert_eq!(read("bAsIc YTo="), Some(("a".into(), String::new())));
        for bad in ["Bearer x", "Basic", "Basic !!", "Basic YQ==", "Basic /w=="] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bearer_token_is_what_follows_its_scheme() {
        let read = |s: &str| {
            AuthRequest::new(&parts(s), Resource::Registry, Action::Probe).bearer().map(str::to_owned)
        };
        assert_eq!(read("beArer  x.y "), Some("x.y".to_owned()));
        for bad in ["Basic x", "Bearer", "x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
