//! The shapes of values that are texts in the configuration file and something else in the program, for its schema.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// One text, or a list of texts.
pub(crate) struct OneOrMore;

impl JsonSchema for OneOrMore {
    fn schema_name() -> Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1})
    }
}

/// [`crate::auth::AnonymousAccess`] in the file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) enum AccessShape {
    None,
    Pull,
    Full,
}

/// [`crate::config::LogFormat`] in the file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) enum LogFormatShape {
    Text,
    Json,
}

/// [`crate::ClientAuth`] in the file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) enum ClientAuthShape {
    Required,
    Optional,
}

/// [`crate::AcmeChallenge`] in the file.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) enum ChallengeShape {
    #[schemars(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[schemars(rename = "http-01")]
    Http01,
}

/// [`crate::NameRule`] in the file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) enum NameShape {
    Cn,
    Dns,
    Email,
    Uri,
}

/// [`crate::WrongPasswords`] in the file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) struct WrongPasswordsShape {
    /// How often for one user from one address: `10/10m`, or `off`.
    user_at_address: Option<String>,
    /// How often from one address, for all users together: `100/10m`, or `off`.
    address: Option<String>,
    /// How often for one user, from all addresses: `1000/h`, or `off`.
    user: Option<String>,
}

/// [`crate::Allowance`] in the file.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "a shape for the schema")]
pub(crate) struct AllowanceShape {
    /// How often it may read: `100/s burst 1000`, `600/m`, or `off`.
    reads: Option<String>,
    /// How often it may write: `20/s burst 200`, or `off`.
    writes: Option<String>,
    /// How many requests it may have under way at once.
    #[schemars(range(min = 1))]
    requests_at_once: Option<u32>,
    /// How many of them may send bytes of blobs.
    #[schemars(range(min = 1))]
    uploads_at_once: Option<u32>,
    /// How many bytes it may send in a second: `50MiB/s`, or `off`.
    upload: Option<String>,
    /// How many bytes it may get in a second: `50MiB/s`, or `off`.
    download: Option<String>,
}
