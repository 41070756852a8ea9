//! From targets to builds. A target is read as a command line of `hyperbuild build`, so that it means the same and what is not
//! supported has the same error.

use super::build::{self, BuildArgs};
use crate::failure::Failure;
use clap::Parser;
use hyper_sdk::bake::{BakePlan, Target, build_flags};
use hyper_sdk::build::{BuildContext, BuildRequest, Output};
use hyper_sdk::client::Engine;
use hyper_sdk::session::{Job, Session};
use std::collections::BTreeMap;
use std::path::Path;

/// A command line of `build`.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: BuildArgs,
}

/// Whether a target asks for an image in the local store, and in an engine that runs.
pub(super) fn loads(plan: &BakePlan) -> bool {
    plan.targets.values().any(|target| build_flags(target).iter().any(|flag| flag == "--load"))
}

/// The builds of a plan. Reads Dockerfiles and secrets. `engine` is where images are also loaded.
pub(super) fn jobs(plan: &BakePlan, session: &Session, engine: Option<&Engine>) -> Result<Vec<Job>, Failure> {
    let mut jobs = Vec::new();
    for (name, target) in &plan.targets {
        let request = request(target, session, engine).map_err(|failure| about(name, failure))?;
        let needs: BTreeMap<String, String> = target
            .contexts
            .iter()
            .filter_map(|(context, value)| Some((context.clone(), value.strip_prefix("target:")?.to_owned())))
            .collect();
        jobs.push(Job { name: name.clone(), request, needs, is_internal: target.linked });
    }
    let to_stdout = |job: &&Job| job.request.outputs.iter().any(Output::is_stdout);
    if jobs.iter().filter(to_stdout).count() > 1 {
        return Err(Failure::usage("only one output can go to standard output"));
    }
    Ok(jobs)
}

/// The failure with the name of its target.
pub(super) fn about(name: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Usage(message) => Failure::usage(format!("the target `{name}`: {message}")),
        Failure::Work { error, hint } => Failure::Work { error: error.with_context("target", name), hint },
        other => other,
    }
}

/// The command line that a target is read as.
///
/// # Errors
/// Those of the command line.
pub(super) fn line(target: &Target) -> Result<BuildArgs, Failure> {
    let context = target.context.clone().unwrap_or_else(|| ".".to_owned());
    let line = ["build".to_owned()].into_iter().chain(build_flags(target)).chain(["--".to_owned(), context]);
    let Line { args } = Line::try_parse_from(line).map_err(|e| {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default();
        Failure::usage(first.trim_start_matches("error: "))
    })?;
    Ok(args)
}

fn request(target: &Target, session: &Session, engine: Option<&Engine>) -> Result<BuildRequest, Failure> {
    let args = line(target)?;
    build::check(&args)?;
    let context = BuildContext::parse(&args.context)?;
    let mut request = match &target.dockerfile_inline {
        Some(text) => BuildRequest::from_text(text.as_str(), context)?,
        None => BuildRequest::from_context(context, args.file.as_deref().map(Path::new))?,
    };
    let engine = engine.filter(|_| args.load);
    build::complete(&mut request, &args, session, engine, |name| std::env::var_os(name))?;
    Ok(request)
}
