//! `hyperregistry check`: reads all blobs of a store, and reports the damaged ones.

use crate::open_store::{self, Opened};
use crate::standard_io::print;
use crate::store_args::{self, StoreArgs};
use crate::units::Size;
use clap::{Args, ValueEnum};
use hyper_sdk::store::{BlobDamage, DamageKind, ScrubEvent, ScrubObserver, ScrubOptions, Scrubbed};
use hyper_sdk::{Error, Result};
use std::io::Write as _;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(crate) struct CheckBlobsArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Quarantine damaged blobs, so that clients push them again [default: report them]
    #[arg(long)]
    quarantine: bool,
    /// Bytes to read in a second, such as `50MiB` [default: no limit]
    #[arg(long, value_name = "SIZE")]
    rate: Option<Size>,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each damaged blob
    #[default]
    Text,
    /// A JSON object on a line for each damaged blob, and one of the sums
    Json,
}

/// Checks the blobs once. Returns whether all are whole.
pub(crate) fn run(args: CheckBlobsArgs) -> Result<bool> {
    let config = args.store.load()?;
    config.check()?;
    if config.read_only && args.quarantine {
        return Err(Error::invalid("the configuration key `read-only` forbids `--quarantine`"));
    }
    store_args::check_store(&config)?;
    let format = args.format;
    let observer: ScrubObserver = Arc::new(move |event| {
        let line = match event {
            ScrubEvent::Damaged(damage) => line(damage, format),
            ScrubEvent::Unreadable(digest, error) if format == Format::Text => {
                format!("blob {digest} cannot be read: {error}")
            }
            ScrubEvent::Unreadable(digest, error) => {
                serde_json::json!({ "digest": digest.as_str(), "unreadable": error.to_string() }).to_string()
            }
            _ => return,
        };
        // Who reads no more has seen enough.
        let _ = writeln!(std::io::stdout(), "{line}");
    });
    let rate = args.rate.map(|rate| rate.0);
    let options = ScrubOptions { rate, quarantine: args.quarantine, turn: None, observer: Some(observer) };
    let scrubbed = hyper_sdk::runtime::start()?.block_on(async {
        let Opened { store, .. } = open_store::open(&config, None).await?;
        store.scrub(options).await
    })?;
    let Scrubbed { blobs, bytes, damaged, unreadable, .. } = scrubbed;
    print(&match format {
        Format::Text => {
            format!("read {blobs} blobs, {bytes} bytes: {damaged} are damaged, {unreadable} cannot be read\n")
        }
        Format::Json => {
            let sums = serde_json::json!({
                "blobs": blobs, "bytes": bytes, "damaged": damaged, "unreadable": unreadable,
            });
            format!("{sums}\n")
        }
    })?;
    Ok(damaged + unreadable == 0)
}

fn line(damage: &BlobDamage, format: Format) -> String {
    if format == Format::Text {
        return damage.to_string();
    }
    let kind = match damage.kind {
        DamageKind::Missing => "missing",
        DamageKind::Size { .. } => "size",
        DamageKind::Content => "content",
        DamageKind::Quarantined => "quarantined",
        _ => "other",
    };
    let repositories: Vec<_> = damage.repositories.iter().map(|name| name.as_str()).collect();
    let manifests: Vec<_> =
        damage.manifests.iter().map(|at| format!("{}@{}", at.repository, at.digest)).collect();
    serde_json::json!({
        "digest": damage.digest.as_str(), "size": damage.size, "damage": kind,
        "repositories": repositories, "manifests": manifests,
    })
    .to_string()
}
