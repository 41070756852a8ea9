//! When the logins of users are looked at who are in the file of users no more.

use std::time::{Duration, Instant};

/// How often it is due although the users are the same: logins also end by their time.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Sees the users again and again. A file that is being written may be read before its end, so a change counts when it was seen twice.
#[derive(Debug, Default)]
pub(crate) struct UserWatch {
    seen: Option<String>,
    done: Option<(String, Instant)>,
}

impl UserWatch {
    /// Whether the logins are to be looked at, with a text that differs between different users.
    pub(crate) fn is_due(&mut self, users: Option<String>, now: Instant) -> bool {
        let is_stable = users.is_some() && self.seen == users;
        self.seen = users;
        let Some(users) = self.seen.as_ref().filter(|_| is_stable) else { return false };
        let is_done = |(done, at): &(String, Instant)| done == users && now.duration_since(*at) < EVERY;
        if self.done.as_ref().is_some_and(is_done) {
            return false;
        }
        self.done = Some((users.clone(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_when_it_was_seen_twice() {
        let (mut watch, now) = (UserWatch::default(), Instant::now());
        let mut sees = |users: &str, after: u64| {
            watch.is_due(
                Some(users.to_owned()).filter(|text| !text.is_empty()),
                now + Duration::from_secs(after),
            )
        };
        let looks =
            [("a", 0), ("a", 60), ("a", 120), ("half", 180), ("a", 240), ("a", 300), ("b", 360), ("b", 420)];
        let due: Vec<u64> =
            looks.into_iter().filter(|(users, at)| sees(users, *at)).map(|(_, at)| at).collect();
        assert_eq!(due, [60, 420], "half a file is not looked at, and the same users not again");
        assert!(sees("b", 420 + 3600), "but after an hour");
        assert!(!sees("", 9000) && !sees("", 9060), "without users nobody is removed");
    }
}
