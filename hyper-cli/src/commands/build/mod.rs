//! `hyperbuild build`.

mod again;
mod arguments;
mod cache_arguments;
mod call;
mod check;
mod limits;
mod on_error;
mod plan;
mod request;
mod result;
#[cfg(test)]
mod tests;

pub(super) use arguments::{BuildArgs, IsolationMode, mode as progress_mode};
pub(super) use request::complete;
pub(super) use result::metadata;

use crate::console::Console;
use crate::failure::Failure;
use crate::flags;
use crate::render::{Mode, Renderer};
use call::Method;
use hyper_sdk::build::{BuildRequest, Destinations, Output, OutputKind};
use hyper_sdk::client::Engine;
use hyper_sdk::session::{Recording, Session};
use hyper_sdk::{Error, ErrorKind, Result, ResultExt as _, private_folder};
use on_error::Reaction;
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
    let engine = if builds && args.load { find_engine(session, console).await? } else { None };
    // Holds named pipes open until the end.
    let _destinations = builds.then(|| check_destinations(&args, session, engine.as_ref())).transpose()?;
    let reader = session.clone();
    // On a thread of its own: a wait for standard input can still be interrupted.
    let read = move || {
        let made = request(&args, &reader, engine.as_ref(), |name| std::env::var_os(name));
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

/// Runs a command, or a shell, in the files of a step of a build.
pub(super) async fn exec(
    args: BuildArgs,
    step: String,
    command: Vec<String>,
    session: &Session,
    console: &Console,
) -> Result<(), Failure> {
    let (command, _pipe) = match command.is_empty() {
        true => on_error::shell().map(|(command, pipe)| (command, Some(pipe)))?,
        false => (on_error::command(command), None),
    };
    let reader = session.clone();
    let read = move || request(&args, &reader, None, |name| std::env::var_os(name));
    let read = tokio::task::spawn_blocking(read).await;
    let (mut request, _unpacked) =
        read.map_err(|e| Error::internal("the task that reads the context failed").with_source(e))??;
    request.outputs = vec![OutputKind::CacheOnly.into()];
    request.on_error = Some(command.clone());
    request.exec_in = Some(step);
    let renderer = Renderer::start(Mode::Quiet, console.color, None)?;
    let outcome = session.build(request, renderer.progress()).await;
    renderer.finish(false).await?;
    match (command.status(), outcome) {
        (Some(0), _) => Ok(()),
        // The command has told why.
        (Some(_), _) => Err(Failure::Findings),
        (None, outcome) => outcome.map(drop).map_err(Failure::from),
    }
}

async fn dry_run(
    args: &BuildArgs,
    request: BuildRequest,
    session: &Session,
    console: &Console,
) -> Result<(), Failure> {
    let builder = session.local_builder().await?;
    let renderer = Renderer::start(mode(args, console)?, console.color, None)?;
    let plan = builder.plan(request, renderer.progress()).await;
    renderer.finish(plan.is_err()).await?;
    Ok(plan::report(&plan?, console.format)?)
}

async fn build(
    args: &BuildArgs,
    mut request: BuildRequest,
    session: &Session,
    console: &Console,
) -> Result<(), Failure> {
    let stdout_is_taken = request.outputs.iter().any(Output::is_stdout);
    // The pipe of the shell is removed when the build has ended.
    let shell = args.on_error.map(|Reaction::Shell| on_error::shell()).transpose()?;
    let (command, _pipe) = shell.unzip();
    request.on_error = command;
    let logs = logs(session)?;
    let renderer = Renderer::start(mode(args, console)?, console.color, Some((&logs, "build")))?;
    // A build is worth more than its record.
    let unrecorded = |error: &Error| console.warn(&format!("the history does not have this build: {error}"));
    let begun = session.history().and_then(|history| history.begin(&request, renderer.log()));
    let recording = begun.inspect_err(unrecorded).ok();
    if let Some(recording) = &recording
        && let (Some(arguments), Ok(folder)) = (args.to_make_again(), std::env::current_dir())
    {
        recording.set_arguments(arguments, folder);
    }
    request.recorder = recording.as_ref().map(Recording::steps);
    let progress = match &recording {
        Some(recording) => recording.progress(renderer.progress()),
        None => renderer.progress().clone(),
    };
    let outcome = session.build(request, &progress).await;
    drop(progress);
    let id = recording.as_ref().map(Recording::id);
    if let Some(recording) = recording {
        let steps = recording.steps();
        let _ = recording.finish(outcome.as_ref()).inspect_err(unrecorded);
        if let Some(error) = steps.take_error() {
            console.warn(&format!("`why` cannot say why steps of this build ran: {error}"));
        }
    }
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
        id: id.as_deref(),
        print: (!stdout_is_taken).then_some(console.format),
    };
    Ok(report.write(&output)?)
}

fn mode(args: &BuildArgs, console: &Console) -> Result<Mode, Failure> {
    match if console.quiet { Mode::Quiet } else { args.mode()? } {
        // Live bars and a shell do not share a terminal.
        Mode::Auto | Mode::Tty if args.on_error.is_some() => Ok(Mode::Plain),
        mode => Ok(mode),
    }
}

/// Refuses flags that are not supported, and those of something else than a build.
pub(super) fn check(args: &BuildArgs) -> Result<(), Failure> {
    args.unsupported.check()?;
    match args.call.method {
        Method::Build => Ok(()),
        _ => Err(flags::unsupported("--call is not supported yet for several targets")),
    }
}

/// Where log files go.
pub(super) fn logs(session: &Session) -> Result<PathBuf> {
    let logs = session.root()?.join("logs");
    // An older version may have left the folder open to other users. A link leads to where its user wants it.
    if logs.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
        private_folder::open(&logs).op("open the folder of logs")?;
    }
    Ok(logs)
}

/// The engine that `--load` loads the image into, before the build begins.
pub(super) async fn find_engine(session: &Session, console: &Console) -> Result<Option<Engine>, Failure> {
    let found = session.options().engines.find().await.map_err(|error| {
        Failure::from(error)
            .with_hint("without DOCKER_HOST and CONTAINER_HOST, a running docker or podman is looked for")
    })?;
    if found.is_none() {
        console.message("no docker or podman answers: --load keeps the image in the local store alone");
    }
    Ok(found)
}

/// Refuses destinations that the result cannot be written to, before the context is read.
fn check_destinations(
    args: &BuildArgs,
    session: &Session,
    engine: Option<&Engine>,
) -> Result<Destinations, Failure> {
    let outputs = outputs(args, session, engine)?;
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
