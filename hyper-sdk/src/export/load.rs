//! Loads an image into an engine that runs containers: the archive is made while it is sent.

use super::BuiltImage;
use super::archive::{ArchiveKind, layout_of};
use crate::client::Engine;
use crate::oci::ImageConfig;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::RegistryStore;
use crate::{Error, Result};
use bytes::Bytes;
use futures::stream;
use std::io::{self, Write};
use tokio::sync::mpsc;

/// How many blocks of the archive wait to be sent.
const BLOCKS: usize = 8;

/// Loads an image into an engine, under its names. Layers that the engine has are left out where it allows that.
///
/// # Errors
/// Those of the store and of the engine.
pub(crate) async fn load_image(
    image: &BuiltImage,
    store: &dyn RegistryStore,
    names: &[Reference],
    engine: &Engine,
    progress: &Progress,
) -> Result<()> {
    let diff_ids = ImageConfig::parse(&image.config)?.rootfs.diff_ids;
    // An engine that does not answer this gets everything.
    let known = engine.known_layers(&diff_ids).await.unwrap_or(0);
    match send(image, store, names, engine, known).await {
        // Somebody may have removed the image with these layers meanwhile.
        Err(_) if known > 0 => {
            progress.warn("the engine does not have the layers any more that it had: all are sent");
            send(image, store, names, engine, 0).await
        }
        other => other,
    }
}

/// Sends an image without its first `known` layers.
async fn send(
    image: &BuiltImage,
    store: &dyn RegistryStore,
    names: &[Reference],
    engine: &Engine,
    known: usize,
) -> Result<()> {
    let layout = layout_of(image, store, names, ArchiveKind::Docker, known).await?;
    let (sender, receiver) = mpsc::channel(BLOCKS);
    let blocks = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Result<Bytes>>| {
        receiver.recv().await.map(|block| (block, receiver))
    });
    let failed = sender.clone();
    let write = async {
        let written = layout.write_tar_to(Blocks(sender), image.epoch).await;
        if let Err(e) = &written {
            // Without this the engine would take the part for the whole.
            let _ = failed.send(Err(Error::new(e.kind(), "the archive is not complete"))).await;
        }
        drop(failed);
        written
    };
    let (written, loaded) = futures::join!(write, engine.load(blocks));
    match (written, loaded) {
        // The engine closed the connection, and says why.
        (_, Err(refused)) if refused.kind() != crate::ErrorKind::Unavailable => Err(refused),
        (written, loaded) => written.and(loaded),
    }
}

/// Writes into a channel.
struct Blocks(mpsc::Sender<Result<Bytes>>);

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(block).map_err(|_| io::Error::other("the engine stopped taking the image"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
