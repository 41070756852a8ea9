//! How backups, restores and moves say what they do.

use hyper_sdk::store::backup::{BackupEvent, BackupObserver};
use hyper_sdk::store::meta::{DamagedRow, RowCounts};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The status of a command that did all but what is damaged.
pub(crate) const INCOMPLETE: u8 = 3;

/// How often a line of progress changes.
const PAUSE: Duration = Duration::from_millis(200);

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    #[default]
    Text,
    /// JSON
    Json,
}

#[derive(Default)]
struct Progress {
    rows: RowCounts,
    blobs: u64,
    bytes: u64,
    shown: Option<Instant>,
}

/// An observer that names what is damaged on standard error, and shows the progress there when it is a terminal.
pub(crate) fn observer() -> BackupObserver {
    let is_terminal = std::io::stderr().is_terminal();
    let progress = Mutex::new(Progress::default());
    Arc::new(move |event| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        // Who reads no more has seen enough.
        let mut out = std::io::stderr();
        match event {
            BackupEvent::Begin(rows) => progress.rows = *rows,
            BackupEvent::Blob { size, .. } => {
                progress.blobs += 1;
                progress.bytes += size;
            }
            BackupEvent::Damaged(row) => {
                let _ = writeln!(out, "damaged: {}", line(row));
            }
            _ => {}
        }
        let is_over = progress.blobs == progress.rows.blobs;
        if is_terminal && (is_over || progress.shown.is_none_or(|at| at.elapsed() > PAUSE)) {
            progress.shown = Some(Instant::now());
            let Progress { rows, blobs, bytes, .. } = &*progress;
            let end = if is_over { "\n" } else { "" };
            let _ = write!(
                out,
                "\r{blobs} of {} blobs, {} of {} MiB{end}",
                rows.blobs,
                bytes >> 20,
                rows.bytes >> 20
            );
            let _ = out.flush();
        }
    })
}

fn line(row: &DamagedRow) -> String {
    match (&row.repository, &row.digest) {
        (Some(repository), Some(digest)) => format!("manifest {repository}@{digest}: {}", row.reason),
        (Some(repository), None) => format!("{repository}: {}", row.reason),
        (None, Some(digest)) => format!("blob {digest}: {}", row.reason),
        (None, None) => row.reason.clone(),
    }
}

/// What is damaged, for programs.
pub(crate) fn damaged(rows: &[DamagedRow]) -> Value {
    rows.iter()
        .map(|row| json!({ "digest": row.digest, "repository": row.repository, "reason": row.reason }))
        .collect()
}

/// The status of a command that left out what is damaged.
pub(crate) fn status(rows: &[DamagedRow]) -> ExitCode {
    if rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) }
}

/// The name of a registry, for people.
pub(crate) fn short(registry: &str) -> &str {
    registry.get(..8).unwrap_or(registry)
}

/// The numbers of rows for people.
pub(crate) fn sums(rows: &RowCounts) -> String {
    let RowCounts { blobs, bytes, repositories, manifests, tags, tokens, .. } = rows;
    format!(
        "{repositories} repositories, {manifests} manifests, {tags} tags, {tokens} tokens, {blobs} blobs of {bytes} bytes"
    )
}

/// The numbers of rows for programs.
pub(crate) fn counts(rows: &RowCounts) -> Value {
    json!({
        "repositories": rows.repositories, "manifests": rows.manifests, "tags": rows.tags, "tokens": rows.tokens,
        "links": rows.links, "blobs": rows.blobs, "bytes": rows.bytes, "damaged": rows.damaged,
    })
}
