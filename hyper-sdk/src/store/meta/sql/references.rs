//! Whether a manifest of a repository references a digest.
//!
//! A digest can have very many references: all images of a registry may have the same base. And a repository can have
//! very many manifests. So the first references of the digest are looked at, which are all of them as a rule; if there are
//! more, the manifests of the repository are.
//!
//! SQLite keeps the order of the tables of a `CROSS JOIN`; PostgreSQL does not, but takes `LIMIT` and a count as they are.

/// How many references of a digest are looked at before the manifests of a repository are.
macro_rules! first {
    () => {
        "64"
    };
}

/// The condition that a manifest of a repository references a digest, for these tables and kinds of references. `o` is the
/// manifest in the further condition.
macro_rules! referenced {
    ($refs:literal, $manifests:literal, $kinds:literal, $digest:literal, $repository:literal, $further:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM (SELECT manifest_id FROM ",
            $refs,
            " WHERE digest = ",
            $digest,
            " AND kind IN ",
            $kinds,
            " LIMIT ",
            first!(),
            ") AS f CROSS JOIN ",
            $manifests,
            " o WHERE o.id = f.manifest_id AND o.repository_id = ",
            $repository,
            $further,
            ") OR ((SELECT COUNT(*) FROM (SELECT 1 FROM ",
            $refs,
            " WHERE digest = ",
            $digest,
            " AND kind IN ",
            $kinds,
            " LIMIT ",
            first!(),
            ") AS first_of) = ",
            first!(),
            " AND EXISTS (SELECT 1 FROM ",
            $manifests,
            " o WHERE o.repository_id = ",
            $repository,
            $further,
            " AND (SELECT COUNT(*) FROM ",
            $refs,
            " f WHERE f.manifest_id = o.id AND f.kind IN ",
            $kinds,
            " AND f.digest = ",
            $digest,
            ") > 0)))"
        )
    };
}

pub(super) use {first, referenced};
