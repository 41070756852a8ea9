//! Which logins are to be forgotten, because their user or password is in the file of users no more.
//!
//! What a server has not seen in its own file it does not judge: another server may have a newer one.

use hyper_sdk::Digest;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How often logins are looked at although the users are the same: they also end by their time.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Sees what logins are bound to, again and again. A file that is being written may be read before its end, so a change counts when it
/// was seen twice.
#[derive(Debug, Default)]
pub(crate) struct UserWatch {
    seen: Option<HashSet<Digest>>,
    known: Option<HashSet<Digest>>,
    looked: Option<Instant>,
}

impl UserWatch {
    /// What is gone since the last time; `None` when nothing is to be done. `there` is what the file has, if it can be read.
    pub(crate) fn look(&mut self, there: Option<HashSet<Digest>>, now: Instant) -> Option<HashSet<Digest>> {
        let is_stable = there.is_some() && self.seen == there;
        self.seen = there;
        let there = self.seen.clone().filter(|_| is_stable)?;
        let former = self.known.replace(there.clone()).unwrap_or_default();
        let gone: HashSet<Digest> = former.difference(&there).cloned().collect();
        let is_due = !gone.is_empty() || self.looked.is_none_or(|at| now.duration_since(at) >= EVERY);
        is_due.then(|| {
            self.looked = Some(now);
            gone
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_and_is_gone_twice_is_gone() {
        let set = |names: &str| Some(names.chars().map(|name| Digest::sha256(name.to_string())).collect());
        let (mut watch, now) = (UserWatch::default(), Instant::now());
        let mut look =
            |there: Option<HashSet<Digest>>, at: u64| watch.look(there, now + Duration::from_secs(at));
        assert_eq!(look(set("ab"), 0), None);
        assert_eq!(look(set("ab"), 60), set(""), "logins may have ended by their time");
        for (there, at) in
            [(set("ab"), 120), (set("a"), 180), (set("ab"), 240), (set("ab"), 300), (None, 360), (None, 420)]
        {
            assert_eq!(look(there, at), None, "half a file is none, and one that cannot be read neither");
        }
        assert_eq!(look(set("bc"), 480), None);
        assert_eq!(look(set("bc"), 540), set("a"));
        assert_eq!(look(set("bc"), 600), None);
        assert_eq!(look(set("bc"), 540 + 3600), set(""));
    }
}
