//! How far the count of a namespace is.

use std::cmp::Ordering;

/// What is counted of a repository, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Links,
    Manifests,
    Tags,
    /// Nothing more.
    Done,
}

/// A row: its repository, what it is, and its key there. The order of places is that in which a count goes through the rows, so
/// what a count has passed is what lies at or before its place, whenever it was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::meta::sql) struct Place {
    pub(super) repository: String,
    pub(super) kind: Kind,
    pub(super) key: String,
}

/// A text that sorts after every digest and tag.
pub(super) const LAST: &str = "~";

impl Place {
    /// Before all rows.
    pub(super) fn start() -> Self {
        Self::in_repository("", Kind::Links, "")
    }

    pub(super) fn in_repository(repository: &str, kind: Kind, key: &str) -> Self {
        Self { repository: repository.to_owned(), kind, key: key.to_owned() }
    }

    /// A link to a blob. Its key has as many digits for each number, so that numbers and texts have one order.
    pub(super) fn link(repository: &str, blob: i64) -> Self {
        Self { repository: repository.to_owned(), kind: Kind::Links, key: format!("{blob:019}") }
    }

    /// The last blob that is passed in the repository of the place.
    pub(super) fn blob(&self) -> i64 {
        self.key.parse().unwrap_or(0)
    }

    /// The text up to which rows of this kind are passed in a repository; `None` when no such row is.
    pub(super) fn passed(&self, repository: &str, kind: Kind) -> Option<&str> {
        let here = self.repository.as_str().cmp(repository).then(self.kind.cmp(&kind));
        match here {
            Ordering::Greater => Some(LAST),
            Ordering::Equal => Some(&self.key),
            Ordering::Less => None,
        }
    }

    /// The place in the columns `at_repository`, `at_kind` and `at_key`.
    pub(super) fn read(columns: (Option<String>, Option<i64>, Option<String>)) -> Option<Self> {
        let (repository, kind, key) = columns;
        let kind = match kind.unwrap_or_default() {
            0 => Kind::Links,
            1 => Kind::Manifests,
            2 => Kind::Tags,
            _ => Kind::Done,
        };
        Some(Self { repository: repository?, kind, key: key.unwrap_or_default() })
    }
}

impl Kind {
    pub(super) fn number(self) -> i64 {
        self as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_passed_at_or_before_the_place() {
        let at = Place::link("team/a", 12);
        for (row, is_passed) in [
            (Place::link("team/a", 12), true),
            (Place::link("team/a", 9), true),
            (Place::link("team/a", 100), false),
            (Place::in_repository("team/a", Kind::Manifests, "sha256:0"), false),
            (Place::link("team/b", 1), false),
            (Place::in_repository("team", Kind::Tags, "z"), true),
            (Place::in_repository("team-a", Kind::Tags, "z"), true),
        ] {
            assert_eq!(row <= at, is_passed, "{row:?}");
        }
        assert!(Place::link("a", 1) > Place::start());
        let at = Place::in_repository("a", Kind::Tags, "v2");
        let passed = |repository, kind| at.passed(repository, kind);
        assert_eq!(passed("a", Kind::Tags), Some("v2"));
        assert_eq!((passed("a", Kind::Links), passed("Z", Kind::Tags)), (Some(LAST), Some(LAST)));
        assert_eq!(passed("b", Kind::Links), None);
    }
}
