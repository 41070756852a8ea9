//! Standard input and output, as the commands use them.

use hyper_sdk::{Error, Result, ResultExt as _};
use std::io::{Read as _, Write as _};

/// Prints a text and shows it at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).op("print")
}

/// A password on standard input, without the end of its line.
pub(crate) fn read_password() -> Result<String> {
    let mut password = String::new();
    std::io::stdin().take(4096).read_to_string(&mut password).op("read the password")?;
    for end in ['\n', '\r'] {
        if password.ends_with(end) {
            password.pop();
        }
    }
    Ok(password)
}

/// An error with its causes, on one line.
pub(crate) fn chain(e: &Error) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}
