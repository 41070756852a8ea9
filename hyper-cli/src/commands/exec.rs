//! `hyperbuild exec`.

use super::build::{self, BuildArgs};
use crate::console::Console;
use crate::failure::Failure;
use clap::{Args, FromArgMatches as _};
use hyper_sdk::session::{BuildRecord, Session};
use hyper_sdk::{Error, ErrorKind};

/// Runs a command in the files of a RUN step, with its mounts and its environment
///
/// The step is one of a build of the history. What is not in the cache is built first; a step that fails has the files that it
/// left. What the command changes is dropped.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The step: its number in `history inspect`, its name, or a part of it
    #[arg(value_name = "STEP")]
    step: String,
    /// The command; without one a shell that reads standard input
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// The build, by its id or the beginning of it; the newest without
    #[arg(long, value_name = "ID")]
    build: Option<String>,
    /// Value of an ARG, which the history does not keep
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,
}

pub(crate) async fn run(
    args: ExecArgs,
    session: &Session,
    console: &Console,
    line: clap::Command,
) -> Result<(), Failure> {
    let record = session.history()?.get(args.build.as_deref())?;
    let mut again = arguments(&record, line)?;
    again.replace_build_args(&args.build_args)?;
    let step = match args.step.parse::<u64>() {
        Ok(number) => {
            let known = record.steps.iter().find(|step| step.number == number);
            let missing = || {
                let message = format!("the build `{}` has no step {number}", record.id);
                let program = crate::program::name();
                Failure::from(Error::new(ErrorKind::NotFound, message))
                    .with_hint(format!("`{program} history inspect {}` lists them", record.id))
            };
            known.ok_or_else(missing)?.name.clone()
        }
        Err(_) => args.step,
    };
    std::env::set_current_dir(&record.folder)
        .map_err(|e| Error::io("cannot enter the folder that the build was started in", &record.folder, e))?;
    build::exec(again, step, args.command, session, console).await
}

/// The arguments of a build of the history.
fn arguments(record: &BuildRecord, line: clap::Command) -> Result<BuildArgs, Failure> {
    let Some(arguments) = &record.arguments else {
        let message = format!(
            "the build `{}` cannot be made again: it read standard input, or its addresses may have secrets",
            record.id
        );
        return Err(Error::unsupported(message).into());
    };
    let words = std::iter::once(crate::program::name().to_owned()).chain(arguments.iter().cloned());
    let parsed = line.try_get_matches_from(words).ok();
    let parsed = parsed.as_ref().and_then(|matches| matches.subcommand_matches("build"));
    let args = parsed.and_then(|matches| BuildArgs::from_arg_matches(matches).ok());
    args.ok_or_else(|| Error::invalid("the arguments of the build are not understood any more").into())
}
