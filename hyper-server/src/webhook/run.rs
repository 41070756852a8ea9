//! A webhook that runs: its beginning, its end, and a request that tries it.

use super::client::Client;
use super::counts::Counts;
use super::job::Job;
use super::{Source, Webhook, sign};
use hyper_sdk::clock::{Clock as _, SystemClock, rfc3339};
use hyper_sdk::store::{CLOUD_EVENT_TYPE, DOCKER_EVENTS_TYPE, SharedEventLog, UploadId};
use hyper_sdk::{Error, Result};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the end of a server waits for the last place to be recorded.
const ENDING: Duration = Duration::from_secs(3);

/// A task that delivers. It ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) webhook: Webhook,
    pub(crate) counts: Arc<Counts>,
    begins: Arc<AtomicBool>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
    /// Lets the webhook begin with the next event if the store does not know it: it was removed since.
    pub(crate) fn begin_again(&self) {
        self.begins.store(true, Ordering::Relaxed);
    }

    /// Ends it: a request in flight is broken off, and is sent again later. Waits until the place is recorded.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = tokio::time::timeout(ENDING, task).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Begins to deliver to a webhook. Must be called on a tokio runtime.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] when the address, a header or a certificate is not well formed.
pub(crate) fn start(
    webhook: Webhook,
    log: SharedEventLog,
    source: Source,
    counts: Arc<Counts>,
) -> Result<Running> {
    let client = Client::new(&webhook)?;
    let number = u64::from_str_radix(&UploadId::random()?.as_str()[..16], 16);
    let holder = number.map_err(|e| Error::internal("a random number is not one").with_source(e))?;
    let (stop, begins) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
    let job = Job {
        webhook: webhook.clone(),
        client,
        log,
        source,
        counts: counts.clone(),
        stop: stop.clone(),
        begins: begins.clone(),
        holder,
        failures: 0,
        is_suspect: false,
        current: None,
        passed: None,
        is_removed: false,
    };
    Ok(Running { webhook, counts, begins, stop, task: Some(tokio::spawn(job.run())) })
}

/// Checks what a request needs: the address, the headers and the certificates.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] for one that is not well formed.
pub(crate) fn check(webhooks: &[Webhook]) -> Result<()> {
    webhooks.iter().try_for_each(|webhook| Client::new(webhook).map(drop))
}

/// Lets the webhooks that the store does not know yet begin with the next event, before anybody pushes.
///
/// # Errors
/// Those of the store.
pub(crate) async fn begin(log: &SharedEventLog, webhooks: &[Webhook]) -> Result<()> {
    let known = log.consumers().await?;
    for webhook in webhooks.iter().filter(|webhook| known.iter().all(|one| one.name != webhook.name)) {
        log.begin(&webhook.name).await?;
    }
    Ok(())
}

/// Says which webhooks the store knows, and this server does not: nobody may tell them what happens.
pub(super) async fn warn_of_others(log: SharedEventLog, names: Vec<String>) {
    let consumers = log.consumers().await.unwrap_or_default();
    for consumer in consumers.iter().filter(|consumer| !names.contains(&consumer.name)) {
        let (webhook, place) = (&consumer.name, consumer.place.to_string());
        let waiting = consumer.last.saturating_sub(consumer.place.after());
        tracing::warn!(
            webhook,
            place,
            waiting,
            "the database has a webhook that is not in the configuration of this server: without a server that has it, its events \
             wait until they are too old to be kept; `hyperregistry webhook rm` forgets it"
        );
    }
}

/// Sends a request that is about nothing. Returns what the receiver has answered, as a text.
pub(crate) async fn test(webhook: &Webhook, source: &str) -> Result<String> {
    let client = Client::new(webhook)?;
    let now = SystemClock.now();
    let id = format!("test-{now}");
    let body = match webhook.format {
        super::WebhookFormat::Docker => json!({ "events": [] }),
        super::WebhookFormat::CloudEvents => json!({
            "specversion": "1.0",
            "id": id,
            "source": source,
            "type": "hyperregistry.webhook.test",
            "time": rfc3339(now),
            "datacontenttype": "application/json",
            "data": {},
        }),
    };
    let body = body.to_string();
    let headers = sign::headers(&webhook.secrets, &id, now, &body);
    let content_type = match webhook.format {
        super::WebhookFormat::Docker => DOCKER_EVENTS_TYPE,
        super::WebhookFormat::CloudEvents => CLOUD_EVENT_TYPE,
    };
    let answer = client.post(content_type, &headers, body).await?;
    let place = client.place();
    match (200..300).contains(&answer.status) {
        true => Ok(format!("{place} has answered {}", answer.status)),
        false => Err(Error::new(
            hyper_sdk::ErrorKind::Unavailable,
            format!("the webhook has answered {}", answer.status),
        )
        .with_context("webhook", place)),
    }
}
