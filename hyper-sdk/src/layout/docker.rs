//! The format of `docker save` before it wrote layouts: `manifest.json` names the config and the layers of each image.

use super::archive::clean;
use super::files::Files;
use super::image_layout::{Made, MadeBlob};
use super::{IMAGE_NAME, REF_NAME};
use crate::digest::Hasher;
use crate::layer::ArchiveFormat;
use crate::media_type::{self, Compression};
use crate::oci::{Descriptor, ImageConfig, ImageIndex, ImageManifest};
use crate::reference::Reference;
use crate::{Digest, Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read;

/// The file that names the images.
pub(super) const IMAGES: &str = "manifest.json";

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Manifests and an index for the images of an archive. A layer that is not compressed is named by the diff ID of the
/// config, which is checked when it is read; one that is compressed is read to know its digest.
pub(super) fn images(files: &Files) -> Result<Made> {
    let saved: Vec<Saved> = serde_json::from_slice(&files.read(IMAGES)?).map_err(|e| {
        Error::invalid("`manifest.json` of the image archive is not a list of images").with_source(e)
    })?;
    let mut made = Made { index: ImageIndex::new(Vec::new()), blobs: HashMap::new() };
    let mut layers = HashMap::new();
    for image in saved {
        let entry = add_image(files, &image, &mut layers, &mut made.blobs)?;
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
        made.index.manifests.extend(entries);
    }
    Ok(made)
}

fn add_image(
    files: &Files,
    image: &Saved,
    layers: &mut HashMap<String, Descriptor>,
    blobs: &mut HashMap<Digest, MadeBlob>,
) -> Result<Descriptor> {
    let config_name = file_name(&image.config)?;
    let config_bytes = files.read(&config_name)?;
    let config = ImageConfig::parse(&config_bytes)?;
    let names = image.layers.as_deref().unwrap_or_default();
    if config.rootfs.diff_ids.len() != names.len() {
        let message = format!(
            "the image archive names {} layers of an image whose config has {}",
            names.len(),
            config.rootfs.diff_ids.len()
        );
        return Err(Error::invalid(message).with_context("config", config_name));
    }
    let mut descriptors = Vec::new();
    for (name, diff_id) in names.iter().zip(&config.rootfs.diff_ids) {
        let name = file_name(name)?;
        let descriptor = match layers.get(&name) {
            Some(known) => known.clone(),
            None => layer(files, &name, diff_id)?,
        };
        blobs.insert(descriptor.digest.clone(), MadeBlob::File(name.clone()));
        layers.insert(name, descriptor.clone());
        descriptors.push(descriptor);
    }
    let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config_bytes);
    blobs.insert(config_descriptor.digest.clone(), MadeBlob::File(config_name));
    let manifest = ImageManifest::new(config_descriptor, descriptors).to_bytes();
    let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    entry.platform = Some(config.platform());
    blobs.insert(entry.digest.clone(), MadeBlob::Bytes(manifest.into()));
    Ok(entry)
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

fn file_name(name: &str) -> Result<String> {
    clean("", name).ok_or_else(|| {
        Error::invalid("`manifest.json` of the image archive names a file outside of it")
            .with_context("file", name.escape_debug())
    })
}
