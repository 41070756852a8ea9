//! Rules about single instructions.

use super::PLAIN;
use crate::dockerfile::{CommandForm, CommandLine, Instruction, Pair, Span};
use crate::lint::{Found, Rule};
use std::collections::BTreeMap;

pub(super) static JSON_ARGS_RECOMMENDED: Rule = Rule {
    name: "JSONArgsRecommended",
    summary: "CMD and ENTRYPOINT should be JSON arrays",
    why: "In the shell form the program is a child of a shell that does not pass signals on: `docker stop` waits for its \
          time to run out and then kills. A SHELL in the stage says that a shell is meant.",
    bad: "FROM alpine\nENTRYPOINT my-program start\n",
    good: "FROM alpine\nENTRYPOINT [\"my-program\", \"start\"]\n",
    check: |subject, found| {
        for (_, step) in subject.steps() {
            let (name, command) = match &step.statement.instruction {
                Instruction::Cmd(cmd) => ("CMD", &cmd.command),
                Instruction::Entrypoint(entrypoint) => ("ENTRYPOINT", &entrypoint.command),
                _ => continue,
            };
            if command.form == CommandForm::Exec || step.sets_shell {
                continue;
            }
            let message = format!("{name} runs in a shell, which keeps signals from the program");
            let help = match array(command) {
                _ if command.text().trim_start().starts_with('[') => {
                    "this is not a JSON array: put every argument into double quotes, with a comma between"
                        .to_owned()
                }
                Some(array) => format!("write `{name} {array}`"),
                None => format!("write {name} as a JSON array of program and arguments"),
            };
            found.push(Found::new(step.statement.span, message).help(help));
        }
    },
    ..PLAIN
};

/// The command as an array, when no shell is needed to understand it.
fn array(command: &CommandLine) -> Option<String> {
    let text = command.text();
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_./:=,@+%".contains(c);
    let words: Vec<&str> = text.split_whitespace().skip_while(|word| *word == "exec").collect();
    let of_shell = ["cd", "eval", "export", "set", "source", ".", "trap", "ulimit", "umask", "unset"];
    if words.first().is_none_or(|word| of_shell.contains(word) || word.contains('=')) {
        return None;
    }
    (text.chars().all(plain) && text.len() < 200)
        .then(|| serde_json::to_string(&words).unwrap_or_default().replace("\",\"", "\", \""))
}

pub(super) static MAINTAINER_DEPRECATED: Rule = Rule {
    name: "MaintainerDeprecated",
    summary: "MAINTAINER is deprecated",
    why: "MAINTAINER sets a field that few tools show. The label `org.opencontainers.image.authors` says the same where \
          all of them look.",
    bad: "FROM alpine\nMAINTAINER me@example.com\n",
    good: "FROM alpine\nLABEL org.opencontainers.image.authors=\"me@example.com\"\n",
    check: |subject, found| {
        for (_, step) in subject.steps() {
            if let Instruction::Maintainer(maintainer) = &step.statement.instruction {
                let help =
                    format!("write `LABEL org.opencontainers.image.authors=\"{}\"`", maintainer.name.value);
                let place = step.statement.span;
                found.push(Found::new(place, "MAINTAINER is deprecated in favour of a label").help(help));
            }
        }
    },
    ..PLAIN
};

pub(super) static WORKDIR_RELATIVE_PATH: Rule = Rule {
    name: "WorkdirRelativePath",
    summary: "the first WORKDIR of a stage should be an absolute path",
    why: "A relative path starts at the working directory of the base image, which another version of that image may \
          change.",
    bad: "FROM alpine\nWORKDIR app\n",
    good: "FROM alpine\nWORKDIR /app\n",
    check: |subject, found| {
        for (_, step) in subject.steps() {
            let Some(Instruction::Workdir(workdir)) = &step.expanded else { continue };
            let path = &workdir.path;
            if !path.value.is_empty() && !is_absolute(&path.value) && !step.has_workdir {
                let message = format!("`{}` depends on the working directory of the base image", path.value);
                found.push(
                    Found::new(path.span, message)
                        .help(format!("write an absolute path, such as `/{}`", path.value)),
                );
            }
        }
    },
    ..PLAIN
};

/// Whether a path starts at a root, also of a drive.
fn is_absolute(path: &str) -> bool {
    let drive = |path: &str| {
        let mut characters = path.chars();
        characters.next().is_some_and(|c| c.is_ascii_alphabetic()) && characters.next() == Some(':')
    };
    path.starts_with(['/', '\\']) || drive(path)
}

pub(super) static MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    summary: "a stage should have one CMD, ENTRYPOINT and HEALTHCHECK",
    why: "Only the last one counts. The others are without effect, and their reader may not notice.",
    bad: "FROM alpine\nCMD [\"a\"]\nCMD [\"b\"]\n",
    good: "FROM alpine\nCMD [\"b\"]\n",
    check: |subject, found| {
        for replay in &subject.stages {
            let mut last: BTreeMap<&str, Span> = BTreeMap::new();
            for step in replay.steps.iter().filter(|step| !step.is_trigger) {
                let name = match &step.statement.instruction {
                    Instruction::Cmd(_) => "CMD",
                    Instruction::Entrypoint(_) => "ENTRYPOINT",
                    Instruction::Healthcheck(_) => "HEALTHCHECK",
                    _ => continue,
                };
                if let Some(earlier) = last.insert(name, step.statement.span) {
                    let message = format!("this {name} is without effect: the stage has another one below");
                    found.push(Found::new(earlier, message).help("remove it"));
                }
            }
        }
    },
    ..PLAIN
};

pub(super) static LEGACY_KEY_VALUE_FORMAT: Rule = Rule {
    name: "LegacyKeyValueFormat",
    summary: "ENV and LABEL should be written with `=`",
    why: "Without `=` everything after the name is one value, blanks included, so that a second pair in the line becomes a \
          part of the first value.",
    bad: "FROM alpine\nENV NAME some value\n",
    good: "FROM alpine\nENV NAME=\"some value\"\n",
    fixable: true,
    check: |subject, found| {
        for (_, step) in subject.steps() {
            let pairs = match &step.statement.instruction {
                Instruction::Env(env) => &env.pairs,
                Instruction::Label(label) => &label.pairs,
                _ => continue,
            };
            for pair in pairs.iter().filter(|pair| !pair.equals) {
                let message = format!("`{}` is separated from its value by a blank", pair.key.value);
                let finding = Found::new(pair.key.span.join(pair.value.span), message);
                let source = &subject.file.source;
                let place = pair.key.span.join(pair.value.span);
                found.push(match modern(pair, source.slice(place)) {
                    Some(text) => finding.help(format!("write `{text}`")).edit(place, text),
                    None => {
                        finding.help(format!("write `{}=…`, with quotes around the value", pair.key.value))
                    }
                });
            }
        }
    },
    ..PLAIN
};

/// The pair with `=`, when that means the same without doubt.
fn modern(pair: &Pair, written: &str) -> Option<String> {
    let (key, value) = (&pair.key.value, &pair.value.value);
    let same_line = written.strip_prefix(key.as_str())?.trim_start() == value;
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let one_quote = quoted.is_some_and(|inner| !inner.contains(['"', '\\', '`', '\n', '\r']));
    if same_line && one_quote && !key.contains(['"', '\'', '\\', '$']) {
        return Some(format!("{key}={value}"));
    }
    let plain = !value.contains(['"', '\'', '\\', '`', '\n', '\r']) && !value.is_empty();
    if !same_line || !plain || key.contains(['"', '\'', '\\', '$']) {
        return None;
    }
    Some(match value.contains(|c: char| c.is_whitespace()) {
        true => format!("{key}=\"{value}\""),
        false => format!("{key}={value}"),
    })
}
