//! The command that a user has typed, with something more, to be typed next.

use std::ffi::OsString;
use std::path::Path;

/// The command of this process with a word after the argument `after`.
pub(crate) fn with(after: &Path, word: &str) -> String {
    line(std::env::args_os().skip(1), after, word)
}

fn line(arguments: impl Iterator<Item = OsString>, after: &Path, word: &str) -> String {
    let mut text = String::from("hyperregistry");
    let mut is_there = false;
    for argument in arguments {
        text.push(' ');
        text.push_str(&quoted(&without_password(&argument.to_string_lossy())));
        if !is_there && argument == after.as_os_str() {
            is_there = true;
            text.push(' ');
            text.push_str(&quoted(word));
        }
    }
    text
}

/// An argument without the password of a URL: what is printed is kept in logs.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}://{user}:PASSWORD@{host}{path}"),
        None => text.to_owned(),
    }
}

/// An argument as a shell reads it.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/.,:=@%+_-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_added_and_a_shell_reads_the_rest_as_it_was() {
        let arguments = ["restore", "/my backups", "--data", "/a'b", "--jobs=2", ""].map(OsString::from);
        let text = line(arguments.into_iter(), Path::new("/my backups"), "2026-1");
        let url = ["--database=postgres://me:secret@db/x", "postgres://me@db/x:y@z"].map(without_password);
        assert_eq!(url, ["--database=postgres://me:PASSWORD@db/x", "postgres://me@db/x:y@z"]);
        assert_eq!(text, r"hyperregistry restore '/my backups' 2026-1 --data '/a'\''b' --jobs=2 ''");
    }
}
