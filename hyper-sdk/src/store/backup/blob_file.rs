//! Bytes of blobs into a folder of backups and out of it.

use super::folder::{BackupFolder, blob_folder};
use crate::store::meta::BlobRow;
use crate::store::{ByteStream, errors::digest_mismatch};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::io::Write as _;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

/// How much is read at once.
const BLOCK: usize = 1 << 20;

/// Whose fault it is that bytes were not copied.
#[derive(Debug)]
pub(super) enum Failed {
    /// They cannot be read, or do not match their digest.
    Source(Error),
    /// They cannot be written.
    Target(Error),
}

/// Writes the bytes of a blob, checks them, and gives them their name when they are on the disk. The folder that has the name
/// is not synced yet.
pub(super) async fn write(
    folder: &BackupFolder,
    blob: &BlobRow,
    mut content: ByteStream,
) -> std::result::Result<(), Failed> {
    let (sender, receiver) = mpsc::channel::<Option<Bytes>>(4);
    let (folder, row) = (folder.clone(), blob.clone());
    let writing = tokio::task::spawn_blocking(move || write_all(&folder, &row, receiver));
    let sending = async {
        while let Some(part) = content.try_next().await? {
            if sender.send(Some(part)).await.is_err() {
                // The writer says why.
                return Ok(());
            }
        }
        let _ = sender.send(None).await;
        Ok(())
    };
    let sent: Result<()> = sending.await;
    drop(sender);
    let written = writing.await.map_err(|e| {
        Failed::Target(Error::internal("the thread that writes a blob ended early").with_source(e))
    })?;
    sent.map_err(Failed::Source)?;
    written
}

fn write_all(
    folder: &BackupFolder,
    blob: &BlobRow,
    mut parts: mpsc::Receiver<Option<Bytes>>,
) -> std::result::Result<(), Failed> {
    let cannot = |e| Failed::Target(Error::io("cannot write a blob to the backups", folder.path(), e));
    let mut new = folder.new_file().map_err(Failed::Target)?;
    let mut hasher = blob.digest.algorithm().hasher();
    let mut size = 0;
    loop {
        match parts.blocking_recv() {
            Some(Some(part)) => {
                size += part.len() as u64;
                if size > blob.size {
                    break;
                }
                hasher.update(&part);
                new.file.write_all(&part).map_err(cannot)?;
            }
            Some(None) => break,
            None => return Err(Failed::Source(Error::internal("the bytes of a blob ended early"))),
        }
    }
    let got = hasher.finish();
    if size != blob.size || got != blob.digest {
        return Err(Failed::Source(digest_mismatch(&blob.digest, &got).with_kind(ErrorKind::Corrupt)));
    }
    new.file.sync_all().map_err(cannot)?;
    let to = folder.made_folder(&blob_folder(&blob.digest)).map_err(Failed::Target)?;
    new.rename(&to, blob.digest.hex()).map_err(cannot)?;
    folder.forget_healed(&blob.digest).map_err(Failed::Target)
}

/// The bytes of a blob of the backups.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when they are missing.
pub(super) async fn read(folder: &BackupFolder, blob: &BlobRow) -> Result<ByteStream> {
    let (folder, digest) = (folder.clone(), blob.digest.clone());
    let opened = tokio::task::spawn_blocking(move || {
        folder.open_blob(&digest)?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the backups do not have the bytes of a blob")
                .with_context("digest", &digest)
        })
    });
    let file =
        opened.await.map_err(|e| Error::internal("the opening thread ended early").with_source(e))??;
    let digest = blob.digest.clone();
    let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), BLOCK);
    Ok(stream.map_err(move |e| Error::from(e).with_context("digest", &digest)).boxed())
}
