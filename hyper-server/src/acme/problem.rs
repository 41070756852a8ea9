//! What a directory says when something is wrong (RFC 8555, section 6.7), as an error of the server.

use hyper_sdk::{Error, ErrorKind};
use instant_acme::Problem;
use std::fmt::Write as _;

/// The longest text of a directory that is shown.
const SHOWN: usize = 500;

/// What an error of the protocol means.
pub(super) fn explain(e: instant_acme::Error) -> Error {
    match e {
        instant_acme::Error::Api(problem) => refusal(&problem),
        instant_acme::Error::Other(e) => match e.downcast::<Error>() {
            Ok(own) => *own,
            Err(e) => Error::new(ErrorKind::Unavailable, "the directory cannot be asked")
                .with_context("reason", shown(&e.to_string())),
        },
        instant_acme::Error::Timeout(_) => {
            Error::new(ErrorKind::Timeout, "the directory has not got on with the order in time")
        }
        e => Error::new(ErrorKind::Unavailable, "the answer of the directory is not well formed")
            .with_context("reason", shown(&e.to_string())),
    }
}

pub(super) fn refusal(problem: &Problem) -> Error {
    // An error of the directory itself is no answer.
    let is_own = problem.status.is_some_and(|status| status >= 500) || kind_of(problem) == "serverInternal";
    let kind = if is_own { ErrorKind::Unavailable } else { ErrorKind::Denied };
    Error::new(kind, format!("the directory says: {}", said(problem)))
}

/// The type of a problem, without the part that all have.
pub(super) fn kind_of(problem: &Problem) -> &str {
    problem.r#type.as_deref().unwrap_or_default().rsplit(':').next().unwrap_or_default()
}

pub(super) fn said(problem: &Problem) -> String {
    let mut text = problem.detail.as_deref().map(shown).unwrap_or_default();
    for part in &problem.subproblems {
        let _ = write!(text, "; {}", shown(&part.to_string()));
    }
    let kind = kind_of(problem);
    if !kind.is_empty() {
        let _ = write!(text, " ({})", shown(kind));
    }
    text.trim_start().to_owned()
}

/// A text of the directory, for a line of the log.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN).collect();
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Problem {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_directory_says_is_shown_on_one_short_line() {
        let text = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too\nmany","status":429,
            "subproblems":[{"type":"urn:ietf:params:acme:error:dns","detail":"x","identifier":{"type":"dns","value":"a"}}]}"#;
        let e = refusal(&problem(text));
        assert_eq!(e.kind(), ErrorKind::Denied);
        let shown = e.to_string();
        assert!(shown.contains("too\\nmany; for") && shown.ends_with("(rateLimited)"), "{shown}");
        let long = refusal(&problem(&format!("{{\"detail\":\"{}\"}}", "x".repeat(100_000))));
        assert!(long.to_string().len() < 1000);
        for own in [r#"{"type":"urn:ietf:params:acme:error:serverInternal"}"#, r#"{"status":503}"#] {
            assert_eq!(refusal(&problem(own)).kind(), ErrorKind::Unavailable, "{own}");
        }
    }
}
