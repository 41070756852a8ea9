//! What a check found.

use super::Level;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// The registry keeps the rule.
    Passed,
    /// The registry breaks a rule that it must keep.
    Failed,
    /// The registry breaks a rule that it should keep.
    Warned,
    /// A request got no answer: whether the registry keeps the rule is not known.
    Lost,
    /// The registry does not offer what the rule is about, as the specification permits.
    Skipped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Warned => "warned",
            Self::Lost => "lost",
            Self::Skipped => "skipped",
        })
    }
}

/// The result of one case.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CaseResult {
    /// The name of the case.
    pub name: &'static str,
    /// The request of the specification.
    pub endpoint: &'static str,
    /// How strict the rule is.
    pub level: Level,
    /// The rule, a sentence.
    pub rule: &'static str,
    /// How it ended.
    pub status: Status,
    /// Why it did not pass: the request, the answer, and what was expected. Empty when it passed.
    pub reason: String,
    /// How long it took; in JSON a number of seconds.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e6)
}

/// The results of all cases that ran, in their order.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The registry.
    pub registry: String,
    /// The results.
    pub cases: Vec<CaseResult>,
}

impl Report {
    /// How many cases ended so.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.cases.iter().filter(|case| case.status == status).count()
    }

    /// Whether the registry keeps every rule that it must keep, of those that were checked. Skipped cases count as kept, cases
    /// without an answer do not.
    #[must_use]
    pub fn conforms(&self) -> bool {
        self.count(Status::Failed) == 0 && self.count(Status::Lost) == 0
    }
}
