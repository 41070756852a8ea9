//! The nearest name, for messages about sources that do not exist.

use super::pattern::clean;
use super::source::{SourceRoot, join};
use crate::layer::entry::escape;
use crate::{Error, ErrorKind};

/// The error for a source that does not exist: why, and what may have been meant.
pub(super) fn missing(root: &SourceRoot, source: &str) -> Error {
    let path = clean(source.as_bytes());
    let place = root.path().display();
    if root.is_filtered_out(&path) {
        return Error::new(
            ErrorKind::NotFound,
            format!("`{source}` is excluded by the ignore file of the context: take it back there with `!` or copy something else"),
        )
        .with_context("folder", place);
    }
    let mut message = format!("`{source}` not found");
    if let Some(name) = nearest(root, &path) {
        message.push_str(&format!(": did you mean `{}`?", escape(&name)));
    }
    let error = Error::new(ErrorKind::NotFound, message);
    // A tree that was put together for the step has no place that means anything to people.
    if root.path().starts_with("/proc") { error } else { error.with_context("folder", place) }
}

fn nearest(root: &SourceRoot, path: &[u8]) -> Option<Vec<u8>> {
    let split = path.iter().rposition(|&b| b == b'/');
    let (parent, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let limit = name.len() / 3;
    let list = root.list(parent).ok()?;
    let best = list.iter().take(10_000).map(|(found, _)| (distance(name, found), found)).min()?;
    (best.0 <= limit).then(|| join(parent, best.1))
}

/// The number of bytes to insert, delete or replace; a difference of case alone counts as none.
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
