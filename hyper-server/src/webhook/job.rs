//! The task that delivers the events of one webhook, on the server that has it.
//!
//! While there is nothing to deliver, or another server has the webhook, it writes nothing: it asks the store how far the webhook is,
//! which is cheap. With something to deliver it takes the webhook for a few seconds longer than a request may take, renews that
//! before each request, and records the place at least every second. A server that was killed leaves the webhook to another one when
//! that time is over. It never makes the row of a webhook but where a server begins: one that was removed gets nothing.

use super::client::Client;
use super::counts::Counts;
use super::parts::{Part, Parts};
use super::trial::{Trial, is_refusal};
use super::{Source, Webhook, sign};
use crate::standard_io::chain;
use hyper_sdk::Result;
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::store::errors::is_cursor_gone;
use hyper_sdk::store::{
    ConsumerFailure, ConsumerHold, ConsumerMove, Event, EventConsumer, EventCursor, EventStart,
    SharedEventLog,
};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often a task without work asks the store.
const POLL: Duration = Duration::from_millis(500);
/// How many events are in memory at once.
const BATCH: usize = 50;
/// How long after a request the webhook is still had.
const SPARE: Duration = Duration::from_secs(5);
/// How often a task that waits after a failure asks the store.
const LOOK: Duration = Duration::from_secs(2);
/// How often the place is recorded, at least, while requests are answered.
const RECORD: Duration = Duration::from_secs(1);
/// How often the place is recorded while events come that the webhook does not want.
const PASS: Duration = Duration::from_secs(2);
/// The first and the longest pause after a failure, and the longest that a receiver may ask for.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_ASKED: Duration = Duration::from_secs(30 * 60);

pub(super) struct Job {
    pub(super) webhook: Webhook,
    pub(super) client: Client,
    pub(super) log: SharedEventLog,
    pub(super) source: Source,
    pub(super) counts: Arc<Counts>,
    pub(super) stop: CancellationToken,
    /// Whether the webhook is to begin if the store does not know it.
    pub(super) begins: Arc<AtomicBool>,
    pub(super) holder: u64,
    /// Requests that failed since the last one that was taken.
    pub(super) failures: u32,
    /// Whether nothing was taken since an event was given up because it was refused: that may be about the receiver.
    pub(super) is_suspect: bool,
    /// The event that failed in the last round, with what is left of it.
    pub(super) current: Option<Current>,
    /// When the place was recorded of events that are not wanted.
    pub(super) passed: Option<Instant>,
    /// Whether the store does not know the webhook any more.
    pub(super) is_removed: bool,
}

/// The event that is being delivered.
pub(super) struct Current {
    parts: Parts,
    trial: Trial,
    /// The pause after the last attempt.
    pause: Duration,
}

/// How a round has ended.
enum Round {
    /// There may be more.
    More,
    /// There is nothing to do, or another server does it.
    Idle,
    /// A request failed.
    Failed { pause: Duration, place: EventCursor, failure: ConsumerFailure },
    /// The task is to end.
    Stopped,
}

/// How the delivery of an event has ended.
enum Sent {
    /// It was taken, or given up.
    Done,
    /// The webhook was reset or removed, or another server has it.
    Lost,
    Stopped,
    Failed {
        why: String,
        retry_after: Option<Duration>,
    },
}

/// How a request has failed.
struct Failed {
    why: String,
    retry_after: Option<Duration>,
    is_refusal: bool,
}

/// How far a round has come.
struct Progress {
    /// Where the store has the webhook.
    from: EventCursor,
    to: EventCursor,
    taken: u64,
    held: Instant,
    /// How the event after `to` failed before.
    failure: Option<ConsumerFailure>,
}

impl Progress {
    fn new(place: EventCursor, failure: Option<ConsumerFailure>) -> Self {
        Self { from: place.clone(), to: place, taken: 0, held: Instant::now(), failure }
    }

    fn moved(&self) -> ConsumerMove {
        let (from, to) = (self.from.clone(), self.to.clone());
        ConsumerMove { from, to, taken: self.taken, skipped: 0, gave_up: false }
    }

    fn pass(&mut self, event: &Event) {
        self.to = EventCursor::new(self.to.log(), event.sequence);
        self.failure = None;
    }
}

impl Job {
    pub(super) async fn run(mut self) {
        let mut is_lost = false;
        while !self.stop.is_cancelled() {
            let round = self.round().await;
            if !matches!(round, Ok(Round::Failed { .. })) {
                // Another server may try it meanwhile, or nobody.
                self.current = None;
            }
            let pause = match round {
                Ok(Round::More) => Duration::ZERO,
                Ok(Round::Idle) => POLL,
                Ok(Round::Failed { pause, place, failure }) => {
                    self.wait(pause, &place, &failure).await;
                    Duration::ZERO
                }
                Ok(Round::Stopped) => break,
                Err(error) => {
                    if !is_lost {
                        let webhook = &self.webhook.name;
                        tracing::warn!(webhook, error = chain(&error), "events cannot be read for a webhook");
                    }
                    is_lost = true;
                    // A database that does not answer says when it is asked again.
                    let pause = error.retry_after().unwrap_or_default().max(FIRST_PAUSE);
                    tokio::select! {
                        () = self.stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => continue,
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
    /// server goes on when this one dies. Ends early when the webhook was reset or removed, or another server has it.
    async fn wait(&self, pause: Duration, place: &EventCursor, failure: &ConsumerFailure) {
        let end = Instant::now() + pause;
        let mut held = Instant::now();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(left.min(LOOK)) => {}
            }
            if left <= LOOK {
                return;
            }
            let Ok(Some(consumer)) = self.find().await else { return };
            let is_other = consumer.holder.is_some_and(|holder| holder != self.holder);
            if consumer.place != *place || consumer.failure.is_none() || is_other {
                return;
            }
            self.counts.see_pending(&consumer);
            if held.elapsed() >= self.time() / 3 {
                held = Instant::now();
                // Not where it is by now: it may have been reset.
                let here = Progress::new(place.clone(), None).moved();
                if !matches!(self.hold(self.time(), Some(here), Some(failure.clone())).await, Ok(Some(_))) {
                    return;
                }
            }
        }
    }

    /// Lets another server go on at once.
    async fn give_back(&self) {
        if let Ok(Some(consumer)) = self.find().await
            && consumer.holder == Some(self.holder)
        {
            // Otherwise that happens a few seconds later.
            let here = Progress::new(consumer.place, None).moved();
            let _ = self.hold(Duration::ZERO, Some(here), consumer.failure).await;
        }
    }

    async fn find(&self) -> Result<Option<EventConsumer>> {
        Ok(self.log.consumers().await?.into_iter().find(|consumer| consumer.name == self.webhook.name))
    }

    async fn hold(
        &self,
        time: Duration,
        moved: Option<ConsumerMove>,
        failure: Option<ConsumerFailure>,
    ) -> Result<Option<EventConsumer>> {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let name = self.webhook.name.clone();
        self.log.hold(ConsumerHold { name, holder: self.holder, seconds, moved, failure }).await
    }

    /// How long the webhook is taken at once.
    fn time(&self) -> Duration {
        self.webhook.timeout + SPARE
    }

    /// Begins where the server does, or where its configuration was read again.
    async fn begin(&self) -> Result<()> {
        let is_new = self.find().await?.is_none() && self.log.begin(&self.webhook.name).await?;
        if let Some(consumer) = self.find().await? {
            let waiting = consumer.last.saturating_sub(consumer.place.after());
            let (webhook, place) = (&self.webhook.name, consumer.place.to_string());
            tracing::info!(webhook, is_new, place, waiting, "a webhook is told of events");
        }
        Ok(())
    }

    /// How far the webhook is, unless there is none.
    async fn look(&mut self) -> Result<Option<EventConsumer>> {
        if self.begins.swap(false, Ordering::Relaxed)
            && let Err(error) = self.begin().await
        {
            self.begins.store(true, Ordering::Relaxed);
            return Err(error);
        }
        let found = self.find().await?;
        if found.is_none() {
            self.counts.see_nothing();
            if !self.is_removed {
                tracing::warn!(
                    webhook = &self.webhook.name,
                    "a webhook of the configuration was removed from the database: it gets no events until SIGHUP, a new start or \
                     `hyperregistry webhook replay`"
                );
            }
        }
        self.is_removed = found.is_none();
        Ok(found)
    }

    async fn round(&mut self) -> Result<Round> {
        let Some(found) = self.look().await? else { return Ok(Round::Idle) };
        if found.place.after() >= found.last {
            self.counts.see(&found, None);
            self.failures = 0;
            return Ok(Round::Idle);
        }
        // Of one that another server has, only how far it is.
        let is_other = found.holder.is_some_and(|holder| holder != self.holder);
        let most = if is_other { 1 } else { BATCH };
        let page = match self.log.read(&EventStart::After(found.place.clone()), most).await {
            Ok(page) => page,
            Err(e) if is_cursor_gone(&e) => return self.skip(found.place).await,
            Err(e) => return Err(e),
        };
        self.counts.see(&found, page.events.first());
        if is_other {
            return Ok(Round::Idle);
        }
        if !page.events.iter().any(|event| self.webhook.wants(event)) {
            return self.pass(found.place, page.events).await;
        }
        // Not where it is by now: it may have been reset meanwhile.
        let here = Progress::new(found.place, None).moved();
        match self.hold(self.time(), Some(here), found.failure).await? {
            Some(consumer) => self.deliver(consumer, &page.events).await,
            None => Ok(Round::Idle),
        }
    }

    /// Goes on with the oldest event that is kept.
    async fn skip(&self, from: EventCursor) -> Result<Round> {
        let to = self.log.read(&EventStart::Oldest, 0).await?.next;
        let skipped = to.after().saturating_sub(from.after());
        let moved = ConsumerMove { from, to, taken: 0, skipped, gave_up: false };
        if self.hold(self.time(), Some(moved), None).await?.is_none() {
            return Ok(Round::Idle);
        }
        self.counts.skipped.fetch_add(skipped, Ordering::Relaxed);
        let webhook = &self.webhook.name;
        tracing::warn!(webhook, skipped, "events were too old to be kept before a webhook took them");
        Ok(Round::More)
    }

    /// Goes on after events of which none is wanted: not at once for few, as each time is a change of the database.
    async fn pass(&mut self, from: EventCursor, events: Vec<Event>) -> Result<Round> {
        let is_soon = self.passed.is_some_and(|passed| passed.elapsed() < PASS);
        let Some(last) = events.last().filter(|_| !is_soon || events.len() >= BATCH) else {
            return Ok(Round::Idle);
        };
        let (to, taken) = (EventCursor::new(from.log(), last.sequence), events.len() as u64);
        let moved = ConsumerMove { from, to, taken, skipped: 0, gave_up: false };
        self.passed = Some(Instant::now());
        match self.hold(Duration::ZERO, Some(moved), None).await? {
            Some(_) => Ok(Round::More),
            None => Ok(Round::Idle),
        }
    }

    async fn deliver(&mut self, consumer: EventConsumer, events: &[Event]) -> Result<Round> {
        let mut progress = Progress::new(consumer.place, consumer.failure);
        for event in events {
            let (log, stored) = (progress.to.log(), progress.failure.as_ref());
            // What was reset begins anew.
            let former = self.current.take().filter(|one| one.parts.is_of(event) && stored.is_some());
            let mut current = former.unwrap_or_else(|| Current {
                parts: Parts::new(&self.webhook, event, log, &self.source),
                trial: Trial::default(),
                pause: Duration::ZERO,
            });
            current.trial = current.trial.with(stored);
            match self.send(event, &mut current, &mut progress).await? {
                Sent::Done if current.parts.gave_up => {
                    if !self.give_up(event, &mut progress).await? {
                        return Ok(Round::Idle);
                    }
                }
                Sent::Done => {
                    progress.pass(event);
                    progress.taken += 1;
                }
                Sent::Lost => return Ok(Round::Idle),
                Sent::Stopped => {
                    self.hold(Duration::ZERO, Some(progress.moved()), progress.failure).await?;
                    return Ok(Round::Stopped);
                }
                Sent::Failed { why, retry_after } => {
                    self.failures = self.failures.saturating_add(1);
                    let pause = pause_after(self.failures, retry_after);
                    let failure = current.trial.failure(why);
                    current.pause = pause;
                    let held = self.hold(self.time(), Some(progress.moved()), Some(failure.clone())).await?;
                    let Some(consumer) = held else { return Ok(Round::Idle) };
                    self.counts.see(&consumer, Some(event));
                    self.current = Some(current);
                    return Ok(Round::Failed { pause, place: progress.to, failure });
                }
            }
        }
        match self.hold(self.time(), Some(progress.moved()), None).await? {
            Some(_) => Ok(Round::More),
            None => Ok(Round::Idle),
        }
    }

    /// Goes on after an event that was given up. Returns whether the webhook is still had.
    async fn give_up(&self, event: &Event, progress: &mut Progress) -> Result<bool> {
        progress.pass(event);
        let moved = ConsumerMove { gave_up: true, ..progress.moved() };
        if self.hold(self.time(), Some(moved), None).await?.is_none() {
            return Ok(false);
        }
        self.counts.given_up.fetch_add(1, Ordering::Relaxed);
        *progress = Progress::new(progress.to.clone(), None);
        Ok(true)
    }

    /// Sends what is left of an event. What is refused is sent in halves, down to one entry, so that the others arrive.
    async fn send(&mut self, event: &Event, current: &mut Current, progress: &mut Progress) -> Result<Sent> {
        while let Some(part) = current.parts.first() {
            if progress.held.elapsed() >= RECORD {
                let held = self.hold(self.time(), Some(progress.moved()), progress.failure.clone()).await?;
                // It was reset, or another server has it.
                let Some(consumer) = held else { return Ok(Sent::Lost) };
                self.counts.see(&consumer, Some(event));
                *progress = Progress::new(progress.to.clone(), progress.failure.take());
            }
            let failed = tokio::select! {
                answer = self.post(part) => answer,
                () = self.stop.cancelled() => return Ok(Sent::Stopped),
            };
            let Some(failed) = failed else {
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!(webhook = &self.webhook.name, "a webhook takes events again");
                }
                self.is_suspect = false;
                current.parts.pass(false);
                continue;
            };
            let (webhook, request, why) = (&self.webhook.name, part.id.clone(), failed.why);
            let id = EventCursor::new(progress.to.log(), event.sequence).to_string();
            if failed.is_refusal && current.parts.halve() {
                tracing::info!(webhook, request, why, "events that were refused together are sent in halves");
                continue;
            }
            current.trial.fail(failed.is_refusal, current.pause + self.webhook.timeout + LOOK);
            if !current.trial.is_over(self.webhook.give_up, failed.is_refusal && !self.is_suspect) {
                let place = self.client.place();
                tracing::warn!(webhook, place, event = id, request, why, "an event was not delivered");
                return Ok(Sent::Failed { why, retry_after: failed.retry_after });
            }
            self.is_suspect = true;
            match failed.is_refusal {
                true => {
                    current.parts.pass(true);
                    // Each begins with short pauses.
                    (self.failures, current.pause) = (0, Duration::ZERO);
                    if !current.trial.next_part(self.webhook.give_up) {
                        current.parts.pass_all();
                    }
                }
                false => current.parts.pass_all(),
            }
            tracing::error!(
                webhook,
                place = self.client.place(),
                event = id,
                request,
                why,
                "an event was given up: `hyperregistry webhook replay` sends it again"
            );
        }
        Ok(Sent::Done)
    }

    /// Sends a request. Returns how it failed, if it did.
    async fn post(&self, part: &Part) -> Option<Failed> {
        let body = part.body();
        let headers = sign::headers(&self.webhook.secrets, &part.id, SystemClock.now(), &body);
        let failed = match self.client.post(part.content_type(), &headers, body).await {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.counts.delivered.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Ok(answer) => Failed {
                why: format!("it has answered {}", answer.status),
                retry_after: answer.retry_after,
                is_refusal: is_refusal(answer.status),
            },
            Err(e) => Failed { why: chain(&e), retry_after: None, is_refusal: false },
        };
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        Some(failed)
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
