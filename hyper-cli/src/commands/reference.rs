//! `hyperbuild reference`, which prints docs/reference/cli.md.

use crate::failure::Failure;
use crate::terminal::print;
use clap::{Arg, Args, Command};
use std::fmt::Write as _;

/// Prints the reference of the command line as Markdown
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {}

pub(crate) fn run(_: &ReferenceArgs, command: Command) -> Result<(), Failure> {
    // `help COMMAND` is another way to write `COMMAND --help`.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    print(&page(&command))?;
    Ok(())
}

fn page(command: &Command) -> String {
    let mut out = String::from(
        "# Command line reference\n\nMade from the program's own help by `cargo xtask generate`; edit the doc comments \
         in `hyper-cli/src` instead.\n",
    );
    let visible: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n{}\n", about(command));
    for sub in &visible {
        let _ = writeln!(out, "- [`hyperbuild {0}`](#hyperbuild-{0}): {1}", sub.get_name(), short(sub));
    }
    let is_global = |a: &&Arg| a.is_global_set() || matches!(a.get_id().as_str(), "help" | "version");
    let _ = writeln!(out, "\n## Options of every command\n");
    let globals: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_hide_set()).collect();
    options(&mut out, &globals);
    for sub in visible {
        let _ = writeln!(out, "\n## hyperbuild {}\n\n{}\n", sub.get_name(), about(sub));
        let positionals: Vec<&Arg> = sub.get_positionals().collect();
        let usage: Vec<String> = positionals.iter().map(|a| placeholder(a)).collect();
        let _ = writeln!(out, "```\nhyperbuild {} [OPTIONS] {}", sub.get_name(), usage.join(" "));
        let _ = writeln!(out, "```");
        let own: Vec<&Arg> = sub.get_arguments().filter(|a| !a.is_hide_set() && !is_global(a)).collect();
        if !own.is_empty() {
            out.push('\n');
            options(&mut out, &own);
        }
    }
    out.replace(" \n", "\n")
}

fn options(out: &mut String, arguments: &[&Arg]) {
    for argument in arguments {
        let name = match (argument.get_short(), argument.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (None, Some(long)) => format!("--{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, None) => placeholder(argument),
        };
        let takes_value = argument.get_num_args().is_some_and(|n| n.takes_values());
        let value = match argument.get_value_names() {
            Some(names) if takes_value && !argument.is_positional() => format!(" {}", names.join(" ")),
            _ => String::new(),
        };
        let help =
            argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let _ = write!(
            out,
            "- `{name}{value}`: {}",
            help.trim_end_matches('.').replace("\n\n", ". ").replace('\n', " ")
        );
        let choices: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|v| !v.is_hide_set() && takes_value)
            .map(|v| format!("`{}`", v.get_name()))
            .collect();
        if !choices.is_empty() {
            let _ = write!(out, ". One of {}", choices.join(", "));
        }
        let defaults: Vec<String> =
            argument.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
        if !defaults.is_empty() && takes_value {
            let _ = write!(out, ". Default: {}", defaults.join(", "));
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(out, ". Environment: `{}`", variable.to_string_lossy());
        }
        out.push('\n');
    }
}

fn placeholder(argument: &Arg) -> String {
    let name = argument.get_value_names().map_or_else(|| argument.get_id().to_string(), |n| n.join(" "));
    let many = argument.get_num_args().is_some_and(|n| n.max_values() > 1);
    let name = format!("{name}{}", if many { "..." } else { "" });
    if argument.is_required_set() { name } else { format!("[{name}]") }
}

fn about(command: &Command) -> String {
    command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default()
}

fn short(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_and_option_is_there() {
        let mut command = crate::app::Cli::command();
        command.build();
        let text = page(&command);
        for needle in [
            "## hyperbuild build",
            "`-o, --output SPEC`",
            "## hyperbuild serve",
            "127.0.0.1:5000",
            "HYPER_ROOT",
        ] {
            assert!(text.contains(needle), "{needle}\n{text}");
        }
        assert!(!text.contains("hyperbuild man") && !text.contains("cache-from"));
    }
}
