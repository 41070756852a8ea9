//! The tables `[[quota]]` of the configuration: how much a namespace may have.

use crate::units::Size;
use hyper_sdk::store::{QuotaLimits, QuotaNamespace, QuotaRule, QuotaRules};
use hyper_sdk::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::sync::Arc;

/// A namespace and its limits, of which it needs one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct QuotaConfig {
    /// A repository with everything below it, such as `team`; `**` for the whole registry, `*` for each first component.
    #[serde(deserialize_with = "namespace")]
    #[schemars(with = "String")]
    namespace: QuotaNamespace,
    /// The most bytes of blobs and manifests, each counted once.
    bytes: Option<Size>,
    /// The most tags.
    tags: Option<u64>,
    /// The most manifests.
    manifests: Option<u64>,
}

fn namespace<'de, D: Deserializer<'de>>(d: D) -> Result<QuotaNamespace, D::Error> {
    let text = String::deserialize(d)?;
    QuotaNamespace::parse(&text).map_err(|e| de::Error::custom(e.message()))
}

/// The rules of these tables.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] that says which one is wrong.
pub(crate) fn rules(quotas: &[QuotaConfig]) -> Result<Arc<QuotaRules>> {
    let rule = |quota: &QuotaConfig| {
        let QuotaConfig { bytes, tags, manifests, .. } = *quota;
        let limits = QuotaLimits { bytes: bytes.map(|size| size.0), tags, manifests };
        QuotaRule { namespace: quota.namespace.clone(), limits }
    };
    let rules = QuotaRules::new(quotas.iter().map(rule).collect());
    rules
        .map(Arc::new)
        .map_err(|e| Error::invalid(format!("the configuration tables `quota`: {}", e.message())))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn quotas_are_read() {
        let text = "[[quota]]\nnamespace = \"**\"\nbytes = \"2TiB\"\n[[quota]]\nnamespace = \"team/app\"\ntags = 0\nmanifests = 7\n";
        let rules = Config::parse(text).unwrap().registry().quotas;
        let [all, team] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!(
            (all.namespace.to_string().as_str(), all.limits.bytes, all.limits.tags),
            ("**", Some(2 << 40), None)
        );
        assert_eq!((team.limits.bytes, team.limits.tags, team.limits.manifests), (None, Some(0), Some(7)));
        assert!(Config::parse("").unwrap().registry().quotas.is_empty());
    }

    #[test]
    fn a_mistake_in_a_quota_is_an_error_that_says_where() {
        for (quota, parts) in [
            ("bytes = 1", &["line 1", "`namespace`"][..]),
            ("namespace = \"a\"", &["quota 1", "`a` has no limit"]),
            ("namespace = \"a\"\nbytes = 1\n[[quota]]\nnamespace = \"a\"\ntags = 1", &["quota 2", "already"]),
            ("namespace = \"team/**\"\nbytes = 1", &["line 2", "write `team`"]),
            ("namespace = \"Team\"\nbytes = 1", &["line 2", "`Team`"]),
            ("namespace = \"a\"\nbytes = \"10 gigs\"", &["line 3", "invalid size `10 gigs`"]),
            ("namespace = \"a\"\nbytes = -1", &["line 3", "negative"]),
            ("namespace = \"a\"\ntags = -1", &["line 3", "tags"]),
            ("namespace = \"a\"\ntags = 1.5", &["line 3", "tags"]),
            ("namespace = \"a\"\nsize = 1", &["line 3", "size"]),
        ] {
            let e = Config::parse(&format!("[[quota]]\n{quota}\n")).unwrap_err().to_string();
            for part in parts {
                assert!(e.contains(part), "{quota}: {e}");
            }
        }
    }
}
