//! The commands `hyperregistry key`: the keys with which a registry signs its tokens.

use crate::auth::{TokenAlgorithm, TokenKeys, new_token_key};
use crate::standard_io::print;
use clap::{Args, Subcommand};
use hyper_sdk::{Result, ResultExt as _};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key for `keys` in `[auth.token]` and prints its id
    New(NewArgs),
    /// Prints the public keys of files as a JSON Web Key Set, for registries that accept the tokens
    Public(PublicArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The file, which must not exist; only its owner may read it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How the key signs: es256 or eddsa
    #[arg(long, value_name = "ALGORITHM", default_value = "es256", value_parser = |text: &str| text.parse::<TokenAlgorithm>())]
    algorithm: TokenAlgorithm,
}

#[derive(Debug, Args)]
pub(crate) struct PublicArgs {
    /// The files of the keys
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

impl KeyCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::New(args) => {
                let (pem, id) = new_token_key(args.algorithm)?;
                let cannot = "cannot write the key of tokens";
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&args.file)
                    .at(cannot, &args.file)?;
                let written = file.write_all(pem.expose().as_bytes()).and_then(|()| file.sync_all());
                if written.is_err() {
                    let _ = std::fs::remove_file(&args.file);
                }
                written.at(cannot, &args.file)?;
                print(&format!("{id}\n"))
            }
            Self::Public(args) => print(&format!("{}\n", TokenKeys::open(&args.files)?.public_keys())),
        }
    }
}
