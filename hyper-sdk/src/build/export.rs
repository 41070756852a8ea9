//! Writes the result of a build to its outputs.

use super::{AnnotatedPart, BuildRequest, Destination, FileOptions, Output, OutputKind, StoreOptions};
use crate::client::{LocalImage, PushOptions, RemoteImage, push};
use crate::export::{ArchiveKind, BuiltImage, Export, Exporter, export_folder, export_tar, write_archive};
use crate::frontend::HistoryStep;
use crate::layer::CompressOptions;
use crate::oci::{Descriptor, ImageConfig};
use crate::progress::Progress;
use crate::reference::{ManifestReference, Reference, RepositoryName};
use crate::solve::{ForeignOwner, LayerChain, SolveContext};
use crate::source::ClientFactory;
use crate::store::{SharedStore, local_repository};
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a build came to, before it is an image of one form or another.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) config: ImageConfig,
    pub(super) history: Vec<HistoryStep>,
    pub(super) chain: LayerChain,
    pub(super) epoch: i64,
}

/// What was written.
#[derive(Debug)]
pub(super) struct Exported {
    /// The image of the first output that has one, else the one that the files are of.
    pub(super) image: Descriptor,
    /// The digest of its config.
    pub(super) config: Digest,
    /// The names that images were given.
    pub(super) names: Vec<String>,
}

/// The outputs of a request, and what they are made with.
#[derive(Debug)]
pub(super) struct Outputs<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) store: &'a SharedStore,
    pub(super) exporters: &'a Exporters,
    pub(super) context: &'a SolveContext,
    pub(super) progress: &'a Progress,
}

impl Outputs<'_> {
    /// Writes every output, one after the other.
    pub(super) async fn run(&self, made: &Made) -> Result<Exported> {
        let (mut first, mut names) = (None, Vec::new());
        for output in &self.request.outputs {
            let task = self.progress.start(format!("export {}", describe(&output.kind)), None);
            let image = match self.image(made, output).await {
                Ok(image) => image,
                Err(e) => return task.end_with(Err(e)),
            };
            task.end_with(self.export(output, &image).await)?;
            if !output.has_image() {
                continue;
            }
            for name in self.names_of(output, &image) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            first.get_or_insert(image);
        }
        let image = match first {
            Some(image) => image,
            None => self.image(made, &OutputKind::CacheOnly.into()).await?,
        };
        Ok(Exported { image: image.descriptor(), config: image.config_descriptor().digest, names })
    }

    /// The image as an output asks for it.
    async fn image(&self, made: &Made, output: &Output) -> Result<BuiltImage> {
        let wanted = &output.image;
        let mut chain = made.chain.clone();
        if output.has_image() {
            if wanted.keep_times {
                chain = self.context.with_true_times(&chain).await?;
            }
            let options = CompressOptions { level: wanted.level, ..CompressOptions::new(wanted.compression) };
            chain = self.context.recompress(&chain, options, wanted.force_compression).await?;
        }
        if self.exporters.of(output)?.is_some_and(|exporter| exporter.needs_blobs()) {
            self.context.fetch_chain(&chain).await?;
        }
        let platform = self.request.built_for();
        let all = self.request.annotations_of(output);
        let of = |part| all.of(part, &platform);
        let annotations = of(AnnotatedPart::Manifest);
        let mut image = BuiltImage::new(made.config.clone(), &made.history, chain, made.epoch, annotations)?;
        image.descriptor_annotations = of(AnnotatedPart::ManifestDescriptor);
        if wanted.docker_types {
            return image.with_docker_types();
        }
        match all.need_index() {
            true => image.with_index(of(AnnotatedPart::Index), of(AnnotatedPart::IndexDescriptor)),
            false => Ok(image),
        }
    }

    /// What people call the image of an output.
    fn names_of(&self, output: &Output, image: &BuiltImage) -> Vec<String> {
        let names = output.names(self.request);
        let mut told: Vec<String> = names.iter().map(ToString::to_string).collect();
        if let OutputKind::Image(store) = &output.kind {
            if store.passing && !store.push {
                return Vec::new();
            }
            if store.by_digest {
                told = names.iter().map(|name| format!("{}/{}", name.host(), name.repository())).collect();
            }
            let at_digest = |name: &Reference| name.at_digest(image.root().digest().clone()).to_string();
            if store.canonical {
                told.extend(names.iter().map(at_digest));
            }
            if names.is_empty() {
                told.extend(store.nameless.iter().map(at_digest));
            }
        }
        told
    }

    async fn export(&self, output: &Output, image: &BuiltImage) -> Result<()> {
        let none = BTreeMap::new();
        let attributes = match &output.kind {
            OutputKind::Other { attributes, .. } => attributes,
            _ => &none,
        };
        let export = Export {
            image,
            names: output.names(self.request),
            attributes,
            store: self.store,
            progress: self.progress,
            layers: self.context,
        };
        match self.exporters.of(output)? {
            Some(exporter) => exporter.export(export).await,
            None => Ok(()),
        }
    }
}

/// What writes outputs: the usual exporters, and those that were given to the builder.
#[derive(Clone, Debug)]
pub(super) struct Exporters {
    pub(super) clients: ClientFactory,
    pub(super) others: BTreeMap<String, Arc<dyn Exporter>>,
}

impl Exporters {
    /// The exporter of an output; none for one that writes nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] for a type that no exporter has.
    pub(super) fn of(&self, output: &Output) -> Result<Option<Arc<dyn Exporter>>> {
        let files = output.files;
        Ok(Some(match &output.kind {
            OutputKind::CacheOnly => return Ok(None),
            OutputKind::Image(options) => {
                Arc::new(KeepImage { options: options.clone(), clients: self.clients.clone() })
            }
            OutputKind::Oci(to) => Arc::new(Archive { kind: ArchiveKind::Oci, to: to.clone() }),
            OutputKind::Docker(to) => Arc::new(Archive { kind: ArchiveKind::Docker, to: to.clone() }),
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

/// Keeps an image in the local store, and pushes it.
#[derive(Debug)]
struct KeepImage {
    options: StoreOptions,
    clients: ClientFactory,
}

#[async_trait]
impl Exporter for KeepImage {
    fn needs_blobs(&self) -> bool {
        true
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let (image, store, options) = (export.image, &**export.store, &self.options);
        let hidden = RepositoryName::parse(crate::solve::LAYERS_REPOSITORY)?;
        if options.passing {
            image.store(store, &hidden, Vec::new()).await?;
        } else if export.names.is_empty() {
            let repository = match &options.nameless {
                Some(name) => local_repository(name)?,
                None => hidden.clone(),
            };
            image.store(store, &repository, Vec::new()).await?;
        }
        for name in export.names.iter().filter(|_| !options.passing) {
            let tags = name.tag().filter(|_| !options.by_digest).cloned();
            image.store(store, &local_repository(name)?, tags.into_iter().collect()).await?;
        }
        if options.unpack {
            export.unpack().await?;
        }
        if options.push {
            for name in export.names {
                let from = if options.passing { hidden.clone() } else { local_repository(name)? };
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
    fn needs_blobs(&self) -> bool {
        true
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let folder = matches!(self.to, Destination::Folder(_));
        let Export { image, store, names, .. } = export;
        write_archive(image, &**store, names, self.kind, self.to.path(), folder).await
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
    fn needs_blobs(&self) -> bool {
        false
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let below = folder_of(self.files, export.image)?;
        export_tar(export.files().await?, &self.path, below.as_deref(), export.image.epoch).await
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
    fn needs_blobs(&self) -> bool {
        false
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let (tar, foreign) = export.files_and_foreign_owner().await?;
        if let Some(ForeignOwner { path, uid, gid }) = foreign {
            export.progress.warn(format!(
                "`/{path}` belongs to {uid}:{gid}, beyond the ids of this user: files are written as this user's own; \
                 an output of `type=tar` keeps their owners"
            ));
        }
        let below = folder_of(self.files, export.image)?;
        for device in export_folder(tar, &self.folder, below.as_deref(), self.files.delete).await? {
            export.progress.warn(format!("the device `{device}` was left out: only root can make it"));
        }
        Ok(())
    }
}

/// The name of the folder that the files of an output are in, when they have one of their own.
fn folder_of(files: FileOptions, image: &BuiltImage) -> Result<Option<String>> {
    if !files.split {
        return Ok(None);
    }
    let platform = ImageConfig::parse(&image.config)?.platform();
    Ok(Some(platform.to_string().replace('/', "_")))
}

/// Refuses the files of an image for Windows, whose layers have a form of their own.
pub(super) fn refuse_files_of_windows(request: &BuildRequest, config: &ImageConfig) -> Result<()> {
    let is_windows = config.os.eq_ignore_ascii_case("windows") && !config.rootfs.diff_ids.is_empty();
    let writes_files = |output: &&Output| matches!(output.kind, OutputKind::Tar(_) | OutputKind::Local(_));
    match request.outputs.iter().find(writes_files) {
        Some(output) if is_windows => Err(Error::unsupported(format!(
            "writing the {} of an image for Windows is not supported yet: keep it as an image",
            describe(&output.kind)
        ))),
        _ => Ok(()),
    }
}

pub(super) fn describe(output: &OutputKind) -> String {
    let to = |d: &Destination| d.path().display().to_string();
    match output {
        OutputKind::Image(StoreOptions { passing: true, push: true, .. }) => "push".to_owned(),
        OutputKind::Image(StoreOptions { passing: true, .. }) => "nowhere".to_owned(),
        OutputKind::Image(StoreOptions { push: true, .. }) => "to the local store and push".to_owned(),
        OutputKind::Image(_) => "to the local store".to_owned(),
        OutputKind::Oci(d) => format!("OCI layout to {}", to(d)),
        OutputKind::Docker(d) => format!("Docker archive to {}", to(d)),
        OutputKind::Tar(d) => format!("files as tar to {}", to(d)),
        OutputKind::Local(folder) => format!("files to {}", folder.display()),
        OutputKind::CacheOnly => "nothing".to_owned(),
        OutputKind::Other { kind, .. } => format!("as `{kind}`"),
    }
}
