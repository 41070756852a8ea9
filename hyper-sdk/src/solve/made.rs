//! Layers of steps: what is known of one at once, and where its bytes can be had from.
//!
//! A finished step has a snapshot, an index and a diff ID. The blob is made when something needs it: from the tar of the
//! copy that is still at hand, from the snapshot and the index, or from a blob in another compression. It is the same,
//! byte for byte, whichever it is made from.
//!
//! # Invariants
//! - A record enters the cache when a snapshot or a blob has the files. So no record depends on this process.

use super::chain::StepLayer;
use super::made_layer::{BlobTime, MadeLayer};
use super::{SolveContext, blocking};
use crate::cache::CacheRecord;
use crate::digest::Hasher;
use crate::layer::ReadAhead;
use crate::oci::Descriptor;
use crate::snapshot::{SnapshotInfo, Snapshotter, TarStream};
use crate::store::RegistryStoreExt as _;
use crate::store::damage::{Damage, LOST_SNAPSHOT};
use crate::{Digest, Error, ErrorKind, Result};
use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::{Arc, PoisonError};

/// How many layers have their files in this process alone. Each holds a file.
const PENDING: usize = 64;

impl SolveContext {
    /// Puts the record of a layer into the cache, when a snapshot or a blob has its files.
    pub(super) async fn keep(&self, layer: &Arc<StepLayer>) -> Result<()> {
        let StepLayer::Made(made) = &**layer else { return Ok(()) };
        let record = made.record();
        if record.layer.is_none() && record.snapshot.is_none() {
            if !made.is_pending() {
                return Ok(());
            }
            let oldest = {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                pending.retain(|layer| matches!(&**layer, StepLayer::Made(made) if made.is_pending()));
                pending.push(Arc::clone(layer));
                (pending.len() > PENDING).then(|| pending.remove(0))
            };
            return match oldest {
                Some(oldest) => self.make_pending(&oldest).await,
                None => Ok(()),
            };
        }
        self.write_record(made).await
    }

    /// Notes that a snapshot has the files of a layer.
    pub(super) async fn has_snapshot(&self, layer: &StepLayer, name: &Digest) -> Result<()> {
        let StepLayer::Made(made) = layer else { return Ok(()) };
        let record = made.record();
        if record.snapshot.is_some() && self.snapshot_of(&record).await? {
            return Ok(());
        }
        {
            let mut state = made.state();
            state.record.snapshot = Some(name.clone());
            if made.time == BlobTime::OnDemand {
                state.tar = None;
            }
        }
        self.write_record(made).await
    }

    /// Notes that a blob has the files of a layer.
    pub(super) async fn has_blob(&self, made: &MadeLayer, blob: &Descriptor) -> Result<()> {
        {
            let mut state = made.state();
            state.tar = None;
            if state.is_kept && state.record.layer.as_ref() == Some(blob) {
                return Ok(());
            }
            state.record.layer = Some(blob.clone());
        }
        self.write_record(made).await
    }

    pub(super) async fn write_record(&self, made: &MadeLayer) -> Result<()> {
        if self.damage.has_lost() {
            // The step may have read a damaged snapshot, so its result is not kept.
            return Ok(());
        }
        let record = made.record();
        for key in &made.keys {
            self.cache.put(key, &record).await?;
        }
        made.state().is_kept = true;
        Ok(())
    }

    /// Whether the snapshot of a record, and the index that it is packed with, exist.
    pub(super) async fn snapshot_of(&self, record: &CacheRecord) -> Result<bool> {
        let Some(name) = &record.snapshot else { return Ok(false) };
        Ok(!self.damage.is_lost(name)
            && self.index_path(&record.diff_id).exists()
            && self.snapshotter.has(name).await?)
    }

    /// The tar of a step's layer, from whatever has it.
    pub(super) async fn open_made(&self, made: &MadeLayer) -> Result<Box<dyn Read + Send>> {
        if let Some(tar) = made.tar() {
            return Ok(Box::new(tar));
        }
        self.fetch_imported(made).await?;
        let record = made.record();
        for blob in made.blob.get().into_iter().chain(&record.layer) {
            if self.store.has_blob(&record.repository, &blob.digest).await? {
                return self.open_blob(&record.repository, blob, &made.diff_id).await;
            }
        }
        let (diff_id, damage) = (made.diff_id.clone(), self.damage.clone());
        if let Some(name) = record.snapshot.filter(|name| !damage.is_lost(name)) {
            let packed = self.snapshotter.pack(&name, &self.index_path(&diff_id)).await;
            let tar = packed.inspect_err(|e| lose_if_damaged(&damage, &name, e))?;
            let tar = PackedTar { tar, hasher: Some(Hasher::sha256()), diff_id, name, damage };
            return blocking(move || Ok(Box::new(ReadAhead::new(tar)?) as _)).await;
        }
        // The step runs again when the build is repeated.
        damage.lose(&diff_id);
        Err(Error::new(ErrorKind::Corrupt, "the files of a cached layer are lost: build again")
            .with_context("layer", diff_id))
    }

    /// Makes blobs of the results that are to be kept and that nothing has unpacked, after the outputs.
    ///
    /// # Errors
    /// Those of the store and of the cache.
    pub(crate) async fn settle(&self) -> Result<()> {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for layer in pending {
            self.make_pending(&layer).await?;
        }
        Ok(())
    }

    async fn make_pending(&self, layer: &StepLayer) -> Result<()> {
        match layer {
            StepLayer::Made(made) if made.is_pending() => {
                self.blob(layer, made, self.compress_options(), false).await.map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// Removes snapshots that are not as they were written, those that share their files, and those that stand on them.
///
/// # Errors
/// Those of the snapshotter; [`ErrorKind::Conflict`] when one of them stays.
pub(crate) async fn remove_lost(snapshotter: &dyn Snapshotter, lost: Vec<Digest>) -> Result<()> {
    let list = snapshotter.list().await?;
    let mut gone: HashSet<Digest> = lost.into_iter().collect();
    loop {
        let folders: HashSet<_> =
            list.iter().filter(|info| gone.contains(&info.chain)).map(|info| &info.folder).collect();
        let falls = |info: &&SnapshotInfo| {
            folders.contains(&info.folder) || info.parent.as_ref().is_some_and(|parent| gone.contains(parent))
        };
        let before = gone.len();
        let more: Vec<Digest> = list.iter().filter(falls).map(|info| info.chain.clone()).collect();
        gone.extend(more);
        if gone.len() == before {
            break;
        }
    }
    let gone: Vec<Digest> = gone.into_iter().collect();
    snapshotter.remove(&gone).await?;
    match snapshotter.list().await?.into_iter().find(|info| gone.contains(&info.chain)) {
        Some(info) => {
            let message = "a damaged snapshot could not be removed: build again";
            Err(Error::new(ErrorKind::Conflict, message).with_context("snapshot", &info.chain))
        }
        None => Ok(()),
    }
}

/// Notes that a snapshot is lost when an error says that its files are missing or others. Any other error, such as the end
/// of the helper or a lack of memory, says nothing about the files.
fn lose_if_damaged(damage: &Damage, name: &Digest, error: &Error) {
    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
        damage.lose(name);
    }
}

/// A tar that a snapshotter packs. It ends with an error when it is not the layer.
struct PackedTar {
    tar: TarStream,
    hasher: Option<Hasher>,
    diff_id: Digest,
    /// The snapshot.
    name: Digest,
    damage: Damage,
}

impl Read for PackedTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = match self.tar.read(buffer) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                if let Some(cause) = e.get_ref().and_then(|cause| cause.downcast_ref()) {
                    lose_if_damaged(&self.damage, &self.name, cause);
                }
                return Err(e);
            }
        };
        match &mut self.hasher {
            Some(hasher) if count > 0 => hasher.update(&buffer[..count]),
            hasher => {
                if hasher.take().is_some_and(|hasher| hasher.finish() != self.diff_id) {
                    self.damage.lose(&self.name);
                    let error =
                        Error::new(ErrorKind::Corrupt, LOST_SNAPSHOT).with_context("layer", &self.diff_id);
                    return Err(io::Error::other(error));
                }
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that ends with an error, if it has one.
    struct Ends(Option<io::Error>);

    impl Read for Ends {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.take().map_or(Ok(0), Err)
        }
    }

    /// Whether the snapshot counts as lost after a read.
    fn is_lost(end: Option<io::Error>, diff_id: Digest) -> bool {
        let (name, damage) = (Digest::sha256("snapshot"), Damage::default());
        let hasher = Some(Hasher::sha256());
        let tar = Box::new(Ends(end));
        let mut tar = PackedTar { tar, hasher, diff_id, name: name.clone(), damage: damage.clone() };
        tar.read_to_end(&mut Vec::new()).ok();
        assert_eq!(damage.is_lost(&name), damage.has_lost());
        damage.take_lost() == [name]
    }

    #[test]
    fn only_a_damaged_snapshot_is_lost_not_one_that_could_not_be_read() {
        let (other, empty) = (Digest::sha256("other"), Digest::sha256(""));
        let ours = |kind| Some(io::Error::other(Error::new(kind, "x")));
        assert!(is_lost(ours(ErrorKind::Corrupt), empty.clone()));
        assert!(is_lost(None, other), "it has another digest");
        assert!(!is_lost(None, empty.clone()));
        for kind in [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Internal, ErrorKind::Unavailable] {
            assert!(!is_lost(ours(kind), empty.clone()), "{kind:?}");
        }
        // Too many open files; the end of the helper.
        for e in [io::Error::from_raw_os_error(24), io::ErrorKind::UnexpectedEof.into()] {
            assert!(!is_lost(Some(e), empty.clone()));
        }
    }
}
