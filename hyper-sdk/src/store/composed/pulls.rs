//! Notes of pulls on the metadata backend.

use super::Composed;
use crate::Result;
use crate::store::PullNote;
use crate::store::blob::BlobBackend;
use crate::store::meta::{Change, MetaBackend};

/// How many notes one change has, which other writers wait for.
const TOGETHER: usize = 64;

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::note_pulls`].
    pub(super) async fn write_pulls(&self, mut pulls: Vec<PullNote>, lost: bool) -> Result<()> {
        self.writable()?;
        loop {
            let rest = pulls.split_off(pulls.len().min(TOGETHER));
            self.0.meta.write(Change::NotePulls { pulls, lost }).await?;
            if rest.is_empty() {
                return Ok(());
            }
            pulls = rest;
        }
    }
}
