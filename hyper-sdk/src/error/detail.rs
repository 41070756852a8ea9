//! The typed details of an error: what a program decides by, and what a frontend makes its hints from.

use std::path::PathBuf;

/// What an [`Error`](super::Error) knows beyond its kind and its sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorDetail {
    /// A command of a build failed.
    Command(CommandFailure),
    /// A Dockerfile has problems: all that were found, in the order of the text.
    Dockerfile(Vec<TextProblem>),
    /// A registry, or the way to it, is concerned.
    Registry(RegistryFailure),
    /// A build needs something that its request does not give.
    Missing(MissingInput),
    /// An address of the web is concerned: a file of ADD, a git repository. It has no password in it.
    Web {
        /// The address.
        url: String,
    },
    /// A server cannot listen at an address.
    Listen {
        /// The address, as the caller wrote it: `localhost:5000`.
        address: String,
    },
    /// A folder that has to be private belongs to, or can be replaced by, another user.
    SharedFolder(PathBuf),
}

/// How a command of a build failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandFailure {
    /// Its exit code; 128 and the number of the signal after a signal.
    pub exit_code: i32,
    /// The end of what it wrote.
    pub output: String,
}

impl CommandFailure {
    /// The failure of a command that ended with `exit_code` and wrote `output` last.
    pub fn new(exit_code: i32, output: impl Into<String>) -> Self {
        Self { exit_code, output: output.into() }
    }
}

/// One problem of a text, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextProblem {
    /// The stable name of the kind of problem: `unknown-flag`.
    pub code: &'static str,
    /// One sentence, without excerpt.
    pub message: String,
    /// The name of the file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What to do about it, one sentence each.
    pub help: Vec<String>,
}

impl TextProblem {
    /// A problem at a place of a file, without help.
    pub fn new(
        code: &'static str,
        message: impl Into<String>,
        file: impl Into<String>,
        line: usize,
        column: usize,
    ) -> Self {
        Self { code, message: message.into(), file: file.into(), line, column, help: Vec::new() }
    }
}

/// What is known about a failed exchange with a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryFailure {
    /// The registry, as the caller named it: `registry.example:5000`.
    pub host: Option<String>,
    /// The status of its answer: 401. `None` when there was no answer.
    pub status: Option<u16>,
    /// The code of its answer, as the distribution specification lists them: `MANIFEST_UNKNOWN`.
    pub code: Option<String>,
    /// Whether nothing was asked because the certificate of the registry is not trusted.
    pub untrusted_certificate: bool,
}

impl RegistryFailure {
    /// A failure of a registry of which nothing else is known.
    pub fn of_host(host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..Self::default() }
    }

    /// The failure to trust the certificate of a registry.
    pub fn of_untrusted_certificate() -> Self {
        Self { untrusted_certificate: true, ..Self::default() }
    }

    /// The failure that an answer means.
    pub fn of_answer(status: u16, code: Option<String>) -> Self {
        Self { status: Some(status), code, ..Self::default() }
    }
}

/// What the request of a build has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingInput {
    /// A permission by its name: `network.host`, `security.insecure`, `device=vendor.example/gpu=card0`.
    Permission(String),
    /// The secret with this ID.
    Secret(String),
    /// The ssh agent with this ID.
    SshAgent(String),
    /// The file that is built, or its name.
    Dockerfile,
    /// A name for the image.
    ImageName,
    /// One time for all outputs.
    Epoch,
}

/// The step of a build that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedStep {
    /// Its name: `[2/5] RUN make`.
    pub name: String,
    /// Where it was asked for: `Dockerfile:3`. `None` when no text asked for it.
    pub origin: Option<String>,
}

impl FailedStep {
    /// A step by its name, and where it was asked for.
    pub fn new(name: impl Into<String>, origin: Option<String>) -> Self {
        Self { name: name.into(), origin }
    }
}
