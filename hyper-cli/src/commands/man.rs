//! `hyperbuild man`, which writes the manual pages of docs/man.

use crate::failure::Failure;
use clap::{Args, Command};
use hyper_sdk::Error;
use std::path::PathBuf;

/// Writes the manual pages into a folder
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let failed = |e| Error::io("cannot write the manual pages", &args.folder, e);
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(command, &args.folder).map_err(failed)?;
    Ok(())
}
