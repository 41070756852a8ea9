//! The channel of events. It counts the bytes of log that it holds.

use super::{Event, Sink};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TryRecvError};

/// How many bytes of log the channel holds before [`Sink::ready`] waits.
const ROOM: usize = 1 << 20;

/// The bytes of log that were not received yet.
#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicUsize,
    closed: AtomicBool,
    taken: Notify,
}

impl Backlog {
    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < ROOM || self.closed.load(Ordering::Acquire)
    }

    async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Notifications from here on are not missed.
            taken.as_mut().enable();
            if self.has_room() {
                return;
            }
            taken.await;
        }
    }
}

/// The bytes of log in an event.
fn length(event: &Event) -> usize {
    match event {
        Event::Log { text, .. } => text.len(),
        _ => 0,
    }
}

/// Sends into the channel.
#[derive(Debug)]
struct Sender {
    events: mpsc::UnboundedSender<Event>,
    backlog: Arc<Backlog>,
}

impl Sink for Sender {
    fn event(&self, event: Event) {
        self.backlog.bytes.fetch_add(length(&event), Ordering::AcqRel);
        // The receiver may be dropped.
        let _ = self.events.send(event);
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.backlog.room())
    }
}

/// The receiving end of [`super::Progress::channel`]. While nobody receives, commands that write much output wait.
///
/// After it is dropped, the commands continue and their output is lost.
#[derive(Debug)]
pub struct Events {
    events: mpsc::UnboundedReceiver<Event>,
    backlog: Arc<Backlog>,
}

pub(super) fn channel() -> (impl Sink, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let backlog = Arc::new(Backlog::default());
    let events = Events { events: receiver, backlog: Arc::clone(&backlog) };
    (Sender { events: sender, backlog }, events)
}

impl Events {
    /// Waits for the next event; `None` when all senders are dropped. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        self.took(length(&event));
        Some(event)
    }

    /// Waits for events and takes at most `limit` of them; 0 when all senders are dropped. Dropping the future loses
    /// nothing.
    pub async fn recv_many(&mut self, events: &mut Vec<Event>, limit: usize) -> usize {
        let before = events.len();
        let count = self.events.recv_many(events, limit).await;
        self.took(events[before..].iter().map(length).sum());
        count
    }

    /// The next event, without waiting.
    ///
    /// # Errors
    /// When there is no event. The error says whether all senders are dropped.
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        let event = self.events.try_recv()?;
        self.took(length(&event));
        Ok(event)
    }

    fn took(&self, bytes: usize) {
        if bytes > 0 {
            self.backlog.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.backlog.taken.notify_waiters();
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.backlog.closed.store(true, Ordering::Release);
        self.backlog.taken.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use crate::progress::{LogStream, Progress};
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_fast_writer_waits_for_a_slow_receiver() {
        let (progress, mut events) = Progress::channel();
        let task = progress.start("RUN", None);
        let block = vec![b'x'; 32 << 10];
        let mut sent = 0;
        while progress.ready().now_or_never().is_some() {
            task.log(LogStream::Stdout, &block);
            sent += 1;
            assert!(sent < 1000, "it never waits");
        }
        assert_eq!(sent, 32, "a mebibyte waits at most");
        let waiting = tokio::spawn({
            let progress = progress.clone();
            async move { progress.ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        for _ in 0..2 {
            events.recv().await.unwrap();
        }
        waiting.await.unwrap();
        task.log(LogStream::Stdout, &block);
        assert!(progress.ready().now_or_never().is_none());
        drop(events);
        progress.ready().await;
    }
}
