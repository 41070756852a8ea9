//! What is sent about one event: one request, or several when the receiver would refuse it as a whole.

use super::Webhook;
use hyper_sdk::store::{
    CLOUD_EVENT_TYPE, DOCKER_EVENTS_TYPE, Event, EventCursor, cloud_event, docker_events,
};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// After how many bytes an envelope ends, if it has more than one entry: receivers bound what they read.
const PART_BYTES: usize = 32 << 10;

/// A request: its id and its body.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) id: String,
    entries: Entries,
}

#[derive(Clone, Debug)]
enum Entries {
    CloudEvent(String),
    /// Entries of Docker's envelope.
    Docker(Vec<Value>),
}

impl Part {
    /// Some entries. The id is that of the first one, with their number when there are several: a receiver that knows the id of a
    /// half takes it for no other part.
    fn of(entries: Vec<Value>) -> Self {
        let first = entries.first().and_then(|entry| entry["id"].as_str()).unwrap_or_default();
        let id = match entries.len() {
            0 | 1 => first.to_owned(),
            count => format!("{first}+{count}"),
        };
        Self { id, entries: Entries::Docker(entries) }
    }

    pub(super) fn body(&self) -> String {
        match &self.entries {
            Entries::CloudEvent(body) => body.clone(),
            Entries::Docker(entries) => json!({ "events": entries }).to_string(),
        }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match &self.entries {
            Entries::CloudEvent(_) => CLOUD_EVENT_TYPE,
            Entries::Docker(_) => DOCKER_EVENTS_TYPE,
        }
    }
}

/// The requests about an event that were not taken yet.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    sequence: u64,
    left: VecDeque<Part>,
    /// Whether one of them was given up.
    pub(super) gave_up: bool,
}

impl Parts {
    pub(super) fn new(webhook: &Webhook, event: &Event, log: &str, source: &super::Source) -> Self {
        let mut parts = Self { sequence: event.sequence, left: VecDeque::new(), gave_up: false };
        if !webhook.wants(event) {
            return parts;
        }
        let mut event = event.clone();
        // The receiver does not learn of the other repositories.
        event.from = event.from.filter(|from| webhook.has(from));
        match webhook.format {
            super::WebhookFormat::CloudEvents => parts.left.push_back(Part {
                id: EventCursor::new(log, event.sequence).to_string(),
                entries: Entries::CloudEvent(cloud_event(&event, log, &source.reference).to_string()),
            }),
            super::WebhookFormat::Docker => {
                let envelope = docker_events(&event, log, source.url.as_deref());
                let Some(Value::Array(entries)) = envelope.map(|mut all| all["events"].take()) else {
                    return parts;
                };
                parts.left = in_parts(entries).into();
            }
        }
        parts
    }

    /// Whether they are about this event.
    pub(super) fn is_of(&self, event: &Event) -> bool {
        self.sequence == event.sequence
    }

    /// The next request.
    pub(super) fn first(&self) -> Option<&Part> {
        self.left.front()
    }

    /// The first one is taken, or given up.
    pub(super) fn pass(&mut self, gave_up: bool) {
        self.left.pop_front();
        self.gave_up |= gave_up;
    }

    /// All that are left are given up.
    pub(super) fn pass_all(&mut self) {
        self.left.clear();
        self.gave_up = true;
    }

    /// Puts two halves in the place of the first one. Returns whether it has two.
    pub(super) fn halve(&mut self) -> bool {
        match self.left.pop_front() {
            Some(Part { entries: Entries::Docker(mut entries), .. }) if entries.len() > 1 => {
                let second = entries.split_off(entries.len() / 2);
                self.left.push_front(Part::of(second));
                self.left.push_front(Part::of(entries));
                true
            }
            Some(part) => {
                self.left.push_front(part);
                false
            }
            None => false,
        }
    }
}

/// The entries of an envelope, in parts of some size.
fn in_parts(entries: Vec<Value>) -> Vec<Part> {
    let mut parts: Vec<Vec<Value>> = Vec::new();
    let mut left = 0;
    for entry in entries {
        let size = entry.to_string().len();
        match parts.last_mut().filter(|_| size <= left) {
            Some(part) => part.push(entry),
            None => {
                parts.push(vec![entry]);
                left = PART_BYTES;
            }
        }
        left = left.saturating_sub(size);
    }
    parts.into_iter().map(Part::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(count: usize, size: usize) -> Parts {
        let entry = |number: usize| json!({ "id": format!("log-1.{number}"), "text": "x".repeat(size) });
        Parts { sequence: 1, left: in_parts((0..count).map(entry).collect()).into(), gave_up: false }
    }

    fn ids(parts: &Parts) -> Vec<Vec<String>> {
        let id = |entry: &Value| entry["id"].as_str().unwrap().replace("log-1.", "");
        let of = |part: &Part| match &part.entries {
            Entries::Docker(entries) => entries.iter().map(id).collect(),
            Entries::CloudEvent(_) => Vec::new(),
        };
        parts.left.iter().map(of).collect()
    }

    #[test]
    fn an_envelope_is_bounded_in_bytes_and_loses_nothing() {
        let all = parts(100, 1000);
        let bodies: Vec<String> = all.left.iter().map(Part::body).collect();
        assert!(bodies.len() > 1 && bodies.iter().all(|body| body.len() < PART_BYTES + 1024));
        let found: Vec<String> = ids(&all).concat();
        assert_eq!(found, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
        // One that is larger than a part goes alone.
        assert_eq!(ids(&parts(3, PART_BYTES)), [["0"], ["1"], ["2"]]);
        assert!(parts(0, 1).first().is_none());
    }

    #[test]
    fn a_refused_envelope_is_halved_down_to_one_entry() {
        let mut all = parts(5, 10);
        assert_eq!(all.first().unwrap().id, "log-1.0+5");
        assert!(all.halve());
        assert_eq!(ids(&all), [vec!["0", "1"], vec!["2", "3", "4"]]);
        assert_eq!(all.first().unwrap().id, "log-1.0+2");
        assert!(all.halve());
        assert!(!all.halve(), "one entry has no halves");
        assert_eq!(ids(&all), [vec!["0"], vec!["1"], vec!["2", "3", "4"]]);
        all.pass(true);
        all.pass(false);
        assert_eq!((all.first().unwrap().id.as_str(), all.gave_up), ("log-1.2+3", true));
    }
}
