//! Whether a manifest of a repository references a digest.
//!
//! A digest can have very many references: all images of a registry may have the same base. And a repository can have very
//! many manifests. So a statement looks at the first references of a digest, which are all of them as a rule. Where there are
//! more, the smaller side is looked through: the references of the digest, or the manifests of the repository.
//!
//! The texts leave a planner no choice: `CASE` holds the order of the steps, the repository of a manifest is a query of its own
//! for each reference, and an order that only one index has is read from it. PostgreSQL knows averages alone, and would read
//! all manifests of a repository for each reference where repositories are small as a rule. Its connections have settings for the
//! rest.

use super::query::{Connection, Query, query};

/// What a statement knows of a digest after a look at the first references.
pub(super) const UNREFERENCED: i64 = 0;
pub(super) const REFERENCED: i64 = 1;
/// There are more references than were looked at: [`References::reach`] tells.
pub(super) const UNKNOWN: i64 = 2;

/// A manifest of the repository is among those of the first references. The owner of a manifest `o` is its repository, if it
/// counts.
macro_rules! among_first {
    ($refs:literal, $manifests:literal, $kinds:literal, $digest:literal, $owner:literal, $repository:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM (SELECT manifest_id FROM ",
            $refs,
            " WHERE digest = ",
            $digest,
            " AND kind IN ",
            $kinds,
            " LIMIT 64) AS f WHERE (SELECT ",
            $owner,
            " FROM ",
            $manifests,
            " o WHERE o.id = f.manifest_id) = ",
            $repository,
            ")"
        )
    };
}

/// The first references are all of them.
macro_rules! are_few {
    ($refs:literal, $kinds:literal, $digest:literal) => {
        concat!(
            "(SELECT COUNT(*) FROM (SELECT 1 FROM ",
            $refs,
            " WHERE digest = ",
            $digest,
            " AND kind IN ",
            $kinds,
            " LIMIT 64) AS first_of) < 64"
        )
    };
}

/// A manifest has a reference of this kind to the digest `$1`: looks at the next reference in the order of the key. NULL if there
/// is none.
macro_rules! has_reference {
    ($refs:literal, $manifest:literal, $kind:literal) => {
        concat!(
            "(SELECT f.manifest_id = ",
            $manifest,
            " AND f.kind = ",
            $kind,
            " AND f.digest = $1 FROM ",
            $refs,
            " f WHERE (f.manifest_id, f.kind, f.digest) >= (",
            $manifest,
            ", ",
            $kind,
            ", $1) ORDER BY f.manifest_id, f.kind, f.digest LIMIT 1)"
        )
    };
}

pub(super) use {among_first, are_few, has_reference};

/// The limit of a statement that looks at all references. It is a parameter, so that PostgreSQL reads the index by whose order the
/// first ones are found.
pub(super) const ALL: i64 = i64::MAX;

/// Tables of references of some kinds.
pub(super) struct References {
    /// How many references the digest `$1` has, `$2` at most.
    pub(super) count: &'static str,
    /// How many manifests the repository `$1` has, `$2` at most.
    pub(super) size: &'static str,
    /// Whether a manifest of the repository `$2` references the digest `$1`: looks at references of the digest, at most so many
    /// as the last parameter says.
    pub(super) by_digest: &'static str,
    /// The same: looks at all manifests of the repository.
    pub(super) by_repository: &'static str,
    /// Whether a manifest counts only while it is kept at the time `$3`.
    pub(super) has_window: bool,
}

macro_rules! references {
    ($refs:literal, $manifests:literal, [$first:literal $(, $rest:literal)*], $owner:literal, $limit:literal, $has_window:literal) => {
        References {
            count: concat!(
                "SELECT COUNT(*) FROM (SELECT 1 FROM ",
                $refs,
                " WHERE digest = $1 AND kind IN (",
                $first,
                $(", ", $rest,)*
                ") LIMIT $2) AS first_of"
            ),
            size: concat!(
                "SELECT COUNT(*) FROM (SELECT 1 FROM ",
                $manifests,
                " WHERE repository_id = $1 LIMIT $2) AS first_of"
            ),
            by_digest: concat!(
                "SELECT EXISTS (SELECT 1 FROM (SELECT manifest_id FROM ",
                $refs,
                " WHERE digest >= $1 AND digest <= $1 AND kind IN (",
                $first,
                $(", ", $rest,)*
                ") ORDER BY digest LIMIT ",
                $limit,
                ") AS f WHERE (SELECT ",
                $owner,
                " FROM ",
                $manifests,
                " o WHERE o.id = f.manifest_id) = $2)"
            ),
            by_repository: concat!(
                "SELECT EXISTS (SELECT 1 FROM ",
                $manifests,
                " o WHERE o.repository_id = $2 AND ",
                $owner,
                " = $2 AND (",
                has_reference!($refs, "o.id", $first),
                $(" OR ", has_reference!($refs, "o.id", $rest),)*
                "))"
            ),
            has_window: $has_window,
        }
    };
}

/// Those of manifests, to blobs and to entries.
pub(super) const LIVE: References =
    references!("manifest_refs", "manifests", ["0", "1"], "o.repository_id", "$3", false);
/// Those of deleted manifests in their windows, to blobs and to entries.
pub(super) const DELETED: References = references!(
    "deleted_refs",
    "deleted_manifests",
    ["0", "1"],
    "CASE WHEN o.kept_until > $3 THEN o.repository_id END",
    "$4",
    true
);
/// Those of manifests, to entries.
pub(super) const ENTRIES: References =
    references!("manifest_refs", "manifests", ["1"], "o.repository_id", "$3", false);
/// Those of deleted manifests in their windows, to entries.
pub(super) const DELETED_ENTRIES: References = references!(
    "deleted_refs",
    "deleted_manifests",
    ["1"],
    "CASE WHEN o.kept_until > $3 THEN o.repository_id END",
    "$4",
    true
);

/// What is looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Digest,
    Repository,
}

impl References {
    /// The side that is smaller, up to a factor. Both are counted to the same limit.
    pub(super) async fn smaller_side(
        &self,
        db: &mut Connection<'_>,
        repository: i64,
        digest: &str,
    ) -> sqlx::Result<Side> {
        let mut limit = 256;
        loop {
            let size: i64 = query(self.size).bind(repository).bind(limit).fetch_one(db).await?;
            if size < limit {
                return Ok(Side::Repository);
            }
            let count: i64 = query(self.count).bind(digest).bind(limit).fetch_one(db).await?;
            if count < limit {
                return Ok(Side::Digest);
            }
            limit *= 4;
        }
    }

    /// Whether a manifest of the repository references the digest at the time `now`.
    pub(super) async fn reach(
        &self,
        db: &mut Connection<'_>,
        repository: i64,
        digest: &str,
        now: i64,
    ) -> sqlx::Result<bool> {
        let side = self.smaller_side(db, repository, digest).await?;
        self.query(side, repository, digest, now).fetch_one(db).await
    }

    /// Asks one side for that, at the time `now`.
    pub(super) fn query<'q>(&self, side: Side, repository: i64, digest: &'q str, now: i64) -> Query<'q> {
        let text = match side {
            Side::Digest => self.by_digest,
            Side::Repository => self.by_repository,
        };
        let query = query(text).bind(digest).bind(repository);
        let query = if self.has_window { query.bind(now) } else { query };
        match side {
            Side::Digest => query.bind(ALL),
            Side::Repository => query,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::{new_database, plan_of};
    use super::*;

    /// Of two digests: 300 manifests of the first repository reference each, one of the second does, none of the third. They are
    /// deleted too, and kept until 10. The second and the third repository have 300 other manifests.
    const ROWS: &str = "
        INSERT INTO repositories (id, name, created_at) VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0), (4, 'd', 0);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 901)
        INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
        SELECT i, 1 + i / 301, 'm' || i, 'x', '{}', 1, 0, x'00' FROM n;
        INSERT INTO manifest_refs (manifest_id, kind, digest)
        SELECT id, 0, 'blob' FROM manifests WHERE id <= 301 UNION ALL
        SELECT id, 1, 'entry' FROM manifests WHERE id <= 301;
        INSERT INTO deleted_manifests (id, repository_id, digest, media_type, size, kept_until, body)
        SELECT id, repository_id, digest, media_type, size, 10, body FROM manifests;
        INSERT INTO deleted_refs (manifest_id, kind, digest) SELECT manifest_id, kind, digest FROM manifest_refs;
    ";

    #[tokio::test]
    async fn both_sides_tell_the_same() {
        let (mut connection, _folder) = new_database().await;
        sqlx::raw_sql(ROWS).execute(&mut connection).await.unwrap();
        let mut db = Connection::Sqlite(&mut connection, 0);
        for (references, of_blobs) in
            [(LIVE, true), (DELETED, true), (ENTRIES, false), (DELETED_ENTRIES, false)]
        {
            for (digest, is_referenced) in [("entry", true), ("blob", of_blobs), ("other", false)] {
                for (repository, has_some) in [(1, true), (2, true), (3, false), (4, false)] {
                    for now in [9, 10] {
                        let expected = is_referenced && has_some && (now < 10 || !references.has_window);
                        for side in [Side::Digest, Side::Repository] {
                            let query = references.query(side, repository, digest, now);
                            let found: bool = query.fetch_one(&mut db).await.unwrap();
                            assert_eq!(found, expected, "{digest} in {repository} at {now}: {side:?}");
                        }
                        let found = references.reach(&mut db, repository, digest, now).await.unwrap();
                        assert_eq!(found, expected, "{digest} in {repository} at {now}");
                    }
                }
            }
        }
        for (digest, repository, side) in [
            ("entry", 1, Side::Repository),
            ("other", 1, Side::Digest),
            ("other", 4, Side::Repository),
            ("entry", 4, Side::Repository),
        ] {
            assert_eq!(
                LIVE.smaller_side(&mut db, repository, digest).await.unwrap(),
                side,
                "{digest} {repository}"
            );
        }
    }

    /// Each statement searches in indexes, in the order of its text.
    #[tokio::test]
    async fn both_sides_are_searched_through() {
        for (references, table) in [
            (LIVE, "manifest_refs"),
            (DELETED, "deleted_refs"),
            (ENTRIES, "manifest_refs"),
            (DELETED_ENTRIES, "deleted_refs"),
        ] {
            let by_digest = format!("{table}_of_digest (digest=?");
            let in_order = format!("{table}_of_digest (digest>? AND digest<?");
            let of_manifest = format!("sqlite_autoindex_{table}_1 ((manifest_id,kind,digest)>(?,?,?)");
            for (text, searches) in [
                (references.count, [by_digest.as_str(), "SEARCH"]),
                (references.size, ["(repository_id=?", "SEARCH"]),
                (references.by_digest, [&in_order, "SEARCH o USING INTEGER PRIMARY KEY (rowid=?"]),
                (references.by_repository, ["(repository_id=?", &of_manifest]),
            ] {
                let plan = plan_of(text).await;
                for search in searches {
                    assert!(plan.iter().any(|line| line.contains(search)), "{text}: {plan:#?}");
                }
            }
        }
    }
}
