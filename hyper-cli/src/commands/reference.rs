//! `hyperbuild reference`, which prints docs/reference/cli.md.

use crate::failure::Failure;
use crate::terminal::print;
use clap::{Args, Command};
use hyper_server::command_docs;

/// Prints the reference of the command line as Markdown
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {}

pub(crate) fn run(_: &ReferenceArgs, command: Command) -> Result<(), Failure> {
    print(&page(command))?;
    Ok(())
}

fn page(command: Command) -> String {
    command_docs::reference(command, "hyper-cli/src")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_there() {
        let text = page(crate::cli::Cli::new("hyperbuild").line());
        for needle in [
            "## hyperbuild build",
            "`-o, --output SPEC`",
            "## hyperbuild serve",
            "127.0.0.1:5000",
            "HYPER_ROOT",
        ] {
            assert!(text.contains(needle), "{needle}\n{text}");
        }
        assert!(!text.contains("hyperbuild man") && !text.contains("--cap-add"));
    }
}
