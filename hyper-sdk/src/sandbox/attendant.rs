//! Short requests, which one process of the helper serves after another: a step needs several, and a process for each
//! would cost more than what it does.
//!
//! An attendant serves one caller at a time, who closes it when it does not wait for the answer any more. It is used again
//! only after an answer without an error, so each request finds it as a new process would be.

use super::protocol::{Reply, Request, write_frame};
use super::{Context, Sandbox, client, helper, read_frame, tree};
use crate::{Error, ErrorKind, Result};
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
    fn take(&self) -> Option<UnixStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Ends those that wait. A helper that is given up waits for them.
    pub(super) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps one for the next request.
    fn put_back(&self, control: UnixStream) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.push(control);
        }
    }
}

impl Sandbox {
    /// Has an attendant serve a request, and returns its reply. Dropping the future ends the attendant.
    pub(crate) async fn errand(&self, errand: &Errand) -> Result<Reply> {
        let (control, is_new) = self.attendant(errand)?;
        match Self::answer(control).await {
            // It may have died with its helper since its last request.
            Err(e) if !is_new && is_lost(&e) => {
                self.conclude(Self::answer(self.new_attendant(errand)?).await)
            }
            answered => self.conclude(answered),
        }
    }

    /// The same on this thread.
    pub(crate) fn errand_blocking(&self, errand: &Errand) -> Result<Reply> {
        let answer = |mut control: UnixStream| client::read_reply(&mut control).map(|reply| (control, reply));
        let (control, is_new) = self.attendant(errand)?;
        match answer(control) {
            Err(e) if !is_new && is_lost(&e) => self.conclude(answer(self.new_attendant(errand)?)),
            answered => self.conclude(answered),
        }
    }

    /// An attendant that has the request, and whether it is a new one.
    fn attendant(&self, errand: &Errand) -> Result<(UnixStream, bool)> {
        if let Some(mut control) = self.attendants().take()
            && send(&mut control, errand).is_ok()
        {
            return Ok((control, false));
        }
        self.new_attendant(errand).map(|control| (control, true))
    }

    fn new_attendant(&self, errand: &Errand) -> Result<UnixStream> {
        let mut control = self.begin::<super::protocol::NoStep>(&Request::Attend)?.into_control();
        send(&mut control, errand)
            .map_err(|e| Error::internal("the sandbox helper does not listen").with_source(e))?;
        Ok(control)
    }

    async fn answer(control: UnixStream) -> Result<(UnixStream, Reply)> {
        let mut control = client::Control::new(control)?;
        let reply = control.reply().await?;
        Ok((control.into_std()?, reply))
    }

    fn conclude(&self, answered: Result<(UnixStream, Reply)>) -> Result<Reply> {
        let (control, reply) = answered?;
        self.attendants().put_back(control);
        Ok(reply)
    }
}

/// Whether a process ended without an answer.
fn is_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::Internal
}

fn send(control: &mut UnixStream, errand: &Errand) -> std::io::Result<()> {
    write_frame(control, &serde_json::to_vec(errand).expect("plain data"))
}

/// Serves requests in the process of an operation until the caller closes the socket. Returns the exit code.
pub(super) fn attend(mut control: UnixStream, context: Context) -> i32 {
    if helper::exit_with_caller(&control).is_err() {
        return 1;
    }
    while let Ok(Some(bytes)) = read_frame(&mut control) {
        let Ok(errand) = serde_json::from_slice(&bytes) else { return 1 };
        if helper::answer(&mut control, |_| serve(errand, context)).is_err() {
            return 1;
        }
    }
    0
}

fn serve(errand: Errand, context: Context) -> Result<Reply> {
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
