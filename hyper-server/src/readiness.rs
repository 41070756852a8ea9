//! `/readyz`: whether the store can be read and, unless the registry is read-only, written.
//!
//! Reading one row does not show that a disk is full, so the probe makes an upload and aborts it. That costs a few
//! syncs of the disk, and any client may ask for it, so a result is reused for one second.

use hyper_sdk::store::errors::is_quota_exceeded;
use hyper_sdk::store::{Page, SharedStore, UploadOptions};
use hyper_sdk::{Error, ErrorKind, RepositoryName, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long a result is reused.
const VALID_FOR: Duration = Duration::from_secs(1);
/// How long the metrics show a result: whoever asks for them makes few probes.
const SHOWN_FOR: Duration = Duration::from_secs(30);
/// The time limit of the probe.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The repository of the upload. An upload does not create a repository.
const REPOSITORY: &str = "readyz";

/// The last result and its time.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Arc<Mutex<Option<(Instant, Failure)>>>);

/// The error of a failed probe; `None` after a successful one.
type Failure = Option<(ErrorKind, String)>;

impl Readiness {
    /// Probes the store, or returns the result of a recent probe.
    ///
    /// # Errors
    /// The error of the store.
    pub(crate) async fn check(&self, store: &SharedStore, write: bool) -> Result<()> {
        self.known_for(VALID_FOR, store, write).await
    }

    /// The result of a probe that is at most as old as metrics may be, else of a new one.
    pub(crate) async fn is_ready(&self, store: &SharedStore, write: bool) -> bool {
        self.known_for(SHOWN_FOR, store, write).await.is_ok()
    }

    async fn known_for(&self, age: Duration, store: &SharedStore, write: bool) -> Result<()> {
        // Concurrent callers wait for the same result.
        let mut last = self.0.clone().lock_owned().await;
        let known = last.as_ref().filter(|(at, _)| at.elapsed() < age).map(|(_, wrong)| wrong.clone());
        let wrong = match known {
            Some(wrong) => wrong,
            None => {
                let store = store.clone();
                // A separate task: the result is there also when the caller has gone.
                let asked = tokio::spawn(async move {
                    let wrong = probe_in_time(store, write).await;
                    *last = Some((Instant::now(), wrong.clone()));
                    wrong
                });
                asked.await.unwrap_or_else(|e| Some((ErrorKind::Internal, e.to_string())))
            }
        };
        wrong.map_or(Ok(()), |(kind, why)| Err(Error::new(kind, why)))
    }
}

async fn probe_in_time(store: SharedStore, write: bool) -> Failure {
    // A separate task ends the upload even after the timeout.
    let asked = tokio::spawn(probe(store, write));
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(e))) => {
            tracing::warn!(error = %e, "the store is not ready");
            Some((e.kind(), e.to_string()))
        }
        Ok(Err(e)) => Some((ErrorKind::Internal, e.to_string())),
        Err(_) => Some((ErrorKind::Timeout, "the store does not respond".to_owned())),
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
