//! Documents that are generated from a program's command line: the reference page, manual pages, completion scripts.
//!
//! `hyperregistry` and `hyperbuild` make theirs here, so that both look alike. Each function takes the `clap` command of
//! the whole program, and leaves hidden commands and options out.

pub use clap_complete::Shell;

use clap::{Arg, Command};
use hyper_sdk::{Error, Result};
use std::fmt::Write as _;
use std::path::Path;

/// The reference of a command line as Markdown: the options of every command, then one section for each command that
/// does something. `sources` is the folder whose doc comments are the help texts.
pub fn reference(command: Command, sources: &str) -> String {
    // `help COMMAND` is another way to write `COMMAND --help`.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let program = command.get_name().to_owned();
    let mut out = format!(
        "# {program}: reference\n\nGenerated from the program's own help by `cargo xtask generate`; edit the doc comments \
         in `{sources}` instead.\n"
    );
    let mut leaves = Vec::new();
    collect(&mut leaves, &program, &command);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n{}\n", about(&command));
    for (path, leaf) in &leaves {
        let _ = writeln!(out, "- [`{path}`](#{}): {}", path.replace(' ', "-"), short(leaf));
    }
    let _ = writeln!(out, "\n## Options of every command\n");
    let globals: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_hide_set()).collect();
    options(&mut out, &globals);
    for (path, leaf) in leaves {
        section(&mut out, &path, leaf);
    }
    out.replace(" \n", "\n")
}

/// The manual pages of a program and of each of its commands, as files of a folder, which is made when it is missing.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Io`] when the folder cannot be written.
pub fn man_pages(command: Command, folder: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot write the manual pages", folder, e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(command, folder).map_err(failed)
}

/// A script that completes the commands and options of a program in a shell.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let program = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, program, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The visible commands without commands of their own, each with all of its words.
fn collect<'a>(leaves: &mut Vec<(String, &'a Command)>, path: &str, command: &'a Command) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        match sub.has_subcommands() {
            true => collect(leaves, &path, sub),
            false => leaves.push((path, sub)),
        }
    }
}

fn section(out: &mut String, path: &str, command: &Command) {
    let is_usual = |a: &Arg| matches!(a.get_id().as_str(), "help" | "version");
    let visible: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_hide_set() && !is_usual(a)).collect();
    let (required, optional): (Vec<&Arg>, Vec<&Arg>) =
        visible.iter().filter(|a| !a.is_positional()).partition(|a| a.is_required_set());
    let mut flags = if optional.is_empty() { String::new() } else { " [OPTIONS]".to_owned() };
    for flag in required {
        flags.push_str(&format!(" --{} {}", flag.get_long().unwrap_or_default(), placeholder(flag)));
    }
    let own: Vec<&Arg> = visible.into_iter().filter(|a| !a.is_global_set()).collect();
    let positionals: String = command.get_positionals().map(|a| format!(" {}", placeholder(a))).collect();
    let _ = writeln!(out, "\n## {path}\n\n{}\n\n```\n{path}{flags}{positionals}\n```", about(command));
    if !own.is_empty() {
        out.push('\n');
        options(out, &own);
    }
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

    fn program() -> Command {
        let level = Arg::new("level").long("level").value_name("LEVEL").help("How much").default_value("1");
        let name = Arg::new("name").value_name("NAME").required(true).help("The name");
        let from = Arg::new("from").long("from").value_name("FILE").required(true).help("The file");
        Command::new("tool")
            .about("Does things")
            .subcommand(Command::new("run").about("Runs").arg(level).arg(name))
            .subcommand(
                Command::new("file")
                    .about("Files")
                    .subcommand(Command::new("check").about("Checks").arg(from)),
            )
            .subcommand(Command::new("secret").about("Hidden").hide(true))
    }

    #[test]
    fn the_reference_has_a_section_for_each_visible_command_that_does_something() {
        let page = reference(program(), "src");
        for needle in [
            "# tool: reference\n",
            "- [`tool run`](#tool-run): Runs\n",
            "- [`tool file check`](#tool-file-check): Checks\n",
            "```\ntool run [OPTIONS] NAME\n```\n",
            "- `--level LEVEL`: How much. Default: `1`\n",
            "- `NAME`: The name\n",
            "```\ntool file check --from FILE\n```\n",
        ] {
            assert!(page.contains(needle), "{needle}\n{page}");
        }
        assert!(!page.contains("## tool file\n") && !page.contains("secret"), "{page}");
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        man_pages(program(), &folder.path().join("man")).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path().join("man"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["tool-file-check.1", "tool-file.1", "tool-run.1", "tool.1"]);
    }

    #[test]
    fn completions_name_the_commands() {
        assert!(completions(program(), Shell::Bash).contains("tool__subcmd__run"));
    }
}
