//! The table `[retention]` of the configuration: by which rules old tags are deleted.

use crate::options::Retention;
use crate::units::TimeSpan;
use hyper_sdk::store::{RetentionRule, RetentionRules};
use hyper_sdk::{Error, RepositoryPattern, Result, TextPattern};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::sync::Arc;
use std::time::Duration;

/// By which rules old tags are deleted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RetentionConfig {
    /// The time between runs; 0 means that there are none.
    pub(crate) every: TimeSpan,
    /// The rules. The first one that is about a tag decides about it; a tag that none is about stays.
    pub(crate) rule: Vec<RuleConfig>,
}

/// A rule: which tags it is about, and what keeps one of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RuleConfig {
    /// The repositories: patterns as in a policy, such as `team/**`.
    #[serde(deserialize_with = "repository_patterns")]
    #[schemars(with = "Vec<String>", length(min = 1))]
    repositories: Vec<RepositoryPattern>,
    /// The tags: patterns such as `pr-*`; all without it.
    #[serde(default = "all_tags", deserialize_with = "tag_patterns")]
    #[schemars(with = "Vec<String>", length(min = 1))]
    tags: Vec<TextPattern>,
    /// Keeps so many tags of each repository that were pushed last.
    #[schemars(range(min = 1, max = 100_000))]
    keep_newest: Option<usize>,
    /// Keeps tags that were pushed less than this ago.
    keep_younger_than: Option<TimeSpan>,
    /// Keeps tags that were pulled less than this ago, by any name of their image. One that was not pulled counts from its push,
    /// and from when the registry began to note pulls.
    keep_pulled_within: Option<TimeSpan>,
    /// Keeps tags by their names: patterns such as `latest`.
    #[serde(default, deserialize_with = "tag_patterns")]
    #[schemars(with = "Vec<String>")]
    keep_tags: Vec<TextPattern>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { every: TimeSpan(Duration::from_secs(24 * 60 * 60)), rule: Vec::new() }
    }
}

fn all_tags() -> Vec<TextPattern> {
    vec![TextPattern::new("*")]
}

fn tag_patterns<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<TextPattern>, D::Error> {
    patterns(d, TextPattern::of_tags)
}

fn repository_patterns<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<RepositoryPattern>, D::Error> {
    patterns(d, |text| {
        RepositoryPattern::parse(text)
            .map_err(|e| Error::invalid(format!("`{}`: {}", text.escape_debug(), e.message())))
    })
}

fn patterns<'de, D: Deserializer<'de>, T>(d: D, parse: fn(&str) -> Result<T>) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts.iter().map(|text| parse(text).map_err(|e| de::Error::custom(e.message()))).collect()
}

impl RetentionConfig {
    /// The rules.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says which rule is wrong.
    pub(crate) fn rules(&self) -> Result<RetentionRules> {
        let rule = |rule: &RuleConfig| RetentionRule {
            repositories: rule.repositories.clone(),
            tags: rule.tags.clone(),
            keep_newest: rule.keep_newest,
            keep_younger_than: rule.keep_younger_than.map(|age| age.0),
            keep_pulled_within: rule.keep_pulled_within.map(|within| within.0),
            keep_tags: rule.keep_tags.clone(),
        };
        let rules = RetentionRules::new(self.rule.iter().map(rule).collect()).map_err(|e| {
            Error::invalid(format!(
                "the configuration table `retention`: {} (the keys are `repositories`, `tags`, `keep-newest`, \
                 `keep-younger-than`, `keep-pulled-within` and `keep-tags`)",
                e.message()
            ))
        })?;
        // Whoever wrote it wants tags to stay that the other rule deletes.
        match rules.hidden().first() {
            Some((hidden, first)) => Err(Error::invalid(format!(
                "the configuration table `retention`: rule {} has no effect, as rule {} decides about all of its tags: put it \
                 before that one, or take it out",
                hidden + 1,
                first + 1
            ))),
            None => Ok(rules),
        }
    }

    /// What a server does; `None` when there is no rule or no time for it.
    pub(crate) fn options(&self) -> Option<Retention> {
        let rules = self.rules().ok().filter(|rules| !rules.as_slice().is_empty())?;
        (!self.every.0.is_zero()).then(|| Retention { every: self.every.0, rules: Arc::new(rules) })
    }

    /// Warnings about rules that are valid and probably a mistake.
    pub(crate) fn warnings(&self, removes_untagged: bool) -> Vec<String> {
        let Ok(rules) = self.rules() else { return Vec::new() };
        let mut warnings = Vec::new();
        let deletes = rules.as_slice().iter().any(|rule| !rule.keeps_all());
        if deletes && !removes_untagged {
            warnings.push(
                "the rules of `retention` give no space back: set `gc.untagged-after`, so that images without a tag go"
                    .to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const RULES: &str = "[gc]\nuntagged-after = \"1h\"\n[retention]\nevery = \"1h\"\n";

    #[test]
    fn rules_are_read_in_their_order() {
        let text = format!(
            "{RULES}[[retention.rule]]\nrepositories = [\"team/**\"]\ntags = [\"v*\"]\nkeep-tags = [\"*\"]\n\
             [[retention.rule]]\nrepositories = [\"**\"]\nkeep-newest = 10\nkeep-younger-than = \"720h\"\n\
             keep-pulled-within = \"2160h\"\n"
        );
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.warnings(), [""; 0]);
        let retention = config.registry().retention.unwrap();
        assert_eq!(retention.every.as_secs(), 3600);
        let rules = retention.rules.as_slice();
        assert!(rules[0].keeps_all() && rules[1].keep_newest == Some(10) && rules[1].tags[0].is_all());
        assert_eq!(rules[1].keep_pulled_within.unwrap().as_secs(), 2160 * 3600);
        assert!(Config::parse(RULES).unwrap().registry().retention.is_none(), "there is no rule");
        let never = Config::parse(&text.replace("every = \"1h\"", "every = \"0s\"")).unwrap();
        assert!(never.registry().retention.is_none());
    }

    #[test]
    fn a_mistake_in_a_rule_is_an_error_that_says_where() {
        for (rule, parts) in [
            ("", &["line 5", "`repositories`"][..]),
            ("repositories = []\nkeep-newest = 1", &["rule 1", "about no tag"]),
            ("repositories = [\"Team/*\"]\nkeep-newest = 1", &["line 6", "`Team/*`"]),
            ("repositories = \"team/*\"\nkeep-newest = 1", &["line 6", "repositories"]),
            ("repositories = [\"**\"]\ntags = [\"a b\"]\nkeep-newest = 1", &["line 7", "`a b`"]),
            ("repositories = [\"**\"]", &["rule 1", "keep-newest"]),
            ("repositories = [\"**\"]\nkeep-tags = [\"v*\"]", &["rule 1", "must keep"]),
            ("repositories = [\"**\"]\nkeep-newest = 0", &["rule 1", "from 1 on"]),
            ("repositories = [\"**\"]\nkeep-newest = -1", &["line 7", "keep-newest"]),
            ("repositories = [\"**\"]\nkeep-younger-than = \"0s\"", &["rule 1", "age of 0"]),
            (
                "repositories = [\"**\"]\nkeep-pulled-within = \"0s\"",
                &["rule 1", "pulled within a time of 0"],
            ),
            ("repositories = [\"**\"]\nkeep-pulled-within = \"lately\"", &["line 7", "invalid duration"]),
            ("repositories = [\"**\"]\nkeep-younger-than = \"30d\"", &["line 7", "invalid duration"]),
            (
                "repositories = [\"**\"]\nkeep-newest = 1\nkeep-yunger-than = \"1h\"",
                &["line 8", "keep-yunger-than"],
            ),
            ("repositories = [\"**\"]\nkeep-newest = 1\nrepository = \"a\"", &["line 8", "repository"]),
        ] {
            let e = Config::parse(&format!("{RULES}[[retention.rule]]\n{rule}\n")).unwrap_err().to_string();
            for part in parts {
                assert!(e.contains(part), "{rule}: {e}");
            }
        }
    }

    #[test]
    fn a_rule_without_effect_is_an_error() {
        let rule = "[[retention.rule]]\nrepositories = [\"**\"]\nkeep-newest = 1\n";
        let kept = "[[retention.rule]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\nkeep-tags = [\"*\"]\n";
        for second in [rule, kept] {
            let e = Config::parse(&format!("{RULES}{rule}{second}")).unwrap_err().to_string();
            assert!(e.contains("rule 2 has no effect") && e.contains("before"), "{e}");
        }
        Config::parse(&format!("{RULES}{kept}{rule}")).unwrap();
        let warnings = Config::parse(rule).unwrap().warnings();
        assert!(warnings[0].contains("gc.untagged-after"), "{warnings:?}");
    }
}
