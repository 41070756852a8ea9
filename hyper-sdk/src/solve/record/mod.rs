//! What the keys of the steps that ran were made of, for the history of builds.
//!
//! ```text
//!   a step that is not in the cache ─▶ its parts, raw ─▶ keyed hashes ─▶ history/ID.steps
//!   history/ID.steps    a line with the name of the secret key, then a line of JSON for each step that ran
//!   history/steps.key   the secret key: 32 random bytes
//! ```
//!
//! # Invariants
//! - Nothing is done for a step that is found in the cache, but for keeping in memory which build made its result and which
//!   files it copies out of a fetched source. No file is read for a record alone.
//! - No value of a variable, an argument or an option is in a record, only a keyed hash of it. Where a source of a copy has a
//!   variable, paths are keyed hashes, too: the value may be anywhere in them.
//! - A record is written when its step has failed, or its result is kept. A line that is not whole is not read.

mod file_lister;
mod gather;
mod keyed_hash;
mod recorder;

pub(super) use file_lister::FileLister;
pub(crate) use keyed_hash::KeyedHash;
pub use recorder::StepRecorder;

use crate::Digest;
use crate::graph::Vertex;
use crate::progress::TaskId;
use crate::solve::keys::Keys;
use serde::{Deserialize, Serialize};

/// How the file with the records of a build is called: the id of the build and this.
pub(crate) const STEPS_SUFFIX: &str = ".steps";
/// The version of the format.
pub(crate) const FORMAT: u32 = 1;
/// How many files of a COPY are listed.
pub(crate) const MAX_FILES: usize = 20_000;

/// A part of the key of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyPart {
    /// The program and its arguments, with the shell.
    Command,
    /// A variable of the environment, or a build argument.
    Variable(String),
    /// The order of the variables.
    VariableOrder,
    /// The working folder.
    WorkingFolder,
    /// The user.
    User,
    /// The network.
    Network,
    /// The privileges.
    Security,
    /// The name of the host.
    HostName,
    /// The names of the secrets in the environment.
    Secrets,
    /// The devices.
    Devices,
    /// A host of `--add-host`.
    Host(String),
    /// A mount, without the files in it: its number from 1 and its type.
    Mount(usize, String),
    /// The time that files have at most (`SOURCE_DATE_EPOCH`).
    Epoch,
    /// How steps see the times of files.
    Times,
    /// The sources of a copy.
    Sources,
    /// The destination of a copy, or the path of a folder that is made.
    Destination,
    /// The owner (`--chown`).
    Owner,
    /// The mode (`--chmod`).
    Mode,
    /// The patterns of `--exclude`.
    Exclude,
    /// Other options of a copy: `--link`, `--parents`, `--unpack`.
    Options,
    /// The content of a document in the Dockerfile.
    Document,
}

/// A step that has ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::solve) struct Ended<'a> {
    pub(in crate::solve) vertex: &'a Vertex,
    pub(in crate::solve) task: TaskId,
    pub(in crate::solve) keys: &'a Keys,
    /// Whether its result is kept under the keys.
    pub(in crate::solve) kept: bool,
    pub(in crate::solve) failed: bool,
}

/// The first line of a file of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) format: u32,
    /// What tells the secret key of the hashes from another one.
    pub(crate) key: String,
}

/// Why a step ran without being looked for in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Forced {
    /// The whole build was made without the cache.
    Build,
    /// Its stage was.
    Stage,
}

/// The record of a step that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RanStep {
    /// Its number in the log of the build.
    pub(crate) step: u64,
    pub(crate) name: String,
    /// The hashes of its keys, best first.
    pub(crate) keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forced: Option<Forced>,
    /// Whether its result was kept under the keys: it is not when files changed meanwhile.
    pub(crate) kept: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) failed: bool,
    /// The parts with the hashes of their values.
    pub(crate) parts: Vec<(KeyPart, String)>,
    pub(crate) inputs: Vec<KeyInput>,
    /// The files of a context that are copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<FileList>,
}

/// What the result of an input is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InputKind {
    /// An image.
    Image,
    /// A context folder.
    Context,
    /// A file of the web or a git repository.
    Fetched,
    /// A step.
    Step,
}

/// An input of a step, as far as its key depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyInput {
    pub(crate) kind: InputKind,
    /// The mount that uses it, from 1; `None` for the root file system and for the source of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mount: Option<usize>,
    /// The name of the step; empty for others, as a value may be in it.
    pub(crate) name: String,
    /// The hash of the files, or of the layers, that are used.
    pub(crate) hash: String,
    /// The manifest of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
}

/// The files of a context in the key of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileList {
    /// How many there are, folders and links among them.
    pub(crate) total: u64,
    /// The files; none when there are more than are kept.
    pub(crate) files: Vec<FileHash>,
    /// Whether the paths are keyed hashes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_hidden: bool,
}

/// A file in a list: its path, or a hash of that; its mode in octal digits, empty where `--chmod` gives it; hashes of its owner
/// and of its kind and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileHash(pub(crate) String, pub(crate) String, pub(crate) String, pub(crate) String);
