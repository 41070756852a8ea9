//! The token endpoint, `/v2/token`: a user with a password gets a token for what the user may do, an anonymous caller
//! gets one for what anonymous callers may do.
//!
//! GET is the docker token protocol, with Basic credentials; POST is OAuth 2 (RFC 6749) with the grants `password` (section 4.3),
//! which some clients try first, and `refresh_token` (section 6). A client that asks for it (`offline_token=true`, or
//! `access_type=offline` in a POST) gets a refresh token for its password, and stores that one.
//!
//! GET of `/v2/token/keys` has the public keys of the tokens.

use super::{Outcome, json};
use crate::audit::Deed;
use crate::auth::{Action, AuthRequest, MAX_SCOPES, Proof, Resource, TokenRequest};
use crate::body::Incoming;
use crate::call::Call;
use crate::cors::Cors;
use crate::error::ApiError;
use crate::route::{Rejection, TokenForm, TokenQuery};
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use hyper_sdk::Error;
use serde::Serialize;

/// The largest form that is read.
const FORM: usize = 64 << 10;

#[derive(Serialize)]
struct Answer<'a> {
    token: &'a str,
    access_token: &'a str,
    token_type: &'a str,
    expires_in: i64,
    issued_at: &'a str,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

pub(super) async fn issue(call: &Call<'_>, mut query: TokenQuery, body: &mut Incoming) -> Outcome {
    let Some(tokens) = &call.tokens else { return Err(ApiError::not_found()) };
    let form = match *call.method() {
        // It could use up the wrong passwords of the address at which somebody reads it.
        Method::POST if Cors::is_stranger(call.options.cors.as_ref(), call.headers()) => {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "DENIED",
                "a page of another origin must not log in: `cors` in the configuration names those that may",
            ));
        }
        Method::POST => Some(form(body).await?),
        _ => None,
    };
    let mut proof = Proof::Header;
    if let Some(form) = &form {
        proof = match form.grant_type.as_str() {
            "password" => Proof::Password(&form.username, &form.password),
            "refresh_token" => Proof::Refresh(&form.refresh_token),
            _ => {
                return Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "UNSUPPORTED_GRANT_TYPE",
                    "each `grant_type` but `password` and `refresh_token` is not supported",
                ));
            }
        };
        query.scopes.extend(form.query.scopes.iter().cloned());
        query.offline |= form.query.offline;
        query.client.clone_from(&form.query.client);
    }
    if query.scopes.len() > MAX_SCOPES {
        return Err(Error::invalid(format!("one token is for at most {MAX_SCOPES} scopes")).into());
    }
    let allows = |who: &_, repository: Option<&_>, action| call.authorizer.allows(who, repository, action);
    let request =
        AuthRequest::new(call.parts, Resource::Registry, Action::Probe).with_client(call.turn.client());
    // Scopes of other kinds, and scopes with invalid names, are not granted.
    let wanted = query.scopes.iter().filter_map(|scope| scope.parse().ok());
    let asked = TokenRequest { proof, offline: query.offline, client: &query.client };
    let mut given = tokens.token(&request, &asked, wanted, allows).await?;
    if let Some(refresh) = &given.refresh {
        let deed = Deed::create_token(refresh.id());
        match &call.options.audit {
            // A client without it keeps the password.
            Some(log) if log.ready().await.is_err() => given.refresh = None,
            _ => call.change_as(&given.principal, deed, tokens.keep_refresh(refresh)).await?,
        }
    }
    let scope: Vec<String> = given.scopes.iter().map(ToString::to_string).collect();
    let answer = Answer {
        token: &given.issued.token,
        access_token: &given.issued.token,
        token_type: "Bearer",
        expires_in: given.issued.expires_in,
        issued_at: &given.issued.issued_at,
        scope: &scope.join(" "),
        refresh_token: given.refresh.as_ref().map(|refresh| refresh.text().expose()),
    };
    let bytes = serde_json::to_vec(&answer)
        .map_err(|e| Error::internal("a token cannot be written as JSON").with_source(e))?;
    let mut response = json(bytes);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The public keys of the tokens (RFC 7517), for others who verify them.
pub(super) fn keys(call: &Call<'_>) -> Outcome {
    let keys =
        call.tokens.as_ref().and_then(|tokens| tokens.public_keys()).ok_or_else(ApiError::not_found)?;
    let mut response = json(keys.into_bytes());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    Ok(response)
}

async fn form(body: &mut Incoming) -> Result<TokenForm, ApiError> {
    let bytes = body.read_all(FORM).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::invalid("the form is not valid UTF-8").with_source(e))?;
    TokenForm::parse(text).map_err(|rejection| match rejection {
        Rejection::Malformed(e) => e.into(),
        _ => ApiError::not_found(),
    })
}
