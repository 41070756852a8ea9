//! Damaged files, which are moved away and kept for whoever wants to look at them.
//!
//! ```text
//!   ROOT/quarantine/ALGORITHM-HEX.RANDOM
//! ```

use super::{Folders, READ_CHUNK, is_at, make_folder, sync_folder};
use crate::store::UploadId;
use crate::{Digest, Result, ResultExt as _};
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

impl Folders {
    fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Moves the file of a blob away if it is damaged. Only the file that was read is moved: a push may put another one there
    /// at any moment.
    pub(super) fn set_aside(&self, digest: &Digest) -> Result<bool> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return self.take_back(digest).map(|()| false),
            Err(e) => return Err(e).at("cannot open the blob", &path),
        };
        if matches(&file, digest).at("cannot read the blob", &path)? {
            return Ok(false);
        }
        let folder = self.quarantine();
        make_folder(&folder)?;
        let aside = folder.join(format!("{}{}", prefix(digest), UploadId::random()?));
        let alone = self.moves.write().unwrap_or_else(PoisonError::into_inner);
        if !is_at(&file, &path) {
            return Ok(false);
        }
        match fs::rename(&path, &aside) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            other => other.at("cannot move the damaged blob away", &path)?,
        }
        if !is_at(&file, &aside) {
            // Another process has pushed the blob in this moment.
            fs::rename(&aside, &path).at("cannot put the blob back", &path)?;
            return Ok(false);
        }
        drop(alone);
        // The age of what is kept begins now.
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!(%error, path = %aside.display(), "the time of a file in quarantine cannot be set");
        }
        sync_folder(&folder)?;
        path.parent().map_or(Ok(()), sync_folder).map(|()| true)
    }

    /// Puts a whole file back that was moved away by a process that died before it saw that a push had just put it there.
    fn take_back(&self, digest: &Digest) -> Result<()> {
        let prefix = prefix(digest);
        for (name, aside) in kept(&self.quarantine())? {
            let is_whole = || File::open(&aside).is_ok_and(|file| matches(&file, digest).unwrap_or(false));
            if name.starts_with(&prefix) && is_whole() {
                return self.place(&aside, digest);
            }
        }
        Ok(())
    }

    /// Removes what was moved away before a time.
    pub(super) fn forget_set_aside(&self, before: SystemTime) -> Result<u64> {
        let mut forgotten = 0;
        for (_, path) in kept(&self.quarantine())? {
            let meta = fs::symlink_metadata(&path);
            if meta.is_ok_and(|meta| meta.is_file() && meta.modified().is_ok_and(|at| at < before)) {
                fs::remove_file(&path).at("cannot remove a file in quarantine", &path)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

fn prefix(digest: &Digest) -> String {
    format!("{}-{}.", digest.algorithm(), digest.hex())
}

fn matches(file: &File, digest: &Digest) -> std::io::Result<bool> {
    let mut hasher = digest.algorithm().hasher();
    std::io::copy(&mut BufReader::with_capacity(READ_CHUNK as usize, file), &mut hasher)?;
    Ok(hasher.finish() == *digest)
}

/// The files in the folder of damaged blobs, which need not exist.
fn kept(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("cannot read the folder of damaged blobs", folder)?,
    };
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    Ok(entries.flatten().filter_map(named).collect())
}
