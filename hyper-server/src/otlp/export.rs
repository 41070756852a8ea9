//! Sends batches of spans to a collector.

use super::layer::{Filter, SpanLayer};
use super::{ExporterOptions, SpanListener, message};
use crate::trace::{Outcome, SpanCounts};
use hyper_sdk::client::{Proxies, WebhookClient, WebhookOptions};
use hyper_sdk::{Error, Result};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer as _;

/// How many spans wait for the collector.
const QUEUE: usize = 4096;
/// The most spans of a request.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(2);
/// How often a batch is sent, and how long the pause after the first attempt is; it doubles.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A task that sends spans. Dropping it ends the task, without what waits.
#[derive(Debug)]
pub(crate) struct Exporter {
    counts: Arc<SpanCounts>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Begins to send what the listener records. Must be called on a runtime.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] when the address, a header or a certificate is not well formed.
    pub(crate) fn start(options: ExporterOptions) -> Result<(Self, SpanListener)> {
        let client = client(&options)?;
        let (sender, queue) = channel(QUEUE);
        let (counts, stop) = (Arc::<SpanCounts>::default(), CancellationToken::new());
        let listener: SpanListener = SpanLayer::new(sender, counts.clone()).with_filter(Filter).boxed();
        let job = Job {
            client,
            resource: message::resource(&options.resource),
            counts: counts.clone(),
            stop: stop.clone(),
            is_failing: false,
        };
        Ok((Self { counts, stop, task: tokio::spawn(job.run(queue)) }, listener))
    }

    /// What became of the spans.
    pub(crate) fn counts(&self) -> &Arc<SpanCounts> {
        &self.counts
    }

    /// Sends what waits, within this time, and ends.
    pub(crate) async fn stop(mut self, within: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            tracing::warn!("the last spans were not sent: the collector is too slow");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Job {
    client: WebhookClient,
    resource: Resource,
    counts: Arc<SpanCounts>,
    stop: CancellationToken,
    /// Whether the last batch was not taken, so that the log has one line.
    is_failing: bool,
}

impl Job {
    async fn run(mut self, mut queue: Receiver<Span>) {
        let stop = self.stop.clone();
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let gathered = stop.run_until_cancelled(gather(&mut queue, &mut batch)).await;
            if gathered == Some(0) {
                return;
            }
            if gathered.is_none() {
                self.finish(queue, batch).await;
                return;
            }
            self.send(batch).await;
        }
    }

    /// Sends what waits when the server ends.
    async fn finish(&mut self, mut queue: Receiver<Span>, mut batch: Vec<Span>) {
        queue.close();
        loop {
            while batch.len() < BATCH
                && let Ok(span) = queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    /// Sends a batch, again if that may help.
    async fn send(&mut self, batch: Vec<Span>) {
        let count = batch.len() as u64;
        let body = message::request(&self.resource, batch);
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            let sent = self.client.post("application/x-protobuf", &[], body.clone()).await;
            let (why, wait) = match sent {
                Ok(answer) if answer.is_success() => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!(collector = self.client.place(), "the collector takes spans again");
                    }
                    return self.counts.add(Outcome::Sent, count);
                }
                // The others do not pass by themselves.
                Ok(answer) if ![429, 502, 503, 504].contains(&answer.status) => {
                    return self.failed(count, &format!("status {}", answer.status));
                }
                Ok(answer) => (format!("status {}", answer.status), answer.retry_after),
                Err(e) => (reason(&e), None),
            };
            if attempt == ATTEMPTS || self.stop.is_cancelled() {
                return self.failed(count, &why);
            }
            // At the end of the server there is one more attempt, at once.
            let wait = wait.unwrap_or(pause).min(LONGEST_PAUSE);
            let _ = self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
            pause *= 2;
        }
    }

    fn failed(&mut self, count: u64, why: &str) {
        self.counts.add(Outcome::Failed, count);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                collector = self.client.place(),
                why,
                "the collector does not take spans; they are lost until it does"
            );
        }
    }
}

/// The client of the collector.
fn client(options: &ExporterOptions) -> Result<WebhookClient> {
    let of_client = WebhookOptions {
        timeout: options.timeout,
        roots: options.authorities.clone(),
        headers: options.headers.clone(),
        proxies: Some(Proxies::from_variables(|name| std::env::var(name).ok())),
    };
    WebhookClient::new(&options.url.as_str().into(), of_client)
        .map_err(|e| Error::invalid("the collector of traces cannot be used").with_source(e))
}

/// Checks what a server would send spans with.
///
/// # Errors
/// Those of [`Exporter::start`].
pub(crate) fn check(options: &ExporterOptions) -> Result<()> {
    client(options).map(drop)
}

/// Why there was no answer: the kind, and what caused it. The address is in none of them.
fn reason(error: &Error) -> String {
    let mut reason = error.kind().to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        reason.push_str(&format!(": {e}"));
        source = e.source();
    }
    reason
}

/// Adds spans to a batch until it is full, or the first of them has waited. Returns how many there are, which is 0 when no more can
/// come. What was added stays when the future is dropped.
async fn gather(queue: &mut Receiver<Span>, batch: &mut Vec<Span>) -> usize {
    if queue.recv_many(batch, BATCH).await == 0 {
        return 0;
    }
    let until = tokio::time::Instant::now() + GATHER;
    while batch.len() < BATCH {
        let left = BATCH - batch.len();
        match tokio::time::timeout_at(until, queue.recv_many(batch, left)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    batch.len()
}
