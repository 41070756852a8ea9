//! The queue of changes of a process: a task takes all that wait, and commits them together.
//!
//! A caller that drops its future does not stop its change.

use crate::store::ChangeContext;
use crate::store::meta::Change;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The largest number of changes in one transaction.
const BATCH: usize = 128;
/// The size of the queue. Callers wait while it is full.
const QUEUE: usize = 1024;

/// What commits changes.
pub(super) trait Session: Send + 'static {
    /// Applies the changes, and returns the outcome of each.
    fn write_all(&mut self, changes: &[Asked]) -> impl Future<Output = Vec<Result<u64>>> + Send;

    /// Closes the connection.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// The queue. The task ends, and closes its session, when the value is dropped and the queue is empty.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<Job>);

/// A change, and who makes it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) change: Change,
    pub(super) by: Option<Arc<ChangeContext>>,
}

#[derive(Debug)]
struct Job {
    asked: Asked,
    reply: oneshot::Sender<Result<u64>>,
}

impl Queue {
    pub(super) fn start(session: impl Session) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(work(session, receiver));
        Self(sender)
    }

    pub(super) async fn write(&self, change: Change) -> Result<u64> {
        let closed = || Error::new(ErrorKind::Unavailable, "the database was closed");
        let (reply, answer) = oneshot::channel();
        // Of the task that asks: the change is made in another one.
        let asked = Asked { change, by: ChangeContext::current() };
        self.0.send(Job { asked, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

async fn work(mut session: impl Session, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut jobs, BATCH).await != 0 {
        let (changes, replies): (Vec<Asked>, Vec<_>) = jobs.drain(..).map(|j| (j.asked, j.reply)).unzip();
        let outcomes = session.write_all(&changes).await;
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // A caller that has dropped its future gets no result.
            let _ = reply.send(outcome);
        }
    }
    session.close().await;
}

/// Whether no other change of the batch has to survive a power failure, so that its commit need not wait for the disk.
pub(super) fn are_leases(changes: &[Asked]) -> bool {
    changes
        .iter()
        .all(|asked| matches!(asked.change, Change::LeaseBlob { .. } | Change::NotePulls { lost: false, .. }))
}
