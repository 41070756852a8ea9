//! Webhooks: who is told of events, what they are told, and how far each has come.
//!
//! ```text
//!   event log ──▶ run: one task a webhook and server ──▶ filter ──▶ format ──▶ sign ──▶ POST
//!                  the database says which server has it, and its place
//! ```
//!
//! # Invariants
//! - A place moves after the answer 2xx to everything before it. So each event arrives at least once and in order, also after a
//!   server was killed; those since the last move arrive again, with the same id.
//! - An event that was tried for long enough is given up: counted, logged, and kept in the place by its id. No event keeps the later
//!   ones back for ever.
//! - The store learns of a webhook where a server begins, or reads its configuration again, and nowhere else.
//! - No request waits for a webhook.
//! - Neither a secret, a header nor the path of an address is shown.

mod client;
mod counts;
mod job;
mod parts;
mod run;
mod running;
mod sign;
#[cfg(test)]
mod tests;
mod trial;

pub(crate) use counts::Counts;
pub(crate) use run::{begin, check, test};
pub(crate) use running::{WebhookCounts, Webhooks, each};
pub(crate) use sign::key;

use hyper_sdk::store::{Event, EventKind, docker_action};
use hyper_sdk::{RepositoryName, RepositoryPattern, Secret};
use std::time::Duration;

/// How a webhook gets events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// One CloudEvent a request (`application/cloudevents+json`).
    #[default]
    CloudEvents,
    /// The envelope of notifications of Docker's registry. It has no word for some events, which are left out.
    Docker,
}

/// Somebody who is told of events by requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name, under which the store keeps its place.
    pub name: String,
    /// The address, which may have a secret.
    pub url: Secret,
    /// How it gets events.
    pub format: WebhookFormat,
    /// The kinds that it gets; all when there is none.
    pub events: Vec<EventKind>,
    /// The repositories whose events it gets; all when there is none.
    pub repositories: Vec<RepositoryPattern>,
    /// What requests are signed with: a signature for each. None: they are not signed.
    pub secrets: Vec<Secret>,
    /// Headers of each request.
    pub headers: Vec<(String, Secret)>,
    /// How long a request may take.
    pub timeout: Duration,
    /// How long an event is tried before it is given up; one that is refused for a hundredth of it (400, 413, 415, 422 or 431), unless
    /// nothing was taken since another one was given up.
    pub give_up: Duration,
    /// PEM texts of authorities that are trusted besides those of the system.
    pub authorities: Vec<Vec<u8>>,
}

impl Webhook {
    /// Whether it is told of an event.
    fn wants(&self, event: &Event) -> bool {
        let has_word = match self.format {
            WebhookFormat::CloudEvents => true,
            WebhookFormat::Docker => docker_action(event.kind).is_some(),
        };
        let is_chosen = self.events.is_empty() || self.events.contains(&event.kind);
        has_word && is_chosen && self.has(&event.repository)
    }

    /// Whether it gets the events of a repository.
    fn has(&self, name: &RepositoryName) -> bool {
        self.repositories.is_empty() || self.repositories.iter().any(|pattern| pattern.matches(name.as_str()))
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
