//! Makes a layer by comparing two trees.
//!
//! An overlay marks what a step removed or replaced. Of two trees the new one alone may be left, so a copy is compared with
//! its original by a record of which folder is a copy of which.

use super::*;

/// Returns whether a folder of the new tree (the second) is the copy of a folder of the old one.
pub(crate) type IsCopy<'a> = dyn Fn(BorrowedFd<'_>, BorrowedFd<'_>) -> rustix::io::Result<bool> + 'a;

/// Writes what changed from the tree `old` to the tree `new`.
///
/// The rules are those of `diff_overlay`: a new time changes a file but not a directory. A directory of `new` that is
/// left out gets the time of the old one. A whiteout has the time 0. A directory that replaced another one is not found
/// out: its layer names what is missing.
///
/// # Errors
/// Those of [`LayerWriter::append`]; [`crate::ErrorKind::Io`].
pub fn diff_trees<W: Write>(
    old: &Path,
    new: &Path,
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    diff_both(old, new, (None, false), writer, options)
}

/// The same, where `new` was a copy of `old`. A directory that is not the copy of the one at its path is written as overlay
/// has it: opaque, with everything in it, where `is_copy` is given. A whiteout has the time of the last change of its
/// directory, which no program can set.
///
/// # Errors
/// Those of [`diff_trees`].
pub(crate) fn diff_copy<W: Write>(
    old: &Path,
    new: &Path,
    is_copy: Option<&IsCopy<'_>>,
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    diff_both(old, new, (is_copy, true), writer, options)
}

fn diff_both<W: Write>(
    old: &Path,
    new: &Path,
    (is_copy, has_times): (Option<&IsCopy<'_>>, bool),
    writer: &mut LayerWriter<W>,
    options: &DiffOptions<'_>,
) -> Result<()> {
    let lowers = Lowers::open(&[old.to_owned()])?;
    let (old, new) = (files::open_top(old)?, files::open_top(new)?);
    let root = LayerPath::root();
    let look = |fd: &OwnedFd| rustix::fs::fstat(fd).map_err(|e| failed("cannot stat", &root, e));
    let (old_stat, new_stat) = (look(&old)?, look(&new)?);
    let mut emitter = Emitter::new(writer, options, &new, false, &lowers);
    (emitter.is_copy, emitter.times_whiteouts) = (is_copy, has_times);
    let before = emitter.entry(&root, old.as_fd(), b"", &old_stat)?;
    let after = emitter.entry(&root, new.as_fd(), b"", &new_stat)?;
    if !same_directory(&before, &after) {
        emitter.writer.append(&after, None)?;
    }
    both_directories(&mut emitter, &old, &new, &root, &mut Vec::new())
}

/// `above` holds the unchanged parent directories that were not written yet.
fn both_directories<W: Write>(
    emitter: &mut Emitter<'_, '_, W>,
    old: &OwnedFd,
    new: &OwnedFd,
    path: &LayerPath,
    above: &mut Vec<Entry>,
) -> Result<()> {
    let list = |fd| files::names(fd).map_err(|e| failed("cannot read the directory", path, e));
    let (old_names, new_names): (BTreeSet<_>, BTreeSet<_>) =
        (list(old)?.into_iter().collect(), list(new)?.into_iter().collect());
    for name in old_names.union(&new_names) {
        let here = path.join(name)?;
        let look = |fd: &OwnedFd, names: &BTreeSet<Vec<u8>>| match names.contains(name) {
            true => files::status(fd, name).map(Some).map_err(|e| failed("cannot stat", &here, e)),
            false => Ok(None),
        };
        let (before, after) = (look(old, &old_names)?, look(new, &new_names)?);
        // Layers have no sockets: one of the old tree is ignored, and what a new one replaced is removed.
        let is_socket = |s: &Stat| files::type_of(s) == FileType::Socket;
        let before = before.filter(|s| !is_socket(s));
        match (before, after) {
            (None, None) => {}
            (before, Some(socket)) if is_socket(&socket) => {
                if before.is_some() {
                    emitter.whiteout(here, files::time_of(&socket), above)?;
                }
            }
            (Some(_), None) => {
                let time = match emitter.times_whiteouts {
                    true => rustix::fs::fstat(new).map(|stat| files::change_time_of(&stat)),
                    false => Ok(FileTime::default()),
                };
                emitter.whiteout(here, time.map_err(|e| failed("cannot stat", path, e))?, above)?;
            }
            (Some(before), Some(after))
                if files::type_of(&before) == FileType::Directory
                    && files::type_of(&after) == FileType::Directory =>
            {
                let old_below = open_directory(old.as_fd(), name, &here)?;
                let new_below = open_directory(new.as_fd(), name, &here)?;
                if emitter.is_new(&old_below, &new_below, &here)? {
                    emitter.flush(above)?;
                    emitter.new_directory(&here, new.as_fd(), name, &after)?;
                    continue;
                }
                let entry = emitter.entry(&here, new.as_fd(), name, &after)?;
                let same = same_directory(&entry, &emitter.entry(&here, old.as_fd(), name, &before)?);
                let depth = above.len();
                above.push(entry);
                if !same {
                    emitter.flush(above)?;
                }
                both_directories(emitter, &old_below, &new_below, &here, above)?;
                if same && above.len() > depth {
                    keep_time(&new_below, &here, &before, &after)?;
                }
                above.truncate(depth);
            }
            (Some(before), Some(after)) if emitter.unchanged(&here, name, old, &before, new, &after)? => {}
            (_, Some(after)) => {
                emitter.flush(above)?;
                emitter.tree(&here, new.as_fd(), name, &after)?;
            }
        }
    }
    Ok(())
}
