//! Findings as SARIF 2.1.0 (OASIS standard, sections 3.13 to 3.49), for code scanners.

use super::{Finding, RULES};
use crate::dockerfile::{Diagnostic, Severity, Source, Span};
use serde_json::{Value, json};

/// Findings and diagnostics of a file, as a log with one run.
pub fn to_sarif(findings: &[Finding], diagnostics: &[Diagnostic], source: &Source) -> Value {
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.name,
                "shortDescription": { "text": rule.summary },
                "fullDescription": { "text": rule.why },
                "help": {
                    "text": format!("{}\n\nInstead of\n\n{}\nwrite\n\n{}", rule.why, rule.bad, rule.good),
                },
                "defaultConfiguration": { "level": "warning", "enabled": !rule.experimental },
            })
        })
        .collect();
    let mut results: Vec<Value> = diagnostics
        .iter()
        .map(|d| {
            let level = if d.severity == Severity::Error { "error" } else { "warning" };
            result(d.code, level, &with_help(&d.message, d.help.iter()), d.span, source)
        })
        .collect();
    results.extend(findings.iter().map(|f| {
        let text = with_help(&f.message, f.help.iter());
        let mut result = result(f.rule.name, "warning", &text, f.span, source);
        result["ruleIndex"] = json!(RULES.iter().position(|rule| rule.name == f.rule.name));
        if !f.edits.is_empty() {
            let replacements: Vec<Value> = f
                .edits
                .iter()
                .map(|edit| {
                    json!({
                        "deletedRegion": region(edit.span, source),
                        "insertedContent": { "text": edit.text },
                    })
                })
                .collect();
            result["fixes"] = json!([{
                "description": { "text": f.help.as_deref().unwrap_or("the one safe way") },
                "artifactChanges": [{
                    "artifactLocation": { "uri": uri(source) },
                    "replacements": replacements,
                }],
            }]);
        }
        result
    }));
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "hyperbuild",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn with_help<'a>(message: &str, help: impl Iterator<Item = &'a String>) -> String {
    help.fold(message.to_owned(), |text, help| format!("{text}: {help}"))
}

fn result(rule: &str, level: &str, text: &str, span: Span, source: &Source) -> Value {
    json!({
        "ruleId": rule,
        "level": level,
        "message": { "text": text },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(source) },
            "region": region(span, source),
        } }],
    })
}

/// The name of the file as a relative reference (RFC 3986).
fn uri(source: &Source) -> String {
    let mut uri = String::new();
    for byte in source.name().trim_start_matches("./").bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                uri.push(byte as char)
            }
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

fn region(span: Span, source: &Source) -> Value {
    let (start, end) = (source.position(span.start), source.position(span.end));
    json!({
        "startLine": start.line,
        "startColumn": start.column,
        "endLine": end.line,
        "endColumn": end.column,
    })
}
