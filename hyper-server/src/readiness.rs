//! `/readyz`: whether the store can be read and, unless the registry is read-only, written.
//!
//! Reading one row does not show that a disk is full, so the probe makes an upload and aborts it. That costs a few
//! syncs of the disk, and any client may ask for it, so a result is reused for one second.

use hyper_sdk::store::errors::is_quota_exceeded;
use hyper_sdk::store::{Page, SharedStore, UploadOptions};
use hyper_sdk::{Error, ErrorKind, RepositoryName, Result};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long a result is reused.
const VALID_FOR: Duration = Duration::from_secs(1);
/// The time limit of the probe.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The repository of the upload. An upload does not create a repository.
const REPOSITORY: &str = "readyz";

/// The last result and its time.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Option<(Instant, Failure)>>);

/// The error of a failed probe; `None` after a successful one.
type Failure = Option<(ErrorKind, String)>;

impl Readiness {
    /// Probes the store, or returns the result of a recent probe.
    ///
    /// # Errors
    /// The error of the store.
    pub(crate) async fn check(&self, store: &SharedStore, write: bool) -> Result<()> {
        // Concurrent callers wait for the same result.
        let mut last = self.0.lock().await;
        let wrong = match &*last {
            Some((at, wrong)) if at.elapsed() < VALID_FOR => wrong.clone(),
            _ => {
                // A separate task ends the upload even after the timeout.
                let asked = tokio::spawn(probe(store.clone(), write));
                let wrong = match tokio::time::timeout(TIMEOUT, asked).await {
                    Ok(Ok(Ok(()))) => None,
                    Ok(Ok(Err(e))) => {
                        tracing::warn!(error = %e, "the store is not ready");
                        Some((e.kind(), e.to_string()))
                    }
                    Ok(Err(e)) => Some((ErrorKind::Internal, e.to_string())),
                    Err(_) => Some((ErrorKind::Timeout, "the store does not respond".to_owned())),
                };
                *last = Some((Instant::now(), wrong.clone()));
                wrong
            }
        };
        wrong.map_or(Ok(()), |(kind, why)| Err(Error::new(kind, why)))
    }
}

async fn probe(store: SharedStore, write: bool) -> Result<()> {
    match store.list_repositories(Page { limit: Some(1), after: None }).await {
        Err(e) if e.kind() != ErrorKind::Unsupported => return Err(e),
        _ => {}
    }
    if !write {
        return Ok(());
    }
    let repository = RepositoryName::parse(REPOSITORY)?;
    let mut upload = match store.start_upload(&repository, UploadOptions::default()).await {
        Err(e) if is_quota_exceeded(&e) => return Ok(()),
        started => started?,
    };
    let written = match upload.append(bytes::Bytes::from_static(b"ready?")).await {
        Ok(()) => upload.save().await,
        // A quota that is reached is the answer of a store that can be written.
        Err(e) if is_quota_exceeded(&e) => Ok(()),
        Err(e) => Err(e),
    };
    let ended = upload.abort().await;
    written.and(ended)
}
