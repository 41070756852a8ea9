//! Events: what has changed in a registry, in the order of the changes.
//!
//! ```text
//!   a change ──▶ its events, in the same transaction ──▶ numbered 1, 2, 3, … without a gap ──▶ readers with a cursor
//!                                                                                         └──▶ consumers with a place
//! ```
//!
//! # Invariants
//! - An event is recorded in the transaction of its change, so there is no event without a change and no change without one.
//! - Numbers are given in the order of the commits, and a reader that sees a number sees all before it.
//! - Reads of content are no events: a pull writes nothing.

mod cloud_event;
mod context;
mod cursor;
mod docker;
mod log;
mod record;

pub use cloud_event::{CLOUD_EVENT_TYPE, CLOUD_EVENTS_TYPE, cloud_event};
pub use context::ChangeContext;
pub use cursor::{EventCursor, EventStart};
pub use docker::{DOCKER_EVENTS_TYPE, docker_action, docker_events};
pub use log::{
    ConsumerFailure, ConsumerHold, ConsumerMove, EventChange, EventConsumer, EventLimits, EventLog,
    EventPage, EventRules, SharedEventLog,
};
pub use record::{Event, EventKind};
