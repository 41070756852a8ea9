//! Namespaces, rules and messages.

use super::*;
use crate::ErrorKind;
use crate::reference::RepositoryName;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn namespace(text: &str) -> QuotaNamespace {
    QuotaNamespace::parse(text).unwrap()
}

fn rule(text: &str, bytes: u64) -> QuotaRule {
    let limits = QuotaLimits { bytes: Some(bytes), ..QuotaLimits::default() };
    QuotaRule { namespace: namespace(text), limits }
}

#[test]
fn a_namespace_has_a_repository_and_everything_below_it() {
    for (text, has, lacks) in [
        ("team", &["team", "team/app", "team/app/x"][..], &["team-b", "teams", "a/team", "tea"][..]),
        ("team/app", &["team/app", "team/app/x"], &["team", "team/app2", "team/ap"]),
        ("**", &["a", "b/c"], &[]),
    ] {
        for repository in has {
            assert!(namespace(text).has(&name(repository)), "{text} {repository}");
            assert!(QuotaNamespace::of_repository(&name(repository)).any(|one| one == namespace(text)));
        }
        for repository in lacks {
            assert!(!namespace(text).has(&name(repository)), "{text} {repository}");
            assert!(QuotaNamespace::of_repository(&name(repository)).all(|one| one != namespace(text)));
        }
    }
}

#[test]
fn an_invalid_namespace_says_what_to_write() {
    for (text, part) in
        [("team/**", "write `team`"), ("Team", "`**`"), ("", "`*`"), ("/a", "`team`"), ("a//b", "`**`")]
    {
        let error = QuotaNamespace::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(part), "{text}: {error}");
    }
    for text in ["**", "*", "team/app"] {
        assert_eq!(namespace(text).to_string(), text);
    }
}

#[test]
fn all_rules_of_a_repository_hold_and_a_component_has_its_own_one_in_place_of_each() {
    let rules =
        QuotaRules::new(vec![rule("*", 1), rule("big", 2), rule("big/app", 3), rule("**", 4)]).unwrap();
    let covering = |text: &str| {
        rules
            .covering(&name(text))
            .map(|(namespace, limits)| (namespace.to_string(), limits.bytes.unwrap()))
            .collect::<Vec<_>>()
    };
    let of = |list: &[(&str, u64)]| {
        list.iter().map(|(name, bytes)| (name.to_string(), *bytes)).collect::<Vec<_>>()
    };
    assert_eq!(covering("small/app"), of(&[("**", 4), ("small", 1)]));
    assert_eq!(covering("big/app/x"), of(&[("**", 4), ("big", 2), ("big/app", 3)]));
}

#[test]
fn rules_without_a_limit_and_two_of_one_namespace_are_refused() {
    let empty = QuotaRule { namespace: namespace("a"), limits: QuotaLimits::default() };
    let zero = rule("a", 0);
    for (rules, parts) in [
        (vec![zero.clone(), empty], ["quota 2", "`a` has no limit"]),
        (vec![zero.clone(), rule("b", 1), zero], ["quota 3", "`a` has a quota already"]),
    ] {
        let error = QuotaRules::new(rules).unwrap_err();
        for part in parts {
            assert!(error.message().contains(part), "{error}");
        }
    }
    let many = (0..=QuotaRules::MAX_RULES).map(|number| rule(&format!("a{number}"), 1)).collect();
    assert!(QuotaRules::new(many).unwrap_err().message().contains("1000"));
}

#[test]
fn a_refusal_says_what_is_used_what_the_limit_is_and_what_to_do() {
    let limits = QuotaLimits { bytes: Some(3 << 30), tags: Some(5), manifests: Some(0) };
    let used = QuotaCounts { bytes: (3 << 30) - 1, tags: 7, manifests: 9 };
    let check = |bytes, tags, manifests| {
        limits.check(&namespace("team"), used, QuotaCounts { bytes, tags, manifests })
    };
    check(1, 0, 0).unwrap();
    let error = check(2, 1, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(
        error.message(),
        "the quota of the namespace `team` is reached: 2.99 GiB (3221225471 bytes) of 3.00 GiB (3221225472 bytes) are used, \
         and this push adds 2 bytes: delete images, whose bytes are free after the next garbage collection, or ask for a \
         higher limit"
    );
    assert!(crate::store::errors::is_quota_exceeded(&error));
    let error = check(0, 1, 1).unwrap_err();
    assert!(error.message().contains("7 of 5 tags are used, and this push adds 1: delete tags"), "{error}");
    assert!(check(0, 0, 1).unwrap_err().message().contains("9 of 0 manifests"));
}
