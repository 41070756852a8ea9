//! What a log shows, as text.

use hyper_sdk::{Error, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The filter that a text stands for: a level, or parts of the program with levels of their own beside it, with commas
/// between them, such as `info,hyper_server=debug`. What no part of the text speaks of has the level `rest`.
///
/// A level is `off`, `error`, `warn`, `info`, `debug` or `trace`. A word alone that is none is an error, never the name of a
/// part: a slip in a level does not silence the log.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] with what is wrong.
///
/// # Examples
/// ```
/// use hyper_server::log_filter;
///
/// assert_eq!(log_filter("debug", "info")?.to_string(), "debug");
/// assert!(log_filter("warning", "info").is_err());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
pub fn log_filter(text: &str, rest: &str) -> Result<EnvFilter> {
    let refused = |why: String| {
        Error::invalid(format!(
            "invalid log level `{}`: {why}: write off, error, warn, info, debug or trace, or a filter such as \
             `info,hyper_server=debug`",
            text.escape_debug()
        ))
    };
    let mut has_level = false;
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    for part in &parts {
        if part.contains(['=', '[']) {
            if part.ends_with('=') {
                return Err(refused(format!("`{}` has no level", part.escape_debug())));
            }
            continue;
        }
        if part.parse::<LevelFilter>().is_err() {
            return Err(refused(format!("`{}` is no level", part.escape_debug())));
        }
        has_level = true;
    }
    let rest = (!has_level).then_some(rest);
    let whole: Vec<&str> = rest.into_iter().chain(parts).collect();
    EnvFilter::try_new(whole.join(",")).map_err(|e| refused("it is no filter".to_owned()).with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_silences_nothing() {
        for (text, said) in [
            ("warning", "`warning` is no level"),
            ("loud", "`loud` is no level"),
            ("information", "`information` is no level"),
            ("inf", "`inf` is no level"),
            ("info,debugg", "`debugg` is no level"),
            ("hyper_server", "`hyper_server` is no level"),
            ("hyper_server=debug,verbose", "`verbose` is no level"),
            ("", "it is empty"),
            (" , ", "it is empty"),
            ("=debug", "it is no filter"),
            ("hyper_server[", "it is no filter"),
            ("+3", "it is no filter"),
            ("\u{e9}info", "`\u{e9}info` is no level"),
            ("hyper_server=", "has no level"),
            ("hyper_server=loud", "it is no filter"),
            ("6", "`6` is no level"),
            ("-1", "`-1` is no level"),
            ("debug info", "`debug info` is no level"),
            ("info;debug", "`info;debug` is no level"),
        ] {
            let error = log_filter(text, "info").unwrap_err();
            assert_eq!(error.kind(), hyper_sdk::ErrorKind::Invalid, "{text:?}");
            assert!(error.message().contains(said), "{text:?}: {}", error.message());
        }
    }

    #[test]
    fn what_a_filter_does_not_name_has_a_level() {
        let max = |text: &str, rest: &str| log_filter(text, rest).unwrap().max_level_hint();
        assert_eq!(max("hyper_server=error", "info"), Some(LevelFilter::INFO));
        assert_eq!(max("[request]=error", "warn"), Some(LevelFilter::WARN));
        assert_eq!(max("hyper_server=debug,off", "info"), Some(LevelFilter::DEBUG));
        assert_eq!(max(" info\n", "warn"), Some(LevelFilter::INFO));
        assert_eq!(max("info,,", "warn"), Some(LevelFilter::INFO));
        for level in ["off", "error", "warn", "info", "debug", "trace", "INFO", "Warn", "3"] {
            assert_eq!(max(level, "trace"), Some(level.parse().unwrap()), "{level}");
        }
        assert!(log_filter("info,hyper_server[request{method=GET}]=trace", "info").is_ok());
    }
}
