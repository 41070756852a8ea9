//! How many rows the statements of a garbage collector and of guards read.

use super::super::garbage::{LINKED, LINKS};
use super::super::guards::NEEDING;
use super::super::keepers::{FIRST_WITH_ENTRY, FOUND_BY_ENTRY, FOUND_BY_REPOSITORY, MANIFEST, TAGGED};
use super::super::query::query;
use super::super::references::{ALL, DELETED, DELETED_ENTRIES, ENTRIES, LIVE, Side};
use super::options::SETTINGS;
use crate::store::meta::SqlMeta;
use crate::testing::PostgresServer;

/// 300 blobs, each referenced by 70 manifests of the repository 2; a base and an entry of all its 21 000 manifests. The
/// repository 1 has 20 000 other manifests, and links to all these blobs; the repository 3 has 10.
const MANY_DIGESTS: &str = "
    INSERT INTO repositories (id, name, created_at) SELECT i, 'r' || i, 0 FROM generate_series(1, 3) i;
    INSERT INTO blobs (id, digest, size, created_at) SELECT i, 'd' || i, 1, 0 FROM generate_series(1, 300) i;
    INSERT INTO blobs (id, digest, size, created_at) VALUES (301, 'base', 1, 0);
    INSERT INTO blob_links (repository_id, blob_id, leased_until) SELECT 1, i, 0 FROM generate_series(1, 301) i;
    INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
    SELECT i, CASE WHEN i <= 20000 THEN 1 WHEN i <= 41000 THEN 2 ELSE 3 END,
    CASE WHEN i = 42 THEN 'entry' ELSE 'm' || i END, 'x', '{}', 1, 0, ''
    FROM generate_series(1, 41010) i;
    INSERT INTO manifest_refs (manifest_id, kind, digest)
    SELECT id, 0, 'c' || id FROM manifests WHERE repository_id IN (1, 3)
    UNION ALL SELECT id, 0, 'd' || 1 + id % 300 FROM manifests WHERE repository_id = 2
    UNION ALL SELECT id, 0, 'base' FROM manifests WHERE repository_id = 2
    UNION ALL SELECT id, 1, 'entry' FROM manifests WHERE repository_id = 2;";
/// The same manifest with ten layers in each of 20 000 repositories, in which a layer has very many references as a rule. Each
/// link of the first ones to a blob that is no layer has none. The repository 1 has 30 000 other manifests.
const FEW_DIGESTS: &str = "
    INSERT INTO repositories (id, name, created_at) SELECT i, 'r' || i, 0 FROM generate_series(1, 20000) i;
    INSERT INTO blobs (id, digest, size, created_at) SELECT i, 'd' || i, 1, 0 FROM generate_series(1, 20) i;
    INSERT INTO blob_links (repository_id, blob_id, leased_until)
    SELECT r, b, 0 FROM generate_series(1, 30) r, generate_series(1, 20) b;
    INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
    SELECT i, CASE WHEN i <= 20000 THEN i ELSE 1 END, CASE WHEN i = 42 THEN 'entry' ELSE 'm' || i END, 'x', '{}', 1, 0, ''
    FROM generate_series(1, 50000) i;
    INSERT INTO tags (repository_id, name, manifest_id, updated_at)
    SELECT repository_id, 't' || id, id, 0 FROM manifests WHERE id > 20000;
    INSERT INTO manifest_refs (manifest_id, kind, digest) SELECT id, 0, layer FROM
    (SELECT id, 'd' || b AS layer FROM manifests, generate_series(1, 10) b WHERE id <= 20000) AS layers
    ORDER BY md5(id || layer);
    INSERT INTO manifest_refs (manifest_id, kind, digest) SELECT id, 1, 'entry' FROM manifests WHERE id <= 20000;";
/// 100 manifests of one repository have 2000 references each, and 20 000 elsewhere have few.
const FAT_MANIFESTS: &str = "
    INSERT INTO repositories (id, name, created_at) SELECT i, 'r' || i, 0 FROM generate_series(1, 2) i;
    INSERT INTO manifests (id, repository_id, digest, media_type, annotations, size, created_at, body)
    SELECT i, CASE WHEN i <= 100 THEN 1 ELSE 2 END, 'm' || i, 'x', '{}', 1, 0, '' FROM generate_series(1, 20100) i;
    INSERT INTO manifest_refs (manifest_id, kind, digest)
    SELECT id, k, repeat('x', 64) || i FROM manifests, generate_series(1, 1000) i, generate_series(0, 1) k WHERE id <= 100
    UNION ALL SELECT id, k, 'base' FROM manifests, generate_series(0, 1) k WHERE id > 100;";
/// All manifests are deleted, too.
const DELETED_TOO: &str = "
    INSERT INTO deleted_manifests (id, repository_id, digest, media_type, size, kept_until, body)
    SELECT id, repository_id, digest, media_type, size, 10, body FROM manifests;
    INSERT INTO deleted_refs (manifest_id, kind, digest) SELECT manifest_id, kind, digest FROM manifest_refs;";

struct Database {
    server: &'static PostgresServer,
    schema: String,
    meta: SqlMeta,
}

impl Database {
    async fn with(test: &str, rows: &str) -> Option<Self> {
        let server = crate::store::tests::postgres::server(test)?;
        let url = server.url(test);
        let meta = crate::store::tests::postgres::connect(&url).await;
        let database = Self { server, schema: url.rsplit("%3D").next()?.to_owned(), meta };
        database.run(rows);
        database.run(DELETED_TOO);
        for table in [
            "repositories",
            "blobs",
            "blob_links",
            "manifests",
            "manifest_refs",
            "tags",
            "deleted_manifests",
            "deleted_refs",
        ] {
            database.run(&format!("ANALYZE {table}"));
        }
        Some(database)
    }

    fn run(&self, text: &str) -> String {
        self.server.sql("postgres", &format!("SET search_path = {}; {text}", self.schema))
    }

    /// How many rows a statement with these parameters reads from tables and indexes, and how many pages.
    fn reads(&self, mode: &str, text: &str, types: &str, values: &str) -> (u64, u64) {
        let settings: String =
            SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}'; ")).collect();
        let plan = self.run(&format!(
            "{settings} SET plan_cache_mode = {mode}; PREPARE one ({types}) AS {text}; \
             EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE one ({values})"
        ));
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let plan = &plan[0]["Plan"];
        let pages = |name: &str| plan[name].as_u64().unwrap();
        (rows_read(plan), pages("Shared Hit Blocks") + pages("Shared Read Blocks"))
    }

    /// Each of these statements reads so many rows at most, whether PostgreSQL knows the parameters when it plans or not.
    fn check(&self, cases: &[(&str, &str, &str, u64)]) {
        for mode in ["force_generic_plan", "force_custom_plan"] {
            for (text, types, values, most) in cases {
                let (rows, pages) = self.reads(mode, text, types, values);
                // A search in an index reads few pages; a whole index, of which no row matches, has hundreds.
                assert!(
                    rows <= *most && pages <= 5 * most + 30,
                    "{mode}: {rows} rows and {pages} pages for ({values}), not {most} rows: {text}"
                );
            }
        }
    }
}

fn rows_read(node: &serde_json::Value) -> u64 {
    let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
    let own = match node["Relation Name"].as_str().or(node["Index Name"].as_str()) {
        Some(_) => number("Actual Rows") + number("Rows Removed by Filter"),
        None => 0.0,
    };
    let below = node["Plans"].as_array().into_iter().flatten().map(rows_read).sum::<u64>();
    (own * number("Actual Loops")).ceil() as u64 + below
}

const TWO: &str = "TEXT, BIGINT";
const THREE: &str = "TEXT, BIGINT, BIGINT";
const FOUR: &str = "TEXT, BIGINT, BIGINT, BIGINT";
const PLACE: &str = "BIGINT, BIGINT, TEXT, BIGINT";
const LINK: &str = "BIGINT, BIGINT, BIGINT, BIGINT, BIGINT";

/// What is read of 64 references at most, with their manifests.
const FEW: u64 = 2 * 64;

/// The settings with which the plans were read are those of the connections.
#[tokio::test]
async fn connections_have_the_settings() {
    let Some(database) = Database::with("settings of connections", "").await else { return };
    let mut reader = database.meta.reader().await.unwrap();
    for name in ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit"] {
        let asked = query("SELECT current_setting($1)").bind(name);
        let found: String = asked.fetch_one(&mut reader.connection()).await.unwrap();
        assert_eq!(found, "off", "{name}");
    }
}

#[tokio::test]
async fn both_sides_tell_the_same() {
    let Some(database) = Database::with("sides", MANY_DIGESTS).await else { return };
    let mut reader = database.meta.reader().await.unwrap();
    let mut db = reader.connection();
    for (references, digests) in [
        (LIVE, ["base", "d7"]),
        (DELETED, ["base", "d7"]),
        (ENTRIES, ["entry"; 2]),
        (DELETED_ENTRIES, ["entry"; 2]),
    ] {
        for (digest, repository) in digests.iter().flat_map(|digest| (1..=3).map(move |id| (digest, id))) {
            for now in [9, 10] {
                let expected = repository == 2 && (now < 10 || !references.has_window);
                for side in [Side::Digest, Side::Repository] {
                    let found: bool =
                        references.query(side, repository, digest, now).fetch_one(&mut db).await.unwrap();
                    assert_eq!(found, expected, "{digest} in {repository} at {now}: {side:?}");
                }
                assert_eq!(references.reach(&mut db, repository, digest, now).await.unwrap(), expected);
            }
        }
    }
}

#[tokio::test]
async fn a_statement_reads_as_many_rows_as_the_side_that_it_looks_through_has() {
    let Some(database) = Database::with("statements of a collector", MANY_DIGESTS).await else { return };
    database.check(&[
        (LINKS, LINK, "1, 1000, 1, 0, 0", 301 * 3 * FEW),
        (TAGGED, PLACE, "1, 1, 'm2', 1000", 3 * 1000),
        (LINKED, TWO, "'', 1000", 2 * 301),
        (NEEDING, "BIGINT, TEXT", "1, 'd7'", 2 * 70),
        (NEEDING, "BIGINT, TEXT", "2, 'entry'", 4 * 21_000),
        (MANIFEST, "BIGINT, BIGINT, BIGINT", "42, 1, 1", 3 * FEW),
        (FIRST_WITH_ENTRY, TWO, "'entry', 64", FEW),
        (FOUND_BY_ENTRY, THREE, "'entry', 1, 9223372036854775807", 2 * 21_000),
        (FOUND_BY_REPOSITORY, TWO, "'entry', 3", 2 * 10),
    ]);
    for references in [LIVE, DELETED, ENTRIES, DELETED_ENTRIES] {
        let (by_digest, by_repository, time) =
            if references.has_window { (FOUR, THREE, ", 1") } else { (THREE, TWO, "") };
        let with_time = |values: &str| format!("{values}{time}");
        let with_limit = |values: &str| format!("{values}{time}, {ALL}");
        database.check(&[
            (references.count, TWO, "'entry', 256", 256),
            (references.count, TWO, "'other', 256", 0),
            (references.size, "BIGINT, BIGINT", "3, 256", 10),
            (references.size, "BIGINT, BIGINT", "1, 256", 256),
            (references.by_digest, by_digest, &with_limit("'d7', 1"), 2 * 70),
            (references.by_digest, by_digest, &with_limit("'entry', 1"), 2 * 21_000),
            (references.by_repository, by_repository, &with_time("'entry', 3"), 3 * 10),
            (references.by_repository, by_repository, &with_time("'entry', 1"), 3 * 20_000),
        ]);
    }
}

#[tokio::test]
async fn a_statement_searches_for_a_digest_that_is_rarer_than_others() {
    let Some(database) = Database::with("rare digests", FEW_DIGESTS).await else { return };
    database.check(&[
        (LINKS, LINK, "1, 1000, 1, 0, 0", 600 * 3 * FEW),
        (TAGGED, PLACE, "1, 1, 'm2', 1000", 3 * 1000),
        (LINKED, TWO, "'', 1000", 2 * 20),
        (MANIFEST, "BIGINT, BIGINT, BIGINT", "42, 1, 1", 3 * FEW),
        (FIRST_WITH_ENTRY, TWO, "'other', 64", 0),
        (FOUND_BY_ENTRY, THREE, "'other', 1, 9223372036854775807", 0),
        (FOUND_BY_REPOSITORY, TWO, "'entry', 3", 2),
    ]);
    for references in [LIVE, DELETED, ENTRIES, DELETED_ENTRIES] {
        let (by_digest, by_repository, time) =
            if references.has_window { (FOUR, THREE, ", 1") } else { (THREE, TWO, "") };
        let with_time = |values: &str| format!("{values}{time}");
        let with_limit = |values: &str| format!("{values}{time}, {ALL}");
        database.check(&[
            (references.count, TWO, "'other', 256", 0),
            (references.count, TWO, "'entry', 256", 256),
            (references.size, "BIGINT, BIGINT", "20001, 256", 0),
            (references.size, "BIGINT, BIGINT", "20000, 256", 1),
            (references.by_digest, by_digest, &with_limit("'other', 1"), 0),
            (references.by_repository, by_repository, &with_time("'other', 3"), 2 * 11),
        ]);
    }
}

#[tokio::test]
async fn a_manifest_is_asked_for_a_reference_whatever_number_it_has() {
    let Some(database) = Database::with("fat manifests", FAT_MANIFESTS).await else { return };
    database.check(&[(FOUND_BY_REPOSITORY, TWO, "'base', 1", 3 * 100)]);
    for references in [LIVE, DELETED, ENTRIES, DELETED_ENTRIES] {
        let (types, values) =
            if references.has_window { (THREE, "'base', 1, 1") } else { (TWO, "'base', 1") };
        database.check(&[(references.by_repository, types, values, 3 * 100)]);
    }
}
