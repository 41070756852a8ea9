//! The typed details of an error, for the decisions of programs and the hints of frontends.

use std::fmt;
use std::path::PathBuf;

/// The typed detail of an [`Error`](super::Error), in addition to its kind and message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorDetail {
    /// A command of a build failed.
    Command(CommandFailure),
    /// A Dockerfile has these problems, in the order of the text.
    Dockerfile(Vec<TextProblem>),
    /// The error is about a registry, or the connection to it.
    Registry(RegistryFailure),
    /// A build needs an input that its request does not have.
    Missing(MissingInput),
    /// The error is about a web address: a file of ADD, a git repository. The address has no password.
    Web {
        /// The address.
        url: String,
    },
    /// The local store has no image of a name.
    NoLocalImage {
        /// The name, as users write it.
        name: String,
    },
    /// No address is known for the name of a server.
    UnknownHost,
    /// A server cannot listen at an address.
    Listen {
        /// The address, as the caller wrote it: `localhost:5000`.
        address: String,
    },
    /// A private folder belongs to another user, or another user can replace it.
    SharedFolder(PathBuf),
    /// The clock of a store went back while its tags were judged by their age.
    ClockWentBack,
    /// A garbage collector is removing the blob that was written: it can be written when that has ended.
    BlobBeingRemoved,
    /// The stored bytes of a blob do not match its digest.
    BlobDamaged,
    /// The bucket does not have the parts of an upload. Another request may be making its object of them.
    UploadPartsMissing,
    /// Another request has put the parts of an upload together, or is going to, with other content.
    UploadContentDiffers,
    /// Another writer has claimed the upload, or had claimed it meanwhile.
    UploadClaimed,
    /// A reader of events cannot go on at its place: what came after it is not kept any more, or the log is another one.
    CursorGone,
    /// A database, a bucket or another service does not answer, so it was not asked.
    DependencyDown,
    /// A namespace of a registry has reached its quota.
    Quota(Box<QuotaExcess>),
}

/// The failure of a command of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandFailure {
    /// The exit code; after a signal, 128 plus the number of the signal.
    pub exit_code: i32,
    /// The end of its output.
    pub output: String,
}

impl CommandFailure {
    /// The failure of a command with this exit code and the end of its output.
    pub fn new(exit_code: i32, output: impl Into<String>) -> Self {
        Self { exit_code, output: output.into() }
    }
}

/// One problem of a text, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextProblem {
    /// The stable name of the kind of problem, such as `unknown-flag`.
    pub code: &'static str,
    /// The message, one sentence without an excerpt.
    pub message: String,
    /// The name of the file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What to do about it, one sentence for each suggestion.
    pub help: Vec<String>,
}

impl TextProblem {
    /// A problem at a position of a file, without suggestions.
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

/// The failure of a request to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryFailure {
    /// The registry, as the caller named it, such as `registry.example:5000`.
    pub host: Option<String>,
    /// The status of the response, such as 401. `None` without a response.
    pub status: Option<u16>,
    /// The error code of the response (distribution-spec, "Error Codes"), such as `MANIFEST_UNKNOWN`.
    pub code: Option<String>,
    /// Whether no request was sent because the certificate of the registry is not trusted.
    pub untrusted_certificate: bool,
}

impl RegistryFailure {
    /// A failure with the name of the registry alone.
    pub fn from_host(host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..Self::default() }
    }

    /// The failure of a registry with an untrusted certificate.
    pub fn from_untrusted_certificate() -> Self {
        Self { untrusted_certificate: true, ..Self::default() }
    }

    /// The failure of a response.
    pub fn from_response(status: u16, code: Option<String>) -> Self {
        Self { status: Some(status), code, ..Self::default() }
    }
}

/// The input that the request of a build lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingInput {
    /// The permission with this name, such as `network.host`, `security.insecure` or `device=vendor.example/gpu=card0`.
    Permission(String),
    /// The secret with this ID.
    Secret(String),
    /// The ssh agent with this ID.
    SshAgent(String),
    /// The Dockerfile, or its name.
    Dockerfile,
    /// A name for the image.
    ImageName,
    /// An explicit time for all outputs.
    Epoch,
    /// A state folder: there is no home folder to put it into.
    StateFolder,
    /// A folder for credentials: there is no home folder to keep them in.
    CredentialsFolder,
    /// The choice to run steps without isolation: this machine cannot separate them from itself.
    Isolation,
}

/// The failed step of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedStep {
    /// The name, such as `[2/5] RUN make`.
    pub name: String,
    /// The position in the text, such as `Dockerfile:3`. `None` for a step without a text.
    pub origin: Option<String>,
}

impl FailedStep {
    /// A step with its name and its position in the text.
    pub fn new(name: impl Into<String>, origin: Option<String>) -> Self {
        Self { name: name.into(), origin }
    }
}

/// Why the quota of a registry has refused a change. `Display` says it to people, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaExcess {
    /// The namespace that has too little left: `team`, or `**` for the whole registry.
    pub namespace: String,
    /// What there is too little of: `bytes`, `tags` or `manifests`.
    pub resource: &'static str,
    /// How much is used.
    pub used: u64,
    /// How much the change adds; 0 when that is not known, because an upload begins.
    pub added: u64,
    /// The limit.
    pub limit: u64,
}

impl fmt::Display for QuotaExcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, used, added, limit, .. } = self;
        match self.namespace.as_str() {
            "**" => f.write_str("the quota of the registry is reached: ")?,
            namespace => write!(f, "the quota of the namespace `{namespace}` is reached: ")?,
        }
        match *resource {
            "bytes" => write!(f, "{} of {} are used", Bytes(*used), Bytes(*limit))?,
            other => write!(f, "{used} of {limit} {other} are used")?,
        }
        match (*resource, *added) {
            (_, 0) => {}
            ("bytes", added) => write!(f, ", and this push adds {}", Bytes(added))?,
            (_, added) => write!(f, ", and this push adds {added}")?,
        }
        match *resource {
            "bytes" => f.write_str(
                ": delete images, whose bytes are free after the next garbage collection, or ask for a higher limit",
            ),
            other => write!(f, ": delete {other} or ask for a higher limit"),
        }
    }
}

/// A number of bytes, for people: exact, and rounded when it is large.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) => {
                let hundredths = u128::from(self.0) * 100 / u128::from(*size);
                write!(f, "{}.{:02} {unit} ({} bytes)", hundredths / 100, hundredths % 100, self.0)
            }
            None => write!(f, "{} bytes", self.0),
        }
    }
}
