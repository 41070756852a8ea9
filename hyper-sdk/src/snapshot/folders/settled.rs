//! What a start need not look at again.
//!
//! A start reads all records: it drops those whose files are gone or may be lost after a power cut, and finds folders
//! without a record. That takes longer the more snapshots there are. When it has found everything named and durable, it
//! writes what would change with any change of the folders into `settled`; a start that finds the same there has nothing
//! to read.
//!
//! Where layers were added a moment ago nothing is settled, and builds often follow one another within seconds. So a start
//! that read all notes that, too, in `looked`, and those of the next minute read nothing. A power cut in between is known
//! by the number of the boot.
//!
//! A record that is damaged later, or whose files are removed from within its folder, is found when it is used.

use super::{Folders, Listing};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// The folders whose entries tell whether something changed.
const WATCHED: [&str; 3] = ["chains", "joins", "layers"];

/// Changes within so many seconds before a start may have the same time as others after it.
const RACY: i64 = 2;

/// For how many seconds after a start that read all the others read nothing.
const LATELY: u64 = 60;

/// The state of the folder: equal when no snapshot was added or removed in between.
#[derive(Debug)]
pub(super) struct State {
    pub(super) text: String,
    /// When it changed last, in seconds since 1970.
    pub(super) changed: i64,
}

impl Folders {
    /// The state now; `None` when it cannot be found out.
    pub(super) fn state(&self) -> Option<State> {
        let (mut text, mut changed) = (self.boot.clone(), i64::MIN);
        for name in WATCHED {
            let stat = rustix::fs::stat(self.root.join(name)).ok()?;
            text += &format!(" {}.{}.{}", stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
            changed = changed.max(stat.st_ctime);
        }
        Some(State { text, changed })
    }

    /// Whether an earlier start found everything in order in this state.
    pub(super) fn is_settled(&self, state: Option<&State>) -> bool {
        let known = std::fs::read_to_string(self.root.join("settled"));
        state.is_some_and(|state| known.is_ok_and(|known| known == state.text))
    }

    /// Whether a start of this boot read all within the last minute.
    pub(super) fn was_read_lately(&self) -> bool {
        let path = self.root.join("looked");
        let age =
            std::fs::metadata(&path).and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age.as_secs() < LATELY)
            && !self.boot.is_empty()
            && std::fs::read_to_string(&path).is_ok_and(|boot| boot == self.boot)
    }

    /// Notes that all was read. Without the note the next start reads all again.
    pub(super) fn note_reading(&self) {
        let path = self.root.join("looked");
        if std::fs::write(&path, &self.boot).is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Notes the state, if everything is named and durable in it. Without the note the next start reads all again.
    pub(super) fn settle(&self, state: Option<State>, listing: &Listing) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        let Some(state) = state.filter(|state| state.changed < now - RACY) else { return };
        let synced = self.synced();
        let is_durable = listing.named.last().is_none_or(|last| *last <= synced);
        let is_named = || self.numbers("layers").is_ok_and(|layers| layers == listing.named);
        if is_durable && is_named() {
            // An error is ignored: the next start reads all again.
            let _ = tempfile::NamedTempFile::new_in(&self.root).and_then(|mut fresh| {
                fresh.write_all(state.text.as_bytes())?;
                fresh.persist(self.root.join("settled")).map_err(|e| e.error)
            });
        }
    }
}
