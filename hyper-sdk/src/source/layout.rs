//! OCI image layouts as sources, read in place.

use super::{Source, SourceContent, SourceFiles, SourceImage};
use crate::layout::{ImageLayout, blocking};
use crate::oci::{Descriptor, ImageConfig};
use crate::platform::Platform;
use crate::reference::RepositoryName;
use crate::store::BlobReader;
use crate::{Digest, Error, Result};
use async_trait::async_trait;
use std::path::Path;

/// The repository of the local store that keeps the layers of layouts.
const LAYOUTS: &str = "hyper.local/layouts";

/// Reads image layouts. A name is `FOLDER[:TAG][@DIGEST]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayoutSource;

impl LayoutSource {
    /// Resolves an image of a layout, without its layers.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when the layout has no such image; [`crate::ErrorKind::DigestInvalid`] for
    /// damaged content.
    pub async fn image(
        &self,
        folder: &Path,
        tag: Option<&str>,
        digest: Option<&Digest>,
        platform: &Platform,
    ) -> Result<SourceImage> {
        let name = folder.to_str().ok_or_else(|| {
            Error::invalid("the path of an OCI layout is not UTF-8").with_context("layout", folder.display())
        })?;
        let (name, tag, digest, platform) =
            (name.to_owned(), tag.map(str::to_owned), digest.cloned(), platform.clone());
        blocking(move || {
            let layout = ImageLayout::in_folder(&name);
            image_of(&layout, &name, tag.as_deref(), digest.as_ref(), &platform)
                .map_err(|e| e.with_context("layout", &name))
        })
        .await
    }
}

fn image_of(
    layout: &ImageLayout,
    name: &str,
    tag: Option<&str>,
    digest: Option<&Digest>,
    platform: &Platform,
) -> Result<SourceImage> {
    let manifest = layout.find_image(tag, digest, platform)?;
    let Some(image) = manifest.image() else {
        return Err(Error::internal("the manifest of the layout is not an image manifest"));
    };
    let config = ImageConfig::parse(&layout.read_blob(&image.config.digest)?)?;
    let mut found = SourceImage::new(name, manifest.digest().clone(), config, &image.layers)?;
    found.repository = Some(RepositoryName::parse(LAYOUTS)?);
    Ok(found)
}

#[async_trait]
impl Source for LayoutSource {
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent> {
        let super::NamedContext::OciLayout { path, tag, digest } =
            super::NamedContext::parse(&format!("oci-layout://{name}"))?
        else {
            return Err(Error::internal("the name is not the name of a layout"));
        };
        let image = self.image(&path, tag.as_deref(), digest.as_ref(), platform).await?;
        Ok(SourceContent::Image(Box::new(image)))
    }

    async fn open_layer(&self, image: &SourceImage, layer: &Descriptor) -> Result<BlobReader> {
        let (folder, digest) = (image.name.clone(), layer.digest.clone());
        let file = blocking(move || ImageLayout::in_folder(folder).open_blob(&digest)).await?;
        file.into_blob(&layer.digest, layer.size, None)
    }

    async fn open_files(&self, name: &str) -> Result<SourceFiles> {
        Err(Error::internal("an image has no files to open").with_context("layout", name))
    }
}
