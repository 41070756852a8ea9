//! Why the steps of a build ran: what of their keys is not as it was.
//!
//! ```text
//!   the record of a build ─▶ a step that ran ─▶ its parts, in ID.steps ──────────────────────┐
//!   records of earlier builds of the Dockerfile ─▶ the step there ─▶ the parts of its origin ─┴▶ reasons
//! ```
//!
//! # Invariants
//! - A step counts as cached, run or failed when the record says that it ended so. What was not recorded is not guessed.

mod diff;
mod reason;
mod step_name;
#[cfg(test)]
mod tests;

pub use reason::{Change, FileChange, Reason};

use super::record::{BuildRecord, RecordOutcome, StepRecord};
use super::{History, Session};
use crate::cache::Origin;
use crate::platform::Platform;
use crate::small_file::{self, Kinds};
use crate::solve::{FORMAT, Forced, Head, KeyPart, RanStep, STEPS_SUFFIX};
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use step_name::StepName;

/// The largest file with the records of steps that is read.
const MAX_STEPS_FILE: u64 = 64 << 20;

/// Why the steps of a build ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The id of the build.
    pub build: String,
    /// Its name.
    pub name: String,
    /// How it ended. When it runs, or was interrupted, only the steps are known that it recorded until then.
    pub outcome: RecordOutcome,
    /// Its steps, in the order in which they began.
    pub steps: Vec<StepWhy>,
}

/// Why a step ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepWhy {
    /// Its name: `[build 2/5] RUN make`.
    pub name: String,
    /// The stage.
    pub stage: String,
    /// Its number in the stage.
    pub number: u64,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// Why it was not cached. Empty for a step that was, and for one that did not come to its end.
    pub reasons: Vec<Reason>,
    /// The step that made its result, when its result was in the cache.
    pub origin: Option<Origin>,
    /// The earlier build that it is compared with.
    pub compared_with: Option<String>,
}

impl Session {
    /// Why the steps of a build ran; without an id or the beginning of one, of the newest build that has ended. Reads files
    /// of the state folder, and blocks meanwhile.
    ///
    /// ```
    /// use hyper_sdk::session::Session;
    ///
    /// # fn main() -> hyper_sdk::Result<()> {
    /// # let folder = tempfile::tempdir()?;
    /// let session = Session::builder(folder.path().join("state")).open()?;
    /// // Nothing was built.
    /// assert_eq!(session.why(None).unwrap_err().kind(), hyper_sdk::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Session::history`] and of [`History::get`]; [`ErrorKind::NotFound`] when no build has ended.
    pub fn why(&self, build: Option<&str>) -> Result<Why> {
        let history = self.history()?;
        let record = match build {
            Some(id) => history.get(Some(id))?,
            None => history.list()?.into_iter().find(has_ended).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no record of a build that has ended yet")
            })?,
        };
        history.why(&record)
    }
}

impl Why {
    /// The steps that a text names: the number of a step, its stage and number as in `build:2`, its name, or the beginning of
    /// its instruction.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such step, and [`ErrorKind::Invalid`] when there are several. The message
    /// lists the steps.
    pub fn step(&self, text: &str) -> Result<&StepWhy> {
        let number = text.parse::<u64>().ok();
        let place =
            text.rsplit_once(':').and_then(|(stage, number)| Some((stage, number.parse::<u64>().ok()?)));
        let instruction = |step: &StepWhy| StepName::parse(&step.name).map(|name| name.text.to_owned());
        let ways: [&dyn Fn(&StepWhy) -> bool; 4] = [
            &|step| number == Some(step.number),
            &|step| place == Some((step.stage.as_str(), step.number)),
            &|step| step.name == text || instruction(step).is_some_and(|instruction| instruction == text),
            &|step| {
                let begins = |name: &str| name.starts_with(text);
                !text.is_empty()
                    && (begins(&step.name) || instruction(step).is_some_and(|name| begins(&name)))
            },
        ];
        let list = |steps: &[&StepWhy]| {
            let names = steps.iter().map(|step| format!("`{}`", first_line(&step.name)));
            names.collect::<Vec<_>>().join(", ")
        };
        for is_meant in ways {
            match self.steps.iter().filter(|step| is_meant(step)).collect::<Vec<_>>().as_slice() {
                [] => {}
                [one] => return Ok(one),
                several => {
                    return Err(Error::invalid(format!(
                        "`{text}` may be {}: give the stage and the number, as in `{}:{}`",
                        list(several),
                        several[0].stage,
                        several[0].number
                    )));
                }
            }
        }
        let all: Vec<&StepWhy> = self.steps.iter().collect();
        let known = if all.is_empty() { "it has none".to_owned() } else { format!("it has {}", list(&all)) };
        Err(Error::new(
            ErrorKind::NotFound,
            format!("the build `{}` has no step `{text}`: {known}", self.build),
        ))
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Whether a record has the steps of its build.
fn has_ended(record: &BuildRecord) -> bool {
    !matches!(record.outcome, RecordOutcome::Running | RecordOutcome::Interrupted)
}

impl History {
    /// Why the steps of a build ran. Each is compared with its result in the newest earlier build of the same context,
    /// Dockerfile and target; the platform should be the same, too, but need not be.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the history cannot be read. Damaged records count as missing.
    pub fn why(&self, record: &BuildRecord) -> Result<Why> {
        let mut files = StepFiles { folder: &self.folder, read: HashMap::new() };
        let mut steps: Vec<StepWhy> = Vec::new();
        let ran: Vec<(StepWhy, Option<RanStep>)> = match has_ended(record) {
            true => {
                named_steps(record).map(|(step, name)| of_record(record, step, name, &mut files)).collect()
            }
            false => files.of(&record.id).map_or_else(Vec::new, |file| {
                file.steps.iter().filter_map(|step| Some((of_line(step)?, Some(step.clone())))).collect()
            }),
        };
        let mut earlier = self.list()?;
        earlier.retain(|other| {
            (other.started, &other.id) < (record.started, &record.id)
                && has_ended(other)
                && is_like(record, other)
        });
        // Stable: the newest of each stay first.
        let host = Platform::host().to_string();
        let platform = |record: &BuildRecord| record.platform.clone().unwrap_or_else(|| host.clone());
        earlier.sort_by_key(|other| platform(other) != platform(record));
        let names: Vec<StepName<'_>> = ran.iter().filter_map(|(why, _)| StepName::parse(&why.name)).collect();
        let earlier: Vec<Earlier<'_>> = earlier.iter().map(|other| Earlier::new(other, &names)).collect();
        for (at, (why, now)) in ran.iter().enumerate() {
            let mut why = why.clone();
            if matches!(why.outcome, RecordOutcome::Done | RecordOutcome::Failed) {
                (why.reasons, why.compared_with) = reasons(record, now.as_ref(), at, &earlier, &mut files);
            }
            steps.push(why);
        }
        Ok(Why { build: record.id.clone(), name: record.name.clone(), outcome: record.outcome, steps })
    }
}

/// Whether two records are of builds of one target.
fn is_like(record: &BuildRecord, other: &BuildRecord) -> bool {
    let of =
        |record: &BuildRecord| (record.context.clone(), record.dockerfile.clone(), record.target.clone());
    of(record) == of(other)
}

/// The steps of a record. Of one that came again, because the build began anew, it is the last run.
fn named_steps(record: &BuildRecord) -> impl Iterator<Item = (&StepRecord, StepName<'_>)> {
    let mut last: HashMap<&str, u64> = HashMap::new();
    for step in &record.steps {
        last.insert(&step.name, own_run(record, step).number);
    }
    let steps = record.steps.iter().filter(move |step| last.get(step.name.as_str()) == Some(&step.number));
    steps.filter_map(|step| Some((step, StepName::parse(&step.name)?)))
}

/// The step itself, or the earlier run of it in this build that made its result.
fn own_run<'a>(record: &'a BuildRecord, step: &'a StepRecord) -> &'a StepRecord {
    let Some(origin) = step.origin.as_ref().filter(|origin| origin.build == record.id) else { return step };
    let made = |other: &&StepRecord| other.number == origin.step && other.name == step.name;
    record.steps.iter().find(made).unwrap_or(step)
}

fn of_record(
    record: &BuildRecord,
    step: &StepRecord,
    name: StepName<'_>,
    files: &mut StepFiles<'_>,
) -> (StepWhy, Option<RanStep>) {
    let is_cached = step.outcome == RecordOutcome::Cached;
    let why = StepWhy {
        name: step.name.clone(),
        stage: name.stage.to_owned(),
        number: name.number,
        outcome: step.outcome,
        reasons: Vec::new(),
        origin: step.origin.clone().filter(|_| is_cached),
        compared_with: None,
    };
    let ran = matches!(step.outcome, RecordOutcome::Done | RecordOutcome::Failed);
    let number = step.number;
    (why, ran.then(|| files.step(&Origin { build: record.id.clone(), step: number })).flatten())
}

/// A step of a build that has not ended, by the line that it wrote.
fn of_line(step: &RanStep) -> Option<StepWhy> {
    let name = StepName::parse(&step.name)?;
    Some(StepWhy {
        name: step.name.clone(),
        stage: name.stage.to_owned(),
        number: name.number,
        outcome: if step.failed { RecordOutcome::Failed } else { RecordOutcome::Done },
        reasons: Vec::new(),
        origin: None,
        compared_with: None,
    })
}

/// An earlier build, and which of its steps are those of the build in question.
struct Earlier<'a> {
    record: &'a BuildRecord,
    steps: Vec<Option<&'a StepRecord>>,
}

impl<'a> Earlier<'a> {
    fn new(record: &'a BuildRecord, names: &[StepName<'_>]) -> Self {
        let (steps, before): (Vec<&StepRecord>, Vec<StepName<'_>>) = named_steps(record).unzip();
        let matches = step_name::matches(names, &before);
        Self { record, steps: matches.into_iter().map(|at| at.map(|at| steps[at])).collect() }
    }

    /// The step with this number among those in question, if it came to a result.
    fn result(&self, at: usize) -> Option<&'a StepRecord> {
        let step = self.steps.get(at).copied().flatten()?;
        matches!(step.outcome, RecordOutcome::Done | RecordOutcome::Cached).then_some(step)
    }
}

/// Why a step was not cached, and the build that it was compared with.
fn reasons(
    record: &BuildRecord,
    now: Option<&RanStep>,
    at: usize,
    earlier: &[Earlier<'_>],
    files: &mut StepFiles<'_>,
) -> (Vec<Reason>, Option<String>) {
    let Some(now) = now else { return (vec![Reason::NotRecorded], None) };
    match now.forced {
        Some(Forced::Build) => return (vec![Reason::NoCache], None),
        Some(Forced::Stage) => return (vec![Reason::NoCacheFilter], None),
        None => {}
    }
    let mut results = earlier.iter().filter_map(|other| Some((other.record, other.result(at)?)));
    // Where no output needed its result, a step was done without making one.
    let (mut is_unknown, mut found) = (false, None);
    for (other, step) in results.by_ref() {
        if step.origin.is_some() || step.outcome == RecordOutcome::Cached {
            found = Some((other, step));
            break;
        }
        is_unknown = true;
    }
    let Some((other, step)) = found else {
        return (vec![if is_unknown { Reason::NotRecorded } else { Reason::New }], None);
    };
    let compared_with = Some(other.id.clone());
    let Some(origin) = &step.origin else {
        // What made its result has no record: a build of another machine, or by another program.
        return (vec![Reason::NotRecorded], compared_with);
    };
    let is_comparable = |files: &mut StepFiles<'_>| {
        let keys = [&record.id, &origin.build].map(|build| files.of(build).map(|file| file.key.clone()));
        keys[0].is_some() && keys[0] == keys[1]
    };
    let mut reasons = match files.step(origin) {
        Some(before) if is_comparable(files) => diff::diff(&before, now),
        _ => vec![Reason::NotRecorded],
    };
    for reason in &mut reasons {
        if let Reason::Part { part: KeyPart::Variable(name), change } = reason
            && [record, other].iter().any(|record| record.build_args.contains(name))
        {
            *reason = Reason::Argument { name: name.clone(), change: *change };
        }
    }
    if let (Some(from), Some(to)) = (platform_of(other, &step.name), platform_of(record, &now.name))
        && from != to
        && reasons.iter().any(may_be_of_platform)
    {
        reasons.insert(0, Reason::Platform { from, to });
    }
    (reasons, compared_with)
}

/// The platform of a step; `None` when it may be that of several.
fn platform_of(record: &BuildRecord, name: &str) -> Option<String> {
    // In a build for several platforms the names of steps have their own: `[linux/arm64 build 2/5] RUN make`.
    let own = StepName::parse(name).and_then(|name| name.stage.split_once(' '));
    match (own, &record.platform) {
        (Some((platform, _)), _) if platform.contains('/') => Some(platform.to_owned()),
        (_, None) => Some(Platform::host().to_string()),
        (_, Some(asked)) => (!asked.contains(',')).then(|| asked.clone()),
    }
}

/// Whether a part of a key may be another one because of the platform.
fn may_be_of_platform(reason: &Reason) -> bool {
    match reason {
        Reason::Image { .. } => true,
        Reason::Part { part, .. } => matches!(
            part,
            KeyPart::Variable(_)
                | KeyPart::WorkingFolder
                | KeyPart::Mount(..)
                | KeyPart::Sources
                | KeyPart::Destination
                | KeyPart::Document
        ),
        _ => false,
    }
}

/// The records of steps, as they were read.
struct StepFiles<'a> {
    folder: &'a Path,
    read: HashMap<String, Option<Rc<StepFile>>>,
}

struct StepFile {
    /// What tells the secret key of its hashes from another one.
    key: String,
    steps: Vec<RanStep>,
}

impl StepFiles<'_> {
    fn of(&mut self, build: &str) -> Option<Rc<StepFile>> {
        if let Some(read) = self.read.get(build) {
            return read.clone();
        }
        let file = read_steps(self.folder, build).map(Rc::new);
        self.read.insert(build.to_owned(), file.clone());
        file
    }

    fn step(&mut self, origin: &Origin) -> Option<RanStep> {
        self.of(&origin.build)?.steps.iter().rfind(|step| step.step == origin.step).cloned()
    }
}

/// The records of the steps of a build. Lines that are not whole are left out.
fn read_steps(folder: &Path, build: &str) -> Option<StepFile> {
    // The id may come from a record of a cache that others can write.
    if build.is_empty() || !build.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let path = folder.join(format!("{build}{STEPS_SUFFIX}"));
    let text = small_file::read(&path, "the records of steps", MAX_STEPS_FILE, Kinds::Files).ok()?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let head: Head = serde_json::from_slice(lines.next()?).ok()?;
    let steps = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    (head.format == FORMAT).then_some(StepFile { key: head.key, steps })
}
