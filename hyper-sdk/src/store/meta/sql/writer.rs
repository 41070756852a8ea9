//! The one writer of a process: takes every change that waits and commits them together.
//!
//! # Invariants
//! - A change that is refused has written nothing (see [`super::changes`]), so the others of its batch go on.
//! - When the database itself fails, the batch is rolled back and each change is tried alone, so that only the guilty
//!   one fails.
//! - A caller that goes away does not stop its change.

use super::changes::{Stop, apply};
use super::error::sql_error;
use crate::store::meta::Change;
use crate::{Error, ErrorKind, Result};
use sqlx::{Connection as _, SqliteConnection};
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// The most changes in one transaction.
const BATCH: usize = 128;
/// How many changes may wait before callers wait to be taken.
const QUEUE: usize = 1024;

#[derive(Debug)]
pub(super) struct Writer(mpsc::Sender<Job>);

#[derive(Debug)]
struct Job {
    change: Change,
    reply: oneshot::Sender<Result<u64>>,
}

impl Writer {
    /// Starts the task that writes. It ends, and closes the connection, when the value is dropped and the queue empty.
    pub(super) fn start(connection: SqliteConnection, path: PathBuf) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(work(connection, path, receiver));
        Self(sender)
    }

    pub(super) async fn write(&self, change: Change) -> Result<u64> {
        let closed = || Error::new(ErrorKind::Unavailable, "the database was closed");
        let (reply, answer) = oneshot::channel();
        self.0.send(Job { change, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

async fn work(mut connection: SqliteConnection, path: PathBuf, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut jobs, BATCH).await != 0 {
        let (changes, replies): (Vec<Change>, Vec<_>) = jobs.drain(..).map(|j| (j.change, j.reply)).unzip();
        let outcomes = write_all(&mut connection, &path, &changes).await;
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // A caller that has gone does not want to know.
            let _ = reply.send(outcome);
        }
    }
    if let Err(e) = connection.close().await {
        tracing::warn!(path = %path.display(), error = %e, "the database did not close cleanly");
    }
}

async fn write_all(connection: &mut SqliteConnection, path: &Path, changes: &[Change]) -> Vec<Result<u64>> {
    match write_together(connection, changes).await {
        Ok(outcomes) => outcomes,
        Err(e) if changes.len() == 1 => vec![Err(sql_error(path, e))],
        Err(_) => {
            let mut outcomes = Vec::with_capacity(changes.len());
            for change in changes {
                let alone = write_together(connection, std::slice::from_ref(change)).await;
                outcomes.push(match alone.map(|mut outcomes| outcomes.pop()) {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => Err(Error::internal("the writer lost a change")),
                    Err(e) => Err(sql_error(path, e)),
                });
            }
            outcomes
        }
    }
}

async fn write_together(
    connection: &mut SqliteConnection,
    changes: &[Change],
) -> sqlx::Result<Vec<Result<u64>>> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut outcomes = Vec::with_capacity(changes.len());
    for change in changes {
        match apply(&mut transaction, change).await {
            Ok(size) => outcomes.push(Ok(size)),
            Err(Stop::Refused(e)) => outcomes.push(Err(e)),
            Err(Stop::Failed(e)) => {
                transaction.rollback().await?;
                return Err(e);
            }
        }
    }
    transaction.commit().await?;
    Ok(outcomes)
}
