//! The content of a layer, as it arrives from a registry.

use super::RegistryClient;
use crate::layer::AsyncDecompressor;
use crate::oci::Descriptor;
use crate::reference::RepositoryName;
use crate::{Error, ErrorKind, Result};
use futures::TryStreamExt as _;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

/// Opens a layer as the tar that it is, however it is compressed. Nothing is kept: the bytes are decompressed as they
/// arrive, and dropping the reader ends the request.
///
/// ```
/// use hyper_sdk::client::{RegistryClient, layer_tar};
/// use hyper_sdk::oci::Descriptor;
/// use hyper_sdk::{RepositoryName, Result};
/// use tokio::io::AsyncReadExt as _;
///
/// /// The size of a layer when it is unpacked.
/// async fn unpacked_size(client: &dyn RegistryClient, name: &RepositoryName, layer: &Descriptor) -> Result<usize> {
///     let mut tar = Vec::new();
///     Ok(layer_tar(client, name, layer).await?.read_to_end(&mut tar).await?)
/// }
/// ```
///
/// # Errors
/// Those of the client; [`ErrorKind::SizeInvalid`] when the registry has a blob of another size. Reading to the end fails
/// when the blob does not match its digest or is damaged: until then the content is not to be trusted.
pub async fn layer_tar(
    client: &dyn RegistryClient,
    repository: &RepositoryName,
    layer: &Descriptor,
) -> Result<impl AsyncRead + Send + Unpin + std::fmt::Debug + use<>> {
    let blob = client.get_blob(repository, &layer.digest, None).await?;
    if blob.size != layer.size {
        return Err(Error::new(
            ErrorKind::SizeInvalid,
            "the layer has another size than its descriptor says",
        )
        .with_context("digest", &layer.digest)
        .with_context("expected", layer.size)
        .with_context("got", blob.size));
    }
    AsyncDecompressor::new(StreamReader::new(blob.stream.map_err(std::io::Error::from))).await
}
