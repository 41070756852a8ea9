//! The trait of exporters, and its argument.

use super::BuiltImage;
use crate::client::verify::verified;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::snapshot::TarStream;
use crate::solve::{Chain, ForeignOwner, Layer, SolveContext};
use crate::store::{BlobReader, SharedStore};
use crate::{Error, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// An exporter of build results.
///
/// A builder has one exporter for each type of output (`type=…`).
///
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::export::{Export, Exporter, write_file};
/// use hyper_sdk::{Error, Result};
///
/// /// Writes the diff IDs of the layers, one per line, to the file `dest`.
/// #[derive(Debug)]
/// struct LayerList;
///
/// #[async_trait]
/// impl Exporter for LayerList {
///     fn needs_blobs(&self) -> bool {
///         false
///     }
///
///     async fn export(&self, export: Export<'_>) -> Result<()> {
///         let layers = export.image.chain.layers().iter();
///         let text: String = layers.map(|(layer, _)| format!("{}\n", layer.diff_id)).collect();
///         let dest = export.attributes.get("dest").ok_or_else(|| Error::invalid("`dest` is missing"))?;
///         write_file(dest.as_ref(), text.as_bytes())
///     }
/// }
/// ```
///
/// # Guarantees
/// Object-safe. The output of an exporter appears completely or not at all, even when the future is dropped.
#[async_trait]
pub trait Exporter: Debug + Send + Sync + 'static {
    /// Whether the exporter needs the blobs of all layers. The layers of base images are then pulled while the steps
    /// run.
    fn needs_blobs(&self) -> bool;

    /// Writes a result.
    ///
    /// # Errors
    /// Those of the destination; [`crate::ErrorKind::Invalid`] for invalid attributes.
    async fn export(&self, export: Export<'_>) -> Result<()>;

    /// Whether it writes images of several platforms ([`BuiltImage::others`]). A build for several is refused before it begins
    /// when an exporter of its outputs does not.
    fn takes_platforms(&self) -> bool {
        false
    }
}

/// The result of a build, as an exporter gets it.
#[derive(Debug)]
pub struct Export<'a> {
    /// The image: config, manifest and layers.
    pub image: &'a BuiltImage,
    /// The names of the image in this output.
    pub names: &'a [Reference],
    /// The attributes of the output, for exporters from outside of the SDK.
    pub attributes: &'a BTreeMap<String, String>,
    /// The store that has the layers.
    pub store: &'a SharedStore,
    /// The receiver of progress events.
    pub progress: &'a Progress,
    pub(crate) layers: &'a SolveContext,
    /// The root file systems as the steps made them: that of the image, and those of its `others`.
    pub(crate) chains: &'a [&'a Chain],
    /// The platforms that were asked for, as those of the configs may differ: that of the image, and those of its `others`.
    pub(crate) asked: &'a [Platform],
}

impl Export<'_> {
    /// What is exported for each platform, as if it were all. Of the annotations and of the index, the image keeps its own.
    pub fn platforms(&self) -> impl Iterator<Item = Export<'_>> {
        let one = |((image, chain), asked)| Export {
            image,
            chains: std::slice::from_ref(chain),
            asked: std::slice::from_ref(asked),
            ..*self
        };
        self.image.platforms().zip(self.chains).zip(self.asked).map(one)
    }

    /// The root file system of the image, without those of its `others`, as one tar archive. Its times are whole seconds, and
    /// none is later than the time of the image.
    ///
    /// # Errors
    /// Those of the sources of base images and of the snapshotter.
    pub async fn files(&self) -> Result<TarStream> {
        Ok(self.files_and_foreign_owner().await?.0)
    }

    /// Fetches and unpacks what [`Export::files`] needs, so that a source that fails does so before anything is written.
    pub(crate) async fn prepare_files(&self) -> Result<()> {
        for chain in self.chains {
            self.layers.unpack_for_export(chain).await?;
        }
        Ok(())
    }

    /// Like [`Export::files`], with the first path whose owner this user cannot set.
    pub(crate) async fn files_and_foreign_owner(&self) -> Result<(TarStream, Option<ForeignOwner>)> {
        let [chain, ..] = self.chains else { return Err(Error::internal("an image without files")) };
        self.layers.export(chain).await
    }

    /// The blob of a layer of the image, pulled if necessary. The stream ends with an error when the bytes do not match
    /// the digest.
    ///
    /// # Errors
    /// Those of the source of the layer and of the store.
    pub async fn blob(&self, layer: &Layer) -> Result<BlobReader> {
        self.layers.fetch_layer(layer).await?;
        let blob = self.store.get_blob(&layer.repository, &layer.blob.digest, None).await?;
        Ok(verified(blob, &layer.blob.digest))
    }

    /// Unpacks the images into the snapshots of the builder.
    pub(crate) async fn unpack(&self) -> Result<()> {
        for image in self.image.platforms() {
            let layers = image.chain.layers().iter().map(|(layer, _)| layer.clone());
            self.layers.unpack(&Chain::of_layers(layers)).await?;
        }
        Ok(())
    }
}
