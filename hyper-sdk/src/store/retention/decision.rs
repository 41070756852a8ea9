//! What becomes of a tag, and why.

use crate::Digest;
use crate::clock::rfc3339;
use crate::reference::RepositoryName;
use crate::store::meta::TagRecord;
use std::fmt;

/// Why a tag stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TagReason {
    /// It stays: no rule is about it.
    NoRule,
    /// It stays: its repository is one of a builder ([`crate::store::is_internal`]).
    Internal,
    /// It stays: the caller protects it, for this reason ([`super::RetainOptions::protection`]).
    Protected(String),
    /// It stays: this pattern keeps its name.
    Named(String),
    /// It stays: it belongs to this image, which the repository has. It is a signature of it, or lists what refers to it.
    Attached(Digest),
    /// It stays: it was pushed later than the clock says now.
    Ahead,
    /// It stays as one of the newest.
    Newest {
        /// How many of them the rule keeps.
        count: usize,
        /// Until when it stays by its age too, in seconds since 1970.
        young_until: Option<i64>,
    },
    /// It stays because of its age.
    Young {
        /// Until when, in seconds since 1970.
        until: i64,
    },
    /// It stays because it was pulled, or because it may have been: of one without a note the time of its push counts, or that
    /// when the notes began.
    Pulled {
        /// Until when, in seconds since 1970.
        until: i64,
    },
    /// It stays because the store does not note pulls yet.
    Unnoted,
    /// It goes: nothing keeps it.
    Expired {
        /// How many newer ones there are at least, if the rule counts them.
        newer: Option<usize>,
        /// Until when it was kept by its age, in seconds since 1970.
        young_until: Option<i64>,
        /// Until when it was kept by its last pull, in seconds since 1970.
        pulled_until: Option<i64>,
    },
    /// It stays for now: it was pushed again, pulled, moved or deleted after it was judged.
    Changed,
    /// It may be gone or not: the store failed while it was deleted.
    Unconfirmed,
}

/// What becomes of a tag. `Display` says it in one line, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagDecision {
    /// The repository.
    pub repository: RepositoryName,
    /// The tag.
    pub record: TagRecord,
    /// The index of the rule that decides; `None` when no rule is about the tag.
    pub rule: Option<usize>,
    /// Why it stays or goes.
    pub reason: TagReason,
}

impl TagDecision {
    /// Whether it is deleted.
    pub fn goes(&self) -> bool {
        matches!(self.reason, TagReason::Expired { .. })
    }

    /// When it goes if nothing is pushed or pulled, in seconds since 1970; `None` when it stays then. One of the newest may go when newer ones
    /// are pushed.
    pub fn goes_at(&self) -> Option<i64> {
        match &self.reason {
            TagReason::Young { until } | TagReason::Pulled { until } => Some(*until),
            _ => None,
        }
    }
}

impl TagReason {
    /// A word for programs, which does not change: `newest`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoRule => "no-rule",
            Self::Internal => "internal",
            Self::Protected(_) => "protected",
            Self::Named(_) => "named",
            Self::Attached(_) => "attached",
            Self::Ahead => "ahead",
            Self::Newest { .. } => "newest",
            Self::Young { .. } => "young",
            Self::Pulled { .. } => "pulled",
            Self::Unnoted => "unnoted",
            Self::Expired { .. } => "expired",
            Self::Changed => "changed",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl fmt::Display for TagReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule is about it"),
            Self::Internal => f.write_str("the builder keeps its repository for itself"),
            Self::Protected(why) => f.write_str(why),
            Self::Named(pattern) => write!(f, "`{pattern}` keeps its name"),
            Self::Attached(image) => write!(f, "it belongs to {image}, which is there"),
            Self::Ahead => f.write_str("it was pushed later than the clock says now"),
            Self::Newest { count, young_until } => {
                write!(f, "it is one of the newest {count}")?;
                match young_until {
                    Some(until) => write!(f, ", and until {} young enough", rfc3339(*until)),
                    None => Ok(()),
                }
            }
            Self::Young { until } => write!(f, "it is young enough until {}", rfc3339(*until)),
            Self::Pulled { until } => write!(f, "it counts as pulled until {}", rfc3339(*until)),
            Self::Unnoted => f.write_str("pulls are not noted yet"),
            Self::Expired { newer, young_until, pulled_until } => {
                let newer = newer.map(|count| format!("{count} are newer"));
                let old = young_until.map(|until| format!("it was young enough until {}", rfc3339(until)));
                let unused =
                    pulled_until.map(|until| format!("it counted as pulled until {}", rfc3339(until)));
                let reasons: Vec<String> = newer.into_iter().chain(old).chain(unused).collect();
                f.write_str(&reasons.join(", and "))
            }
            Self::Changed => f.write_str("it was pushed again, pulled, moved or deleted just now"),
            Self::Unconfirmed => f.write_str("the store failed while it was deleted, so it may be gone"),
        }
    }
}

impl fmt::Display for TagDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.goes() { "goes" } else { "stays" };
        write!(f, "{}:{} {verb}: ", self.repository, self.record.tag)?;
        match self.rule {
            Some(rule) => write!(f, "rule {}: {}", rule + 1, self.reason),
            None => write!(f, "{}", self.reason),
        }
    }
}
