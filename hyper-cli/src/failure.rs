//! How a command fails: the chain of errors, a hint, and the exit status.

use crate::interrupt::Signal;
use crate::terminal::{message, paint};
use crate::{json_events, program};
use hyper_sdk::reference::{DEFAULT_HOST, RegistryHost};
use hyper_sdk::{Error, ErrorDetail, ErrorKind, FailedStep, MissingInput};
use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The work failed.
    Work {
        /// Why.
        error: Error,
        /// What to do, when the command knows better than [`hint`].
        hint: Option<String>,
    },
    /// The command line is wrong in a way that the parser cannot see.
    Usage(String),
    /// A signal ended the work.
    Interrupted(Signal),
    /// A check found something, which was printed.
    Findings,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Work { error, hint: None }
    }
}

impl Failure {
    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Adds what to do next, unless there is a hint already.
    #[must_use]
    pub fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Work { error, hint } => Self::Work { error, hint: hint.or_else(|| Some(text.into())) },
            other => other,
        }
    }

    /// The parts of the message: `error`, `step`, `caused by` and `hint`, each with its text. `root` is the state folder.
    fn parts(&self, root: Option<&Path>) -> Vec<(&'static str, String)> {
        let program = program::name();
        match self {
            Self::Findings => Vec::new(),
            Self::Interrupted(signal) => vec![("error", signal.what().to_owned())],
            Self::Usage(message) => vec![
                ("error", message.clone()),
                ("hint", format!("see `{program} --help` and `{program} COMMAND --help`")),
            ],
            Self::Work { error, hint: own } => {
                let mut parts = match error.step() {
                    Some(step) => vec![("error", error_of_step(error, step)), ("step", step.name.clone())],
                    None => vec![("error", error.to_string())],
                };
                let mut source = error.source();
                let mut last = error.to_string();
                while let Some(cause) = source {
                    let text = cause.to_string();
                    // Foreign errors often print their source as a part of themselves.
                    if !last.contains(&text) {
                        parts.push(("caused by", text.clone()));
                    }
                    last = text;
                    source = cause.source();
                }
                parts.extend(own.clone().or_else(|| hint(error, root)).map(|hint| ("hint", hint)));
                parts
            }
        }
    }

    /// The lines of the message.
    fn lines(&self, color: bool, root: Option<&Path>) -> Vec<String> {
        let line = |(kind, text): (&str, String)| {
            let (indent, code) = match kind {
                "error" => ("", "1;31"),
                "hint" => ("", "1;36"),
                _ => ("  ", "33"),
            };
            format!("{indent}{} {text}", paint(color, code, &format!("{kind}:")))
        };
        self.parts(root).into_iter().map(line).collect()
    }

    /// Writes the failure to standard error and returns the exit status. `root` is the state folder, when it is known.
    pub(crate) fn report(&self, color: bool, root: Option<&Path>) -> ExitCode {
        match self {
            Self::Findings => {}
            _ if json_events::is_on() => {
                json_events::failure(&self.parts(root), &self.lines(false, root).join("\n"))
            }
            _ => self.lines(color, root).iter().for_each(|line| message(line)),
        }
        ExitCode::from(match self {
            Self::Work { .. } | Self::Findings => 1,
            Self::Usage(_) => 2,
            Self::Interrupted(signal) => signal.status(),
        })
    }
}

/// The error of a step in one line, which begins with its place. The step has a line of its own, and its output was
/// shown.
fn error_of_step(error: &Error, step: &FailedStep) -> String {
    let message = error.message();
    let place = step.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
    let more: Vec<String> = error.context().iter().map(|(k, v)| format!("{k}: {v}")).collect();
    if more.is_empty() {
        format!("{place}{message}")
    } else {
        format!("{place}{message} ({})", more.join(", "))
    }
}

/// What to do about an error of this kind and with these details.
fn hint(error: &Error, root: Option<&Path>) -> Option<String> {
    let (host, program) = (error.registry_host(), program::name());
    if let Some(hint) = error.details().find_map(hint_of_detail) {
        return Some(hint);
    }
    if error.context_value("bucket").is_some() {
        return hint_of_bucket(error.kind()).map(str::to_owned);
    }
    Some(match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::Denied
            if host.is_none()
                && let Some(server) = error.details().find_map(web_address).and_then(server) =>
        {
            format!("a secret gives the token for the server: --secret id=HTTP_AUTH_TOKEN_{server},env=NAME")
        }
        ErrorKind::Unauthorized => match host {
            Some(host) => format!("log in with `{program} login {host}`"),
            None => format!("log in to the registry with `{program} login`"),
        },
        ErrorKind::Denied if host.is_some() => {
            "the credentials are valid and do not permit this: ask the registry's owner".to_owned()
        }
        ErrorKind::ManifestUnknown if error.context_value("platforms").is_some() => {
            "choose one of these platforms with --platform".to_owned()
        }
        ErrorKind::ManifestUnknown if let Some(host) = host => {
            format!("{host} has no such image: check name and tag")
        }
        ErrorKind::NameUnknown if let Some(host) = host => {
            format!("{host} has no such repository: check the name")
        }
        ErrorKind::Unavailable if error.details().any(|detail| web_address(detail).is_some()) => {
            "is the server running? Proxies are those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY".to_owned()
        }
        ErrorKind::Unavailable => match host {
            Some(host) if host == DEFAULT_HOST => {
                "is there a network? A name without a host means an image of docker.io".to_owned()
            }
            Some(host) if host.parse::<RegistryHost>().is_ok_and(|host| host.is_loopback()) => {
                format!("is a registry listening at {host}?")
            }
            _ => "is the registry running? One that speaks plain HTTP needs --plain-http".to_owned(),
        },
        ErrorKind::TooManyRequests => "the registry limits requests: log in, or try again later".to_owned(),
        ErrorKind::Io if is_permission(error) && is_below(error, root) => {
            "a folder that you can write to is chosen with --root".to_owned()
        }
        ErrorKind::Corrupt | ErrorKind::BlobUnknown
            if host.is_none() && !error.message().contains("build or pull") =>
        {
            "build or pull the image again: that repairs the local store".to_owned()
        }
        ErrorKind::StorageFull if host.is_none() => match (error.path(), root) {
            (Some(_), Some(root)) if is_below(error, Some(root)) => format!(
                "the disk of the state folder {} is full: free some space, or choose another folder with --root",
                root.display()
            ),
            (Some(path), _) => format!("the disk of {} is full: free some space", path.display()),
            (None, _) => return None,
        },
        ErrorKind::Internal => "this is a bug in Hyper: please report it".to_owned(),
        _ => return None,
    })
}

/// What to do about an error of a cache in a bucket.
fn hint_of_bucket(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Unauthorized => Some(
            "keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from a profile that AWS_PROFILE names",
        ),
        ErrorKind::Unavailable | ErrorKind::Timeout => Some(
            "is the server running, and is `endpoint_url` its address? Proxies are those of HTTPS_PROXY and NO_PROXY",
        ),
        _ => None,
    }
}

fn web_address(detail: &ErrorDetail) -> Option<&str> {
    match detail {
        ErrorDetail::Web { url } => Some(url),
        _ => None,
    }
}

/// The server of a web address, without the port that its scheme implies.
fn server(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let server = rest.split(['/', '?', '#']).next()?;
    Some(server.rsplit('@').next().unwrap_or(server)).filter(|server| !server.is_empty())
}

/// What to do about a detail of an error, whatever its kind.
fn hint_of_detail(detail: &ErrorDetail) -> Option<String> {
    Some(match detail {
        ErrorDetail::Missing(input) => match input {
            MissingInput::Permission(name) => format!("permit it with --allow {name}"),
            MissingInput::Secret(id) => format!("give it with --secret id={id},src=FILE"),
            MissingInput::SshAgent(id) if id == "default" => "give it with --ssh default".to_owned(),
            MissingInput::SshAgent(id) => format!("give it with --ssh {id}=SOCKET"),
            MissingInput::Dockerfile => "name the Dockerfile with --file FILE".to_owned(),
            MissingInput::ImageName => "give a name with --tag NAME".to_owned(),
            MissingInput::StateFolder => "name a state folder with --root DIR, or in HYPER_ROOT".to_owned(),
            MissingInput::CredentialsFolder => {
                "name a folder with --config DIR, or in DOCKER_CONFIG".to_owned()
            }
            MissingInput::Isolation => {
                "in a container that has nothing else in it, run them as root with `--isolation none`"
                    .to_owned()
            }
            MissingInput::Epoch => {
                "give the whole build one time with --source-date-epoch SECONDS".to_owned()
            }
            _ => return None,
        },
        ErrorDetail::NoLocalImage { .. } => {
            format!("`{} images` lists what the local store has", program::name())
        }
        ErrorDetail::UnknownHost => {
            "check the name of the host, and whether this machine can look names up".to_owned()
        }
        ErrorDetail::SharedFolder(_) => "another state folder is chosen with --root".to_owned(),
        ErrorDetail::Registry(registry) if registry.untrusted_certificate => {
            "if the certificate is right, name its authority, or the certificate itself, with --ca-file FILE"
                .to_owned()
        }
        _ => return None,
    })
}

/// Whether an error is about a file of the state folder.
fn is_below(error: &Error, root: Option<&Path>) -> bool {
    matches!((error.path(), root), (Some(path), Some(root)) if path.starts_with(root) || root.starts_with(path))
}

fn is_permission(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::PermissionDenied;
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_shown_once_with_a_hint() {
        let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = Error::io("cannot make the folder", "/x", io).with_op("open store");
        assert_eq!(
            Failure::from(error).lines(false, Some(Path::new("/x/state"))),
            [
                "error: open store: cannot make the folder (path: /x)",
                "  caused by: permission denied",
                "hint: a folder that you can write to is chosen with --root"
            ]
        );
    }

    #[test]
    fn the_hint_about_the_state_folder_is_for_errors_in_it() {
        let root = Path::new("/home/me/state");
        for (path, hinted) in
            [("/home/me/state/store", true), ("/home/me", true), ("/home/me/src/secret", false)]
        {
            let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            let error =
                Error::io("cannot read the folder", path, io).with_step(FailedStep::new("COPY . /", None));
            let lines = Failure::from(error).lines(false, Some(root));
            assert_eq!(lines.iter().any(|line| line.contains("--root")), hinted, "{lines:?}");
        }
    }

    #[test]
    fn a_full_disk_is_named_by_its_folder() {
        let full = |path: &str| {
            let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let error = Error::io("cannot write", path, io).with_step(FailedStep::new("COPY . /", None));
            Failure::from(error).lines(false, Some(Path::new("/home/me/state"))).pop().unwrap()
        };
        assert!(full("/home/me/state/store/uploads/1").contains("the state folder /home/me/state is full"));
        assert!(full("/elsewhere/out.tar").contains("the disk of /elsewhere/out.tar is full"));
    }

    #[test]
    fn a_login_hint_names_the_host() {
        let error = Error::new(ErrorKind::Unauthorized, "no credentials").with_registry("r.example");
        assert_eq!(hint(&error, None).unwrap(), "log in with `hyperbuild login r.example`");
        let error = Error::new(ErrorKind::Unauthorized, "x").with_registry("r.example:5");
        let outer = Error::new(ErrorKind::Unauthorized, "outer").with_source(error);
        assert_eq!(hint(&outer, None).unwrap(), "log in with `hyperbuild login r.example:5`");
        let nameless = hint(&Error::new(ErrorKind::Unauthorized, "x"), None).unwrap();
        assert!(!nameless.contains("HOST"), "{nameless}");
    }

    #[test]
    fn a_hint_for_a_web_server_names_the_secret_of_its_token() {
        for (url, server) in [
            ("https://files.example/a/b.tar?x=1", "files.example"),
            ("http://me:***@files.example:81/", "files.example:81"),
        ] {
            let error = Error::new(ErrorKind::Unauthorized, "x")
                .with_detail(ErrorDetail::Web { url: url.to_owned() });
            let hint = hint(&error, None).unwrap();
            assert!(hint.contains(&format!("id=HTTP_AUTH_TOKEN_{server},env=")), "{hint}");
        }
    }

    #[test]
    fn a_hint_names_the_flag_of_a_missing_input() {
        let hint_of = |input| hint(&Error::new(ErrorKind::NotFound, "x").with_missing(input), None).unwrap();
        for (input, flag) in [
            (MissingInput::Permission("device=v/c=n".into()), "--allow device=v/c=n"),
            (MissingInput::Secret("key".into()), "--secret id=key,src=FILE"),
            (MissingInput::SshAgent("default".into()), "--ssh default"),
            (MissingInput::SshAgent("other".into()), "--ssh other=SOCKET"),
            (MissingInput::Dockerfile, "--file"),
            (MissingInput::ImageName, "--tag"),
            (MissingInput::Epoch, "--source-date-epoch"),
            (MissingInput::Isolation, "--isolation none"),
        ] {
            assert!(hint_of(input.clone()).contains(flag), "{input:?}");
        }
        let outer = Error::new(ErrorKind::Denied, "outer")
            .with_source(Error::new(ErrorKind::Denied, "x").with_missing(MissingInput::Dockerfile));
        assert!(hint(&outer, None).unwrap().contains("--file"));
    }

    #[test]
    fn a_missing_image_is_looked_for_where_it_can_be() {
        let unknown = |kind: ErrorKind| Error::new(kind, "x");
        let local = ErrorDetail::NoLocalImage { name: "a:1".into() };
        let platforms = unknown(ErrorKind::ManifestUnknown).with_context("platforms", "linux/amd64");
        for (error, told) in [
            (unknown(ErrorKind::ManifestUnknown).with_detail(local), Some("`hyperbuild images` lists")),
            (
                unknown(ErrorKind::ManifestUnknown).with_registry("r.example"),
                Some("r.example has no such image"),
            ),
            (unknown(ErrorKind::NameUnknown).with_registry("r.example"), Some("no such repository")),
            (platforms.with_registry("r.example"), Some("--platform")),
            (unknown(ErrorKind::ManifestUnknown), None),
        ] {
            let hint = hint(&error, None);
            assert_eq!(hint.is_some(), told.is_some(), "{error:?}: {hint:?}");
            assert!(hint.unwrap_or_default().contains(told.unwrap_or_default()), "{error:?}");
        }
    }

    #[test]
    fn an_unknown_host_does_not_ask_for_another_protocol() {
        let cause = Error::new(ErrorKind::Unavailable, "no address").with_detail(ErrorDetail::UnknownHost);
        let error = Error::new(ErrorKind::Unavailable, "x").with_source(cause).with_registry("r.example");
        let hint = hint(&error, None).unwrap();
        assert!(hint.contains("look names up") && !hint.contains("plain"), "{hint}");
    }

    #[test]
    fn the_hint_of_a_command_wins() {
        let failure = Failure::from(Error::internal("x")).with_hint("do this").with_hint("not this");
        assert_eq!(failure.lines(false, None), ["error: x", "hint: do this"]);
    }
}
