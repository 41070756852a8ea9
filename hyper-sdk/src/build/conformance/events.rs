//! The events of a build.

use super::kit::{Place, needs, watched};
use crate::build::SharedBuilder;
use crate::progress::{Event, Outcome, TaskId};
use std::collections::BTreeMap;

/// How each task ended.
fn ends(events: &[Event]) -> BTreeMap<TaskId, Vec<Outcome>> {
    let mut ends: BTreeMap<TaskId, Vec<Outcome>> = BTreeMap::new();
    for event in events {
        match event {
            Event::Started { task, .. } => {
                assert!(ends.insert(*task, Vec::new()).is_none(), "{event:?} twice")
            }
            Event::Finished { task, outcome, .. } => {
                ends.get_mut(task).unwrap_or_else(|| panic!("{event:?} had no begin")).push(outcome.clone());
            }
            _ => {}
        }
    }
    ends
}

/// The number of the task whose name contains a text.
fn task(events: &[Event], text: &str) -> TaskId {
    let named = events.iter().find_map(|event| match event {
        Event::Started { task, name, .. } if name.contains(text) => Some(*task),
        _ => None,
    });
    named.unwrap_or_else(|| panic!("no task is called {text}: {events:?}"))
}

pub async fn every_task_that_starts_ends(builder: SharedBuilder) {
    let place = Place::new(&[("f", "x")]);
    for text in ["FROM scratch\nCOPY f /f\n", "FROM scratch\nCOPY f /g\nCOPY missing /x\n"] {
        let (_, events) = watched(&builder, place.files(text)).await;
        for (task, outcomes) in ends(&events) {
            assert_eq!(outcomes.len(), 1, "task {task}: {outcomes:?} of {events:?}");
        }
    }
}

pub async fn a_step_is_a_task(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    for outcome in [Outcome::Done, Outcome::Cached] {
        let (result, events) = watched(&builder, place.request("FROM scratch\nCOPY f /f\n")).await;
        result.unwrap();
        assert_eq!(ends(&events)[&task(&events, "COPY f /f")], [outcome]);
    }
}

pub async fn a_failed_step_is_a_failed_task(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[]);
    let (result, events) = watched(&builder, place.request("FROM scratch\nCOPY missing /x\n")).await;
    result.unwrap_err();
    let failed = ends(&events).into_values().flatten().any(|end| matches!(end, Outcome::Failed(_)));
    assert!(failed, "{events:?}");
}

pub async fn a_finding_of_the_linter_is_a_warning(builder: SharedBuilder) {
    let place = Place::new(&[("f", "x")]);
    let (result, events) = watched(&builder, place.request("FROM scratch as one\nCOPY f /f\n")).await;
    result.unwrap();
    let warns =
        |event: &Event| matches!(event, Event::Warning { message, .. } if message.contains("FromAsCasing"));
    assert!(events.iter().any(warns), "{events:?}");
}
