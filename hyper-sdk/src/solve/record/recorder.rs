//! Writes the records of the steps of one build.

use super::file_lister::RawFiles;
use super::{FORMAT, Forced, Head, InputKind, KeyInput, KeyPart, KeyedHash, RanStep, STEPS_SUFFIX};
use crate::cache::Origin;
use crate::progress::TaskId;
use crate::{Digest, Error, Result, ResultExt as _};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::task::JoinHandle;

/// The most bytes of the records of one build. Beyond that, files are not listed.
const MAX_BYTES: u64 = 8 << 20;
/// How many files with records are kept, and how many bytes they have together.
const MAX_KEPT: (usize, u64) = (500, 64 << 20);

/// Keeps what the keys of the steps of one build were made of, for `session::History::why`. A request has it when the
/// history has a record of its build: `session::Recording::steps`. Clones write the same record.
///
/// A record that cannot be written does not fail the build: [`StepRecorder::take_error`] tells it.
#[derive(Clone)]
pub struct StepRecorder(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    build: String,
    all_forced: bool,
    origins: Mutex<HashMap<TaskId, Origin>>,
    output: Mutex<Output>,
    writing: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Output {
    file: Option<(File, Arc<KeyedHash>)>,
    bytes: u64,
    error: Option<Error>,
}

impl fmt::Debug for StepRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepRecorder").field("build", &self.0.build).finish_non_exhaustive()
    }
}

/// The record of a step before its hashes are made.
#[derive(Debug)]
pub(in crate::solve) struct RawStep {
    pub(super) step: u64,
    pub(super) name: String,
    pub(super) keys: Vec<Digest>,
    pub(super) is_forced: bool,
    pub(super) kept: bool,
    pub(super) failed: bool,
    pub(super) parts: Vec<(KeyPart, Vec<u8>)>,
    pub(super) inputs: Vec<RawInput>,
    pub(super) files: Option<RawFiles>,
}

#[derive(Debug)]
pub(super) struct RawInput {
    pub(super) kind: InputKind,
    pub(super) mount: Option<usize>,
    pub(super) name: String,
    pub(super) key: String,
    pub(super) manifest: Option<Digest>,
}

impl StepRecorder {
    /// The recorder of a build of the history in a folder. `all_forced` says that no step looks into the cache.
    pub(crate) fn new(folder: &Path, build: String, all_forced: bool) -> Self {
        Self(Arc::new(Inner {
            folder: folder.to_owned(),
            build,
            all_forced,
            origins: Mutex::default(),
            output: Mutex::default(),
            writing: Mutex::default(),
        }))
    }

    /// The origin of the result of a step that runs in this build.
    pub(in crate::solve) fn origin(&self, task: TaskId) -> Origin {
        Origin { build: self.0.build.clone(), step: task + 1 }
    }

    /// Notes which step made the result of a step.
    pub(in crate::solve) fn note(&self, task: TaskId, origin: Origin) {
        self.0.origins.lock().unwrap_or_else(PoisonError::into_inner).insert(task, origin);
    }

    /// The origins that were noted, by the numbers of steps in the log.
    pub(crate) fn origins(&self) -> HashMap<u64, Origin> {
        let origins = self.0.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.iter().map(|(task, origin)| (task + 1, origin.clone())).collect()
    }

    /// The first error of writing, if there was one. It is told once: when the recording has ended, to whoever asks.
    pub fn take_error(&self) -> Option<Error> {
        self.0.output.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }

    /// Writes a record, beside the build.
    pub(in crate::solve) fn write(&self, step: RawStep) {
        let inner = Arc::clone(&self.0);
        let write = move || {
            let mut output = inner.output.lock().unwrap_or_else(PoisonError::into_inner);
            if output.error.is_none()
                && let Err(e) = inner.append(&mut output, step)
            {
                output.error = Some(e);
            }
        };
        let handle = tokio::task::spawn_blocking(write);
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }

    /// Waits until all is written.
    pub(in crate::solve) async fn settle(&self) {
        let writing = std::mem::take(&mut *self.0.writing.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in writing {
            let _ = handle.await;
        }
    }
}

impl Inner {
    fn append(&self, output: &mut Output, step: RawStep) -> Result<()> {
        let path = self.folder.join(format!("{}{STEPS_SUFFIX}", self.build));
        if output.file.is_none() {
            let hash = KeyedHash::open(&self.folder)?;
            make_room(&self.folder);
            let mut options = File::options();
            options.create_new(true).append(true).mode(0o600);
            let file = options.open(&path).at("cannot write why steps ran", &path)?;
            let head = to_line(&Head { format: FORMAT, key: hash.name().to_owned() })?;
            add(&file, &head, 0, &path)?;
            output.bytes = head.len() as u64;
            output.file = Some((file, Arc::new(hash)));
        }
        let Some((file, hash)) = &output.file else { return Ok(()) };
        let mut step = step.hashed(hash, self.all_forced);
        let mut line = to_line(&step)?;
        if output.bytes + line.len() as u64 > MAX_BYTES
            && let Some(files) = &mut step.files
        {
            // Their number is left.
            files.files = Vec::new();
            line = to_line(&step)?;
        }
        add(file, &line, output.bytes, &path)?;
        output.bytes += line.len() as u64;
        Ok(())
    }
}

/// Adds a line, or nothing: to a full disk a part of it may go.
fn add(mut file: &File, line: &[u8], length: u64, path: &Path) -> Result<()> {
    file.write_all(line)
        .inspect_err(|_| {
            let _ = match length {
                0 => std::fs::remove_file(path),
                length => file.set_len(length),
            };
        })
        .at("cannot write why steps ran", path)
}

fn to_line(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)
        .map_err(|e| Error::internal("the record of a step cannot be written as JSON").with_source(e))?;
    line.push(b'\n');
    Ok(line)
}

/// Removes the oldest files of records when there are too many for one more. They outlive the records of their builds, as
/// later builds have their results from the cache.
fn make_room(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(SystemTime, PathBuf, u64)> = entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(STEPS_SUFFIX))
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((meta.modified().ok()?, entry.path(), meta.len()))
        })
        .collect();
    files.sort();
    let mut bytes: u64 = files.iter().map(|(.., length)| length).sum();
    let mut count = files.len();
    for (_, path, length) in files {
        if count < MAX_KEPT.0 && bytes < MAX_KEPT.1 {
            return;
        }
        let _ = std::fs::remove_file(path);
        count -= 1;
        bytes = bytes.saturating_sub(length);
    }
}

impl RawStep {
    fn hashed(self, hash: &KeyedHash, all_forced: bool) -> RanStep {
        let part = |(part, value): (KeyPart, Vec<u8>)| {
            // Equal values of two parts have other hashes.
            let of = format!("{part:?}");
            let hashed = hash.of(&[b"part", of.as_bytes(), &value]);
            (part, hashed)
        };
        let forced = match all_forced {
            true => Forced::Build,
            false => Forced::Stage,
        };
        let input = |input: RawInput| KeyInput {
            hash: hash.of(&[b"input", input.key.as_bytes()]),
            kind: input.kind,
            mount: input.mount,
            name: input.name,
            manifest: input.manifest,
        };
        RanStep {
            step: self.step,
            name: self.name,
            keys: self.keys.iter().map(|key| hash.of(&[b"key", key.as_str().as_bytes()])).collect(),
            forced: self.is_forced.then_some(forced),
            kept: self.kept,
            failed: self.failed,
            parts: self.parts.into_iter().map(part).collect(),
            inputs: self.inputs.into_iter().map(input).collect(),
            files: self.files.map(|files| files.hashed(hash)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64) -> RawStep {
        RawStep {
            step: number,
            name: format!("[s {number}/9] RUN x"),
            keys: vec![Digest::sha256("key")],
            is_forced: false,
            kept: true,
            failed: false,
            parts: vec![(KeyPart::Variable("A".into()), b"the-value".to_vec())],
            inputs: Vec::new(),
            files: None,
        }
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(STEPS_SUFFIX)).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn nothing_is_written_without_a_step_that_ran_and_no_value_with_one() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = StepRecorder::new(folder.path(), "one".into(), false);
        recorder.note(3, Origin { build: "earlier".into(), step: 2 });
        recorder.settle().await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(recorder.origins()[&4].build, "earlier");
        recorder.write(step(1));
        recorder.write(step(2));
        recorder.settle().await;
        let text = std::fs::read_to_string(folder.path().join("one.steps")).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with('\n') && !text.contains("the-value"), "{text}");
        let hash = Digest::sha256("key");
        assert!(!text.contains(hash.hex()), "the key can be guessed from: {text}");
        assert!(recorder.take_error().is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_told_once_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        std::fs::write(&gone, "a file").unwrap();
        let recorder = StepRecorder::new(&gone, "one".into(), false);
        recorder.write(step(1));
        recorder.write(step(2));
        recorder.settle().await;
        assert!(recorder.take_error().is_some() && recorder.take_error().is_none());
    }

    #[tokio::test]
    async fn names_that_are_too_much_are_left_out_and_their_number_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = StepRecorder::new(folder.path(), "one".into(), false);
        let of = |number: u64, length: usize| RawStep {
            files: Some(RawFiles::of((0..300).map(|at| format!("{at}{}", "x".repeat(length))))),
            ..step(number)
        };
        recorder.write(of(1, 10));
        recorder.settle().await;
        recorder.write(of(2, MAX_BYTES as usize / 300));
        recorder.settle().await;
        let text = std::fs::read_to_string(folder.path().join("one.steps")).unwrap();
        assert!((text.len() as u64) < MAX_BYTES / 2, "{}", text.len());
        let steps: Vec<RanStep> =
            text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        let lists: Vec<_> = steps.into_iter().filter_map(|step| step.files).collect();
        assert_eq!(
            lists.iter().map(|list| (list.total, list.files.len())).collect::<Vec<_>>(),
            [(300, 300), (300, 0)]
        );
    }

    #[test]
    fn the_oldest_records_make_room() {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..MAX_KEPT.0 as u64 + 3 {
            let file = File::create(folder.path().join(format!("{at:04}.steps"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at)).unwrap();
        }
        make_room(folder.path());
        let left = files(folder.path());
        assert_eq!((left.len(), left[0].as_str()), (MAX_KEPT.0 - 1, "0004.steps"));
        File::create(folder.path().join("large.steps")).unwrap().set_len(MAX_KEPT.1 + 1).unwrap();
        make_room(folder.path());
        assert_eq!(files(folder.path()), Vec::<String>::new());
    }
}
