//! Exports of the root file system, as a tar archive or as files.

use crate::atomic_file::write_atomically;
use crate::layer::{
    ApplyOptions, ApplyStyle, DevicePolicy, Entry, LayerPath, LayerReader, LayerWriter, OwnerPolicy, apply,
};
use crate::snapshot::TarStream;
use crate::solve::blocking;
use crate::{Error, Result};
use std::path::Path;

/// Writes a root file system as a tar file. With `below`, everything is in a folder of that name with the time `epoch`.
///
/// # Errors
/// Those of the stream, and [`crate::ErrorKind::Io`] with the path.
pub(crate) async fn export_tar(
    mut tar: TarStream,
    destination: &Path,
    below: Option<&str>,
    epoch: i64,
) -> Result<()> {
    let (destination, below) = (destination.to_owned(), below.map(LayerPath::new).transpose()?);
    blocking(move || {
        write_atomically(&destination, |mut file| match below {
            None => std::io::copy(&mut tar, &mut file).map(|_| ()),
            Some(folder) => write_below(tar, &folder, epoch, file).map_err(std::io::Error::other),
        })
    })
    .await
}

/// Writes an archive with all entries in a folder.
fn write_below(tar: TarStream, folder: &LayerPath, epoch: i64, file: std::fs::File) -> Result<()> {
    let mut writer = LayerWriter::new(std::io::BufWriter::with_capacity(1 << 20, file), None);
    let mut top = Entry::directory(folder.clone(), 0o755);
    top.mtime = epoch;
    writer.append(&top, None)?;
    let mut reader = LayerReader::new(tar);
    while let Some(mut entry) = reader.next_entry()? {
        if !entry.path.is_root() {
            entry.move_below(folder)?;
            writer.append(&entry, Some(&mut reader))?;
        }
    }
    writer.finish().map(drop)
}

/// Writes a root file system as files into a folder. Files get the owner of this process. Existing files stay unless
/// the image has the same path; with `delete` they are removed at the end. With `below`, everything is in a folder of
/// that name. Returns the device files that were skipped because only root can create them.
///
/// # Errors
/// Those of the stream, and [`crate::ErrorKind::Io`] with the path; with `delete` for a file system that is mounted in the
/// folder.
pub(crate) async fn export_folder(
    tar: TarStream,
    destination: &Path,
    below: Option<&str>,
    delete: bool,
) -> Result<Vec<String>> {
    let (destination, below) = (destination.to_owned(), below.map(LayerPath::new).transpose()?);
    blocking(move || {
        std::fs::create_dir_all(&destination)
            .map_err(|e| Error::io("cannot make the output folder", &destination, e))?;
        let mut options = ApplyOptions::new(ApplyStyle::Plain);
        options.owners = OwnerPolicy::Ignore;
        options.devices = DevicePolicy::Skip;
        options.digests = false;
        options.below = below.unwrap_or_default();
        options.prune = delete;
        let applied = apply(tar, &destination, &options)?;
        Ok(applied.skipped.iter().map(ToString::to_string).collect())
    })
    .await
}
