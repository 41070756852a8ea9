//! The version of the database, by which a server detects the changes of others.
//!
//! The row `registry_state` has a random number, which every transaction with a visible change replaces. A random number
//! never comes back, unlike a count after a failover that lost transactions.
//!
//! ```text
//!   callers ──reply channel──▶ queue ──▶ one connection: one query for all that wait
//! ```
//!
//! The query begins after its callers have asked, so its answer includes every change that was acknowledged before.

use super::error::{is_lost, sql_error};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The most callers that one query answers.
const BATCH: usize = 4096;
/// How long a query may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long nobody is made to wait for a database that did not answer.
const PAUSE: Duration = Duration::from_millis(500);

type Reply = oneshot::Sender<Option<u64>>;

/// Asks for the version. The task ends with the value.
#[derive(Debug)]
pub(super) struct Versions(mpsc::Sender<Reply>);

impl Versions {
    pub(super) fn start(options: PgConnectOptions, place: Arc<str>) -> Self {
        let (sender, queue) = mpsc::channel(BATCH);
        tokio::spawn(work(options, place, queue));
        Self(sender)
    }

    /// The version, or `None` when the database does not answer.
    pub(super) async fn now(&self) -> Option<u64> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        answer.await.ok()?
    }
}

async fn work(options: PgConnectOptions, place: Arc<str>, mut queue: mpsc::Receiver<Reply>) {
    let (mut replies, mut open) = (Vec::with_capacity(64), None);
    let mut failed: Option<Instant> = None;
    while queue.recv_many(&mut replies, BATCH).await != 0 {
        let version = if failed.is_some_and(|at| at.elapsed() < PAUSE) {
            None
        } else {
            match tokio::time::timeout(TIMEOUT, ask(&options, &mut open)).await {
                Ok(Ok(version)) => Some(version.cast_unsigned()),
                Ok(Err(e)) => {
                    tracing::debug!(error = %sql_error(&place, e), "the version of the database cannot be read");
                    None
                }
                Err(_) => None,
            }
        };
        if version.is_none() {
            open = None;
            failed = failed.filter(|at| at.elapsed() < PAUSE).or_else(|| Some(Instant::now()));
        }
        for reply in replies.drain(..) {
            // Who has gone does not need it.
            let _ = reply.send(version);
        }
    }
}

/// Asks once more on a new connection when the old one was lost, as by a restart of the database.
async fn ask(options: &PgConnectOptions, open: &mut Option<PgConnection>) -> sqlx::Result<i64> {
    if let Some(connection) = open {
        match query(connection).await {
            Err(e) if is_lost(&e) => {}
            outcome => return outcome,
        }
    }
    query(open.insert(options.connect().await?)).await
}

async fn query(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT kept_version FROM registry_state").fetch_one(connection).await
}
