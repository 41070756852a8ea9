//! The value of `build --call`.

use crate::args::Format;
use clap::ValueEnum as _;
use std::str::FromStr;

/// What to do with a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Build it.
    Build,
    /// Report its errors and what the linter finds.
    Check,
    /// List the arguments, secrets and caches of the target.
    Outline,
    /// List the stages.
    Targets,
}

/// `METHOD[,format=FORMAT][,ignorestatus=BOOL]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// How the result is printed, where the value has a format.
    pub(crate) format: Option<Format>,
    /// Whether findings leave the exit status at 0.
    pub(crate) ignore_status: bool,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut call = Self { method: Method::Build, format: None, ignore_status: false };
        for (at, field) in text.split(',').enumerate() {
            match field.split_once('=') {
                None if at == 0 => {
                    call.method = match field {
                        "build" | "" => Method::Build,
                        "check" | "lint" => Method::Check,
                        "outline" => Method::Outline,
                        "targets" => Method::Targets,
                        _ => {
                            return Err(format!(
                                "invalid method `{field}`: use build, check, outline or targets"
                            ));
                        }
                    };
                }
                Some(("format", format)) => {
                    let known = || format!("invalid format `{format}`: use text, json or sarif");
                    call.format = Some(Format::from_str(format, true).map_err(|_| known())?);
                }
                Some(("ignorestatus", value)) => {
                    call.ignore_status = match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(format!("`ignorestatus` is true or false, not `{value}`")),
                    };
                }
                _ => {
                    return Err(format!(
                        "invalid field `{field}`: expected METHOD[,format=FORMAT][,ignorestatus=BOOL]"
                    ));
                }
            }
        }
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_may_have_a_format_and_ignore_the_status() {
        let call = |text: &str| text.parse::<Call>();
        let plain = Call { method: Method::Check, format: None, ignore_status: false };
        assert_eq!(call("check"), Ok(plain));
        assert_eq!(call("lint"), Ok(plain));
        let full = Call { method: Method::Outline, format: Some(Format::Json), ignore_status: true };
        assert_eq!(call("outline,format=json,ignorestatus=true"), Ok(full));
        for (text, named) in [
            ("chekc", "`chekc`"),
            ("check,json", "`json`"),
            ("check,format=xml", "invalid format `xml`: use text, json or sarif"),
            ("targets,ignorestatus=x", "`x`"),
            ("check,form=json", "`form=json`"),
        ] {
            let message = call(text).unwrap_err();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}
