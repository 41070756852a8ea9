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
use crate::flags;
use crate::render::{Mode, Renderer};
use call::Method;
use hyper_sdk::build::{BuildRequest, Destinations, Output, OutputKind};
use hyper_sdk::session::Session;
use hyper_sdk::{Error, ErrorKind, Result, ResultExt as _, private_folder};
use request::{outputs, request};
use result::Report;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

/// Builds, checks, plans or lists, as the arguments ask for.
pub(super) async fn run(args: BuildArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    args.unsupported.check()?;
    args.check_methods()?;
    let method = if args.checks() { Method::Check } else { args.call.method };
    let builds = method == Method::Build && !args.dry_run;
    // Holds named pipes open until the end.
    let _destinations = builds.then(|| check_destinations(&args, session)).transpose()?;
    let reader = session.clone();
    // On a thread of its own: a wait for standard input can still be interrupted.
    let read = move || {
        let made = request(&args, &reader, |name| std::env::var_os(name));
        made.map(|(request, unpacked)| (args, request, unpacked))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (args, request, _unpacked) =
        read.map_err(|e| Error::internal("the task that reads the context failed").with_source(e))??;
    match method {
        Method::Build if args.dry_run => dry_run(&args, request, session, console).await,
        Method::Build => build(&args, request, session, console).await,
        method => {
            let builder = session.local_builder().await?;
            let outcome = check::run(method, args.fix, request, &builder, console).await;
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
    let stdout_is_taken = request.outputs.iter().any(Output::is_stdout);
    let logs = logs(session)?;
    let renderer = Renderer::start(mode(args, console), console.color, Some((&logs, "build")))?;
    let outcome = session.build(request, renderer.progress()).await;
    let log = renderer.finish(outcome.is_err()).await?;
    let output = outcome.map_err(|error| {
        let ran = error.kind() == ErrorKind::CommandFailed;
        let failure = Failure::from(error);
        match log.filter(|_| ran) {
            Some(log) => failure.with_hint(format!("the whole output of the steps is in {}", log.display())),
            None => failure,
        }
    })?;
    let report = Report {
        iidfile: args.iidfile.as_deref(),
        metadata_file: args.metadata_file.as_deref(),
        print: (!stdout_is_taken).then_some(console.format),
    };
    Ok(report.write(&output)?)
}

fn mode(args: &BuildArgs, console: &Console) -> Mode {
    if console.quiet { Mode::Quiet } else { args.progress }
}

/// Where log files go.
fn logs(session: &Session) -> Result<PathBuf> {
    let logs = session.root()?.join("logs");
    // An older version may have left the folder open to other users. A link leads to where its user wants it.
    if logs.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
        private_folder::open(&logs).op("open the folder of logs")?;
    }
    Ok(logs)
}

/// Refuses destinations that the result cannot be written to, before the context is read.
fn check_destinations(args: &BuildArgs, session: &Session) -> Result<Destinations, Failure> {
    let outputs = outputs(args, session)?;
    if outputs.iter().filter(|output| output.is_stdout()).count() > 1 {
        return Err(Failure::usage("only one output can go to standard output"));
    }
    let mut destinations = Destinations::new(&outputs, session.options().home.as_deref());
    // Those of --push and --load come last, and have no destination.
    for (output, value) in outputs.iter().zip(&args.outputs) {
        check_terminal(output)
            .and_then(|()| destinations.check(output))
            .map_err(flags::of_value("output", value))?;
    }
    if args.iidfile.is_some() && !outputs.iter().any(Output::makes_image) {
        let message = "--iidfile needs an output that is an image: files alone have no digest";
        return Err(Failure::usage(message));
    }
    for (flag, path) in [("iidfile", &args.iidfile), ("metadata-file", &args.metadata_file)] {
        if let Some(path) = path {
            destinations.check_file(path).map_err(flags::of_value(flag, &path.to_string_lossy()))?;
        }
    }
    Ok(destinations)
}

/// Refuses an archive on a terminal.
fn check_terminal(output: &Output) -> Result<()> {
    if !output.is_stdout() || !io::stdout().is_terminal() {
        return Ok(());
    }
    let instead = match output.kind {
        OutputKind::Docker(_) => "pipe it into `docker load`",
        _ => "send standard output to a file or a pipe",
    };
    Err(Error::invalid(format!(
        "an archive is not written to a terminal: name a file with dest=FILE, or {instead}"
    )))
}
