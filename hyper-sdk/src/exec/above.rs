//! The process above the command of a step: what it tells the operation, and how it waits.

use super::mountpoint::Made;
use crate::Result;
use crate::sandbox::records::StepRecord;
use crate::sandbox::{Failure, sys, write_frame};
use serde::{Deserialize, Serialize};
use std::fs::File;

/// The signals that the process above the command waits for.
pub(super) const SIGNALS: &[i32] = &[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// A message of pid 1 or the command to the operation.
#[derive(Serialize, Deserialize)]
pub(super) enum Status {
    /// The mount points that were made in the tree.
    Made(Vec<Made>),
    /// The reason why the command could not be started.
    Failed(Failure),
    /// The owners that the step set and that its files cannot record.
    Owners(StepRecord),
}

impl Status {
    /// Sends the message. Without a reader this process is about to be killed.
    pub(super) fn send(&self, mut to: &File) {
        let text = serde_json::to_vec(self).expect("plain data");
        write_frame(&mut to, &text).ok();
    }
}

/// Waits for the command, and for orphans that end before it. Returns its exit code.
pub(super) fn wait_for(child: i32) -> Result<i32> {
    loop {
        match sys::next_signal(SIGNALS) {
            Some(signal @ (libc::SIGTERM | libc::SIGINT)) => sys::kill(child, signal),
            // The operation is gone, or ends the step.
            Some(libc::SIGHUP) => return Ok(128 + libc::SIGKILL),
            _ => {
                while let Some((pid, code)) = sys::wait(-1, false)? {
                    if pid == child {
                        return Ok(code);
                    }
                }
            }
        }
    }
}
