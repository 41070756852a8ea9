//! Events in memory, and the places of their consumers.

use super::{MemoryMeta, State};
use crate::Result;
use crate::reference::{RepositoryName, Tag};
use crate::store::errors::cursor_gone;
use crate::store::meta::event_drafts::{Facts, Wanted};
use crate::store::meta::{Change, MetaBackend as _};
use crate::store::{
    ConsumerFailure, ConsumerHold, Event, EventChange, EventConsumer, EventCursor, EventLimits, EventLog,
    EventPage, EventRules, EventStart, Listing,
};
use async_trait::async_trait;
use std::collections::{BTreeMap, VecDeque};

/// The name of the log: nothing of it outlives the process, and no other process sees it.
const NAME: &str = "memory";

/// How many events one change removes.
const PRUNED: u64 = 2000;

#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) rules: Option<EventRules>,
    /// Those from `pruned` + 1 on.
    kept: VecDeque<Event>,
    pruned: u64,
    consumers: BTreeMap<String, Consumer>,
}

#[derive(Clone, Debug, Default)]
struct Consumer {
    place: u64,
    taken: u64,
    skipped: u64,
    given_up: u64,
    last_given_up: Option<u64>,
    holder: u64,
    held_until: i64,
    failure: Option<ConsumerFailure>,
}

impl State {
    pub(super) fn facts(&self, wanted: Wanted<'_>) -> Facts {
        let mut facts = Facts::default();
        let name = match wanted {
            Wanted::Nothing => return facts,
            Wanted::Tags(name, _) | Wanted::Manifest(name, _) => name,
        };
        let Some(repository) = self.find(name) else { return facts };
        facts.manifests = repository.manifests.len() as u64;
        let named = |tag: &Tag| repository.tags.get(tag.as_str()).map(|tagged| tagged.digest.clone());
        match wanted {
            Wanted::Nothing => {}
            Wanted::Tags(_, tags) => facts.named = tags.iter().map(named).collect(),
            Wanted::Manifest(_, digest) => {
                let found = repository.manifests.get(digest);
                facts.manifest =
                    found.map(|found| (found.media_type().to_owned(), found.bytes().len() as u64));
                let tags = repository.tags.iter().filter(|(_, tagged)| tagged.digest == *digest);
                let mut tags: Vec<Tag> = tags.filter_map(|(tag, _)| Tag::parse(tag).ok()).collect();
                facts.tag_count = tags.len() as u64;
                tags.truncate(Event::MOST_UNTAGGED);
                facts.tags = tags;
            }
        }
        facts
    }
}

impl Events {
    fn last(&self) -> u64 {
        self.pruned + self.kept.len() as u64
    }

    pub(super) fn add(&mut self, events: Vec<Event>, now: i64) {
        for event in events {
            let sequence = self.last() + 1;
            self.kept.push_back(Event { sequence, at: now, ..event });
        }
    }

    fn start(&self, start: &EventStart) -> Result<u64> {
        match start {
            EventStart::Oldest => Ok(self.pruned),
            EventStart::Now => Ok(self.last()),
            EventStart::After(cursor) if cursor.log() != NAME || cursor.after() > self.last() => {
                Err(cursor_gone("it is not of this log, as after a restore from a backup"))
            }
            EventStart::After(cursor) if cursor.after() < self.pruned => {
                Err(cursor_gone("events after it are not kept any more"))
            }
            EventStart::After(cursor) => Ok(cursor.after()),
        }
    }

    pub(super) fn apply(&mut self, change: EventChange, now: i64) -> u64 {
        match change {
            EventChange::Prune { limits, most } => {
                let before = now.saturating_sub(limits.age);
                let old =
                    self.kept.iter().rposition(|event| event.at <= before).map_or(0, |at| at as u64 + 1);
                let many = (self.kept.len() as u64).saturating_sub(limits.count);
                let gone = old.max(many).min(most);
                self.kept.drain(..usize::try_from(gone).unwrap_or(usize::MAX));
                self.pruned += gone;
                gone
            }
            EventChange::Begin { name } => {
                let place = self.last();
                let is_new = !self.consumers.contains_key(&name);
                self.consumers.entry(name).or_insert(Consumer { place, ..Consumer::default() });
                u64::from(is_new)
            }
            EventChange::Hold(hold) => u64::from(self.hold(hold, now)),
            EventChange::Reset { name, after } => match self.consumers.get_mut(&name) {
                Some(consumer) => {
                    consumer.place = after;
                    consumer.failure = None;
                    1
                }
                None => 0,
            },
            EventChange::Forget { name } => u64::from(self.consumers.remove(&name).is_some()),
        }
    }

    fn hold(&mut self, hold: ConsumerHold, now: i64) -> bool {
        let Some(consumer) = self.consumers.get_mut(&hold.name) else { return false };
        if consumer.holder != hold.holder && consumer.held_until > now {
            return false;
        }
        if let Some(moved) = hold.moved {
            if moved.from.after() != consumer.place {
                return false;
            }
            consumer.place = moved.to.after();
            consumer.taken += moved.taken;
            consumer.skipped += moved.skipped;
            if moved.gave_up {
                consumer.given_up += 1;
                consumer.last_given_up = Some(consumer.place);
            }
        }
        consumer.holder = hold.holder;
        consumer.held_until = if hold.seconds == 0 { 0 } else { now.saturating_add(hold.seconds) };
        consumer.failure = hold.failure;
        true
    }

    fn consumer(&self, name: &str, consumer: &Consumer, now: i64) -> EventConsumer {
        EventConsumer {
            name: name.to_owned(),
            place: EventCursor::new(NAME, consumer.place),
            taken: consumer.taken,
            skipped: consumer.skipped,
            given_up: consumer.given_up,
            last_given_up: consumer.last_given_up.map(|number| EventCursor::new(NAME, number)),
            holder: (consumer.held_until > now).then_some(consumer.holder),
            failure: consumer.failure.clone(),
            last: self.last(),
        }
    }
}

#[async_trait]
impl EventLog for MemoryMeta {
    fn record(&self, rules: Option<EventRules>) {
        self.state().events.rules = rules;
    }

    async fn read(&self, start: &EventStart, limit: usize) -> Result<EventPage> {
        let state = self.state();
        let events = &state.events;
        let after = events.start(start)?;
        let from = usize::try_from(after - events.pruned).unwrap_or(usize::MAX);
        let found: Vec<Event> = events.kept.iter().skip(from).take(limit).cloned().collect();
        let next = EventCursor::new(NAME, found.last().map_or(after, |event| event.sequence));
        Ok(EventPage { events: found, next, last: events.last() })
    }

    async fn tag_history(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Listing<Event>> {
        let state = self.state();
        let is_of = |event: &&Event| {
            event.repository == *repository
                && event.tag.as_ref() == Some(tag)
                && before.is_none_or(|before| event.sequence < before)
        };
        let mut found = state.events.kept.iter().rev().filter(is_of);
        let items: Vec<Event> = found.by_ref().take(limit).cloned().collect();
        Ok(Listing { items, more: found.next().is_some() })
    }

    async fn prune(&self, limits: EventLimits) -> Result<u64> {
        let mut gone = 0;
        loop {
            match self.write(Change::Events(EventChange::Prune { limits, most: PRUNED })).await? {
                0 => return Ok(gone),
                some => gone += some,
            }
        }
    }

    async fn consumers(&self) -> Result<Vec<EventConsumer>> {
        let state = self.state();
        let events = &state.events;
        let now = self.0.clock.now();
        Ok(events.consumers.iter().map(|(name, one)| events.consumer(name, one, now)).collect())
    }

    async fn begin(&self, name: &str) -> Result<bool> {
        Ok(self.write(Change::Events(EventChange::Begin { name: name.to_owned() })).await? > 0)
    }

    async fn hold(&self, hold: ConsumerHold) -> Result<Option<EventConsumer>> {
        let name = hold.name.clone();
        if self.write(Change::Events(EventChange::Hold(hold))).await? == 0 {
            return Ok(None);
        }
        let state = self.state();
        let events = &state.events;
        Ok(events.consumers.get(&name).map(|one| events.consumer(&name, one, self.0.clock.now())))
    }

    async fn reset(&self, name: &str, start: &EventStart) -> Result<bool> {
        let after = self.state().events.start(start)?;
        Ok(self.write(Change::Events(EventChange::Reset { name: name.to_owned(), after })).await? > 0)
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        Ok(self.write(Change::Events(EventChange::Forget { name: name.to_owned() })).await? > 0)
    }
}
