//! The commands `hyperregistry backup`: snapshots of a store in a folder. Servers of the store may run meanwhile.

use crate::backup_report::{self, Format};
use crate::open_store::{self, Opened};
use crate::standard_io::print;
use crate::store_args::{self, StoreArgs};
use clap::{Args, Subcommand};
use hyper_sdk::Result;
use hyper_sdk::clock::rfc3339;
use hyper_sdk::store::backup::{self, BackupFolder, CreateOptions, SnapshotInfo};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Makes a snapshot of a store; a server may serve it meanwhile
    ///
    /// The snapshot has all repositories, manifests, tags and API tokens of one moment, and the folder each blob once: those of
    /// earlier snapshots are not copied again. The command ends with status 3 when it left out blobs or manifests that are damaged
    /// in the store; each is named.
    Create(CreateArgs),
    /// Lists the snapshots of a folder
    Ls(ListArgs),
    /// Checks that a restore would find all that it needs; ends with status 1 if not
    Check(CheckArgs),
    /// Removes snapshots, and the blobs that no other one needs
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Folder of the backups; a new or empty one becomes one
    #[arg(value_name = "DEST")]
    folder: PathBuf,
    /// How many blobs are copied at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Folder of the backups
    #[arg(value_name = "DEST")]
    folder: PathBuf,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Folder of the backups
    #[arg(value_name = "DEST")]
    folder: PathBuf,
    /// Snapshot to check [default: all]
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Read all blobs, and compare them with their digests; those that differ are moved aside, so that the next backup copies them
    /// again [default: look at their sizes]
    #[arg(long)]
    read_data: bool,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Folder of the backups
    #[arg(value_name = "DEST")]
    folder: PathBuf,
    /// Snapshots to remove
    #[arg(value_name = "ID", required_unless_present = "keep")]
    ids: Vec<String>,
    /// Remove all but the newest so many snapshots of each registry; one that was restored or moved is another one
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

impl BackupCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Create(args) => args.run(),
            Self::Ls(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Rm(args) => args.run(),
        }
    }
}

/// Says who could reach the folder before.
pub(crate) fn warn(folder: &BackupFolder) {
    if let Some(warning) = folder.warning() {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

fn open(path: &Path) -> Result<BackupFolder> {
    let folder = BackupFolder::open(path)?;
    warn(&folder);
    Ok(folder)
}

impl CreateArgs {
    fn run(self) -> Result<ExitCode> {
        let config = self.store.load()?;
        config.check()?;
        store_args::check_store(&config)?;
        let created = hyper_sdk::runtime::start()?.block_on(async {
            // The store first: without it, nothing is made.
            let Opened { portable, .. } = open_store::open(&config, None).await?;
            let folder = BackupFolder::create(&self.folder)?;
            warn(&folder);
            let options = CreateOptions {
                jobs: usize::from(self.jobs),
                sparse: config.sparse,
                observer: Some(backup_report::observer()),
            };
            backup::create(&*portable, &folder, &options).await
        })?;
        print(&match self.format {
            Format::Text => format!(
                "snapshot {}: {}; {} blobs of {} bytes were copied, and {} blobs and rows are damaged in the store\n",
                created.id,
                backup_report::sums(&created.rows),
                created.copied,
                created.copied_bytes,
                created.damaged.len()
            ),
            Format::Json => {
                let shown = json!({
                    "id": created.id, "rows": backup_report::counts(&created.rows),
                    "copied": created.copied, "copied_bytes": created.copied_bytes,
                    "damaged": backup_report::damaged(&created.damaged),
                });
                format!("{shown}\n")
            }
        })?;
        Ok(backup_report::status(&created.damaged))
    }
}

impl ListArgs {
    fn run(self) -> Result<ExitCode> {
        let listed = backup::list(&open(&self.folder)?)?;
        let is_whole = listed.iter().all(|(_, info)| info.is_ok());
        print(&match self.format {
            Format::Text => table(&listed),
            Format::Json => {
                let shown = Value::from_iter(listed.iter().map(|(id, info)| match info {
                    Ok(info) => json!({
                        "id": id, "created": rfc3339(info.header.created), "registry": info.header.registry,
                        "store": info.header.store, "rows": backup_report::counts(&info.rows),
                    }),
                    Err(e) => json!({ "id": id, "error": e.to_string() }),
                }));
                format!("{shown:#}\n")
            }
        })?;
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The snapshots for people, one a line.
fn table(listed: &[(String, Result<SnapshotInfo>)]) -> String {
    let heads = ["ID", "CREATED", "REGISTRY", "MANIFESTS", "TAGS", "BLOBS", "BYTES", ""];
    let mut lines = vec![heads.map(str::to_owned)];
    let damaged = |count| if count > 0 { format!("({count} damaged)") } else { String::new() };
    lines.extend(listed.iter().filter_map(|(id, info)| info.as_ref().ok().map(|info| (id, info))).map(
        |(id, SnapshotInfo { header, rows, .. })| {
            [
                id.clone(),
                rfc3339(header.created),
                backup_report::short(&header.registry).to_owned(),
                rows.manifests.to_string(),
                rows.tags.to_string(),
                rows.blobs.to_string(),
                rows.bytes.to_string(),
                damaged(rows.damaged),
            ]
        },
    ));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |cells: &[String; 8]| {
        let mut text = String::new();
        for (number, (cell, width)) in cells.iter().zip(widths).enumerate() {
            // Numbers end where those above them do.
            let _ = match number {
                3..=6 => write!(text, "{cell:>width$}  "),
                _ => write!(text, "{cell:width$}  "),
            };
        }
        format!("{}\n", text.trim_end())
    };
    let mut readable = lines.iter();
    let mut text = readable.next().map(line).unwrap_or_default();
    for (id, info) in listed {
        text += &match info {
            Ok(_) => readable.next().map(line).unwrap_or_default(),
            Err(e) => format!("{id:width$}  {e}\n", width = widths[0]),
        };
    }
    text
}

impl CheckArgs {
    fn run(self) -> Result<ExitCode> {
        let folder = open(&self.folder)?;
        let checked = backup::check(&folder, self.id.as_deref(), self.read_data, |_| ())?;
        print(&match self.format {
            Format::Text => {
                let mut text = String::new();
                for fault in &checked.faults {
                    let _ = match &fault.blob {
                        Some(digest) => {
                            writeln!(text, "snapshot {}: {digest}: {}", fault.snapshot, fault.reason)
                        }
                        None => writeln!(text, "snapshot {}: {}", fault.snapshot, fault.reason),
                    };
                }
                let how = if self.read_data { "read" } else { "looked at" };
                let _ = writeln!(
                    text,
                    "read {} snapshots, and {how} {} blobs of {} bytes: {} faults; {} blobs and rows were damaged in \
                     the stores when the snapshots were made",
                    checked.snapshots,
                    checked.blobs,
                    checked.bytes,
                    checked.faults.len(),
                    checked.left_out,
                );
                text
            }
            Format::Json => {
                let faults = Value::from_iter(checked.faults.iter().map(|fault| {
                    json!({ "snapshot": fault.snapshot, "digest": fault.blob, "reason": fault.reason })
                }));
                let shown = json!({
                    "snapshots": checked.snapshots, "blobs": checked.blobs, "bytes": checked.bytes,
                    "left_out": checked.left_out, "faults": faults,
                });
                format!("{shown}\n")
            }
        })?;
        Ok(if checked.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl RemoveArgs {
    fn run(self) -> Result<ExitCode> {
        let keep = self.keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX));
        let removed = backup::remove(&open(&self.folder)?, &self.ids, keep)?;
        print(&match self.format {
            Format::Text => {
                let mut text: String = removed.snapshots.iter().map(|id| format!("removed {id}\n")).collect();
                let _ = writeln!(
                    text,
                    "removed {} snapshots, and {} blobs of {} bytes that no other one needs",
                    removed.snapshots.len(),
                    removed.blobs,
                    removed.bytes
                );
                text
            }
            Format::Json => {
                let shown = json!({
                    "snapshots": removed.snapshots, "blobs": removed.blobs, "bytes": removed.bytes,
                });
                format!("{shown}\n")
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
