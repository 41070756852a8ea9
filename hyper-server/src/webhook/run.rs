//! The task that delivers the events of one webhook, on the server that has it.
//!
//! While there is nothing to deliver it writes nothing: it asks the store for the place of the webhook, which is cheap. With
//! something to deliver it takes the webhook for a few seconds longer than a request may take, renews that before each request, and
//! records the place at least every second. A server that was killed leaves the webhook to another one when that time is over.

use super::client::Client;
use super::{Webhook, sign};
use crate::standard_io::chain;
use hyper_sdk::clock::{Clock as _, SystemClock, rfc3339};
use hyper_sdk::store::errors::is_cursor_gone;
use hyper_sdk::store::{
    ConsumerHold, ConsumerMove, Event, EventConsumer, EventCursor, EventStart, SharedEventLog, UploadId,
};
use hyper_sdk::{Error, Result};
use serde_json::json;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often a task without work asks the store.
const POLL: Duration = Duration::from_millis(500);
/// How many events are in memory at once.
const BATCH: usize = 50;
/// How long after a request the webhook is still had.
const SPARE: Duration = Duration::from_secs(5);
/// How often a webhook is renewed that waits after a failure.
const RENEW: Duration = Duration::from_secs(2);
/// How often the place is recorded, at least, while requests are answered.
const RECORD: Duration = Duration::from_secs(1);
/// The first and the longest pause after a failure, and the longest that a receiver may ask for.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_ASKED: Duration = Duration::from_secs(30 * 60);
/// How long the end of a server waits for the last place to be recorded.
const ENDING: Duration = Duration::from_secs(3);

/// What is counted of a webhook.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests that were answered with 2xx.
    pub(crate) delivered: AtomicU64,
    /// Requests that failed.
    pub(crate) failed: AtomicU64,
    /// Events that were gone before they were delivered.
    pub(crate) skipped: AtomicU64,
    /// Events after the place.
    pub(crate) pending: AtomicI64,
    /// When the oldest of them happened, in seconds since 1970; 0 when there is none.
    pub(crate) oldest: AtomicI64,
}

impl Counts {
    /// How old the oldest event is that was not delivered, in seconds.
    pub(crate) fn lag(&self) -> i64 {
        match self.oldest.load(Ordering::Relaxed) {
            0 => 0,
            at => SystemClock.now().saturating_sub(at).max(0),
        }
    }

    fn see(&self, consumer: &EventConsumer, oldest: Option<&Event>) {
        let pending = consumer.last.saturating_sub(consumer.place.after());
        self.pending.store(i64::try_from(pending).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.oldest.store(oldest.map_or(0, |event| event.at), Ordering::Relaxed);
    }
}

/// A task that delivers. It ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) webhook: Webhook,
    pub(crate) counts: Arc<Counts>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
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

/// How events refer to their registry.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// As CloudEvents do.
    pub(crate) reference: String,
    /// The address of the registry, if it is known.
    pub(crate) url: Option<String>,
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
    let stop = CancellationToken::new();
    let job = Job {
        webhook: webhook.clone(),
        client,
        log,
        source,
        counts: counts.clone(),
        stop: stop.clone(),
        holder,
    };
    Ok(Running { webhook, counts, stop, task: Some(tokio::spawn(job.run())) })
}

/// Lets the webhooks that the store does not know yet begin with the next event, before anybody pushes.
///
/// # Errors
/// Those of the store.
pub(crate) async fn begin(log: &SharedEventLog, webhooks: &[Webhook]) -> Result<()> {
    let known = log.consumers().await?;
    for webhook in webhooks.iter().filter(|webhook| known.iter().all(|one| one.name != webhook.name)) {
        let name = webhook.name.clone();
        log.hold(ConsumerHold { name, holder: 0, seconds: 0, moved: None, failure: None }).await?;
    }
    Ok(())
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
    let answer = client.post(webhook.content_type(), &headers, body).await?;
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

struct Job {
    webhook: Webhook,
    client: Client,
    log: SharedEventLog,
    source: Source,
    counts: Arc<Counts>,
    stop: CancellationToken,
    holder: u64,
}

/// How a round has ended.
enum Round {
    /// There may be more.
    More,
    /// There is nothing to do, or another server does it.
    Idle,
    /// A request failed.
    Failed { pause: Duration, place: EventCursor, why: String },
    /// The task is to end.
    Stopped,
}

/// Why an event was not delivered.
enum Undelivered {
    Stopped,
    Failed { why: String, retry_after: Option<Duration> },
}

impl Job {
    async fn run(self) {
        let (mut failures, mut is_lost) = (0u32, false);
        while !self.stop.is_cancelled() {
            let pause = match self.round(&mut failures).await {
                Ok(Round::More) => Duration::ZERO,
                Ok(Round::Idle) => POLL,
                Ok(Round::Failed { pause, place, why }) => {
                    self.wait(pause, &place, &why).await;
                    Duration::ZERO
                }
                Ok(Round::Stopped) => break,
                Err(error) => {
                    if !is_lost {
                        let webhook = &self.webhook.name;
                        tracing::warn!(webhook, error = chain(&error), "events cannot be read for a webhook");
                    }
                    is_lost = true;
                    tokio::select! {
                        () = self.stop.cancelled() => break,
                        () = tokio::time::sleep(FIRST_PAUSE) => continue,
                    }
                }
            };
            is_lost = false;
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.give_back().await;
    }

    /// Waits after a failure. Nobody else tries meanwhile, but the webhook is had for no longer than a request may take: another
    /// server goes on when this one dies. Ends early when the place was set anew, or another server has it.
    async fn wait(&self, pause: Duration, place: &EventCursor, why: &str) {
        let end = Instant::now() + pause;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(left.min(RENEW)) => {}
            }
            if left <= RENEW {
                return;
            }
            match self.hold(self.time(), None, Some(why.to_owned())).await {
                Ok(Some(consumer)) if consumer.place == *place => {}
                _ => return,
            }
        }
    }

    /// Lets another server go on at once.
    async fn give_back(&self) {
        let found = self.find().await;
        let failure = found.ok().flatten().and_then(|consumer| consumer.failure);
        // Otherwise that happens a few seconds later.
        let _ = self.hold(Duration::ZERO, None, failure).await;
    }

    async fn find(&self) -> Result<Option<EventConsumer>> {
        Ok(self.log.consumers().await?.into_iter().find(|consumer| consumer.name == self.webhook.name))
    }

    async fn hold(
        &self,
        time: Duration,
        moved: Option<ConsumerMove>,
        failure: Option<String>,
    ) -> Result<Option<EventConsumer>> {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let name = self.webhook.name.clone();
        self.log.hold(ConsumerHold { name, holder: self.holder, seconds, moved, failure }).await
    }

    /// How long the webhook is taken at once.
    fn time(&self) -> Duration {
        self.webhook.timeout + SPARE
    }

    async fn round(&self, failures: &mut u32) -> Result<Round> {
        let found = self.find().await?;
        if let Some(consumer) = found.as_ref().filter(|one| one.place.after() >= one.last) {
            self.counts.see(consumer, None);
            *failures = 0;
            return Ok(Round::Idle);
        }
        let failure = found.as_ref().and_then(|consumer| consumer.failure.clone());
        let Some(consumer) = self.hold(self.time(), None, failure).await? else {
            if let Some(consumer) = found {
                // Another server has it, and this one shows how far it is.
                let page = self.log.read(&EventStart::After(consumer.place.clone()), 1).await;
                self.counts
                    .see(&consumer, page.ok().and_then(|page| page.events.into_iter().next()).as_ref());
            }
            return Ok(Round::Idle);
        };
        match self.log.read(&EventStart::After(consumer.place.clone()), BATCH).await {
            Ok(page) => {
                self.counts.see(&consumer, page.events.first());
                self.deliver(consumer.place, page.events, failures).await
            }
            Err(e) if is_cursor_gone(&e) => self.skip(consumer.place).await,
            Err(e) => Err(e),
        }
    }

    /// Goes on with the oldest event that is kept.
    async fn skip(&self, from: EventCursor) -> Result<Round> {
        let to = self.log.read(&EventStart::Oldest, 0).await?.next;
        let skipped = to.after().saturating_sub(from.after());
        let moved = ConsumerMove { from, to, taken: 0, skipped };
        if self.hold(self.time(), Some(moved), None).await?.is_some() {
            self.counts.skipped.fetch_add(skipped, Ordering::Relaxed);
            let webhook = &self.webhook.name;
            tracing::warn!(webhook, skipped, "events were too old to be kept before a webhook took them");
        }
        Ok(Round::More)
    }

    async fn deliver(&self, from: EventCursor, events: Vec<Event>, failures: &mut u32) -> Result<Round> {
        let (mut from, mut held, mut taken) = (from, Instant::now(), 0);
        let mut to = from.clone();
        for event in events {
            if held.elapsed() >= RECORD {
                let moved = ConsumerMove { from, to: to.clone(), taken, skipped: 0 };
                if self.hold(self.time(), Some(moved), None).await?.is_none() {
                    // It was reset, or another server has it.
                    return Ok(Round::Idle);
                }
                (from, held, taken) = (to.clone(), Instant::now(), 0);
            }
            let moved = |from, to, taken| Some(ConsumerMove { from, to, taken, skipped: 0 });
            match self.send(&event, to.log()).await {
                Ok(()) => {
                    if std::mem::take(failures) > 0 {
                        tracing::info!(webhook = &self.webhook.name, "a webhook takes events again");
                    }
                }
                Err(Undelivered::Stopped) => {
                    self.hold(Duration::ZERO, moved(from, to, taken), None).await?;
                    return Ok(Round::Stopped);
                }
                Err(Undelivered::Failed { why, retry_after }) => {
                    *failures = failures.saturating_add(1);
                    let pause = pause_after(*failures, retry_after);
                    self.hold(self.time(), moved(from, to.clone(), taken), Some(why.clone())).await?;
                    return Ok(Round::Failed { pause, place: to, why });
                }
            }
            to = EventCursor::new(to.log(), event.sequence);
            taken += 1;
        }
        let moved = ConsumerMove { from, to, taken, skipped: 0 };
        match self.hold(self.time(), Some(moved), None).await? {
            Some(_) => Ok(Round::More),
            None => Ok(Round::Idle),
        }
    }

    async fn send(&self, event: &Event, log: &str) -> Result<(), Undelivered> {
        if !self.webhook.wants(event) {
            return Ok(());
        }
        let body = self.webhook.body(event, log, &self.source.reference, self.source.url.as_deref());
        let Some(body) = body else { return Ok(()) };
        let id = EventCursor::new(log, event.sequence).to_string();
        let headers = sign::headers(&self.webhook.secrets, &id, SystemClock.now(), &body);
        let answer = tokio::select! {
            answer = self.client.post(self.webhook.content_type(), &headers, body) => answer,
            () = self.stop.cancelled() => return Err(Undelivered::Stopped),
        };
        let (why, retry_after) = match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.counts.delivered.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(answer) => (format!("it has answered {}", answer.status), answer.retry_after),
            Err(e) => (chain(&e), None),
        };
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            webhook = &self.webhook.name,
            place = self.client.place(),
            event = id,
            why,
            "an event was not delivered"
        );
        Err(Undelivered::Failed { why, retry_after })
    }
}

/// How long to wait after so many failures: twice as long each time, half of it by chance, and as long as the receiver asks.
fn pause_after(failures: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let ceiling = doubled.min(LAST_PAUSE);
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let chance = (bits >> 11) as f64 / (1u64 << 53) as f64;
    let pause = ceiling / 2 + (ceiling / 2).mul_f64(chance);
    pause.max(retry_after.unwrap_or_default().min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_and_a_receiver_may_ask_for_longer() {
        for (failures, longest) in [(1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (1000, 300)] {
            let pause = pause_after(failures, None);
            let longest = Duration::from_secs(longest);
            assert!(pause <= longest && pause >= longest / 2, "{failures}: {pause:?}");
        }
        let minute = Duration::from_secs(60);
        assert_eq!(pause_after(1, Some(minute)), minute);
        assert_eq!(pause_after(1, Some(Duration::from_secs(86_400))), LONGEST_ASKED);
        assert!(pause_after(1000, Some(minute)) >= LAST_PAUSE / 2);
    }
}
