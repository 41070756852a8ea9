//! Who copies bytes: while one does, no collector removes any.

use std::collections::HashMap;

/// The end of each hold, by its holder.
#[derive(Debug, Default)]
pub(super) struct Holds(HashMap<u64, i64>);

impl Holds {
    pub(super) fn hold(&mut self, holder: u64, seconds: i64, renews: bool, now: i64) -> u64 {
        self.0.retain(|_, until| *until > now);
        if renews && !self.0.contains_key(&holder) {
            return 0;
        }
        match seconds > 0 {
            true => self.0.insert(holder, now.saturating_add(seconds)),
            false => self.0.remove(&holder),
        };
        1
    }

    pub(super) fn are_held(&self, now: i64) -> bool {
        self.0.values().any(|until| *until > now)
    }
}
