//! Rules about ARG, ENV and their use.

use super::PLAIN;
use crate::dockerfile::{Expander, Instruction, Word, suggestion};
use crate::lint::subject::Step;
use crate::lint::{Found, Rule};
use crate::reference::Reference;

pub(super) static UNDEFINED_ARG_IN_FROM: Rule = Rule {
    name: "UndefinedArgInFrom",
    summary: "FROM should use arguments that are declared",
    why: "FROM sees the ARG instructions above the first FROM alone. Any other name is empty there, and with it a part of \
          the image's name.",
    bad: "FROM alpine:3${VARIANT}\n",
    good: "ARG VARIANT\nFROM alpine:3${VARIANT}\n",
    check: |subject, found| {
        for (stage, base) in subject.file.stages.iter().zip(&subject.bases) {
            let Some(base) = base else { continue };
            let used = base.image_variables.undefined.iter().map(|name| (&stage.from.image, name));
            let platform = stage.from.platform.iter();
            let used = used.chain(
                platform
                    .flat_map(|word| base.platform_variables.undefined.iter().map(move |name| (word, name))),
            );
            for (word, name) in used {
                let scope = &subject.scope;
                if scope.declared.contains(name) {
                    continue;
                }
                let message = format!("FROM uses `{name}`, which no ARG above the first FROM declares");
                let known = scope.values.keys().chain(&scope.declared).map(String::as_str);
                let finding = Found::new(word.span, message);
                found.push(match suggestion(name, known) {
                    Some(near) => finding.help(format!("did you mean `{near}`?")),
                    None => finding.help(format!("declare it with `ARG {name}` above the first FROM")),
                });
            }
        }
    },
    ..PLAIN
};

pub(super) static UNDEFINED_VAR: Rule = Rule {
    name: "UndefinedVar",
    summary: "variables should be set before they are used",
    why: "A variable that is neither set by ENV or ARG above nor by the base image is replaced with nothing, so that a path \
          or a name changes. `${NAME:-word}` and similar forms define the value of an unset variable, so they are not reported.",
    bad: "FROM scratch\nENV NAME=value\nCOPY $NAEM /\n",
    good: "FROM scratch\nENV NAME=value\nCOPY $NAME /\n",
    check: |subject, found| {
        for (_, step) in subject.steps() {
            for undefined in &step.undefined {
                let name = &undefined.name;
                let finding = Found::new(undefined.place, format!("`{name}` is used but not set"));
                found.push(match &undefined.near {
                    Some(near) => finding.help(format!("did you mean `{near}`?")),
                    None => finding.help(format!(
                        "set it above with ENV or ARG, or write `${{{name}:-}}` if it may be empty"
                    )),
                });
            }
        }
    },
    ..PLAIN
};

/// Parts of the names of secrets.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

pub(super) static SECRETS_USED_IN_ARG_OR_ENV: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    summary: "secrets should not be passed by ARG or ENV",
    why: "Values of ENV are in the config of the image, and those of ARG in its history: everybody who has the image can read \
          them. A secret mount gives a secret to one RUN, and the image does not contain it. The fingerprint of a public key, such as that of \
          `GPG_KEY`, is not a secret.",
    bad: "FROM alpine\nARG AWS_SECRET_ACCESS_KEY\n",
    good: "FROM alpine\nRUN --mount=type=secret,id=aws,target=/root/.aws/credentials ./upload\n",
    check: |subject, found| {
        // Arguments above the first FROM are not part of the image.
        for (_, Step { statement, .. }) in subject.steps() {
            let names: Vec<(&Word, Option<&Word>)> = match &statement.instruction {
                Instruction::Arg(arg) => {
                    arg.variables.iter().map(|v| (&v.name, v.default.as_ref())).collect()
                }
                Instruction::Env(env) => env.pairs.iter().map(|p| (&p.key, Some(&p.value))).collect(),
                _ => continue,
            };
            for (name, value) in names {
                if names_a_secret(&name.value) && !value.is_some_and(|v| is_public_key(&name.value, &v.value))
                {
                    let what = statement.instruction.keyword().name();
                    let message =
                        format!("{what} `{}` looks like a secret, which the image would contain", name.value);
                    let help = "mount it where it is needed: RUN --mount=type=secret,id=…";
                    found.push(Found::new(name.span, message).help(help));
                }
            }
        }
    },
    ..PLAIN
};

/// Parts of names that are not secrets: public data, the path of a secret, its version.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

fn names_a_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    let mut words = lower.split('_');
    words.clone().any(|word| SECRET_WORDS.contains(&word))
        && !words.any(|word| HARMLESS_WORDS.contains(&word))
}

/// The fingerprint of a public key, as images keep it to check signatures with: `GPG_KEY` and the like.
fn is_public_key(name: &str, value: &str) -> bool {
    let lower = name.to_lowercase();
    let words = lower.split('_').filter(|word| SECRET_WORDS.contains(word));
    if words.into_iter().any(|word| word != "key") || lower.contains("api") || lower.contains("secret") {
        return false;
    }
    let digits = value.trim_matches(['"', '\'']).trim_start_matches("0x");
    matches!(digits.len(), 16 | 40) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) static INVALID_DEFAULT_ARG_IN_FROM: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    summary: "a Dockerfile should build without build arguments",
    why: "With the defaults of its arguments this FROM has no image name, so that the file builds only with the right \
          build argument. With a default, which can be in the braces, it builds without arguments.",
    bad: "ARG TAG\nFROM busybox:${TAG}\n",
    good: "ARG TAG=latest\nFROM busybox:${TAG}\n",
    check: |subject, found| {
        let file = subject.file;
        let mut predefined = subject.context.predefined.clone();
        predefined.entry("TARGETSTAGE".to_owned()).or_insert_with(|| "default".to_owned());
        let Ok(scope) = file.global_scope(&predefined, &std::collections::BTreeMap::new()) else {
            return;
        };
        for stage in &file.stages {
            let image = &stage.from.image;
            let expander = Expander::new(file.directives.escape);
            let Ok(expanded) = expander.word(&image.value, &scope.values) else { continue };
            let is_variable = image.value.contains('$');
            if is_variable && (expanded.text.is_empty() || Reference::parse(&expanded.text).is_err()) {
                let message =
                    format!("without build arguments `{}` is not the name of an image", image.value);
                found.push(Found::new(image.span, message).help("give the ARG a default"));
            }
        }
    },
    ..PLAIN
};
