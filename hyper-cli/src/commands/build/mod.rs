//! `hyperbuild build`.

mod arguments;
mod call;
mod check;
mod plan;
mod request;
mod result;
#[cfg(test)]
mod tests;

pub(super) use arguments::BuildArgs;

use crate::console::Console;
use crate::failure::Failure;
use crate::places::{self, Pipes};
use crate::render::{Mode, Renderer};
use call::Method;
use hyper_sdk::build::BuildRequest;
use hyper_sdk::session::Session;
use hyper_sdk::{Error, ErrorKind, Result, ResultExt as _, private_folder};
use request::{outputs, request};
use result::Tell;
use std::path::PathBuf;

/// Does what the arguments ask for: builds, checks, plans or lists.
pub(super) async fn run(args: BuildArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    args.refused.check()?;
    args.check_methods()?;
    let method = if args.checks() { Method::Check } else { args.call.method };
    // Named pipes stay open until the end.
    let builds = method == Method::Build && !args.dry_run;
    let _pipes = if builds { check_places(&args, session)? } else { Pipes::default() };
    let reader = session.clone();
    // On a thread of its own: who waits for standard input can still be interrupted.
    let read = move || {
        let made = request(&args, &reader, |name| std::env::var_os(name));
        made.map(|(request, unpacked)| (args, request, unpacked))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (args, request, _unpacked) =
        read.map_err(|e| Error::internal("reading the context ended early").with_source(e))??;
    match method {
        Method::Build if args.dry_run => dry_run(&args, request, session, console).await,
        Method::Build => build(&args, request, session, console).await,
        method => {
            let builder = session.local_builder().await?;
            let stdin = args.file.as_deref() == Some("-") || args.context == "-";
            let outcome = check::run(method, args.fix.then_some(stdin), request, &builder, console).await;
            match outcome {
                Err(Failure::Findings) if args.call.ignore_status => Ok(()),
                other => other,
            }
        }
    }
}

async fn dry_run(
    args: &BuildArgs,
    request: BuildRequest,
    session: &Session,
    console: &Console,
) -> Result<(), Failure> {
    let builder = session.local_builder().await?;
    let renderer = Renderer::start(mode(args, console), console.color, None)?;
    let plan = builder.plan(request, renderer.progress()).await;
    renderer.finish(plan.is_err()).await?;
    Ok(plan::report(&plan?, console.format)?)
}

async fn build(
    args: &BuildArgs,
    request: BuildRequest,
    session: &Session,
    console: &Console,
) -> Result<(), Failure> {
    let stdout_is_taken = uses_stdout(args, session)?;
    let logs = logs(session)?;
    let renderer = Renderer::start(mode(args, console), console.color, Some((&logs, "build")))?;
    let outcome = session.build(request, renderer.progress()).await;
    let log = renderer.finish(outcome.is_err()).await?;
    let output = outcome.map_err(|error| {
        let ran = error.kind() == ErrorKind::CommandFailed;
        let failure = Failure::from(error);
        match log.filter(|_| ran) {
            Some(log) => {
                failure.with_hint(format!("everything that the steps wrote is in {}", log.display()))
            }
            None => failure,
        }
    })?;
    let tell = Tell {
        iidfile: args.iidfile.as_deref(),
        metadata_file: args.metadata_file.as_deref(),
        print: (!stdout_is_taken).then_some(console.format),
    };
    Ok(tell.report(&output)?)
}

fn mode(args: &BuildArgs, console: &Console) -> Mode {
    if console.quiet { Mode::Quiet } else { args.progress }
}

/// Where log files go.
fn logs(session: &Session) -> Result<PathBuf> {
    let logs = session.root()?.join("logs");
    // An older version may have left it open, and somebody may stand in it. A link leads to where its user wants it.
    if logs.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
        private_folder::open(&logs).op("open the folder of logs")?;
    }
    Ok(logs)
}

/// Refuses places that the result cannot be written to, before there is a result.
fn check_places(args: &BuildArgs, session: &Session) -> Result<Pipes, Failure> {
    let usage = |flag: &str, value: &str, why: String| Failure::usage(format!("--{flag} `{value}`: {why}"));
    let outputs = outputs(args, session)?;
    let stdout_is_taken = uses_stdout(args, session)?;
    let made: Vec<_> = outputs.iter().filter_map(|one| places::folder(one).map(ToOwned::to_owned)).collect();
    let mut pipes = Pipes::default();
    // Those of --push and --load, which come last, are written to no place.
    for (output, value) in outputs.iter().zip(&args.outputs) {
        pipes.check(output, &made).map_err(|why| usage("output", value, why))?;
    }
    for (flag, path) in [("iidfile", &args.iidfile), ("metadata-file", &args.metadata_file)] {
        if let Some(path) = path {
            let usage = |why| usage(flag, &path.to_string_lossy(), why);
            if stdout_is_taken && places::is_stdout(path) {
                return Err(usage("an archive goes to standard output: name another file".to_owned()));
            }
            pipes.check_file(path, &made).map_err(usage)?;
        }
    }
    Ok(pipes)
}

fn uses_stdout(args: &BuildArgs, session: &Session) -> Result<bool, Failure> {
    let taken = outputs(args, session)?.iter().filter(|one| places::uses_stdout(one)).count();
    if taken > 1 {
        return Err(Failure::usage("only one output can go to standard output"));
    }
    Ok(taken == 1)
}
