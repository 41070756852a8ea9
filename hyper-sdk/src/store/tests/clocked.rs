//! Metadata backends whose clock a test turns: in memory, in SQLite and in PostgreSQL.

use crate::clock::{Clock as _, SystemClock};
use crate::store::blob::MemoryBlobs;
use crate::store::meta::{MemoryMeta, SqlMeta};
use crate::store::{Composed, SharedStore};
use crate::testing::FrozenClock;
use std::path::Path;
use std::sync::Arc;

/// Turns the clock of a backend forward by so many seconds, or back.
pub(super) type Turn = Arc<dyn Fn(i64) + Send + Sync>;

/// A clock that stands at the time of now.
pub(super) fn frozen() -> (Arc<FrozenClock>, Turn) {
    let clock = Arc::new(FrozenClock::new(SystemClock.now()));
    let its = clock.clone();
    (clock, Arc::new(move |seconds| its.advance(seconds)))
}

pub(super) fn memory() -> (Composed<MemoryBlobs, MemoryMeta>, Turn) {
    let (clock, turn) = frozen();
    (Composed::new(MemoryBlobs::default(), MemoryMeta::with_clock(clock)), turn)
}

pub(super) async fn sqlite(folder: &Path) -> (Composed<MemoryBlobs, SqlMeta>, Turn) {
    let (clock, turn) = frozen();
    let meta = SqlMeta::open_with_clock(folder.join("clocked.db"), clock).await.unwrap();
    (Composed::new(MemoryBlobs::default(), meta), turn)
}

/// The URL of a database, where there is a server. Its schema has a clock of its own, which goes on as that of the server does.
#[cfg(feature = "store-postgres")]
pub(super) fn postgres(test: &str) -> Option<(String, Turn)> {
    let server = super::postgres::server(test)?;
    let url = server.url(test);
    let schema = url.rsplit("%3D").next().unwrap().to_owned();
    server.sql(
        "postgres",
        &format!(
            "CREATE TABLE {schema}.clock (ahead DOUBLE PRECISION); INSERT INTO {schema}.clock VALUES (0); \
             CREATE FUNCTION {schema}.clock_timestamp() RETURNS TIMESTAMPTZ LANGUAGE sql VOLATILE AS $$ \
             SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT ahead FROM {schema}.clock)) $$"
        ),
    );
    let turn = move |seconds: i64| {
        server.sql("postgres", &format!("UPDATE {schema}.clock SET ahead = ahead + {seconds}"));
    };
    // Functions of the schema come before those of the system.
    Some((format!("{url}%2Cpg_catalog"), Arc::new(turn)))
}

/// An empty store on each of the backends.
pub(super) async fn stores(test: &str, folder: &Path) -> Vec<(SharedStore, Turn)> {
    let ((memory, of_memory), (sqlite, of_sqlite)) = (memory(), sqlite(folder).await);
    let mut stores: Vec<(SharedStore, Turn)> =
        vec![(Arc::new(memory), of_memory), (Arc::new(sqlite), of_sqlite)];
    #[cfg(feature = "store-postgres")]
    if let Some((url, turn)) = postgres(test) {
        let meta = super::postgres::connect(&url).await;
        stores.push((Arc::new(Composed::new(MemoryBlobs::default(), meta)), turn));
    }
    let _ = (test, &mut stores);
    stores
}
