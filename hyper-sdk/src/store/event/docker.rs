//! Events in the envelope of Docker's registry.

use super::{Event, EventCursor, EventKind};
use crate::clock::rfc3339;
use crate::reference::Tag;
use serde_json::{Map, Value, json};

/// The media type of the envelope.
pub const DOCKER_EVENTS_TYPE: &str = "application/vnd.docker.distribution.events.v2+json";

/// The word of Docker's envelope for a kind of event; `None` when it has none: events of that kind are not told.
pub fn docker_action(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::ManifestPushed | EventKind::BlobPushed => Some("push"),
        EventKind::BlobMounted => Some("mount"),
        EventKind::ManifestDeleted | EventKind::TagDeleted | EventKind::BlobDeleted => Some("delete"),
        // The push of the manifest names the tags.
        EventKind::TagCreated
        | EventKind::TagMoved
        | EventKind::RepositoryCreated
        | EventKind::RepositoryEmptied => None,
    }
}

/// An event as the envelope that receivers of notifications of Docker's registry know; `None` when it has no word for it, as for
/// repositories. A manifest that was pushed with several tags is one event a tag there. `url` is where the registry is.
pub fn docker_events(event: &Event, log: &str, url: Option<&str>) -> Option<Value> {
    let action = docker_action(event.kind)?;
    let id = EventCursor::new(log, event.sequence).to_string();
    let one = |number: usize, tag: Option<&Tag>| {
        json!({
            "id": if number == 0 { id.clone() } else { format!("{id}.{number}") },
            "timestamp": rfc3339(event.at),
            "action": action,
            "target": target(event, tag, url),
            "request": request(event),
            "actor": event.by.actor.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name })),
            "source": { "instanceID": log },
        })
    };
    let events: Vec<Value> = match (event.kind, &event.tags[..]) {
        (EventKind::ManifestPushed, tags @ [_, ..]) => {
            tags.iter().enumerate().map(|(number, tag)| one(number, Some(tag))).collect()
        }
        _ => vec![one(0, event.tag.as_ref())],
    };
    Some(json!({ "events": events }))
}

fn target(event: &Event, tag: Option<&Tag>, url: Option<&str>) -> Value {
    let mut target = Map::new();
    let is_blob =
        matches!(event.kind, EventKind::BlobPushed | EventKind::BlobMounted | EventKind::BlobDeleted);
    let mut set = |key: &str, value: Value| target.insert(key.to_owned(), value);
    if let Some(media_type) = &event.media_type {
        set("mediaType", json!(media_type));
    } else if is_blob {
        set("mediaType", json!("application/octet-stream"));
    }
    if let Some(size) = event.size {
        set("size", json!(size));
        set("length", json!(size));
    }
    // There, the deletion of a tag has the tag alone.
    if let Some(digest) = event.digest.as_ref().filter(|_| event.kind != EventKind::TagDeleted) {
        set("digest", json!(digest));
        if let Some(url) = url {
            let place = if is_blob { "blobs" } else { "manifests" };
            set("url", json!(format!("{url}/v2/{}/{place}/{digest}", event.repository)));
        }
    }
    set("repository", json!(event.repository));
    if let Some(from) = &event.from {
        set("fromRepository", json!(from));
    }
    if let Some(tag) = tag {
        set("tag", json!(tag));
    }
    Value::Object(target)
}

fn request(event: &Event) -> Value {
    let mut request = Map::new();
    if let Some(id) = &event.by.request_id {
        request.insert("id".to_owned(), json!(id));
    }
    if let Some(address) = &event.by.address {
        request.insert("addr".to_owned(), json!(address));
    }
    Value::Object(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::reference::RepositoryName;

    #[test]
    fn a_push_with_two_tags_is_two_events_and_a_moved_tag_none() {
        let mut event = Event::new(EventKind::ManifestPushed, RepositoryName::parse("a/b").unwrap());
        event.sequence = 7;
        event.digest = Some(Digest::sha256("x"));
        event.tags = ["v1", "v2"].map(|tag| Tag::parse(tag).unwrap()).to_vec();
        event.by.actor = Some("alice".to_owned());
        let json = docker_events(&event, "log", Some("https://r.example")).unwrap();
        let [one, two] = json["events"].as_array().unwrap().as_slice() else { panic!("{json}") };
        assert_eq!((&one["id"], &two["id"]), (&json!("log-7"), &json!("log-7.1")));
        assert_eq!((&one["target"]["tag"], &two["target"]["tag"]), (&json!("v1"), &json!("v2")));
        assert_eq!(one["action"], "push");
        assert_eq!(one["actor"]["name"], "alice");
        let url = format!("https://r.example/v2/a/b/manifests/{}", Digest::sha256("x"));
        assert_eq!(one["target"]["url"], url);
        event.kind = EventKind::TagMoved;
        assert!(docker_events(&event, "log", None).is_none());
    }
}
