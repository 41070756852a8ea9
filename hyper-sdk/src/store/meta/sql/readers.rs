//! The connections that read, also when the disk is full.
//!
//! The first connection to a database with a write-ahead log makes the index of the log, a file of 32 KiB beside it. A
//! full disk has no room for that, and reading must not need any: a reader then takes the lock of the whole database and
//! keeps the index in its memory ("WAL without shared memory" in the documentation of SQLite). It gives the lock back
//! after each use, so that other processes come to their turn, and that the usual way is taken again once there is space.
//!
//! Two that want the whole database at once refuse each other, also when both wait the way SQLite does, so the waiting is
//! done here, for times that differ.

use super::error::{is_busy, is_full};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteLockingMode, SqlitePool, SqlitePoolOptions};
use std::time::{Duration, Instant};

/// How many connections read at once.
const READERS: u32 = 4;

#[derive(Debug)]
pub(super) struct Readers {
    shared: SqlitePool,
    /// One connection, which lives for one use. `None` where nothing is ever written.
    alone: Option<SqlitePool>,
    /// How long a reader waits for its turn.
    patience: Duration,
}

impl Readers {
    /// Readers of a database that changes. The connections are made when they are asked for.
    pub(super) fn new(options: SqliteConnectOptions, patience: Duration) -> Self {
        let shared = pool(READERS).connect_lazy_with(options.clone());
        let options = options.locking_mode(SqliteLockingMode::Exclusive).busy_timeout(Duration::ZERO);
        let closing = pool(1).after_release(|_, _| Box::pin(std::future::ready(Ok(false))));
        Self { shared, alone: Some(closing.connect_lazy_with(options)), patience }
    }

    /// Readers of a database that never changes.
    pub(super) fn unchanging(options: SqliteConnectOptions) -> Self {
        Self { shared: pool(READERS).connect_lazy_with(options), alone: None, patience: Duration::ZERO }
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
                Err(e) if is_busy(&e) && start.elapsed() < self.patience => pause().await,
                outcome => return outcome,
            }
        }
    }
}

/// Waits for some milliseconds, hardly ever as long as others do.
async fn pause() {
    let mut random = [0];
    // Without random bytes the wait is only less well chosen.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    tokio::time::sleep(Duration::from_millis(1 + u64::from(random[0] / 8))).await;
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}
