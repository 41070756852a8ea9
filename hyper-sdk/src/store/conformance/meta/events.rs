//! Cases about events. They end at once where the backend has none.

use super::MetaOpener;
use super::kit::*;
use crate::oci::{ImageIndex, Manifest};
use crate::reference::ManifestReference;
use crate::store::errors::is_cursor_gone;
use crate::store::meta::{Change, ManifestChange, MetaBackend, TagRecord};
use crate::store::{
    ChangeContext, ConsumerFailure, ConsumerHold, ConsumerMove, DeleteTarget, Event, EventCursor, EventKind,
    EventLimits, EventRules, EventStart, SharedEventLog, TagGuard,
};

/// The log of a backend that records, or `None` when it has none.
fn log(meta: &dyn MetaBackend, blobs: bool) -> Option<SharedEventLog> {
    let log = meta.event_log()?;
    log.record(Some(EventRules { blobs }));
    Some(log)
}

async fn all(log: &SharedEventLog) -> Vec<Event> {
    log.read(&EventStart::Oldest, 1000).await.unwrap().events
}

fn shown(events: &[Event]) -> Vec<String> {
    let text = |event: &Event| match &event.tag {
        Some(tag) => format!("{} {}:{tag}", event.kind, event.repository),
        None => format!("{} {}", event.kind, event.repository),
    };
    events.iter().map(text).collect()
}

/// What has happened since the last call.
async fn news(log: &SharedEventLog, place: &mut EventCursor) -> Vec<Event> {
    let page = log.read(&EventStart::After(place.clone()), 1000).await.unwrap();
    *place = page.next;
    page.events
}

async fn now(log: &SharedEventLog) -> EventCursor {
    log.read(&EventStart::Now, 0).await.unwrap().next
}

pub async fn a_push_has_its_events(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let (a, [one, two]) = (repository("a"), ["1", "2"].map(index));
    let mut place = now(&log).await;
    put(&**meta, &a, &one, &["v1", "latest"]).await.unwrap();
    let events = news(&log, &mut place).await;
    let expected = ["repository.created a", "manifest.pushed a", "tag.created a:v1", "tag.created a:latest"];
    assert_eq!(shown(&events), expected);
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let pushed = &events[1];
    assert_eq!(pushed.digest.as_ref(), Some(one.digest()));
    assert_eq!(pushed.media_type.as_deref(), Some(one.media_type()));
    assert_eq!(pushed.size, Some(one.bytes().len() as u64));
    assert_eq!(pushed.tags, ["v1", "latest"].map(tag));
    let at = meta.fetch_time().await.unwrap();
    assert!(events.iter().all(|event| (at - event.at).abs() < 60), "{events:?}");

    put(&**meta, &a, &two, &["latest"]).await.unwrap();
    let events = news(&log, &mut place).await;
    assert_eq!(shown(&events), ["manifest.pushed a", "tag.moved a:latest"]);
    let digests = (events[1].former.as_ref(), events[1].digest.as_ref());
    assert_eq!(digests, (Some(one.digest()), Some(two.digest())));

    put(&**meta, &a, &two, &["latest"]).await.unwrap();
    assert_eq!(shown(&news(&log, &mut place).await), ["manifest.pushed a"], "the tag is what it was");
    assert_eq!(all(&log).await.len(), 7);
}

/// What a client chooses may be long, and many events are read together.
pub async fn an_event_is_small(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let long = format!("application/{}", "a".repeat(100_000));
    let mut manifest = ImageIndex::new(vec![]);
    manifest.artifact_type = Some(long);
    let manifest = Manifest::sniff(manifest.to_bytes()).unwrap();
    let names: Vec<String> = (0..1234).map(|number| format!("t{number}")).collect();
    let tags: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = repository("a");
    put(&**meta, &name, &manifest, &tags).await.unwrap();
    let pushed = log.read(&EventStart::Oldest, 2).await.unwrap().events;
    assert_eq!((pushed[1].tags.len(), &pushed[1].artifact_type), (Event::MOST_TAGS, &None));
    let before = now(&log).await;
    assert_eq!(before.after(), 1236);
    meta.write(Change::DeleteManifest { repository: name, digest: manifest.digest().clone() }).await.unwrap();
    let (mut place, mut deleted) = (before, Vec::new());
    while place != now(&log).await {
        deleted.extend(news(&log, &mut place).await);
    }
    assert_eq!(deleted.len(), Event::MOST_UNTAGGED + 2);
    let gone = &deleted[Event::MOST_UNTAGGED];
    assert_eq!((gone.kind, gone.tag_count, gone.tags.len()), (EventKind::ManifestDeleted, Some(1234), 100));
    for event in pushed.iter().chain(&deleted) {
        assert!(serde_json::to_string(event).unwrap().len() < 4096, "{event:?}");
    }
}

pub async fn a_deletion_has_its_events(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let (a, [one, two, three]) = (repository("a"), ["1", "2", "3"].map(index));
    for (manifest, tags) in [(&one, &["x", "y", "z", "w"][..]), (&two, &["q"]), (&three, &[])] {
        put(&**meta, &a, manifest, tags).await.unwrap();
    }
    let mut place = now(&log).await;
    let write = async |change| meta.write(change).await.unwrap();
    write(Change::DeleteTag { repository: a.clone(), tag: tag("x") }).await;
    let listed = meta.tag_records(&a, Some("x"), 1).await.unwrap().unwrap();
    let [y] = &listed.items[..] else { panic!("{listed:?}") };
    write(Change::ExpireTag {
        repository: a.clone(),
        record: y.clone(),
        judged_at: y.pushed_at,
        unpulled_since: None,
    })
    .await;
    let guarded =
        |target| Change::DeleteGuarded { repository: a.clone(), target, guard: TagGuard::new(|_, _| Ok(())) };
    let by_name = ManifestReference::Tag(tag("z"));
    write(guarded(DeleteTarget::Manifest(by_name))).await;
    let events = news(&log, &mut place).await;
    assert_eq!(shown(&events), ["tag.deleted a:x", "tag.deleted a:y", "tag.deleted a:z"]);
    assert!(events.iter().all(|event| event.digest.as_ref() == Some(one.digest())), "{events:?}");
    let origins: Vec<_> = events.iter().map(|event| event.by.origin.as_deref()).collect();
    assert_eq!(origins, [None, Some("retention"), None]);

    write(Change::DeleteManifest { repository: a.clone(), digest: one.digest().clone() }).await;
    let events = news(&log, &mut place).await;
    assert_eq!(shown(&events), ["tag.deleted a:w", "manifest.deleted a"]);
    assert_eq!((&events[1].tags[..], events[1].digest.as_ref()), (&[tag("w")][..], Some(one.digest())));
    assert_eq!(events[1].media_type.as_deref(), Some(one.media_type()));

    write(guarded(DeleteTarget::Manifest(ManifestReference::Digest(two.digest().clone())))).await;
    assert_eq!(shown(&news(&log, &mut place).await), ["tag.deleted a:q", "manifest.deleted a"]);
    let digest = three.digest().clone();
    assert_eq!(write(Change::CollectManifest { repository: a.clone(), digest, before: i64::MAX }).await, 1);
    let events = news(&log, &mut place).await;
    assert_eq!(shown(&events), ["manifest.deleted a", "repository.emptied a"]);
    assert!(events.iter().all(|event| event.by.origin.as_deref() == Some("collection")));
    put(&**meta, &a, &one, &[]).await.unwrap();
    assert_eq!(shown(&news(&log, &mut place).await), ["repository.created a", "manifest.pushed a"]);
}

pub async fn events_of_blobs_are_recorded_if_they_are_wanted(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let [a, b] = ["a", "b"].map(repository);
    let changes = || [link(&a, "x", 0), mount(&b, "x", &a), unlink(&a, "x"), collect(&b, "x", LATER)];
    for change in changes() {
        meta.write(change).await.unwrap();
    }
    assert!(all(&log).await.is_empty());
    log.record(Some(EventRules { blobs: true }));
    for change in changes() {
        meta.write(change).await.unwrap();
    }
    let events = all(&log).await;
    assert_eq!(shown(&events), ["blob.pushed a", "blob.mounted b", "blob.deleted a", "blob.deleted b"]);
    assert_eq!((events[0].size, events[1].size, events[1].from.as_ref()), (Some(5), Some(5), Some(&a)));
    assert!(events.iter().all(|event| event.digest == Some(digest("x"))));
}

pub async fn what_is_not_changed_has_no_event(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, true) else { return };
    log.record(None);
    let (a, one) = (repository("a"), index("1"));
    put(&**meta, &a, &one, &["v1"]).await.unwrap();
    assert!(all(&log).await.is_empty(), "nothing is recorded");
    log.record(Some(EventRules { blobs: true }));
    let moved = ManifestChange { if_match: Some(None), ..change(&a, &index("2"), vec![], &["v1"]) };
    let missing = change(&a, &image("c", "l"), vec![edge("c"), edge("l")], &["v2"]);
    for rejected in [
        Change::PutManifest(Box::new(moved)),
        Change::PutManifest(Box::new(missing)),
        Change::DeleteTag { repository: a.clone(), tag: tag("v9") },
        Change::DeleteManifest { repository: a.clone(), digest: digest("x") },
        unlink(&a, "x"),
    ] {
        meta.write(rejected).await.unwrap_err();
    }
    let record = TagRecord { tag: tag("v1"), digest: digest("x"), pushed_at: 0, pulled_at: None };
    let digest = one.digest().clone();
    for nothing in [
        Change::CollectManifest { repository: a.clone(), digest, before: i64::MAX },
        Change::ExpireTag { repository: a.clone(), record, judged_at: 0, unpulled_since: None },
        collect(&a, "x", LATER),
    ] {
        assert_eq!(meta.write(nothing).await.unwrap(), 0);
    }
    assert!(all(&log).await.is_empty());
}

pub async fn the_author_of_a_change_is_recorded(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let alice = ChangeContext {
        actor: Some("alice".to_owned()),
        address: Some("192.0.2.7".to_owned()),
        request_id: Some("r1".to_owned()),
        origin: None,
    };
    let (a, one) = (repository("a"), index("1"));
    alice.clone().scope(put(&**meta, &a, &one, &["v1"])).await.unwrap();
    put(&**meta, &a, &one, &["v2"]).await.unwrap();
    let of_import = ChangeContext::of_origin("import");
    of_import.clone().scope(put(&**meta, &a, &one, &["v3"])).await.unwrap();
    for (name, expected) in [("v1", alice), ("v2", ChangeContext::default()), ("v3", of_import)] {
        let history = log.tag_history(&a, &tag(name), None, 10).await.unwrap().items;
        assert_eq!(history.iter().map(|event| &event.by).collect::<Vec<_>>(), [&expected], "{name}");
    }
}

pub async fn events_are_read_from_a_place_on(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let a = repository("a");
    for number in 0..5 {
        put(&**meta, &a, &index(&number.to_string()), &["v"]).await.unwrap();
    }
    let whole = log.read(&EventStart::Oldest, 1000).await.unwrap();
    // The first push has made the repository, too.
    assert_eq!((whole.events.len(), whole.last, whole.next.after()), (11, 11, 11));
    let (mut start, mut found) = (EventStart::Oldest, Vec::new());
    loop {
        let page = log.read(&start, 4).await.unwrap();
        assert_eq!(page.last, 11);
        if page.events.is_empty() {
            break;
        }
        found.extend(page.events);
        start = EventStart::After(page.next.to_string().parse().unwrap());
    }
    assert_eq!(found, whole.events);
    assert_eq!(now(&log).await, whole.next);
    let from_the_start = log.read(&EventStart::Oldest, 0).await.unwrap();
    assert_eq!((from_the_start.events.len(), from_the_start.next.after()), (0, 0));
    let log_name = whole.next.log().to_owned();
    for wrong in [EventCursor::new("another", 3), EventCursor::new(log_name, 12)] {
        let e = log.read(&EventStart::After(wrong.clone()), 10).await.unwrap_err();
        assert!(is_cursor_gone(&e), "{wrong} {e}");
    }
}

pub async fn old_events_go(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let a = repository("a");
    for number in 0..5 {
        put(&**meta, &a, &index(&number.to_string()), &[]).await.unwrap();
    }
    let name = now(&log).await.log().to_owned();
    let keep = |count, age| EventLimits { count, age };
    assert_eq!(log.prune(keep(6, 3600)).await.unwrap(), 0);
    assert_eq!(log.prune(keep(4, 3600)).await.unwrap(), 2);
    let kept = all(&log).await;
    assert_eq!(kept.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3, 4, 5, 6]);
    let read = async |after| log.read(&EventStart::After(EventCursor::new(name.clone(), after)), 10).await;
    assert!(is_cursor_gone(&read(1).await.unwrap_err()));
    assert_eq!(read(2).await.unwrap().events.len(), 4);
    assert_eq!(log.prune(keep(100, -3600)).await.unwrap(), 4, "all are old");
    assert!(all(&log).await.is_empty());
    assert!(is_cursor_gone(&read(5).await.unwrap_err()));
    put(&**meta, &a, &index("new"), &[]).await.unwrap();
    assert_eq!(read(6).await.unwrap().events[0].sequence, 7, "no number comes again");
}

pub async fn the_history_of_a_tag_is_told(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let ([a, b], [one, two]) = (["a", "b"].map(repository), ["1", "2"].map(index));
    for (name, manifest, tags) in
        [(&a, &one, &["v", "w"][..]), (&b, &one, &["v"]), (&a, &two, &["v"]), (&a, &two, &["v"])]
    {
        put(&**meta, name, manifest, tags).await.unwrap();
    }
    meta.write(Change::DeleteTag { repository: a.clone(), tag: tag("v") }).await.unwrap();
    let history = log.tag_history(&a, &tag("v"), None, 10).await.unwrap();
    let kinds: Vec<EventKind> = history.items.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::TagDeleted, EventKind::TagMoved, EventKind::TagCreated]);
    assert!(!history.more);
    let first = log.tag_history(&a, &tag("v"), None, 2).await.unwrap();
    assert_eq!((&first.items[..], first.more), (&history.items[..2], true));
    let before = first.items.last().map(|event| event.sequence);
    let second = log.tag_history(&a, &tag("v"), before, 2).await.unwrap();
    assert_eq!((&second.items[..], second.more), (&history.items[2..], false));
    assert!(log.tag_history(&repository("c"), &tag("v"), None, 2).await.unwrap().items.is_empty());
}

fn hold(holder: u64, seconds: i64, moved: Option<(&EventCursor, &EventCursor)>) -> ConsumerHold {
    let moved = moved.map(|(from, to)| ConsumerMove {
        from: from.clone(),
        to: to.clone(),
        taken: to.after() - from.after(),
        skipped: 0,
        gave_up: false,
    });
    ConsumerHold { name: "hook".to_owned(), holder, seconds, moved, failure: None }
}

pub async fn a_consumer_has_one_holder(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    let a = repository("a");
    put(&**meta, &a, &index("1"), &[]).await.unwrap();
    let begin = now(&log).await;
    assert_eq!(log.hold(hold(1, 3600, None)).await.unwrap(), None, "nobody has begun");
    assert!(log.consumers().await.unwrap().is_empty());
    assert!(log.begin("hook").await.unwrap());
    assert_eq!(log.consumers().await.unwrap()[0].holder, None);
    let mine = log.hold(hold(1, 3600, None)).await.unwrap().unwrap();
    assert_eq!((&mine.place, mine.taken, mine.last), (&begin, 0, 2), "it begins with what happens next");
    assert_eq!(mine.holder, Some(1));
    assert_eq!(log.hold(hold(2, 3600, None)).await.unwrap(), None);
    put(&**meta, &a, &index("2"), &[]).await.unwrap();
    let next = now(&log).await;
    assert_eq!(log.hold(hold(2, 3600, Some((&begin, &next)))).await.unwrap(), None);
    assert!(!log.begin("hook").await.unwrap(), "it is there, and stays where it is");
    let failure = ConsumerFailure { why: "no answer".to_owned(), tried: 7, refused: 2 };
    let failed = ConsumerHold { failure: Some(failure.clone()), ..hold(1, 3600, None) };
    let consumer = log.hold(failed).await.unwrap().unwrap();
    assert_eq!((&consumer.place, consumer.failure.as_ref()), (&begin, Some(&failure)));
    let consumer = log.hold(hold(1, 3600, Some((&begin, &next)))).await.unwrap().unwrap();
    assert_eq!((&consumer.place, consumer.taken, &consumer.failure), (&next, 1, &None));
    assert_eq!(
        log.hold(hold(1, 3600, Some((&begin, &next)))).await.unwrap(),
        None,
        "it is not there any more"
    );
    let ended = log.hold(hold(1, 0, None)).await.unwrap().unwrap();
    assert_eq!(ended.holder, None);
    let other = log.hold(hold(2, 3600, None)).await.unwrap().unwrap();
    assert_eq!((&other.place, other.taken), (&next, 1));
    assert_eq!(log.hold(hold(1, 3600, None)).await.unwrap(), None);
    assert_eq!(log.consumers().await.unwrap(), [other]);
}

pub async fn what_a_consumer_gives_up_is_counted(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    assert!(log.begin("hook").await.unwrap());
    let begin = now(&log).await;
    put(&**meta, &repository("a"), &index("1"), &["v"]).await.unwrap();
    let at = |number| EventCursor::new(begin.log(), number);
    let moved = |from: u64, to: u64, gave_up: bool| ConsumerHold {
        moved: Some(ConsumerMove { from: at(from), to: at(to), taken: 1, skipped: 0, gave_up }),
        ..hold(1, 3600, None)
    };
    for (hold, given_up, last) in
        [(moved(0, 1, false), 0, None), (moved(1, 2, true), 1, Some(2)), (moved(2, 3, false), 1, Some(2))]
    {
        let consumer = log.hold(hold).await.unwrap().unwrap();
        assert_eq!((consumer.given_up, consumer.last_given_up), (given_up, last.map(at)));
    }
    assert!(log.reset("hook", &EventStart::Oldest).await.unwrap());
    let consumer = log.consumers().await.unwrap().remove(0);
    assert_eq!((consumer.given_up, consumer.last_given_up), (1, Some(at(2))), "a replay forgets no loss");
}

pub async fn a_consumer_begins_again(opener: MetaOpener) {
    let meta = opener.open().await;
    let Some(log) = log(&**meta, false) else { return };
    put(&**meta, &repository("a"), &index("1"), &[]).await.unwrap();
    assert!(!log.reset("hook", &EventStart::Oldest).await.unwrap(), "nobody has this name");
    let end = now(&log).await;
    log.begin("hook").await.unwrap();
    let failure = ConsumerFailure { why: "no answer".to_owned(), tried: 7, refused: 2 };
    log.hold(ConsumerHold { failure: Some(failure), ..hold(1, 3600, None) }).await.unwrap().unwrap();
    assert!(log.reset("hook", &EventStart::Oldest).await.unwrap());
    assert_eq!(log.consumers().await.unwrap()[0].failure, None, "it is tried anew");
    let begin = EventCursor::new(end.log(), 0);
    let moved = log.hold(hold(1, 3600, Some((&end, &end)))).await.unwrap();
    assert_eq!(moved, None, "its holder finds out");
    assert_eq!(log.hold(hold(1, 3600, None)).await.unwrap().unwrap().place, begin);
    let unknown = EventStart::After(EventCursor::new("another", 0));
    assert!(is_cursor_gone(&log.reset("hook", &unknown).await.unwrap_err()));
    assert!(log.forget("hook").await.unwrap());
    assert!(!log.forget("hook").await.unwrap());
    assert_eq!(log.hold(hold(1, 3600, None)).await.unwrap(), None, "its holder does not bring it back");
    assert!(log.consumers().await.unwrap().is_empty());
}
