//! The demand for credentials: `WWW-Authenticate` (RFC 9110, section 11.6.1).

use http::HeaderValue;

/// The demand for credentials: a response with the status 401 and these authentication schemes.
///
/// ```
/// use hyper_server::auth::Challenge;
///
/// let challenge = Challenge::bearer("https://auth.example.com/token", "registry.example.com")
///     .with("scope", "repository:team/app:pull")
///     .because("the token has expired");
/// assert_eq!(
///     challenge.values()[0],
///     r#"Bearer realm="https://auth.example.com/token",service="registry.example.com",scope="repository:team/app:pull""#
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    values: Vec<HeaderValue>,
    reason: String,
}

impl Challenge {
    /// A scheme without parameters.
    pub fn new(scheme: &str) -> Self {
        Self { values: vec![visible(scheme)], reason: "authentication is required: log in first".to_owned() }
    }

    /// The Basic scheme (RFC 7617): a user name and a password.
    pub fn basic(realm: &str) -> Self {
        Self::new("Basic").with("realm", realm).with("charset", "UTF-8")
    }

    /// The Bearer scheme of the docker token protocol: clients fetch a token for `service` at the URL `realm`.
    pub fn bearer(realm: &str, service: &str) -> Self {
        Self::new("Bearer").with("realm", realm).with("service", service)
    }

    /// Adds a parameter to the last scheme. Characters that are not allowed in a header are removed from the value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Some(last) = self.values.last_mut() {
            let before = last.to_str().unwrap_or_default();
            let separator = if before.contains('=') { "," } else { " " };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            *last = visible(&format!("{before}{separator}{name}=\"{value}\""));
        }
        self
    }

    /// Adds the schemes of another challenge. Clients use the first scheme that they support.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.values.extend(other.values);
        self
    }

    /// Sets the reason, which is the message in the body of the response.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The values of `WWW-Authenticate`, one for each scheme.
    pub fn values(&self) -> &[HeaderValue] {
        &self.values
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A header value of the visible characters of a text.
fn visible(text: &str) -> HeaderValue {
    let text: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    HeaderValue::from_str(&text).expect("visible ASCII characters can stand in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_quotes_its_parameters() {
        let challenge = Challenge::basic("a \"b\" \\ c\r\nX: é").or(Challenge::new("Negotiate"));
        assert_eq!(challenge.values()[0], r#"Basic realm="a \"b\" \\ cX: ",charset="UTF-8""#);
        assert_eq!(challenge.values()[1], "Negotiate");
        assert_eq!(challenge.because("why").reason(), "why");
    }
}
