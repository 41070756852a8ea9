//! The signals of STOPSIGNAL.

use crate::dockerfile::{Diagnostic, Span, suggestion};

/// The names without `SIG`. The other real-time signals are `RTMIN+1` to `RTMIN+15` and `RTMAX-14` to `RTMAX-1`.
const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether the text is a signal of Linux: a number other than 0, or a name in any case, with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let numbered = |prefix: &str, most: u32| {
        let number = name.strip_prefix(prefix).filter(|digits| !digits.starts_with(['0', '+']));
        number.and_then(|digits| digits.parse().ok()).is_some_and(|number: u32| number <= most)
    };
    NAMES.contains(&name) || numbered("RTMIN+", 15) || numbered("RTMAX-", 14)
}

/// Checks the signal of a STOPSIGNAL.
pub(super) fn check(text: &str, span: Span) -> Result<(), Box<Diagnostic>> {
    if is_signal(text) {
        return Ok(());
    }
    let message = match text {
        "" => "the signal is empty".to_owned(),
        _ => format!("`{text}` is not a signal"),
    };
    let with_prefix = NAMES.map(|name| format!("SIG{name}"));
    let known = NAMES.into_iter().chain(with_prefix.iter().map(String::as_str));
    let error = Diagnostic::error("instruction", span, message)
        .with_suggestion(suggestion(text, known))
        .with_help(format!(
            "a signal is a number other than 0 or one of {}, RTMIN+1 to RTMIN+15, RTMAX-14 to RTMAX-1, each also with SIG before it",
            NAMES.join(", ")
        ));
    Err(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_signals() {
        for text in [
            "9",
            "+15",
            "64",
            "65",
            "-1",
            "TERM",
            "SIGTERM",
            "sigint",
            "RTMIN",
            "SIGRTMIN+3",
            "rtmax-14",
            "RTMIN+15",
        ] {
            assert!(is_signal(text), "{text}");
        }
        for text in [
            "",
            "0",
            "-0",
            "SIG",
            "SIGSIGTERM",
            "FOO",
            "RTMIN+0",
            "RTMIN+16",
            "RTMAX-15",
            "RTMAX+1",
            "RTMIN+03",
            "9x",
        ] {
            assert!(!is_signal(text), "{text}");
        }
        let error = check("SIGTREM", Span::new(3, 10)).unwrap_err();
        assert_eq!(error.help[0], "did you mean `SIGTERM`?");
    }
}
