//! Writes the result of a build to its outputs.

use super::exporters::Exporters;
use super::{AnnotatedPart, BuildRequest, Destination, Output, OutputKind, StoreOptions};
use crate::export::{BuiltImage, Export};
use crate::frontend::HistoryStep;
use crate::layer::CompressOptions;
use crate::oci::{Descriptor, ImageConfig};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::solve::{LayerChain, SolveContext};
use crate::store::SharedStore;
use crate::{Digest, Error, Result};
use std::collections::BTreeMap;

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
