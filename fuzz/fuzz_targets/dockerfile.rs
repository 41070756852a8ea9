//! The parser and the linter never panic, every span lies in the file, every finding can be shown.
#![no_main]

use hyper_sdk::dockerfile::{Dockerfile, EmptyEnvironment, parse, parse_trigger};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|text: &str| {
    let parsed = parse(text, "Dockerfile");
    parsed.render();
    let file: &Dockerfile = &parsed.dockerfile;
    for diagnostic in &parsed.diagnostics {
        assert!(text.get(diagnostic.span.start..diagnostic.span.end).is_some(), "{diagnostic:?}");
    }
    for statement in file.stages.iter().flat_map(|s| &s.statements) {
        assert_eq!(file.source.slice(statement.name.span), statement.name.value);
        statement.display();
        let _ = statement.instruction.expand(file.directives.escape, &EmptyEnvironment);
        let _ = parse_trigger(&statement.original);
    }
    let findings = hyper_sdk::lint::lint(file, &hyper_sdk::lint::LintContext::default(), None);
    for finding in &findings {
        assert!(text.get(finding.span.start..finding.span.end).is_some(), "{finding:?}");
    }
    hyper_sdk::lint::apply_edits(text, findings.iter().flat_map(|f| &f.edits));
    if let Ok(target) = file.target(None) {
        let _ = file.plan(target, &[], &BTreeMap::new());
    }
});
