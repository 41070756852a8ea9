//! The tokio runtime of a program, for hosts with few threads and file descriptors.
//!
//! A runtime panics when it cannot start a thread, and blocking work without a thread waits forever. So this module
//! first checks whether there are enough threads and descriptors, and keeps some threads for blocking work, which are
//! used when the system allows no more threads later.

#[cfg(feature = "build")]
mod allocator;
mod name_services;

#[cfg(feature = "build")]
pub use allocator::keep_little_memory;
pub use name_services::use_own_name_services;

use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The number of threads that are kept for blocking work.
const BLOCKING: usize = 6;
/// The number of descriptors that the runtime and the first files need.
const DESCRIPTORS: usize = 24;
/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Starts the runtime of this process, with a thread for each processor.
///
/// ```
/// let four = hyper_sdk::runtime::start()?.block_on(async { 2 + 2 });
/// assert_eq!(four, 4);
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Io`] when the system gives this process too few threads or descriptors.
pub fn start() -> Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    try_descriptors()?;
    try_threads(workers + BLOCKING)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_keep_alive(FOR_EVER)
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Io, "cannot start the runtime").with_source(e))?;
    keep_threads(&runtime);
    Ok(runtime)
}

fn try_descriptors() -> Result<()> {
    let few = |e| {
        let message = "the system lets this program open too few files: raise the limit with `ulimit -n`";
        Error::new(ErrorKind::Io, message).with_source(e)
    };
    let first = File::open("/").map_err(few)?;
    (1..DESCRIPTORS).map(|_| first.try_clone()).collect::<std::io::Result<Vec<_>>>().map(drop).map_err(few)
}

fn try_threads(wanted: usize) -> Result<()> {
    let (end, wait) = channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for _ in 0..wanted {
        let wait = Arc::clone(&wait);
        let body = move || {
            // The thread ends when the sender is dropped.
            let _ = wait.lock().unwrap_or_else(PoisonError::into_inner).recv();
        };
        match std::thread::Builder::new().spawn(body) {
            Ok(thread) => threads.push(thread),
            Err(e) => {
                let message =
                    "the system lets this program start too few threads: raise the limit with `ulimit -u`";
                outcome = Err(Error::new(ErrorKind::Io, message).with_source(e));
                break;
            }
        }
    }
    drop(end);
    for thread in threads {
        let _ = thread.join();
    }
    outcome
}

/// Starts threads for blocking work, which are never stopped.
fn keep_threads(runtime: &Runtime) {
    let (end, wait) = channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    for _ in 0..BLOCKING {
        let wait = Arc::clone(&wait);
        // Each task waits, so that the next one needs its own thread.
        runtime.spawn_blocking(move || {
            let _ = wait.lock().unwrap_or_else(PoisonError::into_inner).recv();
        });
    }
    drop(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_starts() {
        let runtime = start().unwrap();
        assert_eq!(runtime.block_on(async { tokio::task::spawn_blocking(|| 7).await.unwrap() }), 7);
    }
}
