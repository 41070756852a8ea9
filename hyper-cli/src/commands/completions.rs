//! `hyperbuild completions`.

use crate::failure::Failure;
use crate::terminal::print;
use clap::{Args, Command};
use clap_complete::Shell;

/// Prints a script that completes commands and options in a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hyperbuild", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(())
}
