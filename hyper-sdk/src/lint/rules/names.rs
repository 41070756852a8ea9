//! Rules about how things are written and called.

use super::PLAIN;
use crate::dockerfile::{Instruction, Span};
use crate::lint::{Found, Rule};
use std::collections::BTreeSet;

pub(super) static STAGE_NAME_CASING: Rule = Rule {
    name: "StageNameCasing",
    summary: "the name of a stage should be in lower case",
    why: "Names of stages are case-insensitive, so capitals have no meaning. A name in lower case differs from the \
          keywords around it, and looks the same wherever it is used.",
    bad: "FROM alpine AS Builder\n",
    good: "FROM alpine AS builder\n",
    fixable: true,
    check: |subject, found| {
        for stage in &subject.file.stages {
            let Some(name) = &stage.from.written_name else { continue };
            let lower = name.value.to_lowercase();
            if lower != name.value {
                let message = format!("the stage name `{}` should be in lower case", name.value);
                found.push(
                    Found::new(name.span, message).help(format!("write `{lower}`")).edit(name.span, lower),
                );
            }
        }
    },
    ..PLAIN
};

pub(super) static FROM_AS_CASING: Rule = Rule {
    name: "FromAsCasing",
    summary: "FROM and AS should be in the same case",
    why: "Both words belong to one instruction. Written alike they are easy to find, by people and by tools that look \
          for one of the two.",
    bad: "FROM alpine as builder\n",
    good: "FROM alpine AS builder\n",
    fixable: true,
    check: |subject, found| {
        for stage in &subject.file.stages {
            let Some(word) = &stage.from.as_keyword else { continue };
            let Some(wanted) = case_of(&stage.statement.name.value).map(|case| case.apply("as")) else {
                continue;
            };
            if word.value != wanted {
                let message =
                    format!("`{}` and `{}` are not in the same case", word.value, stage.statement.name.value);
                found.push(
                    Found::new(word.span, message).help(format!("write `{wanted}`")).edit(word.span, wanted),
                );
            }
        }
    },
    ..PLAIN
};

pub(super) static NO_EMPTY_CONTINUATION: Rule = Rule {
    name: "NoEmptyContinuation",
    summary: "a continued instruction should have no empty lines",
    why: "An empty line looks like the end of the instruction, and is not. Other builders may end it there or refuse the \
          file.",
    bad: "FROM alpine\nRUN echo a && \\\n\n    echo b\n",
    good: "FROM alpine\nRUN echo a && \\\n    echo b\n",
    fixable: true,
    check: |subject, found| {
        let text = subject.file.source.text();
        for span in &subject.file.empty_continuations {
            let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at + 1);
            let message = "there is an empty line inside a continued instruction";
            let help = "remove the line, or make it a comment";
            found.push(Found::new(*span, message).help(help).edit(Span::new(start, end), ""));
        }
    },
    ..PLAIN
};

pub(super) static CONSISTENT_INSTRUCTION_CASING: Rule = Rule {
    name: "ConsistentInstructionCasing",
    summary: "all instructions of a file should be in the same case",
    why: "Instructions are understood in any case. A file that mixes them is harder to read and to search; one that is \
          all upper or all lower case is fine.",
    bad: "FROM alpine\nrun echo a\nCMD [\"sh\"]\n",
    good: "FROM alpine\nRUN echo a\nCMD [\"sh\"]\n",
    fixable: true,
    check: |subject, found| {
        // As with BuildKit, instructions above the first FROM do not count.
        let in_stages = || subject.statements().skip(subject.file.global_args.len());
        let cases = || in_stages().map(|s| case_of(&s.name.value));
        let count = |case| cases().filter(|c| *c == Some(case)).count();
        let usual = if count(Case::Lower) > count(Case::Upper) { Case::Lower } else { Case::Upper };
        for statement in in_stages() {
            if case_of(&statement.name.value) == Some(usual) {
                continue;
            }
            let name = &statement.name;
            let wanted = usual.apply(&name.value);
            let message = format!("`{}` is not in the case of the other instructions", name.value);
            found.push(
                Found::new(name.span, message).help(format!("write `{wanted}`")).edit(name.span, wanted),
            );
        }
    },
    ..PLAIN
};

pub(super) static DUPLICATE_STAGE_NAME: Rule = Rule {
    name: "DuplicateStageName",
    summary: "two stages should not have the same name",
    why: "Only the last stage of a name can be copied from or be the target; the earlier one is hidden without a \
          warning.",
    bad: "FROM alpine AS builder\nFROM busybox AS builder\n",
    good: "FROM alpine AS builder\nFROM busybox AS runner\n",
    check: |subject, found| {
        let mut seen = BTreeSet::new();
        for stage in &subject.file.stages {
            let Some(name) = &stage.from.name else { continue };
            if !seen.insert(&name.value) {
                let message = format!("another stage is called `{}`, too", name.value);
                found.push(Found::new(name.span, message).help("give every stage a name of its own"));
            }
        }
    },
    ..PLAIN
};

pub(super) static RESERVED_STAGE_NAME: Rule = Rule {
    name: "ReservedStageName",
    summary: "a stage should not be called `scratch` or `context`",
    why: "`scratch` is the empty base image and `context` the files that are built from. A stage of that name gives FROM \
          and COPY another meaning than their reader expects.",
    bad: "FROM alpine AS scratch\n",
    good: "FROM alpine AS builder\n",
    check: |subject, found| {
        for name in subject.file.stages.iter().filter_map(|stage| stage.from.name.as_ref()) {
            if matches!(name.value.as_str(), "scratch" | "context") {
                let message =
                    format!("`{}` is not a good name for a stage: it has another meaning", name.value);
                found.push(Found::new(name.span, message));
            }
        }
    },
    ..PLAIN
};

pub(super) static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    name: "InvalidDefinitionDescription",
    summary: "a comment right above an ARG or FROM should describe it",
    why: "An outline of the file and the list of its targets show the comment above an argument or a stage as its description, if it \
          begins with the name. Another comment in that place is either a description that is not shown, or one that an \
          empty line should separate.",
    bad: "# which version is built\nARG VERSION=1\nFROM alpine\n",
    good: "# VERSION is what is built\nARG VERSION=1\nFROM alpine\n",
    experimental: true,
    check: |subject, found| {
        for statement in subject.statements() {
            let names: Vec<&str> = match &statement.instruction {
                Instruction::From(from) => from.name.iter().map(|n| n.value.as_str()).collect(),
                Instruction::Arg(arg) => arg.variables.iter().map(|v| v.name.value.as_str()).collect(),
                _ => continue,
            };
            let (Some(first), Some(comment)) = (names.first(), statement.comments.last()) else { continue };
            let word = comment.value.split(' ').next().unwrap_or_default();
            if !names.contains(&word) {
                let message = format!("this comment does not begin with `{first}`, which it stands above");
                let help = format!("write `# {first} …`, or put an empty line between them");
                found.push(Found::new(comment.span, message).help(help));
            }
        }
    },
    ..PLAIN
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    fn apply(self, word: &str) -> String {
        match self {
            Self::Lower => word.to_lowercase(),
            Self::Upper => word.to_uppercase(),
        }
    }
}

/// The case of a word, when it has one.
fn case_of(word: &str) -> Option<Case> {
    if word.chars().all(|c| !c.is_uppercase()) {
        Some(Case::Lower)
    } else if word.chars().all(|c| !c.is_lowercase()) {
        Some(Case::Upper)
    } else {
        None
    }
}
