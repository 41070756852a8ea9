//! The upload sessions.

use crate::store::UploadId;
use crate::store::blob::StagedState;
use crate::store::errors::{claimed, sealed_otherwise, upload_moved, upload_unknown};
use crate::store::meta::UploadRecord;
use crate::{Digest, Result};
use std::collections::HashMap;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// With the time of the last save.
    records: HashMap<UploadId, (UploadRecord, i64)>,
    /// The content that they are sealed with.
    seals: HashMap<UploadId, Digest>,
    /// The writers that have claimed them, and until when.
    claims: HashMap<UploadId, (String, i64)>,
}

impl Sessions {
    pub(super) fn find(&self, id: &UploadId) -> Option<&UploadRecord> {
        self.records.get(id).map(|(record, _)| record)
    }

    pub(super) fn stale(&self, before: i64) -> Vec<UploadId> {
        self.records.iter().filter(|(_, (_, at))| *at <= before).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn start(&mut self, record: UploadRecord, now: i64) -> Result<u64> {
        self.records.insert(record.id.clone(), (record, now));
        Ok(0)
    }

    /// Refuses what a writer wants while another one has claimed the session.
    fn check_claim(&self, id: &UploadId, writer: Option<&str>, now: i64) -> Result<()> {
        match self.claims.get(id) {
            Some((holder, until)) if *until > now && Some(holder.as_str()) != writer => {
                Err(claimed(id, Duration::from_secs((until - now).unsigned_abs())))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a writer that has no claim, or another one has had it since. The claim may have lapsed.
    fn check_holder(&self, id: &UploadId, writer: &str) -> Result<()> {
        match self.claims.get(id).is_some_and(|(holder, _)| holder == writer) {
            true => Ok(()),
            false => Err(claimed(id, Duration::ZERO)),
        }
    }

    /// Refuses a writer that began at another offset than the saved one.
    fn check_offset(&self, id: &UploadId, from: u64) -> Result<()> {
        match self.find(id) {
            Some(record) if record.state.offset == from => Ok(()),
            Some(record) => Err(upload_moved(from, record.state.offset)),
            None => Err(upload_unknown(id)),
        }
    }

    pub(super) fn save(
        &mut self,
        id: &UploadId,
        from: u64,
        state: StagedState,
        (writer, keeps_claim): (Option<&str>, bool),
        now: i64,
    ) -> Result<u64> {
        self.check_offset(id, from)?;
        if let Some(writer) = writer {
            self.check_holder(id, writer)?;
        }
        if let Some((record, at)) = self.records.get_mut(id) {
            // Saving the same bytes again is no progress.
            if state.offset != from {
                *at = now;
            }
            record.state = state;
        }
        if writer.is_some() && !keeps_claim {
            self.claims.remove(id);
        }
        Ok(0)
    }

    pub(super) fn claim(
        &mut self,
        id: UploadId,
        from: u64,
        writer: String,
        (seconds, renews): (i64, bool),
        now: i64,
    ) -> Result<u64> {
        self.check_offset(&id, from)?;
        self.check_claim(&id, Some(&writer), now)?;
        if renews {
            self.check_holder(&id, &writer)?;
        }
        self.claims.insert(id, (writer, now.saturating_add(seconds)));
        Ok(0)
    }

    pub(super) fn release(&mut self, id: &UploadId, writer: &str) -> Result<u64> {
        if self.claims.get(id).is_some_and(|(holder, _)| holder == writer) {
            self.claims.remove(id);
        }
        Ok(0)
    }

    pub(super) fn seal(
        &mut self,
        id: UploadId,
        from: u64,
        (writer, content): (&str, Digest),
        now: i64,
    ) -> Result<u64> {
        self.check_offset(&id, from)?;
        self.check_holder(&id, writer)?;
        let (_, at) = self.records.get_mut(&id).ok_or_else(|| upload_unknown(&id))?;
        match self.seals.get(&id) {
            Some(sealed) if *sealed != content => return Err(sealed_otherwise(&id)),
            Some(_) => {}
            None => {
                *at = now;
                self.seals.insert(id, content);
            }
        }
        Ok(0)
    }

    pub(super) fn end(&mut self, id: &UploadId) {
        self.records.remove(id);
        self.seals.remove(id);
        self.claims.remove(id);
    }

    pub(super) fn end_unclaimed(&mut self, id: &UploadId, writer: Option<&str>, now: i64) -> Result<u64> {
        self.check_claim(id, writer, now)?;
        self.end(id);
        Ok(0)
    }

    pub(super) fn expire(&mut self, id: &UploadId, before: i64, now: i64) -> Result<u64> {
        let is_old = self.records.get(id).is_some_and(|(_, at)| *at <= before);
        if is_old && self.check_claim(id, None, now).is_ok() {
            self.end(id);
        }
        Ok(u64::from(self.records.contains_key(id)))
    }
}
