//! One file or folder a command: its arguments, whose doc comments are the help, and one function that calls the SDK.

mod bake;
mod build;
mod completions;
mod du;
mod exec;
mod history;
mod images;
mod info;
mod inspect;
mod login;
mod logout;
mod man;
mod prune;
mod pull;
mod push;
mod quickstart;
mod reference;
mod rm;
mod rules;
pub(crate) mod serve;
mod tag;
mod why;

use crate::args::{ExecutorArgs, Format, TransportArgs};
use crate::console::Console;
use crate::failure::Failure;
use crate::program;
use clap::Subcommand;
use hyper_sdk::session::Session;
use hyper_sdk::{Error, Result};

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(Box<build::BuildArgs>),
    Bake(Box<bake::BakeArgs>),
    Push(push::PushArgs),
    Pull(pull::PullArgs),
    Images(images::ImagesArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Why(why::WhyArgs),
    Exec(exec::ExecArgs),
    Info(info::InfoArgs),
    Tag(tag::TagArgs),
    Rm(rm::RmArgs),
    Du(du::DuArgs),
    Prune(prune::PruneArgs),
    Login(login::LoginArgs),
    Logout(logout::LogoutArgs),
    Serve(serve::ServeArgs),
    Quickstart(quickstart::QuickstartArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    Rules(rules::RulesArgs),
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
}

impl Command {
    /// Whether standard error is a stream of events.
    pub(crate) fn prints_events(&self) -> bool {
        match self {
            Self::Build(args) => args.prints_events(),
            Self::Bake(args) => args.prints_events(),
            _ => false,
        }
    }

    /// How the command reaches registries. Every command is named, so that a new one is decided on.
    pub(crate) fn transport(&self) -> TransportArgs {
        match self {
            Self::Build(args) => args.transport.clone(),
            Self::Bake(args) => args.transport.clone(),
            Self::Push(args) => args.transport.clone(),
            Self::Pull(args) => args.transport.clone(),
            Self::Inspect(args) => args.transport.clone(),
            Self::Login(args) => args.transport.clone(),
            Self::Images(_)
            | Self::History(_)
            | Self::Why(_)
            | Self::Exec(_)
            | Self::Info(_)
            | Self::Tag(_)
            | Self::Rm(_)
            | Self::Du(_)
            | Self::Prune(_)
            | Self::Logout(_)
            | Self::Serve(_)
            | Self::Quickstart(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Rules(_)
            | Self::Reference(_) => TransportArgs::default(),
        }
    }

    /// What makes the containers of the command's steps.
    fn executor(&self) -> ExecutorArgs {
        match self {
            Self::Build(args) => args.executor.clone(),
            Self::Bake(args) => args.executor.clone(),
            _ => ExecutorArgs::default(),
        }
    }

    /// Runs the command. `line` is the parser of the whole command line.
    pub(crate) async fn run(
        self,
        open: impl Fn(&TransportArgs, &ExecutorArgs) -> Result<Session>,
        mut console: Console,
        line: clap::Command,
    ) -> Result<(), Failure> {
        let mut checks = false;
        if let Self::Build(args) = &self {
            console.format = args.call.format.unwrap_or(console.format);
            checks = args.checks();
        }
        if console.format == Format::Sarif && !checks {
            let program = program::name();
            return Err(Failure::usage(format!("--format sarif is for `{program} build --check`")));
        }
        let transport = self.transport();
        let executor = self.executor();
        let session = || open(&transport, &executor);
        match self {
            Self::Build(args) => build::run(*args, &session()?, &console).await,
            Self::Bake(args) => bake::run(*args, session, &console).await,
            Self::Push(args) => push::run(args, &session()?, &console).await,
            Self::Pull(args) => pull::run(args, &session()?, &console).await,
            Self::Images(args) => images::run(args, &session()?, &console).await,
            Self::Inspect(args) => inspect::run(args, &session()?, &console).await,
            Self::History(args) => history::run(args, &session()?, &console),
            Self::Why(args) => why::run(&args, &session()?, &console),
            Self::Exec(args) => exec::run(args, &session()?, &console, line).await,
            Self::Info(args) => info::run(args, &session()?, &console).await,
            Self::Tag(args) => tag::run(args, &session()?).await,
            Self::Rm(args) => rm::run(args, &session()?).await,
            Self::Du(args) => du::run(args, &session()?, &console).await,
            Self::Prune(args) => prune::run(args, &session()?, &console).await,
            Self::Login(args) => login::run(args, &session()?, &console).await,
            Self::Logout(args) => logout::run(args, &session()?, &console).await,
            Self::Quickstart(args) => quickstart::run(args, &console).await,
            Self::Completions(args) => completions::run(&args, line),
            Self::Man(args) => man::run(&args, line),
            Self::Rules(args) => rules::run(&args),
            Self::Reference(args) => reference::run(&args, line),
            Self::Serve(_) => Err(Error::internal("`serve` is run elsewhere").into()),
        }
    }
}
