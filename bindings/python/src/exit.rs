//! The end of the program. A thread that takes the GIL while Python finalizes crashes the process, so that nothing of Rust
//! may be on its way to Python by then.
//!
//! ```text
//!   atexit ─▶ at_exit ─▶ every coroutine's task ends ─▶ its work on file objects is cancelled ─▶ wait until both are gone
//! ```

use pyo3::prelude::*;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long the end of the program waits for a call of a file object. Nobody can interrupt one that blocks.
const PATIENCE: Duration = Duration::from_secs(1);

static ENDING: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));
static ENGAGED: Mutex<usize> = Mutex::new(0);
static DISENGAGED: Condvar = Condvar::new();

/// Work on a thread of Rust that calls Python until this is dropped.
pub(crate) struct Engaged(());

impl Engaged {
    pub(crate) fn new() -> Self {
        *ENGAGED.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for Engaged {
    fn drop(&mut self) {
        *ENGAGED.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        DISENGAGED.notify_all();
    }
}

/// Tells when the program ends.
pub(crate) struct Ending(watch::Receiver<bool>);

impl Ending {
    pub(crate) fn new() -> Self {
        Self(ENDING.subscribe())
    }

    pub(crate) async fn wait(&mut self) {
        // The sender is never dropped.
        let _ = self.0.wait_for(|ending| *ending).await;
    }

    /// Whether the program ends: what is started now would not be waited for.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }
}

/// Ends the work of coroutines that nobody awaits any more, and waits until no thread of Rust calls Python.
#[pyfunction]
#[pyo3(name = "_at_exit")]
pub(crate) fn at_exit(py: Python<'_>) {
    if !crate::operation::is_started() {
        return;
    }
    ENDING.send_replace(true);
    py.detach(|| {
        let engaged = ENGAGED.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = DISENGAGED.wait_timeout_while(engaged, PATIENCE, |engaged| *engaged > 0);
    });
}
