//! Layers become durable long after they were made: nothing waits for the disk.

use super::{Folders, Listing};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

impl Folders {
    /// Syncs the layers that the kernel has likely written out by now, and marks them durable. The caller holds the
    /// numbers.
    ///
    /// Newer layers wait for a later build: a process cannot end during a sync, so a short build would wait for the
    /// data of a long one.
    pub(super) fn sync_listed(&self, listing: &Listing) -> Option<std::thread::JoinHandle<()>> {
        let synced = self.synced();
        let fresh = listing.records.iter().filter(|(_, record)| record.id > synced);
        let settled = fresh.filter(|(chain, _)| is_old(&self.record_path(chain)));
        let last = settled.map(|(_, record)| record.id).max()?;
        // A layer gets its number at its start, so an unfinished layer may have a lower number than finished ones.
        let layers = self.numbers("layers").ok()?;
        let mut under_way = self.numbers("active").ok()?;
        under_way.extend(layers.difference(&listing.named));
        let last = under_way.first().map_or(last, |first| last.min(first - 1));
        if last <= synced {
            return None;
        }
        let root = self.root.clone();
        let sync = move || {
            // After a failure these layers are dropped after a power cut, as without this sync.
            let Ok(folder) = File::open(&root) else { return };
            if rustix::fs::syncfs(&folder).is_ok() {
                tempfile::NamedTempFile::new_in(&root)
                    .and_then(|mut fresh| {
                        fresh.write_all(last.to_string().as_bytes())?;
                        fresh.persist(root.join("synced")).map_err(|e| e.error)
                    })
                    .ok();
            }
        };
        std::thread::Builder::new().spawn(sync).ok()
    }
}

fn is_old(folder: &Path) -> bool {
    let age = std::fs::metadata(folder).and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 60)
}
