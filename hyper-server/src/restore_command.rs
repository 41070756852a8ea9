//! `hyperregistry restore`: fills an empty store from a backup.

use crate::backup_command::warn;
use crate::backup_report::{self, Format};
use crate::config::Config;
use crate::open_store::{self, Opened};
use crate::standard_io::print;
use crate::store_args::StoreArgs;
use crate::typed_command;
use clap::Args;
use hyper_sdk::clock::rfc3339;
use hyper_sdk::store::backup::{self, BackupFolder, RestoreOptions, Restored, SnapshotInfo};
use hyper_sdk::{Error, Result};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Folder of the backups
    #[arg(value_name = "DEST")]
    folder: PathBuf,
    /// Snapshot, as `backup ls` shows it [default: the newest, when all are of one registry, or of one that was restored from it]
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// How bytes are copied into a store.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Leave out what is damaged in the source, name it, and end with status 3 [default: it is an error]
    #[arg(long)]
    skip_damaged: bool,
    /// How many blobs are copied at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

impl CopyArgs {
    pub(crate) fn options(&self) -> RestoreOptions {
        RestoreOptions {
            jobs: usize::from(self.jobs),
            skip_damaged: self.skip_damaged,
            observer: Some(backup_report::observer()),
            ..RestoreOptions::default()
        }
    }

    /// Prints what a store got. Returns the status of the command.
    pub(crate) fn report(&self, verb: &str, restored: &Restored) -> Result<ExitCode> {
        print(&match self.format {
            Format::Text => format!(
                "{verb} {}; {} blobs of {} bytes were copied, and {} blobs and rows are damaged\n",
                backup_report::sums(&restored.rows),
                restored.copied,
                restored.copied_bytes,
                restored.damaged.len()
            ),
            Format::Json => {
                let shown = json!({
                    "snapshot": restored.snapshot.id, "rows": backup_report::counts(&restored.rows),
                    "copied": restored.copied, "copied_bytes": restored.copied_bytes,
                    "damaged": backup_report::damaged(&restored.damaged),
                });
                format!("{shown}\n")
            }
        })?;
        Ok(backup_report::status(&restored.damaged))
    }
}

/// Fills the store.
pub(crate) fn run(args: RestoreArgs) -> Result<ExitCode> {
    let config = args.store.load()?;
    config.check()?;
    if config.read_only {
        return Err(Error::invalid(
            "the configuration key `read-only` forbids a restore: use a file without it",
        ));
    }
    let folder = BackupFolder::open(&args.folder)?;
    refuse_target(&config)?;
    warn(&folder);
    let id = match args.id {
        Some(id) => id,
        None => choose(&folder, &args.folder)?,
    };
    let restored = hyper_sdk::runtime::start()?.block_on(async {
        let Opened { portable, .. } = open_store::open_unfinished(&config, None).await?;
        backup::restore(&folder, Some(&id), &*portable, &args.copy.options()).await
    })?;
    args.copy.report("restored", &restored)
}

/// Fails when the folder of a target has backups or something else.
///
/// # Errors
/// Those of [`BackupFolder::refuse_within`] and [`BackupFolder::refuse_foreign`].
pub(crate) fn refuse_target(config: &Config) -> Result<()> {
    if config.database.url.is_some() && config.blobs.is_some() {
        // It has no folder.
        return Ok(());
    }
    BackupFolder::refuse_within(&config.data)?;
    BackupFolder::refuse_foreign(&config.data)
}

/// The snapshot that is meant without an id. When that is not clear, the choices are printed, each with its command.
fn choose(folder: &BackupFolder, typed: &Path) -> Result<String> {
    let mut out = std::io::stderr();
    let newest = backup::newest(folder).inspect_err(|e| {
        if let Some(id) = e.context_value("readable") {
            let _ =
                writeln!(out, "the newest snapshot that can be read:\n  {}", typed_command::with(typed, id));
        }
    })?;
    if let [info] = newest.as_slice() {
        return Ok(info.id.clone());
    }
    let _ = writeln!(out, "the newest snapshot of each registry:");
    for SnapshotInfo { id, header, rows, .. } in &newest {
        let _ = writeln!(
            out,
            "  {} of {}, registry {} ({}): {} manifests, {} tags\n    {}",
            id,
            rfc3339(header.created),
            backup_report::short(&header.registry),
            header.store,
            rows.manifests,
            rows.tags,
            typed_command::with(typed, id)
        );
    }
    Err(Error::invalid("the backups have snapshots of several registries: choose one with its command above")
        .with_context("path", folder.path().display()))
}
