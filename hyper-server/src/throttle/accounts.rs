//! What each client may do how often, and how much it may have under way at once.
//!
//! What is under way is in a table of its own: there a client needs a place for as long as it has something under way, and for a rate
//! until its burst has come back. So many clients that ask once let nobody share a count of what is under way.

use super::gates::{Nanos, Pace};
use super::options::Allowance;
use super::refusals::{By, Of};
use super::table::{Place, SETS, Table};
use super::{Kind, Throttle};
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The limits, and the clients that they limit now.
#[derive(Debug)]
pub(super) struct Accounts {
    reads: Option<Pace>,
    writes: Option<Pace>,
    requests: Option<NonZeroU32>,
    uploads: Option<NonZeroU32>,
    /// `None` when neither number is limited.
    under_way: Option<Table<Counts>>,
}

/// What a client has under way.
#[derive(Debug, Default)]
struct Counts {
    requests: u32,
    uploads: u32,
}

/// What a request has under way, in the counts at a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    place: Place,
    is_upload: bool,
}

impl Accounts {
    pub(super) fn new(allowance: &Allowance) -> Self {
        let Allowance { reads, writes, requests_at_once, uploads_at_once, .. } = allowance;
        let is_counted = requests_at_once.is_some() || uploads_at_once.is_some();
        Self {
            reads: reads.map(Pace::new),
            writes: writes.map(Pace::new),
            requests: *requests_at_once,
            uploads: *uploads_at_once,
            under_way: is_counted.then(|| Table::new(SETS)),
        }
    }

    /// Begins a request, if each limit allows it; otherwise says which one does not and how long to wait, and changes nothing.
    /// `None` when nothing has to be [ended](Self::end). `other` is asked between the counts and the rates.
    pub(super) fn begin(
        &self,
        key: impl Hash + Copy,
        kind: Kind,
        now: Nanos,
        other: impl FnOnce() -> Option<(Of, Duration)>,
    ) -> Result<Option<Begun>, (Of, Duration)> {
        let begun = self.count(key, matches!(kind, Kind::Upload | Kind::Chunk))?;
        let (pace, of) = match kind {
            Kind::Read => (&self.reads, Of::Reads),
            Kind::Write | Kind::Upload | Kind::Chunk => (&self.writes, Of::Writes),
        };
        let pace = || Some((of, pace.as_ref()?.take(key, now).err()?));
        if let Some(refused) = other().or_else(pace) {
            begun.into_iter().for_each(|begun| self.end(begun));
            return Err(refused);
        }
        Ok(begun)
    }

    fn count(&self, key: impl Hash, is_upload: bool) -> Result<Option<Begun>, (Of, Duration)> {
        let Some(table) = self.under_way.as_ref().filter(|_| is_upload || self.requests.is_some()) else {
            return Ok(None);
        };
        let is_idle = |counts: &Counts| counts.requests == 0 && counts.uploads == 0;
        let (place, refused) = table.change(key, is_idle, |counts| {
            if self.requests.is_some_and(|most| counts.requests >= most.get()) {
                return Some(Of::RequestsAtOnce);
            }
            if is_upload && self.uploads.is_some_and(|most| counts.uploads >= most.get()) {
                return Some(Of::UploadsAtOnce);
            }
            counts.requests += 1;
            counts.uploads += u32::from(is_upload);
            None
        });
        match refused {
            Some(of) => Err((of, Duration::from_secs(1))),
            None => Ok(Some(Begun { place, is_upload })),
        }
    }

    /// Ends what a request has begun.
    pub(super) fn end(&self, begun: Begun) {
        if let Some(table) = &self.under_way {
            table.change_at(begun.place, |counts| {
                counts.requests -= 1;
                counts.uploads -= u32::from(begun.is_upload);
            });
        }
    }
}

/// What one request has under way with each of its limits, until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    throttle: Arc<Throttle>,
    begun: [OnceLock<Begun>; By::OF_REQUESTS.len()],
}

impl UnderWay {
    pub(super) fn new(throttle: Arc<Throttle>) -> Self {
        Self { throttle, begun: Default::default() }
    }

    /// Adds what was begun with one of the limits.
    pub(super) fn add(&self, by: By, begun: Begun) {
        let is_first = self.begun.get(by as usize).is_some_and(|place| place.set(begun).is_ok());
        if !is_first {
            self.end(by, begun);
        }
    }

    fn end(&self, by: By, begun: Begun) {
        self.throttle.gates(by).accounts.end(begun);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for (by, begun) in By::OF_REQUESTS.into_iter().zip(&self.begun) {
            if let Some(begun) = begun.get() {
                self.end(by, *begun);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn at_once(most: u32) -> Accounts {
        let allowance = Allowance { requests_at_once: NonZeroU32::new(most), ..Allowance::default() };
        Accounts::new(&allowance)
    }

    fn begin(accounts: &Accounts, key: &str) -> Option<Begun> {
        accounts.begin(key, Kind::Read, 1, || None).ok().flatten()
    }

    #[test]
    fn as_many_are_under_way_as_may_be() {
        let accounts = at_once(3);
        let mut begun: Vec<Begun> = (0..3).map(|_| begin(&accounts, "a").unwrap()).collect();
        assert!(begin(&accounts, "a").is_none() && begin(&accounts, "b").is_some());
        accounts.end(begun.pop().unwrap());
        begun.push(begin(&accounts, "a").unwrap());
        assert!(begin(&accounts, "a").is_none());
        begun.into_iter().for_each(|begun| accounts.end(begun));
        assert!(begin(&accounts, "a").is_some());
    }

    #[test]
    fn a_refusal_takes_nothing_of_the_other_limits() {
        let allowance = Allowance {
            reads: "2/h".parse().ok(),
            writes: "9/h".parse().ok(),
            requests_at_once: NonZeroU32::new(2),
            uploads_at_once: NonZeroU32::new(1),
            ..Allowance::default()
        };
        let accounts = Accounts::new(&allowance);
        let begin = |kind| accounts.begin("a", kind, 1, || None).map_err(|(of, _)| of.name());
        let upload = begin(Kind::Upload).unwrap().unwrap();
        for _ in 0..9 {
            assert_eq!(begin(Kind::Chunk).unwrap_err(), "uploads_at_once");
        }
        let read = begin(Kind::Read).unwrap().unwrap();
        assert_eq!(begin(Kind::Read).unwrap_err(), "requests_at_once");
        accounts.end(read);
        accounts.end(begin(Kind::Read).unwrap().unwrap());
        for _ in 0..9 {
            assert_eq!(begin(Kind::Read).unwrap_err(), "reads");
        }
        // One upload of the nine writes was made, and one request is under way.
        accounts.end(upload);
        for _ in 0..8 {
            accounts.end(begin(Kind::Upload).unwrap().unwrap());
        }
        assert_eq!(begin(Kind::Write).unwrap_err(), "writes");
        let later = 3600 * 1_000_000_000;
        for _ in 0..2 {
            assert!(accounts.begin("a", Kind::Write, later, || None).is_ok());
        }
    }

    /// Who has many addresses fills a table of rates with one request from each.
    #[test]
    fn many_that_ask_once_let_nobody_share_a_count_of_what_is_under_way() {
        let allowance = Allowance {
            reads: "1/h".parse().ok(),
            requests_at_once: NonZeroU32::new(1),
            uploads_at_once: NonZeroU32::new(1),
            ..Allowance::default()
        };
        let accounts = Accounts::new(&allowance);
        let begin = |key: u32, kind| accounts.begin(key, kind, 1, || None).map_err(|(of, _)| of.name());
        for key in 0..100_000 {
            if let Ok(Some(begun)) = begin(key, Kind::Read) {
                accounts.end(begun);
            }
        }
        for key in 200_000..200_064 {
            assert!(begin(key, Kind::Upload).is_ok());
            assert_eq!(begin(key, Kind::Upload).unwrap_err(), "requests_at_once");
        }
    }

    #[test]
    fn threads_at_once_never_have_more_under_way() {
        let accounts = at_once(4);
        let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if let Some(begun) = begin(&accounts, "a") {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            now.fetch_sub(1, Ordering::SeqCst);
                            accounts.end(begun);
                        }
                    }
                });
            }
        });
        assert!((1..=4).contains(&most.into_inner()));
        let all: Vec<_> = (0..4).map(|_| begin(&accounts, "a").unwrap()).collect();
        assert!(begin(&accounts, "a").is_none() && all.len() == 4);
    }
}
