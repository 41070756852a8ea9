//! `hyperregistry gc`: removes from a store what nothing keeps.

use crate::open_store::{self, Opened};
use crate::standard_io::print;
use crate::store_args::{self, StoreArgs};
use crate::units::TimeSpan;
use clap::Args;
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::store::{CollectOptions, Collected, RemovalObserver};
use hyper_sdk::{Error, Result};
use std::io::Write as _;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Remove manifests without a tag too that were pushed at least this long ago, such as `720h` [default: they stay]
    #[arg(long, value_name = "TIME")]
    untagged_after: Option<TimeSpan>,
    /// Remove nothing, and say what would go and why
    #[arg(long)]
    dry_run: bool,
}

/// Collects garbage once. Every removal is a line, and the last line is the sum.
pub(crate) fn run(args: GcArgs) -> Result<()> {
    let mut config = args.store.load()?;
    config.gc.untagged_after = args.untagged_after.or(config.gc.untagged_after);
    config.check()?;
    if config.read_only {
        return Err(Error::invalid(
            "the configuration key `read-only` forbids a collection: use a file without it",
        ));
    }
    store_args::check_store(&config)?;
    let observer: RemovalObserver = Arc::new(|removal| {
        // Who reads no more has seen enough.
        let _ = writeln!(std::io::stdout(), "{removal}");
    });
    let dry_run = args.dry_run;
    let now = SystemClock.now();
    let options = CollectOptions { dry_run, observer: Some(observer), ..config.collection().options(now) };
    let collected = hyper_sdk::runtime::start()?.block_on(async {
        let Opened { store, .. } = open_store::open(&config, None).await?;
        store.collect(options).await
    })?;
    let Collected { manifests, links, blobs, bytes, left_to_another } = collected;
    let verb = if dry_run { "would remove" } else { "removed" };
    print(&format!(
        "{verb} {manifests} manifests, {links} links of blobs, and the bytes of {blobs} blobs: {bytes} bytes\n"
    ))?;
    if left_to_another {
        print(
            "another process removes bytes just now, or a backup copies them: what is left goes with a later collection\n",
        )?;
    }
    Ok(())
}
