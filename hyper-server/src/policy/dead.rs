//! Rules that have no effect. They are no errors: who denies more, or empties a group, means it, and the policy must
//! take effect.

use super::parse::Problem;
use super::who::{Group, Subject};
use super::{Immutable, Operation, Operations, Rule};
use hyper_sdk::TextPattern;

/// The most warnings.
const MAX_WARNINGS: usize = 20;
/// The most comparisons of patterns and users. A larger policy is not searched for rules that deny rules hide.
const MAX_COMPARISONS: usize = 20_000_000;

/// The rules that can never match, in the order of their lines.
pub(super) fn warnings(rules: &[Rule], immutable: &[Immutable], groups: &[Group]) -> Vec<Problem> {
    let is_small = is_small(rules);
    let of_rules = rules.iter().filter_map(|rule| Some((rule.line, reason(rule, rules, groups, is_small)?)));
    let of_tags = immutable.iter().filter(|rule| rule.repositories.is_empty());
    let of_tags = of_tags.map(|rule| (rule.line, "`repositories` is empty".to_owned()));
    let mut warnings: Vec<Problem> = of_rules
        .chain(of_tags)
        .map(|(line, reason)| Problem { line, message: format!("the rule can never match: {reason}") })
        .collect();
    if warnings.is_empty() && !rules.iter().any(|rule| rule.allow) {
        warnings.push(Problem {
            line: 1,
            message: "no [[allow]] allows anything: everybody is denied".to_owned(),
        });
    }
    warnings.sort_by_key(|warning| warning.line);
    warnings.truncate(MAX_WARNINGS);
    warnings
}

/// Why a rule can never match; `None` when it is not known that it cannot.
fn reason(rule: &Rule, rules: &[Rule], groups: &[Group], is_small: bool) -> Option<String> {
    if rule.who.is_nobody(groups) {
        let reason = if rule.who.groups.is_empty() { "`who` is empty" } else { "its groups have no members" };
        return Some(reason.to_owned());
    }
    if rule.repositories.is_empty() {
        return Some("`repositories` is empty".to_owned());
    }
    if rule.operations == Operations::default() {
        return Some("`actions` is empty".to_owned());
    }
    let hides = |denial: &&Rule| !denial.allow && hides(denial, rule) && denial.who.covers(&rule.who);
    let denial = rules.iter().find(|denial| is_small && rule.allow && hides(denial))?;
    Some(format!("the deny rule in line {} denies all of it", denial.line))
}

/// Whether anonymous callers may do anything: an allow rule is about them, and no deny rule takes all of it away.
pub(super) fn is_open(rules: &[Rule], groups: &[Group]) -> bool {
    let is_small = is_small(rules);
    let is_about = |rule: &Rule| rule.who.has(&Subject::ANONYMOUS, groups);
    let is_hidden = |rule: &Rule| {
        is_small && rules.iter().any(|denial| !denial.allow && is_about(denial) && hides(denial, rule))
    };
    rules.iter().any(|rule| rule.allow && is_about(rule) && !is_hidden(rule))
}

/// Whether the rules are few enough to compare each allow rule with each deny rule.
fn is_small(rules: &[Rule]) -> bool {
    let size = |allow: bool| -> usize {
        let of_kind = rules.iter().filter(|rule| rule.allow == allow);
        of_kind.map(|rule| 1 + rule.repositories.len() + rule.tags.len() + rule.who.len()).sum()
    };
    size(true).saturating_mul(size(false)) <= MAX_COMPARISONS
}

/// Whether a deny rule denies everything that an allow rule allows, to whom it is about.
fn hides(denial: &Rule, rule: &Rule) -> bool {
    let operations = Operation::ALL
        .into_iter()
        .all(|operation| !rule.has_operation(operation) || denial.has_operation(operation));
    let tags = denial.tags.is_empty()
        || (!rule.tags.is_empty() && rule.tags.iter().all(|tag| covered(tag, &denial.tags)));
    let repositories =
        rule.repositories.iter().all(|name| denial.repositories.iter().any(|wide| wide.covers(name)));
    operations && tags && repositories
}

fn covered(tag: &TextPattern, tags: &[TextPattern]) -> bool {
    tags.iter().any(|wide| wide.covers(tag))
}
