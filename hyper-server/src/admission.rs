//! Admission of a request: it is authenticated, then authorized.

use crate::auth::{Action, AuthRequest, Challenge, Denial, Principal, Resource, decide};
use crate::error::ApiError;
use crate::route::Endpoint;
use crate::state::State;
use http::StatusCode;
use http::request::Parts;
use hyper_sdk::Error;

/// Authenticates and authorizes a request. Sets `principal` as soon as it is known.
///
/// A request without an endpoint is malformed. A caller without the right to probe the registry gets a challenge
/// instead of the reason.
pub(crate) async fn admit(
    state: &State,
    endpoint: Option<&Endpoint>,
    parts: &Parts,
    principal: &mut Principal,
) -> Result<(), ApiError> {
    if endpoint.is_some_and(|endpoint| is_public(state, endpoint)) {
        return Ok(());
    }
    let action = endpoint.map_or(Action::Probe, |endpoint| action(endpoint, parts));
    let resource = endpoint.map_or(Resource::Registry, resource);
    let request = AuthRequest::new(parts, resource, action);
    *principal = state.authenticator.authenticate(&request).await?;
    let challenge = |denial| state.authenticator.challenge(&request, principal, denial);
    if let Err(denial) = decide(&*state.authorizer, principal, resource, action) {
        return Err(refusal(challenge(denial)));
    }
    let is_probe = matches!(endpoint, Some(Endpoint::Base));
    if is_probe
        && principal.is_anonymous()
        && principal.scopes().is_none()
        && let Some(challenge) = challenge(Denial::Login)
    {
        return Err(challenge.into());
    }
    if state.options.read_only && matches!(action, Action::Push | Action::Delete) {
        return Err(Error::unsupported("this registry is read-only").into());
    }
    Ok(())
}

/// Whether the request needs no authentication. The token endpoint checks credentials itself.
fn is_public(state: &State, endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Live | Endpoint::Ready | Endpoint::Token(_) => true,
        Endpoint::Metrics => !state.options.metrics_for_users,
        _ => false,
    }
}

fn resource(endpoint: &Endpoint) -> Resource<'_> {
    match endpoint {
        Endpoint::Catalog(_) => Resource::Catalog,
        Endpoint::Metrics => Resource::Metrics,
        other => other.repository().map_or(Resource::Registry, Resource::Repository),
    }
}

fn action(endpoint: &Endpoint, parts: &Parts) -> Action {
    match (endpoint, parts.method.as_str()) {
        (Endpoint::Base | Endpoint::Extensions(None) | Endpoint::Catalog(_) | Endpoint::Metrics, _) => {
            Action::Probe
        }
        (Endpoint::StartUpload { .. } | Endpoint::Upload { .. }, _) | (_, "PUT") => Action::Push,
        (_, "DELETE") => Action::Delete,
        _ => Action::Pull,
    }
}

fn refusal(challenge: Option<Challenge>) -> ApiError {
    challenge.map_or_else(
        || ApiError::new(StatusCode::FORBIDDEN, "DENIED", "the access is denied"),
        ApiError::from,
    )
}
