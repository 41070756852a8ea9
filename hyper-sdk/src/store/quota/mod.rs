//! Quotas: how much a namespace may have.
//!
//! ```text
//!   push, mount ──▶ transaction: which namespaces have the repository? ── adds too much to one of them: refused
//!                                  └─ the rows and the counts of all of them change together
//! ```
//!
//! # Invariants
//! - What a namespace uses is the bytes of each blob that one of its repositories has, counted once, the bytes of each of its
//!   manifests, counted once, and the numbers of its tags and manifests.
//! - What is there when a namespace gets its first rule is counted in pieces beside other changes. Until the count ends, the namespace
//!   uses what is counted so far.
//! - No change that adds to one of these passes its limit, and none that adds nothing is refused. Until the count ends, one may be that
//!   adds nothing, if the namespace is full by what is counted, and has what comes elsewhere, where the count has not been yet.
//! - Nothing is deleted because of a quota.

mod resource;
mod rules;
mod usage;

pub use resource::{QuotaCounts, QuotaResource};
pub use rules::{QuotaLimits, QuotaNamespace, QuotaRule, QuotaRules};
pub use usage::{QuotaCheck, QuotaUse};

#[cfg(test)]
mod tests;
