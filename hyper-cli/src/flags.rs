//! Values of flags that the SDK does not take, as failures of the call.

use crate::failure::Failure;
use hyper_sdk::{Error, ErrorKind};

/// The failure of a value that the error names itself.
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
    fn a_wrong_value_is_a_wrong_call_and_names_the_flag() {
        let failure = text::hosts(["a"]).map_err(wrong("add-host")).unwrap_err();
        assert!(matches!(failure, Failure::Usage(text) if text == "--add-host `a`: expected NAME:ADDRESS"));
        let failure = text::secrets(["src=x"], |_| None).map_err(wrong("secret:")).unwrap_err();
        assert!(matches!(failure, Failure::Usage(text) if text.starts_with("--secret: `id` is missing")));
    }

    #[test]
    fn what_is_not_supported_is_a_failure_of_the_work() {
        let parse = |text: &str| Output::parse(text).map_err(of_value("output", text)).unwrap_err();
        assert!(matches!(parse("type=elephant"), Failure::Usage(text) if text.contains("elephant")));
        let Failure::Work { error, .. } = parse("type=docker,context=other") else { panic!("a wrong call") };
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
