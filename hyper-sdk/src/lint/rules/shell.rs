//! Rules about the text of RUN. They apply only to POSIX shells.

use super::PLAIN;
use crate::dockerfile::{Instruction, RunCommand, Span};
use crate::lint::shell::{Command, Joint, commands};
use crate::lint::subject::{Replay, Step, Subject};
use crate::lint::{Found, Rule};

/// The most findings of one rule in one RUN.
const MAX_FINDINGS: usize = 20;

pub(super) static SHELL_CD_WITHOUT_EFFECT: Rule = Rule {
    name: "ShellCdWithoutEffect",
    summary: "`cd` at the end of a RUN changes nothing",
    why: "Every RUN starts in the directory of the last WORKDIR. A `cd` ends with its shell, so that the next instruction \
          does not run where its author thinks.",
    bad: "FROM alpine\nRUN mkdir /src && cd /src\nRUN make\n",
    good: "FROM alpine\nWORKDIR /src\nRUN make\n",
    check: |subject, found| {
        last_commands(subject, &["cd", "pushd"], found, |command| {
            let message =
                "this `cd` is without effect: the next instruction starts in WORKDIR again".to_owned();
            let help = match command.arguments() {
                [folder] if !folder.starts_with(['-', '.', '$', '~']) => format!("use `WORKDIR {folder}`"),
                _ => "use WORKDIR, or leave it out".to_owned(),
            };
            Some((message, help))
        });
    },
    ..PLAIN
};

pub(super) static SHELL_EXPORT_WITHOUT_EFFECT: Rule = Rule {
    name: "ShellExportWithoutEffect",
    summary: "`export`, `alias`, `umask` and `ulimit` at the end of a RUN change nothing",
    why: "They change the shell that runs them, and every RUN has a shell of its own. ENV sets a variable for all that \
          follow and for the container.",
    bad: "FROM alpine\nRUN export PATH=/opt/bin:$PATH\n",
    good: "FROM alpine\nENV PATH=/opt/bin:$PATH\n",
    check: |subject, found| {
        last_commands(subject, &["export", "alias", "umask", "ulimit"], found, |command| {
            let name = command.name();
            // Without an argument they print.
            let arguments = command.arguments();
            let sets = match name {
                "export" => arguments.iter().any(|word| !word.starts_with('-')),
                "alias" => arguments.iter().any(|word| word.contains('=')),
                "umask" => arguments.iter().any(|word| !word.starts_with('-')),
                _ => arguments.last().is_some_and(|word| !word.starts_with('-')),
            };
            if !sets || command.to_file {
                return None;
            }
            let help = if name == "export" { "use ENV" } else { "put it into the RUN that needs it" };
            Some((
                format!("this `{name}` is without effect: it ends with the shell of this RUN"),
                help.to_owned(),
            ))
        });
    },
    ..PLAIN
};

/// Programs that download: they can fail for reasons outside of the build.
const SOURCES: [&str; 3] = ["curl", "wget", "aria2c"];

pub(super) static SHELL_PIPE_HIDES_FAILURE: Rule = Rule {
    name: "ShellPipeHidesFailure",
    summary: "a download that fails should fail the step, also in a pipe",
    why: "A pipe has the exit status of its last command. When the download before it fails, the step continues with half \
          a file or none, and the result is cached. Programs such as `tar` and `gpg` at the end of a pipe fail then, so they \
          are not reported.",
    bad: "FROM debian\nRUN curl -fsSL https://example.com/install | sh\n",
    good: "FROM debian\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN curl -fsSL https://example.com/install | sh\n",
    check: |subject, found| {
        for (_, step, script) in scripts(subject) {
            if script.text.contains("pipefail") || step.shell.iter().any(|word| word.contains("pipefail")) {
                continue;
            }
            let hidden = script.commands.iter().enumerate().filter(|(at, command)| {
                command.joint == Joint::Pipe
                    && !command.condition
                    && SOURCES.contains(&command.name())
                    && !downloads_nothing(command)
                    && !ends_with_check(&script.commands[*at..])
                    && !is_allowed_to_fail(&script.commands[*at..])
            });
            for (_, command) in hidden.take(MAX_FINDINGS) {
                let message = format!("when this `{}` fails, the pipe does not fail", command.name());
                let help = "use a shell with `pipefail` (SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]), or write \
                            to a file first";
                found.push(Found::new(place(subject, step, &script, command), message).help(help));
            }
        }
    },
    ..PLAIN
};

/// Programs that fail when their input is empty or incomplete.
const CAREFUL: [&str; 13] = [
    "tar", "bsdtar", "gunzip", "zcat", "gzip", "bunzip2", "xz", "unxz", "xzcat", "unzstd", "gpg", "apt-key",
    "grep",
];

/// Whether the pipe that begins here ends with a program that fails for incomplete input.
fn ends_with_check(commands: &[Command]) -> bool {
    let last = commands.iter().find(|command| command.joint != Joint::Pipe);
    last.is_some_and(|last| CAREFUL.contains(&last.name()))
}

/// Whether `||` and a command that does not fail follow the pipe that begins here.
fn is_allowed_to_fail(commands: &[Command]) -> bool {
    let end = commands.iter().position(|command| command.joint != Joint::Pipe);
    let Some(end) = end.filter(|end| commands[*end].joint == Joint::Or) else { return false };
    let next = commands.get(end + 1).map(Command::name);
    !next.is_some_and(|name| matches!(name, "exit" | "return" | "false"))
}

/// Whether a program only prints its version or help, or reads a local file.
fn downloads_nothing(command: &Command) -> bool {
    let mut arguments = command.arguments().iter();
    arguments.any(|word| {
        matches!(word.as_str(), "--version" | "-V" | "--help" | "-h") || word.starts_with("file:")
    })
}

pub(super) static SHELL_SUDO_USED: Rule = Rule {
    name: "ShellSudoUsed",
    summary: "`sudo` should not be needed in a RUN",
    why: "RUN is root unless USER says otherwise, and USER can be changed back. `sudo` asks for a program and a \
          configuration in the image that its users can abuse.",
    bad: "FROM debian\nRUN sudo make install\n",
    good: "FROM debian\nUSER root\nRUN make install\n",
    check: |subject, found| {
        for (_, step, script) in scripts(subject) {
            if !runs_as_root(step) {
                continue;
            }
            let sudo = script.commands.iter().filter(|c| c.name() == "sudo" && !becomes_another(c));
            for command in sudo.take(MAX_FINDINGS) {
                let place = place(subject, step, &script, command);
                found.push(
                    Found::new(place, "`sudo` in a RUN that is root already")
                        .help("leave it out, or use USER"),
                );
            }
        }
    },
    ..PLAIN
};

/// Whether `sudo` changes to another user than root.
fn becomes_another(sudo: &Command) -> bool {
    let options = sudo.arguments().iter().take_while(|word| word.starts_with('-'));
    let mut named = options.filter(|word| {
        word.starts_with("--user")
            || word.starts_with("--group")
            || (!word.starts_with("--") && word.contains(['u', 'g']))
    });
    named.next().is_some()
}

/// Whether the RUN is known to be root.
fn runs_as_root(step: &Step<'_>) -> bool {
    step.user.as_deref().is_some_and(|user| matches!(user.split(':').next(), Some("" | "root" | "0")))
}

/// The subcommands of apt-get that need the lists of `update`.
const FETCHING: [&str; 7] =
    ["install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep", "download", "source"];

/// The subcommands of apt-get that ask for confirmation.
const ASKING: [&str; 8] =
    ["install", "upgrade", "dist-upgrade", "full-upgrade", "remove", "purge", "autoremove", "build-dep"];

pub(super) static APT_INSTALL_WITHOUT_YES: Rule = Rule {
    name: "AptInstallWithoutYes",
    summary: "`apt-get install` needs `-y`",
    why: "apt-get asks before it installs more packages than those named. A build has no user to answer, so the step fails \
          as soon as a package needs another one.",
    bad: "FROM debian\nRUN apt-get update && apt-get install curl && rm -r /var/lib/apt/lists/*\n",
    good: "FROM debian\nRUN apt-get update && apt-get install -y curl && rm -r /var/lib/apt/lists/*\n",
    check: |subject, found| {
        if subject.file.source.text().contains("Assume-Yes") {
            return;
        }
        for (_, step, script) in scripts(subject) {
            for (at, command) in script.commands.iter().enumerate() {
                let Some(what) = apt(command).filter(|what| ASKING.contains(what)) else { continue };
                let answered = at > 0 && script.commands[at - 1].joint == Joint::Pipe;
                if answered || command.arguments().iter().any(|a| says_yes(a)) {
                    continue;
                }
                let message = format!("`{} {what}` asks a question that is not answered", command.name());
                found.push(Found::new(place(subject, step, &script, command), message).help("add `-y`"));
            }
        }
    },
    ..PLAIN
};

fn says_yes(argument: &str) -> bool {
    // At this level of quiet it does not ask.
    if argument.starts_with("-q=") {
        return true;
    }
    // A variable may contain it.
    if argument.starts_with('$') {
        return true;
    }
    match argument.strip_prefix("--") {
        Some(long) => {
            matches!(
                long.split('=').next(),
                Some(
                    "yes"
                        | "assume-yes"
                        | "force-yes"
                        | "assume-no"
                        | "simulate"
                        | "dry-run"
                        | "print-uris"
                        | "just-print"
                        | "recon"
                        | "no-act"
                ) | Some("download-only")
            )
        }
        None => {
            argument.starts_with('-')
                && !argument.starts_with("-o")
                && (argument.contains(['y', 's', 'd']) || argument.matches('q').count() > 1)
        }
    }
}

pub(super) static APT_UPDATE_ALONE: Rule = Rule {
    name: "AptUpdateAlone",
    summary: "`apt-get update` belongs into the RUN that installs",
    why: "The cache keeps the result of `update` as long as its text is the same. An `install` in a later RUN then asks for \
          versions that the servers no longer have.",
    bad: "FROM debian\nRUN apt-get update\nRUN apt-get install -y curl\n",
    good: "FROM debian\nRUN apt-get update && apt-get install -y curl\n",
    check: |subject, found| {
        let mut waiting: Option<(usize, Span, String)> = None;
        for (replay, step, script) in scripts(subject) {
            let installs =
                script.commands.iter().any(|c| apt(c).is_some_and(|what| FETCHING.contains(&what)));
            let first = script.commands.iter().position(|c| apt(c) == Some("update"));
            let update = first.map(|at| &script.commands[at]);
            // A command after the update may be another program that installs with apt.
            let alone = first.is_some_and(|at| script.commands[at..].iter().all(installs_nothing));
            match (update, installs) {
                (Some(command), false) if alone && !mounts_apt(step) => {
                    let place = place(subject, step, &script, command);
                    waiting = Some((replay.stage.index, place, command.name().to_owned()));
                }
                (None, true) => {
                    if let Some((stage, place, name)) = waiting.take()
                        && stage == replay.stage.index
                    {
                        let message =
                            format!("`{name} update` is in another layer than the `install` that needs it");
                        found.push(Found::new(place, message).help("put both into one RUN, joined by `&&`"));
                    }
                }
                (Some(_), _) => waiting = None,
                (None, false) => {}
            }
        }
    },
    ..PLAIN
};

/// Whether a command is known to install nothing.
fn installs_nothing(command: &Command) -> bool {
    match apt(command) {
        Some(what) => matches!(what, "update" | "clean" | "autoclean"),
        None => {
            matches!(command.name(), "rm" | "echo" | "true" | ":" | "set" | "mkdir" | "chmod" | "cp" | "mv")
        }
    }
}

/// Whether the lists or packages of apt are in a mount instead of the layer.
fn mounts_apt(step: &Step<'_>) -> bool {
    match &step.statement.instruction {
        Instruction::Run(run) => run.mounts.iter().any(|mount| mount.value.contains("/apt")),
        _ => false,
    }
}

pub(super) static APT_LISTS_REMOVED_TOO_LATE: Rule = Rule {
    name: "AptListsRemovedTooLate",
    summary: "files should be removed in the RUN that made them",
    why: "A layer keeps all files that its RUN has written. Removing the lists of apt in a later RUN only hides them, and the \
          image is as large as before.",
    bad: "FROM debian\nRUN apt-get update && apt-get install -y curl\nRUN rm -rf /var/lib/apt/lists/*\n",
    good: "FROM debian\nRUN apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*\n",
    check: |subject, found| {
        let mut made_in = None;
        for (replay, step, script) in scripts(subject) {
            let updates = script.commands.iter().any(|c| apt(c) == Some("update"));
            let removal = script.commands.iter().find(|c| {
                c.name() == "rm" && c.arguments().iter().any(|a| a.starts_with("/var/lib/apt/lists"))
            });
            let stage = replay.stage.index;
            let had = made_in;
            if removal.is_some() {
                made_in = None;
            } else if updates && !mounts_apt(step) {
                made_in = Some(stage);
            }
            if let Some(command) = removal.filter(|_| !updates && had == Some(stage)) {
                let message = "the lists of apt stay in the layer of the RUN that fetched them".to_owned();
                let finding = Found::new(place(subject, step, &script, command), message);
                found.push(finding.help("remove them in the RUN with `apt-get update`"));
            }
        }
    },
    ..PLAIN
};

/// Programs that accept any input. Programs for archives and keys reject an error page.
const ACCEPTERS: [&str; 9] = ["sh", "bash", "ash", "tee", "dd", "python", "python3", "perl", "node"];

pub(super) static CURL_WITHOUT_FAIL: Rule = Rule {
    name: "CurlWithoutFail",
    summary: "`curl` should fail when the server answers with an error",
    why: "Without `-f` curl accepts every answer: an error page becomes the file, and the step succeeds.",
    bad: "FROM debian\nRUN curl -sSL -o /usr/bin/tool https://example.com/tool\n",
    good: "FROM debian\nRUN curl -fsSL -o /usr/bin/tool https://example.com/tool\n",
    check: |subject, found| {
        for (_, step, script) in scripts(subject) {
            // A checksum or signature rejects an error page.
            if script.commands.iter().any(verifies) {
                continue;
            }
            for (at, command) in script.commands.iter().enumerate() {
                if command.name() != "curl"
                    || downloads_nothing(command)
                    || command.arguments().iter().any(|a| fails_or_asks(a))
                {
                    continue;
                }
                let next = script.commands.get(at + 1).filter(|_| command.joint == Joint::Pipe);
                let taken = next.is_some_and(|next| ACCEPTERS.contains(&next.name()));
                if command.to_file || taken || writes_a_file(command.arguments()) {
                    let message = "this `curl` keeps the server's error page as if it were the file";
                    found.push(Found::new(place(subject, step, &script, command), message).help("add `-f`"));
                }
            }
        }
    },
    ..PLAIN
};

fn fails_or_asks(argument: &str) -> bool {
    match argument.strip_prefix("--") {
        Some(long) => {
            matches!(long, "fail" | "fail-with-body" | "head" | "request" | "data" | "config")
                || long.starts_with("write-out")
        }
        None => {
            let flags = argument.strip_prefix('-').unwrap_or_default();
            // A variable may contain it.
            (argument.starts_with('$') && !argument.contains('/'))
                || flags.contains(['f', 'I', 'w', 'X', 'd', 'K'])
        }
    }
}

fn writes_a_file(arguments: &[String]) -> bool {
    let names = |argument: &String| match argument.strip_prefix("--") {
        Some(long) => matches!(long.split('=').next(), Some("output" | "remote-name" | "remote-name-all")),
        None => argument.strip_prefix('-').is_some_and(|flags| flags.contains(['o', 'O'])),
    };
    arguments.iter().any(names) && !arguments.iter().any(|argument| argument.ends_with("/dev/null"))
}

/// Whether a command verifies a file.
fn verifies(command: &Command) -> bool {
    let asked = |flags: &[&str]| command.arguments().iter().any(|word| flags.contains(&word.as_str()));
    match command.name() {
        "gpg" | "gpgv" | "cosign" | "minisign" => {
            command.name() == "gpgv" || asked(&["--verify", "verify", "-V"])
        }
        name => name.ends_with("sum") && asked(&["-c", "--check", "-sc", "-cs"]),
    }
}

/// The text of a RUN for its shell.
struct Script {
    text: String,
    commands: Vec<Command>,
}

/// Every RUN of a POSIX shell.
fn scripts<'a>(subject: &'a Subject<'_>) -> impl Iterator<Item = (&'a Replay<'a>, &'a Step<'a>, Script)> {
    subject.steps().filter_map(|(replay, step)| {
        let Instruction::Run(run) = &step.statement.instruction else { return None };
        let text = match run.command.run_command() {
            RunCommand::Shell(text) if is_posix(step.shell.first()?) => text,
            RunCommand::Script { content, .. } => {
                let interpreter = content.lines().next().unwrap_or_default();
                let program =
                    interpreter.trim_start_matches("#!").split_whitespace().find(|w| !w.ends_with("env"))?;
                if !is_posix(program) {
                    return None;
                }
                content
            }
            RunCommand::Shell(_) | RunCommand::Exec(_) => return None,
        };
        let commands = commands(&text);
        Some((replay, step, Script { text, commands }))
    })
}

fn is_posix(shell: &str) -> bool {
    let name = shell.rsplit('/').next().unwrap_or(shell);
    matches!(name, "sh" | "bash" | "ash" | "dash" | "ksh" | "zsh" | "busybox")
}

/// The subcommand of apt-get or apt.
fn apt(command: &Command) -> Option<&str> {
    let mut arguments = command.arguments();
    match command.name() {
        "apt-get" | "apt" => {}
        "sudo" if matches!(arguments.first().map(String::as_str), Some("apt-get" | "apt")) => {
            arguments = &arguments[1..];
        }
        _ => return None,
    }
    let mut takes_value = false;
    let mut words = arguments.iter().filter(|word| {
        let skip = takes_value || word.starts_with('-');
        takes_value =
            matches!(word.as_str(), "-o" | "-t" | "-c" | "--option" | "--target-release" | "--config-file");
        !skip
    });
    words.next().map(String::as_str)
}

/// Findings for scripts that end with one of these commands.
fn last_commands(
    subject: &Subject<'_>,
    names: &[&str],
    found: &mut Vec<Found>,
    say: impl Fn(&Command) -> Option<(String, String)>,
) {
    for (_, step, script) in scripts(subject) {
        let last = script.commands.last().filter(|c| c.depth == 0 && names.contains(&c.name()));
        if let Some((command, (message, help))) = last.and_then(|command| Some((command, say(command)?))) {
            found.push(Found::new(place(subject, step, &script, command), message).help(help));
        }
    }
}

/// The place of a command in the file. The text of the shell is joined from several lines, so the place is searched.
fn place(subject: &Subject<'_>, step: &Step<'_>, script: &Script, command: &Command) -> Span {
    let whole = step.statement.span;
    let written = subject.file.source.slice(whole);
    let shown = &script.text[command.range.clone()];
    let line = shown.lines().next().unwrap_or_default().trim_end_matches(['\\', ' ', '\t']);
    let words = line.match_indices(char::is_whitespace).nth(1).map_or(line, |(at, _)| &line[..at]);
    let first = line.split_whitespace().next().unwrap_or_default();
    // The text before the command has as many of these words as the file before the place.
    let before = &script.text[..command.range.start];
    for what in [line, words, first].into_iter().filter(|what| !what.is_empty()) {
        let number = before.matches(what).count();
        if let Some((at, _)) = written.match_indices(what).nth(number) {
            return Span::new(whole.start + at, whole.start + at + what.len());
        }
    }
    step.statement.name.span
}
