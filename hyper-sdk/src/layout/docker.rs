//! The format of `docker save` before it wrote layouts: `manifest.json` names the config and the layers of each image.

use super::archive::clean;
use super::files::Files;
use super::image_layout::{Generated, GeneratedBlob};
use super::{IMAGE_NAME, REF_NAME};
use crate::digest::Hasher;
use crate::layer::ArchiveFormat;
use crate::media_type::{self, Compression};
use crate::oci::{Descriptor, ImageConfig, ImageIndex, ImageManifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::{Digest, Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read;

/// The file that lists the images.
pub(super) const IMAGES: &str = "manifest.json";

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The largest number of images and tags together.
const MAX_IMAGES: usize = 10_000;
/// The largest number of layers of all images together.
const MAX_LAYERS: usize = 100_000;
/// The largest size of all configs together, in bytes.
const MAX_CONFIGS: u64 = 64 << 20;
/// The longest platform of a config, in bytes of JSON. Each tag gets a copy.
const MAX_PLATFORM: usize = 4 << 10;

/// Converts images. It caches layers and configs by the name of their file, because images share them.
#[derive(Default)]
struct Converter {
    configs: HashMap<String, Config>,
    config_bytes: u64,
    layers: HashMap<String, Descriptor>,
}

/// The parts of a config that an image needs.
struct Config {
    descriptor: Descriptor,
    platform: Platform,
    diff_ids: Vec<Digest>,
}

/// Creates manifests and an index for the images of an archive. The digest of an uncompressed layer is the diff ID of
/// the config, which is checked when the layer is read; a compressed layer is read here to compute its digest.
pub(super) fn images(files: &Files) -> Result<Generated> {
    let saved: Vec<SavedImage> = serde_json::from_slice(&files.read(IMAGES)?).map_err(|e| {
        Error::invalid("`manifest.json` of the image archive is not a list of images").with_source(e)
    })?;
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    if saved.iter().map(|image| 1 + count(&image.repo_tags)).sum::<usize>() > MAX_IMAGES {
        return Err(too_large(format!("names more than {MAX_IMAGES} images and tags, the limit")));
    }
    if saved.iter().map(|image| count(&image.layers)).sum::<usize>() > MAX_LAYERS {
        return Err(too_large(format!("names more than {MAX_LAYERS} layers, the limit")));
    }
    let mut generated = Generated { index: ImageIndex::new(Vec::new()), blobs: HashMap::new() };
    let mut converter = Converter::default();
    for image in saved {
        let entry = converter.add_image(files, &image, &mut generated.blobs)?;
        let tags = image.repo_tags.unwrap_or_default();
        let named = tags.iter().filter_map(|name| Some((name, Reference::parse(name).ok()?)));
        let mut entries: Vec<Descriptor> = named
            .map(|(name, reference)| {
                let mut entry = entry.clone();
                let tag = reference.tag().map_or("latest", |tag| tag.as_str());
                entry
                    .annotations
                    .extend([(IMAGE_NAME.to_owned(), name.clone()), (REF_NAME.to_owned(), tag.to_owned())]);
                entry
            })
            .collect();
        if entries.is_empty() {
            entries.push(entry);
        }
        generated.index.manifests.extend(entries);
    }
    Ok(generated)
}

fn too_large(what: String) -> Error {
    Error::new(ErrorKind::TooLarge, format!("`manifest.json` of the image archive {what}"))
}

impl Converter {
    fn add_image(
        &mut self,
        files: &Files,
        image: &SavedImage,
        blobs: &mut HashMap<Digest, GeneratedBlob>,
    ) -> Result<Descriptor> {
        let config_name = file_name(files, &image.config)?;
        if !self.configs.contains_key(&config_name) {
            let config = self.read_config(files, &config_name)?;
            blobs.insert(config.descriptor.digest.clone(), GeneratedBlob::File(config_name.clone()));
            self.configs.insert(config_name.clone(), config);
        }
        let config = &self.configs[&config_name];
        let names = image.layers.as_deref().unwrap_or_default();
        if config.diff_ids.len() != names.len() {
            let message = format!(
                "the image archive names {} layers of an image whose config has {}",
                names.len(),
                config.diff_ids.len()
            );
            return Err(Error::invalid(message).with_context("config", config_name));
        }
        let mut descriptors = Vec::new();
        for (name, diff_id) in names.iter().zip(&config.diff_ids) {
            let name = file_name(files, name)?;
            let descriptor = match self.layers.get(&name) {
                Some(known) => known.clone(),
                None => layer(files, &name, diff_id)?,
            };
            blobs.insert(descriptor.digest.clone(), GeneratedBlob::File(name.clone()));
            self.layers.insert(name, descriptor.clone());
            descriptors.push(descriptor);
        }
        let manifest = ImageManifest::new(config.descriptor.clone(), descriptors).to_bytes();
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        entry.platform = Some(config.platform.clone());
        blobs.insert(entry.digest.clone(), GeneratedBlob::Bytes(manifest.into()));
        Ok(entry)
    }

    fn read_config(&mut self, files: &Files, name: &str) -> Result<Config> {
        self.config_bytes = self.config_bytes.saturating_add(files.open(name)?.size());
        if self.config_bytes > MAX_CONFIGS {
            let limit = MAX_CONFIGS >> 20;
            return Err(too_large(format!("names configs of more than {limit} MiB together, the limit")));
        }
        let bytes = files.read(name)?;
        let config = ImageConfig::parse(&bytes)?;
        let platform = config.platform();
        if serde_json::to_vec(&platform).map_or(usize::MAX, |json| json.len()) > MAX_PLATFORM {
            let message =
                format!("names a config whose platform is longer than {MAX_PLATFORM} bytes, the limit");
            return Err(too_large(message).with_context("config", name));
        }
        let descriptor = Descriptor::of(media_type::OCI_CONFIG, &bytes);
        Ok(Config { descriptor, platform, diff_ids: config.rootfs.diff_ids })
    }
}

fn layer(files: &Files, name: &str, diff_id: &Digest) -> Result<Descriptor> {
    let mut file = files.open(name)?;
    let size = file.size();
    let mut first = Vec::new();
    file.by_ref().take(6).read_to_end(&mut first)?;
    let compression = match ArchiveFormat::of_content(&first) {
        ArchiveFormat::Plain => {
            return Ok(Descriptor::new(media_type::OCI_LAYER, diff_id.clone(), size));
        }
        ArchiveFormat::Gzip => Compression::Gzip,
        ArchiveFormat::Zstd => Compression::Zstd,
        other => {
            let message = format!("layers of an image archive in the format {other:?}");
            return Err(Error::new(ErrorKind::Unsupported, message).with_context("file", name));
        }
    };
    let mut hasher = Hasher::sha256();
    hasher.update(&first);
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(Descriptor::new(compression.oci_layer(), hasher.finish(), size)),
            count => hasher.update(&block[..count]),
        }
    }
}

/// Resolves a name of `manifest.json` to a file of the archive.
fn file_name(files: &Files, name: &str) -> Result<String> {
    let name = clean("", name).ok_or_else(|| {
        Error::invalid("`manifest.json` of the image archive names a file outside of it")
            .with_context("file", name.escape_debug())
    })?;
    files.resolve(name)
}
