//! The error for missing sources, with the nearest existing name.

use super::metadata::join;
use super::pattern::clean;
use super::source::SourceRoot;
use crate::layer::entry::escape;
use crate::{Error, ErrorKind};

/// The error for a missing source, with the reason and a suggestion. `shown` is the text of the user, `path` the path
/// that was looked up.
pub(super) fn missing(root: &SourceRoot, shown: &str, path: &[u8]) -> Error {
    let path = clean(path);
    // Links are followed as the copy follows them.
    let real = root.resolve(&path).unwrap_or_else(|_| path.clone());
    let linked = real != path;
    let mut message = match linked {
        true => format!("`{shown}` leads to `{}` through a link", escape(&real)),
        false => format!("`{shown}`"),
    };
    if root.is_filtered_out(&real) || root.is_filtered_out(&path) {
        message.push_str(if linked { ", which is" } else { " is" });
        message.push_str(
            " excluded by the ignore file of the context: add an exception with `!` there or copy something else",
        );
        return Error::new(ErrorKind::NotFound, message).with_context("folder", root.path().display());
    }
    if linked && matches!(root.lookup(&real), Ok(Some(_))) {
        message.push_str(", and `--parents` does not follow links: name its target");
    } else {
        message.push_str(if linked { ", and that does not exist" } else { " not found" });
        if let Some(name) = nearest(root, &real) {
            message.push_str(&format!(": did you mean `{}`?", escape(&name)));
        }
    }
    let error = Error::new(ErrorKind::NotFound, message);
    // The path of a tree that was mounted for the step would not help the user.
    let place = root.path();
    if place.starts_with("/proc") { error } else { error.with_context("folder", place.display()) }
}

fn nearest(root: &SourceRoot, path: &[u8]) -> Option<Vec<u8>> {
    let split = path.iter().rposition(|&b| b == b'/');
    let (parent, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let limit = name.len() / 3;
    let list = root.list(parent).ok()?;
    let others = list.iter().take(10_000).filter(|(found, _)| *found != name);
    let best = others.map(|(found, _)| (distance(name, found), found)).min()?;
    (best.0 <= limit).then(|| join(parent, best.1))
}

/// The number of bytes to insert, delete or replace; differences in case are ignored.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.eq_ignore_ascii_case(b) {
        return 0;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
