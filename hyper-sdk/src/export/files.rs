//! The root file system as a tar or as files.

use super::whole_file::whole_file;
use crate::layer::{ApplyOptions, ApplyStyle, DevicePolicy, OwnerPolicy, apply};
use crate::snapshot::TarStream;
use crate::solve::blocking;
use crate::{Error, Result};
use std::path::Path;

/// Writes a root file system as a tar file.
///
/// # Errors
/// Those of the stream, and [`crate::ErrorKind::Io`] with the path.
pub async fn export_tar(mut tar: TarStream, destination: &Path) -> Result<()> {
    let destination = destination.to_owned();
    blocking(move || whole_file(&destination, |mut file| std::io::copy(&mut tar, &mut file).map(|_| ())))
        .await
}

/// Writes a root file system as files into a folder. Files get the owner of this process; those that are there already
/// stay unless the image has the same path. Gives the devices that only root can make and that were left out.
///
/// # Errors
/// Those of the stream, and [`crate::ErrorKind::Io`] with the path.
pub async fn export_folder(tar: TarStream, destination: &Path) -> Result<Vec<String>> {
    let destination = destination.to_owned();
    blocking(move || {
        std::fs::create_dir_all(&destination)
            .map_err(|e| Error::io("cannot make the output folder", &destination, e))?;
        let mut options = ApplyOptions::new(ApplyStyle::Plain);
        options.owners = OwnerPolicy::Ignore;
        options.devices = DevicePolicy::Skip;
        let applied = apply(tar, &destination, &options)?;
        Ok(applied.skipped.iter().map(ToString::to_string).collect())
    })
    .await
}
