//! The folders of local snapshots. Builds that keep them in different ways cannot use each other's, so each way has a folder
//! of its own, named after the style and the owners that files can have there.

use crate::sandbox::Identity;
use crate::{Error, Result};
use std::path::Path;

/// How snapshots are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One folder for each layer, combined by an overlay.
    Overlay,
    /// One folder with the whole tree for each snapshot, for hosts that cannot mount overlays. It is slow unless the
    /// file system shares data between copies (reflink).
    Copy,
}

impl Style {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Copy => "copy",
        }
    }
}

/// How the snapshots of a folder are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(super) style: Style,
    /// With a single id the folders of layers differ: owners are recorded instead of set.
    pub(crate) identity: Identity,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::new(Style::Overlay, Identity::Full),
        Self::new(Style::Overlay, Identity::Single),
        Self::new(Style::Copy, Identity::Full),
        Self::new(Style::Copy, Identity::Single),
    ];

    pub(super) const fn new(style: Style, identity: Identity) -> Self {
        Self { style, identity }
    }

    /// The name of its folder.
    pub(crate) fn name(self) -> &'static str {
        match (self.style, self.identity) {
            (Style::Overlay, Identity::Full) => "overlay",
            (Style::Overlay, Identity::Single) => "overlay-single-id",
            (Style::Copy, Identity::Full) => "copy",
            (Style::Copy, Identity::Single) => "copy-single-id",
        }
    }

    /// Those that have a folder in `root`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the folder cannot be read.
    pub(crate) fn in_folder(root: &Path) -> Result<Vec<Self>> {
        let failed = |e| Error::io("cannot read the folder of the snapshots", root, e);
        let entries = match std::fs::read_dir(root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.push(entry.file_name());
            }
        }
        Ok(Self::ALL.into_iter().filter(|kind| names.iter().any(|name| name == kind.name())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_with_a_known_name_are_kinds() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Kind::in_folder(&root.path().join("none")).unwrap(), []);
        for name in ["copy-single-id", "overlay", "empty", "probe-x", "overlay-other"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("overlay", root.path().join("copy")).unwrap();
        std::fs::write(root.path().join("overlay-single-id"), "").unwrap();
        let names: Vec<_> = Kind::in_folder(root.path()).unwrap().into_iter().map(Kind::name).collect();
        assert_eq!(names, ["overlay", "copy-single-id"]);
    }
}
