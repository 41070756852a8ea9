//! The decisions, against a model that sorts all tags.

use super::*;
use crate::Digest;
use crate::reference::{RepositoryName, RepositoryPattern, Tag, TextPattern};
use crate::store::meta::TagRecord;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn record(tag: &str, pushed_at: i64) -> TagRecord {
    TagRecord { tag: Tag::parse(tag).unwrap(), digest: Digest::sha256(tag), pushed_at, pulled_at: None }
}

fn rule(
    repositories: &str,
    tags: &str,
    newest: Option<usize>,
    age: Option<u64>,
    keep: &[&str],
) -> RetentionRule {
    RetentionRule {
        repositories: vec![RepositoryPattern::parse(repositories).unwrap()],
        tags: vec![TextPattern::of_tags(tags).unwrap()],
        keep_newest: newest,
        keep_younger_than: age.map(Duration::from_secs),
        keep_pulled_within: None,
        keep_tags: keep.iter().map(|text| TextPattern::of_tags(text).unwrap()).collect(),
    }
}

fn going(rules: &RetentionRules, tags: &[TagRecord], now: i64) -> Vec<String> {
    let plan = rules.plan(&name("team/app"), tags, None, now);
    plan.iter().filter(|decision| decision.goes()).map(|decision| decision.record.tag.to_string()).collect()
}

#[test]
fn the_first_rule_that_is_about_a_tag_decides() {
    let rules = RetentionRules::new(vec![
        rule("other/**", "*", None, Some(1), &[]),
        rule("team/*", "v*", None, None, &["*"]),
        rule("team/**", "pr-*", None, Some(100), &["pr-7"]),
        rule("**", "b*", Some(2), Some(50), &[]),
    ])
    .unwrap();
    let tags: Vec<TagRecord> = ["b1", "b2", "b3", "latest", "pr-1", "pr-7", "v1"]
        .map(|tag| record(tag, i64::from(tag > "b1")))
        .into();
    assert_eq!(going(&rules, &tags, 49), [""; 0]);
    assert_eq!(going(&rules, &tags, 50), ["b1"]);
    assert_eq!(going(&rules, &tags, 101), ["b1", "pr-1"]);
    let plan = rules.plan(&name("team/app"), &tags, None, 60);
    let lines: Vec<String> = plan.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "team/app:b1 goes: rule 4: 2 are newer, and it was young enough until 1970-01-01T00:00:50Z",
            "team/app:b2 stays: rule 4: it is one of the newest 2",
            "team/app:b3 stays: rule 4: it is one of the newest 2",
            "team/app:latest stays: no rule is about it",
            "team/app:pr-1 stays: rule 3: it is young enough until 1970-01-01T00:01:41Z",
            "team/app:pr-7 stays: rule 3: `pr-7` keeps its name",
            "team/app:v1 stays: rule 2: `*` keeps its name",
        ]
    );
    assert_eq!(plan.iter().map(TagDecision::goes_at).collect::<Vec<_>>()[4], Some(101));
    let internal = rules.plan(&name("hyper.local/layers"), &tags, None, i64::MAX);
    assert!(internal.iter().all(|decision| decision.reason == TagReason::Internal));
}

#[test]
fn protected_and_named_tags_stay_and_take_no_place() {
    let rules = RetentionRules::new(vec![rule("**", "*", Some(1), None, &["latest"])]).unwrap();
    let tags = [record("1", 1), record("2", 2), record("fixed", 8), record("latest", 9)];
    let protection: TagProtection =
        Arc::new(|_, tag| (tag.as_str() == "fixed").then(|| "it is immutable".to_owned()));
    let plan = rules.plan(&name("a"), &tags, Some(&protection), 100);
    assert_eq!(plan.iter().map(TagDecision::goes).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!(plan[2].to_string(), "a:fixed stays: rule 1: it is immutable");
}

#[test]
fn a_tag_that_belongs_to_an_image_by_its_name_stays_and_takes_no_place() {
    let rules = RetentionRules::new(vec![rule("**", "*", Some(1), None, &[])]).unwrap();
    let hex = "a".repeat(64);
    let belong = [format!("sha256-{hex}"), format!("sha256-{hex}.sig"), format!("sha256-{hex}.sbom")];
    let others =
        ["sha256-".to_owned() + &hex[1..], format!("sha256-{hex}-sig"), format!("sha256-{hex}.build42")];
    for tag in &belong {
        let tags = [record("b", 1), record(tag, 2)];
        assert_eq!(going(&rules, &tags, 100), [""; 0], "{tag}");
        let plan = rules.plan(&name("a"), &[record(tag, 2)], None, 100);
        assert!(plan[0].to_string().contains(&format!("it belongs to sha256:{hex}")), "{}", plan[0]);
    }
    // One that names the image itself keeps nothing.
    let own = TagRecord { digest: Digest::parse(&format!("sha256:{hex}")).unwrap(), ..record(&belong[0], 2) };
    assert_eq!(going(&rules, &[record("b", 1), own], 100), ["b"]);
    for tag in &others {
        assert_eq!(going(&rules, &[record("b", 1), record(tag, 2)], 100), ["b"], "{tag}");
    }
}

/// Tags of the time before the clock was set back take no place from those that are pushed now.
#[test]
fn a_clock_that_went_back_deletes_nothing_that_is_new() {
    let rules = RetentionRules::new(vec![rule("**", "*", Some(2), Some(10), &[])]).unwrap();
    let tags = [record("ahead-1", 900), record("ahead-2", 901), record("new-1", 100), record("new-2", 101)];
    assert_eq!(going(&rules, &tags, 150), [""; 0]);
    let all_ahead = [record("a", 900), record("b", 901), record("c", 902)];
    assert_eq!(going(&rules, &all_ahead, 150), [""; 0]);
    assert_eq!(going(&rules, &all_ahead, i64::MIN), [""; 0]);
    assert_eq!(going(&rules, &[record("a", i64::MAX), record("b", i64::MIN)], 0), [""; 0]);
}

#[test]
fn a_rule_that_keeps_nothing_is_an_error_that_says_which() {
    for (bad, why) in [
        (rule("**", "*", None, None, &[]), "must keep"),
        (rule("**", "*", None, None, &["v*", "latest"]), "names alone"),
        (rule("**", "*", Some(0), None, &[]), "from 1 on"),
        (rule("**", "*", None, Some(0), &[]), "longer time"),
        (rule("**", "*", Some(RetentionRules::MAX_NEWEST + 1), None, &[]), "100000"),
        (RetentionRule { tags: Vec::new(), ..rule("**", "*", Some(1), None, &[]) }, "about no tag"),
        (RetentionRule { repositories: Vec::new(), ..rule("**", "*", Some(1), None, &[]) }, "about no tag"),
    ] {
        let good = rule("**", "v*", None, None, &["v*"]);
        let e = RetentionRules::new(vec![good, bad]).unwrap_err().to_string();
        assert!(e.contains("rule 2") && e.contains(why), "{e}");
    }
    let half = RetentionRules::MAX_NEWEST / 2;
    let of = |names: [&str; 3]| names.map(|name| rule(name, "*", Some(half), None, &[])).to_vec();
    let e = RetentionRules::new(of(["team/a", "team/**", "**"])).unwrap_err().to_string();
    assert!(e.contains("rule 1") && e.contains("for a repository"), "{e}");
    RetentionRules::new(of(["team/a", "team/b", "**"])).unwrap();
    let many = vec![rule("a", "*", Some(1), None, &[]); RetentionRules::MAX_RULES + 1];
    assert!(RetentionRules::new(many).is_err());
}

#[test]
fn rules_that_never_decide_are_found() {
    let rules = RetentionRules::new(vec![
        rule("team/**", "v*", None, None, &["*"]),
        rule("team/app", "v*", Some(1), None, &[]),
        rule("team/**", "*", Some(1), None, &[]),
        rule("team/x", "pr-*", Some(1), None, &[]),
        rule("**", "*", Some(1), None, &[]),
    ])
    .unwrap();
    assert_eq!(rules.hidden(), [(1, 0), (3, 2)]);
}

prop_compose! {
    fn any_rule()(
        repositories in prop::sample::select(vec!["**", "a", "a/*", "b"]),
        tags in prop::sample::select(vec!["*", "a*", "*b", "ab"]),
        newest in prop::option::of(1usize..4),
        age in prop::option::of(1u64..20),
        keep in prop::sample::select(vec!["*", "b*", "aa"]),
    ) -> RetentionRule {
        let names = if newest.is_none() && age.is_none() { "*" } else { keep };
        rule(repositories, tags, newest, age, &[names])
    }
}

/// The tags that stay, by sorting all.
fn model(rules: &[RetentionRule], repository: &str, tags: &[TagRecord], now: i64) -> Vec<bool> {
    let matched = |pattern: &[TextPattern], tag: &Tag| pattern.iter().any(|p| p.matches(tag.as_str()));
    let decides = |record: &TagRecord| {
        rules.iter().position(|rule| {
            rule.repositories.iter().any(|p| p.matches(repository)) && matched(&rule.tags, &record.tag)
        })
    };
    tags.iter()
        .map(|record| {
            let Some(at) = decides(record) else { return true };
            let rule = &rules[at];
            let age = i128::from(now) - i128::from(record.pushed_at);
            if matched(&rule.keep_tags, &record.tag) || age < 0 {
                return true;
            }
            let is_counted = |other: &&TagRecord| {
                decides(other) == Some(at) && !matched(&rule.keep_tags, &other.tag) && other.pushed_at <= now
            };
            let is_newer = |other: &&TagRecord| other.pushed_at > record.pushed_at;
            let newer = tags.iter().filter(is_counted).filter(is_newer).count();
            rule.keep_newest.is_some_and(|count| newer < count)
                || rule.keep_younger_than.is_some_and(|limit| age < i128::from(limit.as_secs()))
        })
        .collect()
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_model(
        rules in prop::collection::vec(any_rule(), 0..4),
        repository in prop::sample::select(vec!["a", "a/b", "b", "c"]),
        tags in prop::collection::btree_map("[ab]{1,3}", -3i64..30, 0..12),
        now in 0i64..30,
    ) {
        let tags: Vec<TagRecord> = tags.iter().map(|(tag, at)| record(tag, *at)).collect();
        let checked = RetentionRules::new(rules.clone()).unwrap();
        let plan = checked.plan(&name(repository), &tags, None, now);
        let stays: Vec<bool> = plan.iter().map(|decision| !decision.goes()).collect();
        prop_assert_eq!(&stays, &model(&rules, repository, &tags, now));
        // What is left is what a second run keeps, and the order of the tags does not matter.
        let left: Vec<TagRecord> = plan.iter().filter(|d| !d.goes()).map(|d| d.record.clone()).collect();
        prop_assert!(checked.plan(&name(repository), &left, None, now).iter().all(|d| !d.goes()));
        let reversed: Vec<TagRecord> = tags.iter().rev().cloned().collect();
        let again = checked.plan(&name(repository), &reversed, None, now);
        prop_assert_eq!(again.iter().rev().map(|d| !d.goes()).collect::<Vec<_>>(), stays);
    }

    /// What is said to go at a time goes then, and not a second before.
    #[test]
    fn a_tag_goes_when_it_is_said_to(
        rules in prop::collection::vec(any_rule(), 1..4),
        tags in prop::collection::btree_map("[ab]{1,3}", 0i64..30, 1..8),
    ) {
        let tags: Vec<TagRecord> = tags.iter().map(|(tag, at)| record(tag, *at)).collect();
        let rules = RetentionRules::new(rules).unwrap();
        let goes = |now: i64, at: usize| rules.plan(&name("a"), &tags, None, now)[at].goes();
        for (at, decision) in rules.plan(&name("a"), &tags, None, 30).iter().enumerate() {
            match decision.goes_at() {
                Some(time) => prop_assert!(!goes(time - 1, at) && goes(time, at), "{decision}"),
                None => prop_assert_eq!(goes(1000, at), decision.goes()),
            }
        }
    }
}
