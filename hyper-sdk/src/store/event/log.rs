//! The event log of a store, and its consumers.

use super::{Event, EventCursor, EventStart};
use crate::Result;
use crate::reference::{RepositoryName, Tag};
use crate::store::Listing;
use async_trait::async_trait;
use std::fmt::Debug;
use std::sync::Arc;

/// A shared event log.
pub type SharedEventLog = Arc<dyn EventLog>;

/// What is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRules {
    /// Records events of blobs, too: a push has one for each blob.
    pub blobs: bool,
}

/// How many events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLimits {
    /// The age at which an event goes, in seconds.
    pub age: i64,
    /// The most events.
    pub count: u64,
}

impl Default for EventLimits {
    /// 30 days and a million.
    fn default() -> Self {
        Self { age: 30 * 24 * 60 * 60, count: 1_000_000 }
    }
}

/// Events in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// The place after the last of them, from which a reader goes on.
    pub next: EventCursor,
    /// The number of the newest event of the log when it was read.
    pub last: u64,
}

/// Who reads events one after the other, and has a place in the log that the store keeps: a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventConsumer {
    /// Its name.
    pub name: String,
    /// The last event that it has taken.
    pub place: EventCursor,
    /// How many it has taken, in all.
    pub taken: u64,
    /// How many were gone before it took them.
    pub skipped: u64,
    /// How many were given up: it would not take them.
    pub given_up: u64,
    /// The last of them.
    pub last_given_up: Option<EventCursor>,
    /// The number of the process that has it now, by the clock of the store; `None` when nobody has it.
    pub holder: Option<u64>,
    /// How the event after the place failed, when the last attempt did.
    pub failure: Option<ConsumerFailure>,
    /// The newest event of the log when this was read.
    pub last: u64,
}

/// How a consumer fails to take the event after its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerFailure {
    /// Why the last attempt failed.
    pub why: String,
    /// For how long the event was tried, in seconds, without the time in which no process tried it.
    pub tried: u64,
    /// How many attempts the consumer refused because of what was sent.
    pub refused: u64,
}

/// How far a consumer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMove {
    /// Where it was.
    pub from: EventCursor,
    /// Where it is.
    pub to: EventCursor,
    /// How many events it has taken.
    pub taken: u64,
    /// How many were gone.
    pub skipped: u64,
    /// Whether the event at `to` was given up; `taken` does not count it.
    pub gave_up: bool,
}

/// Takes a consumer for one process, or renews or ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerHold {
    /// The name of the consumer, which [`EventLog::begin`] has made.
    pub name: String,
    /// A number that no other process uses.
    pub holder: u64,
    /// How long nobody else may have it, by the clock of the store. With 0 the hold ends.
    pub seconds: i64,
    /// How far it has come.
    pub moved: Option<ConsumerMove>,
    /// How the last attempt failed, if it did.
    pub failure: Option<ConsumerFailure>,
}

/// A change of an event log, which changes no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventChange {
    /// Removes the oldest events that are too old or too many, at most `most` of them. Returns how many.
    Prune {
        /// The limits.
        limits: EventLimits,
        /// The most events that go at once.
        most: u64,
    },
    /// See [`EventLog::begin`]. Returns 1 if the consumer is new.
    Begin {
        /// The name.
        name: String,
    },
    /// See [`EventLog::hold`]. Returns 1 if the holder has it.
    Hold(ConsumerHold),
    /// See [`EventLog::reset`]. Returns 1 if there is such a consumer.
    Reset {
        /// The name.
        name: String,
        /// The number of the last event that it shall not take again.
        after: u64,
    },
    /// See [`EventLog::forget`]. Returns 1 if there was one.
    Forget {
        /// The name.
        name: String,
    },
}

/// The events of a store. `MetaBackend::event_log` gives that of a backend, `RegistryStore::event_log` that of a store.
///
/// ```
/// use hyper_sdk::oci::{ImageIndex, Manifest};
/// use hyper_sdk::store::{EventKind, EventRules, EventStart, MemoryStore, PutManifest, RegistryStore};
/// use hyper_sdk::{RepositoryName, Tag};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let store = MemoryStore::default();
/// let log = store.event_log().expect("a store in memory has events");
/// log.record(Some(EventRules::default()));
/// let index = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes())?;
/// store.put_manifest(&RepositoryName::parse("a")?, PutManifest::new(index, [Tag::latest()])).await?;
/// let page = log.read(&EventStart::Oldest, 10).await?;
/// let kinds: Vec<EventKind> = page.events.iter().map(|event| event.kind).collect();
/// assert_eq!(kinds, [EventKind::RepositoryCreated, EventKind::ManifestPushed, EventKind::TagCreated]);
/// assert!(log.read(&EventStart::After(page.next), 10).await?.events.is_empty());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait EventLog: Debug + Send + Sync + 'static {
    /// Records the events of all changes that this process makes from now on; `None` records none. Other processes have rules of
    /// their own.
    fn record(&self, rules: Option<EventRules>);

    /// At most `limit` events from a place on, without a gap: fewer, and at least one, when they are large.
    ///
    /// # Errors
    /// [`cursor_gone`](crate::store::errors::cursor_gone) when events after the place are not kept any more, and when the cursor is
    /// that of another log; those of the database.
    async fn read(&self, start: &EventStart, limit: usize) -> Result<EventPage>;

    /// At most `limit` events about a tag with a smaller number than `before`, the newest first.
    async fn tag_history(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Listing<Event>>;

    /// Removes events that are too old or too many. Returns how many.
    async fn prune(&self, limits: EventLimits) -> Result<u64>;

    /// The consumers, in the order of their names.
    async fn consumers(&self) -> Result<Vec<EventConsumer>>;

    /// Lets a consumer begin with the next event that happens, unless there is one of this name. Returns whether it is new.
    async fn begin(&self, name: &str) -> Result<bool>;

    /// Takes a consumer, or renews or ends that, and records how far it has come. `None` when there is none of this name, while
    /// another process has it, and when it is not at the place that it is moved from: somebody has reset it, or had it meanwhile.
    async fn hold(&self, hold: ConsumerHold) -> Result<Option<EventConsumer>>;

    /// Lets a consumer begin again at a place. Returns whether there is one of this name.
    ///
    /// # Errors
    /// As [`EventLog::read`].
    async fn reset(&self, name: &str, start: &EventStart) -> Result<bool>;

    /// Forgets a consumer. Returns whether there was one.
    async fn forget(&self, name: &str) -> Result<bool>;
}
