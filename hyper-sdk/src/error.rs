//! The error type of the SDK: the kind of failure, whether a retry can help, the operation, and its context.
//!
//! `Display` is one line and never repeats its source: a frontend prints the chain of [`std::error::Error::source`]
//! itself and adds its own hints. An error never contains a secret.

mod detail;

pub use detail::{
    CommandFailure, ErrorDetail, FailedStep, MissingInput, QuotaExcess, RegistryFailure, TextProblem,
};

use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The result type of the SDK.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`], by which callers decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An invalid argument, file or message.
    Invalid,
    /// A malformed digest, or content that does not match its digest.
    DigestInvalid,
    /// A size other than announced.
    SizeInvalid,
    /// A malformed repository name.
    NameInvalid,
    /// A repository that does not exist.
    NameUnknown,
    /// A blob that is not in the repository.
    BlobUnknown,
    /// A manifest that is not in the repository, by tag or by digest.
    ManifestUnknown,
    /// A malformed manifest, or a manifest of an unknown kind.
    ManifestInvalid,
    /// A manifest that references a blob or manifest that its repository does not have.
    ManifestBlobUnknown,
    /// An upload session that does not exist, or that has ended.
    UploadUnknown,
    /// A chunk or a closing request that does not fit the state of its upload.
    UploadInvalid,
    /// A range that lies outside its content or arrives out of order.
    RangeInvalid,
    /// Another object that does not exist.
    NotFound,
    /// An object that exists already, or was changed by another writer.
    Conflict,
    /// Missing or wrong credentials.
    Unauthorized,
    /// Valid credentials without the permission.
    Denied,
    /// An operation, a flag or a field that this backend or version does not implement.
    Unsupported,
    /// Content above a limit.
    TooLarge,
    /// Too many requests: try again later.
    TooManyRequests,
    /// A peer that cannot be reached or does not respond at the moment.
    Unavailable,
    /// No response in time.
    Timeout,
    /// The caller cancelled.
    Cancelled,
    /// A command of a build that failed.
    CommandFailed,
    /// An operation of the operating system on a file, a process or a socket failed.
    Io,
    /// A full disk, or an exhausted disk quota.
    StorageFull,
    /// Damaged stored data.
    Corrupt,
    /// A defect of Hyper itself.
    Internal,
}

impl ErrorKind {
    /// The stable lower-case name, which JSON output and the exception classes of other languages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::DigestInvalid => "digest_invalid",
            Self::SizeInvalid => "size_invalid",
            Self::NameInvalid => "name_invalid",
            Self::NameUnknown => "name_unknown",
            Self::BlobUnknown => "blob_unknown",
            Self::ManifestUnknown => "manifest_unknown",
            Self::ManifestInvalid => "manifest_invalid",
            Self::ManifestBlobUnknown => "manifest_blob_unknown",
            Self::UploadUnknown => "upload_unknown",
            Self::UploadInvalid => "upload_invalid",
            Self::RangeInvalid => "range_invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::CommandFailed => "command_failed",
            Self::Io => "io",
            Self::StorageFull => "storage_full",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error of an operation.
///
/// It is made with [`Error::new`]. Callers add details with [`Error::with_op`] and [`Error::with_context`], or with
/// [`ResultExt`] on a `Result`.
///
/// ```
/// use hyper_sdk::{Error, ErrorKind};
///
/// let cause = std::io::Error::other("the cable is loose");
/// let error = Error::new(ErrorKind::Unavailable, "cannot reach the registry")
///     .with_op("push")
///     .with_context("host", "registry.example.com")
///     .with_source(cause);
/// assert_eq!(error.to_string(), "push: cannot reach the registry (host: registry.example.com)");
/// assert!(error.is_retryable());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    retryable: bool,
    op: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    detail: Option<ErrorDetail>,
    step: Option<FailedStep>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with one sentence that says what went wrong and, where it helps, what to do.
    ///
    /// The sentence starts lower-case and has no full stop. [`ErrorKind::TooManyRequests`], [`ErrorKind::Unavailable`]
    /// and [`ErrorKind::Timeout`] are retryable by default, the other kinds are not.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retryable =
            matches!(kind, ErrorKind::TooManyRequests | ErrorKind::Unavailable | ErrorKind::Timeout);
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            retryable,
            op: None,
            context: Vec::new(),
            detail: None,
            step: None,
            retry_after: None,
            source: None,
        }))
    }

    /// An [`ErrorKind::Invalid`] error.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// An [`ErrorKind::Unsupported`] error that names what is not supported.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// An [`ErrorKind::Internal`] error: a defect of Hyper, or an impossible state.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An [`ErrorKind::Io`] error about a path; [`ErrorKind::NotFound`] or [`ErrorKind::StorageFull`] when the system
    /// reports that.
    pub fn io(message: impl Into<String>, path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::TimedOut => ErrorKind::Io,
            kind => kind_of_io(kind),
        };
        Self::new(kind, message).with_context("path", path.as_ref().display()).with_source(source)
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed when it is repeated.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// How long to wait before the call is made again, when the error or one of its causes says it.
    pub fn retry_after(&self) -> Option<Duration> {
        self.chain().find_map(|error| error.0.retry_after)
    }

    /// The message without operation and context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The outermost operation that failed.
    pub fn op(&self) -> Option<&'static str> {
        self.0.op
    }

    /// The named values, innermost first.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The value of a context entry.
    pub fn context_value(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    /// The typed detail of this error, or of its nearest cause that has one.
    ///
    /// ```
    /// use hyper_sdk::{CommandFailure, Error, ErrorDetail, ErrorKind};
    ///
    /// let failed = Error::new(ErrorKind::CommandFailed, "the command failed with exit code 3")
    ///     .with_detail(ErrorDetail::Command(CommandFailure::new(3, "no such file\n")));
    /// if let Some(ErrorDetail::Command(command)) = failed.detail() {
    ///     assert_eq!((command.exit_code, command.output.trim()), (3, "no such file"));
    /// }
    /// ```
    pub fn detail(&self) -> Option<&ErrorDetail> {
        self.details().next()
    }

    /// The details of this error and of its causes, the nearest first.
    pub fn details(&self) -> impl Iterator<Item = &ErrorDetail> {
        self.chain().filter_map(|error| error.0.detail.as_ref())
    }

    /// The step of a build that failed.
    pub fn step(&self) -> Option<&FailedStep> {
        self.chain().find_map(|error| error.0.step.as_ref())
    }

    /// The registry that this error or one of its causes is about, as the caller named it.
    pub fn registry_host(&self) -> Option<&str> {
        self.details().find_map(|detail| match detail {
            ErrorDetail::Registry(registry) => registry.host.as_deref(),
            _ => None,
        })
    }

    /// The file or folder that this error or one of its causes is about.
    pub fn path(&self) -> Option<&Path> {
        self.chain().find_map(|error| error.context_value("path")).map(Path::new)
    }

    /// This error and its causes of this type.
    fn chain(&self) -> impl Iterator<Item = &Error> {
        let first: &(dyn std::error::Error + 'static) = self;
        std::iter::successors(Some(first), |error| cause(*error)).filter_map(|error| error.downcast_ref())
    }

    /// Changes only the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Says whether a retry can help.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Says how long to wait before the call is made again. A server passes it on as `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Names the operation, in the imperative, such as `push blob`. The outermost name is kept.
    #[must_use]
    pub fn with_op(mut self, op: &'static str) -> Self {
        self.0.op = Some(op);
        self
    }

    /// Adds a named value, such as a path, a digest or a reference. The value must not be a secret.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        // Callers may add a value that is already there.
        if !self.0.context.iter().any(|(k, v)| *k == key && *v == value) {
            self.0.context.push((key, value));
        }
        self
    }

    /// Sets the typed detail.
    #[must_use]
    pub fn with_detail(mut self, detail: ErrorDetail) -> Self {
        self.0.detail = Some(detail);
        self
    }

    /// Sets the input that the request of a build lacks.
    #[must_use]
    pub fn with_missing(self, input: MissingInput) -> Self {
        self.with_detail(ErrorDetail::Missing(input))
    }

    /// Names the registry that the error is about, unless the error or a cause names one already.
    #[must_use]
    pub fn with_registry(mut self, host: impl fmt::Display) -> Self {
        if self.registry_host().is_some() {
            return self;
        }
        match &mut self.0.detail {
            Some(ErrorDetail::Registry(registry)) => registry.host = Some(host.to_string()),
            Some(_) => {}
            none => *none = Some(ErrorDetail::Registry(RegistryFailure::from_host(host.to_string()))),
        }
        self
    }

    /// Names the failed step of a build. The innermost name is kept.
    #[must_use]
    pub fn with_step(mut self, step: FailedStep) -> Self {
        self.0.step.get_or_insert(step);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(op) = self.0.op {
            write!(f, "{op}: ")?;
        }
        f.write_str(&self.0.message)?;
        let step = self.0.step.iter().flat_map(|step| {
            let origin = step.origin.as_deref().map(|origin| ("at", origin));
            std::iter::once(("step", step.name.as_str())).chain(origin)
        });
        let url = match &self.0.detail {
            Some(ErrorDetail::Web { url }) => Some(("url", url.as_str())),
            _ => None,
        };
        let seconds = |wait: Duration| wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        let wait = self.0.retry_after.map(|wait| format!("{} s", seconds(wait)));
        let wait = wait.as_deref().map(|wait| ("retry after", wait));
        let context = self.0.context.iter().map(|(key, value)| (*key, value.as_str())).chain(url).chain(wait);
        let mut separator = " (";
        for (key, value) in context.chain(step) {
            write!(f, "{separator}{key}: {value}")?;
            separator = ", ";
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("op", &self.0.op)
            .field("message", &self.0.message)
            .field("context", &self.0.context)
            .field("detail", &self.0.detail)
            .field("step", &self.0.step)
            .field("retryable", &self.0.retryable)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

impl From<std::io::Error> for Error {
    /// Returns the [`Error`] inside an I/O error; any other I/O error becomes [`ErrorKind::Io`].
    fn from(e: std::io::Error) -> Self {
        match e.downcast::<Error>() {
            Ok(inner) => inner,
            Err(e) => Error::new(kind_of_io(e.kind()), "input or output failed").with_source(e),
        }
    }
}

/// The cause of an error. `source` of an I/O error skips the error that it wraps.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

fn kind_of_io(kind: std::io::ErrorKind) -> ErrorKind {
    match kind {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::TimedOut => ErrorKind::Timeout,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Io,
    }
}

impl From<Error> for std::io::Error {
    /// Wraps the error, so that readers and writers can return it; the reverse conversion unwraps it.
    fn from(e: Error) -> Self {
        std::io::Error::other(e)
    }
}

/// Adds an operation and context to the error of a `Result`.
///
/// ```
/// use hyper_sdk::{ErrorKind, Result, ResultExt as _};
///
/// fn read(path: &str) -> Result<String> {
///     std::fs::read_to_string(path).at("cannot read the list", path).op("audit")
/// }
///
/// let error = read("/does/not/exist").unwrap_err();
/// assert_eq!(error.to_string(), "audit: cannot read the list (path: /does/not/exist)");
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// ```
pub trait ResultExt<T> {
    /// Names the operation that failed.
    fn op(self, op: &'static str) -> Result<T>;
    /// Adds a named value to the error.
    fn context(self, key: &'static str, value: impl fmt::Display) -> Result<T>;
    /// Adds the path of an I/O error and a message that says which operation failed.
    fn at(self, message: &'static str, path: impl AsRef<std::path::Path>) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn op(self, op: &'static str) -> Result<T> {
        self.map_err(|e| e.into().with_op(op))
    }

    fn context(self, key: &'static str, value: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.into().with_context(key, value))
    }

    fn at(self, message: &'static str, path: impl AsRef<std::path::Path>) -> Result<T> {
        self.map_err(|e| {
            let source: Error = e.into();
            Error::new(source.kind(), message)
                .with_context("path", path.as_ref().display())
                .with_source(source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_without_the_source() {
        let e = Error::io("cannot read the file", "/x", std::io::Error::other("boom")).with_op("build");
        assert_eq!(e.to_string(), "build: cannot read the file (path: /x)");
        assert_eq!(std::error::Error::source(&e).unwrap().to_string(), "boom");
    }

    #[test]
    fn details_come_from_the_nearest_cause_that_has_one() {
        let answer = RegistryFailure::from_response(401, Some("UNAUTHORIZED".into()));
        let inner = Error::new(ErrorKind::Unauthorized, "the registry wants credentials")
            .with_detail(ErrorDetail::Registry(answer))
            .with_registry("r.example");
        let text = vec![TextProblem::new("image", "cannot be resolved", "Dockerfile", 2, 6)];
        let outer = Error::new(ErrorKind::Unauthorized, "x")
            .with_source(std::io::Error::from(inner))
            .with_detail(ErrorDetail::Dockerfile(text.clone()))
            .with_registry("another.example");
        assert_eq!(outer.detail(), Some(&ErrorDetail::Dockerfile(text)));
        assert_eq!(outer.registry_host(), Some("r.example"));
        let Some(ErrorDetail::Registry(registry)) = outer.details().nth(1) else { panic!("{outer:?}") };
        assert_eq!((registry.status, registry.code.as_deref()), (Some(401), Some("UNAUTHORIZED")));
        let bare = Error::new(ErrorKind::Unavailable, "x").with_registry("r.example");
        assert_eq!(bare.registry_host(), Some("r.example"));
    }

    #[test]
    fn the_step_is_shown_at_the_end() {
        let failed = Error::new(ErrorKind::NotFound, "no such file").with_context("path", "/x");
        let failed = failed.with_step(FailedStep::new("[2/2] COPY x /", Some("Dockerfile:2".into())));
        assert_eq!(failed.to_string(), "no such file (path: /x, step: [2/2] COPY x /, at: Dockerfile:2)");
        let again = failed.with_step(FailedStep::new("other", None));
        assert_eq!(again.step().unwrap().name, "[2/2] COPY x /");
        assert_eq!(Error::internal("x").with_source(again).path(), Some(Path::new("/x")));
    }

    #[test]
    fn an_error_survives_a_conversion_to_an_io_error() {
        let e: std::io::Error = Error::new(ErrorKind::DigestInvalid, "content does not match").into();
        assert_eq!(Error::from(e).kind(), ErrorKind::DigestInvalid);
    }

    #[test]
    fn the_time_to_wait_is_typed_and_shown() {
        let busy = Error::new(ErrorKind::TooManyRequests, "too many requests");
        let busy = busy.with_context("limit", 3).with_retry_after(Duration::from_secs(7));
        assert_eq!(busy.to_string(), "too many requests (limit: 3, retry after: 7 s)");
        let soon = Error::internal("x").with_retry_after(Duration::from_millis(1500));
        assert_eq!(soon.to_string(), "x (retry after: 2 s)");
        let outer = Error::internal("outer").with_source(std::io::Error::from(busy));
        assert_eq!(outer.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(Error::internal("x").retry_after(), None);
    }

    #[test]
    fn only_temporary_errors_are_retryable() {
        assert!(Error::new(ErrorKind::Unavailable, "x").is_retryable());
        assert!(!Error::new(ErrorKind::Denied, "x").is_retryable());
    }
}
