//! The table `[database]` of the configuration: where the metadata are.

use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::store::meta::PostgresOptions;
use hyper_sdk::{Error, Result, ResultExt as _};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;

/// The largest file of a password.
const MAX_PASSWORD: u64 = 4096;

/// Where the metadata are, when they are not in the folder of the store.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DatabaseConfig {
    /// A PostgreSQL database.
    #[schemars(with = "String")]
    pub(crate) url: Option<DatabaseUrl>,
    /// The file of the password.
    pub(crate) password_file: Option<PathBuf>,
    /// The most connections.
    pub(crate) connections: u32,
}

/// The URL of a database, which can have a password: it is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct DatabaseUrl(String);

impl From<&str> for DatabaseUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl DatabaseUrl {
    /// The whole text, with the password that it may have.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

impl DatabaseConfig {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the key.
    pub(crate) fn check(&self) -> Result<()> {
        self.options()?;
        if self.url.is_none() && self.password_file.is_some() {
            return Err(Error::invalid(
                "the configuration key `database.password-file` needs a database: set `database.url` too",
            ));
        }
        if self.connections < PostgresOptions::MIN_CONNECTIONS {
            return Err(Error::invalid(format!(
                "the configuration key `database.connections` must be at least {}",
                PostgresOptions::MIN_CONNECTIONS
            )));
        }
        Ok(())
    }

    /// The database, without the password of the file; `None` when the metadata are in the folder of the store.
    pub(crate) fn options(&self) -> Result<Option<PostgresOptions>> {
        let Some(DatabaseUrl(url)) = &self.url else { return Ok(None) };
        let options = PostgresOptions::parse(url).context("key", "database.url")?;
        Ok(Some(options.connections(self.connections)))
    }

    /// The database, with the password of the file.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn open(&self) -> Result<Option<PostgresOptions>> {
        let (Some(options), Some(file)) = (self.options()?, &self.password_file) else {
            return self.options();
        };
        let text =
            small_file::read_text(file, "the password of the database", MAX_PASSWORD, Kinds::FilesAndPipes)?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() {
            return Err(Error::invalid("the file of the password of the database is empty")
                .with_context("path", file.display()));
        }
        Ok(Some(options.password(password)))
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, password_file: None, connections: PostgresOptions::CONNECTIONS }
    }
}
