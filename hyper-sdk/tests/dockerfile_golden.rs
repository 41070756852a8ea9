//! Our own cases: `golden/dockerfile/CASE/Dockerfile` and what we make of it, in `expected`.
//!
//! `expected` holds the tree, the stages, and the findings with their excerpts. A new case is a new folder;
//! `HYPER_BLESS=1` writes what is missing or different.

use hyper_sdk::dockerfile::{Ast, Instruction, Parsed, Source, parse};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

fn describe(text: &str) -> String {
    let mut out = String::new();
    let tree = Ast::parse(&Source::new("Dockerfile", text));
    let _ = writeln!(out, "{}\n", tree.dump());
    let parsed = parse(text, "Dockerfile");
    describe_stages(&mut out, &parsed);
    if !parsed.diagnostics.is_empty() {
        let _ = write!(out, "\n{}", parsed.render());
    }
    out
}

fn describe_stages(out: &mut String, parsed: &Parsed) {
    let file = &parsed.dockerfile;
    for stage in &file.stages {
        let _ = writeln!(out, "stage {} {}", stage.index, stage.display_name());
        for statement in &stage.statements {
            let (first, last) = file.source.lines(statement.span);
            let _ = writeln!(out, "  {first}-{last} {}", statement.display());
            if let Instruction::Run(run) = &statement.instruction
                && !run.command.heredocs.is_empty()
            {
                let _ = writeln!(out, "    {:?}", run.command.run_command());
            }
        }
    }
    if parsed.has_errors() || file.stages.is_empty() {
        return;
    }
    let scope = file.global_scope(&BTreeMap::new(), &BTreeMap::new());
    let plan = scope.and_then(|scope| file.bases(&scope)).and_then(|bases| {
        let images: Vec<String> = bases.into_iter().map(|b| b.image).collect();
        file.plan(file.stages.len() - 1, &images, &BTreeMap::new())
    });
    match plan {
        Ok(plan) => {
            let _ = writeln!(out, "order {:?}", plan.order);
        }
        Err(faults) => {
            let _ = write!(out, "\n{}", hyper_sdk::dockerfile::render(&faults, &file.source));
        }
    }
}

#[test]
fn every_case_is_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dockerfile");
    let bless = std::env::var_os("HYPER_BLESS").is_some();
    let mut cases = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let case = entry.unwrap().path();
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap();
        let found = describe(&text);
        let expected = std::fs::read_to_string(case.join("expected")).unwrap_or_default();
        cases += 1;
        if found != expected {
            if bless {
                std::fs::write(case.join("expected"), found).unwrap();
            } else {
                wrong.push(format!("{}:\n{found}\n--- expected\n{expected}", case.display()));
            }
        }
    }
    assert!(cases >= 10, "only {cases} cases");
    assert!(wrong.is_empty(), "HYPER_BLESS=1 accepts what is found\n\n{}", wrong.join("\n\n"));
}
