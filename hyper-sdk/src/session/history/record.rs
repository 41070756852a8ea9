//! What a record says.

use crate::Digest;
use crate::build::{BuildContext, BuildRequest};
use crate::cache::Origin;
use crate::digest::Hasher;
use crate::dockerfile::{without_password, without_passwords};
use crate::progress::{Event, Outcome};
use serde::{Deserialize, Serialize};
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many steps a record has.
const MAX_STEPS: usize = 10_000;
/// How many characters of a name or an error are kept.
const MAX_TEXT: usize = 2_000;

/// The record of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The name of the record: 25 letters and numbers.
    pub id: String,
    /// What was built: the first name of the image, else the context.
    pub name: String,
    /// The context, without passwords.
    pub context: String,
    /// The name of the Dockerfile.
    pub dockerfile: String,
    /// The stage that was asked for.
    pub target: Option<String>,
    /// The platforms that were asked for, with commas between.
    pub platform: Option<String>,
    /// The names of the build arguments. Their values may be secrets.
    pub build_args: Vec<String>,
    /// Where the result was written.
    pub outputs: Vec<String>,
    /// When the build began, in microseconds since 1970.
    pub started: u64,
    /// How long it took, when it has ended.
    pub milliseconds: Option<u64>,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// Why it failed.
    pub error: Option<String>,
    /// The tasks of the build, in the order in which they began.
    pub steps: Vec<StepRecord>,
    /// The warnings.
    pub warnings: Vec<String>,
    /// The digest of the image.
    pub image: Option<Digest>,
    /// The names of the image.
    pub names: Vec<String>,
    /// The folder that the program was in, when it gave its arguments.
    pub folder: PathBuf,
    /// The arguments of the program that made the build, as the program gave them for the record. `None` when they are not
    /// enough to make it again, or may have secrets.
    pub arguments: Option<Vec<String>>,
    /// The name of the log file, in the folder `logs` of the state folder.
    pub log: Option<String>,
}

/// How a build, or a step of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordOutcome {
    /// It has not ended.
    Running,
    /// It was done.
    Done,
    /// The result of the step was in the cache.
    Cached,
    /// It failed.
    Failed,
    /// The caller cancelled it, or it was not needed any more.
    Cancelled,
    /// Its process ended before it did.
    Interrupted,
}

/// A task of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The name: `[build 2/5] RUN make`.
    pub name: String,
    /// When it began, in milliseconds since the build did.
    pub started: u64,
    /// How long it took, when it has ended.
    pub milliseconds: Option<u64>,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// Why it failed.
    pub error: Option<String>,
    /// Its number in the log, from 1.
    pub number: u64,
    /// The step that made its result: itself when it ran, a step of an earlier build when the result was in the cache. `None`
    /// when the history does not have that build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// The platforms that were asked for.
fn platforms(request: &BuildRequest) -> Option<String> {
    let names: Vec<String> = request.platforms.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| names.join(","))
}

impl BuildRecord {
    /// The record of a build that begins now.
    pub(super) fn of(request: &BuildRequest, log: Option<String>) -> Self {
        let context = match &request.context {
            BuildContext::Empty => "-".to_owned(),
            BuildContext::Folder(folder) => {
                std::path::absolute(folder).unwrap_or_else(|_| folder.clone()).display().to_string()
            }
            BuildContext::Git(git) => without_query(&without_password(&git.remote)),
            BuildContext::Web(url) => without_query(&without_password(url)),
        };
        let names: Vec<String> = request.tags.iter().map(|name| name.familiar()).collect();
        Self {
            id: new_id(),
            name: clipped(names.first().unwrap_or(&context)),
            context,
            dockerfile: request.dockerfile_name.display().to_string(),
            target: request.target.clone(),
            platform: platforms(request),
            build_args: request.build_args.keys().cloned().collect(),
            outputs: request.outputs.iter().map(crate::build::Output::describe).collect(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64),
            milliseconds: None,
            outcome: RecordOutcome::Running,
            error: None,
            steps: Vec::new(),
            warnings: Vec::new(),
            image: None,
            names,
            folder: PathBuf::new(),
            arguments: None,
            log,
        }
    }

    /// Takes an event that came so many milliseconds after the beginning.
    pub(super) fn take(&mut self, event: &Event, now: u64) {
        match event {
            Event::Started { task, name, .. } if self.steps.len() < MAX_STEPS => {
                self.steps.push(StepRecord {
                    name: clipped(&without_passwords(name)),
                    started: now,
                    milliseconds: None,
                    outcome: RecordOutcome::Running,
                    error: None,
                    number: task + 1,
                    origin: None,
                });
            }
            Event::Finished { task, outcome, milliseconds } => {
                let open = |step: &&mut StepRecord| step.number == task + 1 && step.milliseconds.is_none();
                if let Some(step) = self.steps.iter_mut().rev().find(open) {
                    step.milliseconds = Some(*milliseconds);
                    step.outcome = match outcome {
                        Outcome::Done => RecordOutcome::Done,
                        Outcome::Cached => RecordOutcome::Cached,
                        Outcome::Failed(_) => RecordOutcome::Failed,
                        Outcome::Cancelled => RecordOutcome::Cancelled,
                    };
                    if let Outcome::Failed(why) = outcome {
                        step.error = Some(clipped(&without_passwords(why)));
                    }
                }
            }
            Event::Warning { message, .. } if self.warnings.len() < MAX_STEPS => {
                self.warnings.push(clipped(&without_passwords(message)));
            }
            _ => {}
        }
    }

    /// Ends the record.
    pub(super) fn end(&mut self, outcome: RecordOutcome, error: Option<String>, milliseconds: u64) {
        self.outcome = outcome;
        self.error = error.map(|error| clipped(&without_passwords(&error)));
        self.milliseconds = Some(milliseconds);
        for step in self.steps.iter_mut().filter(|step| step.outcome == RecordOutcome::Running) {
            step.outcome = RecordOutcome::Cancelled;
        }
    }
}

/// The address without its query, which may have a token.
fn without_query(url: &str) -> String {
    let Some((before, rest)) = url.split_once('?') else { return url.to_owned() };
    let fragment = rest.find('#').map_or("", |at| &rest[at..]);
    format!("{before}?***{fragment}")
}

/// The text up to a length.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A name that no other record has.
fn new_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut hasher = Hasher::sha256();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    hasher.update_field(format!("{} {}", now.as_nanos(), std::process::id()));
    // Each has random keys of its own.
    hasher.update_field(std::collections::hash_map::RandomState::new().hash_one(now.as_nanos()).to_string());
    let digest = hasher.finish();
    let pairs = digest.hex().as_bytes().chunks(2).take(25);
    let number = |pair: &[u8]| {
        pair.iter().fold(0_usize, |n, c| n * 16 + (*c as char).to_digit(16).unwrap_or(0) as usize)
    };
    pairs.map(|pair| LETTERS[number(pair) % LETTERS.len()] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_differ() {
        let (one, two) = (new_id(), new_id());
        assert_ne!(one, two);
        assert!(
            one.len() == 25 && one.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "{one}"
        );
    }

    #[test]
    fn addresses_lose_what_may_be_a_secret() {
        for (url, shown) in [
            ("https://h/a.tar?token=1", "https://h/a.tar?***"),
            ("https://h/r.git?ref=x#y", "https://h/r.git?***#y"),
            ("https://h/a.tar", "https://h/a.tar"),
        ] {
            assert_eq!(without_query(url), shown);
        }
    }
}
