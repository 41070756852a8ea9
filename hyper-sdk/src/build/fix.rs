//! Dockerfiles whose findings are fixed: the edits that are safe, until no finding has one.

use super::{BuildRequest, Checked, LocalBuilder};
use crate::progress::Progress;
use crate::small_file::{self, Kinds};
use crate::solve::blocking;
use crate::uses::{Use, UseKind};
use crate::{Error, ErrorKind, Result};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How often edits may make others possible.
const ROUNDS: usize = 8;

/// A Dockerfile after the safe edits of its findings.
#[derive(Debug)]
pub struct Fixed {
    /// The text with the edits.
    pub text: String,
    /// How many findings were fixed.
    pub edits: usize,
    before: Checked,
    /// Without edits, the check before is the check after.
    after: Option<Checked>,
    original: String,
    file: Option<PathBuf>,
}

impl Fixed {
    /// The check of the text as it was.
    pub fn before(&self) -> &Checked {
        &self.before
    }

    /// The check of the text with the edits: what is left.
    pub fn after(&self) -> &Checked {
        self.after.as_ref().unwrap_or(&self.before)
    }

    /// The file of this machine that the text was read from, unless it came from elsewhere, such as standard input.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether the text is another one now.
    pub fn is_changed(&self) -> bool {
        self.text != self.original
    }

    /// Writes the text into its file, if it changed. The file keeps its mode, its owner and its names: a link to it stays a
    /// link. It is written whole or not at all, unless it has several names. Dropping the future does not stop the writing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the text is not from a file; [`ErrorKind::Invalid`] when the file has comments that are
    /// not UTF-8, which are not in the text as they are; [`ErrorKind::Conflict`] when it has another text by now;
    /// [`ErrorKind::Io`] with the path.
    pub async fn save(&self) -> Result<()> {
        let Some(path) = self.file.clone() else {
            return Err(Error::new(ErrorKind::NotFound, "the Dockerfile is not from a file"));
        };
        if !self.is_changed() {
            return Ok(());
        }
        let (original, text) = (self.original.clone(), self.text.clone());
        blocking(move || replace(&path, &original, &text)).await
    }
}

impl LocalBuilder {
    /// Checks the Dockerfile of a request, applies the edits of its findings, and checks it again, until there is no edit
    /// left. A text with errors stays as it is. No file is written: see [`Fixed::save`].
    ///
    /// ```no_run
    /// # async fn example(session: hyper_sdk::session::Session) -> hyper_sdk::Result<()> {
    /// use hyper_sdk::build::BuildRequest;
    /// use hyper_sdk::progress::Progress;
    ///
    /// let request = BuildRequest::from_folder(".", None)?;
    /// let fixed = session.local_builder().await?.fix(request, &Progress::none()).await?;
    /// fixed.save().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`LocalBuilder::check`].
    pub async fn fix(&self, request: BuildRequest, progress: &Progress) -> Result<Fixed> {
        let file = request.dockerfile_path.clone();
        // The context stays in use between the checks.
        let _use = Use::begin(&self.options.root, UseKind::Work).await?;
        let (mut request, _fetched) = self.fetch_context(request, progress).await?;
        let before = self.check(request.clone(), progress).await?;
        let original = request.dockerfile.clone().unwrap_or_default();
        let mut fixed = Fixed { text: original.clone(), edits: 0, before, after: None, original, file };
        for _ in 0..ROUNDS {
            let Some(text) = fixed.after().fixed() else { break };
            let fixable = fixed.after().findings.iter().filter(|finding| !finding.edits.is_empty());
            fixed.edits += fixable.count();
            request.dockerfile = Some(text.clone());
            fixed.text = text;
            fixed.after = Some(self.check(request.clone(), progress).await?);
        }
        Ok(fixed)
    }
}

fn replace(path: &Path, original: &str, text: &str) -> Result<()> {
    let limit = crate::dockerfile::MAX_FILE_SIZE;
    let read = small_file::read(path, "the Dockerfile", limit, Kinds::Files)?;
    let read = String::from_utf8(read).map_err(|_| {
        Error::invalid("a fix would change comments that are not UTF-8: save the Dockerfile as UTF-8 first")
            .with_context("path", path.display())
    })?;
    if read != original {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the Dockerfile changed since it was read: fix it again",
        )
        .with_context("path", path.display()));
    }
    let cannot = |e| Error::io("cannot rewrite the Dockerfile", path, e);
    // A link stays, and what it names is rewritten.
    let path = path.canonicalize().map_err(cannot)?;
    let before = std::fs::metadata(&path).map_err(cannot)?;
    // A file that has other names stays the one that they name.
    if before.nlink() > 1 {
        return std::fs::write(&path, text).map_err(cannot);
    }
    let folder = path.parent().ok_or_else(|| Error::new(ErrorKind::Io, "the Dockerfile is in no folder"))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    let own = file.as_file().metadata().map_err(cannot)?;
    if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
        std::os::unix::fs::chown(file.path(), Some(before.uid()), Some(before.gid())).map_err(cannot)?;
    }
    std::fs::set_permissions(file.path(), before.permissions()).map_err(cannot)?;
    file.as_file().sync_data().map_err(cannot)?;
    file.persist(&path).map_err(|e| cannot(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "from scratch\nCOPY a /\n";
    const AFTER: &str = "FROM scratch\nCOPY a /\n";

    #[test]
    fn a_file_is_rewritten_only_when_it_has_the_text_that_was_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Dockerfile");
        for (content, kind) in [
            (BEFORE.as_bytes(), None),
            (b"from scratch\n".as_slice(), Some(ErrorKind::Conflict)),
            (b"# caf\xe9\nfrom scratch\n", Some(ErrorKind::Invalid)),
        ] {
            std::fs::write(&path, content).unwrap();
            let written = replace(&path, BEFORE, AFTER);
            assert_eq!(written.err().map(|e| e.kind()), kind);
            let expected = if kind.is_some() { content } else { AFTER.as_bytes() };
            assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_with_links_is_rewritten_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), BEFORE).unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        replace(&at("link"), BEFORE, AFTER).unwrap();
        assert!(at("link").is_symlink());
        std::fs::write(at("file"), BEFORE).unwrap();
        std::fs::hard_link(at("file"), at("other")).unwrap();
        replace(&at("file"), BEFORE, AFTER).unwrap();
        assert_eq!(std::fs::read_to_string(at("other")).unwrap(), AFTER);
    }
}
