//! `hyperbuild bake`.

mod arguments;
mod definitions;
mod jobs;
mod list;
mod permissions;

pub(super) use arguments::BakeArgs;

use super::build;
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::render::{Mode, Renderer};
use crate::terminal::{print_json, print_line};
use hyper_sdk::bake::{BakeConfig, BakePlan};
use hyper_sdk::build::BuildOutput;
use hyper_sdk::export::write_file;
use hyper_sdk::session::Session;
use hyper_sdk::{Error, ErrorKind, Result};
use permissions::Permissions;
use std::collections::BTreeMap;
use std::path::Path;

/// Prints, lists or builds, as the arguments ask for.
pub(super) async fn run(
    args: BakeArgs,
    session: impl Fn() -> Result<Session>,
    console: &Console,
) -> Result<(), Failure> {
    args.check()?;
    let permissions = Permissions::parse(&args.allow, &args.sets)?;
    // On a thread of its own: a wait for standard input can still be interrupted.
    let read = tokio::task::spawn_blocking(move || definitions::read(&args).map(|config| (args, config)));
    let (args, config) = read
        .await
        .map_err(|e| Error::internal("the task that reads definitions failed").with_source(e))??;
    if let Some(what) = &args.list {
        return list::print(what, &config, console.format);
    }
    let plan = plan(&args, &config)?;
    if args.print {
        return Ok(print_json(&plan)?);
    }
    permissions.check(&plan)?;
    bake(&args, plan, &session()?, console).await
}

/// The targets that were asked for.
fn plan(args: &BakeArgs, config: &BakeConfig) -> Result<BakePlan> {
    let default = ["default".to_owned()];
    let names = if args.targets.is_empty() { &default[..] } else { &args.targets };
    let mut plan = config.plan(names, &args.overrides(), &definitions::visible)?;
    if let Some(epoch) = definitions::variable("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
        for target in plan.targets.values_mut() {
            target.args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| epoch.clone());
        }
    }
    Ok(plan)
}

async fn bake(args: &BakeArgs, plan: BakePlan, session: &Session, console: &Console) -> Result<(), Failure> {
    let engine = if jobs::loads(&plan) { build::find_engine(session, console).await? } else { None };
    let reader = session.clone();
    let jobs = tokio::task::spawn_blocking(move || jobs::jobs(&plan, &reader, engine.as_ref()));
    let jobs =
        jobs.await.map_err(|e| Error::internal("the task that reads contexts failed").with_source(e))??;
    let logs = build::logs(session)?;
    let mode = if console.quiet { Mode::Quiet } else { build::progress_mode(args.progress)? };
    let shown: Vec<String> = jobs.iter().filter(|job| !job.is_internal).map(|job| job.name.clone()).collect();
    let stdout_is_taken = jobs.iter().flat_map(|job| &job.request.outputs).any(|output| output.is_stdout());
    let renderer = Renderer::start(mode, console.color, Some((&logs, "bake")))?;
    let outcome = session.build_all(jobs, renderer.progress()).await;
    let log = renderer.finish(outcome.is_err()).await?;
    let outputs = outcome.map_err(|error| {
        let ran = error.kind() == ErrorKind::CommandFailed;
        let failure = Failure::from(error);
        match log.filter(|_| ran) {
            Some(log) => failure.with_hint(format!("the whole output of the steps is in {}", log.display())),
            None => failure,
        }
    })?;
    if let Some(path) = &args.metadata_file {
        write_metadata(path, &outputs)?;
    }
    if !stdout_is_taken {
        print(&shown, &outputs, console.format)?;
    }
    Ok(())
}

/// Writes the metadata of every target by its name.
fn write_metadata(path: &Path, outputs: &BTreeMap<String, BuildOutput>) -> Result<()> {
    let cannot = |e| Error::internal("the result cannot be written as JSON").with_source(e);
    let mut all = BTreeMap::new();
    for (name, output) in outputs {
        let fields: serde_json::Value =
            serde_json::from_str(&build::metadata(output, None)?).map_err(cannot)?;
        all.insert(name, fields);
    }
    let text = serde_json::to_string_pretty(&all).map_err(cannot)?;
    write_file(path, format!("{text}\n").as_bytes())
}

/// Prints the digest of the image of each target.
fn print(names: &[String], outputs: &BTreeMap<String, BuildOutput>, format: Format) -> Result<()> {
    let asked: BTreeMap<&String, &BuildOutput> =
        names.iter().filter_map(|name| Some((name, outputs.get(name)?))).collect();
    if format == Format::Json {
        return print_json(&asked);
    }
    for (name, output) in asked {
        if let Some(image) = &output.image {
            print_line(&format!("{name} {}", image.digest))?;
        }
    }
    Ok(())
}
