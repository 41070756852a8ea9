//! `hyperbuild man`, which writes the manual pages of docs/man.

use crate::failure::Failure;
use clap::{Args, Command};
use hyper_server::command_docs;
use std::path::PathBuf;

/// Writes the manual pages into a folder
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &ManArgs, command: Command) -> Result<(), Failure> {
    command_docs::man_pages(command, &args.folder)?;
    Ok(())
}
