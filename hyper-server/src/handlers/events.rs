//! Events (`_hyper/events`), and what a tag has named (`_hyper/tags/TAG/history`).
//!
//! A caller gets the events of the repositories that the catalog shows and that it may pull from, which name no other ones, and who made a change where it may delete. The cursor goes
//! on over what it does not get.

use super::{Outcome, json};
use crate::auth::Action;
use crate::call::Call;
use crate::error::ApiError;
use crate::event_query::EventQuery;
use crate::event_waiters::NoPlace;
use http::{StatusCode, header};
use hyper_sdk::store::errors::is_cursor_gone;
use hyper_sdk::store::{ChangeContext, Event, EventCursor, EventStart, SharedEventLog, cloud_event};
use hyper_sdk::{Error, RepositoryName, Tag};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The most events in one answer, and their number when none is asked for.
const MOST: usize = 1000;
const USUAL: usize = 100;
/// After how many bytes of events an answer ends.
const MOST_BYTES: usize = 2 << 20;
/// How many pages of events are read for one answer, when the caller may not see those of the first.
const PAGES: usize = 16;
/// The longest wait for an event. A server that stops waits for it.
const LONGEST: Duration = Duration::from_secs(20);
/// How long a request waits that finds no place among those that wait.
const WITHOUT_PLACE: Duration = Duration::from_secs(1);
/// How often a request that waits asks the store.
const PAUSE: Duration = Duration::from_millis(500);

/// The log, when changes are recorded.
fn log(call: &Call<'_>) -> Result<SharedEventLog, ApiError> {
    let recorded = call.options.events.as_ref().and_then(|_| call.store.event_log());
    recorded.ok_or_else(|| {
        let message =
            "this registry does not record events: `events.enabled` in its configuration turns them on";
        ApiError::new(StatusCode::NOT_FOUND, "UNSUPPORTED", message)
    })
}

/// Whoever asks at a place that is gone gets 410.
fn failed(e: Error) -> ApiError {
    let is_gone = is_cursor_gone(&e);
    let answer = ApiError::from(e);
    if is_gone { answer.with_status(StatusCode::GONE, "CURSOR_GONE") } else { answer }
}

/// Whether a caller gets the events of a repository. A token for the catalog alone may list repositories, and not read their tags.
fn is_visible(call: &Call<'_>, repository: &RepositoryName) -> bool {
    call.can_list(repository) && call.may(repository, Action::Pull)
}

/// An event as its caller gets it.
fn shown(call: &Call<'_>, mut event: Event, log: &str) -> Value {
    if !call.may(&event.repository, Action::Delete) {
        event.by = ChangeContext { origin: event.by.origin, ..ChangeContext::default() };
    }
    // A caller does not learn of a repository that it may not see.
    event.from = event.from.filter(|from| is_visible(call, from));
    cloud_event(&event, log, &call.options.event_source())
}

pub(super) async fn list(call: &Call<'_>, query: EventQuery) -> Outcome {
    let log = log(call)?;
    let limit = query.limit.unwrap_or(USUAL).min(MOST);
    let until = Instant::now() + query.wait.min(LONGEST);
    // Requests that ask the store again and again are bounded: one that finds no place is answered soon.
    let place = match query.wait.is_zero() {
        true => None,
        false => match call.event_waiters.enter(call.principal.name(), call.audit.client) {
            Ok(place) => Some(place),
            Err(NoPlace::Full) => None,
            Err(NoPlace::TooMany) => return Err(too_many()),
        },
    };
    let mut start = query.start;
    loop {
        let (events, next, more) = read(call, &log, start, limit).await?;
        let waits = events.is_empty() && !more && limit > 0;
        let left = until.saturating_duration_since(Instant::now());
        if waits && place.is_none() && !left.is_zero() {
            // Not at once, so that who asks again at once does not do so all the time.
            tokio::time::sleep(left.min(WITHOUT_PLACE)).await;
        }
        if !waits || left.is_zero() || place.is_none() {
            let (events, next) = (events.join(","), next.to_string());
            return Ok(json(
                format!(r#"{{"events":[{events}],"next":"{next}","more":{more}}}"#).into_bytes(),
            ));
        }
        start = EventStart::After(next);
        tokio::time::sleep(left.min(PAUSE)).await;
    }
}

/// The answer to a caller that waits for events in too many requests.
fn too_many() -> ApiError {
    let message = "this caller waits for events in too many requests already: end one, or ask without `wait`";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
        .with_header(header::RETRY_AFTER, LONGEST.as_secs())
}

/// The events that the caller may see as JSON, the place after them, and whether there are more. Fewer, and at least one, when they
/// are large.
async fn read(
    call: &Call<'_>,
    log: &SharedEventLog,
    mut start: EventStart,
    limit: usize,
) -> Result<(Vec<String>, EventCursor, bool), ApiError> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    for number in 1.. {
        let page = log.read(&start, limit - events.len()).await.map_err(failed)?;
        let (is_last, more) = (page.events.is_empty(), page.next.after() < page.last);
        for event in page.events.into_iter().filter(|event| is_visible(call, &event.repository)) {
            let sequence = event.sequence;
            let text = shown(call, event, page.next.log()).to_string();
            bytes += text.len();
            events.push(text);
            if bytes >= MOST_BYTES {
                let next = EventCursor::new(page.next.log(), sequence);
                return Ok((events, next, sequence < page.last));
            }
        }
        if is_last || !more || events.len() >= limit || number == PAGES {
            return Ok((events, page.next, more));
        }
        start = EventStart::After(page.next);
    }
    Err(Error::internal("the events have no end").into())
}

pub(super) async fn tag_history(
    call: &Call<'_>,
    repository: &RepositoryName,
    tag: &Tag,
    (limit, before): (Option<usize>, Option<u64>),
) -> Outcome {
    let log = log(call)?;
    let limit = limit.unwrap_or(USUAL).min(MOST);
    let found = log.tag_history(repository, tag, before, limit).await.map_err(failed)?;
    let knows_who = call.may(repository, Action::Delete);
    let entry = |event: &Event| {
        let by = match knows_who {
            true => event.by.clone(),
            false => ChangeContext { origin: event.by.origin.clone(), ..ChangeContext::default() },
        };
        json!({
            "event": event.kind,
            "time": hyper_sdk::clock::rfc3339(event.at),
            "digest": event.digest,
            "former": event.former,
            "by": by,
            "sequence": event.sequence,
        })
    };
    let next = found.items.last().map(|event| event.sequence).filter(|_| found.more);
    let history: Vec<Value> = found.items.iter().map(entry).collect();
    let body = json!({ "name": repository, "tag": tag, "history": history, "before": next });
    Ok(json(body.to_string().into_bytes()))
}
