//! All rows of one moment, for backups.
//!
//! One transaction that only reads sees one moment. It lasts as long as the rows are taken, which is not as long as blobs are
//! copied. Rows come in pages, and manifests in pages of a few megabytes.

use super::query::{Connection, Reader, query};
use super::{SqlMeta, unsigned};
use crate::reference::{RepositoryName, Tag};
use crate::store::meta::row::{BlobRow, LinkRow, ManifestRow, RepositoryRow, Row, TagRow, TokenRow};
use crate::{Digest, Error, Result};
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
    /// A row that is not valid.
    Row(Error),
    /// Nobody takes them.
    Closed,
}

impl From<sqlx::Error> for Stop {
    fn from(e: sqlx::Error) -> Self {
        Self::Database(e)
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Row(e)
    }
}

type Outcome<T> = std::result::Result<T, Stop>;

impl SqlMeta {
    /// Sends all rows of one moment, in the order of [`RowKind`](crate::store::meta::RowKind), and without [`Row::Damaged`].
    /// Stops early when nobody receives them any more. Changes go on meanwhile, and are not seen.
    ///
    /// # Errors
    /// Those of the database; [`crate::ErrorKind::Corrupt`] when a row is not valid.
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
            Reader::Postgres(connection) => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                let mut transaction = connection.begin_with(begin).await.map_err(|e| self.failed(e))?;
                sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                    .execute(&mut *transaction)
                    .await
                    .map_err(|e| self.failed(e))?;
                let outcome = export(&mut Connection::Postgres(&mut transaction, 0), &rows).await;
                transaction.rollback().await.map_err(|e| self.failed(e))?;
                outcome
            }
        };
        match outcome {
            Ok(()) | Err(Stop::Closed) => Ok(()),
            Err(Stop::Database(e)) => Err(self.failed(e)),
            Err(Stop::Row(e)) => Err(self.damaged(e)),
        }
    }
}

async fn export(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    blobs(db, rows).await?;
    repositories(db, rows).await?;
    links(db, rows).await?;
    manifests(db, rows).await?;
    tags(db, rows).await?;
    tokens(db, rows).await
}

async fn send(rows: &Sender<Vec<Row>>, page: Vec<Row>) -> Outcome<()> {
    if page.is_empty() {
        return Ok(());
    }
    rows.send(page).await.map_err(|_| Stop::Closed)
}

async fn blobs(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    let mut after = String::new();
    loop {
        let page: Vec<(String, i64, i64)> = query(
            "SELECT digest, size, created_at FROM blobs b \
             WHERE digest > $1 AND EXISTS (SELECT 1 FROM blob_links l WHERE l.blob_id = b.id) \
             ORDER BY digest LIMIT $2",
        )
        .bind(after.as_str())
        .bind(PAGE)
        .fetch_all(db)
        .await?;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after.clone_from(last);
        let row = |(digest, size, created): (String, i64, i64)| {
            Ok(Row::Blob(BlobRow { digest: Digest::parse(&digest)?, size: unsigned(size), created }))
        };
        send(rows, page.into_iter().map(row).collect::<Result<_>>()?).await?;
    }
}

async fn repositories(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    let mut after = 0;
    loop {
        let page: Vec<(i64, String, i64, bool)> = query(
            "SELECT id, name, created_at, listed = 1 FROM repositories WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after)
        .bind(PAGE)
        .fetch_all(db)
        .await?;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after = *last;
        let row = |(number, name, created, listed): (i64, String, i64, bool)| {
            let name = RepositoryName::parse(&name)?;
            Ok(Row::Repository(RepositoryRow { number, name, created, listed }))
        };
        send(rows, page.into_iter().map(row).collect::<Result<_>>()?).await?;
    }
}

async fn links(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    let mut after = (0, 0);
    loop {
        let page: Vec<(i64, i64, String, i64)> = query(
            "SELECT l.repository_id, l.blob_id, b.digest, l.leased_until FROM blob_links l \
             JOIN blobs b ON b.id = l.blob_id WHERE (l.repository_id, l.blob_id) > ($1, $2) \
             ORDER BY l.repository_id, l.blob_id LIMIT $3",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(PAGE)
        .fetch_all(db)
        .await?;
        let Some((repository, blob, ..)) = page.last() else { return Ok(()) };
        after = (*repository, *blob);
        let row = |(repository, _, blob, leased_until): (i64, i64, String, i64)| {
            Ok(Row::Link(LinkRow { repository, blob: Digest::parse(&blob)?, leased_until }))
        };
        send(rows, page.into_iter().map(row).collect::<Result<_>>()?).await?;
    }
}

async fn manifests(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
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
            if let Some((last, _)) = some.last() {
                send(rows, manifests_between(db, *first, *last).await?).await?;
            }
        }
    }
}

type ManifestColumns = (i64, i64, String, String, Option<String>, Option<String>, String, i64, Vec<u8>);

/// The manifests with these ids, the last one included.
async fn manifests_between(db: &mut Connection<'_>, first: i64, last: i64) -> Outcome<Vec<Row>> {
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
        while let Some((_, is_blob, digest)) = references.next_if(|(of, ..)| *of <= number) {
            let to = if is_blob { &mut blobs } else { &mut manifests };
            to.push(Digest::parse(&digest)?);
        }
        let digest = Digest::parse(&digest)?;
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

async fn tags(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    let mut after = (0, String::new());
    loop {
        let page: Vec<(i64, String, i64, i64)> = query(
            "SELECT repository_id, name, manifest_id, updated_at FROM tags \
             WHERE (repository_id, name) > ($1, $2) ORDER BY repository_id, name LIMIT $3",
        )
        .bind(after.0)
        .bind(after.1.as_str())
        .bind(PAGE)
        .fetch_all(db)
        .await?;
        let Some((repository, name, ..)) = page.last() else { return Ok(()) };
        after = (*repository, name.clone());
        let row = |(repository, name, manifest, updated): (i64, String, i64, i64)| {
            Ok(Row::Tag(TagRow { repository, name: Tag::parse(&name)?, manifest, updated }))
        };
        send(rows, page.into_iter().map(row).collect::<Result<_>>()?).await?;
    }
}

type TokenColumns = (String, String, String, String, String, i64, Option<i64>, Option<i64>);

async fn tokens(db: &mut Connection<'_>, rows: &Sender<Vec<Row>>) -> Outcome<()> {
    let mut after = String::new();
    loop {
        let page: Vec<TokenColumns> = query(
            "SELECT id, hash, user_name, name, scopes, created_at, expires_at, used_at FROM api_tokens \
             WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after.as_str())
        .bind(PAGE)
        .fetch_all(db)
        .await?;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        after.clone_from(last);
        let row = |(id, hash, user, name, scopes, created, expires, used): TokenColumns| {
            Row::Token(TokenRow { id, hash, user, name, scopes, created, expires, used })
        };
        send(rows, page.into_iter().map(row).collect()).await?;
    }
}
