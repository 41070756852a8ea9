//! Retention: rules by which a store deletes old tags.
//!
//! ```text
//!   tag ── first rule that matches it ── what keeps it? ── nothing: it is deleted
//!              │ none: it stays            protected, a name, the newest N, an age, a pull
//! ```
//!
//! # Invariants
//! - A tag stays if no rule matches it, or if the first rule that does has any reason to keep it.
//! - The newest are counted by the time of the last push, for each rule and repository. Those that
//!   share the second of the last one that stays do so, too. Tags that stay by their name take no place.
//! - A tag that belongs to an image by its name, as a signature does, stays as long as the image is there, and takes no place.
//! - A tag whose time lies ahead of the clock stays and takes no place: the clock was set back since.
//! - A tag is deleted in a transaction that checks that it is what was judged ([`Change::ExpireTag`]).
//! - What was never pulled counts as pulled when it was pushed, and when the store began to note pulls. Where that is not known it
//!   stays.
//! - Memory depends on `keep_newest` and not on the number of tags.
//!
//! [`Change::ExpireTag`]: super::meta::Change::ExpireTag

mod decision;
mod judge;
mod options;
mod rules;
#[cfg(test)]
mod tests;
mod turn;

pub use decision::{TagDecision, TagReason};
pub(super) use judge::{Judge, image_of};
pub use options::{RetainOptions, Retained, RetentionObserver, TagProtection};
pub use rules::{RetentionRule, RetentionRules};
pub use turn::{RetentionEnd, RetentionTurn};
