//! Build contexts: folders of this machine, filtered by their ignore file. Nothing is copied.

use crate::dockerfile::{IgnoreSet, MAX_FILE_SIZE, path_text};
use crate::layer::copy::{FilterDecision, PathFilter, SourceKind, SourceRoot};
use crate::small_file::{self, Kinds};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest ignore file, in bytes.
pub(crate) const MAX_IGNORE_FILE: u64 = 16 << 20;

/// The filter of an ignore file.
#[derive(Debug)]
struct IgnoreFile(IgnoreSet);

impl PathFilter for IgnoreFile {
    fn decide(&self, path: &[u8], is_directory: bool) -> FilterDecision {
        let path = path_text(path);
        if !self.0.matches(&path) {
            FilterDecision::Keep
        } else if is_directory && self.0.may_except_below(&path) {
            FilterDecision::DropUnlessNeeded
        } else {
            FilterDecision::Drop
        }
    }
}

/// Opens a folder as a build context, filtered by its ignore file ([`ignore_file`]).
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] when there is no such folder; those of [`ignore_file`].
pub(crate) fn open_context(folder: &Path, dockerfile: Option<&Path>) -> Result<Arc<SourceRoot>> {
    let filter = ignore_file(folder, dockerfile)?
        .filter(|set| !set.is_empty())
        .map(|set| Arc::new(IgnoreFile(set)) as Arc<dyn PathFilter>);
    Ok(Arc::new(SourceRoot::open(folder, SourceKind::Context, filter)?))
}

/// Reads the ignore file of a context: `DOCKERFILE.dockerignore` next to the Dockerfile when `dockerfile` is given and
/// it exists, else `.dockerignore`, else `.containerignore` of the folder. It is a regular file of at most
/// [`MAX_IGNORE_FILE`] bytes, and a link must not lead out of the context, or out of the folder of a Dockerfile that is
/// elsewhere.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for an invalid pattern, with its file and line, and for another kind of file;
/// [`crate::ErrorKind::TooLarge`] above the limit.
pub fn ignore_file(folder: &Path, dockerfile: Option<&Path>) -> Result<Option<IgnoreSet>> {
    let sibling = dockerfile.map(|name| {
        let mut path = name.as_os_str().to_owned();
        path.push(".dockerignore");
        PathBuf::from(path)
    });
    let candidates =
        sibling.into_iter().chain([folder.join(".dockerignore"), folder.join(".containerignore")]);
    let what = "the ignore file";
    for path in candidates {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => continue,
            Err(e) => return Err(Error::io("cannot read the ignore file", &path, e)),
        }
        stays_inside(&path, &top_of(&path, folder)?, what)?;
        let bytes = small_file::read(&path, what, MAX_IGNORE_FILE, Kinds::Files)?;
        return IgnoreSet::parse_bytes(&bytes).map(Some).map_err(|e| e.with_context("path", path.display()));
    }
    Ok(None)
}

/// Reads the Dockerfile of a context on this machine. A file within the context must be a regular file, and a link must
/// not lead out of the context. A file elsewhere was named by a user who may read it: it may be a link, or a pipe such
/// as `/dev/stdin`.
///
/// # Errors
/// Those of [`small_file::read`] with [`MAX_FILE_SIZE`]; [`crate::ErrorKind::Invalid`] for a link that leads out, and
/// for text that is not a Dockerfile: see [`crate::dockerfile::decode`].
pub(crate) fn read_dockerfile(folder: &Path, path: &Path) -> Result<String> {
    let what = "the Dockerfile";
    let top = canonical(folder, what)?;
    let mut kinds = Kinds::FilesAndPipes;
    if top_of(path, folder)? == top {
        stays_inside(path, &top, what)?;
        kinds = Kinds::Files;
    }
    let bytes = small_file::read(path, what, MAX_FILE_SIZE, kinds)?;
    crate::dockerfile::decode(bytes, &path.to_string_lossy())
}

fn canonical(path: &Path, what: &str) -> Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    path.canonicalize().map_err(|e| Error::io(format!("cannot read {what}"), path, e))
}

/// The folder that the links of a file must stay in: the context, or the folder of the file when that is elsewhere.
fn top_of(file: &Path, folder: &Path) -> Result<PathBuf> {
    let (top, own) =
        (canonical(folder, "the context")?, canonical(file.parent().unwrap_or(folder), "the folder")?);
    Ok(if own.starts_with(&top) { top } else { own })
}

fn stays_inside(path: &Path, top: &Path, what: &str) -> Result<()> {
    if canonical(path, what)?.starts_with(top) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().display();
    let message = format!(
        "`{name}` of the build context is a link that leads out of it: copy the file into the context"
    );
    Err(Error::invalid(message).with_context("path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ignore_file_of_the_dockerfile_takes_precedence() {
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
    fn names_that_are_not_utf_8_are_matched_byte_by_byte() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"caf\xe9"[..], b"caf\xe8", b"na\xefve.txt", b"d\xfc", "caf\u{e9}".as_bytes(), b"b"] {
            std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
        }
        let left = |text: &[u8]| {
            std::fs::write(folder.path().join(".dockerignore"), text).unwrap();
            let root = open_context(folder.path(), None).unwrap();
            let names = root.list(b"").unwrap();
            names
                .iter()
                .map(|(name, _)| name.to_vec())
                .filter(|name| !name.starts_with(b"."))
                .collect::<Vec<_>>()
        };
        assert_eq!(left(b"caf\xe9\nd\xfc\n"), [&b"b"[..], b"caf\xc3\xa9", b"caf\xe8", b"na\xefve.txt"]);
        assert_eq!(left(b"*\n!na\xef*\n"), [&b"na\xefve.txt"[..]]);
        assert_eq!(left(b"[a-d]?*\n!caf[\xe8-\xe9]"), [&b"b"[..], b"caf\xe8", b"caf\xe9", b"na\xefve.txt"]);
        assert_eq!(left("caf?\n".as_bytes()), [&b"b"[..], b"d\xfc", b"na\xefve.txt"]);
        assert_eq!(left("caf\u{fffd}\n".as_bytes()).len(), 6);
        std::fs::write(folder.path().join(".dockerignore"), b"ok\n[\xe9\n").unwrap();
        let e = open_context(folder.path(), None).unwrap_err();
        assert!(e.to_string().contains("line 2") && e.to_string().contains("`[\\xe9`"), "{e}");
        std::fs::write(folder.path().join(".dockerignore"), b"\xff\xfea\0\n\0").unwrap();
        assert!(open_context(folder.path(), None).unwrap_err().to_string().contains("save it as UTF-8"));
    }

    #[test]
    fn only_links_within_the_context_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context");
        std::fs::create_dir_all(context.join("sub")).unwrap();
        std::fs::write(folder.path().join("outside"), "FROM scratch\n").unwrap();
        std::fs::write(context.join("inside"), "FROM scratch\n").unwrap();
        let link = |to: &str, name: &str| {
            let _ = std::fs::remove_file(context.join(name));
            std::os::unix::fs::symlink(to, context.join(name)).unwrap();
        };
        let refused = |name: &str, why: &str| {
            let path = context.join(name);
            let e = match name.ends_with("ignore") {
                true => ignore_file(&context, Some(&context.join("sub/Dockerfile"))).unwrap_err(),
                false => read_dockerfile(&context, &path).unwrap_err(),
            };
            assert!(e.to_string().contains(why), "{name}: {e}");
            assert!(e.to_string().contains(&path.display().to_string()), "{name}: {e}");
        };
        for name in [
            "Dockerfile",
            "sub/Dockerfile",
            ".containerignore",
            ".dockerignore",
            "sub/Dockerfile.dockerignore",
        ] {
            let up = if name.starts_with("sub") { "../" } else { "" };
            for to in ["/dev/zero", "/etc/passwd", "/dev/null", &format!("{up}../outside")] {
                link(to, name);
                refused(name, "of the build context is a link that leads out of it");
            }
            std::fs::remove_file(context.join(name)).unwrap();
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, context.join(name), mode).unwrap();
            refused(name, "is a pipe");
            link(&format!("{up}inside"), name);
            assert!(read_dockerfile(&context, &context.join(name)).is_ok());
            assert!(ignore_file(&context, Some(&context.join("sub/Dockerfile"))).is_ok());
            link("nowhere", name);
            assert!(ignore_file(&context, Some(&context.join("sub/Dockerfile"))).unwrap().is_none());
            std::fs::remove_file(context.join(name)).unwrap();
        }
        // A file outside of the context may be a link.
        std::os::unix::fs::symlink("context/inside", folder.path().join("named")).unwrap();
        assert!(read_dockerfile(&context, &folder.path().join("named")).is_ok());
        let file = std::fs::File::create(context.join(".dockerignore")).unwrap();
        file.set_len(MAX_IGNORE_FILE + 1).unwrap();
        assert_eq!(ignore_file(&context, None).unwrap_err().kind(), crate::ErrorKind::TooLarge);
    }

    #[test]
    fn a_bad_pattern_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".dockerignore"), "ok\n[a\n").unwrap();
        let e = open_context(folder.path(), None).unwrap_err();
        assert!(e.to_string().contains(".dockerignore"), "{e}");
    }
}
