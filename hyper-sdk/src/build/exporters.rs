//! The built-in exporters, and which of them writes an output.

use super::{Destination, FileOptions, Output, OutputKind, StoreOptions};
use crate::client::{Engine, LocalImage, PushOptions, RemoteImage, push};
use crate::export::{ArchiveKind, Export, Exporter, export_folder, export_tar, load_image, write_archive};
use crate::layer::keep_only;
use crate::oci::ImageConfig;
use crate::reference::{ManifestReference, Reference, RepositoryName};
use crate::solve::{ForeignOwner, blocking};
use crate::source::ClientFactory;
use crate::store::local_repository;
use crate::{Error, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The exporters: the built-in ones, and those that the builder was given.
#[derive(Clone, Debug)]
pub(super) struct Exporters {
    pub(super) clients: ClientFactory,
    pub(super) others: BTreeMap<String, Arc<dyn Exporter>>,
}

impl Exporters {
    /// The exporter of an output; `None` for an output that writes nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] for a type that no exporter has.
    pub(super) fn get(&self, output: &Output) -> Result<Option<Arc<dyn Exporter>>> {
        let files = output.files;
        Ok(Some(match &output.kind {
            OutputKind::CacheOnly => return Ok(None),
            OutputKind::Image(options) => {
                Arc::new(KeepImage { options: options.clone(), clients: self.clients.clone() })
            }
            OutputKind::Oci(to) => Arc::new(Archive { kind: ArchiveKind::Oci, to: to.clone() }),
            OutputKind::Docker(to) => Arc::new(Archive { kind: ArchiveKind::Docker, to: to.clone() }),
            OutputKind::Load(engine) => Arc::new(Load(engine.clone())),
            OutputKind::Tar(Destination::File(path) | Destination::Stdout(path)) => {
                Arc::new(TarFile { path: path.clone(), files })
            }
            OutputKind::Tar(Destination::Folder(folder)) | OutputKind::Local(folder) => {
                Arc::new(Files { folder: folder.clone(), files })
            }
            OutputKind::Other { kind, .. } => self.others.get(kind).cloned().ok_or_else(|| {
                Error::unsupported(format!("the builder has no exporter for outputs of the type `{kind}`"))
            })?,
        }))
    }
}

/// Says that an exporter writes images of several platforms.
macro_rules! takes_platforms {
    () => {
        fn takes_platforms(&self) -> bool {
            true
        }
    };
}

/// Keeps an image in the local store and pushes it.
#[derive(Debug)]
struct KeepImage {
    options: StoreOptions,
    clients: ClientFactory,
}

#[async_trait]
impl Exporter for KeepImage {
    takes_platforms!();

    fn needs_blobs(&self) -> bool {
        true
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let (image, store, options) = (export.image, &**export.store, &self.options);
        let hidden = RepositoryName::parse(crate::solve::LAYERS_REPOSITORY)?;
        if options.push_only {
            image.store(store, &hidden, Vec::new()).await?;
        } else if export.names.is_empty() {
            let repository = match &options.nameless {
                Some(name) => local_repository(name)?,
                None => hidden.clone(),
            };
            image.store(store, &repository, Vec::new()).await?;
        }
        for name in export.names.iter().filter(|_| !options.push_only) {
            let tags = name.tag().filter(|_| !options.by_digest).cloned();
            image.store(store, &local_repository(name)?, tags.into_iter().collect()).await?;
        }
        if options.unpack {
            export.unpack().await?;
        }
        if options.push {
            for name in export.names {
                let from = if options.push_only { hidden.clone() } else { local_repository(name)? };
                self.push(&from, name, &export).await?;
            }
        }
        Ok(())
    }
}

impl KeepImage {
    async fn push(&self, from: &RepositoryName, name: &Reference, export: &Export<'_>) -> Result<()> {
        let client = match self.options.insecure {
            true => self.clients.insecure_client(name.host()).await?,
            false => self.clients.client(name.host())?,
        };
        let digest = ManifestReference::Digest(export.image.root().digest().clone());
        let target = if self.options.by_digest { digest.clone() } else { name.manifest() };
        let options = PushOptions { progress: export.progress.clone(), ..PushOptions::default() };
        let image = LocalImage::new(export.store, from, &digest);
        let remote = RemoteImage::new(&client, name.repository(), &target);
        push(&image, &remote, &options).await.map(drop)
    }
}

/// Writes an image as an archive or a layout.
#[derive(Debug)]
struct Archive {
    kind: ArchiveKind,
    to: Destination,
}

#[async_trait]
impl Exporter for Archive {
    fn takes_platforms(&self) -> bool {
        self.kind == ArchiveKind::Oci
    }

    fn needs_blobs(&self) -> bool {
        true
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let folder = matches!(self.to, Destination::Folder(_));
        let Export { image, store, names, .. } = export;
        write_archive(image, &**store, names, self.kind, self.to.path(), folder).await
    }
}

/// Loads an image into an engine.
#[derive(Debug)]
struct Load(Engine);

#[async_trait]
impl Exporter for Load {
    fn needs_blobs(&self) -> bool {
        true
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let Export { image, store, names, progress, .. } = export;
        load_image(image, &**store, names, &self.0, progress).await
    }
}

/// Writes the root file system as a tar.
#[derive(Debug)]
struct TarFile {
    path: PathBuf,
    files: FileOptions,
}

#[async_trait]
impl Exporter for TarFile {
    takes_platforms!();

    fn needs_blobs(&self) -> bool {
        false
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let mut parts = parts(self.files, &export).await?;
        // The entries of an archive are in the order of their paths.
        parts.sort_by(|(one, _), (other, _)| one.cmp(other));
        let folders: Vec<Option<String>> = parts.iter().map(|(folder, _)| folder.clone()).collect();
        let trees = parts.iter().map(async |(_, export)| export.files().await);
        export_tar(trees, &folders, &self.path, export.image.epoch).await
    }
}

/// Writes the root file system as files.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    files: FileOptions,
}

#[async_trait]
impl Exporter for Files {
    takes_platforms!();

    fn needs_blobs(&self) -> bool {
        false
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let mut kept = Vec::new();
        for (below, one) in parts(self.files, &export).await? {
            self.one(&one, below.as_deref()).await?;
            kept.extend(below);
        }
        // Each has removed what else was in its own folder.
        if self.files.delete && !kept.is_empty() {
            let folder = self.folder.clone();
            blocking(move || keep_only(&folder, &kept)).await?;
        }
        Ok(())
    }
}

impl Files {
    async fn one(&self, export: &Export<'_>, below: Option<&str>) -> Result<()> {
        let (tar, foreign) = export.files_and_foreign_owner().await?;
        if let Some(ForeignOwner { path, uid, gid }) = foreign {
            export.progress.warn(format!(
                "`/{path}` belongs to {uid}:{gid}, beyond the ids of this user: files are written as this user's own; \
                 an output of `type=tar` keeps their owners"
            ));
        }
        for device in export_folder(tar, &self.folder, below, self.files.delete).await? {
            export.progress.warn(format!("the device `{device}` was left out: only root can create it"));
        }
        Ok(())
    }
}

/// What is written for each platform, with the name of the folder for its files: with several platforms, each has its own.
///
/// The layers of several are all fetched and unpacked before the first one is written.
///
/// # Errors
/// Those of the sources; [`crate::ErrorKind::Invalid`] when two would be in one folder.
async fn parts<'a>(files: FileOptions, export: &'a Export<'_>) -> Result<Vec<(Option<String>, Export<'a>)>> {
    let is_one = export.image.others.is_empty();
    let mut parts: Vec<(Option<String>, Export<'a>)> = Vec::new();
    for one in export.platforms() {
        let folder = match (files.split.unwrap_or(!is_one), one.asked) {
            (false, _) => None,
            // A stage with a platform of its own may give several images one platform.
            (true, [asked]) if !is_one => Some(asked.clone()),
            (true, _) => Some(ImageConfig::parse(&one.image.config)?.platform()),
        };
        let folder = folder.map(|platform| platform.to_string().replace('/', "_"));
        if parts.iter().any(|(other, _)| *other == folder) {
            return Err(Error::invalid("the files of two platforms would be in a folder of one name"));
        }
        if !is_one {
            one.prepare_files().await?;
        }
        parts.push((folder, one));
    }
    Ok(parts)
}
