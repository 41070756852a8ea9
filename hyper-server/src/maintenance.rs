//! The maintenance task of a registry: it removes idle uploads.

use crate::state::State;
use hyper_sdk::ErrorKind;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;

/// Starts the maintenance task, once for each registry. Without a runtime, a later call starts it. The task ends when
/// the registry is dropped.
pub(crate) fn start(state: &Arc<State>) {
    if state.has_maintenance.load(Ordering::Relaxed) {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return };
    if state.has_maintenance.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Some(age) = state.options.upload_max_age.filter(|_| !state.options.read_only) {
        runtime.spawn(expire_uploads(Arc::downgrade(state), age));
    }
}

async fn expire_uploads(state: Weak<State>, age: Duration) {
    let pause = (age / 4).clamp(Duration::from_millis(100), Duration::from_secs(600));
    loop {
        tokio::time::sleep(pause).await;
        let Some(state) = state.upgrade() else { return };
        match state.store.expire_uploads(age).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "idle uploads were removed"),
            Err(e) if e.kind() == ErrorKind::Unsupported => return,
            Err(error) => tracing::warn!(%error, "idle uploads cannot be removed"),
        }
    }
}
