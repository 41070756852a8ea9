//! Unpacks layers, several of a chain at once.
//!
//! In overlay style a layer has a folder of its own, and all of it but what depends on the layers below can be unpacked
//! before them. In copy style a layer changes a copy of the tree below.

use super::{LocalSnapshotter, Style};
use crate::sandbox::Request;
use crate::snapshot::{LayerToUnpack, Snapshotter as _, UnpackOptions};
use crate::{Digest, Error, ErrorKind, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use std::io::Read;
use std::path::Path;
use tokio::sync::oneshot;

/// How many layers of a chain are unpacked at once.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

impl LocalSnapshotter {
    /// Unpacks a layer. `ready` is waited for before the parent has to exist.
    pub(super) async fn unpack(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        options: UnpackOptions,
        layer: Box<dyn Read + Send>,
        ready: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        if let Some(parent) = parent {
            self.0.folders.touch(parent);
        }
        let active = match self.0.kind.style {
            Style::Overlay => self.empty_active(parent)?,
            Style::Copy => self.new_active(parent, false).await?,
        };
        let times = match &options.times {
            Some(table) => Some(write_times(&active.folder, table.to_bytes())?),
            None => None,
        };
        let request = Request::Apply {
            target: active.folder.join("fs"),
            plain: self.0.kind.style == Style::Copy,
            times: times.clone(),
            any_owner: options.any_owner,
        };
        let lowers = async {
            ready.await?;
            match self.0.kind.style {
                Style::Overlay => self.lowers(parent).await,
                Style::Copy => Ok(Vec::new()),
            }
        };
        self.0.sandbox.feed(request, layer, lowers).await?;
        if let Some(path) = times {
            // Only unpacking needs the file; a leftover does no harm.
            std::fs::remove_file(path).ok();
        }
        // A whole tree contains the files of its parent, so it cannot be shared.
        let alone = options.layer.filter(|_| self.0.kind.style == Style::Overlay);
        self.commit_active(active, chain, alone).await
    }

    /// Unpacks the layers of a chain, lowest first, several at once.
    pub(super) async fn unpack_all(&self, layers: Vec<LayerToUnpack<'_>>) -> Result<()> {
        let mut wait = None;
        let mut all = Vec::new();
        for layer in layers {
            let (done, next) = oneshot::channel();
            let ready = wait.replace(next);
            all.push(async move {
                let LayerToUnpack { parent, chain, options, open, ended } = layer;
                let result = self.unpack_next(parent.as_ref(), &chain, options, open, ready).await;
                ended(&result);
                result?;
                // The layer above may have failed already.
                let _ = done.send(());
                Ok(())
            });
        }
        futures::stream::iter(all).buffered(at_once()).try_collect::<Vec<()>>().await.map(drop)
    }

    async fn unpack_next(
        &self,
        parent: Option<&Digest>,
        chain: &Digest,
        options: UnpackOptions,
        open: impl Future<Output = Result<Box<dyn Read + Send>>>,
        ready: Option<oneshot::Receiver<()>>,
    ) -> Result<()> {
        let gate = self.gate(chain);
        let _turn = gate.lock().await;
        let ready = async {
            match ready {
                // The error of the layer below is the one that counts.
                Some(ready) => ready
                    .await
                    .map_err(|_| Error::new(ErrorKind::Cancelled, "a lower layer could not be unpacked")),
                None => Ok(()),
            }
        };
        if self.has(chain).await? {
            return ready.await;
        }
        self.unpack(parent, chain, options, open.await?, ready).await
    }
}

fn write_times(folder: &Path, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let path = folder.join("times");
    std::fs::write(&path, bytes).map_err(|e| Error::io("cannot write the times of a layer", &path, e))?;
    Ok(path)
}
