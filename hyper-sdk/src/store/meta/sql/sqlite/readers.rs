//! The read connections, which also work when the disk is full.
//!
//! The first connection to a database with a write-ahead log creates the index of the log, a file of 32 KiB. A full
//! disk has no space for it, but reading must work without space: a reader then locks the whole database and keeps the
//! index in memory ("WAL without shared memory" in the documentation of SQLite). It releases the lock after each use,
//! so that other processes get it, and so that the normal way is used again once there is space.
//!
//! Two connections that want the whole database at the same time block each other, even with the busy timeout of
//! SQLite, so the readers retry here after random pauses.

use super::error::{is_busy, is_full};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteLockingMode, SqlitePool, SqlitePoolOptions};
use std::time::{Duration, Instant};

/// The number of read connections.
const READERS: u32 = 4;

#[derive(Debug)]
pub(super) struct Readers {
    shared: SqlitePool,
    /// A single connection that is closed after each use. `None` for a database that is never written.
    alone: Option<SqlitePool>,
    /// How long a reader waits for the lock.
    timeout: Duration,
}

impl Readers {
    /// Readers of a database that can change. The connections are opened when they are needed.
    pub(super) fn new(options: SqliteConnectOptions, timeout: Duration) -> Self {
        let shared = pool(READERS).connect_lazy_with(options.clone());
        let options = options.locking_mode(SqliteLockingMode::Exclusive).busy_timeout(Duration::ZERO);
        let closing = pool(1).after_release(|_, _| Box::pin(std::future::ready(Ok(false))));
        Self { shared, alone: Some(closing.connect_lazy_with(options)), timeout }
    }

    /// Readers of an immutable database.
    pub(super) fn unchanging(options: SqliteConnectOptions) -> Self {
        Self { shared: pool(READERS).connect_lazy_with(options), alone: None, timeout: Duration::ZERO }
    }

    /// A connection that shares the database with others, which a full disk can prevent.
    pub(super) async fn shared(&self) -> sqlx::Result<PoolConnection<Sqlite>> {
        self.shared.acquire().await
    }

    /// A connection.
    pub(super) async fn get(&self) -> sqlx::Result<PoolConnection<Sqlite>> {
        let start = Instant::now();
        loop {
            let outcome = match (self.shared.acquire().await, &self.alone) {
                (Err(e), Some(alone)) if is_full(&e) => alone.acquire().await,
                (outcome, _) => return outcome,
            };
            match outcome {
                Err(e) if is_busy(&e) && start.elapsed() < self.timeout => pause().await,
                outcome => return outcome,
            }
        }
    }
}

/// Waits for a random time of some milliseconds.
async fn pause() {
    let mut random = [0];
    // Without random bytes the pause is a fixed one.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    tokio::time::sleep(Duration::from_millis(1 + u64::from(random[0] / 8))).await;
}

/// A pool whose connections stay open.
pub(super) fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}
