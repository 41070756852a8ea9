//! The tables `[[auth.issuer]]` of the configuration: issuers whose tokens the registry accepts.

use crate::auth::{IssuerKeys, IssuerOptions};
use crate::config_shapes::OneOrMore;
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An issuer of tokens.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct IssuerConfig {
    /// The name that its users have before theirs: `github` makes `github:acme/app`.
    name: String,
    /// The URL of the issuer, as the claim `iss` of its tokens has it.
    url: String,
    /// The URL of its public keys, when no discovery document says it.
    jwks_url: Option<String>,
    /// A file of its public keys, when they are not fetched.
    jwks_file: Option<PathBuf>,
    /// A file of certificates to trust besides those of the system, PEM.
    ca: Option<PathBuf>,
    /// The audiences that its tokens may be for: one text, or a list.
    #[serde(deserialize_with = "texts")]
    #[schemars(with = "OneOrMore")]
    audience: Texts,
    /// The algorithms that it may sign with.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    algorithms: Option<Vec<String>>,
    /// The name of a user, with claims in braces.
    user: Option<String>,
    /// The claim with the groups of a user.
    groups_claim: Option<String>,
    /// The claims that a policy sees, besides `iss` and `sub`.
    #[serde(default)]
    claims: Vec<String>,
    /// What claims must be: a pattern, or a list of patterns.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, OneOrMore>")]
    require: BTreeMap<String, Required>,
}

type Texts = Vec<String>;

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrSeveral {
    One(String),
    Several(Vec<String>),
}

impl From<OneOrSeveral> for Texts {
    fn from(value: OneOrSeveral) -> Self {
        match value {
            OneOrSeveral::One(one) => vec![one],
            OneOrSeveral::Several(several) => several,
        }
    }
}

pub(crate) fn texts<'de, D: Deserializer<'de>>(d: D) -> Result<Texts, D::Error> {
    OneOrSeveral::deserialize(d).map(Into::into)
}

/// The patterns of one claim.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Required(#[serde(deserialize_with = "texts")] Texts);

/// What claims must be, for the options of an issuer.
pub(crate) fn required(table: &BTreeMap<String, Required>) -> BTreeMap<String, Vec<String>> {
    table.iter().map(|(claim, texts)| (claim.clone(), texts.0.clone())).collect()
}

/// The issuers of these tables.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] that says which one is wrong. What is wrong with the values themselves,
/// [`crate::Registry::new`] says.
pub(crate) fn issuers(tables: &[IssuerConfig]) -> Result<Vec<IssuerOptions>> {
    tables.iter().map(IssuerConfig::options).collect()
}

/// Whether one of them requires nothing of a token but its audience.
pub(crate) fn lets_in_everybody(tables: &[IssuerConfig]) -> bool {
    tables.iter().any(|table| table.require.is_empty())
}

/// What is valid, and lets in more than many mean.
pub(crate) fn warnings(tables: &[IssuerConfig], has_policy: bool) -> Vec<String> {
    let open = tables.iter().filter(|table| table.require.is_empty() && !has_policy);
    let warning = |table: &IssuerConfig| {
        format!(
            "the issuer `{}` has no `require`, and there is no policy: everybody whom it gives a token for this audience may do everything",
            table.name.escape_debug()
        )
    };
    open.map(warning).collect()
}

impl IssuerConfig {
    fn options(&self) -> Result<IssuerOptions> {
        let keys = match (&self.jwks_url, &self.jwks_file) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "the configuration keys `jwks-url` and `jwks-file` of an issuer exclude each other",
                )
                .with_context("issuer", self.name.escape_debug()));
            }
            (Some(url), None) => IssuerKeys::Url(url.clone()),
            (None, Some(path)) => IssuerKeys::File(path.clone()),
            (None, None) => IssuerKeys::Discovery,
        };
        let default = IssuerOptions::new(&self.name, &self.url, "");
        Ok(IssuerOptions {
            keys,
            authorities: self.ca.clone(),
            audience: self.audience.clone(),
            algorithms: self.algorithms.clone().unwrap_or(default.algorithms),
            user: self.user.clone().unwrap_or(default.user),
            groups: self.groups_claim.clone(),
            claims: self.claims.clone(),
            require: required(&self.require),
            name: default.name,
            url: default.url,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PolicyFile;
    use crate::config::Config;
    use crate::policy_command;

    /// Who has a token of the issuer is in `authenticated`.
    #[test]
    fn an_issuer_without_requirements_is_warned_of_with_a_policy_that_trusts_everybody() {
        let warnings = |rest: &str, who: &str, actions: &str| {
            let text = format!(
                "[[auth.issuer]]\nname = \"ci\"\nurl = \"https://ci.example\"\naudience = \"a\"\n{rest}\n"
            );
            let policy = tempfile::NamedTempFile::new().unwrap();
            let rule = format!(
                "[groups]\nall = [\"authenticated\"]\n[[allow]]\nwho = [{who:?}]\nrepositories = [\"**\"]\n\
                 actions = {actions}\n"
            );
            std::fs::write(policy.path(), rule).unwrap();
            let file = PolicyFile::open(policy.path()).unwrap();
            let known = Config::parse(&text).unwrap().knows();
            policy_command::warnings(&file, known).iter().filter(|one| one.contains("`require`")).count()
        };
        let push = "[\"pull\", \"push\"]";
        for who in ["authenticated", "anyone", "group:all"] {
            assert_eq!(warnings("", who, push), 1, "{who}");
            assert_eq!(warnings("", who, "[\"pull\"]"), 0, "{who}");
            assert_eq!(warnings("require = { repository = \"acme/*\" }", who, push), 0, "{who}");
        }
        assert_eq!(warnings("", "user:alice", push), 0);
    }

    #[test]
    fn an_issuer_is_read() {
        let text = r#"
            [[auth.issuer]]
            name = "github"
            url = "https://token.actions.githubusercontent.com"
            audience = "registry.example.com"
            user = "{repository}"
            claims = ["ref"]
            require = { repository = "acme/*", ref = ["refs/heads/main", "refs/tags/*"] }
            [[auth.issuer]]
            name = "cluster"
            url = "https://kubernetes.default.svc"
            jwks-file = "/etc/keys.json"
            audience = ["a", "b"]
            algorithms = ["ES256"]
            groups-claim = "groups"
        "#;
        let config = Config::parse(text).unwrap();
        let [github, cluster] = issuers(&config.auth.issuer).unwrap().try_into().unwrap();
        assert_eq!(
            (github.keys, github.audience),
            (IssuerKeys::Discovery, vec!["registry.example.com".to_owned()])
        );
        assert_eq!(github.algorithms, ["RS256", "ES256"]);
        assert_eq!(github.require["repository"], ["acme/*"]);
        assert_eq!(github.require["ref"].len(), 2);
        assert_eq!(
            (cluster.keys, cluster.user.as_str()),
            (IssuerKeys::File("/etc/keys.json".into()), "{sub}")
        );
        assert_eq!(
            (cluster.audience.len(), cluster.algorithms, cluster.groups),
            (2, vec!["ES256".to_owned()], Some("groups".to_owned()))
        );
        assert!(config.has_users());
        for bad in ["name = \"a\"", "name = \"a\"\nurl = \"https://a\"", "nmae = 1"] {
            assert!(Config::parse(&format!("[[auth.issuer]]\n{bad}")).is_err(), "{bad}");
        }
        let both = "[[auth.issuer]]\nname = \"a\"\nurl = \"https://a\"\naudience = \"b\"\njwks-url = \"https://a\"\njwks-file = \"a\"";
        assert!(issuers(&Config::read(both).unwrap().auth.issuer).is_err());
    }
}
