//! A record that is being written.

use super::record::{BuildRecord, RecordOutcome};
use crate::build::BuildOutput;
use crate::progress::{Event, Progress, Sink};
use crate::solve::StepRecorder;
use crate::staged_file::{self, StagedFile};
use crate::{Error, Result, ResultExt as _};
use futures::future::BoxFuture;
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a lock is tried.
const ATTEMPTS: usize = 20;

/// The record of a build that runs. When it is dropped before [`Recording::finish`], the record says that the build was
/// cancelled.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    start: Instant,
    record: Arc<Mutex<BuildRecord>>,
    /// Locked for as long as the build runs.
    _held: File,
    ended: bool,
    steps: StepRecorder,
}

impl Recording {
    pub(super) fn begin(folder: &Path, record: BuildRecord, no_cache: bool) -> Result<Self> {
        let steps = StepRecorder::new(folder, record.id.clone(), no_cache);
        let path = folder.join(format!("{}.json", record.id));
        write(&path, &record)?;
        let held = File::open(&path).at("cannot open the record", &path)?;
        // A reader may hold it for an instant. Where the file system has no locks, a record that runs is shown as interrupted.
        for _ in 0..ATTEMPTS {
            if !matches!(held.try_lock(), Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let record = Arc::new(Mutex::new(record));
        Ok(Self { path, start: Instant::now(), record, _held: held, ended: false, steps })
    }

    /// The name of the record.
    pub fn id(&self) -> String {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).id.clone()
    }

    /// Notes the arguments of the program and the folder that it is in, with which the build can be made again. They must
    /// not have secrets.
    pub fn set_arguments(&self, arguments: Vec<String>, folder: impl Into<PathBuf>) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        (record.arguments, record.folder) = (Some(arguments), folder.into());
    }

    /// Who keeps what the keys of the steps that run are made of: the request gets it as [`BuildRequest::recorder`]. What
    /// cannot be written does not spoil the record of the build: [`StepRecorder::take_error`] tells it.
    ///
    /// [`BuildRequest::recorder`]: crate::build::BuildRequest::recorder
    pub fn steps(&self) -> StepRecorder {
        self.steps.clone()
    }

    /// The progress of the build: events go into the record, and on to `to`.
    #[must_use]
    pub fn progress(&self, to: &Progress) -> Progress {
        Progress::new(Observed { to: to.clone(), start: self.start, record: Arc::clone(&self.record) })
    }

    /// Ends the record with the outcome of the build.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when it cannot be written.
    pub fn finish(mut self, outcome: Result<&BuildOutput, &Error>) -> Result<()> {
        match outcome {
            Ok(output) => {
                {
                    let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
                    record.image = output.image.as_ref().map(|image| image.digest.clone());
                    record.names.clone_from(&output.tags);
                }
                self.end(RecordOutcome::Done, None)
            }
            Err(error) => self.end(RecordOutcome::Failed, Some(error.to_string())),
        }
    }

    fn end(&mut self, outcome: RecordOutcome, error: Option<String>) -> Result<()> {
        self.ended = true;
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.end(outcome, error, self.start.elapsed().as_millis() as u64);
        let mut origins = self.steps.origins();
        for step in &mut record.steps {
            step.origin = origins.remove(&step.number);
        }
        write(&self.path, &record)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end(RecordOutcome::Cancelled, None);
        }
    }
}

fn write(path: &Path, record: &BuildRecord) -> Result<()> {
    let json = serde_json::to_vec(record)
        .map_err(|e| Error::internal("a record cannot be written as JSON").with_source(e))?;
    let write = |folder: &Path| {
        // Of a build that was killed while it wrote.
        staged_file::remove_abandoned(folder);
        let staged = StagedFile::begin_in(folder)?;
        staged.file().write_all(&json)?;
        staged.persist(path)
    };
    write(path.parent().unwrap_or(path)).at("cannot write the record of a build", path)
}

/// Notes the events of a build, and passes them on.
struct Observed {
    to: Progress,
    start: Instant,
    record: Arc<Mutex<BuildRecord>>,
}

impl Sink for Observed {
    fn event(&self, event: Event) {
        if !matches!(event, Event::Log { .. } | Event::Advanced { .. }) {
            let now = self.start.elapsed().as_millis() as u64;
            self.record.lock().unwrap_or_else(PoisonError::into_inner).take(&event, now);
        }
        self.to.send(event);
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.to.ready())
    }
}
