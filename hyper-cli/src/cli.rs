//! The command line as a whole: global options, the commands, exit status.

use crate::args::{ExecutorArgs, GlobalArgs, TransportArgs};
use crate::commands::{Command, serve};
use crate::console::Console;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::session::{self, Configure};
use crate::{json_events, logging, program, render};
use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, CommandFactory as _, FromArgMatches, Parser};
use futures::future::LocalBoxFuture;
use hyper_sdk::dockerfile::suggestion;
use hyper_sdk::session::{Session, SessionOptions};
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

/// How long the end of an interrupted command waits until its display has shown what there is: the reader may be stuck.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Builds container images from Dockerfiles, and stores, serves and moves them
///
/// Needs no daemon and no container runtime. Works as root and as an ordinary user.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// The command line of `hyperbuild`, with what a caller adds.
///
/// ```no_run
/// use hyper_cli::Cli;
/// use hyper_sdk::store::{MemoryStore, SharedStore};
/// use std::path::PathBuf;
/// use std::sync::Arc;
///
/// /// Forgets the images when the program ends.
/// async fn store(_state_folder: PathBuf) -> hyper_sdk::Result<SharedStore> {
///     Ok(Arc::new(MemoryStore::default()))
/// }
///
/// fn main() -> std::process::ExitCode {
///     Cli::new("acmebuild").session(|options| options.open_store(store)).run()
/// }
/// ```
#[derive(Debug)]
pub struct Cli {
    name: &'static str,
    configure: Configure,
    extra: Vec<Extra>,
}

/// A command of the caller.
struct Extra {
    command: clap::Command,
    run: Box<Start>,
}

type Start = dyn Fn(&ArgMatches, Session, Console) -> Result<Work, clap::Error>;
type Work = LocalBoxFuture<'static, Result<(), Failure>>;

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command.get_name())
    }
}

/// A parsed command line.
enum Call {
    /// A command of `hyperbuild`.
    Own(Command),
    /// A command of the caller: its index, and its arguments.
    Extra(usize, ArgMatches),
}

impl Cli {
    /// The command line of a program of this name, with the commands of `hyperbuild`.
    pub fn new(name: &'static str) -> Self {
        Self { name, configure: Configure::default(), extra: Vec::new() }
    }

    /// Changes the options of the session before it is opened: its store, its keychain, the parts of its builder. They come
    /// from the environment and the command line.
    #[must_use]
    pub fn session(mut self, change: impl Fn(SessionOptions) -> SessionOptions + 'static) -> Self {
        self.configure = Configure::new(change);
        self
    }

    /// Adds a command, of a name that no command has. Its help is the documentation of its arguments. Where they have
    /// [`TransportArgs`] among them, its session reaches registries so.
    #[must_use]
    pub fn command<A, F>(
        mut self,
        name: &'static str,
        run: impl Fn(A, Session, Console) -> F + 'static,
    ) -> Self
    where
        A: clap::Args,
        F: Future<Output = Result<(), Failure>> + 'static,
    {
        let command = A::augment_args(clap::Command::new(name));
        let run = move |matches: &ArgMatches, session, console| {
            let work: Work = Box::pin(run(A::from_arg_matches(matches)?, session, console));
            Ok(work)
        };
        self.extra.push(Extra { command, run: Box::new(run) });
        self
    }

    /// Parses the command line of the process, runs the command and returns the exit status: 0 for success, 1 for a failure,
    /// 2 for a wrong command line, 128 and the number of the signal that ended it.
    ///
    /// Must be called by `main`, before any thread starts: the sandbox starts this very program as its helper, which never
    /// returns from here.
    pub fn run(self) -> ExitCode {
        hyper_sdk::runtime::keep_little_memory();
        hyper_sdk::exec::init();
        program::set_name(self.name);
        let mut line = self.line();
        let (global, call) = match self.parse(&mut line) {
            Ok(parsed) => parsed,
            Err(e) => return refuse(&without_far_tips(e)),
        };
        if let Call::Own(command) = &call
            && command.prints_events()
            && !global.quiet
        {
            json_events::turn_on();
        }
        let console = Console::new(&global);
        logging::init(console.color);
        let root = session::root(&global);
        let root = root.as_deref();
        let runtime = match hyper_sdk::runtime::start() {
            Ok(runtime) => runtime,
            Err(e) => return Failure::from(e).report(console.color, root),
        };
        let outcome = runtime.block_on(self.perform(call, global, console, line));
        // Cleaning up after an error ends by itself. Work that was interrupted must not delay the end of the program.
        let is_interrupted = matches!(outcome, Err(Failure::Interrupted(_)));
        runtime.shutdown_timeout(Duration::from_millis(if is_interrupted { 500 } else { 5000 }));
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(console.color, root),
        }
    }

    /// The parser of the command line.
    pub(crate) fn line(&self) -> clap::Command {
        let line = Arguments::command().name(self.name);
        line.subcommands(self.extra.iter().map(|extra| extra.command.clone()))
    }

    fn parse(&self, line: &mut clap::Command) -> Result<(GlobalArgs, Call), clap::Error> {
        let matches = line.try_get_matches_from_mut(std::env::args_os())?;
        let parse = || {
            if let Some((name, own)) = matches.subcommand()
                && let Some(at) = self.extra.iter().position(|extra| extra.command.get_name() == name)
            {
                return Ok((GlobalArgs::from_arg_matches(&matches)?, Call::Extra(at, own.clone())));
            }
            let arguments = Arguments::from_arg_matches(&matches)?;
            Ok((arguments.global, Call::Own(arguments.command)))
        };
        parse().map_err(|e: clap::Error| e.format(line))
    }

    async fn perform(
        self,
        call: Call,
        global: GlobalArgs,
        console: Console,
        mut line: clap::Command,
    ) -> Result<(), Failure> {
        let interrupt = Interrupt::listen()?;
        let open = |transport: &TransportArgs, executor: &ExecutorArgs| {
            session::open(&global, transport, executor, &console, &self.configure)
        };
        let native = ExecutorArgs::default();
        let work: LocalBoxFuture<'_, Result<(), Failure>> = match call {
            // A server shuts down gracefully when it is interrupted; every other command is dropped.
            Call::Own(Command::Serve(args)) => {
                return serve::run(args, &open(&TransportArgs::default(), &native)?, &console, &interrupt)
                    .await;
            }
            // A new parser: the other one has clap's own commands by now, such as `help`.
            Call::Own(command) => Box::pin(command.run(open, console, self.line())),
            Call::Extra(at, matches) => {
                let extra = &self.extra[at];
                let mut usage = |e: clap::Error| Failure::usage(usage_of(&e.format(&mut line)));
                let transport = TransportArgs::of(&extra.command, &matches).map_err(&mut usage)?;
                (extra.run)(&matches, open(&transport, &native)?, console).map_err(usage)?
            }
        };
        tokio::select! {
            outcome = work => outcome,
            signal = interrupt.wait() => {
                // The work has been dropped, and what it was about to do was cancelled.
                render::all_have_ended(LAST_EVENTS).await;
                Err(Failure::Interrupted(signal))
            }
        }
    }
}

/// Prints why the command line cannot be parsed, and returns the exit status. Help and version come here, too.
fn refuse(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if error.use_stderr() && asks_for_json(&arguments, std::env::var("BUILDKIT_PROGRESS").ok()) {
        json_events::turn_on();
        return Failure::usage(usage_of(error)).report(false, None);
    }
    // A terminal that went away is not an error.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// The error of the parser without a tip that has little in common with what was typed.
fn without_far_tips(mut error: clap::Error) -> clap::Error {
    for (typed, tip) in [
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        (ContextKind::InvalidValue, ContextKind::SuggestedValue),
    ] {
        let texts = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            _ => Vec::new(),
        };
        let bare = |text: &str| text.trim_start_matches('-').to_owned();
        let (typed, tips) = (texts(typed), texts(tip));
        let near = tips
            .iter()
            .filter(|tip| typed.iter().any(|word| suggestion(&bare(word), [bare(tip).as_str()]).is_some()));
        let near: Vec<String> = near.cloned().collect();
        if near.is_empty() && !tips.is_empty() {
            error.remove(tip);
        } else if near.len() < tips.len() {
            error.insert(tip, ContextValue::Strings(near));
        }
    }
    error
}

/// The text of an error of the parser, without its label.
fn usage_of(error: &clap::Error) -> String {
    error.render().to_string().trim_end().trim_start_matches("error: ").to_owned()
}

/// Whether arguments that cannot be parsed ask for progress as JSON.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> clap::Command {
        Cli::new("hyperbuild").line()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        line().debug_assert();
    }

    #[test]
    fn a_tip_has_much_in_common_with_what_was_typed() {
        for (words, tip) in [
            (&["build", "--foo", "."][..], None),
            (&["build", "--platfrom=x", "."], Some("--platform")),
            (&["biuld", "."], Some("build")),
            (&["elephant"], None),
            (&["images", "--format", "jsno"], Some("json")),
            (&["images", "--format", "xml"], None),
        ] {
            let words = std::iter::once("hyperbuild").chain(words.iter().copied());
            let error = line().try_get_matches_from(words).unwrap_err();
            let told = usage_of(&without_far_tips(error));
            assert_eq!(told.contains("similar"), tip.is_some(), "{told}");
            assert!(told.contains(tip.unwrap_or_default()), "{told}");
        }
    }

    #[test]
    fn no_option_is_taken_from_the_environment_by_the_parser() {
        // It would show the option as a required one.
        let (mut commands, mut found) = (vec![line()], Vec::new());
        while let Some(command) = commands.pop() {
            found.extend(
                command.get_arguments().filter(|a| a.get_env().is_some()).map(|a| a.get_id().to_string()),
            );
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn every_visible_option_has_help() {
        let mut missing = Vec::new();
        for command in line().get_subcommands() {
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
    fn a_command_of_the_caller_has_its_help_and_the_global_options() {
        /// Counts
        #[derive(Debug, clap::Args)]
        struct Count {
            /// What is counted
            #[arg(long)]
            what: Option<String>,
        }
        let cli = Cli::new("acmebuild").command("count", async |_: Count, _, _| Ok(()));
        let mut line = cli.line();
        line.build();
        let count = line.find_subcommand("count").unwrap();
        assert_eq!(count.get_about().unwrap().to_string(), "Counts");
        assert!(count.get_arguments().any(|argument| argument.get_id() == "root"));
        assert_eq!(count.get_bin_name(), Some("acmebuild count"));
    }

    #[test]
    fn what_a_command_takes_about_registries_counts() {
        let line = line();
        let takes: Vec<_> = line.get_subcommands().filter(|command| TransportArgs::are_of(command)).collect();
        assert!(takes.len() >= 5, "{takes:?}");
        for command in takes {
            let required = command.get_positionals().filter(|argument| argument.is_required_set()).count();
            let words = ["hyperbuild", command.get_name(), "--ca-file", "own.pem", "--plain-http"];
            let arguments = words.into_iter().chain(std::iter::repeat_n("x", required));
            let parsed = Arguments::try_parse_from(arguments).unwrap();
            let transport = parsed.command.transport();
            assert_eq!(transport.ca_file, [std::path::Path::new("own.pem")], "{}", command.get_name());
            assert!(transport.plain_http, "{}", command.get_name());
        }
    }

    #[test]
    fn what_a_command_of_the_caller_takes_about_registries_counts() {
        /// Copies
        #[derive(Debug, clap::Args)]
        struct Copy {
            #[command(flatten)]
            _transport: TransportArgs,
        }
        /// Counts
        #[derive(Debug, clap::Args)]
        struct Count {
            /// Another argument of the same name
            #[arg(long = "ca-file", id = "ca_file")]
            _number: Option<u8>,
        }
        let cli = Cli::new("acmebuild")
            .command("copy", async |_: Copy, _, _| Ok(()))
            .command("count", async |_: Count, _, _| Ok(()));
        let transport = |arguments: &[&str]| {
            let matches = cli.line().try_get_matches_from(arguments).unwrap();
            let (name, own) = matches.subcommand().unwrap();
            let extra = cli.extra.iter().find(|extra| extra.command.get_name() == name).unwrap();
            TransportArgs::of(&extra.command, own).unwrap()
        };
        assert!(transport(&["acmebuild", "copy", "--insecure"]).insecure);
        assert!(!transport(&["acmebuild", "copy"]).insecure);
        assert!(transport(&["acmebuild", "count", "--ca-file", "7"]).ca_file.is_empty());
    }

    #[test]
    fn json_progress_is_found_in_arguments_that_cannot_be_parsed() {
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
