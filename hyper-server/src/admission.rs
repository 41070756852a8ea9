//! Admission of a request: it is authenticated, then authorized.

use crate::auth::{Action, AuthRequest, Challenge, Denial, Principal, Resource, decide};
use crate::error::ApiError;
use crate::route::Endpoint;
use crate::state::State;
use crate::throttle::{Kind, Turn};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper_sdk::Error;

/// Authenticates and authorizes a request. Sets `principal` as soon as it is known.
///
/// A request without an endpoint is malformed. A caller without the right to probe the registry gets a challenge
/// instead of the reason. What the request needs of the limits of a user is taken when the user is known; of those
/// without credentials, when it is admitted, so that what is refused for want of credentials takes nothing.
pub(crate) async fn admit(
    state: &State,
    endpoint: Option<&Endpoint>,
    parts: &Parts,
    principal: &mut Principal,
    turn: &mut Turn,
) -> Result<(), ApiError> {
    if endpoint.is_some_and(|endpoint| is_public(state, endpoint)) {
        return Ok(());
    }
    let action = endpoint.map_or(Action::Probe, |endpoint| action(endpoint, &parts.method));
    let resource = endpoint.map_or(Resource::Registry, resource);
    let request = AuthRequest::new(parts, resource, action).with_client(turn.client());
    *principal = state.authenticator.authenticate(&request).await?;
    // Before anything that is refused to a known user, who could otherwise ask for ever.
    if !principal.is_anonymous() {
        turn.of_principal(&state.throttle, principal.name())?;
    }
    let challenge = |denial| state.authenticator.challenge(&request, principal, denial);
    if let Err(denial) = decide(&*state.authorizer, principal, resource, action) {
        return Err(refusal(challenge(denial), resource, action));
    }
    let is_probe = matches!(endpoint, Some(Endpoint::Base));
    if is_probe
        && principal.is_anonymous()
        && principal.scopes().is_none()
        && let Some(challenge) = challenge(Denial::Login)
    {
        return Err(challenge.into());
    }
    if principal.is_anonymous() {
        turn.of_principal(&state.throttle, None)?;
    }
    // The list needs the right to push, and writes nothing.
    let writes = matches!(action, Action::Push | Action::Delete)
        && !matches!(endpoint, Some(Endpoint::Deletions { .. }));
    if state.options.read_only && writes {
        return Err(Error::unsupported("this registry is read-only").into());
    }
    Ok(())
}

/// What a request counts as for the limits of clients; `None` for those that no limit refuses.
pub(crate) fn kind(state: &State, endpoint: Option<&Endpoint>, method: &Method) -> Option<Kind> {
    match (endpoint, method) {
        (Some(Endpoint::Live | Endpoint::Ready), _) => None,
        // Where they are for users, a request has a password to be checked.
        (Some(Endpoint::Metrics), _) if !state.options.metrics_for_users => None,
        (Some(Endpoint::Token(_)), _) | (_, &Method::GET | &Method::HEAD | &Method::OPTIONS) => {
            Some(Kind::Read)
        }
        (_, &Method::DELETE) => Some(Kind::Write),
        (Some(Endpoint::StartUpload { .. }), _) => Some(Kind::Upload),
        (Some(Endpoint::Upload { .. }), _) => Some(Kind::Chunk),
        _ => Some(Kind::Write),
    }
}

/// Whether the request needs no authentication. The token endpoint and logins check credentials themselves.
fn is_public(state: &State, endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Live | Endpoint::Ready | Endpoint::Token(_) | Endpoint::TokenKeys => true,
        Endpoint::Login | Endpoint::LoginCallback(_) => true,
        Endpoint::Metrics => !state.options.metrics_for_users,
        Endpoint::Base
        | Endpoint::Catalog(_)
        | Endpoint::Extensions(_)
        | Endpoint::Blob { .. }
        | Endpoint::StartUpload { .. }
        | Endpoint::Upload { .. }
        | Endpoint::Manifest { .. }
        | Endpoint::Tags { .. }
        | Endpoint::Events(_)
        | Endpoint::TagHistory { .. }
        | Endpoint::TagRecords { .. }
        | Endpoint::Deletions { .. }
        | Endpoint::Deletion { .. }
        | Endpoint::Referrers { .. } => false,
    }
}

/// What a request is about. Every endpoint is named, so that a new one is decided on.
pub(crate) fn resource(endpoint: &Endpoint) -> Resource<'_> {
    match endpoint {
        Endpoint::Catalog(_) | Endpoint::Events(_) => Resource::Catalog,
        Endpoint::Metrics => Resource::Metrics,
        Endpoint::Blob { repository, .. }
        | Endpoint::StartUpload { repository, .. }
        | Endpoint::Upload { repository, .. }
        | Endpoint::Manifest { repository, .. }
        | Endpoint::Tags { repository, .. }
        | Endpoint::Referrers { repository, .. }
        | Endpoint::TagHistory { repository, .. }
        | Endpoint::TagRecords { repository, .. }
        | Endpoint::Deletions { repository, .. }
        | Endpoint::Deletion { repository, .. }
        | Endpoint::Extensions(Some(repository)) => Resource::Repository(repository),
        Endpoint::Base
        | Endpoint::Extensions(None)
        | Endpoint::Live
        | Endpoint::Ready
        | Endpoint::Token(_)
        | Endpoint::Login
        | Endpoint::LoginCallback(_)
        | Endpoint::TokenKeys => Resource::Registry,
    }
}

/// What a request does there. A method counts as writing unless it is known to be another: who may only read gets no
/// more through a method that is added later.
fn action(endpoint: &Endpoint, method: &Method) -> Action {
    match endpoint {
        Endpoint::Base
        | Endpoint::Extensions(None)
        | Endpoint::Catalog(_)
        | Endpoint::Events(_)
        | Endpoint::Metrics
        | Endpoint::Live
        | Endpoint::Ready
        | Endpoint::Token(_)
        | Endpoint::Login
        | Endpoint::LoginCallback(_)
        | Endpoint::TokenKeys => Action::Probe,
        // Who may only pull does not learn the names of tags that are gone.
        Endpoint::StartUpload { .. } | Endpoint::Upload { .. } | Endpoint::Deletions { .. } => Action::Push,
        Endpoint::Blob { .. }
        | Endpoint::Manifest { .. }
        | Endpoint::Tags { .. }
        | Endpoint::Referrers { .. }
        | Endpoint::TagHistory { .. }
        | Endpoint::TagRecords { .. }
        | Endpoint::Deletion { .. }
        | Endpoint::Extensions(Some(_)) => match *method {
            Method::GET | Method::HEAD => Action::Pull,
            Method::DELETE => Action::Delete,
            _ => Action::Push,
        },
    }
}

/// The same whether the repository exists or not.
pub(crate) fn refusal(challenge: Option<Challenge>, resource: Resource<'_>, action: Action) -> ApiError {
    let message = || match (resource.repository(), action) {
        (Some(name), Action::Probe | Action::Pull) => format!("no permission to pull from `{name}`"),
        (Some(name), Action::Push) => format!("no permission to push to `{name}`"),
        (Some(name), Action::Delete) => format!("no permission to delete in `{name}`"),
        (None, _) => "the access is denied".to_owned(),
    };
    let denied = || ApiError::new(StatusCode::FORBIDDEN, "DENIED", message());
    challenge.map_or_else(denied, ApiError::from).into_refusal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::parse;

    const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "QUERY"];

    #[test]
    fn the_right_to_read_is_enough_for_reading_methods_alone() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for path in [
            format!("/v2/a/b/blobs/{digest}"),
            "/v2/a/b/manifests/latest".to_owned(),
            "/v2/a/b/tags/list".to_owned(),
            format!("/v2/a/b/referrers/{digest}"),
            "/v2/a/b/_oci/ext/discover".to_owned(),
            "/v2/a/b/_hyper/tags/latest/history".to_owned(),
        ] {
            let endpoint = parse(&Method::GET, &path, None).unwrap();
            assert_eq!(resource(&endpoint).repository().unwrap().as_str(), "a/b", "{path}");
            for text in METHODS {
                let method = Method::from_bytes(text.as_bytes()).unwrap();
                let expected = match text {
                    "GET" | "HEAD" => Action::Pull,
                    "DELETE" => Action::Delete,
                    _ => Action::Push,
                };
                assert_eq!(action(&endpoint, &method), expected, "{text} {path}");
            }
        }
    }

    #[test]
    fn uploads_and_lists_of_deletions_need_the_right_to_push_whatever_the_method() {
        for path in [
            "/v2/a/b/blobs/uploads/",
            "/v2/a/b/blobs/uploads/0123456789abcdef0123456789abcdef",
            "/v2/a/b/_hyper/deleted",
        ] {
            let endpoint =
                [Method::POST, Method::GET].iter().find_map(|m| parse(m, path, None).ok()).unwrap();
            assert_eq!(resource(&endpoint).repository().unwrap().as_str(), "a/b", "{path}");
            for text in METHODS {
                let method = Method::from_bytes(text.as_bytes()).unwrap();
                assert_eq!(action(&endpoint, &method), Action::Push, "{text} {path}");
            }
        }
    }

    #[test]
    fn what_belongs_to_no_repository_is_a_probe() {
        for path in ["/v2/", "/v2/_catalog", "/v2/_hyper/events", "/metrics", "/livez", "/readyz"] {
            let endpoint = parse(&Method::GET, path, None).unwrap();
            assert!(resource(&endpoint).repository().is_none(), "{path}");
            assert_eq!(action(&endpoint, &Method::GET), Action::Probe, "{path}");
        }
        assert!(matches!(resource(&parse(&Method::GET, "/v2/_catalog", None).unwrap()), Resource::Catalog));
        assert!(matches!(resource(&parse(&Method::GET, "/metrics", None).unwrap()), Resource::Metrics));
    }
}
