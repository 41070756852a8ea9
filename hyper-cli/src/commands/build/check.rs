//! `hyperbuild build --check`, `--fix` and `--call`: Dockerfiles without a build.

use super::call::Method;
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{message, print, print_json, table};
use hyper_sdk::build::Checked;
use hyper_sdk::build::{BuildRequest, LocalBuilder};
use hyper_sdk::dockerfile::{Diagnostic, Source, Span, render};
use hyper_sdk::frontend::dockerfile::{Outline, Target};
use hyper_sdk::lint::to_sarif;
use hyper_sdk::progress::Progress;
use hyper_sdk::{Error, ErrorKind};
use serde_json::{Value, json};

/// Where the pages of the rules are in the documentation.
const PAGES: &str = "docs/rules/";

/// Runs a method. With `fixes` the check rewrites the Dockerfile.
pub(crate) async fn run(
    method: Method,
    fixes: bool,
    request: BuildRequest,
    builder: &LocalBuilder,
    console: &Console,
) -> Result<(), Failure> {
    let progress = Progress::none();
    match method {
        Method::Build => Err(Error::internal("a build is run elsewhere").into()),
        Method::Targets => {
            let targets = builder.targets(request, &progress).await?;
            match console.format {
                Format::Json => print_json(&targets)?,
                Format::Text | Format::Sarif => print(&targets_text(&targets.targets))?,
            }
            Ok(())
        }
        Method::Outline => {
            let outline = builder.outline(request, &progress).await?;
            match console.format {
                Format::Json => print_json(&outline)?,
                Format::Text | Format::Sarif => print(&outline_text(&outline))?,
            }
            Ok(())
        }
        Method::Check if fixes => fix(request, builder, console).await,
        Method::Check => check(request, builder, console).await,
    }
}

async fn check(request: BuildRequest, builder: &LocalBuilder, console: &Console) -> Result<(), Failure> {
    let checked = builder.check(request, &Progress::none()).await?;
    report_unresolved(&checked, console);
    let source = &checked.file.source;
    match console.format {
        Format::Json => print_json(&check_json(&checked))?,
        Format::Sarif => print_json(&to_sarif(&checked.findings, &checked.diagnostics, source))?,
        Format::Text if checked.is_clean() => {
            if !console.quiet {
                print("no problems found\n")?;
            }
        }
        Format::Text => print(&check_text(&checked.all(), source))?,
    }
    if checked.is_clean() { Ok(()) } else { Err(Failure::Findings) }
}

fn report_unresolved(checked: &Checked, console: &Console) {
    let names: Vec<&str> = checked.unresolved.iter().filter_map(|e| e.context_value("image")).collect();
    if !names.is_empty() && !console.quiet {
        message(&format!(
            "note: rules about the base image were left out for {}, which cannot be looked up",
            names.join(", ")
        ));
    }
}

fn check_text(all: &[Diagnostic], source: &Source) -> String {
    let errors = all.iter().filter(|d| d.is_error()).count();
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    format!("{}\n{}, {}\n", render(all, source), count(errors, "error"), count(all.len() - errors, "warning"))
}

/// The JSON of `docker buildx build --check`, with the errors.
fn check_json(checked: &Checked) -> Value {
    let source = &checked.file.source;
    let place = |span: Span| {
        let at = |offset| {
            let position = source.position(offset);
            json!({ "line": position.line, "character": position.column - 1 })
        };
        json!({ "sourceIndex": 0, "ranges": [{ "start": at(span.start), "end": at(span.end) }] })
    };
    let one = |d: &Diagnostic| json!({ "code": d.code, "detail": d.message, "help": d.help, "location": place(d.span) });
    let (errors, others): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        checked.diagnostics.iter().partition(|d| d.is_error());
    let mut warnings: Vec<Value> = checked
        .findings
        .iter()
        .map(|f| {
            json!({
                "ruleName": f.rule.name,
                "description": f.rule.summary,
                "url": format!("{PAGES}{}.md", f.rule.name),
                "detail": f.message,
                "help": f.help,
                "fixable": !f.edits.is_empty(),
                "location": place(f.span),
            })
        })
        .collect();
    warnings.extend(others.into_iter().map(one));
    json!({
        "errors": errors.into_iter().map(one).collect::<Vec<_>>(),
        "warnings": warnings,
        "sources": [{ "filename": source.name() }],
    })
}

async fn fix(request: BuildRequest, builder: &LocalBuilder, console: &Console) -> Result<(), Failure> {
    if console.format != Format::Text {
        return Err(Failure::usage("--fix prints text: leave --format out, or check first"));
    }
    if request.dockerfile.is_none() {
        return Err(Failure::usage(
            "--fix rewrites a Dockerfile of this machine: this one is in a context that is fetched",
        ));
    }
    let fixed = builder.fix(request, &Progress::none()).await?;
    match fixed.file() {
        Some(_) => fixed.save().await.map_err(|error| match error.kind() {
            ErrorKind::Invalid => Failure::usage(format!("--fix: {}", error.message())),
            _ => error.into(),
        })?,
        None => print(&fixed.text)?,
    }
    let checked = fixed.after();
    if !console.quiet {
        message(&format!("fixed: {}, left: {}", fixed.edits, checked.all().len()));
    }
    if checked.is_clean() {
        return Ok(());
    }
    message(check_text(&checked.all(), &checked.file.source).trim_end_matches('\n'));
    Err(Failure::Findings)
}

fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec![["TARGET", "BASE", "DESCRIPTION"].map(str::to_owned).to_vec()];
    rows.extend(targets.iter().map(|target| {
        let name = target.name.clone().unwrap_or_else(|| target.index.to_string());
        let name = if target.default { format!("{name} (default)") } else { name };
        vec![name, target.base.clone(), target.description.clone().unwrap_or_default()]
    }));
    table(&rows)
}

fn outline_text(outline: &Outline) -> String {
    let mut text = format!("TARGET: {}\n", outline.name);
    if let Some(description) = &outline.description {
        text.push_str(&format!("DESCRIPTION: {description}\n"));
    }
    let mut section = |head: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let head = head.iter().map(|h| (*h).to_owned()).collect();
            text.push('\n');
            text.push_str(&table(&[vec![head], rows].concat()));
        }
    };
    let arguments = outline.arguments.iter();
    section(
        &["BUILD ARG", "VALUE", "DESCRIPTION"],
        arguments
            .map(|a| {
                vec![
                    a.name.clone(),
                    a.value.clone().unwrap_or_default(),
                    a.description.clone().unwrap_or_default(),
                ]
            })
            .collect(),
    );
    for (head, uses) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let rows =
            uses.iter().map(|s| vec![s.name.clone(), if s.required { "yes" } else { "no" }.to_owned()]);
        section(&[head, "REQUIRED"], rows.collect());
    }
    section(&["CACHE"], outline.caches.iter().map(|c| vec![c.id.clone()]).collect());
    text
}
