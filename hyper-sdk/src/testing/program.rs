//! Programs that a test makes and then runs.

use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Copies a program that is going to be run.
///
/// Another process writes the copy. If this one did, a process that another thread starts just then could inherit the
/// descriptor, and the kernel runs no file that is open for writing ("text file busy").
///
/// # Errors
/// Those of `cp`, and that there is none.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg(from).arg(to).output()?;
    if done.status.success() { Ok(()) } else { Err(Error::other(String::from_utf8_lossy(&done.stderr))) }
}

/// Writes a script that is going to be run, with the same care as [`copy_program`]. The text stays beside it, under a
/// name that ends in `.text`.
///
/// # Errors
/// Those of [`copy_program`] and of the file system.
pub fn write_program(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_added_extension("text");
    std::fs::write(&beside, text)?;
    copy_program(&beside, path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}
