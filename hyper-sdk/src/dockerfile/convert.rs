//! Converts the raw tree to typed instructions, and checks flags, numbers of arguments and forms.

use super::ast::{Arguments, Keyword, Node};
use super::diagnostic::Diagnostic;
use super::expand::{EmptyEnvironment, Expander};
use super::flags::{Flags, Kind};
use super::heredoc::Heredoc;
use super::instruction::*;
use super::mount::{self, Mount};
use super::span::{Spanned, Word};
use super::suggest::suggestion;
use super::{duration, words};
use std::time::Duration;

/// Makes typed instructions, and collects all errors.
pub(crate) struct Converter<'a> {
    pub(crate) escape: char,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
}

type Problem = Box<Diagnostic>;

impl Converter<'_> {
    /// The typed instruction; `None` when an error prevents the conversion.
    pub(crate) fn statement(&mut self, node: &Node) -> Option<Statement> {
        let before = self.diagnostics.len();
        match self.instruction(node) {
            Ok(instruction) => Some(Statement {
                instruction,
                name: node.name.clone(),
                original: node.original.clone(),
                span: node.span,
                comments: node.comments.clone(),
            }),
            Err(d) => {
                // Errors that follow from those of the flags are left out.
                if self.diagnostics.len() == before || d.code != "follows" {
                    self.diagnostics.push(*d);
                }
                None
            }
        }
    }

    fn instruction(&mut self, node: &Node) -> Result<Instruction, Problem> {
        let Some(keyword) = node.keyword else {
            let name = &node.name.value;
            let near = suggestion(name, Keyword::ALL.iter().map(|k| k.name()));
            return Err(Box::new(
                Diagnostic::error(
                    "unknown-instruction",
                    node.name.span,
                    format!("unknown instruction `{name}`"),
                )
                .with_suggestion(near),
            ));
        };
        Ok(match keyword {
            Keyword::From => Instruction::From(self.from(node)?),
            Keyword::Run => Instruction::Run(self.run(node)?),
            Keyword::Copy => Instruction::Copy(self.copy(node)?),
            Keyword::Add => Instruction::Add(self.add(node)?),
            Keyword::Env => Instruction::Env(Env { pairs: self.pairs(node)? }),
            Keyword::Label => Instruction::Label(Label { pairs: self.pairs(node)? }),
            Keyword::Arg => Instruction::Arg(self.arg(node)?),
            Keyword::Workdir => Instruction::Workdir(Workdir { path: self.one(node)? }),
            Keyword::User => Instruction::User(User { user: self.one(node)? }),
            Keyword::Stopsignal => Instruction::Stopsignal(Stopsignal { signal: self.one(node)? }),
            Keyword::Maintainer => Instruction::Maintainer(Maintainer { name: self.one(node)? }),
            Keyword::Cmd => Instruction::Cmd(Cmd { command: self.command(node) }),
            Keyword::Entrypoint => Instruction::Entrypoint(Entrypoint { command: self.command(node) }),
            Keyword::Expose => {
                let mut ports = self.at_least_one(node)?;
                for port in &ports {
                    self.check_constant(port, "invalid-port", |text| super::ports::parse([text]));
                }
                ports.sort_by(|a, b| a.value.cmp(&b.value));
                Instruction::Expose(Expose { ports })
            }
            Keyword::Volume => Instruction::Volume(self.volume(node)?),
            Keyword::Shell => Instruction::Shell(self.shell(node)?),
            Keyword::Healthcheck => Instruction::Healthcheck(self.healthcheck(node)?),
            Keyword::Onbuild => Instruction::Onbuild(self.onbuild(node)?),
        })
    }

    fn flags(&mut self, node: &Node, known: &[(&'static str, Kind)]) -> Flags {
        Flags::check(&node.flags, known, name(node), self.diagnostics)
    }

    fn from(&mut self, node: &Node) -> Result<From, Problem> {
        let flags = self.flags(node, &[("platform", Kind::Value)]);
        let words = node.arguments.words();
        let (image, alias) = match words.as_slice() {
            [image] => (image, None),
            [image, r#as, name] if r#as.value.eq_ignore_ascii_case("as") => (image, Some((r#as, name))),
            _ => {
                let d = node_error("invalid-from", node, "FROM requires either one or three arguments");
                return Err(Box::new(d.with_help("write `FROM image` or `FROM image AS name`")));
            }
        };
        let mut from = From {
            image: image.clone(),
            platform: flags.value("platform"),
            name: None,
            written_name: None,
            as_keyword: None,
        };
        if let Some((r#as, written)) = alias {
            let name = written.value.to_lowercase();
            if !words::is_stage_name(&name) {
                let message = format!("invalid name `{}` for a build stage", written.value);
                self.diagnostics.push(
                    Diagnostic::error("invalid-stage-name", written.span, message)
                        .with_help("a name starts with a letter and has letters, digits, `-`, `_` and `.`"),
                );
            } else {
                from.name = Some(Word::new(name, written.span));
            }
            from.written_name = Some(written.clone());
            from.as_keyword = Some(r#as.clone());
        }
        Ok(from)
    }

    fn run(&mut self, node: &Node) -> Result<Run, Problem> {
        let flags = self.flags(
            node,
            &[
                ("mount", Kind::Values),
                ("network", Kind::Value),
                ("security", Kind::Value),
                ("device", Kind::Values),
            ],
        );
        let mut command = self.command_line(&node.arguments);
        command.heredocs.clone_from(&node.heredocs);
        if command.form == CommandForm::Exec && command.words.is_empty() {
            return Err(Box::new(node_error(
                "missing-argument",
                node,
                "RUN requires a program in its array",
            )));
        }
        let network =
            self.choice(&flags, "network", &[Network::Default, Network::None, Network::Host], |n| n.name());
        let security =
            self.choice(&flags, "security", &[Security::Sandbox, Security::Insecure], |s| s.name());
        let mounts = flags.values("mount");
        for mount in &mounts {
            self.check_mount(mount);
        }
        let mut devices = Vec::new();
        for word in flags.values("device") {
            match mount::parse_device(&word.value) {
                Ok(device) => devices.push(Spanned::new(device, word.span)),
                Err(e) => self.diagnostics.push(e.into_diagnostic("invalid-device", word.span)),
            }
        }
        Ok(Run { command, mounts, network, security, devices })
    }

    fn choice<T: Default + std::marker::Copy>(
        &mut self,
        flags: &Flags,
        flag: &'static str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Spanned<T> {
        let Some(word) = flags.value(flag) else { return Spanned::default() };
        if let Some(found) = all.iter().find(|t| name(**t) == word.value) {
            return Spanned::new(*found, word.span);
        }
        let names: Vec<String> = all.iter().map(|t| format!("`{}`", name(*t))).collect();
        self.diagnostics.push(
            Diagnostic::error(
                "invalid-flag-value",
                word.span,
                format!("invalid {flag} mode `{}`", word.value),
            )
            .with_suggestion(suggestion(&word.value, all.iter().map(|t| name(*t))))
            .with_help(format!("it is one of {}", names.join(", "))),
        );
        Spanned::default()
    }

    /// Checks what does not depend on the variables of a mount.
    fn check_mount(&mut self, word: &Word) {
        let result = if word.value.contains('$') {
            mount::check_unexpanded(&word.value)
        } else {
            let expander = Expander::new(self.escape);
            Mount::parse_with(&word.value, |v| Ok(expander.word(v, &EmptyEnvironment)?.text)).map(|_| ())
        };
        if let Err(e) = result {
            self.diagnostics.push(e.into_diagnostic("invalid-mount", word.span));
        }
    }

    fn copy(&mut self, node: &Node) -> Result<Copy, Problem> {
        let flags = self.flags(
            node,
            &[
                ("from", Kind::Value),
                ("chown", Kind::Value),
                ("chmod", Kind::Value),
                ("link", Kind::Switch),
                ("parents", Kind::Switch),
                ("exclude", Kind::Values),
            ],
        );
        let (sources, inline, destination) = self.sources(node)?;
        let from = flags.value("from").filter(|w| !w.value.is_empty());
        if let Some(from) = &from {
            let expanded = Expander::new(self.escape).word(&from.value, &EmptyEnvironment);
            if !expanded.is_ok_and(|e| e.text == from.value) {
                self.diagnostics.push(
                    Diagnostic::error("variable-in-from", from.span, "`--from` cannot have a variable")
                        .with_help("define a stage with `FROM` and an `ARG` of the global scope, and name that stage"),
                );
            }
        }
        self.check_permissions(&flags);
        Ok(Copy {
            sources,
            inline,
            destination,
            from,
            chown: given(&flags, "chown"),
            chmod: given(&flags, "chmod"),
            link: flags.switch("link").unwrap_or(false),
            parents: flags.switch("parents").unwrap_or(false),
            excludes: flags.values("exclude"),
        })
    }

    fn add(&mut self, node: &Node) -> Result<Add, Problem> {
        let flags = self.flags(
            node,
            &[
                ("chown", Kind::Value),
                ("chmod", Kind::Value),
                ("link", Kind::Switch),
                ("keep-git-dir", Kind::Switch),
                ("checksum", Kind::Value),
                ("unpack", Kind::Switch),
                ("exclude", Kind::Values),
            ],
        );
        let (sources, inline, destination) = self.sources(node)?;
        self.check_permissions(&flags);
        Ok(Add {
            sources,
            inline,
            destination,
            chown: given(&flags, "chown"),
            chmod: given(&flags, "chmod"),
            link: flags.switch("link").unwrap_or(false),
            keep_git_dir: flags.switch("keep-git-dir"),
            checksum: given(&flags, "checksum"),
            unpack: flags.switch("unpack"),
            excludes: flags.values("exclude"),
        })
    }

    /// Checks a value without variables, so that all errors are reported at once.
    fn check_constant<T>(
        &mut self,
        word: &Word,
        code: &'static str,
        parse: impl FnOnce(&str) -> crate::Result<T>,
    ) {
        if word.value.is_empty() || word.value.contains(['$', '\'', '"', self.escape]) {
            return;
        }
        if let Err(e) = parse(&word.value) {
            self.diagnostics.push(Diagnostic::error(code, word.span, e.message().to_owned()));
        }
    }

    fn check_permissions(&mut self, flags: &Flags) {
        if let Some(word) = flags.value("chmod") {
            self.check_constant(&word, "invalid-chmod", crate::mode::ModeChange::parse);
        }
        if let Some(word) = flags.value("chown") {
            self.check_constant(&word, "invalid-chown", super::Owner::parse);
        }
    }

    fn sources(&mut self, node: &Node) -> Result<(Vec<Word>, Vec<InlineFile>, Word), Problem> {
        let command = name(node);
        let mut words = node.arguments.words();
        let destination = words.pop().filter(|_| !words.is_empty()).ok_or_else(|| {
            let message =
                format!("{command} requires at least two arguments: the destination could not be determined");
            Box::new(
                node_error("missing-argument", node, &message)
                    .with_help(format!("write `{command} SOURCE… DESTINATION`")),
            )
        })?;
        if is_heredoc(&destination) {
            let message = format!("{command} cannot have a heredoc as its destination");
            return Err(Box::new(Diagnostic::error("invalid-heredoc", destination.span, message)));
        }
        let mut heredocs = node.heredocs.iter();
        let (mut sources, mut inline) = (Vec::new(), Vec::new());
        for word in words {
            let Ok(Some(named)) = Heredoc::parse(&word.value) else {
                if matches!(word.value.as_str(), "<<" | "<<-") && !node.heredocs.is_empty() {
                    let message = format!("a heredoc of {command} cannot have white space before its name");
                    return Err(Box::new(Diagnostic::error("invalid-heredoc", word.span, message)));
                }
                sources.push(word);
                continue;
            };
            let doc = match heredocs.next() {
                Some(doc) => doc.clone(),
                // In the JSON form no lines follow: the file is empty.
                None if node.arguments.is_json() => Heredoc { span: word.span, ..named },
                None => {
                    let message = format!("heredoc `{}` has no body", word.value);
                    return Err(Box::new(Diagnostic::error("invalid-heredoc", word.span, message)));
                }
            };
            inline.push(InlineFile {
                content: doc.body(),
                name: doc.name,
                expand: doc.expand,
                span: doc.span,
            });
        }
        Ok((sources, inline, destination))
    }

    fn pairs(&mut self, node: &Node) -> Result<Vec<super::Pair>, Problem> {
        self.flags(node, &[]);
        let Arguments::Pairs(pairs) = &node.arguments else { return Err(at_least_one(node)) };
        if pairs.is_empty() {
            return Err(at_least_one(node));
        }
        for pair in pairs.iter().filter(|p| p.key.value.is_empty()) {
            let message = format!("{} names cannot be blank", name(node));
            self.diagnostics.push(Diagnostic::error("blank-name", pair.key.span, message));
        }
        Ok(pairs.clone())
    }

    fn arg(&mut self, node: &Node) -> Result<Arg, Problem> {
        let words = self.at_least_one(node)?;
        let mut variables = Vec::with_capacity(words.len());
        for word in words {
            let Some((name, default)) = word.value.split_once('=') else {
                variables.push(ArgVariable { name: word, default: None });
                continue;
            };
            if name.is_empty() {
                self.diagnostics.push(Diagnostic::error(
                    "blank-name",
                    word.span,
                    "ARG names cannot be blank",
                ));
                continue;
            }
            let (mut name_span, mut default_span) = (word.span, word.span);
            if word.span.len() == word.value.len() {
                name_span.end = name_span.start + name.len();
                default_span.start = name_span.end + 1;
            }
            variables.push(ArgVariable {
                name: Word::new(name.to_owned(), name_span),
                default: Some(Word::new(default.to_owned(), default_span)),
            });
        }
        Ok(Arg { variables })
    }

    fn volume(&mut self, node: &Node) -> Result<Volume, Problem> {
        let mut paths = self.at_least_one(node)?;
        for path in &mut paths {
            path.value = path.value.trim().to_owned();
            if path.value.is_empty() {
                self.diagnostics.push(Diagnostic::error(
                    "empty-volume",
                    path.span,
                    "VOLUME cannot have an empty path",
                ));
            }
        }
        Ok(Volume { paths })
    }

    fn shell(&mut self, node: &Node) -> Result<Shell, Problem> {
        let words = self.at_least_one(node)?;
        if !node.arguments.is_json() {
            let d = node_error("not-json", node, "SHELL requires its arguments as a JSON array");
            return Err(Box::new(d.with_help("write `SHELL [\"/bin/bash\", \"-c\"]`")));
        }
        Ok(Shell { words })
    }

    fn command(&mut self, node: &Node) -> CommandLine {
        self.flags(node, &[]);
        self.command_line(&node.arguments)
    }

    fn command_line(&self, arguments: &Arguments) -> CommandLine {
        let form = if arguments.is_json() { CommandForm::Exec } else { CommandForm::Shell };
        CommandLine { form, words: arguments.words(), heredocs: Vec::new() }
    }

    fn healthcheck(&mut self, node: &Node) -> Result<Healthcheck, Problem> {
        let Arguments::Health(kind, arguments) = &node.arguments else { return Err(at_least_one(node)) };
        match kind.value.to_ascii_uppercase().as_str() {
            "NONE" => {
                self.flags(node, &[]);
                if **arguments != Arguments::None {
                    return Err(Box::new(node_error(
                        "invalid-healthcheck",
                        node,
                        "HEALTHCHECK NONE takes no arguments",
                    )));
                }
                Ok(Healthcheck { check: None })
            }
            "CMD" => {
                let flags = self.flags(
                    node,
                    &[
                        ("interval", Kind::Value),
                        ("timeout", Kind::Value),
                        ("start-period", Kind::Value),
                        ("start-interval", Kind::Value),
                        ("retries", Kind::Value),
                    ],
                );
                let command = self.command_line(arguments);
                if command.words.is_empty() {
                    return Err(Box::new(node_error(
                        "missing-argument",
                        node,
                        "a command is missing after HEALTHCHECK CMD",
                    )));
                }
                Ok(Healthcheck {
                    check: Some(HealthCommand {
                        command,
                        interval: self.duration(&flags, "interval"),
                        timeout: self.duration(&flags, "timeout"),
                        start_period: self.duration(&flags, "start-period"),
                        start_interval: self.duration(&flags, "start-interval"),
                        retries: self.retries(&flags),
                    }),
                })
            }
            _ => {
                let message = format!("unknown type `{}` of HEALTHCHECK", kind.value);
                Err(Box::new(
                    Diagnostic::error("invalid-healthcheck", kind.span, message)
                        .with_suggestion(suggestion(&kind.value, ["CMD", "NONE"]))
                        .with_help("write `HEALTHCHECK CMD command` or `HEALTHCHECK NONE`"),
                ))
            }
        }
    }

    fn duration(&mut self, flags: &Flags, flag: &'static str) -> Duration {
        let Some(word) = flags.value(flag).filter(|w| !w.value.is_empty()) else { return Duration::ZERO };
        let message = match duration::parse(&word.value) {
            Ok(d) if d.is_zero() || d >= Duration::from_millis(1) => return d,
            Ok(_) => format!("`--{flag}` cannot be less than 1ms"),
            Err(message) => format!("invalid value of `--{flag}`: {message}"),
        };
        self.diagnostics.push(
            Diagnostic::error("invalid-flag-value", word.span, message)
                .with_help("write a number with a unit, such as `30s` or `1m30s`"),
        );
        Duration::ZERO
    }

    fn retries(&mut self, flags: &Flags) -> u32 {
        let Some(word) = flags.value("retries").filter(|w| !w.value.is_empty()) else { return 0 };
        match word.value.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => n,
            None => {
                let message = format!("invalid value `{}` of `--retries`", word.value);
                self.diagnostics.push(
                    Diagnostic::error("invalid-flag-value", word.span, message)
                        .with_help("write a number that is not negative"),
                );
                0
            }
        }
    }

    fn onbuild(&mut self, node: &Node) -> Result<Onbuild, Problem> {
        self.flags(node, &[]);
        let Arguments::Nested(inner) = &node.arguments else { return Err(at_least_one(node)) };
        let message = match inner.keyword {
            Some(Keyword::Onbuild) => "an ONBUILD inside an ONBUILD is not allowed".to_owned(),
            Some(k @ (Keyword::From | Keyword::Maintainer)) => {
                format!("{} is not allowed as an ONBUILD trigger", k.name())
            }
            _ => {
                let expression = with_bodies(&inner.original, &inner.heredocs);
                let trigger = self.statement(inner).map(Box::new);
                // The errors of the inner instruction are reported already.
                let trigger =
                    trigger.ok_or_else(|| Box::new(node_error("follows", node, "invalid trigger")))?;
                return Ok(Onbuild { expression, trigger });
            }
        };
        Err(Box::new(Diagnostic::error("invalid-onbuild", inner.name.span, message)))
    }

    fn one(&mut self, node: &Node) -> Result<Word, Problem> {
        self.flags(node, &[]);
        match &node.arguments {
            Arguments::Text(word) => Ok(word.clone()),
            _ => {
                let message = format!("{} requires exactly one argument", name(node));
                Err(Box::new(node_error("missing-argument", node, &message)))
            }
        }
    }

    fn at_least_one(&mut self, node: &Node) -> Result<Vec<Word>, Problem> {
        self.flags(node, &[]);
        let words = node.arguments.words();
        if words.is_empty() { Err(at_least_one(node)) } else { Ok(words) }
    }
}

fn name(node: &Node) -> &'static str {
    node.keyword.map_or("the instruction", Keyword::name)
}

fn given(flags: &Flags, flag: &str) -> Option<Word> {
    flags.value(flag).filter(|w| !w.value.is_empty())
}

fn is_heredoc(word: &Word) -> bool {
    matches!(Heredoc::parse(&word.value), Ok(Some(_)))
}

fn at_least_one(node: &Node) -> Problem {
    Box::new(node_error("missing-argument", node, &format!("{} requires at least one argument", name(node))))
}

/// An error of a whole instruction, marked at its first line.
fn node_error(code: &'static str, node: &Node, message: &str) -> Diagnostic {
    Diagnostic::error(code, node.span, message)
}
