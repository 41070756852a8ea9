//! Records of resolved image names: one small file for each name.
//!
//! ```text
//!   ROOT/images/KEY.json     {"name": …, "digest": …}, KEY the SHA-256 of the name
//! ```
//!
//! A record keeps the manifests of its image in the store from being cleaned up.
//! When a record is missing or damaged, the registry is asked again.

use crate::reference::Reference;
use crate::{Digest, Error, Result, ResultExt as _, uses};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The name and the digest of every record of a folder, with the path of the record.
pub(crate) fn records_in(folder: &Path) -> Vec<(PathBuf, String, Digest)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let record: Record = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        Some((path, record.name, record.digest))
    };
    entries.filter_map(read).collect()
}

/// The records in a folder.
#[derive(Clone, Debug)]
pub(super) struct Records(pub(super) PathBuf);

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    digest: Digest,
}

impl Records {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{}.json", Digest::sha256(name).hex()))
    }

    /// The last digest of a name.
    pub(super) fn get(&self, reference: &Reference) -> Option<Digest> {
        let name = reference.to_string();
        let bytes = std::fs::read(self.path(&name)).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        // The mtime of a record is its last use.
        (record.name == name && uses::touch(&self.path(&name))).then_some(record.digest)
    }

    /// Records the digest of a name.
    pub(super) fn put(&self, reference: &Reference, digest: &Digest) -> Result<()> {
        let record = Record { name: reference.to_string(), digest: digest.clone() };
        let folder = &self.0;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .at("cannot make the folder", folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).at("cannot write a record in", folder)?;
        serde_json::to_writer(&mut file, &record)
            .map_err(|e| Error::internal("a record cannot be written as JSON").with_source(e))?;
        let path = self.path(&record.name);
        file.persist(&path).map(drop).map_err(|e| Error::io("cannot write the record", &path, e.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_belongs_to_its_name_and_damage_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records(folder.path().join("images"));
        let (one, two) = (Reference::parse("a:1").unwrap(), Reference::parse("a:2").unwrap());
        let digest = Digest::sha256("a");
        records.put(&one, &digest).unwrap();
        assert_eq!((records.get(&one), records.get(&two)), (Some(digest), None));
        std::fs::rename(records.path(&one.to_string()), records.path(&two.to_string())).unwrap();
        assert_eq!(records.get(&two), None);
        std::fs::write(records.path(&one.to_string()), "{").unwrap();
        assert_eq!(records.get(&one), None);
    }
}
