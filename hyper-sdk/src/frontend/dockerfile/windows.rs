//! Images for Windows: their config can be changed. Their layers have a form of their own (`Files/`, `Hives/` and
//! attributes of NTFS), which is neither read nor written, so what touches files is refused by name.

use crate::dockerfile::{Diagnostic, Statement, Word};
use crate::oci::ImageConfig;

const HELP: &str = "layers of Windows have a form of their own, which is not read or written yet: instructions that change the config alone can be used";

/// The shell of the shell form.
pub(super) const SHELL: [&str; 3] = ["cmd", "/S", "/C"];

/// Whether an image is for Windows.
pub(super) fn is_for(config: &ImageConfig) -> bool {
    config.os.eq_ignore_ascii_case("windows")
}

/// The fault of an instruction that would change files.
pub(super) fn no_files_in(statement: &Statement) -> Diagnostic {
    let message =
        format!("{} cannot be done in an image for Windows yet", statement.instruction.keyword().name());
    Diagnostic::error("unsupported-platform", statement.name.span, message).with_help(HELP).unsupported()
}

/// The fault of a name whose files are asked for.
pub(super) fn no_files_of(name: &Word) -> Diagnostic {
    let message = format!("`{}` is an image for Windows, whose files cannot be used yet", name.value);
    Diagnostic::error("unsupported-platform", name.span, message).with_help(HELP).unsupported()
}
