//! Writes the result of a build to its outputs.

use super::exporters::Exporters;
use super::platforms::PlatformTarget;
use super::{AnnotatedPart, BuildRequest, Destination, Output, OutputKind, StoreOptions};
use crate::cache::SharedRecords;
use crate::export::{BuiltImage, Export};
use crate::layer::CompressOptions;
use crate::oci::{Descriptor, ImageConfig};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::solve::{Chain, LayerChain, PublishOptions, SolveContext};
use crate::store::SharedStore;
use crate::{Digest, Error, Result};
use std::collections::BTreeMap;

/// The result of a build for one platform, before it is written as an image or as files.
#[derive(Debug)]
pub(super) struct BuildResult {
    pub(super) target: PlatformTarget,
    pub(super) chain: Chain,
    pub(super) epoch: i64,
}

/// What the outputs wrote.
#[derive(Debug)]
pub(super) struct Exported {
    /// The first image that was written, with the digest of its config unless it is for several platforms. Files alone are
    /// no image.
    pub(super) image: Option<(Descriptor, Option<Digest>)>,
    /// The names of the images.
    pub(super) names: Vec<String>,
}

/// The outputs of a request, and what is needed to write them.
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
    pub(super) async fn run(&self, results: &[BuildResult]) -> Result<Exported> {
        let (mut first, mut names) = (None, Vec::new());
        let mut of_exporter = None;
        let asked: Vec<Platform> = results.iter().map(|result| result.target.platform.clone()).collect();
        for output in &self.request.outputs {
            let task = self.progress.start(format!("export {}", describe(&output.kind)), None);
            let image = match self.images(results, output).await {
                Ok(image) => image,
                Err(e) => return task.end_with(Err(e)),
            };
            let chains: Vec<&Chain> = results.iter().map(|result| &result.chain).collect();
            task.end_with(self.export(output, &image, (&chains, &asked)).await)?;
            let config = || image.others.is_empty().then(|| image.config_descriptor().digest);
            let described = output.makes_image().then(|| (image.descriptor(), config()));
            if !output.has_image() {
                of_exporter = of_exporter.or(described);
                continue;
            }
            for name in self.names_of(output, &image) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            first = first.or(described);
        }
        Ok(Exported { image: first.or(of_exporter), names })
    }

    /// The image as an output asks for it: with several platforms, an index of one image for each.
    async fn images(&self, results: &[BuildResult], output: &Output) -> Result<BuiltImage> {
        let mut images = Vec::new();
        for result in results {
            images.push(self.image(result, output).await?);
        }
        let Some(last) = images.pop() else { return Err(Error::internal("a build without a result")) };
        if images.is_empty() {
            return self.with_own_index(last, output);
        }
        images.push(last);
        let all = self.request.annotations_of(output);
        // These parts are for all platforms.
        let of = |part| all.for_part(part, &results[0].target.platform);
        BuiltImage::of_platforms(images, of(AnnotatedPart::Index), of(AnnotatedPart::IndexDescriptor))
    }

    /// The image of the only platform, with an index over it when one is asked for.
    fn with_own_index(&self, image: BuiltImage, output: &Output) -> Result<BuiltImage> {
        let all = self.request.annotations_of(output);
        let platform = &self.request.built_for()[0];
        let of = |part| all.for_part(part, platform);
        // An engine takes one image.
        let of_one = matches!(output.kind, OutputKind::Load(_)) || output.image.docker_types;
        match !of_one && (all.need_index() || output.has_image() && self.request.wants_index()?) {
            true => image.with_index(of(AnnotatedPart::Index), of(AnnotatedPart::IndexDescriptor)),
            false => Ok(image),
        }
    }

    /// The image of one platform as an output asks for it.
    async fn image(&self, result: &BuildResult, output: &Output) -> Result<BuiltImage> {
        let wanted = &output.image;
        let compress = CompressOptions { level: wanted.level, ..CompressOptions::new(wanted.compression) };
        let options = PublishOptions {
            compress,
            estargz: output.has_image() && wanted.estargz,
            all: output.has_image() && wanted.force_compression,
            true_times: output.has_image() && wanted.keep_times,
        };
        let chain = match output.makes_image() {
            true => self.context.publish(&result.chain, options).await?,
            // Files alone have no layers.
            false => LayerChain::default(),
        };
        if self.exporters.get(output)?.is_some_and(|exporter| exporter.needs_blobs()) {
            self.context.fetch_chain(&chain).await?;
        }
        let all = self.request.annotations_of(output);
        let of = |part| all.for_part(part, &result.target.platform);
        let annotations = of(AnnotatedPart::Manifest);
        let (mut config, history) = (result.target.config.clone(), &result.target.history);
        if self.request.caches_inline() && output.has_image() {
            let blobs = chain.layers().iter().map(|(layer, _)| layer.blob.clone());
            let records = self.context.inline_records(&result.chain, blobs, compress);
            SharedRecords::put_into_image(records, &mut config)?;
        }
        let mut image = BuiltImage::new(config, history, chain, result.epoch, annotations)?;
        image.descriptor_annotations = of(AnnotatedPart::ManifestDescriptor);
        if wanted.docker_types { image.with_docker_types() } else { Ok(image) }
    }

    /// The names that an output gives its image, as they are reported.
    fn names_of(&self, output: &Output, image: &BuiltImage) -> Vec<String> {
        let names = output.names(self.request);
        let mut reported: Vec<String> = names.iter().map(ToString::to_string).collect();
        if let OutputKind::Image(store) = &output.kind {
            if store.push_only && !store.push {
                return Vec::new();
            }
            if store.by_digest {
                reported =
                    names.iter().map(|name| format!("{}/{}", name.host(), name.repository())).collect();
            }
            let at_digest = |name: &Reference| name.at_digest(image.root().digest().clone()).to_string();
            if store.canonical {
                reported.extend(names.iter().map(at_digest));
            }
            if names.is_empty() {
                reported.extend(store.nameless.iter().map(at_digest));
            }
        }
        reported
    }

    async fn export(
        &self,
        output: &Output,
        image: &BuiltImage,
        (chains, asked): (&[&Chain], &[Platform]),
    ) -> Result<()> {
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
            chains,
            asked,
        };
        match self.exporters.get(output)? {
            Some(exporter) => exporter.export(export).await,
            None => Ok(()),
        }
    }
}

/// Rejects outputs that need the files of an image for Windows: its layers have another format.
pub(super) fn reject_windows_files(request: &BuildRequest, config: &ImageConfig) -> Result<()> {
    let is_windows = config.os.eq_ignore_ascii_case("windows") && !config.rootfs.diff_ids.is_empty();
    match request.outputs.iter().find(|output| output.has_files()) {
        Some(output) if is_windows => Err(Error::unsupported(format!(
            "writing the {} of an image for Windows is not supported yet: keep it as an image",
            describe(&output.kind)
        ))),
        _ => Ok(()),
    }
}

impl Output {
    /// What it makes, and where, for people: `OCI layout to app.tar`.
    pub fn describe(&self) -> String {
        describe(&self.kind)
    }
}

pub(super) fn describe(output: &OutputKind) -> String {
    let to = |d: &Destination| d.path().display().to_string();
    match output {
        OutputKind::Image(StoreOptions { push_only: true, push: true, .. }) => "push".to_owned(),
        OutputKind::Image(StoreOptions { push_only: true, .. }) => "nowhere".to_owned(),
        OutputKind::Image(StoreOptions { push: true, .. }) => "to the local store and push".to_owned(),
        OutputKind::Image(_) => "to the local store".to_owned(),
        OutputKind::Oci(d) => format!("OCI layout to {}", to(d)),
        OutputKind::Docker(d) => format!("Docker archive to {}", to(d)),
        OutputKind::Load(engine) => format!("into the engine at {engine}"),
        OutputKind::Tar(d) => format!("files as tar to {}", to(d)),
        OutputKind::Local(folder) => format!("files to {}", folder.display()),
        OutputKind::CacheOnly => "nothing".to_owned(),
        OutputKind::Other { kind, .. } => format!("as `{kind}`"),
    }
}
