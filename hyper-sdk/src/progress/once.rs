//! A sink that passes each warning on once, for work that is repeated.

use super::{Event, Sink};
use futures::future::BoxFuture;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Passes all events on, except for repeated warnings about the whole.
pub(super) struct Once {
    sink: Arc<dyn Sink>,
    sent: Mutex<HashSet<String>>,
}

impl Once {
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink, sent: Mutex::default() }
    }
}

impl Sink for Once {
    fn event(&self, event: Event) {
        if let Event::Warning { task: None, message } = &event {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if !sent.insert(message.clone()) {
                return;
            }
        }
        self.sink.event(event);
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        self.sink.ready()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Progress};

    #[test]
    fn repeated_warnings_about_the_whole_are_sent_once() {
        let (progress, mut events) = Progress::channel();
        let once = progress.each_warning_once();
        for _ in 0..2 {
            once.warn("a");
            once.send(Event::Warning { task: Some(7), message: "b".to_owned() });
        }
        once.warn("c");
        // Both share the numbers of tasks.
        let numbers = [progress.start("x", None).id(), once.start("y", None).id()];
        assert_ne!(numbers[0], numbers[1]);
        drop((progress, once));
        let mut sent = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let Event::Warning { message, .. } = event {
                sent.push(message);
            }
        }
        assert_eq!(sent, ["a", "b", "b", "c"]);
    }
}
