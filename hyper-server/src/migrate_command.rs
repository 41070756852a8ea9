//! `hyperregistry migrate`: copies a store into an empty one.

use crate::blob_place::BlobText;
use crate::database::DatabaseUrl;
use crate::open_store::{self, Opened};
use crate::restore_command::{CopyArgs, refuse_target};
use crate::store_args::{self, StoreArgs};
use clap::Args;
use hyper_sdk::store::backup::{self, RestoreOptions};
use hyper_sdk::{Error, Result};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Configuration file of the source; the other flags of the source take precedence over it
    #[arg(long, value_name = "FILE")]
    from_config: Option<PathBuf>,
    /// Folder of the source
    #[arg(long, value_name = "DIR")]
    from_data: Option<PathBuf>,
    /// PostgreSQL database of the source
    #[arg(long, value_name = "URL")]
    from_database: Option<DatabaseUrl>,
    /// File of the password of the database of the source
    #[arg(long, value_name = "FILE")]
    from_database_password_file: Option<PathBuf>,
    /// Bucket of the blobs of the source
    #[arg(long, value_name = "URL")]
    from_blobs: Option<BlobText>,
    /// Configuration file of the target; the other flags of the target take precedence over it
    #[arg(long, value_name = "FILE")]
    to_config: Option<PathBuf>,
    /// Folder of the target
    #[arg(long, value_name = "DIR")]
    to_data: Option<PathBuf>,
    /// PostgreSQL database of the target
    #[arg(long, value_name = "URL")]
    to_database: Option<DatabaseUrl>,
    /// File of the password of the database of the target
    #[arg(long, value_name = "FILE")]
    to_database_password_file: Option<PathBuf>,
    /// Bucket of the blobs of the target
    #[arg(long, value_name = "URL")]
    to_blobs: Option<BlobText>,
    /// Copy the bytes of blobs alone, while the source is used; a second run without it copies the rest
    #[arg(long)]
    bytes_only: bool,
    /// Folder for the list of all content, a file without a name [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    #[command(flatten)]
    copy: CopyArgs,
}

/// Copies the store.
pub(crate) fn run(args: MigrateArgs) -> Result<ExitCode> {
    let MigrateArgs {
        from_config, from_data, from_database, from_database_password_file, from_blobs, ..
    } = args;
    let MigrateArgs { to_config, to_data, to_database, to_database_password_file, to_blobs, .. } = args;
    let from = StoreArgs::of(from_config, from_data, from_database, from_database_password_file, from_blobs);
    let to = StoreArgs::of(to_config, to_data, to_database, to_database_password_file, to_blobs);
    for (given, flags) in [(from.is_given(), "--from-"), (to.is_given(), "--to-")] {
        if !given {
            return Err(Error::invalid(format!(
                "a move needs both stores: name one with `{flags}data`, `{flags}database` and `{flags}blobs`, or with `{flags}config`"
            )));
        }
    }
    // A variable that sets a key would set it for both.
    let (from, to) = (from.load_alone()?, to.load_alone()?);
    from.check()?;
    to.check()?;
    if to.read_only {
        return Err(Error::invalid("the configuration key `read-only` of the target forbids a move into it"));
    }
    store_args::check_store(&from)?;
    refuse_target(&to)?;
    let spool = args.spool.unwrap_or_else(std::env::temp_dir);
    let options = RestoreOptions { bytes_only: args.bytes_only, sparse: from.sparse, ..args.copy.options() };
    let restored = hyper_sdk::runtime::start()?.block_on(async {
        let Opened { portable: source, .. } = open_store::open(&from, None).await?;
        let Opened { portable: target, .. } = open_store::open_unfinished(&to, None).await?;
        backup::migrate(&*source, &*target, &spool, &options).await
    })?;
    let verb = if args.bytes_only { "copied the bytes alone of" } else { "moved" };
    args.copy.report(verb, &restored)
}
