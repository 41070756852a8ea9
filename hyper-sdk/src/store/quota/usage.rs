//! What a namespace uses, and whether that is counted right.

use super::resource::QuotaCounts;
use super::rules::{QuotaLimits, QuotaNamespace};

/// A namespace, what it uses and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    /// The namespace: with a rule of [`QuotaNamespace::Each`] each first component that was counted.
    pub namespace: QuotaNamespace,
    /// What it uses, as far as it is counted; `None` when nobody has begun to count
    /// ([`count_quotas`](crate::store::RegistryStore::count_quotas)).
    pub used: Option<QuotaCounts>,
    /// While the count goes on: how many hundredths of its repositories are counted, at most 99.
    pub counting: Option<u8>,
    /// Its limits by the rules of this process; none when another server has the rule, or an earlier one had it.
    pub limits: QuotaLimits,
    /// Whether a rule names it. Else its limits, if it has any, are those of [`QuotaNamespace::Each`].
    pub has_rule: bool,
}

/// What the store has recorded of the use of a namespace, and what is there: of one that is being counted, as far as the count is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaCheck {
    /// The namespace.
    pub namespace: QuotaNamespace,
    /// What is recorded.
    pub recorded: QuotaCounts,
    /// What is there.
    pub found: QuotaCounts,
    /// How many blobs and manifests are recorded with a wrong number of repositories that have them.
    pub wrong_rows: u64,
}

impl QuotaCheck {
    /// Whether what is recorded is right.
    pub fn is_right(&self) -> bool {
        self.recorded == self.found && self.wrong_rows == 0
    }
}
