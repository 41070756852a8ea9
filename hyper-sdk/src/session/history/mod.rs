//! The history of builds: a record for each, with its steps and its result, in the folder `history` of the state folder.
//!
//! ```text
//!   begin ─▶ history/ID.json "running", locked ─▶ events of the build ─▶ finish or drop ─▶ history/ID.json, complete
//! ```
//!
//! # Invariants
//! - A record has no value of a build argument, no secret and no password of an address. The names of steps are those that
//!   the build shows.
//! - The newest records stay, up to 100 of them, and their logs up to 1 GiB together. What the keys of steps were made of
//!   (`ID.steps`, written by [`crate::solve::StepRecorder`]) stays longer, as results of steps do.
//! - The record of a build whose process was killed says that it was interrupted: nobody holds its lock.

mod record;
mod recording;
mod why;

pub use record::{BuildRecord, RecordOutcome, StepRecord};
pub use recording::Recording;
pub use why::{Change, FileChange, Reason, StepWhy, Why};

use super::Session;
use crate::build::BuildRequest;
use crate::small_file::{self, Kinds};
use crate::solve::STEPS_SUFFIX;
use crate::{Error, ErrorKind, Result, ResultExt as _, private_folder};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How many records are kept.
const MAX_RECORDS: usize = 100;
/// How many bytes the logs of records have together, but for that of the newest.
const MAX_LOG_BYTES: u64 = 1 << 30;
/// The largest record that is read.
const MAX_RECORD: u64 = 64 << 20;

/// The records of builds.
///
/// ```
/// use hyper_sdk::session::Session;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// let session = Session::builder(folder.path().join("state")).open()?;
/// for record in session.history()?.list()? {
///     println!("{} {} {:?}", record.id, record.name, record.outcome);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct History {
    folder: PathBuf,
    logs: PathBuf,
}

impl Session {
    /// The history of the builds in the state folder.
    ///
    /// # Errors
    /// Those of [`Session::root`]; [`ErrorKind::Io`] when its folder cannot be made.
    pub fn history(&self) -> Result<History> {
        let root = self.root()?;
        let folder = root.join("history");
        private_folder::open(&folder).op("open the history")?;
        Ok(History { folder, logs: root.join("logs") })
    }
}

impl History {
    /// Begins the record of a build, whose log is a file in the folder `logs` of the state folder. Older records are removed
    /// when there are too many.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be written.
    pub fn begin(&self, request: &BuildRequest, log: Option<&Path>) -> Result<Recording> {
        self.prune();
        let log = log.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Recording::begin(&self.folder, BuildRecord::of(request, log), request.no_cache)
    }

    /// The records, the newest first. A record that cannot be read is left out.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the folder cannot be read.
    pub fn list(&self) -> Result<Vec<BuildRecord>> {
        let mut records: Vec<BuildRecord> = self.ids()?.iter().filter_map(|id| self.read(id).ok()).collect();
        records.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
        Ok(records)
    }

    /// The record of an id, or of the beginning of one; the newest record without.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Invalid`] when several ids begin so.
    pub fn get(&self, id: Option<&str>) -> Result<BuildRecord> {
        let Some(id) = id else {
            let newest = self.list()?.into_iter().next();
            return newest
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no record of a build yet"));
        };
        // The reference in a metadata file has the name of the builder before the id.
        let id = id.rsplit('/').next().unwrap_or(id);
        let mut found = self.ids()?;
        found.retain(|known| known.starts_with(id) && !id.is_empty());
        match found.as_slice() {
            [one] => self.read(one),
            [] => Err(Error::new(ErrorKind::NotFound, format!("there is no record of a build `{id}`"))),
            _ => Err(Error::invalid(format!("several records begin with `{id}`: give more letters"))),
        }
    }

    /// The file with the log of a record; `None` when it has none, or the log was removed.
    pub fn log(&self, record: &BuildRecord) -> Option<PathBuf> {
        let path = self.logs.join(record.log.as_ref()?);
        path.is_file().then_some(path)
    }

    /// Removes a record, its log, and the records of why its steps ran.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] for the record of a build that runs; [`ErrorKind::Io`] when it cannot be removed.
    pub fn remove(&self, record: &BuildRecord) -> Result<()> {
        if record.outcome == RecordOutcome::Running {
            let message = format!("the build `{}` runs: its record stays until it has ended", record.id);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let steps = self.folder.join(format!("{}{STEPS_SUFFIX}", record.id));
        match std::fs::remove_file(&steps) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).at("cannot remove the record", &steps)
            }
            _ => self.forget(record),
        }
    }

    /// Removes what says why the steps of builds ran whose records are gone, and returns the ids of these builds. With an id,
    /// or the beginning of one, only of that build.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when several ids begin so; [`ErrorKind::Io`] when a file cannot be removed.
    pub fn remove_stray(&self, id: Option<&str>) -> Result<Vec<String>> {
        let mut strays = self.named(STEPS_SUFFIX)?;
        // A build has its record before it has these.
        strays.retain(|stray| !self.path(stray).exists());
        if let Some(id) = id {
            let id = id.rsplit('/').next().unwrap_or(id);
            strays.retain(|stray| stray.starts_with(id) && !id.is_empty());
            if strays.len() > 1 {
                return Err(Error::invalid(format!("several builds begin with `{id}`: give more letters")));
            }
        }
        for stray in &strays {
            let path = self.folder.join(format!("{stray}{STEPS_SUFFIX}"));
            std::fs::remove_file(&path).at("cannot remove why steps ran", &path)?;
        }
        Ok(strays)
    }

    /// Removes a record and its log. Why its steps ran stays: later builds have their results from the cache.
    fn forget(&self, record: &BuildRecord) -> Result<()> {
        if let Some(log) = self.log(record) {
            std::fs::remove_file(&log).at("cannot remove the log", &log)?;
        }
        let path = self.path(&record.id);
        std::fs::remove_file(&path).at("cannot remove the record", &path)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn ids(&self) -> Result<Vec<String>> {
        self.named(".json")
    }

    /// The ids in the names of files that end so.
    fn named(&self, suffix: &str) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.folder).at("cannot read the history", &self.folder)?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned())).collect())
    }

    fn read(&self, id: &str) -> Result<BuildRecord> {
        const WHAT: &str = "the record of a build";
        let path = self.path(id);
        let bytes = small_file::read(&path, WHAT, MAX_RECORD, Kinds::Files)?;
        let mut record: BuildRecord = serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "the record of a build is damaged: remove the file")
                .with_context("path", path.display())
                .with_source(e)
        })?;
        // Whoever writes it holds it.
        if record.outcome == RecordOutcome::Running
            && File::open(&path).is_ok_and(|file| file.try_lock_shared().is_ok())
        {
            record.outcome = RecordOutcome::Interrupted;
        }
        Ok(record)
    }

    /// Makes room for one more record: removes the oldest records and logs. What cannot be removed stays. Only what is too
    /// much is read.
    fn prune(&self) {
        let Ok(ids) = self.ids() else { return };
        if ids.len() >= MAX_RECORDS {
            let written = |id: &String| self.path(id).metadata().and_then(|meta| meta.modified()).ok();
            let mut records: Vec<_> = ids.into_iter().map(|id| (written(&id), id)).collect();
            records.sort();
            for (_, id) in &records[..=records.len() - MAX_RECORDS] {
                let record = self.read(id).ok().filter(|record| record.outcome != RecordOutcome::Running);
                let _ = record.map(|record| self.forget(&record));
            }
        }
        let logs = std::fs::read_dir(&self.logs).into_iter().flatten().flatten();
        let bytes: u64 = logs.filter_map(|log| Some(log.metadata().ok()?.len())).sum();
        if bytes > MAX_LOG_BYTES {
            self.prune_logs();
        }
    }

    /// Removes the oldest logs of records.
    fn prune_logs(&self) {
        let Ok(records) = self.list() else { return };
        let mut bytes = 0_u64;
        for (at, record) in records.iter().enumerate() {
            let log = self.log(record);
            let size = log.as_ref().and_then(|log| log.metadata().ok()).map_or(0, |meta| meta.len());
            bytes = bytes.saturating_add(size);
            if at > 0 && bytes > MAX_LOG_BYTES && record.outcome != RecordOutcome::Running {
                let _ = log.map(std::fs::remove_file);
            }
        }
    }
}

#[cfg(test)]
mod tests;
