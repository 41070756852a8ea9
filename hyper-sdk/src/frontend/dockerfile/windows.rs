//! Images for Windows. Their layers have another format (`Files/`, `Hives/` and attributes of NTFS), which is neither read nor
//! written. Instructions can change the config of such an image, and an instruction that needs its files is an error. An
//! image from `scratch` has no such layers: it takes files like any other image, under paths of Windows.

use crate::dockerfile::{Diagnostic, Statement, Word};
use crate::oci::ImageConfig;

const HELP: &str = "layers of Windows have another format, which cannot be read or written yet: only instructions that change the config can be used";

/// The shell of the shell form.
pub(super) const SHELL: [&str; 3] = ["cmd", "/S", "/C"];

/// Whether an image is for Windows.
pub(super) fn is_for(config: &ImageConfig) -> bool {
    config.os.eq_ignore_ascii_case("windows")
}

/// Whether an image has layers of Windows.
pub(super) fn has_layers(config: &ImageConfig) -> bool {
    is_for(config) && !config.rootfs.diff_ids.is_empty()
}

/// A path of Windows with slashes and without its drive, which has to be `C:`.
pub(super) fn path(word: &Word) -> Result<String, Diagnostic> {
    let bad = |why: &str| Diagnostic::error("invalid-path", word.span, format!("`{}` {why}", word.value));
    let path = word.value.replace('\\', "/");
    if path.starts_with("//") {
        return Err(bad("is a path of another machine, which cannot be used"));
    }
    match path.split_once(':') {
        None => Ok(path),
        Some((drive, "")) if drive.len() == 1 => Err(bad("is a drive: name a path on it")),
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => Ok(rest.to_owned()),
        Some(_) => Err(bad("is not on the drive C:")),
    }
}

/// The error of an instruction that changes files.
pub(super) fn cannot_change_files(statement: &Statement) -> Diagnostic {
    let message =
        format!("{} cannot be done in an image for Windows yet", statement.instruction.keyword().name());
    Diagnostic::error("unsupported-platform", statement.name.span, message).with_help(HELP).unsupported()
}

/// The error of a name whose files are used.
pub(super) fn cannot_use_files(name: &Word) -> Diagnostic {
    let message = format!("`{}` is an image for Windows, whose files cannot be used yet", name.value);
    Diagnostic::error("unsupported-platform", name.span, message).with_help(HELP).unsupported()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::Span;

    #[test]
    fn drives_are_removed_from_paths() {
        let path = |text: &str| super::path(&Word::new(text.to_owned(), Span::new(0, 0)));
        for (text, expected) in
            [("C:\\a\\b\\", "/a/b/"), ("c:/a", "/a"), ("C:a", "a"), ("a\\b", "a/b"), ("\\a", "/a"), ("", "")]
        {
            assert_eq!(path(text).unwrap(), expected, "{text}");
        }
        for (text, why) in
            [("C:", "is a drive"), ("D:\\a", "drive C:"), ("\\\\host\\share", "another machine")]
        {
            assert!(path(text).unwrap_err().message.contains(why), "{text}");
        }
    }
}
