//! The layer of a step: what is known of it, and what has its files now.

use super::sink::{Tar, TarReader};
use super::value::LayerTimes;
use crate::Digest;
use crate::cache::{CacheRecord, Imported};
use crate::oci::Descriptor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// When the blob of a step's layer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlobTime {
    /// With the step: an output needs it, and no later step waits for it.
    Now,
    /// While later steps run: an output needs it.
    Later,
    /// When something asks for it.
    OnDemand,
}

/// The layer of a step.
#[derive(Debug)]
pub(crate) struct MadeLayer {
    pub(crate) diff_id: Digest,
    pub(crate) times: Option<LayerTimes>,
    /// When its blob is made.
    pub(super) time: BlobTime,
    /// The keys of its record; none when the result must not be kept.
    pub(super) keys: Vec<Digest>,
    /// The blob in the compression of the build.
    pub(super) blob: tokio::sync::OnceCell<Descriptor>,
    /// The record of another machine that it comes from.
    pub(super) imported: Option<Arc<Imported>>,
    /// Whether its true times and its blob were fetched from there.
    pub(super) fetched: [tokio::sync::OnceCell<()>; 2],
    state: Mutex<State>,
}

/// What changes of a layer: where its files are.
#[derive(Debug)]
pub(super) struct State {
    pub(super) record: CacheRecord,
    /// The tar, until a snapshot or a blob has the files.
    pub(super) tar: Option<Tar>,
    /// Whether the record is in the cache.
    pub(super) is_kept: bool,
}

impl MadeLayer {
    /// The layer of a step that ran. `tar` has its uncompressed bytes.
    pub(super) fn new(
        record: CacheRecord,
        times: Option<LayerTimes>,
        keys: Vec<Digest>,
        time: BlobTime,
        tar: Option<Tar>,
    ) -> Self {
        let (diff_id, blob) = (record.diff_id.clone(), tokio::sync::OnceCell::new());
        let state = Mutex::new(State { record, tar, is_kept: false });
        Self { diff_id, times, time, keys, blob, imported: None, fetched: Default::default(), state }
    }

    /// The layer of a record in the cache.
    pub(super) fn cached(
        record: CacheRecord,
        times: Option<LayerTimes>,
        keys: Vec<Digest>,
        time: BlobTime,
    ) -> Self {
        let made = Self::new(record, times, keys, time, None);
        made.state().is_kept = true;
        made
    }

    /// The layer of a record of another machine. The cache of this one does not have it yet.
    pub(super) fn imported(
        record: CacheRecord,
        times: Option<LayerTimes>,
        keys: Vec<Digest>,
        time: BlobTime,
        imported: Arc<Imported>,
    ) -> Self {
        Self { imported: Some(imported), ..Self::cached(record, times, keys, time) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the record says now.
    pub(super) fn record(&self) -> CacheRecord {
        self.state().record.clone()
    }

    /// The tar, when it is still at hand.
    pub(super) fn tar(&self) -> Option<TarReader> {
        self.state().tar.as_ref().map(Tar::reader)
    }

    /// Whether its result is to be kept, and nothing but this process has its files.
    pub(super) fn is_pending(&self) -> bool {
        !self.keys.is_empty() && !self.state().is_kept
    }
}
