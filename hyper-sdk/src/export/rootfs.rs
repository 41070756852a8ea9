//! Exports of the root file system, as a tar archive or as files.

use crate::atomic_file::write_atomically;
use crate::layer::{
    ApplyOptions, ApplyStyle, DevicePolicy, Entry, LayerPath, LayerReader, LayerWriter, OwnerPolicy, apply,
};
use crate::snapshot::TarStream;
use crate::solve::blocking;
use crate::{Error, Result};
use std::path::Path;
use tokio::sync::mpsc;

/// Writes root file systems as one tar file, one after the other. Each is in the folder of `folders` that has its place, with
/// the time `epoch`; the folders are in order. The only one may be in none.
///
/// # Errors
/// Those of the streams, and [`crate::ErrorKind::Io`] with the path.
pub(crate) async fn export_tar(
    trees: impl Iterator<Item = impl Future<Output = Result<TarStream>>>,
    folders: &[Option<String>],
    destination: &Path,
    epoch: i64,
) -> Result<()> {
    let destination = destination.to_owned();
    let mut below = Vec::new();
    for folder in folders {
        below.extend(folder.as_deref().map(LayerPath::new).transpose()?);
    }
    // The next tree is made while one is written.
    let (sender, mut receiver) = mpsc::channel::<Result<TarStream>>(1);
    let send = async move {
        for tree in trees {
            let made = tree.await;
            let is_last = made.is_err();
            // The receiver is gone when it could not write.
            if sender.send(made).await.is_err() || is_last {
                break;
            }
        }
    };
    let write = blocking(move || {
        let mut next =
            || receiver.blocking_recv().unwrap_or_else(|| Err(Error::internal("a tree is missing")));
        write_atomically(&destination, |mut file| match below.as_slice() {
            [] => std::io::copy(&mut next().map_err(std::io::Error::other)?, &mut file).map(|_| ()),
            folders => write_below(&mut next, folders, epoch, file).map_err(std::io::Error::other),
        })
    });
    tokio::join!(send, write).1
}

/// Writes archives into one, the entries of each in a folder.
fn write_below(
    mut next: impl FnMut() -> Result<TarStream>,
    folders: &[LayerPath],
    epoch: i64,
    file: std::fs::File,
) -> Result<()> {
    let mut writer = LayerWriter::new(std::io::BufWriter::with_capacity(1 << 20, file), None);
    for folder in folders {
        let mut top = Entry::directory(folder.clone(), 0o755);
        top.mtime = epoch;
        writer.append(&top, None)?;
        let mut reader = LayerReader::new(next()?);
        while let Some(mut entry) = reader.next_entry()? {
            if !entry.path.is_root() {
                entry.move_below(folder)?;
                writer.append(&entry, Some(&mut reader))?;
            }
        }
    }
    writer.finish().map(drop)
}

/// Writes a root file system as files into a folder. Files get the owner of this process. Existing files stay unless
/// the image has the same path; with `delete` they are removed at the end. With `below`, everything is in a folder of
/// that name, and nothing is removed elsewhere. Returns the device files that were skipped because only root can create them.
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
