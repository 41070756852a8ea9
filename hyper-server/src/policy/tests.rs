//! Tests of the language: decisions against a naive model, and the messages of what is wrong.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const POLICY: &str = r#"
[groups]
developers = ["user:alice", "claim:team=web"]
robots = ["user:ci-*"]

[[allow]]
who = ["anyone"]
repositories = ["public/**"]
actions = ["pull"]

[[allow]]
who = ["group:developers", "group:robots"]
repositories = ["team/**"]
actions = ["pull", "push", "create-tag", "move-tag", "delete"]

[[allow]]
who = ["user:root"]
repositories = ["**"]
actions = ["admin"]

[[deny]]
who = ["group:robots"]
repositories = ["**"]
actions = ["move-tag"]
tags = ["v*", "latest"]

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]
"#;

fn decide(who: &str, operation: Operation, repository: &str, tag: Option<&str>) -> Decision {
    let policy = Policy::parse(POLICY).unwrap();
    let subject = if who.is_empty() { Subject::ANONYMOUS } else { Subject::user(who) };
    policy.decide(&subject, operation, repository, tag)
}

/// Whoever is of an issuer chose the text after its name. What is allowed to `*` is not meant for him, and what is denied is.
#[test]
fn a_pattern_of_users_denies_those_of_issuers_and_allows_them_nothing() {
    let policy = Policy::parse(
        r#"
        [groups]
        bots = ["user:*-bot"]
        [[allow]]
        who = ["user:gh:*"]
        repositories = ["**"]
        actions = ["pull", "push", "delete"]
        [[allow]]
        who = ["group:bots", "user:*"]
        repositories = ["**"]
        actions = ["admin"]
        [[deny]]
        who = ["user:*"]
        repositories = ["prod/**"]
        actions = ["push"]
        [[deny]]
        who = ["group:bots"]
        repositories = ["team/**"]
        actions = ["delete"]
        tags = ["v*"]
        "#,
    )
    .unwrap();
    let (none, claims) = (BTreeSet::new(), BTreeMap::from([("iss".to_owned(), json!("https://x"))]));
    let subject = Subject::user("gh:evil/x-bot").with(&none, &claims);
    let decide =
        |operation, repository, tag| policy.decide(&subject, operation, repository, tag).is_allowed();
    assert!(decide(Operation::Push, "other/a", None) && !decide(Operation::Admin, "other/a", None));
    assert!(!decide(Operation::Push, "prod/a", None) && decide(Operation::Pull, "prod/a", None));
    assert!(
        !decide(Operation::Delete, "team/a", Some("v1")) && decide(Operation::Delete, "team/a", Some("w"))
    );
    assert!(policy.undeletable_for(&subject, "team/a").is_some());
}

/// Whoever may make groups at an issuer must not get into a group of the directory of the same name.
#[test]
fn groups_of_an_issuer_are_not_those_of_the_directory() {
    let policy = Policy::parse(
        r#"
        [groups]
        web = ["claim:groups=web", "claim:company:groups=web"]
        [[allow]]
        who = ["claim:groups=admins"]
        repositories = ["directory"]
        actions = ["push"]
        [[allow]]
        who = ["claim:company:groups=admins"]
        repositories = ["company"]
        actions = ["push"]
        [[allow]]
        who = ["group:web"]
        repositories = ["group"]
        actions = ["push"]
        [[allow]]
        who = ["claim:https://x.example/team=a", "claim:gh:team=b"]
        repositories = ["claim"]
        actions = ["push"]
        [[allow]]
        who = ["authenticated"]
        repositories = ["all", "company-alone"]
        actions = ["push"]
        [[deny]]
        who = ["claim:groups=guests"]
        repositories = ["all"]
        actions = ["push"]
        [[deny]]
        who = ["claim:company:groups=guests"]
        repositories = ["company-alone"]
        actions = ["push"]
        "#,
    )
    .unwrap();
    assert!(policy.reads_own_groups());
    let all = ["directory", "company", "group", "claim", "all", "company-alone"];
    let may = |user: &str, groups: &[&str], claims: Value| {
        let groups: BTreeSet<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        let claims: BTreeMap<String, Value> = serde_json::from_value(claims).unwrap();
        let subject = Subject::user(user).with(&groups, &claims);
        let may = |name: &&str| policy.decide(&subject, Operation::Push, name, None).is_allowed();
        all.into_iter().filter(may).collect::<Vec<_>>().join(" ")
    };
    let iss = |more: Value| {
        let mut claims = json!({"iss": "https://x"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let none = || iss(json!({}));
    for (user, groups, claims, expected) in [
        ("ada", &["admins"][..], json!({}), "directory all company-alone"),
        ("ada", &["web"], json!({}), "group all company-alone"),
        ("ada", &["guests"], json!({}), "company-alone"),
        ("company:ada", &["admins"], none(), "company all company-alone"),
        ("company:ada", &[], iss(json!({"groups": ["admins"]})), "company all company-alone"),
        ("company:ada", &["web"], none(), "group all company-alone"),
        ("company:ada", &["guests"], none(), ""),
        ("other:ada", &["admins", "web", "company:groups"], none(), "all company-alone"),
        ("other:ada", &["guests"], none(), "company-alone"),
        ("company:ada", &[], iss(json!({"https://x.example/team": "a"})), "claim all company-alone"),
        ("company:ada", &[], iss(json!({"team": "b"})), "all company-alone"),
        ("gh:ada", &[], iss(json!({"team": "b"})), "claim all company-alone"),
        // A certificate may have a name with a colon: it is of no issuer.
        ("company:ada", &["admins"], json!({}), "directory all company-alone"),
    ] {
        assert_eq!(may(user, groups, claims.clone()), expected, "{user} {groups:?} {claims}");
    }
}

#[test]
fn a_rule_allows_what_it_says() {
    use Operation::{Admin, CreateTag, Delete, MoveTag, Pull, Push};
    for (who, operation, repository, tag, expected) in [
        ("", Pull, "public/a", None, Decision::Allowed(6)),
        ("", Pull, "team/a", None, Decision::NotAllowed),
        ("", Push, "public/a", None, Decision::NotAllowed),
        ("bob", Pull, "public/a/b", None, Decision::Allowed(6)),
        ("bob", Pull, "public", None, Decision::NotAllowed),
        ("alice", Push, "team/a", None, Decision::Allowed(11)),
        ("alice", CreateTag, "team/a", Some("v1"), Decision::Allowed(11)),
        ("alice", MoveTag, "team/a", Some("v1"), Decision::Immutable(27)),
        ("alice", Delete, "team/a", Some("v1"), Decision::Immutable(27)),
        ("alice", Delete, "team/a", None, Decision::Allowed(11)),
        ("alice", MoveTag, "team/a", Some("latest"), Decision::Allowed(11)),
        ("alice", Admin, "team/a", None, Decision::NotAllowed),
        ("ci-1", CreateTag, "team/a", Some("latest"), Decision::Allowed(11)),
        ("ci-1", MoveTag, "team/a", Some("latest"), Decision::Denied(21)),
        ("ci-1", MoveTag, "team/a", Some("edge"), Decision::Allowed(11)),
        ("root", MoveTag, "team/a", Some("v1"), Decision::Allowed(16)),
        ("root", MoveTag, "team/a", Some("edge"), Decision::Allowed(16)),
        ("root", Pull, "x", None, Decision::Allowed(16)),
    ] {
        assert_eq!(
            decide(who, operation, repository, tag),
            expected,
            "{who} {operation} {repository} {tag:?}"
        );
    }
}

#[test]
fn groups_come_from_claims() {
    let policy = Policy::parse(POLICY).unwrap();
    let pushes = |groups: &[&str], claims: Value| {
        let groups: BTreeSet<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        let claims: BTreeMap<String, Value> = serde_json::from_value(claims).unwrap();
        let subject = Subject::user("bob").with(&groups, &claims);
        policy.decide(&subject, Operation::Push, "team/a", None).is_allowed()
    };
    assert!(pushes(&[], json!({"team": "web"})));
    assert!(pushes(&[], json!({"team": ["db", "web"]})));
    for other in [json!({}), json!({"team": "webs"}), json!({"team": [["web"]]}), json!({"team": {"web": 1}})]
    {
        assert!(!pushes(&["developers"], other), "a group of the credentials is no group of the policy");
    }
    let text = "[[allow]]\nwho = [\"claim:groups=web-*\", \"claim:level=3\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]";
    let policy = Policy::parse(text).unwrap();
    for (groups, claims, expected) in [
        (&["web-1"][..], json!({}), true),
        (&[], json!({"groups": ["web-2"]}), true),
        (&[], json!({"level": 3}), true),
        (&["x"], json!({"level": 4}), false),
    ] {
        let groups: BTreeSet<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        let claims: BTreeMap<String, Value> = serde_json::from_value(claims).unwrap();
        let subject = Subject::user("bob").with(&groups, &claims);
        assert_eq!(policy.decide(&subject, Operation::Pull, "a", None).is_allowed(), expected);
    }
}

#[test]
fn a_policy_says_whether_it_is_open() {
    let rule =
        |who: &str| format!("[[allow]]\nwho = [\"{who}\"]\nrepositories = [\"a\"]\nactions = [\"pull\"]");
    for (who, open) in [("anyone", true), ("anonymous", true), ("authenticated", false), ("user:*", false)] {
        assert_eq!(Policy::parse(&rule(who)).unwrap().is_open(), open, "{who}");
    }
    assert!(!Policy::parse("").unwrap().is_open());
    for (denied, open) in [("\"pull\"", false), ("\"admin\"", false), ("\"push\"", true)] {
        let denial = format!(
            "{}\n[[deny]]\nwho = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [{denied}]",
            rule("anyone")
        );
        assert_eq!(Policy::parse(&denial).unwrap().is_open(), open, "{denied}");
    }
}

#[test]
fn a_deny_rule_with_admin_denies_everything() {
    let text = "[[allow]]\nwho = [\"user:a\"]\nrepositories = [\"**\"]\nactions = [\"admin\"]\n\
                [[deny]]\nwho = [\"authenticated\"]\nrepositories = [\"x\"]\nactions = [\"admin\"]";
    let policy = Policy::parse(text).unwrap();
    let alice = Subject::user("a");
    for operation in Operation::ALL {
        assert_eq!(policy.decide(&alice, operation, "x", Some("t")), Decision::Denied(5), "{operation}");
        assert!(policy.decide(&alice, operation, "y", Some("t")).is_allowed(), "{operation}");
    }
}

/// The rule that lets somebody change an immutable tag decides, not the one that allows tags in general.
#[test]
fn the_right_to_admin_decides_on_immutable_tags() {
    let rule = |who: &str, actions: &str| {
        format!("[[allow]]\nwho = [\"{who}\"]\nrepositories = [\"**\"]\nactions = [\"{actions}\"]\n")
    };
    let tags = "[[immutable]]\nrepositories = [\"a/**\"]\ntags = [\"v*\"]";
    let text = rule("authenticated", "move-tag") + &rule("user:root", "admin") + tags;
    let policy = Policy::parse(&text).unwrap();
    let (root, other) = (Subject::user("root"), Subject::user("x"));
    assert_eq!(policy.decide(&root, Operation::MoveTag, "a/b", Some("v1")), Decision::Allowed(5));
    assert_eq!(policy.decide(&root, Operation::MoveTag, "a/b", Some("x")), Decision::Allowed(1));
    assert_eq!(policy.decide(&other, Operation::MoveTag, "a/b", Some("v1")), Decision::Immutable(9));
    let lines = [(&root, "a/b", None), (&other, "a/b", Some(9)), (&other, "b", None)];
    for (who, repository, line) in lines {
        assert_eq!(policy.immutable_for(who, repository), line, "{repository}");
    }
}

/// Who denies more or empties a group must get what is written, not the former policy.
#[test]
fn a_rule_without_effect_is_a_warning() {
    let rule = |kind: &str, who: &str, repositories: &str, actions: &str| {
        format!("[[{kind}]]\nwho = [{who}]\nrepositories = [{repositories}]\nactions = [{actions}]\n")
    };
    let pull = "\"pull\"";
    let hidden = rule("allow", "\"user:x\"", "\"a/b\", \"a/c/**\"", pull);
    let group = "[groups]\nx = []\n".to_owned();
    for (text, line, part) in [
        (
            hidden.clone() + &rule("deny", "\"authenticated\"", "\"a/**\"", "\"pull\", \"push\""),
            1,
            "deny rule in line 5 denies all",
        ),
        (hidden.clone() + &rule("deny", "\"anyone\"", "\"**\"", "\"admin\""), 1, "deny rule in line 5"),
        (group.clone() + &rule("allow", "\"group:x\"", "\"**\"", pull), 3, "groups have no members"),
        (group + &rule("deny", "\"group:x\"", "\"**\"", pull), 3, "groups have no members"),
        (rule("allow", "", "\"**\"", pull), 1, "`who` is empty"),
        (rule("allow", "\"anyone\"", "", pull), 1, "`repositories` is empty"),
        (rule("allow", "\"anyone\"", "\"**\"", ""), 1, "`actions` is empty"),
        ("[[immutable]]\nrepositories = []\ntags = [\"v*\"]".to_owned(), 1, "`repositories` is empty"),
    ] {
        let policy = Policy::parse(&text).unwrap();
        let shown: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with(&format!("line {line}: ")) && shown[0].contains(part), "{shown:?}");
        assert!(!policy.decide(&Subject::user("x"), Operation::Pull, "a/b", None).is_allowed());
    }
    assert!(Policy::parse(POLICY).unwrap().warnings().is_empty());
    for text in ["", "[[immutable]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\n"] {
        let policy = Policy::parse(text).unwrap();
        assert!(policy.warnings()[0].to_string().contains("no [[allow]]"), "{:?}", policy.warnings());
    }
    assert_eq!(Policy::parse(&rule("deny", "", "\"**\"", pull).repeat(100)).unwrap().warnings().len(), 20);
}

#[test]
fn a_policy_says_whether_it_needs_users_and_claims() {
    let rule = |who: &str| {
        format!(
            "[groups]\ng = [\"user:a\"]\nc = [\"claim:a=b\"]\n[[allow]]\nwho = [\"{who}\"]\n\
             repositories = [\"a\"]\nactions = [\"pull\"]"
        )
    };
    for (who, users, claims) in [
        ("anyone", false, false),
        ("anonymous", false, false),
        ("authenticated", true, false),
        ("user:a*", true, false),
        ("group:g", true, false),
        ("group:c", true, true),
        ("claim:a=b", true, true),
    ] {
        let policy = Policy::parse(&rule(who)).unwrap();
        assert_eq!((policy.needs_users(), policy.reads_claims()), (users, claims), "{who}");
    }
}

/// A policy of the largest size is read in a moment, whatever its rules compare.
#[test]
fn a_large_policy_is_read_soon() {
    let rule = |kind: &str, letter: &str| {
        let names: String = (0..500).map(|n| format!("\"{letter}{n}/**\",")).collect();
        format!("[[{kind}]]\nwho = [\"anyone\"]\nrepositories = [{names}]\nactions = [\"pull\"]\n")
    };
    let text = rule("allow", "a").repeat(90) + &rule("deny", "b").repeat(90);
    let start = std::time::Instant::now();
    assert!(text.len() < 1 << 20 && Policy::parse(&text).is_ok());
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn a_problem_names_the_line_and_the_key() {
    let rule = |who: &str, repositories: &str, rest: &str| {
        format!("# comment\n[[allow]]\nwho = [{who}]\nrepositories = [{repositories}]\n{rest}")
    };
    let pull = "actions = [\"pull\"]";
    let (all, anyone) = ("\"**\"", "\"anyone\"");
    for (text, line, parts) in [
        ("a = ".to_owned(), 1, vec![]),
        ("\n\nallows = 1".to_owned(), 3, vec!["unknown key `allows`", "[[allow]]"]),
        ("allow = 1".to_owned(), 1, vec!["`allow`", "[[allow]]"]),
        ("allow = [1]".to_owned(), 1, vec!["`allow`"]),
        ("[[groups]]".to_owned(), 1, vec!["[groups]"]),
        ("[groups]\na = \"user:x\"".to_owned(), 2, vec!["`groups.a`", "list"]),
        ("[groups]\na = [\"group:b\"]".to_owned(), 2, vec!["`groups.a`", "no groups"]),
        ("[groups]\na = [\"alice\"]".to_owned(), 2, vec!["`groups.a`", "`alice`", "user:NAME"]),
        (rule(anyone, all, ""), 2, vec!["[[allow]]", "`actions`"]),
        (rule(anyone, all, "actions = [\"pull\", \"read\"]"), 5, vec!["`read`", "pull, push, create-tag"]),
        (rule(anyone, all, "actions = [\"move-tag\"]\ntags = []"), 6, vec!["`tags` is empty"]),
        (rule("\"claim:x\"", all, pull), 3, vec!["`who`", "claim:NAME=VALUE"]),
        (rule("\"group:x\"", all, pull), 3, vec!["`who`", "no group `x`"]),
        (rule("3", all, pull), 3, vec!["`who`", "texts"]),
        (rule(anyone, "\"Team/*\"", pull), 4, vec!["`repositories`", "`Team/*`", "`T`"]),
        (rule(anyone, "\"a\",\n\"a**\"", pull), 5, vec!["`repositories`", "`a**`", "whole segments"]),
        (rule(anyone, all, &format!("{pull}\ntag = [\"x\"]")), 6, vec!["unknown key `tag`", "tags"]),
        (rule(anyone, all, &format!("{pull}\ntags = [\"x\"]")), 5, vec!["pull", "rule of its own"]),
        (rule(anyone, all, "actions = [\"move-tag\"]\ntags = [\"a b\"]"), 6, vec!["`tags`", "`a b`"]),
        ("[[immutable]]\ntags = [\"v*\"]".to_owned(), 1, vec!["[[immutable]]", "`repositories`"]),
    ] {
        let problems = Policy::parse(&text).unwrap_err();
        let shown = problems[0].to_string();
        assert_eq!(problems[0].line, line, "{text}: {shown}");
        for part in parts {
            assert!(shown.contains(part), "{text}: {shown}");
        }
    }
}

#[test]
fn all_problems_are_reported_up_to_a_limit() {
    let two = "[[deny]]\nwho = [\"x\"]\nrepositories = [\"X\"]\nactions = [\"pull\"]";
    assert_eq!(Policy::parse(two).unwrap_err().len(), 2);
    assert_eq!(Policy::parse(&format!("{two}\n").repeat(100)).unwrap_err().len(), 20);
}

#[test]
fn a_policy_has_bounds() {
    let rule = "[[allow]]\nwho = [\"anyone\"]\nrepositories = [\"a\"]\nactions = [\"pull\"]\n";
    let shown = |text: &str| Policy::parse(text).unwrap_err()[0].to_string();
    assert!(Policy::parse(&rule.repeat(4096)).is_ok());
    assert!(shown(&rule.repeat(4097)).contains("4096 rules"));
    assert!(shown(&"#".repeat((1 << 20) + 1)).contains("bytes"));
    let many = format!("[groups]\na = [{}]", "\"user:a\",".repeat(1025));
    assert!(shown(&many).contains("1024 entries"));
    assert!(shown(&format!("[groups]\na = [\"user:{}\"]", "a".repeat(255))).contains("255 bytes"));
    assert!(!shown(&"[".repeat(100_000)).is_empty());
    assert!(!shown(&format!("a = {}", "[".repeat(100_000))).is_empty());
}

/// A rule of the naive model: who, repositories, actions, tags.
type ModelRule = (bool, Vec<&'static str>, Vec<&'static str>, Vec<Operation>, Vec<&'static str>);

fn model_rule() -> impl Strategy<Value = ModelRule> {
    let who = prop::sample::subsequence(
        vec!["anyone", "anonymous", "authenticated", "user:a", "user:b*", "group:g", "claim:c=1"],
        1..3,
    );
    let names = prop::sample::subsequence(vec!["**", "x", "x/**", "x/*", "y/z", "*/z", "**/z"], 1..3);
    (any::<bool>(), who, names, any::<bool>()).prop_flat_map(|(allow, who, names, of_tags)| {
        let (operations, tags) = match of_tags {
            true if allow => (vec![Operation::CreateTag, Operation::MoveTag], 1..=2),
            true => (vec![Operation::CreateTag, Operation::MoveTag, Operation::Delete], 1..=2),
            false => (Operation::ALL.to_vec(), 0..=0),
        };
        let operations = prop::sample::subsequence(operations, 1..=2);
        let tags = prop::sample::subsequence(vec!["v*", "latest"], tags);
        (Just(allow), Just(who), Just(names), operations, tags)
    })
}

fn quoted<T: ToString>(texts: &[T]) -> String {
    texts.iter().map(|text| format!("\"{}\"", text.to_string())).collect::<Vec<_>>().join(", ")
}

/// Whether the model has the subject in a list.
fn model_who(who: &[&str], user: Option<&str>, claim: bool) -> bool {
    who.iter().any(|member| match *member {
        "anyone" => true,
        "anonymous" => user.is_none(),
        "authenticated" => user.is_some(),
        "user:a" => user == Some("a"),
        "user:b*" => user.is_some_and(|user| user.starts_with('b')),
        "group:g" => user == Some("a") || user == Some("c"),
        "claim:c=1" => claim,
        other => panic!("{other}"),
    })
}

fn model_name(pattern: &str, name: &str) -> bool {
    let (parts, depth) = (name.split('/').collect::<Vec<_>>(), name.matches('/').count());
    match pattern {
        "**" => true,
        "x/**" => parts[0] == "x" && depth > 0,
        "x/*" => parts[0] == "x" && depth == 1,
        "*/z" => depth == 1 && parts[1] == "z",
        "**/z" => depth > 0 && parts[depth] == "z",
        literal => literal == name,
    }
}

fn model_tag(pattern: &str, tag: &str) -> bool {
    if pattern == "v*" { tag.starts_with('v') } else { pattern == tag }
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_naive_model(
        rules in prop::collection::vec(model_rule(), 0..6),
        immutable in prop::option::of((prop::sample::select(vec!["**", "x/**"]), prop::sample::select(vec!["v*", "latest"]))),
        user in prop::sample::select(vec![None, Some("a"), Some("bb"), Some("c"), Some("d")]),
        claim: bool,
        operation in prop::sample::select(Operation::ALL.to_vec()),
        name in prop::sample::select(vec!["x", "x/z", "x/y", "y/z", "x/y/z", "z"]),
        tag in prop::sample::select(vec!["v1", "latest", "other"]),
    ) {
        let mut text = "[groups]\ng = [\"user:a\", \"user:c\"]\n".to_owned();
        for (allow, who, names, operations, tags) in &rules {
            let kind = if *allow { "allow" } else { "deny" };
            text += &format!(
                "[[{kind}]]\nwho = [{}]\nrepositories = [{}]\nactions = [{}]\n",
                quoted(who), quoted(names), quoted(operations)
            );
            if !tags.is_empty() {
                text += &format!("tags = [{}]\n", quoted(tags));
            }
        }
        if let Some((name, tag)) = &immutable {
            text += &format!("[[immutable]]\nrepositories = [\"{name}\"]\ntags = [\"{tag}\"]\n");
        }
        let applies = |rule: &ModelRule, operation: Operation| {
            let (_, who, names, operations, tags) = rule;
            (operations.contains(&operation) || operations.contains(&Operation::Admin))
                && model_who(who, user, claim)
                && names.iter().any(|pattern| model_name(pattern, name))
                && (tags.is_empty() || tags.iter().any(|pattern| model_tag(pattern, tag)))
        };
        let allowed = |operation| {
            !rules.iter().any(|rule| !rule.0 && applies(rule, operation))
                && rules.iter().any(|rule| rule.0 && applies(rule, operation))
        };
        let is_fixed = matches!(operation, Operation::MoveTag | Operation::Delete)
            && immutable.is_some_and(|(pattern, fixed)| model_name(pattern, name) && model_tag(fixed, tag));
        let expected = allowed(operation) && (!is_fixed || allowed(Operation::Admin));

        let policy = Policy::parse(&text).unwrap();
        let of_rules = policy.warnings().iter().filter(|warning| !warning.message.contains("no [[allow]]"));
        for warning in of_rules {
            let lines = text.lines().take(warning.line as usize);
            let at = lines.filter(|line| matches!(*line, "[[allow]]" | "[[deny]]")).count() - 1;
            prop_assert!(Operation::ALL.iter().all(|o| {
                !applies(&rules[at], *o) || rules.iter().any(|rule| !rule.0 && applies(rule, *o))
            }), "{text}\n{warning}");
        }
        let claims: BTreeMap<String, Value> = claim.then(|| ("c".to_owned(), json!(1))).into_iter().collect();
        let none = BTreeSet::new();
        let subject = user.map_or(Subject::ANONYMOUS, Subject::user).with(&none, &claims);
        let decision = policy.decide(&subject, operation, name, Some(tag));
        prop_assert_eq!(decision.is_allowed(), expected, "{} {:?}", text, decision);
    }

    #[test]
    fn any_text_is_read_without_a_panic(text: String) {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn any_text_of_the_language_is_read_without_a_panic(
        text in "(\\[\\[?(allow|deny|immutable|groups)\\]?\\]\n|(who|actions|tags|repositories|g) = (\\[(\"[a-z*:=/]{0,9}\",?){0,3}\\]|3)\n){0,9}",
    ) {
        if let Ok(policy) = Policy::parse(&text) {
            for operation in Operation::ALL {
                policy.decide(&Subject::user("a"), operation, "a/b", Some("v1"));
            }
        }
    }
}

#[test]
fn names_that_look_right_and_mean_nobody_are_errors() {
    for who in ["user: bob", "user:bob ", "group: x", "claim:team =web", "claim:team= web", " user:bob"] {
        let text = format!("[groups]\nx = []\n{}", rule_about(who));
        let problems = Policy::parse(&text).unwrap_err();
        assert!(problems[0].to_string().contains("white space"), "{who}: {problems:?}");
    }
    for word in ["anonymous", "anyone", "authenticated"] {
        let problems = Policy::parse(&rule_about(&format!("user:{word}"))).unwrap_err();
        assert!(problems[0].to_string().contains(&format!("write `{word}`")), "{word}: {problems:?}");
    }
    assert!(Policy::parse(&rule_about("user:Jane Doe")).is_ok());
}

fn rule_about(who: &str) -> String {
    format!("[[deny]]\nwho = [\"{who}\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n")
}

#[test]
fn a_deletion_is_denied_for_some_tags_and_not_allowed_for_some() {
    let rule = |kind: &str, action: &str, tags: &str| {
        format!("[[{kind}]]\nwho = [\"user:a\"]\nrepositories = [\"**\"]\nactions = [\"{action}\"]\n{tags}")
    };
    let text = rule("allow", "delete", "") + &rule("deny", "delete", "tags = [\"latest\"]\n");
    let policy = Policy::parse(&text).unwrap();
    let decide = |tag| policy.decide(&Subject::user("a"), Operation::Delete, "x", tag);
    assert_eq!((decide(None), decide(Some("dev"))), (Decision::Allowed(1), Decision::Allowed(1)));
    assert_eq!(decide(Some("latest")), Decision::Denied(5));
    assert_eq!(policy.undeletable_for(&Subject::user("a"), "x"), Some(5));
    assert_eq!(policy.undeletable_for(&Subject::user("b"), "x"), None);
    for text in [rule("allow", "delete", "tags = [\"x\"]\n"), rule("deny", "push", "tags = [\"x\"]\n")] {
        let problems = Policy::parse(&text).unwrap_err();
        assert!(problems[0].to_string().contains("a rule of its own"), "{problems:?}");
    }
}
