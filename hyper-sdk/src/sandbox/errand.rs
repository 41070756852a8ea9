//! Short requests, which one process of the helper serves after another: a step needs several, and a process for each
//! would cost more than what it does.
//!
//! Such an attendant serves one caller at a time, who closes it when it does not wait for the answer any more. It is used
//! again only after an answer without an error, so each request finds it as a new process would be.

use super::protocol::Reply;
use super::{Context, tree};
use crate::Result;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// How many attendants wait for their next request.
const WAITING: usize = 2;

/// A short request. It can be repeated, and leaves nothing in the process that serves it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Errand {
    /// Give the empty upper folder of an overlay owner, mode, time and attributes of its topmost lower folder: the
    /// overlay shows those of the upper one.
    InheritRoot { lower: PathBuf, upper: PathBuf },
    /// Remove whole trees.
    Remove { paths: Vec<PathBuf> },
    /// Count the bytes that a folder and its parts take on the disk.
    Usage { root: PathBuf, parts: Vec<PathBuf> },
}

/// The attendants that wait. They end when this is dropped.
#[derive(Default)]
pub(super) struct Attendants(Mutex<Vec<UnixStream>>);

impl Attendants {
    pub(super) fn take(&self) -> Option<UnixStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Ends those that wait. A helper that is given up waits for them.
    pub(super) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps one for the next request.
    pub(super) fn put_back(&self, control: UnixStream) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.push(control);
        }
    }
}

/// Serves a request.
pub(super) fn serve(errand: Errand, context: Context) -> Result<Reply> {
    match errand {
        Errand::InheritRoot { lower, upper } => {
            tree::inherit_root(&lower, &upper, context)?;
            Ok(Reply::Done)
        }
        Errand::Remove { paths } => {
            crate::remove_tree::remove_all(&paths, tree::remove)?;
            Ok(Reply::Done)
        }
        Errand::Usage { root, parts } => {
            let usage = crate::disk_usage::disk_usage(&root, &parts);
            Ok(Reply::Usage { total: usage.total, parts: usage.parts })
        }
    }
}
