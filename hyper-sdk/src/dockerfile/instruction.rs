//! The typed instructions, with the place of every token.
//!
//! Values are not expanded, as only the frontend knows the environment of their stage. [`Instruction::expand`] expands them by
//! the rules of each instruction.

use super::ast::Keyword;
use super::heredoc::Heredoc;
use super::span::{Span, Spanned, Word};
use super::words::Pair;
use std::time::Duration;

/// An instruction of a file, with its text and comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The instruction.
    pub instruction: Instruction,
    /// The name as written, for the linter and messages.
    pub name: Word,
    /// The joined line without continuation characters and comments, for names of steps and history. It does not contain the
    /// bodies of heredocs.
    pub original: String,
    /// The line or lines, heredocs included.
    pub span: Span,
    /// The comments directly above.
    pub comments: Vec<Word>,
}

impl Statement {
    /// The joined line with the instruction's name in upper case, and with the first line of a heredoc.
    pub fn display(&self) -> String {
        let rest = self.original.get(self.name.value.len()..).unwrap_or_default();
        let mut text = format!("{}{rest}", self.name.value.to_uppercase());
        if let Instruction::Run(Run { command, .. }) = &self.instruction
            && let [only] = command.heredocs.as_slice()
            && command.is_only_heredoc()
        {
            text.push_str(&format!(" ({})", only.summary()));
        }
        text
    }

    /// The description of `name` in the comments above: the rest of the line that starts with `name`.
    pub fn description(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|c| c.value.strip_prefix(name)?.strip_prefix(' '))
    }
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the instruction of its name")]
pub enum Instruction {
    From(From),
    Run(Run),
    Copy(Copy),
    Add(Add),
    Env(Env),
    Arg(Arg),
    Workdir(Workdir),
    User(User),
    Cmd(Cmd),
    Entrypoint(Entrypoint),
    Label(Label),
    Expose(Expose),
    Volume(Volume),
    Stopsignal(Stopsignal),
    Shell(Shell),
    Healthcheck(Healthcheck),
    Onbuild(Onbuild),
    Maintainer(Maintainer),
}

impl Instruction {
    /// The name of the instruction.
    pub fn keyword(&self) -> Keyword {
        match self {
            Self::From(_) => Keyword::From,
            Self::Run(_) => Keyword::Run,
            Self::Copy(_) => Keyword::Copy,
            Self::Add(_) => Keyword::Add,
            Self::Env(_) => Keyword::Env,
            Self::Arg(_) => Keyword::Arg,
            Self::Workdir(_) => Keyword::Workdir,
            Self::User(_) => Keyword::User,
            Self::Cmd(_) => Keyword::Cmd,
            Self::Entrypoint(_) => Keyword::Entrypoint,
            Self::Label(_) => Keyword::Label,
            Self::Expose(_) => Keyword::Expose,
            Self::Volume(_) => Keyword::Volume,
            Self::Stopsignal(_) => Keyword::Stopsignal,
            Self::Shell(_) => Keyword::Shell,
            Self::Healthcheck(_) => Keyword::Healthcheck,
            Self::Onbuild(_) => Keyword::Onbuild,
            Self::Maintainer(_) => Keyword::Maintainer,
        }
    }
}

/// `FROM [--platform=P] IMAGE [AS NAME]`: the start of a stage. Variables are those of the global scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// The image, the stage, the named context or `scratch`.
    pub image: Word,
    /// The platform of the image.
    pub platform: Option<Word>,
    /// The name of the stage, in lower case.
    pub name: Option<Word>,
    /// The name as written.
    pub written_name: Option<Word>,
    /// The word `AS` as written.
    pub as_keyword: Option<Word>,
}

/// The form of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandForm {
    /// Text for the shell.
    Shell,
    /// A JSON array: the arguments of the program.
    Exec,
}

/// The command of RUN, CMD, ENTRYPOINT or HEALTHCHECK. The shell expands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The form.
    pub form: CommandForm,
    /// The words. The shell form has one word, or none when it is empty.
    pub words: Vec<Word>,
    /// The heredocs, for RUN.
    pub heredocs: Vec<Heredoc>,
}

/// The command of a RUN with its heredocs inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunCommand {
    /// A program with its arguments.
    Exec(Vec<String>),
    /// A text for the shell.
    Shell(String),
    /// A script: an executable file (0755) in its own folder.
    Script {
        /// The name of the file.
        name: String,
        /// The content, which starts with `#!`.
        content: String,
    },
}

impl CommandLine {
    /// The words as strings.
    pub fn arguments(&self) -> Vec<String> {
        self.words.iter().map(|w| w.value.clone()).collect()
    }

    /// The shell text, empty in exec form without words.
    pub fn text(&self) -> String {
        self.arguments().join(" ")
    }

    /// Whether the command is one heredoc and nothing else.
    fn is_only_heredoc(&self) -> bool {
        self.form == CommandForm::Shell && matches!(Heredoc::parse(&self.text()), Ok(Some(_)))
    }

    /// The command with its heredocs inserted.
    ///
    /// A single heredoc is a script when its body starts with `#!`, and a text for the shell otherwise. A heredoc after a
    /// command is passed to the shell as written.
    pub fn run_command(&self) -> RunCommand {
        if self.form == CommandForm::Exec {
            return RunCommand::Exec(self.arguments());
        }
        match self.heredocs.first() {
            None => RunCommand::Shell(self.text()),
            Some(first) if self.is_only_heredoc() => {
                let body = first.body();
                if body.starts_with("#!") {
                    RunCommand::Script { name: first.name.clone(), content: body }
                } else {
                    RunCommand::Shell(body)
                }
            }
            Some(_) => RunCommand::Shell(with_bodies(&self.text(), &self.heredocs)),
        }
    }
}

/// A line followed by the bodies of its heredocs, as in the file.
pub(crate) fn with_bodies(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for doc in heredocs {
        text.push('\n');
        text.push_str(&doc.content);
        text.push_str(&doc.name);
    }
    text
}

/// The network of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// The network of the build.
    #[default]
    Default,
    /// No network.
    None,
    /// The network of the host.
    Host,
}

impl Network {
    /// The value of `--network`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// The security mode of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Confined.
    #[default]
    Sandbox,
    /// Privileged.
    Insecure,
}

impl Security {
    /// The value of `--security`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Insecure => "insecure",
        }
    }
}

/// `RUN [--mount=…]… [--network=…] [--security=…] [--device=…]… COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// The values of `--mount`, unexpanded: see [`super::Mount::parse_with`].
    pub mounts: Vec<Word>,
    /// The network.
    pub network: Spanned<Network>,
    /// The security mode.
    pub security: Spanned<Security>,
    /// The devices.
    pub devices: Vec<Spanned<Device>>,
}

/// A device of a RUN, by its CDI name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The name.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// A file that a heredoc of COPY or ADD makes (mode 0644).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// The name.
    pub name: String,
    /// The content.
    pub content: String,
    /// Whether variables in the content are expanded ([`super::Expander::for_heredoc`]).
    pub expand: bool,
    /// Where the content was written.
    pub span: Span,
}

/// `COPY [flags] SOURCE… DESTINATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The paths and patterns. They are copied before the inline files.
    pub sources: Vec<Word>,
    /// The heredocs.
    pub inline: Vec<InlineFile>,
    /// The destination.
    pub destination: Word,
    /// `--from`: a stage, its number, an image or a named context. Never has a variable.
    pub from: Option<Word>,
    /// `--chown`, unexpanded: see [`super::Owner::parse`].
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded: see [`crate::mode::ModeChange::parse`].
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in the syntax of ignore files.
    pub excludes: Vec<Word>,
}

/// `ADD [flags] SOURCE… DESTINATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The paths, patterns and addresses: see [`super::AddSource::parse`]. They are added before the inline files.
    pub sources: Vec<Word>,
    /// The heredocs.
    pub inline: Vec<InlineFile>,
    /// The destination.
    pub destination: Word,
    /// `--chown`, unexpanded: see [`super::Owner::parse`].
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded: see [`crate::mode::ModeChange::parse`].
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`, unexpanded.
    pub checksum: Option<Word>,
    /// `--unpack`; by default local archives are unpacked and remote ones are not.
    pub unpack: Option<bool>,
    /// `--exclude`, in the syntax of ignore files.
    pub excludes: Vec<Word>,
}

/// `ENV KEY=VALUE…` or `ENV KEY VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// The variables, in order; all of them see the environment before the instruction.
    pub pairs: Vec<Pair>,
}

/// A variable of an ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgVariable {
    /// The name.
    pub name: Word,
    /// The default; each sees the variables before it, of the same instruction too.
    pub default: Option<Word>,
}

/// `ARG NAME[=DEFAULT]…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The variables, in order.
    pub variables: Vec<ArgVariable>,
}

/// `WORKDIR PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workdir {
    /// The path.
    pub path: Word,
}

/// `USER USER[:GROUP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user and the group.
    pub user: Word,
}

/// `CMD COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    /// The command.
    pub command: CommandLine,
}

/// `ENTRYPOINT COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrypoint {
    /// The command. Without words it removes the entrypoint.
    pub command: CommandLine,
}

/// `LABEL KEY=VALUE…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The labels, in order.
    pub pairs: Vec<Pair>,
}

/// `EXPOSE PORT[/PROTOCOL]…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// The ports as written, sorted as text: see [`super::ports::parse`]. One may expand to several words.
    pub ports: Vec<Word>,
}

/// `VOLUME PATH…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The paths.
    pub paths: Vec<Word>,
}

/// `STOPSIGNAL SIGNAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopsignal {
    /// The signal.
    pub signal: Word,
}

/// `SHELL ["PROGRAM", "ARGUMENT"…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// The program and its arguments.
    pub words: Vec<Word>,
}

/// `HEALTHCHECK NONE` or `HEALTHCHECK [flags] CMD COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// The check; nothing for NONE.
    pub check: Option<HealthCommand>,
}

/// The check of a HEALTHCHECK. A duration or a count that was not given is zero, which stands for the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCommand {
    /// The command.
    pub command: CommandLine,
    /// `--interval`.
    pub interval: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--start-period`.
    pub start_period: Duration,
    /// `--start-interval`.
    pub start_interval: Duration,
    /// `--retries`.
    pub retries: u32,
}

impl Healthcheck {
    /// The `Test` of the image configuration: `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", …]`.
    pub fn test(&self) -> Vec<String> {
        let Some(check) = &self.check else { return vec!["NONE".to_owned()] };
        let kind = if check.command.form == CommandForm::Exec { "CMD" } else { "CMD-SHELL" };
        std::iter::once(kind.to_owned()).chain(check.command.arguments()).collect()
    }
}

/// `ONBUILD INSTRUCTION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// The text that is kept in the image configuration, heredoc bodies included: see [`super::parse_trigger`].
    pub expression: String,
    /// The instruction.
    pub trigger: Box<Statement>,
}

/// `MAINTAINER NAME`, which LABEL replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintainer {
    /// The name.
    pub name: Word,
}
