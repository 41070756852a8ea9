//! Events as CloudEvents (CloudEvents 1.0, JSON format).

use super::{Event, EventCursor};
use crate::clock::rfc3339;
use serde_json::{Map, Value, json};

/// The media type of one CloudEvent.
pub const CLOUD_EVENT_TYPE: &str = "application/cloudevents+json";
/// The media type of a list of CloudEvents.
pub const CLOUD_EVENTS_TYPE: &str = "application/cloudevents-batch+json";

/// An event as a CloudEvent. `log` is the name of its log, and `source` a reference to the registry. The id is the same whenever
/// the event is made: the place after it.
///
/// ```
/// use hyper_sdk::RepositoryName;
/// use hyper_sdk::store::{Event, EventKind, cloud_event};
///
/// let event = Event::new(EventKind::RepositoryEmptied, RepositoryName::parse("a/b")?);
/// let json = cloud_event(&event, "3f9a", "https://registry.example");
/// assert_eq!(json["type"], "hyperregistry.repository.emptied");
/// assert_eq!(json["subject"], "a/b");
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
pub fn cloud_event(event: &Event, log: &str, source: &str) -> Value {
    let subject = match (&event.tag, &event.digest) {
        (Some(tag), _) => format!("{}:{tag}", event.repository),
        (None, Some(digest)) => format!("{}@{digest}", event.repository),
        (None, None) => event.repository.to_string(),
    };
    let mut data = match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    data.remove("kind");
    json!({
        "specversion": "1.0",
        "id": EventCursor::new(log, event.sequence).to_string(),
        "source": source,
        "type": format!("hyperregistry.{}", event.kind),
        "subject": subject,
        "time": rfc3339(event.at),
        "datacontenttype": "application/json",
        // The extension `sequence`, which is compared as text.
        "sequence": format!("{:020}", event.sequence),
        "data": data,
    })
}
