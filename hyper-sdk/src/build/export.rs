//! Writes the result of a build to its outputs.

use super::{AnnotatedPart, BuildRequest, Destination, Output, OutputKind, StoreOptions};
use crate::client::{PushOptions, push};
use crate::export::{ArchiveKind, BuiltImage, export_folder, export_tar, write_archive};
use crate::frontend::HistoryStep;
use crate::layer::CompressOptions;
use crate::oci::{Descriptor, ImageConfig};
use crate::progress::Progress;
use crate::reference::{ManifestReference, Reference, RepositoryName};
use crate::solve::{Chain, ForeignOwner, SolveContext};
use crate::source::ClientFactory;
use crate::store::{SharedStore, local_repository};
use crate::{Digest, Error, Result};
use std::path::Path;

/// What a build came to, before it is an image of one form or another.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) config: ImageConfig,
    pub(super) history: Vec<HistoryStep>,
    pub(super) chain: Chain,
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

/// Writes outputs.
#[derive(Debug)]
pub(super) struct Exporter<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) store: &'a SharedStore,
    pub(super) clients: &'a ClientFactory,
    pub(super) context: &'a SolveContext,
    pub(super) progress: &'a Progress,
}

impl Exporter<'_> {
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
            self.context.bring_all(&chain).await?;
        }
        let platform = self.request.built_for();
        let of = |part| wanted.annotations.of(part, &platform);
        let mut annotations = self.request.annotations.clone();
        annotations.extend(of(AnnotatedPart::Manifest));
        let mut image = BuiltImage::new(made.config.clone(), &made.history, chain, made.epoch, annotations)?;
        image.descriptor_annotations = of(AnnotatedPart::ManifestDescriptor);
        if wanted.docker_types {
            return image.with_docker_types();
        }
        match wanted.annotations.need_index() {
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
        match &output.kind {
            OutputKind::CacheOnly => Ok(()),
            OutputKind::Image(store) => self.keep(output, store, image).await,
            OutputKind::Oci(to) => self.archive(output, image, ArchiveKind::Oci, to).await,
            OutputKind::Docker(to) => self.archive(output, image, ArchiveKind::Docker, to).await,
            OutputKind::Tar(Destination::File(path) | Destination::Stdout(path)) => {
                let tar = self.context.export(&image.chain).await?.0;
                export_tar(tar, path, folder_of(output, image)?.as_deref(), image.epoch).await
            }
            OutputKind::Tar(Destination::Folder(folder)) | OutputKind::Local(folder) => {
                self.files(output, image, folder).await
            }
        }
    }

    async fn files(&self, output: &Output, image: &BuiltImage, folder: &Path) -> Result<()> {
        let (tar, foreign) = self.context.export(&image.chain).await?;
        if let Some(ForeignOwner { path, uid, gid }) = foreign {
            self.progress.warn(format!(
                "`/{path}` belongs to {uid}:{gid}, beyond the ids of this user: files are written as this user's own; \
                 an output of `type=tar` keeps their owners"
            ));
        }
        let below = folder_of(output, image)?;
        for device in export_folder(tar, folder, below.as_deref(), output.files.delete).await? {
            self.progress.warn(format!("the device `{device}` was left out: only root can make it"));
        }
        Ok(())
    }

    async fn archive(
        &self,
        output: &Output,
        image: &BuiltImage,
        kind: ArchiveKind,
        to: &Destination,
    ) -> Result<()> {
        let folder = matches!(to, Destination::Folder(_));
        let names = output.names(self.request);
        write_archive(image, &**self.store, names, kind, to.path(), folder).await
    }

    /// Keeps an image in the local store, and pushes it.
    async fn keep(&self, output: &Output, options: &StoreOptions, image: &BuiltImage) -> Result<()> {
        let names = output.names(self.request);
        let hidden = RepositoryName::parse(crate::solve::LAYERS_REPOSITORY)?;
        if options.passing {
            image.store(&**self.store, &hidden, Vec::new()).await?;
        } else if names.is_empty() {
            let repository = match &options.nameless {
                Some(name) => local_repository(name)?,
                None => hidden.clone(),
            };
            image.store(&**self.store, &repository, Vec::new()).await?;
        }
        for name in names.iter().filter(|_| !options.passing) {
            let tags = name.tag().filter(|_| !options.by_digest).cloned();
            image.store(&**self.store, &local_repository(name)?, tags.into_iter().collect()).await?;
        }
        if options.unpack {
            self.context.unpack(&image.chain).await?;
        }
        if options.push {
            for name in names {
                let from = if options.passing { hidden.clone() } else { local_repository(name)? };
                self.push(&from, name, options, image).await?;
            }
        }
        Ok(())
    }

    async fn push(
        &self,
        from: &RepositoryName,
        name: &Reference,
        options: &StoreOptions,
        image: &BuiltImage,
    ) -> Result<()> {
        let client = match options.insecure {
            true => self.clients.insecure_client(name.host()).await?,
            false => self.clients.client(name.host())?,
        };
        let digest = ManifestReference::Digest(image.root().digest().clone());
        let target = if options.by_digest { digest.clone() } else { name.manifest() };
        let options = PushOptions { progress: self.progress.clone(), ..PushOptions::default() };
        push(self.store, from, &digest, &client, name.repository(), &target, &options).await.map(drop)
    }
}

/// The name of the folder that the files of an output are in, when they have one of their own.
fn folder_of(output: &Output, image: &BuiltImage) -> Result<Option<String>> {
    if !output.files.split {
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
    }
}
