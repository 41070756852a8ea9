//! Build contexts: folders of this machine, seen through their ignore file. Nothing is copied.

use crate::dockerfile::IgnoreSet;
use crate::layer::copy::{FilterDecision, PathFilter, SourceKind, SourceRoot};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an ignore file leaves out.
#[derive(Debug)]
struct IgnoreFile(IgnoreSet);

impl PathFilter for IgnoreFile {
    fn decide(&self, path: &[u8], is_directory: bool) -> FilterDecision {
        let path = String::from_utf8_lossy(path);
        if !self.0.matches(&path) {
            FilterDecision::Keep
        } else if is_directory && self.0.may_except_below(&path) {
            FilterDecision::DropUnlessNeeded
        } else {
            FilterDecision::Drop
        }
    }
}

/// Opens a folder as a build context, seen through its ignore file ([`ignore_file`]).
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] when there is no such folder; [`crate::ErrorKind::Invalid`] for a pattern that is
/// not well formed, with its file and line.
pub fn open_context(folder: &Path, dockerfile: Option<&Path>) -> Result<Arc<SourceRoot>> {
    let filter = ignore_file(folder, dockerfile)?
        .filter(|set| !set.is_empty())
        .map(|set| Arc::new(IgnoreFile(set)) as Arc<dyn PathFilter>);
    Ok(Arc::new(SourceRoot::open(folder, SourceKind::Context, filter)?))
}

/// Reads the ignore file of a context: `DOCKERFILE.dockerignore` beside the Dockerfile when `dockerfile` is given and it
/// exists, else `.dockerignore`, else `.containerignore` of the folder.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a pattern that is not well formed, with its file and line.
pub fn ignore_file(folder: &Path, dockerfile: Option<&Path>) -> Result<Option<IgnoreSet>> {
    let beside = dockerfile.map(|name| {
        let mut path = name.as_os_str().to_owned();
        path.push(".dockerignore");
        PathBuf::from(path)
    });
    let candidates =
        beside.into_iter().chain([folder.join(".dockerignore"), folder.join(".containerignore")]);
    for path in candidates {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return IgnoreSet::parse(&text).map(Some).map_err(|e| e.with_context("path", path.display()));
            }
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Error::io("cannot read the ignore file", &path, e)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ignore_file_beside_the_dockerfile_wins() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b", "Dockerfile"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::write(at(".dockerignore"), "a\n").unwrap();
        let root = open_context(folder.path(), Some(&at("Dockerfile"))).unwrap();
        assert!(root.is_filtered_out(b"a") && !root.is_filtered_out(b"b"));
        std::fs::write(at("Dockerfile.dockerignore"), "b\n").unwrap();
        let root = open_context(folder.path(), Some(&at("Dockerfile"))).unwrap();
        assert!(!root.is_filtered_out(b"a") && root.is_filtered_out(b"b"));
    }

    #[test]
    fn a_bad_pattern_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".dockerignore"), "ok\n[a\n").unwrap();
        let e = open_context(folder.path(), None).unwrap_err();
        assert!(e.to_string().contains(".dockerignore"), "{e}");
    }
}
