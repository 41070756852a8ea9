//! Why a step was not cached, as values and as sentences.

use crate::Digest;
use crate::solve::KeyPart;
use serde::Serialize;
use std::fmt;

/// How many files a sentence names.
const NAMED_FILES: usize = 10;

/// A reason why a step ran, in comparison with the newest earlier build that has a result of it.
///
/// `Display` is a sentence without its full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The history has no earlier build of the Dockerfile and target that came to the end of the step.
    New,
    /// The build did not look into the cache.
    NoCache,
    /// The build did not look into the cache for its stage.
    NoCacheFilter,
    /// The step is for another platform, and a part of its key that may depend on that changed.
    Platform {
        /// The platform before.
        from: String,
        /// The platform now.
        to: String,
    },
    /// The earlier result was not kept, as files changed while the step read them.
    NotKept,
    /// The key is the same, and no result of it that the build could use was in the cache.
    Gone,
    /// There is no record of what the key of this step, or that of its earlier result, was made of.
    NotRecorded,
    /// The text of the instruction changed.
    Instruction {
        /// The text before.
        from: String,
        /// The text now.
        to: String,
    },
    /// A build argument changed.
    Argument {
        /// Its name.
        name: String,
        /// How it changed.
        change: Change,
    },
    /// Another part of the key changed.
    Part {
        /// The part.
        part: KeyPart,
        /// How it changed.
        change: Change,
    },
    /// The result of a step that it uses changed.
    Input {
        /// The name of that step; `None` when it has a value of a variable in it.
        step: Option<String>,
        /// The mount that uses it, from 1.
        mount: Option<usize>,
    },
    /// An image that it uses changed.
    Image {
        /// The manifest before, if it was an image then.
        from: Option<Digest>,
        /// The manifest now; `None` for `scratch` and for folders.
        to: Option<Digest>,
        /// The mount that uses it, from 1.
        mount: Option<usize>,
    },
    /// Files of a context that a mount uses changed.
    MountedFiles {
        /// The mount, from 1.
        mount: usize,
    },
    /// Files that it copies changed.
    Files {
        /// The files.
        changes: Vec<FileChange>,
    },
    /// Files that it copies changed. Their paths are not kept, as a source of the copy has a variable, whose value would be
    /// in them.
    HiddenFiles {
        /// How many were added.
        added: usize,
        /// How many were removed.
        removed: usize,
        /// How many changed.
        changed: usize,
    },
    /// Files that it copies changed, and there are more of them than are kept.
    ManyFiles {
        /// How many there were before.
        from: u64,
        /// How many there are now.
        to: u64,
    },
    /// The key changed in a part that is not recorded.
    Unknown,
}

/// How a part of a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It has another value.
    Changed,
}

/// A file that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its path in the context; `.` for a folder that the instruction makes, for a file that was fetched, and for what has no
    /// content, such as folders and links, where the destination is a link.
    pub path: String,
    /// Whether it is new, gone or changed.
    pub change: Change,
    /// Whether its content changed, or its kind.
    pub content: bool,
    /// Whether its owner changed.
    pub owner: bool,
    /// Its mode before and now in octal digits, when that changed; empty where `--chmod` gives it.
    pub mode: Option<(String, String)>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "was added",
            Self::Removed => "was removed",
            Self::Changed => "changed",
        })
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut how = Vec::new();
        match self.change {
            Change::Added => how.push("added".to_owned()),
            Change::Removed => how.push("removed".to_owned()),
            Change::Changed => {
                how.extend(self.content.then(|| "content".to_owned()));
                how.extend(self.mode.as_ref().map(|(from, to)| match from.is_empty() || to.is_empty() {
                    true => "mode".to_owned(),
                    false => format!("mode {from} → {to}"),
                }));
                how.extend(self.owner.then(|| "owner".to_owned()));
            }
        }
        write!(f, "{} ({})", self.path, how.join(", "))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used_by = |mount: &Option<usize>| match mount {
            None => String::new(),
            Some(number) => format!(" of its mount {number}"),
        };
        match self {
            Self::New => f.write_str("the history has no earlier build with a result of it"),
            Self::NoCache => f.write_str("the build did not look into the cache"),
            Self::NoCacheFilter => f.write_str("the build did not look into the cache for its stage"),
            Self::Platform { from, to } => write!(f, "the platform changed: {from} → {to}"),
            Self::NotKept => f.write_str("its earlier result was not kept: files changed while it read them"),
            Self::Gone => f.write_str(
                "its key is the same, but no usable result was in the cache. Secrets and the content of cache mounts are \
                 not part of a key",
            ),
            Self::NotRecorded => f.write_str("there is no record of what its key was made of, or its earlier key"),
            Self::Instruction { from, to } => {
                write!(f, "the instruction changed: `{}` → `{}`", first_line(from), first_line(to))
            }
            Self::Argument { name, change } => write!(f, "the build argument `{name}` {change}"),
            Self::Part { part, change } => write_part(f, part, *change),
            Self::Input { step, mount } => match step {
                Some(step) => write!(f, "the input{} changed: {}", used_by(mount), first_line(step)),
                None => write!(f, "the input{} changed", used_by(mount)),
            },
            Self::Image { from: Some(from), to: Some(to), mount } => {
                let image = if mount.is_none() { "base image" } else { "image" };
                write!(f, "the {image}{} changed: {from} → {to}", used_by(mount))
            }
            Self::Image { mount, .. } => write!(f, "the base{} changed", used_by(mount)),
            Self::MountedFiles { mount } => write!(f, "files of its mount {mount} changed"),
            Self::Files { changes } => write_files(f, changes),
            Self::HiddenFiles { added, removed, changed } => write!(
                f,
                "files changed, whose paths are not kept as a source has a variable: {added} added, {removed} removed, \
                 {changed} changed"
            ),
            Self::ManyFiles { from, to } => {
                write!(f, "files changed, and there are more than are kept: {from} files before, {to} now")
            }
            Self::Unknown => f.write_str("its key changed in a part that is not recorded"),
        }
    }
}

fn write_part(f: &mut fmt::Formatter<'_>, part: &KeyPart, change: Change) -> fmt::Result {
    match part {
        KeyPart::Command => write!(f, "its command or its shell {change}"),
        KeyPart::Variable(name) => write!(f, "the variable `{name}` {change}"),
        KeyPart::VariableOrder => f.write_str("the order of the variables changed"),
        KeyPart::WorkingFolder => write!(f, "the working folder {change}"),
        KeyPart::User => write!(f, "the user {change}"),
        KeyPart::Network => write!(f, "the network {change}"),
        KeyPart::Security => write!(f, "the privileges {change}"),
        KeyPart::HostName => write!(f, "the host name {change}"),
        KeyPart::Secrets => write!(f, "the names of the secrets in its environment {change}"),
        KeyPart::Devices => write!(f, "its devices {change}"),
        KeyPart::Host(name) => write!(f, "the address of the extra host `{name}` {change}"),
        KeyPart::Mount(number, kind) => write!(f, "its mount {number} (type={kind}) {change}"),
        KeyPart::Epoch => write!(f, "SOURCE_DATE_EPOCH {change}"),
        KeyPart::Times => f.write_str("the times of files that steps see changed"),
        KeyPart::Sources => write!(f, "the value of a variable in its sources {change}"),
        KeyPart::Destination => {
            write!(f, "its path {change}, which depends on a variable or on the working folder")
        }
        KeyPart::Owner => write!(f, "the owner that it gives files {change}"),
        KeyPart::Mode => write!(f, "the mode that it gives files {change}"),
        KeyPart::Exclude => write!(f, "the value of a variable in its exclusions {change}"),
        KeyPart::Options => write!(f, "its options {change}"),
        KeyPart::Document => write!(f, "its document {change}"),
    }
}

fn write_files(f: &mut fmt::Formatter<'_>, changes: &[FileChange]) -> fmt::Result {
    let noun = if changes.len() == 1 { "file" } else { "files" };
    write!(f, "{} {noun} changed: ", changes.len())?;
    for (at, change) in changes.iter().take(NAMED_FILES).enumerate() {
        write!(f, "{}{change}", if at == 0 { "" } else { ", " })?;
    }
    match changes.len().saturating_sub(NAMED_FILES) {
        0 => Ok(()),
        more => write!(f, ", and {more} more"),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
