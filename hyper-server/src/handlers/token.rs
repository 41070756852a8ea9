//! The token endpoint, `/v2/token`: a user with a password gets a token for what the user may do, an anonymous caller
//! gets one for what anonymous callers may do.
//!
//! GET is the docker token protocol, with Basic credentials; POST is the password grant of OAuth 2 (RFC 6749, section
//! 4.3), which some clients try first. There are no refresh tokens: a client sends the password again.

use super::{Outcome, json};
use crate::auth::{Action, AuthRequest, MAX_SCOPES, Resource};
use crate::body::Incoming;
use crate::call::Call;
use crate::error::ApiError;
use crate::route::{Rejection, TokenForm};
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
}

pub(super) async fn issue(call: &Call<'_>, mut scopes: Vec<String>, body: &mut Incoming) -> Outcome {
    let Some(tokens) = &call.tokens else { return Err(ApiError::not_found()) };
    let form = match *call.method() {
        Method::POST => Some(form(body).await?),
        _ => None,
    };
    if let Some(form) = &form {
        if form.grant_type != "password" {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED_GRANT_TYPE",
                "the only `grant_type` that is supported is `password`",
            ));
        }
        scopes.extend(form.scopes.iter().cloned());
    }
    if scopes.len() > MAX_SCOPES {
        return Err(Error::invalid(format!("one token is for at most {MAX_SCOPES} scopes")).into());
    }
    let login = form.as_ref().map(|form| (form.username.as_str(), form.password.as_str()));
    let allows = |who: &_, repository: Option<&_>, action| call.authorizer.allows(who, repository, action);
    let request =
        AuthRequest::new(call.parts, Resource::Registry, Action::Probe).with_client(call.turn.client());
    // Scopes of other kinds, and scopes with invalid names, are not granted.
    let wanted = scopes.iter().filter_map(|scope| scope.parse().ok());
    let (issued, granted) = tokens.token(&request, login, wanted, allows).await?;
    let scope: Vec<String> = granted.iter().map(ToString::to_string).collect();
    let answer = Answer {
        token: &issued.token,
        access_token: &issued.token,
        token_type: "Bearer",
        expires_in: issued.expires_in,
        issued_at: &issued.issued_at,
        scope: &scope.join(" "),
    };
    let bytes = serde_json::to_vec(&answer)
        .map_err(|e| Error::internal("a token cannot be written as JSON").with_source(e))?;
    let mut response = json(bytes);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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
