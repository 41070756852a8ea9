//! An exporter that writes the list of all files of an image, as `ls -lR` would: for audits and comparisons.
//!
//! ```text
//! -rwxr-xr-x    0    0    1048576 bin/app
//! lrwxrwxrwx    0    0          0 bin/sh -> app
//! ```
//!
//! An exporter gets the image and its attributes; what it writes appears whole or not at all.

use async_trait::async_trait;
use hyper_sdk::export::{Export, Exporter, write_file};
use hyper_sdk::layer::{Entry, EntryKind, LayerReader};
use hyper_sdk::{Error, Result};
use std::fmt::Write as _;
use std::path::PathBuf;

/// The type that a builder knows it by: `type=list,dest=FILE`.
pub const TYPE: &str = "list";

/// Writes the list of all files to the file `dest`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileList;

/// One line of the list.
fn line(entry: &Entry) -> String {
    let (kind, size, target) = match &entry.kind {
        EntryKind::File { size, .. } => ('-', *size, None),
        EntryKind::Directory => ('d', 0, None),
        EntryKind::Symlink { target } => ('l', 0, Some(String::from_utf8_lossy(target).into_owned())),
        EntryKind::Hardlink { target } => ('h', 0, Some(target.to_string())),
        EntryKind::CharDevice { .. } => ('c', 0, None),
        EntryKind::BlockDevice { .. } => ('b', 0, None),
        _ => ('p', 0, None),
    };
    let mut text = String::from(kind);
    for (at, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if entry.mode & (0o400 >> at) == 0 { '-' } else { letter });
    }
    let _ = write!(text, " {:>4} {:>4} {size:>10} {}", entry.uid, entry.gid, entry.path);
    if let Some(target) = target {
        let _ = write!(text, " -> {target}");
    }
    text.push('\n');
    text
}

#[async_trait]
impl Exporter for FileList {
    fn needs_blobs(&self) -> bool {
        // The root file system comes from the snapshots.
        false
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        if let Some(key) = export.attributes.keys().find(|key| *key != "dest") {
            return Err(Error::invalid(format!("`{key}` is not an attribute of type={TYPE}: it has `dest`")));
        }
        let dest = export.attributes.get("dest").map(PathBuf::from);
        let dest = dest.ok_or_else(|| Error::invalid(format!("type={TYPE} needs `dest=FILE`")))?;
        let files = export.files().await?;
        let work = move || {
            let (mut reader, mut text) = (LayerReader::new(files), String::new());
            while let Some(entry) = reader.next_entry()? {
                text.push_str(&line(&entry));
            }
            write_file(&dest, text.as_bytes())
        };
        let written = tokio::task::spawn_blocking(work).await;
        written.map_err(|e| Error::internal("the list was not written to its end").with_source(e))?
    }
}
