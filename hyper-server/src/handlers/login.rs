//! Logins in a browser: `/login` sends it to the issuer, `/login/callback` shows the token.
//!
//! # Invariants
//! - A page has no script, no style and nothing from elsewhere, is in no frame, and is kept nowhere.
//! - What an issuer says is text of a bounded length.

use super::Outcome;
use crate::audit::Deed;
use crate::auth::{Callback, Failure, LoggedIn, Logins};
use crate::call::Call;
use crate::error::{ApiError, status_and_code};
use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::{Error, ErrorKind};
use std::fmt::Write as _;

/// The most characters of what an issuer says that are shown.
const MAX_SHOWN: usize = 300;

static HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Sends the browser to the issuer.
pub(super) async fn begin(call: &Call<'_>) -> Outcome {
    let logins = logins(call)?;
    match logins.begin().await {
        Ok((location, cookie)) => {
            let mut response = response(StatusCode::SEE_OTHER, Body::empty());
            let headers = response.headers_mut();
            set(headers, header::LOCATION, &location)?;
            set(headers, header::SET_COOKIE, &cookie)?;
            Ok(response)
        }
        Err(e) => refusal(logins, Failure::Failed(e)),
    }
}

/// Shows who has logged in, and the token, or why nobody has.
pub(super) async fn finish(call: &Call<'_>, callback: &Callback) -> Outcome {
    let logins = logins(call)?;
    let cookie = cookie(call.headers(), logins.cookie_name());
    // Before the issuer is asked in vain.
    if let Some(log) = &call.options.audit
        && let Err(e) = log.ready().await
    {
        return refusal(logins, Failure::Failed(e));
    }
    let outcome = match logins.finish(callback, cookie, call.turn.client()).await {
        Ok(new) => {
            let (who, deed) = (new.principal().clone(), Deed::create_token(new.id()));
            call.change_as(&who, deed, logins.keep(new)).await.map_err(|e| match e.kind() {
                ErrorKind::Conflict => Failure::Refused("this login has its token already"),
                _ => Failure::Failed(e),
            })
        }
        Err(failure) => Err(failure),
    };
    if let Err(Failure::Refused(why)) = &outcome {
        tracing::info!(why, "a login in a browser is refused");
    }
    match outcome {
        Ok(login) => page(logins, StatusCode::OK, "Logged in", &welcome(&login)),
        // A limit has its own answer, with the time to wait.
        Err(Failure::Failed(e)) if e.kind() == ErrorKind::TooManyRequests => Err(e.into()),
        Err(failure) => refusal(logins, failure),
    }
}

fn logins<'a>(call: &'a Call<'_>) -> Result<&'a Logins, ApiError> {
    let logins = call.logins.as_deref().ok_or_else(ApiError::not_found)?;
    match call.options.read_only {
        true => {
            Err(Error::unsupported("this registry is read-only: it can make no token for a login").into())
        }
        false => Ok(logins),
    }
}

/// The cookie of this name; the first, as a browser sends the one that fits best first.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn welcome(login: &LoggedIn) -> String {
    let (user, host, name) = (escaped(&login.user), escaped(&login.host), escaped(&login.login));
    let (token, id, expires) = (escaped(login.token.expose()), escaped(&login.id), rfc3339(login.expires));
    format!(
        "<p>You are <strong>{user}</strong>. This token is your password until {expires}. It is not shown again:</p>\n\
         <pre>{token}</pre>\n\
         <p>For docker, podman and others:</p>\n\
         <pre>printf %s '{token}' | docker login {host} --username {name} --password-stdin</pre>\n\
         <p>Its id is <code>{id}</code>: with it an administrator can take it back.</p>\n"
    )
}

/// The page of a login that nobody has made.
fn refusal(logins: &Logins, failure: Failure) -> Outcome {
    let (status, why) = match failure {
        Failure::Refused(why) => (StatusCode::FORBIDDEN, format!("<p>{}.</p>\n", escaped(&sentence(why)))),
        Failure::Issuer(error, description) => {
            tracing::info!(error = shown(&error), "an issuer refuses a login in a browser");
            let mut text = format!("<p>The issuer says: <code>{}</code></p>\n", escaped(&shown(&error)));
            if !description.is_empty() {
                let _ = writeln!(text, "<p>{}</p>", escaped(&shown(&description)));
            }
            (StatusCode::FORBIDDEN, text)
        }
        Failure::Failed(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "a login in a browser fails");
            let status = status_and_code(error.kind()).0;
            let status = if status.is_server_error() { status } else { StatusCode::INTERNAL_SERVER_ERROR };
            (status, "<p>The registry cannot check logins now. Try again later.</p>\n".to_owned())
        }
    };
    let again = format!("{why}<p><a href=\"{}\">Log in again</a></p>\n", escaped(&logins.start()));
    page(logins, status, "Not logged in", &again)
}

fn page(logins: &Logins, status: StatusCode, title: &str, content: &str) -> Outcome {
    let text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{title}</h1>\n{content}</body>\n</html>\n"
    );
    let length = text.len();
    let mut response = response(status, Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    set(headers, header::SET_COOKIE, &logins.no_cookie())?;
    Ok(response)
}

fn response(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in &HEADERS {
        response.headers_mut().insert(name.clone(), HeaderValue::from_static(value));
    }
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(value)
        .map_err(|e| Error::internal("a header of a login cannot be written").with_source(e))?;
    headers.insert(name, value);
    Ok(())
}

/// A reason as a sentence.
fn sentence(why: &str) -> String {
    let mut characters = why.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

/// The beginning of what an issuer says, without characters that nobody sees.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !crate::auth::is_unseen(*c)).take(MAX_SHOWN).collect()
}

/// Text in HTML, also between quotation marks.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        assert_eq!(escaped("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
        assert_eq!(shown(&"x\u{202e}\n".repeat(1000)).len(), MAX_SHOWN);
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; xlogin=no; login=yes"));
        headers.append(header::COOKIE, HeaderValue::from_static("login=later"));
        assert_eq!(cookie(&headers, "login"), Some("yes"));
        assert_eq!(cookie(&headers, "other"), None);
    }
}
