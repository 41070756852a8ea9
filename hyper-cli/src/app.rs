//! The command line as a whole: global options, dispatch to one function a command, exit status.

use crate::backends::Session;
use crate::commands;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::render::json;
use crate::terminal::ColorChoice;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Builds container images from Dockerfiles, and stores, serves and moves them
///
/// Needs no daemon and no container runtime. Works as root and as an ordinary user.
#[derive(Debug, Parser)]
#[command(name = "hyperbuild", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Folder that keeps the local store, the cache and the logs
    ///
    /// Without it: `/var/lib/hyper` for root, else `$XDG_DATA_HOME/hyper` or `~/.local/share/hyper`.
    #[arg(long, global = true, value_name = "DIR", env = "HYPER_ROOT", hide_env_values = true)]
    pub(crate) root: Option<PathBuf>,
    /// Folder of the `config.json` with the credentials of registries; `~/.docker` without it
    #[arg(long, global = true, value_name = "DIR", env = "DOCKER_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// When to use colour; `NO_COLOR` in the environment counts as `never` unless this is given
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// Prints results only, no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text or a table for people
    #[value(alias = "table")]
    Text,
    /// JSON
    Json,
    /// SARIF 2.1.0, of `build --check` alone
    Sarif,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<commands::build::BuildArgs>),
    Push(commands::push::PushArgs),
    Pull(commands::pull::PullArgs),
    Images(commands::images::ImagesArgs),
    Inspect(commands::inspect::InspectArgs),
    Tag(commands::tag::TagArgs),
    Rm(commands::rm::RmArgs),
    Login(commands::login::LoginArgs),
    Logout(commands::logout::LogoutArgs),
    Serve(commands::serve::ServeArgs),
    Quickstart(commands::quickstart::QuickstartArgs),
    Completions(commands::completions::CompletionsArgs),
    #[command(hide = true)]
    Man(commands::man::ManArgs),
    #[command(hide = true)]
    Rules(commands::rules::RulesArgs),
    #[command(hide = true)]
    Reference(commands::reference::ReferenceArgs),
}

/// Parses the command line, runs the command and gives the exit status: 0, 1 for a failure, 2 for a wrong call, 128 and
/// the number of the signal that ended it.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refuse(&e),
    };
    if let Command::Build(args) = &cli.command
        && args.tells_json()
        && !cli.global.quiet
    {
        json::turn_on();
    }
    let color = cli.global.color.resolve();
    commands::init_logging(color);
    let root = Session::new(cli.global.clone()).ok().map(|session| session.place().to_owned());
    let root = root.as_deref();
    let runtime = match hyper_sdk::runtime::start() {
        Ok(runtime) => runtime,
        Err(e) => return Failure::from(e).report(color, root),
    };
    let outcome = runtime.block_on(run(cli));
    // What clears up after an error ends by itself. Work that an interrupt gave up must not keep the program.
    let is_interrupted = matches!(outcome, Err(Failure::Interrupted(_)));
    runtime.shutdown_timeout(Duration::from_millis(if is_interrupted { 500 } else { 5000 }));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(color, root),
    }
}

/// Tells why the command line is not understood, and gives the exit status; help and version are told so, too.
fn refuse(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if error.use_stderr() && asks_for_json(&arguments, std::env::var("BUILDKIT_PROGRESS").ok()) {
        json::turn_on();
        return Failure::usage(error.render().to_string().trim_end().trim_start_matches("error: "))
            .report(false, None);
    }
    // A terminal that went away is not told.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Whether arguments that are not understood as a whole ask for progress as JSON.
fn asks_for_json(arguments: &[String], variable: Option<String>) -> bool {
    let is_json = |mode: &str| matches!(mode.to_ascii_lowercase().as_str(), "json" | "rawjson");
    let mut modes = arguments.iter().zip(arguments.iter().skip(1).map(Some).chain([None]));
    let mode = modes.find_map(|(argument, next)| match argument.as_str() {
        "--progress" => next.cloned(),
        other => other.strip_prefix("--progress=").map(str::to_owned),
    });
    arguments.iter().any(|argument| argument == "build")
        && !arguments.iter().any(|argument| argument == "-q" || argument == "--quiet")
        && mode.or(variable).is_some_and(|mode| is_json(&mode))
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    // A server ends in good order when it is interrupted; every other command is given up where it stands.
    if let Command::Serve(args) = cli.command {
        return commands::serve::run(args, &Session::new(cli.global)?, &interrupt).await;
    }
    let work = dispatch(cli);
    tokio::select! {
        outcome = work => outcome,
        signal = interrupt.wait() => Err(Failure::Interrupted(signal)),
    }
}

async fn dispatch(mut cli: Cli) -> Result<(), Failure> {
    if let Command::Build(args) = &cli.command
        && let Some(format) = args.call.format
    {
        cli.global.format = format;
    }
    let checks = matches!(&cli.command, Command::Build(args) if args.checks());
    if cli.global.format == Format::Sarif && !checks {
        return Err(Failure::usage("--format sarif is for `hyperbuild build --check`"));
    }
    let session = || Session::new(cli.global.clone());
    match cli.command {
        Command::Build(args) => commands::build::run(*args, &session()?).await,
        Command::Push(args) => commands::push::run(args, &session()?).await,
        Command::Pull(args) => commands::pull::run(args, &session()?).await,
        Command::Images(args) => commands::images::run(args, &session()?).await,
        Command::Inspect(args) => commands::inspect::run(args, &session()?).await,
        Command::Tag(args) => commands::tag::run(args, &session()?).await,
        Command::Rm(args) => commands::rm::run(args, &session()?).await,
        Command::Login(args) => commands::login::run(args, &session()?).await,
        Command::Logout(args) => commands::logout::run(args, &session()?).await,
        Command::Quickstart(args) => commands::quickstart::run(args, &session()?).await,
        Command::Completions(args) => commands::completions::run(&args, Cli::command()),
        Command::Man(args) => commands::man::run(&args, Cli::command()),
        Command::Rules(args) => commands::rules::run(&args),
        Command::Reference(args) => commands::reference::run(&args, Cli::command()),
        Command::Serve(_) => Err(hyper_sdk::Error::internal("`serve` has its own way in").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_option_has_help() {
        let mut missing = Vec::new();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                if argument.get_help().is_none() {
                    missing.push(format!("{} {}", command.get_name(), argument.get_id()));
                }
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn what_asks_for_json_is_known_before_the_rest() {
        let asks = |text: &str, variable: Option<&str>| {
            let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
            asks_for_json(&arguments, variable.map(str::to_owned))
        };
        assert!(asks("build --progress=json --elephant .", None));
        assert!(asks("build --elephant --progress rawjson", Some("plain")));
        assert!(asks("build --elephant", Some("rawjson")));
        assert!(!asks("build --progress=plain --elephant", Some("json")));
        assert!(!asks("build -q --progress=json --elephant", None));
        assert!(!asks("push --elephant", Some("json")));
    }
}
