//! The flags that name a store, for every command that opens one.

use crate::blob_place::BlobText;
use crate::config::Config;
use crate::database::DatabaseUrl;
use clap::Args;
use hyper_sdk::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Where a store has its metadata.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MetadataArgs {
    /// Configuration file, TOML; flags take precedence over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the store [default: hyperregistry-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// PostgreSQL database of the metadata, `postgres://USER@HOST/DATABASE`; the folder then has the blobs alone. A URL with a password belongs into the variable HYPERREGISTRY_DATABASE_URL
    #[arg(long, value_name = "URL")]
    database: Option<DatabaseUrl>,
    /// File of the password of the database [default: as the URL or the variable PGPASSWORD says]
    #[arg(long, value_name = "FILE")]
    database_password_file: Option<PathBuf>,
}

/// Where a store has its metadata and its blobs.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StoreArgs {
    #[command(flatten)]
    metadata: MetadataArgs,
    /// Bucket of the blobs, such as `s3://BUCKET/PREFIX?region=NAME`; keys: `endpoint`, `region`, `path_style`, `allow_http` [default: the folder of the store has them]; with a database the folder then has nothing
    #[arg(long, value_name = "URL")]
    blobs: Option<BlobText>,
}

impl MetadataArgs {
    /// The configuration file, or the defaults.
    fn in_file(&self) -> Result<Config> {
        Config::load(self.config.as_deref())
    }

    /// These flags over the configuration of the file.
    fn over(self, mut config: Config) -> Config {
        config.data = self.data.unwrap_or(config.data);
        config.database.url = self.database.or(config.database.url);
        config.database.password_file = self.database_password_file.or(config.database.password_file);
        config
    }

    /// The configuration file, or the defaults, with these flags. It is not checked yet.
    pub(crate) fn load(self) -> Result<Config> {
        let config = self.in_file()?;
        Ok(self.over(config))
    }
}

impl StoreArgs {
    /// The same flags under other names.
    pub(crate) fn of(
        config: Option<PathBuf>,
        data: Option<PathBuf>,
        database: Option<DatabaseUrl>,
        database_password_file: Option<PathBuf>,
        blobs: Option<BlobText>,
    ) -> Self {
        Self { metadata: MetadataArgs { config, data, database, database_password_file }, blobs }
    }

    /// Whether any flag is given.
    pub(crate) fn is_given(&self) -> bool {
        let MetadataArgs { config, data, database, .. } = &self.metadata;
        config.is_some() || data.is_some() || database.is_some() || self.blobs.is_some()
    }

    /// [`StoreArgs::load`] without the variables of the environment.
    pub(crate) fn load_alone(self) -> Result<Config> {
        let config = Config::load_alone(self.file())?;
        self.over(config)
    }

    /// The path of the configuration file.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.metadata.config.as_deref()
    }

    /// The configuration file, or the defaults.
    pub(crate) fn in_file(&self) -> Result<Config> {
        self.metadata.in_file()
    }

    /// These flags over the configuration of the file. It is not checked yet.
    pub(crate) fn over(self, config: Config) -> Result<Config> {
        let mut config = self.metadata.over(config);
        if let Some(text) = &self.blobs {
            config.blobs = Some(text.place()?);
        }
        Ok(config)
    }

    /// The configuration file, or the defaults, with these flags. It is not checked yet.
    pub(crate) fn load(self) -> Result<Config> {
        let config = self.in_file()?;
        self.over(config)
    }
}

/// Refuses a folder without a store, for commands that make none.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub(crate) fn check_store(config: &Config) -> Result<()> {
    let evidence = if config.database.url.is_some() { "registry-id" } else { "hyper.db" };
    let needs_folder = config.database.url.is_none() || config.blobs.is_none();
    if needs_folder && !config.data.join(evidence).is_file() {
        return Err(Error::new(ErrorKind::NotFound, "there is no store in the folder: --data names another")
            .with_context("data", config.data.display()));
    }
    Ok(())
}
