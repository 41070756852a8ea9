//! The linter: it finds valid parts of a Dockerfile that are probably mistakes.
//!
//! ```text
//!   Dockerfile + LintContext ─ Subject (each stage replayed with its variables) ─ RULES ─► Finding{rule, span, message, edits}
//! ```
//! Rules are data ([`RULES`]): the generated pages of the documentation, the options and the output formats all come from
//! that one table. The names and meanings of the first 22 are those of BuildKit; those that begin with `Shell` or name a
//! program check the text of RUN.
//!
//! # Invariants
//! - Nothing here reads a file or the network: what lies outside the text comes in as [`LintContext`]. What is not known
//!   leads to silence, never to a guess.
//! - The time is linear in the length of the file and in the variables that each stage takes over from the one below.
//! - An edit of a rule leaves what the file builds as it is.

mod fix;
mod lint_context;
mod rules;
mod sarif;
mod shell;
mod subject;

pub use fix::{Edit, apply_edits};
pub use lint_context::LintContext;
pub use rules::RULES;
pub use sarif::to_sarif;

use crate::dockerfile::{CheckOptions, Diagnostic, Dockerfile, RuleSet, Source, Span, Word};
use std::fmt;
use subject::Subject;

/// A rule, with everything that its page says.
pub struct Rule {
    /// The name, for options and comments.
    pub name: &'static str,
    /// What it checks, in one line.
    pub summary: &'static str,
    /// The reason for the rule.
    pub why: &'static str,
    /// A Dockerfile that breaks the rule.
    pub bad: &'static str,
    /// The same Dockerfile without the finding.
    pub good: &'static str,
    /// The ignore file of the examples, when the rule needs one.
    pub ignore_file: Option<&'static str>,
    /// Whether it is off by default.
    pub experimental: bool,
    /// Whether findings may carry edits.
    pub fixable: bool,
    /// Adds the findings.
    check: fn(&Subject<'_>, &mut Vec<Found>),
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.name).finish()
    }
}

/// A finding without its rule.
struct Found {
    span: Span,
    message: String,
    help: Option<String>,
    edits: Vec<Edit>,
}

impl Found {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None, edits: Vec::new() }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn edit(mut self, span: Span, text: impl Into<String>) -> Self {
        self.edits.push(Edit { span, text: text.into() });
        self
    }
}

/// One place that breaks a rule.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// Where.
    pub span: Span,
    /// The message, one sentence.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
    /// The edits that fix it; empty when there is no single safe way.
    pub edits: Vec<Edit>,
}

impl Finding {
    /// The finding as a warning.
    pub fn diagnostic(&self) -> Diagnostic {
        let mut d = Diagnostic::warning(self.rule.name, self.span, self.message.clone());
        if let Some(help) = &self.help {
            d = d.with_help(help.clone());
        }
        d
    }
}

/// The rule of a name, in any case.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.name.eq_ignore_ascii_case(name))
}

/// Lints a file, with the options of its `check` directive unless others are given. A comment such as `# check=skip=NAME`
/// above an instruction adds to them for that instruction. Findings are in the order of the file.
///
/// ```
/// use hyper_sdk::dockerfile::parse;
/// use hyper_sdk::lint::{LintContext, lint};
///
/// let file = parse("FROM scratch\nCMD app\n", "Dockerfile").dockerfile;
/// let findings = lint(&file, &LintContext::default(), None);
/// assert_eq!(findings[0].rule.name, "JSONArgsRecommended");
/// ```
pub fn lint(file: &Dockerfile, context: &LintContext, options: Option<&CheckOptions>) -> Vec<Finding> {
    let default = CheckOptions::default();
    let options = options.or(file.directives.check.as_ref()).unwrap_or(&default);
    if options.skip == RuleSet::All {
        return Vec::new();
    }
    let subject = Subject::new(file, context);
    let mut local: Vec<(Span, CheckOptions)> = subject
        .statements()
        .filter_map(|statement| {
            let options_of = |word: &Word| CheckOptions::from_comment(&word.value);
            let options = statement.comments.iter().find_map(options_of)?.ok()?;
            // A finding in the comments belongs to the instruction, too.
            let first = statement.comments.first().map_or(statement.span, |word| word.span);
            Some((first.join(statement.span), options))
        })
        .collect();
    local.sort_by_key(|(span, _)| span.start);
    let wanted_at = |rule: &Rule, place: Span| {
        let next = local.partition_point(|(span, _)| span.start <= place.start);
        let here = next.checked_sub(1).map(|at| &local[at]).filter(|(span, _)| place.start < span.end);
        let skipped = here.is_some_and(|(_, options)| options.skip.contains(rule.name));
        let asked = !rule.experimental
            || options.experimental.contains(rule.name)
            || here.is_some_and(|(_, options)| options.experimental.contains(rule.name));
        asked && !skipped
    };
    let mut findings = Vec::new();
    for rule in RULES {
        if options.skip.contains(rule.name) {
            continue;
        }
        let mut found = Vec::new();
        (rule.check)(&subject, &mut found);
        findings.extend(found.into_iter().filter(|f| wanted_at(rule, f.span)).map(|f| Finding {
            rule,
            span: f.span,
            message: f.message,
            help: f.help,
            edits: f.edits,
        }));
    }
    findings.sort_by_key(|f| (f.span.start, f.rule.name));
    findings
}

/// Warnings about names in the options that are not rules, with the nearest rule.
#[cfg(feature = "build")]
pub(crate) fn unknown_rules(options: &CheckOptions, place: Span) -> Vec<Diagnostic> {
    let names = |set: &RuleSet| match set {
        RuleSet::Named(names) => names.clone(),
        RuleSet::None | RuleSet::All => Vec::new(),
    };
    let given = names(&options.skip).into_iter().chain(names(&options.experimental));
    given
        .filter(|name| rule(name).is_none())
        .map(|name| {
            Diagnostic::warning("unknown-rule", place, format!("there is no lint rule `{name}`"))
                .with_suggestion(crate::dockerfile::suggestion(&name, RULES.iter().map(|r| r.name)))
        })
        .collect()
}

/// Warnings about the `check` comments above instructions.
#[cfg(feature = "build")]
pub(crate) fn comment_warnings(file: &Dockerfile) -> Vec<Diagnostic> {
    let in_stages = file.stages.iter().flat_map(|s| std::iter::once(&s.statement).chain(&s.statements));
    let comments = file.global_args.iter().chain(in_stages).flat_map(|statement| &statement.comments);
    comments
        .filter_map(|comment| match CheckOptions::from_comment(&comment.value)? {
            Ok(options) => Some(unknown_rules(&options, comment.span)),
            Err(why) => Some(vec![Diagnostic::warning("invalid-check", comment.span, why)]),
        })
        .flatten()
        .collect()
}

/// Shows findings with their excerpts.
pub fn render(findings: &[Finding], source: &Source) -> String {
    let shown: Vec<String> = findings.iter().map(|f| f.diagnostic().render(source)).collect();
    shown.join("\n")
}

#[cfg(test)]
mod tests;
