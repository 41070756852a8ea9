//! `hyperbuild build --check`, `--fix` and `--call`: what a Dockerfile is, without building it.

use super::call::Method;
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json, table, tell};
use hyper_sdk::build::Checked;
use hyper_sdk::build::{BuildContext, BuildRequest, LocalBuilder};
use hyper_sdk::dockerfile::{Diagnostic, Source, Span, render};
use hyper_sdk::frontend::dockerfile::{Outline, Target};
use hyper_sdk::lint::to_sarif;
use hyper_sdk::progress::Progress;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, ErrorKind};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Where the pages of the rules are in the documentation.
const PAGES: &str = "docs/rules/";
/// How often edits may make others possible.
const ROUNDS: usize = 8;

/// Does what `method` says. `fix` is given when the text is to be rewritten, and says whether it came from standard input.
pub(crate) async fn run(
    method: Method,
    fix: Option<bool>,
    request: BuildRequest,
    builder: &LocalBuilder,
    console: &Console,
) -> Result<(), Failure> {
    let progress = Progress::none();
    match method {
        Method::Build => Err(Error::internal("a build has its own way").into()),
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
        Method::Check => match fix {
            Some(stdin) => rewrite(stdin, request, builder, console).await,
            None => check(request, builder, console).await,
        },
    }
}

async fn check(request: BuildRequest, builder: &LocalBuilder, console: &Console) -> Result<(), Failure> {
    let checked = builder.check(request, &Progress::none()).await?;
    tell_unresolved(&checked, console);
    let source = &checked.file.source;
    match console.format {
        Format::Json => print_json(&check_json(&checked))?,
        Format::Sarif => print_json(&to_sarif(&checked.findings, &checked.diagnostics, source))?,
        Format::Text if checked.is_clean() => {
            if !console.quiet {
                print("no faults found\n")?;
            }
        }
        Format::Text => print(&check_text(&checked.all(), source))?,
    }
    if checked.is_clean() { Ok(()) } else { Err(Failure::Findings) }
}

fn tell_unresolved(checked: &Checked, console: &Console) {
    let names: Vec<&str> = checked.unresolved.iter().filter_map(|e| e.context_value("image")).collect();
    if !names.is_empty() && !console.quiet {
        tell(&format!(
            "note: rules that need to know the base image were left out for {}, which cannot be looked up",
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

/// The shape of `docker buildx build --check`, and the errors beside it.
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

async fn rewrite(
    stdin: bool,
    mut request: BuildRequest,
    builder: &LocalBuilder,
    console: &Console,
) -> Result<(), Failure> {
    if !matches!(request.context, BuildContext::Folder(_) | BuildContext::Empty)
        || request.dockerfile.is_none()
    {
        return Err(Failure::usage(
            "--fix rewrites a Dockerfile of this machine: this one comes from elsewhere",
        ));
    }
    if console.format != Format::Text {
        return Err(Failure::usage("--fix prints text: leave --format out, or check first"));
    }
    let path = request.dockerfile_name.clone();
    let limit = hyper_sdk::dockerfile::MAX_FILE_SIZE;
    let bytes = small_file::read(&path, "the Dockerfile", limit, Kinds::Files);
    if !stdin && bytes.is_ok_and(|bytes| String::from_utf8(bytes).is_err()) {
        return Err(Failure::usage(
            "--fix would change comments that are not UTF-8: save the file as UTF-8 first",
        ));
    }
    let before = request.dockerfile.clone().unwrap_or_default();
    let mut edits = 0;
    let mut checked = builder.check(request.clone(), &Progress::none()).await?;
    for _ in 0..ROUNDS {
        let Some(text) = checked.fixed() else { break };
        edits += checked.findings.iter().filter(|f| !f.edits.is_empty()).count();
        request.dockerfile = Some(text);
        checked = builder.check(request.clone(), &Progress::none()).await?;
    }
    let after = request.dockerfile.unwrap_or_default();
    if stdin {
        print(&after)?;
    } else if after != before {
        replace(&path, &after)?;
    }
    if !console.quiet {
        tell(&format!("fixed: {edits}, left: {}", checked.all().len()));
    }
    if checked.is_clean() {
        return Ok(());
    }
    tell(check_text(&checked.all(), &checked.file.source).trim_end_matches('\n'));
    Err(Failure::Findings)
}

/// Writes a file whole or not at all, with the mode and owner that it had.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let cannot = |e| Error::io("cannot rewrite the Dockerfile", path, e);
    // A link stays, and what it names is rewritten.
    let path = path.canonicalize().map_err(cannot)?;
    let before = std::fs::metadata(&path).map_err(cannot)?;
    // A file that has other names stays the one that they name.
    if before.nlink() > 1 {
        return std::fs::write(&path, text).map_err(cannot);
    }
    let folder = path.parent().ok_or_else(|| Error::new(ErrorKind::Io, "the Dockerfile is in no folder"))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    let own = file.as_file().metadata().map_err(cannot)?;
    if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
        std::os::unix::fs::chown(file.path(), Some(before.uid()), Some(before.gid())).map_err(cannot)?;
    }
    std::fs::set_permissions(file.path(), before.permissions()).map_err(cannot)?;
    file.as_file().sync_data().map_err(cannot)?;
    file.persist(&path).map_err(|e| cannot(e.error))?;
    Ok(())
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
