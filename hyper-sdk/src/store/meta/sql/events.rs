//! Events: their rows, which the transaction of a change writes, and the places of consumers.
//!
//! # Invariants
//! - The row of the log has the number of the newest event. It changes in the transaction that has the right to write of the whole
//!   database, so numbers come in the order of the commits: who sees one sees all before it, also from another server.
//! - The rows from `pruned` + 1 to `last` are there without a gap. A page that does not begin where it should was pruned
//!   meanwhile, and is an error.

use super::query::{Connection, query};
use super::rows::{Outcome, find_repository, signed};
use super::{SqlMeta, unsigned};
use crate::reference::{RepositoryName, Tag};
use crate::store::errors::cursor_gone;
use crate::store::meta::event_drafts::{Facts, Wanted};
use crate::store::meta::{Change, MetaBackend as _};
use crate::store::{
    ConsumerFailure, ConsumerHold, Event, EventChange, EventConsumer, EventCursor, EventLimits, EventLog,
    EventPage, EventRules, EventStart, Listing,
};
use crate::{Digest, Result};
use async_trait::async_trait;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};

/// What this process records.
#[derive(Clone, Debug, Default)]
pub(super) struct Recording(Arc<AtomicU8>);

impl Recording {
    pub(super) fn now(&self) -> Option<EventRules> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            number => Some(EventRules { blobs: number > 1 }),
        }
    }

    fn replace(&self, rules: Option<EventRules>) {
        self.0.store(rules.map_or(0, |rules| 1 + u8::from(rules.blobs)), Ordering::Relaxed);
    }
}

/// How many events one query reads, and after how many bytes a page ends.
const ROWS: usize = 100;
const PAGE_BYTES: usize = 1 << 20;

/// How many events one change removes.
const PRUNED: u64 = 2000;

/// The longest time for which somebody takes a consumer, in seconds, unless another one asks for longer.
const LONGEST: i64 = 60 * 60;

/// What a change is about to change.
pub(super) async fn find_facts(db: &mut Connection<'_>, wanted: Wanted<'_>) -> sqlx::Result<Facts> {
    let mut facts = Facts::default();
    let name = match wanted {
        Wanted::Nothing => return Ok(facts),
        Wanted::Tags(name, _) | Wanted::Manifest(name, _) => name,
    };
    let Some(repository) = find_repository(db, name).await? else {
        return Ok(facts);
    };
    let manifests: i64 =
        query("SELECT COUNT(*) FROM (SELECT 1 FROM manifests WHERE repository_id = $1 LIMIT 2) AS few")
            .bind(repository)
            .fetch_one(db)
            .await?;
    facts.manifests = unsigned(manifests);
    match wanted {
        Wanted::Nothing => {}
        Wanted::Tags(_, tags) => {
            for tag in tags {
                let digest: Option<String> = query(
                    "SELECT m.digest FROM tags t JOIN manifests m ON m.id = t.manifest_id \
                     WHERE t.repository_id = $1 AND t.name = $2",
                )
                .bind(repository)
                .bind(tag.as_str())
                .fetch_scalar(db)
                .await?;
                facts.named.push(digest.and_then(|digest| Digest::parse(&digest).ok()));
            }
        }
        Wanted::Manifest(_, digest) => {
            let found: Option<(i64, String, i64)> =
                query("SELECT id, media_type, size FROM manifests WHERE repository_id = $1 AND digest = $2")
                    .bind(repository)
                    .bind(digest.as_str())
                    .fetch_optional(db)
                    .await?;
            let Some((id, media_type, size)) = found else { return Ok(facts) };
            facts.manifest = Some((media_type, unsigned(size)));
            let count: i64 =
                query("SELECT COUNT(*) FROM tags WHERE manifest_id = $1").bind(id).fetch_one(db).await?;
            facts.tag_count = unsigned(count);
            let tags: Vec<(String,)> =
                query("SELECT name FROM tags WHERE manifest_id = $1 ORDER BY name LIMIT $2")
                    .bind(id)
                    .bind(Event::MOST_UNTAGGED as i64)
                    .fetch_all(db)
                    .await?;
            facts.tags = tags.iter().filter_map(|(tag,)| Tag::parse(tag).ok()).collect();
        }
    }
    Ok(facts)
}

/// Gives the events their numbers and writes them.
pub(super) async fn write(db: &mut Connection<'_>, events: &[Event]) -> sqlx::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let count = events.len() as i64;
    let last: i64 = query("UPDATE event_log SET last = last + $1 WHERE id = 1 RETURNING last")
        .bind(count)
        .fetch_one(db)
        .await?;
    // Names, texts and numbers are always JSON.
    let bodies: Vec<String> =
        events.iter().map(|event| serde_json::to_string(event).unwrap_or_default()).collect();
    let rows: Vec<(i64, &Event, &String)> = (last - count + 1..)
        .zip(events.iter().zip(&bodies))
        .map(|(sequence, (event, body))| (sequence, event, body))
        .collect();
    let (many, few) = rows.as_chunks::<TOGETHER>();
    for rows in many {
        insert(db, &MANY, rows).await?;
    }
    for row in few {
        insert(db, &ONE, std::slice::from_ref(row)).await?;
    }
    Ok(())
}

/// How many events one statement writes.
const TOGETHER: usize = 100;

static ONE: LazyLock<String> = LazyLock::new(|| insertion(1));
static MANY: LazyLock<String> = LazyLock::new(|| insertion(TOGETHER));

/// A statement that writes so many events.
fn insertion(count: usize) -> String {
    let row = |at: usize| format!("(${}, ${}, ${}, ${}, ${})", at + 1, at + 2, at + 3, at + 4, at + 5);
    let rows: Vec<String> = (0..count).map(|number| row(5 * number)).collect();
    format!("INSERT INTO events (sequence, created_at, repository, tag, body) VALUES {}", rows.join(", "))
}

async fn insert(
    db: &mut Connection<'_>,
    text: &'static str,
    rows: &[(i64, &Event, &String)],
) -> sqlx::Result<()> {
    let (mut statement, now) = (query(text), db.now());
    for (sequence, event, body) in rows {
        statement = statement
            .bind(*sequence)
            .bind(now)
            .bind(event.repository.as_str())
            .bind(event.tag.as_ref().map(Tag::as_str))
            .bind(body.as_str());
    }
    statement.execute(db).await.map(drop)
}

/// Begins another log: what readers knew is not what the store has.
pub(super) async fn begin_anew(db: &mut Connection<'_>, name: &str) -> sqlx::Result<()> {
    query("DELETE FROM events").execute(db).await?;
    query("DELETE FROM event_consumers").execute(db).await?;
    query("UPDATE event_log SET name = $1, last = 0, pruned = 0").bind(name).execute(db).await?;
    Ok(())
}

pub(super) async fn apply(db: &mut Connection<'_>, change: &EventChange) -> Outcome<u64> {
    match change {
        EventChange::Prune { limits, most } => prune(db, *limits, *most).await,
        EventChange::Begin { name } => begin(db, name).await,
        EventChange::Hold(hold) => take(db, hold).await,
        EventChange::Reset { name, after } => {
            // Whoever has it finds out when it moves it.
            let reset = query(
                "UPDATE event_consumers SET place = $2, log = (SELECT name FROM event_log WHERE id = 1), \
                 failure = NULL, tried = 0, refused = 0 WHERE name = $1",
            )
            .bind(name.as_str())
            .bind(signed(*after))
            .execute(db)
            .await?;
            Ok(reset)
        }
        EventChange::Forget { name } => {
            Ok(query("DELETE FROM event_consumers WHERE name = $1").bind(name.as_str()).execute(db).await?)
        }
    }
}

async fn prune(db: &mut Connection<'_>, limits: EventLimits, most: u64) -> Outcome<u64> {
    let (last, pruned): (i64, i64) = query("SELECT last, pruned FROM event_log WHERE id = 1")
        .fetch_optional(db)
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
    let until = pruned.saturating_add(signed(most));
    let old: Option<i64> =
        query("SELECT MAX(sequence) FROM events WHERE sequence <= $1 AND created_at <= $2")
            .bind(until)
            .bind(db.now().saturating_sub(limits.age))
            .fetch_one(db)
            .await?;
    let many = last.saturating_sub(signed(limits.count));
    let to = old.unwrap_or(pruned).max(many).min(until).min(last);
    if to <= pruned {
        return Ok(0);
    }
    let gone = query("DELETE FROM events WHERE sequence <= $1").bind(to).execute(db).await?;
    query("UPDATE event_log SET pruned = $1 WHERE id = 1").bind(to).execute(db).await?;
    Ok(gone)
}

async fn begin(db: &mut Connection<'_>, name: &str) -> Outcome<u64> {
    let now = db.now();
    let begun = query(
        "INSERT INTO event_consumers \
         (name, log, place, taken, skipped, holder, held_until, changed_at) \
         SELECT $1, name, last, 0, 0, 0, 0, $2 FROM event_log WHERE id = 1 ON CONFLICT (name) DO NOTHING",
    )
    .bind(name)
    .bind(now)
    .execute(db)
    .await?;
    Ok(begun)
}

async fn take(db: &mut Connection<'_>, hold: &ConsumerHold) -> Outcome<u64> {
    let (now, holder) = (db.now(), hold.holder.cast_signed());
    let until = if hold.seconds == 0 { 0 } else { now.saturating_add(hold.seconds) };
    let free: Option<(String, i64)> = query(
        "SELECT log, place FROM event_consumers WHERE name = $1 \
         AND (holder = $2 OR held_until <= $3 OR held_until > $4)",
    )
    .bind(hold.name.as_str())
    .bind(holder)
    .bind(now)
    // Nobody takes it for longer: the clock was set back since.
    .bind(now.saturating_add(hold.seconds.max(LONGEST)))
    .fetch_optional(db)
    .await?;
    let Some((log, place)) = free else { return Ok(0) };
    if let Some(moved) = &hold.moved {
        if moved.from.log() != log || signed(moved.from.after()) != place {
            return Ok(0);
        }
        query(
            "UPDATE event_consumers SET log = $2, place = $3, taken = taken + $4, skipped = skipped + $5, \
             given_up = given_up + $6, last_given_up = COALESCE($7, last_given_up) WHERE name = $1",
        )
        .bind(hold.name.as_str())
        .bind(moved.to.log())
        .bind(signed(moved.to.after()))
        .bind(signed(moved.taken))
        .bind(signed(moved.skipped))
        .bind(i64::from(moved.gave_up))
        .bind(moved.gave_up.then(|| signed(moved.to.after())))
        .execute(db)
        .await?;
    }
    let failure = hold.failure.as_ref();
    let held = query(
        "UPDATE event_consumers SET holder = $2, held_until = $3, failure = $4, tried = $5, refused = $6, \
         changed_at = $7 WHERE name = $1",
    )
    .bind(hold.name.as_str())
    .bind(holder)
    .bind(until)
    .bind(failure.map(|failure| failure.why.as_str()))
    .bind(failure.map_or(0, |failure| signed(failure.tried)))
    .bind(failure.map_or(0, |failure| signed(failure.refused)))
    .bind(now)
    .execute(db)
    .await?;
    Ok(held)
}

type ConsumerRow = (String, String, i64, i64, i64, i64, Option<i64>, i64, i64, Option<String>, i64, i64);

fn consumer(row: ConsumerRow, last: u64, now: i64) -> EventConsumer {
    let (name, log, place, taken, skipped, given_up, last_given_up, holder, held_until, why, tried, refused) =
        row;
    let is_held = held_until > now && held_until <= now.saturating_add(LONGEST);
    EventConsumer {
        name,
        taken: unsigned(taken),
        skipped: unsigned(skipped),
        given_up: unsigned(given_up),
        last_given_up: last_given_up.map(|number| EventCursor::new(log.as_str(), unsigned(number))),
        place: EventCursor::new(log, unsigned(place)),
        holder: is_held.then(|| holder.cast_unsigned()),
        failure: why.map(|why| ConsumerFailure { why, tried: unsigned(tried), refused: unsigned(refused) }),
        last: last.max(unsigned(place)),
    }
}

type EventRow = (i64, i64, String);

impl SqlMeta {
    fn read_event(&self, (sequence, at, body): &EventRow) -> Result<Event> {
        let event: Event = serde_json::from_str(body).map_err(|e| {
            self.damaged(crate::Error::new(crate::ErrorKind::Corrupt, "an event is not valid").with_source(e))
        })?;
        Ok(Event { sequence: unsigned(*sequence), at: *at, ..event })
    }

    /// The name of the log, its newest event, and the newest that was removed.
    async fn find_log(&self) -> Result<(String, u64, u64)> {
        let row: Option<(String, i64, i64)> = query("SELECT name, last, pruned FROM event_log WHERE id = 1")
            .fetch_optional(&mut self.reader().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        let (name, last, pruned) = row.ok_or_else(|| self.failed(sqlx::Error::RowNotFound))?;
        Ok((name, unsigned(last), unsigned(pruned)))
    }

    /// The number of the event after which a reader begins.
    async fn find_start(&self, start: &EventStart) -> Result<(String, u64, u64)> {
        let (name, last, pruned) = self.find_log().await?;
        let after = match start {
            EventStart::Oldest => pruned,
            EventStart::Now => last,
            EventStart::After(cursor) => {
                if cursor.log() != name || cursor.after() > last {
                    return Err(cursor_gone("it is not of this log, as after a restore from a backup"));
                }
                if cursor.after() < pruned {
                    return Err(cursor_gone("events after it are not kept any more"));
                }
                cursor.after()
            }
        };
        Ok((name, after, last))
    }

    /// Events in their order, and the size of their rows in bytes.
    async fn find_events(&self, after: u64, limit: usize) -> Result<(Vec<Event>, usize)> {
        let rows: Vec<EventRow> = query(
            "SELECT sequence, created_at, body FROM events WHERE sequence > $1 ORDER BY sequence LIMIT $2",
        )
        .bind(signed(after))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let bytes = rows.iter().map(|(_, _, body)| body.len()).sum();
        Ok((rows.iter().map(|row| self.read_event(row)).collect::<Result<_>>()?, bytes))
    }
}

#[async_trait]
impl EventLog for SqlMeta {
    fn record(&self, rules: Option<EventRules>) {
        self.recording().replace(rules);
    }

    async fn read(&self, start: &EventStart, limit: usize) -> Result<EventPage> {
        let (name, after, last) = self.find_start(start).await?;
        let (mut events, mut bytes, mut at) = (Vec::new(), 0, after);
        while at < last && events.len() < limit && bytes < PAGE_BYTES {
            let (found, size) = self.find_events(at, (limit - events.len()).min(ROWS)).await?;
            if found.first().is_none_or(|first| first.sequence != at + 1) {
                // They were removed meanwhile.
                return Err(cursor_gone("events after it are not kept any more"));
            }
            at = found.last().map_or(at, |event| event.sequence);
            bytes += size;
            events.extend(found);
        }
        let next = EventCursor::new(name, at);
        let last = last.max(next.after());
        Ok(EventPage { events, next, last })
    }

    async fn tag_history(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Listing<Event>> {
        let rows: Vec<EventRow> = query(
            "SELECT sequence, created_at, body FROM events \
             WHERE repository = $1 AND tag = $2 AND tag IS NOT NULL AND sequence < $3 \
             ORDER BY sequence DESC LIMIT $4",
        )
        .bind(repository.as_str())
        .bind(tag.as_str())
        .bind(before.map_or(i64::MAX, signed))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let more = rows.len() > limit;
        let items = rows.iter().take(limit).map(|row| self.read_event(row)).collect::<Result<_>>()?;
        Ok(Listing { items, more })
    }

    async fn prune(&self, limits: EventLimits) -> Result<u64> {
        let mut gone = 0;
        loop {
            // In parts, so that pushes come between.
            let change = EventChange::Prune { limits, most: PRUNED };
            match self.write(Change::Events(change)).await? {
                0 => return Ok(gone),
                some => gone += some,
            }
        }
    }

    async fn consumers(&self) -> Result<Vec<EventConsumer>> {
        let (_, last, _) = self.find_log().await?;
        let rows: Vec<ConsumerRow> = query(
            "SELECT name, log, place, taken, skipped, given_up, last_given_up, holder, held_until, failure, \
             tried, refused FROM event_consumers ORDER BY name",
        )
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        // That of the database: a server that only reads has not learned it by a change.
        let now = self.fetch_time().await?;
        Ok(rows.into_iter().map(|row| consumer(row, last, now)).collect())
    }

    async fn begin(&self, name: &str) -> Result<bool> {
        Ok(self.write(Change::Events(EventChange::Begin { name: name.to_owned() })).await? > 0)
    }

    async fn hold(&self, hold: ConsumerHold) -> Result<Option<EventConsumer>> {
        let name = hold.name.clone();
        if self.write(Change::Events(EventChange::Hold(hold))).await? == 0 {
            return Ok(None);
        }
        Ok(self.consumers().await?.into_iter().find(|consumer| consumer.name == name))
    }

    async fn reset(&self, name: &str, start: &EventStart) -> Result<bool> {
        let (_, after, _) = self.find_start(start).await?;
        let change = EventChange::Reset { name: name.to_owned(), after };
        Ok(self.write(Change::Events(change)).await? > 0)
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        Ok(self.write(Change::Events(EventChange::Forget { name: name.to_owned() })).await? > 0)
    }
}
