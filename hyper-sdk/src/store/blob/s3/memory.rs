//! The memory that all uploads of a backend share.
//!
//! # Invariants
//! - An upload that has more than a little in memory holds the place of its whole part, and gives it back when the part is
//!   sent. It never waits while it holds one, so that each of them comes to its end, and those that wait get a place in the
//!   order in which they came. One that has not filled it after its turn gives it back, too: what it has is saved.
//! - A request waits for a limited time, and then the client is asked to come again.
//! - Places and saved ends together are as large as the limit, which has one part at the least.

use super::parts::PART;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use object_store::path::Path as Key;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The memory of uploads, unless the caller says another one.
pub(super) const DEFAULT: u64 = 32 * PART;
/// What an upload may have in memory without a place: as much as the request that brought it.
const LITTLE: u64 = 256 << 10;
/// How long a request waits for a place.
const WAIT: Duration = Duration::from_secs(20);
/// An upload that fills its place slowly has it for this part of the wait, while others wait.
const TURNS: u32 = 10;
/// When a client is asked to come again.
const LATER: Duration = Duration::from_secs(10);
/// What a saved end takes besides its bytes.
const OVERHEAD: usize = 4 << 10;

/// The places for parts in memory. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    places: Arc<Semaphore>,
    all: u32,
    wait: Duration,
    /// How many uploads wait for a place.
    waiting: Arc<AtomicUsize>,
    ends: Arc<Mutex<Ends>>,
}

impl Memory {
    /// Places for so many bytes, an eighth of which is for saved ends.
    pub(super) fn new(bytes: u64) -> Self {
        let all = u32::try_from(((bytes - bytes / 8) / PART).clamp(1, 1 << 20)).unwrap_or(1);
        let ends = Ends { most: usize::try_from(bytes / 8).unwrap_or(usize::MAX), ..Ends::default() };
        let places = Arc::new(Semaphore::new(all as usize));
        Self { places, all, wait: WAIT, waiting: Arc::default(), ends: Arc::new(Mutex::new(ends)) }
    }

    #[cfg(test)]
    pub(super) fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Makes `held` enough for `bytes` of a part of the size `part`. A part that is larger than all places takes all of them.
    pub(super) async fn hold(&self, held: &mut Held, bytes: u64, part: u64) -> Result<()> {
        let needed = if bytes <= LITTLE { 0 } else { u32::try_from(part / PART).unwrap_or(self.all) };
        let needed = needed.min(self.all);
        if needed <= held.0.as_ref().map_or(0, |(permit, _)| permit.num_permits() as u32) {
            return Ok(());
        }
        held.0 = None;
        let coming = Arc::clone(&self.places).acquire_many_owned(needed);
        let _waiting = Waiting::new(&self.waiting);
        match tokio::time::timeout(self.wait, coming).await {
            Ok(Ok(permit)) => held.0 = Some((permit, Instant::now())),
            _ => {
                let full = "too many uploads are in memory at the moment: try again";
                return Err(Error::new(ErrorKind::Unavailable, full).with_retry_after(LATER));
            }
        }
        Ok(())
    }

    /// Whether others wait for a place that was held for a turn.
    pub(super) fn is_wanted(&self, held: &Held) -> bool {
        let had_turn = held.0.as_ref().is_some_and(|(_, since)| since.elapsed() >= self.wait / TURNS);
        had_turn && self.waiting.load(Ordering::Relaxed) > 0
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the saved end of an upload for the request that goes on with it, in the place of the oldest ones.
    pub(super) fn keep_end(&self, object: Key, pieces: &[Bytes]) {
        let size: usize = pieces.iter().map(Bytes::len).sum();
        if size == 0 || size > self.ends().most / 4 {
            return;
        }
        // The pieces may be parts of larger blocks.
        self.ends().keep(object, pieces.concat().into());
    }

    /// The saved end of an upload, if it is still here. It is not kept any longer.
    pub(super) fn take_end(&self, object: &Key) -> Option<Bytes> {
        self.ends().take(object)
    }
}

/// The place that an upload holds. It is free again when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Held(Option<(OwnedSemaphorePermit, Instant)>);

/// One that waits for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Gives the place back when only a little is left in memory.
    pub(super) fn shrink(&mut self, bytes: u64) {
        if bytes <= LITTLE {
            self.0 = None;
        }
    }
}

/// The saved ends of uploads, by the objects that have them.
#[derive(Debug, Default)]
struct Ends {
    most: usize,
    size: usize,
    kept: HashMap<Key, (u64, Bytes)>,
    /// From the oldest to the newest.
    order: BTreeMap<u64, Key>,
    count: u64,
}

impl Ends {
    fn keep(&mut self, object: Key, bytes: Bytes) {
        self.take(&object);
        self.size += bytes.len() + OVERHEAD;
        self.order.insert(self.count, object.clone());
        self.kept.insert(object, (self.count, bytes));
        self.count += 1;
        while self.size > self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.take(&oldest);
        }
    }

    fn take(&mut self, object: &Key) -> Option<Bytes> {
        let (number, bytes) = self.kept.remove(object)?;
        self.order.remove(&number);
        self.size -= bytes.len() + OVERHEAD;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_ends_have_a_limit_and_the_oldest_go() {
        let memory = Memory::new(8 << 20);
        let key = |number: usize| Key::from(format!("tail-{number}"));
        // A slice of a block does not keep the block.
        let block = Bytes::from(vec![7; 1 << 20]);
        for number in 0..1000 {
            memory.keep_end(key(number), &[block.slice(..90), block.slice(..10)]);
            assert!(memory.ends().size <= 1 << 20, "{number}");
        }
        let kept = (0..1000).filter(|number| memory.ends().kept.contains_key(&key(*number)));
        let kept: Vec<usize> = kept.collect();
        assert_eq!(kept, ((1000 - (1 << 20) / (OVERHEAD + 100))..1000).collect::<Vec<_>>());
        let end = memory.take_end(&key(999)).unwrap();
        assert!(end.len() == 100 && memory.take_end(&key(999)).is_none());
        // None for nothing, and none that would drive out most of the others.
        memory.keep_end(key(1), &[Bytes::new()]);
        memory.keep_end(key(2), std::slice::from_ref(&block));
        assert!(memory.take_end(&key(1)).is_none() && memory.take_end(&key(2)).is_none());
        for number in kept {
            memory.take_end(&key(number));
        }
        let ends = memory.ends();
        assert_eq!((ends.size, ends.kept.len(), ends.order.len()), (0, 0, 0));
        // The same end again replaces itself.
        drop(ends);
        for _ in 0..3 {
            memory.keep_end(key(3), &[block.slice(..100)]);
        }
        assert_eq!(memory.ends().size, OVERHEAD + 100);
    }

    #[tokio::test]
    async fn places_and_saved_ends_are_within_the_limit() {
        for (parts, places) in [(0, 1), (1, 1), (8, 7), (32, 28)] {
            assert_eq!(Memory::new(parts * PART).all, places, "{parts}");
        }
        // A larger part waits for all that there is, and no more.
        let memory = Memory::new(4 * PART).waiting(Duration::from_millis(50));
        let (mut one, mut two) = (Held::default(), Held::default());
        memory.hold(&mut one, PART, PART).await.unwrap();
        let error = memory.hold(&mut two, PART, 8 * PART).await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(LATER)));
        one.shrink(LITTLE + 1);
        memory.hold(&mut two, PART, 8 * PART).await.unwrap_err();
        one.shrink(LITTLE);
        memory.hold(&mut two, PART, 8 * PART).await.unwrap();
        assert_eq!(memory.places.available_permits(), 0);
    }
}
