//! Whether the store can be read and, when it is there to be written, written: `/readyz`.
//!
//! Reading one row says little of a disk that is full, so the probe goes the way of an upload, up to its end. That
//! costs a few syncs of the disk, which anybody may ask for, so one answer is good for a second.

use hyper_sdk::store::{Page, SharedStore, UploadOptions};
use hyper_sdk::{Error, ErrorKind, RepositoryName, Result};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer is reused.
const VALID_FOR: Duration = Duration::from_secs(1);
/// How long the store may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Whose upload it is. Uploads do not make a repository.
const REPOSITORY: &str = "readyz";

/// The last answer: its time, and what was wrong.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Option<(Instant, Failure)>>);

/// What was wrong, if anything.
type Failure = Option<(ErrorKind, String)>;

impl Readiness {
    /// Whether a store can be used, as far as this or a recent probe shows.
    ///
    /// # Errors
    /// What is wrong with the store.
    pub(crate) async fn check(&self, store: &SharedStore, write: bool) -> Result<()> {
        // Whoever asks meanwhile waits for the same answer.
        let mut last = self.0.lock().await;
        let wrong = match &*last {
            Some((at, wrong)) if at.elapsed() < VALID_FOR => wrong.clone(),
            _ => {
                // A task of its own ends the upload also when nobody waits for it any more.
                let asked = tokio::spawn(probe(store.clone(), write));
                let wrong = match tokio::time::timeout(TIMEOUT, asked).await {
                    Ok(Ok(Ok(()))) => None,
                    Ok(Ok(Err(e))) => {
                        tracing::warn!(error = %e, "the store is not ready");
                        Some((e.kind(), e.to_string()))
                    }
                    Ok(Err(e)) => Some((ErrorKind::Internal, e.to_string())),
                    Err(_) => Some((ErrorKind::Timeout, "the store does not answer".to_owned())),
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
    let mut upload = store.start_upload(&repository, UploadOptions::default()).await?;
    let written = match upload.append(bytes::Bytes::from_static(b"ready?")).await {
        Ok(()) => upload.save().await,
        Err(e) => Err(e),
    };
    let ended = upload.abort().await;
    written.and(ended)
}
