//! `hyperregistry conformance`: checks any registry. The cases are in the SDK; here are the flags and the lines.

use crate::registry_args::RegistryArgs;
use crate::standard_io::print;
use clap::{Args, ValueEnum};
use hyper_sdk::client::registry_conformance::{CaseResult, Level, Options, Report, Status, cases, check};
use hyper_sdk::reference::RepositoryName;
use hyper_sdk::{Error, ErrorKind, Result};

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// A line for each case, and the sum
    #[default]
    Text,
    /// One JSON object at the end
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// The registry: `HOST[:PORT]` or its URL; `http://` means plain HTTP, `https://` TLS; without either it is TLS, and at this
    /// machine what the registry speaks
    #[arg(value_name = "URL", required_unless_present = "list")]
    registry: Option<String>,
    /// Repository that the cases work in
    #[arg(long, value_name = "NAME", default_value = "conformance/one")]
    repository: RepositoryName,
    /// Another repository, which blobs are mounted into
    #[arg(long, value_name = "NAME", default_value = "conformance/two")]
    other_repository: RepositoryName,
    #[command(flatten)]
    access: RegistryArgs,
    /// Run only the cases whose names start so; repeatable [default: all]
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Leave what was pushed in the registry
    #[arg(long)]
    keep: bool,
    /// Print the cases and their rules, and check nothing
    #[arg(long)]
    list: bool,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// Checks the registry, and fails when it breaks a rule that it must keep.
pub(crate) fn run(args: ConformanceArgs) -> Result<()> {
    if args.list {
        return list(args.format);
    }
    let client = args.access.client(args.registry.as_deref().unwrap_or_default(), None)?;
    let mut options = Options::default();
    options.repository = args.repository;
    options.other_repository = args.other_repository;
    options.only = args.cases;
    options.keep = args.keep;
    let mut broken = None;
    let is_text = matches!(args.format, Format::Text);
    let observer = |result: &CaseResult| {
        if is_text && broken.is_none() {
            broken = print(&line(result)).err();
        }
    };
    let report = hyper_sdk::runtime::start()?.block_on(check(&client, &options, observer))?;
    if let Some(e) = broken {
        return Err(e);
    }
    match args.format {
        Format::Text => print(&sum(&report))?,
        Format::Json => print(&json(&report)?)?,
    }
    let lost = report.count(Status::Lost);
    match report.count(Status::Failed) {
        0 if lost == 0 => Ok(()),
        0 => Err(Error::new(ErrorKind::Unavailable, "the registry did not answer every request")
            .with_context("cases", lost)),
        1 => Err(Error::unsupported("the registry breaks a rule of the specification")),
        n => Err(Error::unsupported(format!("the registry breaks {n} rules of the specification"))),
    }
}

fn list(format: Format) -> Result<()> {
    if matches!(format, Format::Json) {
        let all: Vec<_> = cases()
            .map(|case| {
                serde_json::json!({
                    "name": case.name, "endpoint": case.endpoint, "level": case.level, "rule": case.rule
                })
            })
            .collect();
        return print(&json(&all)?);
    }
    let mut text = String::new();
    for case in cases() {
        let level = if case.level == Level::Must { "must" } else { "should" };
        text += &format!("{:<31} {:<7} {level:<7} {}\n", case.name, case.endpoint, case.rule);
    }
    print(&text)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    Ok(text.map_err(|e| Error::internal("the report is no JSON").with_source(e))? + "\n")
}

fn line(result: &CaseResult) -> String {
    let mut text =
        format!("{:<8} {:<31} {:<7} {}\n", result.status, result.name, result.endpoint, result.rule);
    if !result.reason.is_empty() {
        text += &format!("         {}\n", result.reason);
    }
    text
}

fn sum(report: &Report) -> String {
    let count = |status| report.count(status);
    format!(
        "{} cases: {} passed, {} failed, {} warned, {} skipped, {} lost\n",
        report.cases.len(),
        count(Status::Passed),
        count(Status::Failed),
        count(Status::Warned),
        count(Status::Skipped),
        count(Status::Lost)
    )
}
