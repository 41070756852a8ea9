//! What a namespace uses, and whether that is counted right.

use super::resource::QuotaCounts;
use super::rules::{QuotaLimits, QuotaNamespace};

/// A namespace, what it uses and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    /// The namespace: with a rule of [`QuotaNamespace::Each`] each first component that was counted.
    pub namespace: QuotaNamespace,
    /// What it uses; `None` when it was not counted yet ([`count_quotas`](crate::store::RegistryStore::count_quotas)).
    pub used: Option<QuotaCounts>,
    /// Its limits by the rules of this process; none when another server has the rule, or an earlier one had it.
    pub limits: QuotaLimits,
}

/// What the store has recorded of the use of a namespace, and what is there.
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
