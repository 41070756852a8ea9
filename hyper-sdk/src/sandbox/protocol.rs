//! The protocol between the caller and its helper.
//!
//! ```text
//! main socket (SOCK_SEQPACKET, the helper's standard input)
//!   caller ▶ helper   Start, JSON               once, before anything else
//!   helper ▶ caller   Started, JSON             once, when its namespaces are ready
//!   caller ▶ helper   one byte + 3 descriptors  for each operation: control socket, output pipe, error pipe
//! control socket (SOCK_STREAM, one an operation)
//!   caller ▶ helper   frame: Request
//!   caller ▶ helper   Attend: frames of an Errand, each after the Reply to the one before
//!   caller ▶ helper   Apply, FillCache: frames of tar, an empty one at the end; a frame with the folders of the lower layers
//!   helper ▶ caller   frame: Reply
//! frame: length u32 little-endian, then as many bytes
//! ```
//! When one side closes a socket, the other side ends the work that belongs to it.

use super::userns::MappedIds;
use super::{ExitStatus, Identity, Isolation, NetworkPlace, RootFs, Rung, SandboxOptions};
use crate::layer::copy::CopyRequest;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::PathBuf;

/// The largest frame that is accepted.
pub(crate) const MAX_FRAME: usize = 256 << 20;

/// The first message to the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) options: SandboxOptions,
    /// Why it should not try to enter namespaces: another helper could not.
    pub(crate) no_namespaces: Option<String>,
}

/// The answer of the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Started {
    /// It is ready.
    Ready(Hello),
    /// It may not have namespaces, and ends. A new helper can go on without.
    NoNamespaces(Failure),
    /// It cannot start.
    Failed(Failure),
}

/// What the helper says when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) identity: Identity,
    /// Whether the helper runs in its own user namespace.
    pub(crate) user_namespace: bool,
    /// How far steps are separated.
    pub(crate) isolation: Isolation,
    /// Whether overlays can be mounted, or why not.
    pub(crate) overlay: std::result::Result<(), String>,
    /// The ids that files can have here.
    pub(crate) ids: MappedIds,
    /// Why there are not more ids.
    pub(crate) identity_reasons: Vec<String>,
    /// Why the isolation is not better.
    pub(crate) isolation_reasons: Vec<String>,
}

/// The step type of callers that run no steps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum NoStep {}

/// An operation; `S` is the data of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<S = NoStep> {
    /// Run a step on a tree: see [`super::Steps`]. Its output goes to the two pipes.
    Run {
        rootfs: RootFs,
        step: Box<S>,
    },
    /// Say whether a step can be restricted as it asks, without running it: see [`super::Steps::check`].
    Check {
        step: Box<S>,
    },
    /// Unpack the tar that follows on the control socket into `target`, on top of the layers that follow after it: a frame
    /// with a list of folders, topmost first. With `plain` the target is a whole tree, and whiteouts delete.
    Apply {
        target: PathBuf,
        plain: bool,
        /// A file with the exact times of the layer.
        times: Option<PathBuf>,
        /// Whether files whose owner cannot be set belong to the namespace's root.
        any_owner: bool,
    },
    /// Write the layer with the changes of `upper` on `lowers` (topmost first) to the output pipe, with exact times.
    Diff {
        upper: PathBuf,
        lowers: Vec<PathBuf>,
        /// `upper` is a whole tree that is compared with the one of `lowers`.
        plain: bool,
    },
    /// Write the layer of a file operation to the output pipe, with exact times.
    Copy {
        /// The sources; `true` marks a build context, whose owners are ignored.
        sources: Vec<(RootFs, bool)>,
        plan: CopyRequest,
    },
    /// Write the tree as a tar to the output pipe.
    Export {
        rootfs: RootFs,
        path: String,
        /// The indexes of the layers whose times apply, lowest first.
        published: Vec<PathBuf>,
        /// Whether their owners apply, too.
        owners: bool,
    },
    /// Write the layer of an index to the output pipe. Its files are in the folder `files`.
    Pack {
        files: PathBuf,
        index: PathBuf,
    },
    /// Write the files of the folder of a cache mount to the output pipe, with exact times.
    PackCache {
        folder: PathBuf,
    },
    /// Unpack the archive that follows on the control socket into the empty folder `staging`, and move that to `folder` when
    /// all of it has come, unless there is one. An empty list of folders follows after the archive.
    FillCache {
        folder: PathBuf,
        staging: PathBuf,
    },
    ReadFile {
        rootfs: RootFs,
        path: String,
        limit: u64,
    },
    /// Copy a whole tree into an existing empty folder.
    CopyTree {
        from: RootFs,
        to: PathBuf,
        /// A step will change the copy: see [`super::copied_folders`].
        for_step: bool,
    },
    /// Join the layers `run`, which lie on `rest` (topmost first), into the empty folder `target`, unless one of them has
    /// more than `limit` files.
    Join {
        run: Vec<PathBuf>,
        rest: Vec<PathBuf>,
        target: PathBuf,
        limit: usize,
    },
    /// Serve the requests that follow: see [`super::errand`].
    Attend,
    /// Say how steps are restricted here.
    Describe,
    /// Make the network of a build, which is there until the control socket closes.
    Network,
}

/// The result of an operation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Exited(ExitStatus),
    File(Option<Vec<u8>>),
    Usage {
        total: u64,
        parts: Vec<u64>,
    },
    /// The layer that has too many files for a join.
    Joined(Option<usize>),
    Described(Vec<Rung>),
    Network(NetworkPlace),
    Failed(Failure),
}

/// An error on its way to the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    message: String,
    context: Vec<(String, String)>,
    source: Option<String>,
}

const KINDS: &[ErrorKind] = &[
    ErrorKind::Invalid,
    ErrorKind::DigestInvalid,
    ErrorKind::NotFound,
    ErrorKind::Conflict,
    ErrorKind::Denied,
    ErrorKind::Unsupported,
    ErrorKind::TooLarge,
    ErrorKind::Cancelled,
    ErrorKind::Io,
    ErrorKind::StorageFull,
    ErrorKind::Corrupt,
];

/// The context keys that errors of the helper use; others travel as `detail`.
const KEYS: &[&str] =
    &["path", "program", "PATH", "user", "group", "target", "source", "entry", "file", "mount"];

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut source = None;
        let mut cause = std::error::Error::source(&error);
        while let Some(e) = cause {
            let text = e.to_string();
            source = Some(source.map_or_else(|| text.clone(), |before: String| format!("{before}: {text}")));
            cause = e.source();
        }
        Self {
            kind: error.kind().name().to_owned(),
            message: error.message().to_owned(),
            context: error.context().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            source,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind =
            KINDS.iter().copied().find(|kind| kind.name() == failure.kind).unwrap_or(ErrorKind::Internal);
        let mut error = Error::new(kind, failure.message);
        for (key, value) in failure.context {
            error = error.with_context(KEYS.iter().find(|known| **known == key).unwrap_or(&"detail"), value);
        }
        match failure.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

impl Reply {
    /// The reply as a result.
    pub(crate) fn into_result(self) -> Result<Self> {
        match self {
            Self::Failed(failure) => Err(failure.into()),
            reply => Ok(reply),
        }
    }
}

/// Writes one frame.
pub(crate) fn write_frame(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    let length =
        u32::try_from(bytes.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)
}

/// Reads one frame; `None` when the other side has closed.
pub(crate) fn read_frame(from: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < 4 {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// The tar that the caller sends in frames: a stream that ends cleanly only with its end mark.
pub(crate) struct FrameReader<'a, R> {
    from: &'a mut R,
    left: usize,
    ended: bool,
}

impl<'a, R: Read> FrameReader<'a, R> {
    pub(crate) fn new(from: &'a mut R) -> Self {
        Self { from, left: 0, ended: false }
    }

    /// The reader of what follows.
    pub(crate) fn into_inner(self) -> &'a mut R {
        self.from
    }
}

impl<R: Read> Read for FrameReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut length = [0; 4];
            self.from.read_exact(&mut length)?;
            self.left = u32::from_le_bytes(length) as usize;
            self.ended = self.left == 0;
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let length = buffer.len().min(self.left);
        let n = self.from.read(&mut buffer[..length])?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_an_end_mark_is_an_error() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, b"abc").unwrap();
        let mut text = Vec::new();
        assert!(FrameReader::new(&mut bytes.as_slice()).read_to_end(&mut text).is_err());
        write_frame(&mut bytes, b"").unwrap();
        text.clear();
        FrameReader::new(&mut bytes.as_slice()).read_to_end(&mut text).unwrap();
        assert_eq!(text, b"abc");
    }

    #[test]
    fn errors_keep_kind_context_and_cause() {
        let error = Error::io("cannot read", "/x", std::io::Error::from(std::io::ErrorKind::NotFound));
        let text = serde_json::to_string(&Reply::Failed(error.into())).unwrap();
        let error = serde_json::from_str::<Reply>(&text).unwrap().into_result().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.context_value("path"), Some("/x"));
        assert!(std::error::Error::source(&error).is_some());
    }
}
