//! All rows of one moment, for backups.
//!
//! One transaction that only reads sees one moment. It lasts as long as the rows are taken, which is not as long as blobs are
//! copied. Rows come in pages, and manifests in pages of a few megabytes. A row that is not valid is named, and all others come.

use super::query::{Connection, Reader, query};
use super::{SqlMeta, unsigned};
use crate::reference::{RepositoryName, Tag};
use crate::store::meta::row::{
    BlobRow, DamagedRow, LinkRow, ManifestRow, RepositoryRow, Row, TagRow, TokenRow,
};
use crate::{Digest, Result};
use sqlx::Connection as _;
use tokio::sync::mpsc::Sender;

/// How many rows are asked for at once.
const PAGE: i64 = 1000;
/// How many manifests, and of how many bytes.
const MANIFESTS: i64 = 250;
const MANIFEST_BYTES: i64 = 4 << 20;

/// Why no more rows come.
enum Stop {
    Database(sqlx::Error),
    /// Nobody takes them.
    Closed,
}

impl From<sqlx::Error> for Stop {
    fn from(e: sqlx::Error) -> Self {
        Self::Database(e)
    }
}

type Outcome<T> = std::result::Result<T, Stop>;

impl SqlMeta {
    /// Sends all rows of one moment, in the order of [`RowKind`](crate::store::meta::RowKind). [`Row::Damaged`] names one that is
    /// not valid. Stops early when nobody receives them any more. Changes go on meanwhile, and are not seen.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn export_rows(&self, rows: Sender<Vec<Row>>) -> Result<()> {
        let mut reader = self.reader().await?;
        let outcome = match &mut reader {
            Reader::Sqlite(connection) => {
                // Dropped at any point, it is rolled back before the connection is used again.
                let mut transaction = connection.begin().await.map_err(|e| self.failed(e))?;
                let outcome = export(&mut Connection::Sqlite(&mut transaction, 0), &rows).await;
                transaction.rollback().await.map_err(|e| self.failed(e))?;
                outcome
            }
            #[cfg(feature = "store-postgres")]
            Reader::Postgres(connection, attempt) => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                let begun = super::query::told(attempt, connection.begin_with(begin).await);
                let mut transaction = begun.map_err(|e| self.failed(e))?;
                sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                    .execute(&mut *transaction)
                    .await
                    .map_err(|e| self.failed(e))?;
                let outcome =
                    export(&mut Connection::Postgres(&mut transaction, 0, Some(attempt)), &rows).await;
                transaction.rollback().await.map_err(|e| self.failed(e))?;
                outcome
            }
        };
        match outcome {
            Ok(()) | Err(Stop::Closed) => Ok(()),
            Err(Stop::Database(e)) => Err(self.failed(e)),
        }
    }
}

async fn export(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    let mut faults = Vec::new();
    blobs(db, rows, &mut faults).await?;
    repositories(db, rows, &mut faults).await?;
    links(db, rows, &mut faults).await?;
    manifests(db, rows, &mut faults).await?;
    tags(db, rows, &mut faults).await?;
    tokens(db, rows, &mut faults).await?;
    send(rows, faults).await
}

async fn send(rows: &Sender<Vec<Row>>, page: Vec<Row>) -> Outcome<()> {
    if page.is_empty() {
        return Ok(());
    }
    rows.send(page).await.map_err(|_| Stop::Closed)
}

/// How much of a text of the database is shown.
const SHOWN: usize = 200;

/// A text of the database, for people.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn fault(reason: String) -> Row {
    Row::Damaged(DamagedRow { digest: None, repository: None, reason })
}

/// Whether an error is about the content of a row, such as text that is not UTF-8.
fn is_of_row(e: &sqlx::Error) -> bool {
    matches!(e, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

/// Where the pages of a table are. After one that cannot be read its rows come one by one.
struct Pages {
    limit: i64,
    /// How many rows after the last good one cannot be read.
    skipped: i64,
    /// How many rows still come one by one.
    alone: i64,
}

impl Pages {
    fn new() -> Self {
        Self { limit: PAGE, skipped: 0, alone: 0 }
    }

    /// Goes on after a failure: with single rows, or after one that cannot be read. `what` names that one.
    fn failed(
        &mut self,
        e: sqlx::Error,
        faults: &mut Vec<Row>,
        what: impl FnOnce() -> String,
    ) -> Outcome<()> {
        if !is_of_row(&e) {
            return Err(e.into());
        }
        if self.limit > 1 {
            (self.limit, self.alone) = (1, PAGE);
        } else {
            faults.push(fault(format!("{} cannot be read: {e}", what())));
            self.skipped += 1;
        }
        Ok(())
    }

    /// Goes on after a page that was read.
    fn read(&mut self) {
        self.skipped = 0;
        if self.limit == 1 {
            self.alone -= 1;
            if self.alone <= 0 {
                self.limit = PAGE;
            }
        }
    }
}

/// The valid rows; each other one is named.
fn valid<T>(
    page: Vec<T>,
    faults: &mut Vec<Row>,
    name: impl Fn(&T) -> String,
    row: impl Fn(&T) -> Result<Row>,
) -> Vec<Row> {
    let mut rows = Vec::with_capacity(page.len());
    for columns in &page {
        match row(columns) {
            Ok(row) => rows.push(row),
            Err(e) => faults.push(fault(format!("{} is not valid: {e}", name(columns)))),
        }
    }
    rows
}

async fn blobs(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>, faults: &mut Vec<Row>) -> Outcome<()> {
    let (mut after, mut pages) = (String::new(), Pages::new());
    loop {
        let page: sqlx::Result<Vec<(String, i64, i64)>> = query(
            "SELECT digest, size, created_at FROM blobs b \
             WHERE digest > $1 AND EXISTS (SELECT 1 FROM blob_links l WHERE l.blob_id = b.id) \
             ORDER BY digest LIMIT $2 OFFSET $3",
        )
        .bind(after.as_str())
        .bind(pages.limit)
        .bind(pages.skipped)
        .fetch_all(db)
        .await;
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                pages.failed(e, faults, || format!("the blob after `{}`", shown(&after)))?;
                continue;
            }
        };
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after.clone_from(last);
        pages.read();
        let name = |(digest, ..): &(String, _, _)| format!("blob `{}`", shown(digest));
        let row = |(digest, size, created): &(String, i64, i64)| {
            Ok(Row::Blob(BlobRow {
                digest: Digest::parse(digest)?,
                size: unsigned(*size),
                created: *created,
            }))
        };
        send(rows, valid(page, faults, name, row)).await?;
    }
}

async fn repositories(
    db: &mut Connection<'_>,
    rows: &Sender<Vec<Row>>,
    faults: &mut Vec<Row>,
) -> Outcome<()> {
    let (mut after, mut pages) = (0, Pages::new());
    loop {
        let page: sqlx::Result<Vec<(i64, String, i64, bool)>> = query(
            "SELECT id, name, created_at, listed = 1 FROM repositories WHERE id > $1 ORDER BY id \
             LIMIT $2 OFFSET $3",
        )
        .bind(after)
        .bind(pages.limit)
        .bind(pages.skipped)
        .fetch_all(db)
        .await;
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                pages.failed(e, faults, || format!("the repository after number {after}"))?;
                continue;
            }
        };
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after = *last;
        pages.read();
        let name = |(_, name, ..): &(i64, String, _, _)| format!("repository `{}`", shown(name));
        let row = |(number, name, created, listed): &(i64, String, i64, bool)| {
            let (name, created) = (RepositoryName::parse(name)?, *created);
            Ok(Row::Repository(RepositoryRow { number: *number, name, created, listed: *listed }))
        };
        send(rows, valid(page, faults, name, row)).await?;
    }
}

async fn links(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>, faults: &mut Vec<Row>) -> Outcome<()> {
    let (mut after, mut pages) = ((0, 0), Pages::new());
    loop {
        let page: sqlx::Result<Vec<(i64, i64, String, i64)>> = query(
            "SELECT l.repository_id, l.blob_id, b.digest, l.leased_until FROM blob_links l \
             JOIN blobs b ON b.id = l.blob_id WHERE (l.repository_id, l.blob_id) > ($1, $2) \
             ORDER BY l.repository_id, l.blob_id LIMIT $3 OFFSET $4",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(pages.limit)
        .bind(pages.skipped)
        .fetch_all(db)
        .await;
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                pages.failed(e, faults, || {
                    format!("the link of a blob of the repository number {}", after.0)
                })?;
                continue;
            }
        };
        let Some((repository, blob, ..)) = page.last() else { return Ok(()) };
        after = (*repository, *blob);
        pages.read();
        let name = |(repository, _, blob, _): &(i64, i64, String, i64)| {
            format!("the link of blob `{}` in the repository number {repository}", shown(blob))
        };
        let row = |(repository, _, blob, leased_until): &(i64, i64, String, i64)| {
            let (repository, leased_until) = (*repository, *leased_until);
            Ok(Row::Link(LinkRow { repository, blob: Digest::parse(blob)?, leased_until }))
        };
        send(rows, valid(page, faults, name, row)).await?;
    }
}

async fn manifests(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>, faults: &mut Vec<Row>) -> Outcome<()> {
    let mut after = 0;
    loop {
        let sizes: Vec<(i64, i64)> =
            query("SELECT id, size FROM manifests WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(after)
                .bind(MANIFESTS)
                .fetch_all(db)
                .await?;
        let Some((last, _)) = sizes.last() else { return Ok(()) };
        after = *last;
        let mut rest = &sizes[..];
        while let Some((first, _)) = rest.first() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(_, size)| {
                bytes += size;
                bytes <= MANIFEST_BYTES
            });
            // One at least, however large it is.
            let (some, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let Some((last, _)) = some.last() else { continue };
            match manifests_between(db, *first, *last, faults).await {
                Ok(page) => send(rows, page).await?,
                Err(Stop::Database(e)) if is_of_row(&e) => {
                    for (number, _) in some {
                        match manifests_between(db, *number, *number, faults).await {
                            Ok(page) => send(rows, page).await?,
                            Err(Stop::Database(e)) if is_of_row(&e) => {
                                faults.push(fault(format!("manifest number {number} cannot be read: {e}")));
                            }
                            Err(stop) => return Err(stop),
                        }
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
    }
}

type ManifestColumns = (i64, i64, String, String, Option<String>, Option<String>, String, i64, Vec<u8>);

/// The manifests with these ids, the last one included.
async fn manifests_between(
    db: &mut Connection<'_>,
    first: i64,
    last: i64,
    faults: &mut Vec<Row>,
) -> Outcome<Vec<Row>> {
    let found: Vec<ManifestColumns> = query(
        "SELECT id, repository_id, digest, media_type, subject, artifact_type, annotations, created_at, body \
         FROM manifests WHERE id >= $1 AND id <= $2 ORDER BY id",
    )
    .bind(first)
    .bind(last)
    .fetch_all(db)
    .await?;
    let references: Vec<(i64, bool, String)> = query(
        "SELECT manifest_id, kind = 0, digest FROM manifest_refs WHERE manifest_id >= $1 AND manifest_id <= $2 \
         ORDER BY manifest_id, kind, digest",
    )
    .bind(first)
    .bind(last)
    .fetch_all(db)
    .await?;
    let mut references = references.into_iter().peekable();
    let mut page = Vec::with_capacity(found.len());
    for (number, repository, digest, media_type, subject, artifact_type, annotations, created, body) in found
    {
        let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
        while let Some((of, is_blob, text)) = references.next_if(|(of, ..)| *of <= number) {
            let to = if is_blob { &mut blobs } else { &mut manifests };
            match Digest::parse(&text) {
                Ok(digest) => to.push(digest),
                Err(_) if of == number => faults.push(fault(format!(
                    "manifest {}: its reference `{}` is not valid, and left out",
                    shown(&digest),
                    shown(&text)
                ))),
                Err(_) => {}
            }
        }
        let digest = match Digest::parse(&digest) {
            Ok(digest) => digest,
            Err(e) => {
                faults.push(fault(format!("manifest number {number} is not valid: {e}")));
                continue;
            }
        };
        page.push(Row::Manifest(ManifestRow {
            number,
            repository,
            digest,
            media_type,
            subject,
            artifact_type,
            annotations,
            created,
            blobs,
            manifests,
            body,
        }));
    }
    Ok(page)
}

async fn tags(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>, faults: &mut Vec<Row>) -> Outcome<()> {
    let (mut after, mut pages) = ((0, String::new()), Pages::new());
    loop {
        let page: sqlx::Result<Vec<(i64, String, i64, i64)>> = query(
            "SELECT repository_id, name, manifest_id, updated_at FROM tags \
             WHERE (repository_id, name) > ($1, $2) ORDER BY repository_id, name LIMIT $3 OFFSET $4",
        )
        .bind(after.0)
        .bind(after.1.as_str())
        .bind(pages.limit)
        .bind(pages.skipped)
        .fetch_all(db)
        .await;
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                let name =
                    || format!("the tag after `{}` of the repository number {}", shown(&after.1), after.0);
                pages.failed(e, faults, name)?;
                continue;
            }
        };
        let Some((repository, name, ..)) = page.last() else { return Ok(()) };
        after = (*repository, name.clone());
        pages.read();
        let name = |(repository, name, ..): &(i64, String, i64, i64)| {
            format!("tag `{}` of the repository number {repository}", shown(name))
        };
        let row = |(repository, name, manifest, updated): &(i64, String, i64, i64)| {
            let (repository, name) = (*repository, Tag::parse(name)?);
            Ok(Row::Tag(TagRow { repository, name, manifest: *manifest, updated: *updated }))
        };
        send(rows, valid(page, faults, name, row)).await?;
    }
}

type TokenColumns = (String, String, String, String, String, i64, Option<i64>, Option<i64>, Option<String>);

async fn tokens(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>, faults: &mut Vec<Row>) -> Outcome<()> {
    let (mut after, mut pages) = (String::new(), Pages::new());
    loop {
        let page: sqlx::Result<Vec<TokenColumns>> = query(
            "SELECT id, hash, user_name, name, scopes, created_at, expires_at, used_at, bound_to FROM api_tokens \
             WHERE id > $1 ORDER BY id LIMIT $2 OFFSET $3",
        )
        .bind(after.as_str())
        .bind(pages.limit)
        .bind(pages.skipped)
        .fetch_all(db)
        .await;
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                pages.failed(e, faults, || format!("the API token after `{}`", shown(&after)))?;
                continue;
            }
        };
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after.clone_from(last);
        pages.read();
        let row = |(id, hash, user, name, scopes, created, expires, used, bound_to): TokenColumns| {
            Row::Token(TokenRow { id, hash, user, name, scopes, created, expires, used, bound_to })
        };
        send(rows, page.into_iter().map(row).collect()).await?;
    }
}
