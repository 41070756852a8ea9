//! Programs that a test creates and then runs.

use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Copies a program that the test runs afterwards.
///
/// A separate process writes the copy. Otherwise a process that another thread starts at the same time could inherit
/// the descriptor, and the kernel does not run a file that is open for writing ("text file busy").
///
/// # Errors
/// Those of `cp`, and its absence.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg(from).arg(to).output()?;
    if done.status.success() { Ok(()) } else { Err(Error::other(String::from_utf8_lossy(&done.stderr))) }
}

/// Writes a script that the test runs afterwards, in the way of [`copy_program`]. A copy of the text stays next to it,
/// with the extension `.text`.
///
/// # Errors
/// Those of [`copy_program`] and of the file system.
pub fn write_program(path: &Path, text: &str) -> Result<()> {
    let sibling = path.with_added_extension("text");
    std::fs::write(&sibling, text)?;
    copy_program(&sibling, path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}
