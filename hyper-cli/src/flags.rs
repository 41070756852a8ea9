//! Errors of the SDK about the values of flags, as failures that name the flag.

use crate::failure::Failure;
use hyper_sdk::{Error, ErrorKind};

/// The failure of a value that the error names.
pub(crate) fn wrong(flag: &str) -> impl Fn(Error) -> Failure {
    let flag = format!("--{flag}");
    move |error| match error.kind() {
        ErrorKind::Unsupported => unsupported(format!("{flag} {error}")),
        _ => Failure::usage(format!("{flag} {error}")),
    }
}

/// The failure of a value that the error does not name.
pub(crate) fn of_value(flag: &str, value: &str) -> impl Fn(Error) -> Failure {
    let flag = format!("--{flag} `{value}`");
    move |error| match error.kind() {
        ErrorKind::Unsupported => unsupported(format!("{flag}: {}", error.message())),
        _ => Failure::usage(format!("{flag}: {}", error.message())),
    }
}

/// A failure that names what is not supported.
pub(crate) fn unsupported(what: impl Into<String>) -> Failure {
    Error::unsupported(what).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::build::{Output, text};

    #[test]
    fn an_invalid_value_is_a_usage_error_that_names_the_flag() {
        let failure = text::hosts(["a"]).map_err(wrong("add-host")).unwrap_err();
        assert!(matches!(failure, Failure::Usage(text) if text == "--add-host `a`: expected NAME:ADDRESS"));
        let failure = text::secrets(["src=x"], |_| None).map_err(wrong("secret:")).unwrap_err();
        assert!(matches!(failure, Failure::Usage(text) if text.starts_with("--secret: `id` is missing")));
    }

    #[test]
    fn an_unsupported_value_is_not_a_usage_error() {
        let parse = |text: &str| Output::parse(text).map_err(of_value("output", text)).unwrap_err();
        assert!(matches!(parse("type=elephant"), Failure::Usage(text) if text.contains("elephant")));
        let Failure::Work { error, .. } = parse("type=docker,context=other") else { panic!("a usage error") };
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
