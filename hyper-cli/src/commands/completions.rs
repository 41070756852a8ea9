//! `hyperbuild completions`.

use crate::failure::Failure;
use crate::terminal::print;
use clap::{Args, Command};
use hyper_server::command_docs::{self, Shell};

/// Prints a script that completes commands and options in a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, command: Command) -> Result<(), Failure> {
    print(&command_docs::completions(command, args.shell))?;
    Ok(())
}
