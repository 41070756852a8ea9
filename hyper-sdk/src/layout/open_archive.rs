//! Opens archives as layouts.

use super::archive::Archive;
use super::files::Files;
use super::{INDEX, ImageLayout, blocking, docker};
use crate::layer::ArchiveFormat;
use crate::small_file::{self, Kinds};
use crate::{Error, Result};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncRead;

const WHAT: &str = "the image archive";

impl ImageLayout {
    /// Opens an archive file of a layout or of `docker save`. A plain archive is read in place. An archive that is
    /// compressed with gzip, bzip2, xz or zstd is unpacked into a folder in `scratch`, which is removed with the last
    /// clone of the result.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is no such file; [`crate::ErrorKind::Invalid`] for a file that is not
    /// such an archive, or is damaged. Dropping the future stops the reading and leaves no files.
    pub async fn open_archive(file: &Path, scratch: &Path) -> Result<Self> {
        let path = file.to_owned();
        let opened = blocking(move || {
            let file = small_file::open(&path, WHAT, Kinds::Files)?;
            let mut first = [0; 6];
            let count = file
                .read_at(&mut first, 0)
                .map_err(|e| Error::io(format!("cannot read {WHAT}"), &path, e))?;
            Ok((file, ArchiveFormat::of_content(&first[..count])))
        });
        let (opened, format) = opened.await?;
        let about = |e: Error| e.with_context("archive", file.display());
        let archive = match format {
            ArchiveFormat::Plain => Archive::in_file(opened, file).await,
            _ => Archive::unpacked(tokio::fs::File::from_std(opened), file, scratch).await,
        };
        Self::of_archive(archive.map_err(about)?).await
    }

    /// Reads an archive from a stream: see [`ImageLayout::open_archive`]. Its files are unpacked into a folder in
    /// `scratch` while they arrive.
    ///
    /// # Errors
    /// Those of [`ImageLayout::open_archive`] and of the stream.
    pub async fn read_archive(stream: impl AsyncRead + Send + 'static, scratch: &Path) -> Result<Self> {
        Self::of_archive(Archive::unpacked(stream, Path::new("a stream"), scratch).await?).await
    }

    async fn of_archive(archive: Archive) -> Result<Self> {
        blocking(move || {
            let (has_index, has_images) = (archive.has(INDEX), archive.has(docker::IMAGES));
            let about = archive.path().display().to_string();
            let files = Files::Archive(Arc::new(archive));
            if !has_index && !has_images {
                let message = "the archive is not an OCI image layout, and not one of `docker save`: it has \
                               neither `index.json` nor `manifest.json`";
                return Err(Error::invalid(message).with_context("archive", about));
            }
            let generated = if has_index { None } else { Some(docker::images(&files)?) };
            let layout = Self::of_files(files, generated);
            layout.check_version()?;
            layout.index()?;
            Ok(layout)
        })
        .await
    }
}
