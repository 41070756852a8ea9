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
//! - No request waits for a webhook.
//! - Neither a secret, a header nor the path of an address is shown.

mod client;
mod run;
mod running;
mod sign;

pub(crate) use run::{Counts, Source, begin, test};
pub(crate) use running::{WebhookCounts, Webhooks, each};

use hyper_sdk::store::{CLOUD_EVENT_TYPE, DOCKER_EVENTS_TYPE, Event, EventKind, cloud_event, docker_events};
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
    /// PEM texts of authorities that are trusted besides those of the system.
    pub authorities: Vec<Vec<u8>>,
}

impl Webhook {
    fn wants(&self, event: &Event) -> bool {
        (self.events.is_empty() || self.events.contains(&event.kind)) && self.has(&event.repository)
    }

    /// Whether it gets the events of a repository.
    fn has(&self, name: &RepositoryName) -> bool {
        self.repositories.is_empty() || self.repositories.iter().any(|pattern| pattern.matches(name.as_str()))
    }

    /// The body of a request about an event; `None` when the format has no word for it.
    fn body(&self, event: &Event, log: &str, source: &str, url: Option<&str>) -> Option<String> {
        let mut event = event.clone();
        // It does not learn of the other repositories.
        event.from = event.from.filter(|from| self.has(from));
        match self.format {
            WebhookFormat::CloudEvents => Some(cloud_event(&event, log, source).to_string()),
            WebhookFormat::Docker => docker_events(&event, log, url).map(|events| events.to_string()),
        }
    }

    fn content_type(&self) -> &'static str {
        match self.format {
            WebhookFormat::CloudEvents => CLOUD_EVENT_TYPE,
            WebhookFormat::Docker => DOCKER_EVENTS_TYPE,
        }
    }
}
